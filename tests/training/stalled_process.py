"""The tiny run in WORKDIR, whose devices stop answering after its fifth step. Started by test_watchdog.py."""

import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from cnnjax import classification, launch
from cnnjax.training import watchdog
from tests import tiny_runs


def main(workdir: str) -> None:
    launch.set_compilation_cache()
    answers = iter(["metrics of steps 1 to 5", "state of step 5"])
    device_get = jax.device_get

    def stuck(arrays: Any) -> Any:
        if next(answers, None) is None:
            time.sleep(3600)
        return device_get(arrays)

    with mock.patch("jax.device_get", stuck), mock.patch.object(watchdog, "LEAST", 3.0):
        classification.train(tiny_runs.classifier(), Path(workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
