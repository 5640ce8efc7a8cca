"""One process of a run in several: COORDINATOR PROCESSES PROCESS WORKDIR OVERRIDES. Started by test_distributed.py."""

import sys
from pathlib import Path

from cnnjax import classification, launch
from cnnjax import config as configs
from cnnjax.errors import exit_status
from cnnjax.training import distributed


def main(coordinator: str, processes: str, process: str, workdir: str, *overrides: str) -> int:
    launch.set_compilation_cache()

    def train() -> None:
        distributed.initialize(coordinator, int(processes), int(process))
        classification.train(configs.load(Path(__file__).parent.parent / "tiny_config.py", overrides), Path(workdir))
    return exit_status(train)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
