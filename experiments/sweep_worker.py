"""A worker of a sweep: takes trials from the queue and trains them, until all are finished.

    python -m cnnjax.experiments.sweep_worker WORKDIR [CONFIG]

is the process that `launchers.local` starts.
"""

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from cnnjax import launch
from cnnjax.errors import Diverged, Interrupted, UserError, exit_status, first_line
from cnnjax.reporting import search
from cnnjax.training import workdir as workdirs

from . import space as spaces
from . import sweep_queue
from .space import Space
from .sweep_settings import SAMPLERS, check
from .trainable import trainable, training_of

STORAGE = "CNNJAX_STORAGE"
"""The environment variable that brings workers the URL of the storage, which may hold a password."""


def work(workdir: Path, url: str | None = None, space: Space | Path | None = None) -> None:
    """Runs trials of the sweep in `workdir` until all are finished, by this worker or others.

    `space` is the sweep's, or its config file; None: the distributions that are kept with the study. What stops a run
    stops the worker, with the trial back in the queue: Interrupted, and UserError for what the user can correct. A
    config that cannot be run, a loss that is not finite, or a network that does not fit the memory, ends only its
    trial.
    """
    config = workdirs.read_config(workdir)
    storage = sweep_queue.open_storage(workdir, url)
    study = sweep_queue.open_study(workdir, config, storage)
    kept = study.user_attrs["space"]
    if space is None:
        space = {field: json_to_distribution(text) for field, text in kept.items()}
    elif isinstance(space, Path):
        space = spaces.load(space)
        if spaces.to_json(space) != kept:
            raise UserError(f"the space of the sweep in {workdir} has changed since it was begun")
    check(config, space)        # what every trial would fail by, such as missing images, ends the worker instead
    try:
        _work(config, space, workdir, study, storage)
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(f"the storage of the sweep in {workdir}: {first_line(error.__cause__ or error)}; run the same "
                        "command again to go on") from error


def _work(config: ConfigDict, space: Space, workdir: Path, study: optuna.Study, storage: RDBStorage) -> None:
    waiting = False
    while True:
        current = sweep_queue.refill(study, storage, config, space)
        trial = sweep_queue.take(current, storage)
        if trial is not None:
            with sweep_queue.heartbeat(storage, trial):
                run_trial(config, space, workdir, study, storage, trial)
            jax.clear_caches()      # JAX keeps a trial's programs, which no other trial uses: 30 MB each
            waiting = False
            continue
        left = [str(index) for index, t in current.items() if t is None or not t.state.is_finished()]
        if not left:
            return
        if not waiting:
            print(f"waiting for trials of other workers ({', '.join(left)}); one without a heartbeat for "
                  f"{sweep_queue.GRACE} s is taken over", flush=True)
        waiting = True
        time.sleep(1)


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
        if score not in scores:         # an earlier stage
            return
        trial.set_user_attr("steps", step)
        if step not in reported:        # else reported by the worker before
            trial.report(scores[score], step)
        if step < steps and trial.should_prune():
            raise optuna.TrialPruned

    while True:
        try:
            result = train(folder, on_eval)
            break
        except workdirs.InUse:          # a worker thought lost still runs; it stops at its next evaluation
            time.sleep(1)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None, None
        except Diverged as error:       # the sampler counts pruned trials as bad ones
            return TrialState.PRUNED, None, f"diverged: {error}"
        except jax.errors.JaxRuntimeError as error:
            return TrialState.FAIL, None, first_line(error)
    trial.set_user_attr("result", json.loads(workdirs.to_json(result)))
    value = result[score]
    if not math.isfinite(value):
        return TrialState.PRUNED, None, f"diverged: the {search.words(score)} is {value}"
    return TrialState.COMPLETE, value, None


def _follow(parent: int) -> None:
    """Sends SIGTERM to this process when its launcher has ended, since nothing else would stop it then."""
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
