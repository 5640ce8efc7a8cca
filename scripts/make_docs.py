"""Makes the tables and pictures of the documentation that commands make: docs/tables and docs/pictures.

    python scripts/make_docs.py [WORD ...]

With words, only of the commands that hold one of them.
"""

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"

COMMANDS = (
    "summary lenet5 --draw docs/pictures/lenet5.svg",
    "summary alexnet --draw docs/pictures/alexnet.svg",
    "summary vgg16 --draw docs/pictures/vgg16.svg",
    "summary googlenet --draw docs/pictures/googlenet.svg",
    "summary resnet18 --draw docs/pictures/resnet18.svg",
    "summary resnet20",
    "summary resnet50",
    "summary --compare vgg19 plain34 resnet34",
)
"""The commands, without `cnnjax`. What one prints goes to docs/tables, under its words up to the first option's."""


LOOKS = ("--anchors", "--proposals", "--roi 20 30 90 110")
"""Pictures by `cnnjax look --workdir runs/ladder --image docs/pictures/digits.png`, of the embedded detection set."""


def name(command: str) -> str:
    """The file of what a command prints: `summary --compare a b` is summary-compare-a-b.md."""
    return "-".join(word.lstrip("-") for word in command.partition(" --draw")[0].split()) + ".md"


def detection_pictures() -> None:
    """An image of the embedded set, and `LOOKS` at it: they read the config of a ladder alone, so none is trained."""
    from cnnjax import cli, config
    from cnnjax.configs.ladder import scatter as ladder
    from cnnjax.data.synthetic_digits import generate
    from cnnjax.reporting import boxes

    image = DOCS / "pictures" / "digits.png"
    boxes.save(generate("test", 1, 128, 0).read(0), image)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(config.dump(ladder.get_config()))
        for look in LOOKS:
            status = cli.main(["look", "--workdir", folder, "--image", str(image), *look.split()])
            if status:
                raise SystemExit(f"cnnjax look {look}: status {status}")
        for picture in (Path(folder) / "figures").glob("*.png"):
            shutil.copy(picture, DOCS / "pictures" / picture.name)


def main(words: list[str]) -> None:
    from cnnjax import cli

    if not words or "look" in words:
        detection_pictures()

    for command in COMMANDS:
        if not words or any(word in command for word in words):
            arguments = [str(DOCS.parent / word) if word.startswith("docs/") else word for word in command.split()]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                status = cli.main(arguments)
            if status:
                raise SystemExit(f"cnnjax {command}: status {status}")
            rows = [line for line in printed.getvalue().splitlines() if line.startswith("|")]
            (DOCS / "tables" / name(command)).write_text("\n".join(rows) + "\n")
            print(name(command), len(rows), "rows")


if __name__ == "__main__":
    main(sys.argv[1:])
