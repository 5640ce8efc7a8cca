"""`cnnjax ARGUMENTS` with few steps, images and trials: `python -m tests.short_command ARGUMENTS`."""

import sys

from cnnjax import cli, config
from cnnjax.cli.common import find_config

SHORT = {"steps": 4, "data.train_images": 8, "data.test_images": 4, "sweep.trials": 2}
"""By the ending of a field's name."""


def shortened(arguments: list[str]) -> list[str]:
    """The arguments, and an override for each number of the config that `SHORT` has something smaller for."""
    options, _ = cli.parser().parse_known_args(arguments)
    if arguments[0] not in ("train", "depth", "ladder", "sweep"):
        return arguments
    fields = config.flatten(config.load(find_config(options.config)))
    return [*arguments, *(f"--config.{field}={small}" for field, value in fields.items()
                          for ending, small in SHORT.items()
                          if f".{field}".endswith(f".{ending}") and type(value) is int and value > small)]


if __name__ == "__main__":
    sys.exit(cli.main(shortened(sys.argv[1:])))
