"""Hyperparameter search on Optuna (Akiba et al. 2019). Each trial is an ordinary run in `WORKDIR/trials/NUMBER`.

A sweep is a fixed number of trials. All are queued in the storage at the start, and a worker takes one by a change of
its state that the storage grants once. The trial is the worker's while that holds its lock file, on one machine, or
while its beat goes on, elsewhere. One that was given up is taken over under the same number with the same values, and
goes on from its checkpoint: killed or not, a sweep neither loses nor doubles a trial.
"""

import contextlib
import fcntl
import glob
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import jax
import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from cnnjax import classification, networks
from cnnjax import config as configs
from cnnjax.errors import Diverged, UserError, first_line
from cnnjax.reporting import html, search, tables
from cnnjax.training import loop
from cnnjax.training import workdir as workdirs

Space = Mapping[str, BaseDistribution]
"""Distributions of Optuna by the dotted name of a config's field: what `space()` of a config file gives."""

Launcher = Literal["local", "slurm", "ray"]

BEAT = 15.0
"""Seconds between two signs of life of a worker in the storage."""

GRACE = 90.0
"""Seconds without one after which a trial of another machine is taken over."""

STORAGE = "CNNJAX_STORAGE"
"""The environment variable that brings workers the URL of the storage, which may hold a password."""


def load_space(path: Path) -> Space:
    """What `space()` of a config file gives. Raises UserError for a file that has none."""
    space = configs.call(path, "space")
    if not isinstance(space, Mapping):
        raise UserError(f"config file {path}: space() gave {type(space).__name__}, expected a mapping from names of "
                        "fields to distributions")
    return space


def run(config: ConfigDict, space: Space, workdir: Path, *, workers: int = 1, storage: str | None = None,
        launcher: Launcher = "local", against: Sequence[Path] = ()) -> None:
    """Runs every trial that is not finished, then writes and prints the report.

    `storage` is a URL of Optuna's relational storage (sqlite, postgresql, mysql), by default a SQLite file in
    `workdir`. The same command started elsewhere on the same storage shares the trials. `against` are workdirs of
    other finished sweeps to compare with at equal cost.

    Raises UserError for a config or a space that cannot be run, for a sweep begun with another one, and when a worker
    ended before the sweep did.
    """
    check(config, space)
    if workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    trials = count(config, space)
    dataset = classification.load_data(config)      # what is wrong is said before the workdir is this sweep's
    classification.check_images(config, networks.create_model(config, len(dataset.classes)), dataset)
    with _prepared(config, workdir):
        study = open_study(workdir, config, storage)
        _same_sweep(study, config, space)
        while len(study.trials) < trials:       # whoever comes second adds some in vain: numbers from `trials` on rest
            study.enqueue_trial({})
    if launcher == "slurm":
        launch_slurm(workdir, workers, storage, launcher_options(config))
    elif launcher == "ray":
        launch_ray(workdir, workers, storage, launcher_options(config))
    elif workers == 1:
        work(workdir, storage)
    else:
        launch_local(workdir, workers, storage)
    save_trials(workdir, storage)
    report(workdir, against)


# The space

def check(config: ConfigDict, space: Space) -> None:
    """Raises UserError naming the field for a sweep that has no sense: every end of every range must be a config that
    can be trained."""
    options = config.sweep
    for field, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if options[field] not in known:
            raise UserError(f"config field 'sweep.{field}': found {options[field]!r}, expected one of "
                            f"{', '.join(known)}")
    launcher_options(config)
    configs.require(config, {"sweep.trials": "[1, 1000000]", "sweep.startup": "[0, 1000000]"})
    if not config.data.validation:
        raise UserError("config field 'data.validation': found 0; a sweep chooses by the error on images held out of "
                        "the training split, so set how many")
    if config.population != 1:
        raise UserError(f"config field 'population': found {config.population}; a trial of a sweep is one network")
    if not space:
        raise UserError("the config file's space() is empty: it maps names of fields to distributions")
    for field, distribution in space.items():
        if not isinstance(distribution, CategoricalDistribution | FloatDistribution | IntDistribution):
            raise UserError(f"space() has {type(distribution).__name__} for {field!r}, expected one of "
                            "optuna.distributions")
        if not isinstance(field, str):
            raise UserError(f"space() has the name {field!r}, expected the dotted name of a field")
        ends = distribution.choices if isinstance(distribution, CategoricalDistribution) else \
            (distribution.low, distribution.high)
        for value in ends:
            own = trial_config(config, {field: value})
            classification.check(own)
    if options.sampler == "grid":
        grid(space)


def trial_config(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """The config of a trial: what `cnnjax train` would be given."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        del own.sweep
    for field, value in values.items():
        configs.set_field(own, field, str(value))
    return own


def grid(space: Space) -> list[dict[str, Any]]:
    """All combinations of the values of a space, the last field fastest. Raises UserError for a range without steps."""
    axes = []
    for field, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            axes.append(list(distribution.choices))
        elif distribution.step is None or distribution.log:                             # type: ignore[attr-defined]
            raise UserError(f"space() has a range without steps for {field!r}: a grid needs a step or a "
                            "CategoricalDistribution of values")
        else:
            low, high, step = (getattr(distribution, name) for name in ("low", "high", "step"))
            axes.append([low + i * step for i in range(round((high - low) / step) + 1)])
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]


def count(config: ConfigDict, space: Space) -> int:
    """How many trials the sweep has: all points of a grid, else `config.sweep.trials`."""
    return len(grid(space)) if config.sweep.sampler == "grid" else config.sweep.trials


class Grid(optuna.samplers.BaseSampler):
    """Trial `n` gets point `n` of the grid, whoever runs it."""

    def __init__(self, space: Space):
        self._points = grid(space)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._points[trial.number][name]


SAMPLERS = {
    "tpe": lambda space, options, seed: optuna.samplers.TPESampler(n_startup_trials=options.startup, seed=seed),
    "random": lambda space, options, seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda space, options, seed: Grid(space),
}
"""By name: functions of the space, `config.sweep` and a seed that is the trial's own."""

PRUNERS = {
    "median": lambda config: optuna.pruners.MedianPruner(n_startup_trials=5),
    "asha": lambda config: optuna.pruners.SuccessiveHalvingPruner(min_resource=config.eval_every, reduction_factor=3),
    "none": lambda config: optuna.pruners.NopPruner(),
}
"""By name. ASHA is Li et al. 2020, with rungs at `eval_every` times powers of 3 steps."""


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """A value for each field of the space; those that the trial has already stay."""
    values: dict[str, Any] = {}
    for field, d in space.items():
        if isinstance(d, CategoricalDistribution):
            values[field] = trial.suggest_categorical(field, d.choices)
        elif isinstance(d, IntDistribution):
            values[field] = trial.suggest_int(field, d.low, d.high, step=d.step, log=d.log)
        else:
            assert isinstance(d, FloatDistribution)
            values[field] = trial.suggest_float(field, d.low, d.high, step=d.step, log=d.log)
    return values


# The storage

def open_storage(workdir: Path, url: str | None) -> RDBStorage:
    """The storage at `url`, by default the SQLite file of the workdir. Raises UserError when it cannot be reached."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = url or f"sqlite:///{(workdir / 'sweep.db').absolute()}"
    # SQLite has one writer at a time: the others wait rather than fail.
    engine = {"connect_args": {"timeout": 120}} if url.startswith("sqlite:") else {"pool_pre_ping": True}
    shown = url.split("@")[-1]
    for wait in (0.5, 2, 8, None):
        try:
            return RDBStorage(url, engine)
        except ImportError as error:
            raise UserError(f"--storage {shown}: {error.name or error} is not installed; for PostgreSQL: pip install "
                            "'cnnjax[postgresql]'") from error
        except Exception as error:      # each database's driver has errors of its own
            # Two machines that open a new database at once both make its tables, and one of them is told so.
            exists = any(word in str(error) for word in ("already exists", "duplicate key", "UNIQUE constraint"))
            if not exists or wait is None:
                raise UserError(f"--storage {shown}: {first_line(error)}") from error
            time.sleep(wait)
    raise AssertionError


def open_study(workdir: Path, config: ConfigDict, url: str | None) -> optuna.Study:
    """The sweep's study, created if need be."""
    return optuna.create_study(storage=open_storage(workdir, url), study_name=study_name(workdir, config),
                               load_if_exists=True)


def study_space(study: optuna.Study) -> Space:
    """The space that the sweep was begun with."""
    return {field: json_to_distribution(text) for field, text in study.user_attrs["space"].items()}


def sweep_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of the sweep as they stand, in order."""
    total = count(ConfigDict(study.user_attrs["config"]), study_space(study))
    return study.get_trials(deepcopy=False)[:total]


def study_name(workdir: Path, config: ConfigDict) -> str:
    """`config.sweep.study`, or the name of the workdir."""
    return config.sweep.study or workdir.absolute().name


@contextlib.contextmanager
def _prepared(config: ConfigDict, workdir: Path) -> Iterator[None]:
    """Writes the config to the workdir, after checking that it is that of the sweep, while no other command does."""
    try:
        (workdir / "trials").mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}; choose another --workdir") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workdirs.same_config(workdir, config)
        yield


def _same_sweep(study: optuna.Study, config: ConfigDict, space: Space) -> None:
    """Leaves config and space with the study. Raises UserError when it was begun elsewhere with others."""
    here = {"config": json.loads(configs.dump(config)),
            "space": {field: distribution_to_json(d) for field, d in space.items()}}
    there = study.user_attrs
    for name, mine in here.items():
        if name in there:
            changed = workdirs.changes(there[name], mine)
            if changed:
                raise UserError(f"study {study.study_name!r} was begun with another {name} ({'; '.join(changed)}); "
                                "choose another --workdir or config.sweep.study")
        study.set_user_attr(name, mine)


# A worker

class Claim(NamedTuple):
    """A trial that this worker holds."""

    number: int
    trial_id: int
    worker: str         # a name that no other worker has
    lock: TextIO


class Abandoned(Exception):
    """Another machine took the trial over, since this one gave no sign of life for long."""


def work(workdir: Path, url: str | None = None) -> None:
    """Runs trials of the sweep in `workdir` until all are finished, by whomever.

    What stops a run stops the worker, with the trial left to be taken over: Interrupted, and UserError for what the
    user can mend. A loss that is no number, or a network that does not fit the memory, ends only its trial.
    """
    config = workdirs.read_config(workdir)
    storage = open_storage(workdir, url)
    study = optuna.load_study(storage=storage, study_name=study_name(workdir, config))
    space = study_space(study)
    total = count(config, space)
    same_images = not any(field.startswith("data.") or field == "seed" for field in space)
    dataset = classification.load_data(config) if same_images else None
    beats: dict[int, tuple[Any, float]] = {}
    while True:
        claim = take(study, storage, workdir, total, beats)
        if claim is not None:
            with claim.lock, _beating(storage, claim) as lost:
                _run_trial(config, space, workdir, storage, study.study_name, claim, dataset, lost)
            jax.clear_caches()      # JAX keeps a trial's programs, which no other trial uses: 30 MB each
        elif all(t.state.is_finished() for t in study.get_trials(deepcopy=False)[:total]):
            return
        else:
            time.sleep(2)


def machine(workdir: Path) -> str:
    """What processes have in common that see each other's lock files in `workdir`."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}:{boot.read_text().strip() if boot.exists() else ''}:{workdir.absolute()}"


def take(study: optuna.Study, storage: RDBStorage, workdir: Path, total: int,
         beats: dict[int, tuple[Any, float]]) -> Claim | None:
    """A trial to run, those that were given up first; None when each is finished or held by another worker.

    `beats` is the caller's memory of the signs of life it saw of workers on other machines, and when: no two clocks
    are compared.
    """
    here = machine(workdir)
    worker = f"{here}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    unfinished = [t for t in study.get_trials(deepcopy=False)[:total] if not t.state.is_finished()]
    for frozen in sorted(unfinished, key=lambda t: (t.state != TrialState.RUNNING, t.number)):
        running = frozen.state == TrialState.RUNNING
        elsewhere = not frozen.user_attrs.get("worker", "").startswith(f"{here}:")
        if running and elsewhere and not _gone(frozen, beats):
            continue
        lock = _lock(workdir / "trials" / f".{frozen.number:04d}.lock")
        if lock is None:
            continue
        trial_id = storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(study.study_name), frozen.number)
        try:
            if running:     # read again under the lock: its worker may have finished it a moment ago
                mine = storage.get_trial(trial_id).state == TrialState.RUNNING
            else:
                mine = storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            if mine:
                storage.set_trial_user_attr(trial_id, "worker", worker)
                if running and elsewhere:       # two machines may do so at once: the last to write has it
                    time.sleep(3)
                    mine = storage.get_trial_user_attrs(trial_id)["worker"] == worker
        except optuna.exceptions.UpdateFinishedTrialError:
            mine = False
        if mine:
            return Claim(frozen.number, trial_id, worker, lock)
        lock.close()
    return None


def _lock(path: Path) -> TextIO | None:
    """The open file, locked while it stays open or the process lives; None when another process has it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _gone(frozen: FrozenTrial, beats: dict[int, tuple[Any, float]]) -> bool:
    """Whether the worker of a running trial gave no sign of life for GRACE seconds of watching."""
    sign = (frozen.user_attrs.get("worker"), frozen.user_attrs.get("beat"))
    seen = beats.get(frozen.number)
    if seen is None or seen[0] != sign:
        beats[frozen.number] = (sign, time.monotonic())
        return False
    return time.monotonic() - seen[1] > GRACE


@contextlib.contextmanager
def _beating(storage: RDBStorage, claim: Claim) -> Iterator[threading.Event]:
    """Gives signs of life in the storage; the event is set when another worker has taken the trial over."""
    lost, done = threading.Event(), threading.Event()

    def beat() -> None:
        for i in itertools.count():
            if done.wait(BEAT):
                return
            with contextlib.suppress(Exception):        # a storage out of reach for a moment; the next beat tries again
                if storage.get_trial_user_attrs(claim.trial_id)["worker"] != claim.worker:
                    lost.set()
                    return
                storage.set_trial_user_attr(claim.trial_id, "beat", i)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()


def _run_trial(config: ConfigDict, space: Space, workdir: Path, storage: RDBStorage, study_name: str, claim: Claim,
               dataset: classification.Images | None, lost: threading.Event) -> None:
    """Trains the trial's network, reports its errors as they come, and finishes it in the storage."""
    # A seed of the trial's own: what it draws does not depend on which worker runs it, nor on how often.
    seed = int(np.random.SeedSequence([config.seed, claim.number]).generate_state(1)[0])
    study = optuna.load_study(storage=storage, study_name=study_name, pruner=PRUNERS[config.sweep.pruner](config),
                              sampler=SAMPLERS[config.sweep.sampler](space, config.sweep, seed))
    # Read before the trial is used: the study's cache of the storage knows no trial that it has not read.
    reported = set(study.get_trials(deepcopy=False)[claim.number].intermediate_values)
    trial = optuna.Trial(study, claim.trial_id)
    own = trial_config(config, suggest(trial, space))

    def on_eval(step: int, scores: dict[str, float]) -> None:
        if lost.is_set():
            raise Abandoned
        trial.set_user_attr("steps", step)
        if step not in reported:
            trial.report(scores["validation_error"], step)
        if step < own.steps and trial.should_prune():
            raise optuna.TrialPruned

    state, value = TrialState.COMPLETE, None
    try:
        result = classification.train(own, workdir / "trials" / f"{claim.number:04d}", dataset=dataset, on_eval=on_eval)
        value = result["validation_error"]
        for name in ("test_error", "parameters", "seconds"):
            trial.set_user_attr(name, result[name])
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except Diverged as error:      # to the sampler a bad trial, as pruned ones are
        state = TrialState.PRUNED
        trial.set_user_attr("reason", str(error))
    except jax.errors.JaxRuntimeError as error:
        state = TrialState.FAIL
        trial.set_user_attr("reason", first_line(error))
    except Abandoned:
        return
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(claim.number, value, state)
    outcome = f"validation error {100 * value:.2f} %" if value is not None else state.name.lower()
    print(f"trial {claim.number}: {outcome}; " + ", ".join(f"{k}={_short(v)}" for k, v in trial.params.items()),
          flush=True)


# Launchers

def launch_local(workdir: Path, workers: int, storage: str | None) -> None:
    """Workers as processes of this machine. A signal is passed on to them once, and they save.

    Raises UserError when one ended otherwise than well and trials are left.
    """
    logs = workdir / "logs"
    logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        processes = []
        for i in range(workers):
            log = stack.enter_context((logs / f"worker{i}.log").open("a"))
            environment = {**os.environ, **worker_environment(i, workers, len(glob.glob("/dev/nvidia[0-9]*")))}
            if storage is not None:
                environment[STORAGE] = storage
            processes.append(subprocess.Popen([sys.executable, "-m", "experiments.sweep", str(workdir)],
                                              env=environment, stderr=log, start_new_session=True))
        caught: list[int] = []

        def forward(signum: int, frame: Any) -> None:
            caught.append(signum)
            for process in processes:
                process.send_signal(signum)
        for s in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, s, signal.signal(s, forward))
        statuses = [process.wait() for process in processes]
    if caught:
        raise loop.Interrupted(caught[0], f"by its workers in {workdir}")
    bad = {i: status for i, status in enumerate(statuses) if status}
    if bad:
        trials = sweep_trials(open_study(workdir, workdirs.read_config(workdir), storage))
        left = sum(not t.state.is_finished() for t in trials)
        i, status = next(iter(bad.items()))
        if left:
            lines = (logs / f"worker{i}.log").read_text().strip().splitlines()
            raise UserError(f"worker {i} ended with status {status} ({lines[-1] if lines else 'it said nothing'}) and "
                            f"{left} of {len(trials)} trials are left; run the same command again to go on")


def launcher_options(config: ConfigDict) -> dict[str, Any]:
    """`config.sweep.launch`, such as "slurm_partition=gpu gpus_per_node=1", as a dict."""
    options = {}
    for text in config.sweep.launch.split():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"config field 'sweep.launch': found {text!r}, expected NAME=VALUE ...")
        options[name] = configs.literal(value)
    return options


def worker_environment(index: int, workers: int, gpus: int) -> dict[str, str]:
    """What a worker of this machine finds in its environment: its share of the GPUs, or of one GPU's memory."""
    if not gpus or "CUDA_VISIBLE_DEVICES" in os.environ:
        return {}
    if workers <= gpus:
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(g) for g in range(index, gpus, workers))}
    sharing = math.ceil(workers / gpus)
    return {"CUDA_VISIBLE_DEVICES": str(index % gpus), "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.2f}"}


def launch_slurm(workdir: Path, workers: int, storage: str | None, options: Mapping[str, Any]) -> None:
    """Workers as an array of Slurm jobs by submitit; waits for them. `options` are those of `AutoExecutor`, such as
    `timeout_min`, `slurm_partition`, `gpus_per_node`; `cluster="local"` tries it on this machine."""
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install 'cnnjax[slurm]'") from None
    options = dict(options)
    executor = submitit.AutoExecutor(folder=workdir / "slurm", cluster=options.pop("cluster", "slurm"))
    executor.update_parameters(**{"timeout_min": 24 * 60, "name": workdir.name, **options})
    for job in executor.map_array(work, [workdir.absolute()] * workers, [storage] * workers):
        job.result()


def launch_ray(workdir: Path, workers: int, storage: str | None, options: Mapping[str, Any]) -> None:
    """Workers as tasks of Ray; waits for them. `options` are those of `ray.remote`, such as `num_gpus`."""
    try:
        import ray
    except ImportError:
        raise UserError("--launcher ray needs ray: pip install 'cnnjax[ray]'") from None
    ray.init(ignore_reinit_error=True)
    task = ray.remote(**{"num_cpus": 1, **options})(work)
    ray.get([task.remote(workdir.absolute(), storage) for _ in range(workers)])


def _follow(parent: int) -> None:
    """Stops this process as SIGTERM does when its launcher is gone: nobody would be there to stop it."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=watch, daemon=True).start()


def main(workdir: str) -> int:
    """A worker process of `launch_local`; returns its exit status."""
    from cnnjax import cli
    _follow(os.getppid())
    cli.start_jax()
    try:
        work(Path(workdir), os.environ.get(STORAGE))
        return 0
    except UserError as error:
        print(f"cnnjax: {error}", file=sys.stderr)
        return 2
    except loop.Interrupted as stop:
        print(f"cnnjax: {stop}", file=sys.stderr)
        return 128 + stop.signum


# The report

HEADER = ("trial", "outcome", "validation err %", "test err %", "steps")


def save_trials(workdir: Path, storage: str | None) -> None:
    """Writes `trials.json`: all that the report shows, read from the storage."""
    config = workdirs.read_config(workdir)
    study = open_study(workdir, config, storage)
    trials = sweep_trials(study)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    importance = {}
    if len({t.value for t in complete}) > 1:
        importance = dict(optuna.importance.get_param_importances(study))
    rows = [{"number": t.number, "state": t.state.name.lower(), "value": t.value if t in complete else None,
             "last": t.value, "params": t.params, "intermediate": t.intermediate_values, **t.user_attrs}
            for t in trials]
    text = workdirs.to_json({"trials": rows, "importance": importance}, indent=1)
    workdirs.write(workdir / "trials.json", text + "\n")


def report(workdir: Path, against: Sequence[Path] = ()) -> Path:
    """Prints the best trials of `workdir`; writes table.md, best.json, figures and report.html from trials.json."""
    config = workdirs.read_config(workdir)
    trials = read_trials(workdir)
    header, body = table(trials)
    complete = sorted((t for t in trials if t["state"] == "complete"), key=lambda t: t["value"])
    states = [sum(t["state"] == s for t in trials) for s in ("complete", "pruned", "fail")]
    sentences = [f"{len(trials)} trials: {states[0]} complete, {states[1]} pruned, {states[2]} failed; "
                 f"{sum(t.get('steps', 0) for t in trials):,} training steps in all."]
    parts = []
    if complete:
        best = complete[0]
        workdirs.write(workdir / "best.json", configs.dump(trial_config(config, best["params"])))
        sentences.append(f"Best by validation error: trial {best['number']}, {100 * best['value']:.2f} %, test error "
                         f"{100 * best['test_error']:.2f} %; its config is best.json, for `cnnjax train --config`.")
        figures = workdir / "figures"
        figures.mkdir(exist_ok=True)
        search.history(trials, figures / "history.png")
        search.parallel_coordinates(complete, figures / "parallel.png")
        parts = [html.image(figures / "history.png", "Validation error of each trial, and the best so far."),
                 html.image(figures / "parallel.png", "A line a complete trial, coloured by its validation error.")]
        importance = json.loads((workdir / "trials.json").read_text())["importance"]
        if importance:
            search.importance(importance, figures / "importance.png")
            parts.append(html.image(figures / "importance.png",
                                    "Importance of each hyperparameter among the complete trials (PED-ANOVA)."))
    comparison = equal_cost([workdir, *against]) if against else None
    markdown = tables.markdown(header, body)
    if comparison is not None:
        markdown += "\n" + tables.markdown(*comparison)
        parts += [html.heading("At equal cost"), html.table(*comparison)]
    parts += [html.heading("All trials"), html.table(header, body), html.heading("Config"),
              html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "table.md", markdown)
    path = workdir / "report.html"
    workdirs.write(path, html.page(f"Sweep {study_name(workdir, config)}",
                                   [html.paragraph(s) for s in sentences] + parts))
    tables.show(header, body[:10], title="The best trials")
    if comparison is not None:
        tables.show(*comparison, title="At equal cost")
    print("\n".join(sentences))
    print(f"report: {path}")
    return path


def read_trials(workdir: Path) -> list[dict[str, Any]]:
    """The rows of `trials.json`. Raises UserError for a folder that holds no sweep."""
    path = workdir / "trials.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no finished sweep: it has no trials.json")
    return json.loads(path.read_text())["trials"]


def table(trials: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row a trial, the complete ones first and the best of them on top."""
    fields = list(dict.fromkeys(field for t in trials for field in t["params"]))
    order = sorted(trials, key=lambda t: (t["state"] != "complete", math.inf if t["last"] is None else t["last"]))

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"
    body = [[str(t["number"]), "diverged" if t["state"] == "pruned" and "reason" in t else t["state"],
             percent(t["last"]), percent(t.get("test_error")), str(t.get("steps", 0)),
             *(_short(t["params"].get(field, "-")) for field in fields)] for t in order]
    return [*HEADER, *(field.split(".")[-1] for field in fields)], body


def equal_cost(workdirs_: Sequence[Path]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a row a sweep, cut where the cheapest of them ended: its best among the trials, by number, that
    the same training steps paid for."""
    sweeps = [(folder, workdirs.read_config(folder).sweep, read_trials(folder)) for folder in workdirs_]
    budget = min(sum(t.get("steps", 0) for t in trials) for _, _, trials in sweeps)
    body = []
    for folder, options, trials in sweeps:
        steps = np.cumsum([t.get("steps", 0) for t in trials])
        paid = [t for t, s in zip(trials, steps, strict=True) if s <= budget]
        complete = [t for t in paid if t["state"] == "complete"]
        best = min(complete, key=lambda t: t["value"], default=None)
        body.append([folder.absolute().name, options.sampler, options.pruner, str(len(paid)), str(len(complete)),
                     f"{sum(t.get('steps', 0) for t in paid):,}",
                     *(f"{100 * best[key]:.2f}" if best else "-" for key in ("value", "test_error"))])
    return ["sweep", "sampler", "pruner", "trials", "complete", "steps", "best validation err %", "its test err %"], \
        body


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
