"""One process of a run in several: COORDINATOR PROCESSES PROCESS WORKDIR OVERRIDES. Started by test_distributed.py."""

import sys
from pathlib import Path

from cnnjax import classification, cli
from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.training import distributed
from cnnjax.training.loop import Interrupted


def main(coordinator: str, processes: str, process: str, workdir: str, *overrides: str) -> int:
    cli.start_jax()
    try:
        distributed.initialize(coordinator, int(processes), int(process))
        classification.train(configs.load(Path(__file__).parent.parent / "tiny_config.py", overrides), Path(workdir))
        return 0
    except UserError as error:
        print(f"cnnjax: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"cnnjax: {stop}", file=sys.stderr)
        return 128 + stop.signum


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
