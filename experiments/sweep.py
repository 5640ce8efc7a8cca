"""Hyperparameter search on Optuna (Akiba et al. 2019). Each trial is an ordinary run in `WORKDIR/trials/INDEX`.

`space` holds what a sweep may try, `sweep_settings` how it chooses, `sweep_queue` who gets which trial, `sweep_worker`
how one is run, `launchers` how several workers are started, and `sweep_report` what came of it.
"""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cnnjax.errors import UserError

from . import launchers, sweep_queue
from .space import Space
from .sweep_report import report
from .sweep_settings import check, count
from .sweep_worker import STORAGE, work


def run(config: ConfigDict, space: Space, workdir: Path, *, workers: int = 1, storage: str | None = None,
        launcher: launchers.Launcher = "local", against: Sequence[Path] = ()) -> None:
    """Runs every trial that is not finished, then writes and prints the report.

    `storage` is a URL of Optuna's relational storage (sqlite, postgresql, mysql), by default a SQLite file in
    `workdir`. The same command started elsewhere on the same storage shares the trials. `against` are workdirs of
    other finished sweeps to compare with at equal cost.

    Raises UserError for a config or a space that cannot be run, for a sweep begun with another one, and when a worker
    ended before the sweep did.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    sweep_queue.begin(config, space, workdir, storage, check(config, space))
    here = launcher == "local" and workers == 1
    # Another process reads a function from its file; distributions are kept with the study.
    file = Path(inspect.getfile(inspect.unwrap(space))).absolute() if callable(space) and not here else None
    options = launchers.options(config.sweep.launch)
    if here:
        work(workdir, storage, space)
    elif launcher == "local":
        command = [sys.executable, "-m", "cnnjax.experiments.sweep_worker", str(workdir),
                   *([] if file is None else [str(file)])]
        ends = launchers.local(command, workers, workdir, {} if storage is None else {STORAGE: storage})
        study = sweep_queue.open_study(workdir, config, sweep_queue.open_storage(workdir, storage))
        trials = sweep_queue.current_trials(study, count(config, space))
        left = sum(t is None or not t.state.is_finished() for t in trials.values())
        if left:
            said = "; ".join(f"worker {i} {end}" for i, end in ends.items())
            raise UserError(f"{said}; {left} of {len(trials)} trials are left; run the same command again to go on")
    else:
        start = launchers.slurm if launcher == "slurm" else launchers.ray
        start(work, (workdir.absolute(), storage, file), workers, workdir, options)
    sweep_queue.save_trials(workdir, storage, count(config, space))
    report(workdir, against)
