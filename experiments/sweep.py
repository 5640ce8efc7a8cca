"""Hyperparameter search on Optuna (Akiba et al. 2019). Each trial is an ordinary run in `WORKDIR/trials/INDEX`.

A sweep is a fixed number of trials, by index, all queued in Optuna's storage at the start, which any number of workers
take. A trial whose worker is gone gives no heartbeat: Optuna fails it and queues it again with its index, values and
reported scores, and whichever worker takes it goes on from the checkpoint in its folder. Of the entries that an index
has in the storage one counts (`current_trials`), so that a sweep neither loses nor doubles a trial.
"""

import contextlib
import copy
import fcntl
import inspect
import json
import math
import os
import signal
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from cnnjax import config as configs
from cnnjax import fields, launch
from cnnjax.errors import Diverged, Interrupted, UserError, exit_status, first_line
from cnnjax.fields import Field, Fields
from cnnjax.reporting import search
from cnnjax.training import workdir as workdirs

from . import launchers
from . import space as spaces
from .space import Space
from .sweep_report import read_trials as read_trials
from .sweep_report import report
from .trainable import check_fields, trainable, training_of

HEARTBEAT, GRACE = 10, 60
"""Seconds between two heartbeats of a trial, and without one after which another worker takes it over."""

RETRIES = 10
"""A trial that loses its worker more often has failed: it may not fit the memory of a machine."""

FORMAT = 2
"""Of what a sweep keeps in the storage."""

STORAGE = "CNNJAX_STORAGE"
"""The environment variable that brings workers the URL of the storage, which may hold a password."""

SAMPLERS: dict[str, Callable[[ConfigDict, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda options, seed: optuna.samplers.TPESampler(n_startup_trials=options.startup, seed=seed),
    "random": lambda options, seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda options, seed: optuna.samplers.RandomSampler(seed=seed),     # its values are queued with the trials
}
"""By name: functions of `config.sweep` and a seed that is the trial's own."""

PRUNERS: dict[str, Callable[[ConfigDict], optuna.pruners.BasePruner]] = {
    "median": lambda config: optuna.pruners.MedianPruner(n_startup_trials=5),
    "asha": lambda config: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=training_of(config).eval_every, reduction_factor=3),
    "none": lambda config: optuna.pruners.NopPruner(),
}
"""By name. ASHA is Li et al. 2020, with rungs at `eval_every` times powers of 3 steps."""


FIELDS: Fields = {
    "sampler": Field("tpe", "how values are chosen; grid: each combination once", tuple(SAMPLERS)),
    "trials": Field(40, "how many; a grid has as many as it has points", "[1, 1000000]"),
    "startup": Field(10, "trials at random before TPE models what it has seen", "[0, 1000000]"),
    "pruner": Field("median", "which trials are stopped early, at their evaluations", tuple(PRUNERS)),
    "study": Field("", "its name in the storage; empty: that of the workdir"),
    "launch": Field("", 'options of submitit or Ray, such as "slurm_partition=gpu gpus_per_node=1"'),
}
"""The fields of the group `sweep` of a config."""


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
    begin(config, space, workdir, storage, check(config, space))
    here = launcher == "local" and workers == 1
    # Another process reads a function from its file; distributions are kept with the study.
    file = Path(inspect.getfile(inspect.unwrap(space))).absolute() if callable(space) and not here else None
    options = launchers.options(config.sweep.launch)
    if here:
        work(workdir, storage, space)
    elif launcher == "local":
        command = [sys.executable, "-m", "cnnjax.experiments.sweep", str(workdir),
                   *([] if file is None else [str(file)])]
        ends = launchers.local(command, workers, workdir, {} if storage is None else {STORAGE: storage})
        trials = current_trials(open_study(workdir, config, open_storage(workdir, storage)), count(config, space))
        left = sum(t is None or not t.state.is_finished() for t in trials.values())
        if left:
            said = "; ".join(f"worker {i} {end}" for i, end in ends.items())
            raise UserError(f"{said}; {left} of {len(trials)} trials are left; run the same command again to go on")
    else:
        start = launchers.slurm if launcher == "slurm" else launchers.ray
        start(work, (workdir.absolute(), storage, file), workers, workdir, options)
    save_trials(workdir, storage, count(config, space))
    report(workdir, against)


def check(config: ConfigDict, space: Space) -> tuple[str, str]:
    """The score that the sweep chooses by, and its better end. Raises UserError naming the field for a sweep that has
    no sense."""
    fields.check_values(config.sweep, FIELDS, "sweep.")
    launchers.options(config.sweep.launch)
    count(config, space)
    return spaces.check(config, space, check_fields, trainable).best


def count(config: ConfigDict, space: Space) -> int:
    """How many trials the sweep has: all points of a grid, else `config.sweep.trials`."""
    return len(spaces.grid(space)) if config.sweep.sampler == "grid" else config.sweep.trials


# The storage

def open_storage(workdir: Path, url: str | None) -> RDBStorage:
    """The storage at `url`, by default the SQLite file of the workdir. Raises UserError when it cannot be reached."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)      # of heartbeats
    file = (workdir / "sweep.db").absolute()
    shown = str(file) if url is None else f"--storage {url.split('@')[-1]}"
    engine: dict[str, Any] = {"pool_pre_ping": True}
    wait = 120      # seconds: SQLite has one writer at a time, and the others wait rather than fail
    if url is None:     # a connection of our own: of a URL a folder's name such as q?x or {x} would not come back
        engine = {"creator": lambda: sqlite3.connect(file, timeout=wait, check_same_thread=False)}
    elif url.startswith("sqlite:"):
        engine = {"connect_args": {"timeout": wait}}
    for pause in (0.5, 2, 8, None):
        try:
            return RDBStorage(url or "sqlite:///sweep.db", engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE,
                              heartbeat_stale_trial_callback=_retry())
        except ImportError as error:
            raise UserError(f"{shown}: {error.name or error} is not installed; for PostgreSQL: pip install "
                            "'cnnjax[postgresql]'") from error
        except Exception as error:      # each database's driver has errors of its own
            # Two machines that open a new database at once both make its tables, and one of them is told so.
            exists = any(word in str(error) for word in ("already exists", "duplicate key", "UNIQUE constraint"))
            if not exists or pause is None:
                raise UserError(f"{shown}: {first_line(error)}") from error
            time.sleep(pause)
    raise AssertionError


def _retry() -> RetryHeartbeatStaleTrialCallback:
    """Queues a trial again that gave no heartbeat."""
    return RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=True)


def open_study(workdir: Path, config: ConfigDict, storage: RDBStorage, end: str | None = None) -> optuna.Study:
    """The study `config.sweep.study`, or of the workdir's name; with `end`, "min" or "max", it is created if need be.
    """
    name, pruner = config.sweep.study or workdir.absolute().name, PRUNERS[config.sweep.pruner](config)
    if end is None:
        return optuna.load_study(storage=storage, study_name=name, pruner=pruner)
    return optuna.create_study(storage=storage, study_name=name, pruner=pruner, load_if_exists=True,
                               direction="maximize" if end == "max" else "minimize")


def begin(config: ConfigDict, space: Space, workdir: Path, url: str | None, best: tuple[str, str]) -> None:
    """Leaves config and space in the workdir and with the study, and queues the trials. Raises UserError when it was
    begun with others, or by another version."""
    try:
        (workdir / "trials").mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}; choose another --workdir") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)                # no other command of this machine does so at once
        workdirs.same_config(workdir, config)
        storage = open_storage(workdir, url)
        study = open_study(workdir, config, storage, best[1])
        here = {"format": {"format": FORMAT}, "best": dict(zip(("score", "end"), best, strict=True)),
                "config": json.loads(configs.dump(config)), "space": spaces.to_json(space)}
        there = study.user_attrs
        if study.trials and there.get("format") != here["format"]:
            raise UserError(f"study {study.study_name!r} was begun by another version of cnnjax, or is no sweep; "
                            "choose another --workdir or config.sweep.study")
        for key, mine in here.items():
            changed = workdirs.changes(there.get(key, mine), mine)
            if changed:
                raise UserError(f"study {study.study_name!r} was begun with another {key} ({'; '.join(changed)}); "
                                "choose another --workdir or config.sweep.study")
            study.set_user_attr(key, mine)
        refill(study, storage, config, space)


def current_trials(study: optuna.Study, total: int) -> dict[int, FrozenTrial | None]:
    """By index the entry in the storage that counts: the first that is not to be run again, where there is one."""
    current: dict[int, FrozenTrial | None] = dict.fromkeys(range(total))
    for t in study.get_trials(deepcopy=False):
        index = t.user_attrs.get("index")
        if index in current and current[index] is None and not _given_up(t):
            current[index] = t
    return current


def _given_up(trial: FrozenTrial) -> bool:
    """Whether a trial has failed since its worker was lost, and is to be run again under another entry."""
    lost = trial.state == TrialState.FAIL and "reason" not in trial.user_attrs
    return lost and len(RetryHeartbeatStaleTrialCallback.retry_history(trial)) < RETRIES


def refill(study: optuna.Study, storage: RDBStorage, config: ConfigDict, space: Space) -> dict[int, FrozenTrial | None]:
    """Queues what is neither queued nor running nor finished, and returns `current_trials`."""
    total = count(config, space)
    optuna.storages.fail_stale_trials(study)            # and `_retry` queues them again
    current = current_trials(study, total)
    trials = study.get_trials(deepcopy=False)
    for t in trials:                                    # two workers queued the same index at once: the first counts
        if t.state == TrialState.WAITING and current.get(t.user_attrs.get("index", -1)) not in (None, t):
            with contextlib.suppress(UpdateFinishedTrialError):
                storage.set_trial_state_values(t._trial_id, TrialState.FAIL)
    missing = [index for index, t in current.items() if t is None]
    points = spaces.grid(space) if missing and config.sweep.sampler == "grid" else [{}] * total
    for index in missing:
        before = [t for t in trials if t.user_attrs.get("index") == index]
        if before:                                      # a worker was killed after it failed a trial
            _retry()(study, copy.deepcopy(max(before, key=lambda t: (len(t.params), t.number))))
        else:
            study.enqueue_trial(points[index], user_attrs={"index": index})
    return current_trials(study, total) if missing else current


def save_trials(workdir: Path, url: str | None, total: int) -> None:
    """Writes `trials.json`: all that the report shows of so many trials, read from the storage."""
    config = workdirs.read_config(workdir)
    study = open_study(workdir, config, open_storage(workdir, url))
    rows, values = [], set()
    for index, t in current_trials(study, total).items():
        assert t is not None
        lost = {"reason": f"its worker was lost {RETRIES + 1} times"} if t.state == TrialState.FAIL else {}
        attributes: dict[str, Any] = {**lost, **t.user_attrs}
        complete = t.state == TrialState.COMPLETE
        values |= {t.value} if complete else set()
        rows.append({**attributes.pop("result", {}), "number": index, "state": t.state.name.lower(),
                     "value": t.value if complete else None, "last": t.value, "params": t.params,
                     "intermediate": t.intermediate_values, **attributes})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # that few trials have a conditional field
        importance = dict(optuna.importance.get_param_importances(study)) if len(values) > 1 else {}
    text = workdirs.to_json({"best": study.user_attrs["best"], "trials": rows, "importance": importance}, indent=1)
    workdirs.write(workdir / "trials.json", text + "\n")


# A worker

def work(workdir: Path, url: str | None = None, space: Space | Path | None = None) -> None:
    """Runs trials of the sweep in `workdir` until all are finished, by whomever.

    `space` is the sweep's, or its config file; None: the distributions that are kept with the study. What stops a run
    stops the worker, with the trial back in the queue: Interrupted, and UserError for what the user can mend. A config
    that cannot be run, a loss that is no number, or a network that does not fit the memory, ends only its trial.
    """
    config = workdirs.read_config(workdir)
    storage = open_storage(workdir, url)
    study = open_study(workdir, config, storage)
    kept = study.user_attrs["space"]
    if space is None:
        space = {field: json_to_distribution(text) for field, text in kept.items()}
    elif isinstance(space, Path):
        space = spaces.load(space)
        if spaces.to_json(space) != kept:
            raise UserError(f"the space of the sweep in {workdir} has changed since it was begun")
    check(config, space)                    # what ails all trials here, such as images that are not there, fails none
    try:
        _work(config, space, workdir, study, storage)
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"the storage of the sweep in {workdir}: {first_line(error.__cause__ or error)}; run the same "
                        "command again to go on") from error


def _work(config: ConfigDict, space: Space, workdir: Path, study: optuna.Study, storage: RDBStorage) -> None:
    waiting = False
    while True:
        current = refill(study, storage, config, space)
        trial = take(current, storage)
        if trial is not None:
            with heartbeat(storage, trial):
                run_trial(config, space, workdir, study, storage, trial)
            jax.clear_caches()      # JAX keeps a trial's programs, which no other trial uses: 30 MB each
            waiting = False
            continue
        left = [str(index) for index, t in current.items() if t is None or not t.state.is_finished()]
        if not left:
            return
        if not waiting:
            print(f"waiting for trials of other workers ({', '.join(left)}); one without a heartbeat for {GRACE} s is "
                  "taken over", flush=True)
        waiting = True
        time.sleep(1)


def take(current: Mapping[int, FrozenTrial | None], storage: RDBStorage) -> FrozenTrial | None:
    """A queued trial, which is this worker's from now on; None where there is none."""
    for trial in current.values():
        if trial is not None and trial.state == TrialState.WAITING:
            # First, since a running trial that never gave a heartbeat is not found to be without one.
            storage.record_heartbeat(trial._trial_id)
            with contextlib.suppress(UpdateFinishedTrialError):
                if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    return trial
    return None


@contextlib.contextmanager
def heartbeat(storage: RDBStorage, trial: FrozenTrial) -> Iterator[None]:
    """Gives a trial's heartbeats, as `Study.optimize` does; a storage out of reach for a moment does not end them."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT):
            with contextlib.suppress(Exception):
                storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_trial(config: ConfigDict, space: Space, workdir: Path, study: optuna.Study, storage: RDBStorage,
              taken: FrozenTrial) -> None:
    """Runs a trial that was taken, and finishes it in the storage, or puts it back into the queue."""
    index = taken.user_attrs["index"]
    # A seed of the trial's own: what it draws does not depend on which worker runs it, nor on how often.
    seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
    study.sampler = SAMPLERS[config.sweep.sampler](config.sweep, seed)
    try:
        trial = optuna.Trial(study, taken._trial_id)
        state, value, reason = _outcome(config, space, workdir / "trials" / f"{index:04d}", trial,
                                        set(taken.intermediate_values))
        if reason:
            trial.set_user_attr("reason", reason)
        study.tell(trial, value, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        print(f"trial {index}: another worker has taken it over", flush=True)
        return
    except (Interrupted, UserError):
        with contextlib.suppress(UpdateFinishedTrialError):
            storage.set_trial_state_values(taken._trial_id, TrialState.WAITING)
        raise
    end = ": ".join(filter(None, (state.name.lower(), reason))) if value is None else \
        f"{search.words(study.user_attrs['best']['score'])} {100 * value:.2f} %"
    print(f"trial {index}: {end}; " + ", ".join(f"{k}={search.short(v)}" for k, v in trial.params.items()), flush=True)


def _outcome(config: ConfigDict, space: Space, folder: Path, trial: optuna.Trial,
             reported: set[int]) -> tuple[TrialState, float | None, str | None]:
    """Runs a trial in its folder: how it ended, its score if it is complete, and the reason if there is one to tell."""
    try:
        values = spaces.suggest(trial, space)
        own = spaces.trial_config(config, values)
        (score, _), train = trainable(own)
    except optuna.TrialPruned as error:
        return TrialState.PRUNED, None, f"by the space {error}".strip()
    except UserError as error:
        return TrialState.FAIL, None, f"cannot be run: {error}"
    trial.set_user_attr("values", values)
    steps = training_of(own).steps

    def on_eval(step: int, scores: dict[str, float]) -> None:
        if score not in scores:         # of a stage before
            return
        trial.set_user_attr("steps", step)
        if step not in reported:        # else it was before the trial was taken over
            trial.report(scores[score], step)
        if step < steps and trial.should_prune():
            raise optuna.TrialPruned

    while True:
        try:
            result = train(folder, on_eval)
            break
        except workdirs.InUse:          # by a worker that lives after all, and stops at its next evaluation
            time.sleep(1)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None, None
        except Diverged as error:       # to the sampler a bad trial, as pruned ones are
            return TrialState.PRUNED, None, f"diverged: {error}"
        except jax.errors.JaxRuntimeError as error:
            return TrialState.FAIL, None, first_line(error)
    trial.set_user_attr("result", json.loads(workdirs.to_json(result)))
    value = result[score]
    if not math.isfinite(value):
        return TrialState.PRUNED, None, f"diverged: the {search.words(score)} is {value}"
    return TrialState.COMPLETE, value, None


def _follow(parent: int) -> None:
    """Stops this process as SIGTERM does when its launcher is gone: nobody would be there to stop it."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=watch, daemon=True).start()


def main(workdir: str, space: str | None = None) -> int:
    """A worker process of `launchers.local`; returns its exit status."""
    _follow(os.getppid())
    launch.set_compilation_cache()
    return exit_status(lambda: work(Path(workdir), os.environ.get(STORAGE), None if space is None else Path(space)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
