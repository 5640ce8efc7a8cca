"""The table of short runs of the zoo: `python -m cnnjax.experiments.zoo runs/lenet5_digits runs/alexnet_digits ...`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.reporting.tables import markdown
from cnnjax.training import workdir as workdirs

HEADER = ("network", "fields", "parameters", "image", "steps x batch", "seed", "training error, %", "test error, %",
          "seconds")


def table(folders: Sequence[Path]) -> str:
    """A row for each finished run, from its `config.json` and `result.json`. Raises UserError for one that is not."""
    rows = []
    for folder in folders:
        config = workdirs.read_config(folder)
        try:
            result = json.loads((folder / "result.json").read_text())
        except FileNotFoundError:
            raise UserError(f"{folder} has no result.json: run its training to the end") from None
        fields = dict(config.model)
        name = fields.pop("name")
        told = ", ".join(f"{key}={value}" for key, value in fields.items())
        rows.append([name, told, f"{result['parameters']:,}", str(config.data.image_size),
                     f"{config.steps} x {config.batch_size}", str(config.seed), f"{100 * result['train_error']:.1f}",
                     f"{100 * result['test_error']:.2f}", f"{result['seconds']:.0f}"])
    return markdown(HEADER, rows)


if __name__ == "__main__":
    try:
        print(table([Path(argument) for argument in sys.argv[1:]]), end="")
    except UserError as error:
        sys.exit(str(error))
