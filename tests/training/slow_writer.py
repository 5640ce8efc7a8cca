"""One process of two, of which the first is busy for long after the run: COORDINATOR PROCESS WORKDIR.

Started by test_distributed.py.
"""

import sys
import time
from pathlib import Path
from unittest import mock

from cnnjax.training import distributed

HEARTBEAT = 4


def main(coordinator: str, process: str, workdir: str) -> None:
    with mock.patch.object(distributed, "HEARTBEAT", HEARTBEAT):
        distributed.initialize(coordinator, 2, int(process))
    if distributed.is_writer():
        time.sleep(3 * HEARTBEAT)
    distributed.wait_for_all(Path(workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
