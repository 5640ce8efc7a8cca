"""Makes the tables and pictures of the documentation that commands make: docs/tables and docs/pictures, and what the
tutorials print and draw.

    python scripts/make_docs.py [WORD ...]

With words, only of the commands that hold one of them, `look` among them, and of the tutorials of that name.
"""

import base64
import contextlib
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import run_notebook  # beside this file

DOCS = Path(__file__).resolve().parent.parent / "docs"

COMMANDS = (
    "summary lenet5 --draw docs/pictures/lenet5.svg",
    "summary alexnet --draw docs/pictures/alexnet.svg",
    "summary vgg16 --draw docs/pictures/vgg16.svg",
    "summary googlenet --draw docs/pictures/googlenet.svg",
    "summary resnet18 --draw docs/pictures/resnet18.svg",
    "summary resnet20",
    "summary resnet50 --draw docs/pictures/resnet50.svg",
    "summary --compare vgg19 plain34 resnet34",
    *(f"summary {name} --draw docs/pictures/{name}.svg" for name in
      ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn", "faster_rcnn_fpn", "yolo", "ssd", "retinanet")),
)
"""The commands, without `cnnjax`. What one prints goes to docs/tables, under its words up to the first option's."""


LOOKS = ("--anchors", "--proposals", "--roi 20 30 90 110", "--pyramid 1 2 4")
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


def run_tutorial(path: Path) -> None:
    """Runs a notebook in runs/tutorials, and keeps what its cells print and draw in a folder beside it, by their
    places. One that was stopped goes on where its trainings were."""
    kept, folder = path.with_suffix(""), DOCS.parent / "runs" / "tutorials" / path.stem
    for needed in (kept, folder):
        needed.mkdir(parents=True, exist_ok=True)
    for i, cell in enumerate(run_notebook.run(path, folder).cells):
        printed = ""
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            printed += output.get("text", "" if "image/png" in data else data.get("text/plain", ""))
            if "image/png" in data:
                (kept / f"{i}.png").write_bytes(base64.b64decode(data["image/png"]))
        if printed:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)         # without colours
            lines = [line.rstrip().rpartition("\r")[2] for line in plain.split("\n")]
            (kept / f"{i}.txt").write_text("\n".join(lines).strip("\n") + "\n")
    print(path.name, "run")


def main(words: list[str]) -> None:
    from cnnjax import cli

    if not words or "look" in words:
        detection_pictures()

    for path in sorted((DOCS / "tutorials").glob("*.py")):
        if not words or path.stem in words:
            run_tutorial(path)

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
