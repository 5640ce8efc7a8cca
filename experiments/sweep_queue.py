"""The trials of a sweep in Optuna's storage: queued once each, taken by workers, and run again when a worker is lost.

A sweep is a fixed number of trials, by index, all queued at the start. A running trial gives heartbeats; one without is
failed by Optuna and queued again with its index, values and reported scores. Of the entries that an index then has in
the storage one counts (`current_trials`), so that a sweep neither loses nor doubles a trial.
"""

import contextlib
import copy
import fcntl
import json
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from cnnjax import config as configs
from cnnjax.errors import UserError, first_line
from cnnjax.training import workdir as workdirs

from . import space as spaces
from .space import Space
from .sweep_settings import PRUNERS, count

HEARTBEAT, GRACE = 10, 60
"""Seconds between two heartbeats of a trial, and without one after which another worker takes it over."""

RETRIES = 10
"""A trial that loses its worker more often has failed: it may not fit the memory of a machine."""

FORMAT = 2
"""The version of what a sweep keeps in the storage."""


def open_storage(workdir: Path, url: str | None) -> RDBStorage:
    """The storage at `url`, by default the SQLite file of the workdir. Raises UserError when it cannot be reached."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)      # heartbeats are experimental
    file = (workdir / "sweep.db").absolute()
    shown = str(file) if url is None else f"--storage {url.split('@')[-1]}"
    engine: dict[str, Any] = {"pool_pre_ping": True}
    wait = 120      # seconds: SQLite has one writer at a time, and the others wait rather than fail
    if url is None:     # our own connection: a URL would misread a folder's name such as q?x or {x}
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
    """What Optuna calls with a trial that gave no heartbeat: it queues the trial again."""
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
    """Writes config and space to the workdir and the study, and queues the trials. Raises UserError when the sweep was
    begun with others, or by another version."""
    try:
        (workdir / "trials").mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}; choose another --workdir") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)                # one command of this machine at a time
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
    """By index the entry in the storage that counts: the first that is not to be run again; None without one."""
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
        warnings.simplefilter("ignore")     # few trials have a conditional field
        importance = dict(optuna.importance.get_param_importances(study)) if len(values) > 1 else {}
    text = workdirs.to_json({"best": study.user_attrs["best"], "trials": rows, "importance": importance}, indent=1)
    workdirs.write(workdir / "trials.json", text + "\n")


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
    """Gives a trial's heartbeats, as `Study.optimize` does; they go on after a moment without the storage."""
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
