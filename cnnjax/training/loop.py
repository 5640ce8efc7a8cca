"""The training loop: runs a loss function over data, and leaves a workdir that any later call goes on from.

It knows no network and no detector by name. It is where a run's side effects are: files, signals, what is printed.
"""

import importlib.util
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.training import distributed, population, progress, schedules
from cnnjax.training import state as states
from cnnjax.training import step as steps_
from cnnjax.training import workdir as workdirs
from cnnjax.training.checkpoints import Checkpoints
from cnnjax.training.state import State

Evaluate = Callable[[State], list[dict[str, Any]]]
"""Rows for metrics.jsonl, each with a "split"; their step is added."""

Watch = Callable[[int, dict[str, float]], None]
"""`watch(step, scores)` is told the numbers of each evaluation, such as "test_error", once its rows are written. What
it raises ends the run, which may be taken up again."""


class Interrupted(Exception):
    """A run was asked to stop by a signal, and was saved. Its message says how to go on."""

    def __init__(self, signum: int, saved: str):
        super().__init__(f"stopped by {signal.Signals(signum).name} and saved {saved}; "
                         "run the same command again to go on")
        self.signum = signum


class Diverged(UserError):
    """The loss, the gradient or the parameters are no longer numbers."""


FINITE = ("loss", "grad_norm", "update_norm", "param_norm")
"""Metrics that end a run when they are no numbers. The loss alone does not tell: on a CPU XLA's maximum of NaN and 0 is
0, so that a rectifier hides parameters that are NaN, and the loss stays finite for ever."""


def fit(config: ConfigDict, workdir: Path, *, init: Callable[[jax.Array], tuple[Any, Any]], loss_fn: steps_.LossFn,
        take: steps_.TakeFn, resident: Any = None, stream: Callable[[int], Iterator[Any]] | None = None,
        evaluate: Evaluate | None = None, watch: Watch | None = None, members: Sequence[ConfigDict] = (),
        name: str = "train") -> State:
    """Trains for `config.steps` steps from the newest checkpoint of `workdir`, or from `init(key)`, and returns the
    last state.

    `loss_fn(params, model_state, batch, key, hyper) -> (loss, (model_state, metrics))`; `take(data, state) -> batch`
    picks a device's batch inside the step. Its data is `resident`, arrays kept on every device, or comes from
    `stream(step)`, an iterator of this process's equal share of the batches of `config.batch_size` from that step on,
    of which `take` is given the device's share. `evaluate(state)` gives rows for metrics.jsonl every
    `config.eval_every` steps and at the end. With `members` the run is that of a population: see
    `cnnjax.training.population`.

    The caller has claimed the workdir. Raises Interrupted after SIGINT or SIGTERM with all saved, Diverged for a loss
    that is not finite, and UserError for a config that cannot be run.
    """
    check(config)
    optimizer = states.optimizer(config)
    checkpoints = open_checkpoints(config, workdir)
    with ExitStack() as stack:
        stack.callback(checkpoints.close)
        state = states.create(config, init) if not members else population.stack(
            [states.create(member, init) for member in members])
        restored = checkpoints.restore(state)
        step, host = 0, dict[str, Any](seconds=0.0, window=[])
        if restored is not None:
            step, state, host = restored
            checkpoints.remove_after(step)
        if step == config.steps:
            return state
        writer = distributed.is_writer()
        if writer:
            metrics_file = workdirs.Rows(workdir / workdirs.METRICS, step)
            timing_file = workdirs.Rows(workdir / workdirs.TIMING, step)
            stack.callback(metrics_file.close)
            stack.callback(timing_file.close)
            events = stack.enter_context(_events(config, workdir, step))
            report = stack.enter_context(progress.bar(name, config.steps, step))

        length = config.steps_per_dispatch
        dispatch = steps_.train_dispatch(loss_fn, optimizer, take, length, resident=stream is None,
                                         ema_decay=config.optimizer.ema, accumulate=config.optimizer.accumulate,
                                         members=len(members))
        state = steps_.replicate(state)
        if stream is None:
            arrays = steps_.replicate(resident)

            def data(count: int) -> Any:
                return arrays
        else:
            batches = stream(step)
            stack.callback(getattr(batches, "close", lambda: None))

            def data(count: int) -> Any:
                return _stacked(batches, count, length)
        stopped = stack.enter_context(_signals())
        stack.enter_context(distributed.guard(workdir))
        began = mark = time.monotonic()
        window: list[dict[str, float]] = host["window"]
        running: deque[tuple[int, int, Any]] = deque()      # last step, how many, their metrics
        votes: deque[jax.Array] = deque()

        def seconds() -> float:
            return host["seconds"] + time.monotonic() - began

        def finish_one() -> None:
            """Waits for the oldest dispatch and writes its rows."""
            nonlocal mark
            last, count, metrics = running.popleft()
            metrics = jax.device_get(metrics)
            now = time.monotonic()
            speed = count * config.batch_size / (now - mark)
            mark = now
            for i, at in enumerate(range(last - count + 1, last + 1)):
                row = {key: float(value[i]) for key, value in metrics.items()}
                wrong = next((key for key in FINITE if not math.isfinite(row.get(key, 0.0))), None)
                if wrong is not None:
                    kept = checkpoints.steps()
                    raise Diverged(
                        f"the {wrong} is {row[wrong]} at step {at}, learning rate {states.rate(config, at - 1):.4g}; "
                        f"the last good checkpoint is of step {kept[-1] if kept else 0}; try a lower "
                        "optimizer.learning_rate or set optimizer.clip_norm")
                window.append(row)
                if at % config.log_every == 0 or at == config.steps:
                    mean = {key: float(np.mean([row[key] for row in window])) for key in sorted(window[0])}
                    write({"step": at, "split": "train", "learning_rate": states.rate(config, at - 1), **mean})
                    if writer:
                        timing_file.append({"step": at, "images_per_second": speed, "seconds": seconds()})
                    window.clear()
            text = ", ".join(f"{key} {row[key]:.3g}" for key in ("loss", "error") if key in row)
            text += f", {speed:.0f} images/s"
            if writer:
                report(last, text)

        def write(row: dict[str, Any]) -> None:
            if writer:
                metrics_file.append(row)
                events(row)

        while step < config.steps:
            count = dispatch_steps(config, step)
            state, metrics = dispatch(state, data(count), count)
            step += count
            running.append((step, count, metrics))
            stop = bool(stopped)
            if jax.process_count() > 1:     # all must stop at one step: they count the votes of the dispatch before
                votes.append(distributed.vote(stop))
                stop = len(votes) > 1 and bool(votes.popleft())
            at_eval = step % config.eval_every == 0 or step == config.steps
            at_save = step % config.checkpoint_every == 0 or step == config.steps
            drained = at_eval or at_save or stop
            while len(running) > (0 if drained else 1):     # one dispatch is always under way while Python writes
                finish_one()
            scores: dict[str, float] = {}
            if at_eval and evaluate is not None:
                for row in evaluate(state):
                    write({"step": step, **row})
                    scores |= {f"{row['split']}_{k}": v for k, v in row.items() if isinstance(v, float)}
                mark = time.monotonic()
                if watch is not None:
                    watch(step, scores)
            if at_save or stop:
                checkpoints.save(step, state, {"seconds": seconds(), "window": window}, scores or None)
                mark = time.monotonic()
            if stop:
                checkpoints.wait()
                if step < config.steps:
                    signum = stopped[0] if stopped else signal.SIGTERM      # another process was asked to
                    raise Interrupted(signum, f"at step {step} in {workdir}")
        checkpoints.wait()
    return state


def open_checkpoints(config: ConfigDict, workdir: Path) -> Checkpoints:
    """The checkpoints of a run: the latest, and the one of least error on the validation split where images are held
    out."""
    best = "validation_error" if config.get("data", {}).get("validation") else None
    return Checkpoints(workdir / "checkpoints", config.keep_checkpoints, best)


COUNT = "[1, 2147483647]"
NATURAL = "[0, 2147483647]"
"""Intervals of `config.require`: steps are counted in int32."""

RANGES = {
    "seed": "[0, 4294967295]",      # uint32
    **dict.fromkeys(("steps", "batch_size", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints",
                     "steps_per_dispatch", "schedule.reference_batch", "optimizer.accumulate"),
                    COUNT),
    **dict.fromkeys(("optimizer.learning_rate", "optimizer.weight_decay", "optimizer.clip_norm"), "[0, 3e38]"),
    **dict.fromkeys(("optimizer.momentum", "optimizer.label_smoothing", "optimizer.ema"), "[0, 1)"),
    "schedule.factor": "(0, 1]",
    "schedule.power": "[0, 100]",
    "schedule.boundaries": "(0, 2147483647]",
    "schedule.warmup_steps": NATURAL,
    "schedule.warmup_factor": "[0, 1]",
}
"""What a loop can run, by field."""


def check(config: ConfigDict, prefix: str = "") -> None:
    """Refuses what no loop can run. Raises UserError naming the field, what was found and what was expected; `prefix`
    is what the field is called by before its name."""
    configs.require(config, {field: RANGES[field] for field in RANGES if field != "seed" or "seed" in config}, prefix)
    boundaries = config.schedule.boundaries
    if list(boundaries) != sorted(set(boundaries)):
        raise UserError(f"config field '{prefix}schedule.boundaries': found {boundaries}, expected steps in order")
    for field, moments in (("boundaries", boundaries), ("warmup_steps", (config.schedule.warmup_steps,))):
        for when in moments:
            if when >= 1 and when != int(when):
                raise UserError(f"config field '{prefix}schedule.{field}': found {when}, expected a whole step, or a "
                                "share of the run under 1")
    accumulate = config.optimizer.accumulate
    if config.batch_size % (jax.device_count() * accumulate):
        parts = f" in {accumulate} parts each" if accumulate > 1 else ""
        raise UserError(f"config field '{prefix}batch_size': {config.batch_size} images cannot be shared evenly by the "
                        f"{jax.device_count()} devices{parts}")
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(f"config field '{prefix}wandb' is set but the package is missing: pip install wandb")
    try:
        schedules.from_config(config.schedule, config.steps, config.batch_size)
    except ValueError as error:
        raise UserError(str(error).replace("config field '", f"config field '{prefix}")) from error


def dispatch_steps(config: ConfigDict, step: int) -> int:
    """How many steps the dispatch that begins at `step` runs: up to the next multiple of `config.steps_per_dispatch`,
    evaluation, checkpoint, or the end of the run."""
    return min(config.steps - step, *(every - step % every for every in (
        config.steps_per_dispatch, config.eval_every, config.checkpoint_every)))


def _stacked(batches: Iterator[Any], count: int, length: int) -> Any:
    """The next `count` batches as a dispatch of up to `length` steps takes them: leaves `(length, devices, share,
    ...)`. What the dispatch does not come to repeats the last batch."""
    devices = jax.local_device_count()
    several = [steps_.shard(next(batches), devices) for _ in range(count)]
    several += several[-1:] * (length - count)
    return jax.tree.map(lambda *leaf: np.stack(leaf), *several)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGINT or SIGTERM is appended to. The second one acts at once, as it would have without us."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():       # only the main thread may set handlers
        yield caught
        return
    old: dict[int, Any] = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handler(signum: int, frame: Any) -> None:
        if caught:      # not put back at the first: a second one under way meanwhile would be told as an error
            signal.signal(signum, old[signum])
            signal.raise_signal(signum)
        caught.append(signum)
    for s in old:
        signal.signal(s, handler)
    try:
        yield caught
    finally:
        for s, previous in old.items():
            signal.signal(s, previous)


@contextmanager
def _events(config: ConfigDict, workdir: Path, step: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that sends a row's numbers to TensorBoard and Weights & Biases, where the config asks for them."""
    sinks: list[Callable[[str, float, int], None]] = []
    with ExitStack() as stack:
        if config.tensorboard:
            from tensorboardX import SummaryWriter
            writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
            stack.callback(writer.close)
            sinks.append(writer.add_scalar)
        if config.wandb:
            import wandb
            run = wandb.init(project=config.wandb, dir=str(workdir), name=workdir.name, config=config.to_dict())
            stack.callback(run.finish)
            sinks.append(lambda key, value, at: run.log({key: value}, step=at))

        def send(row: dict[str, Any]) -> None:
            for key, value in row.items():
                if isinstance(value, float):
                    for sink in sinks:
                        sink(f"{row['split']}/{key}", value, row["step"])
        yield send
