"""The training loop: from step 0 or the newest checkpoint to the last step, with evaluations and checkpoints."""

import importlib.util
import itertools
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax import fields
from cnnjax.errors import Interrupted, UserError
from cnnjax.fields import COUNT, NATURAL, Field, Fields
from cnnjax.training import distributed, optimizers, population, schedules
from cnnjax.training import state as states
from cnnjax.training import step as steps_
from cnnjax.training.checkpoints import Checkpoints
from cnnjax.training.history import NEW, open_history
from cnnjax.training.state import State
from cnnjax.training.task import OnDevice, OnEval, Row, Task
from cnnjax.training.watchdog import watchdog


def fit(config: ConfigDict, workdir: Path, task: Task, *, members: Sequence[ConfigDict] = (),
        on_eval: OnEval | None = None, name: str = "train") -> State:
    """Trains for `config.steps` steps from the newest checkpoint of `workdir`, or from `task.init`, and returns the
    last state.

    Every `config.eval_every` steps, and at the end, the rows of `task.evaluate` are written and `on_eval` is told. With
    `members` the run is that of a population: see `cnnjax.training.population`.

    The caller has claimed the workdir. Raises Interrupted after SIGINT or SIGTERM with all saved, Diverged for a loss
    that is not finite, and UserError for a config that cannot be run.
    """
    check(config)
    if config.patience and task.best is None:
        raise UserError(f"config field 'patience': found {config.patience}, but there is no validation split to go by; "
                        "set data.validation")
    with ExitStack() as stack:
        checkpoints = open_checkpoints(config, workdir, task.best)
        stack.callback(checkpoints.close)
        several = [states.create(member, task.init, task.frozen) for member in members or (config,)]
        state = population.stack(several) if members else several[0]
        step, host = 0, NEW.copy()
        restored = checkpoints.restore(state)
        if restored is not None:
            step, state, host = restored
            checkpoints.remove_after(step)
        if step == config.steps or ended_early(config, host):
            return state
        history = stack.enter_context(open_history(config, workdir, step, host, name))
        train, next_data = program(config, task, stack, step, len(members))
        state = steps_.replicate(state)
        asked_to_stop = stack.enter_context(_signals())
        stack.enter_context(distributed.guard(workdir))
        devices_answer = stack.enter_context(_watchdog(workdir, checkpoints))

        while step < config.steps and not ended_early(config, history.host()):
            count = dispatch_steps(config, step)
            state, metrics = train(state, next_data(count), count)
            step += count
            history.add(step, count, metrics)
            stop = asked_to_stop()
            at_eval = step % config.eval_every == 0 or step == config.steps
            at_save = step % config.checkpoint_every == 0 or step == config.steps or (at_eval and bool(task.best))
            # One dispatch is always under way while Python writes.
            history.read(0 if at_eval or at_save or stop else 1, checkpoints.steps, devices_answer)
            scores: dict[str, float] = {}
            if at_eval and task.splits:
                scores = history.evaluated(step, evaluate(task, state, len(members)), task.best)
                if on_eval is not None:
                    on_eval(step, scores)
            if at_save or stop:
                checkpoints.save(step, state, history.host(), scores or None)
                history.paused()
            if stop and step < config.steps:
                checkpoints.wait()
                raise Interrupted(stop, f"at step {step} in {workdir}")
        checkpoints.wait()
    return state


def ended_early(config: ConfigDict, host: Mapping[str, Any]) -> bool:
    """Whether the validation score has not become better for `config.patience` evaluations."""
    return 0 < config.patience <= host["stale"]


def program(config: ConfigDict, task: Task, stack: ExitStack, step: int = 0,
            members: int = 0) -> tuple[Callable[..., Any], Callable[[int], Any]]:
    """The compiled steps of a run that goes on from `step`, `(state, data, count) -> (state, metrics)`, and a function
    that gives the data of the next `count` of them. What reads the data is closed with `stack`.
    """
    data, length = task.data(), config.steps_per_dispatch
    on_device = isinstance(data, OnDevice)
    train = steps_.train_dispatch(task.loss, optimizers.optimizer(config), task.get_batch, length, on_device=on_device,
                                  ema_decay=config.optimizer.ema, accumulate=config.optimizer.accumulate,
                                  members=members)
    if isinstance(data, OnDevice):
        arrays = steps_.replicate(data.arrays)
        return train, lambda count: arrays
    batches = data.batches(step, jax.process_index(), jax.process_count())
    stack.callback(getattr(batches, "close", lambda: None))
    return train, lambda count: _stacked(itertools.islice(batches, count), length)


def evaluate(task: Task, state: State, members: int = 0) -> list[Row]:
    """The rows of all of a task's splits, with the averaged parameters if there are any; of a population, a row that
    holds its members'."""
    if not members:
        variables = states.variables(state)
        return [row for split in task.splits for row in task.evaluate(variables, split)]
    each = [evaluate(task, population.member(state, i)) for i in range(members)]
    return [population.merged(rows) for rows in zip(*each, strict=True)]


def open_checkpoints(config: ConfigDict, workdir: Path, best: tuple[str, str] | None) -> Checkpoints:
    """The checkpoints of a run: the latest, and the one of the best score where there is one to go by."""
    return Checkpoints(workdir / "checkpoints", config.keep_checkpoints, best)


FIELDS: Fields = {
    "seed": Field(0, "parameters, data order, augmentation and dropout all derive from it", "[0, 4294967295]"),
    "steps": Field(64_000, "of training; a schedule in shares of the run moves along", COUNT),
    "batch_size": Field(128, "examples a step, over all devices", COUNT),
    "optimizer": optimizers.FIELDS,
    "schedule": schedules.FIELDS,
    "log_every": Field(100, "steps; a row of metrics.jsonl is the mean over them", COUNT),
    "eval_every": Field(1_000, "steps between evaluations; the last step is always evaluated", COUNT),
    "checkpoint_every": Field(1_000, "steps between checkpoints", COUNT),
    "patience": Field(0, "evaluations without a better validation score after which a run ends; 0: it goes to the end",
                      NATURAL),
    "keep_checkpoints": Field(2, "of the latest; the best on the validation split stays too", COUNT),
    "steps_per_dispatch": Field(10, "at most so many steps run on the devices between looks by Python", COUNT),
    "tensorboard": Field(True, "whether the rows go to TensorBoard too"),
    "wandb": Field("", "a Weights & Biases project that they go to, where the package is installed"),
}
"""What every training's config has; that of a detector's phase has no seed of its own."""


def check(config: ConfigDict, prefix: str = "") -> None:
    """Refuses what no loop can run. Raises UserError naming the field, what was found and what was expected; `prefix`
    is what the field is called by before its name."""
    fields.check_values(config, FIELDS, prefix)
    boundaries = config.schedule.boundaries
    moments = [schedules.at_step(when, config.steps) for when in boundaries]        # of a short run some may coincide
    if moments != sorted(moments) or len(set(boundaries)) < len(boundaries):
        raise UserError(f"config field '{prefix}schedule.boundaries': found {boundaries}, expected steps in order")
    for field, times in (("boundaries", boundaries), ("warmup_steps", (config.schedule.warmup_steps,))):
        for when in times:
            if when >= 1 and when != int(when):
                raise UserError(f"config field '{prefix}schedule.{field}': found {when}, expected a whole step, or a "
                                "share of the run under 1")
    accumulate = config.optimizer.accumulate
    if config.batch_size % (jax.device_count() * accumulate):
        parts = f" in {accumulate} parts each" if accumulate > 1 else ""
        raise UserError(f"config field '{prefix}batch_size': {config.batch_size} images cannot be shared evenly by the "
                        f"{jax.device_count()} devices{parts}")
    optimizers.check(config, prefix)
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(f"config field '{prefix}wandb' is set but the package is missing: pip install wandb")


def dispatch_steps(config: ConfigDict, step: int) -> int:
    """How many steps the dispatch that begins at `step` runs: up to the next multiple of `config.steps_per_dispatch`,
    evaluation, checkpoint, or the end of the run."""
    return min(config.steps - step, *(every - step % every for every in (
        config.steps_per_dispatch, config.eval_every, config.checkpoint_every)))


def _stacked(batches: Iterator[Any], length: int) -> Any:
    """Batches as a dispatch of up to `length` steps takes them: leaves `(length, devices, share, ...)`. What the
    dispatch does not come to repeats the last batch."""
    several = [steps_.shard(batch, jax.local_device_count()) for batch in batches]
    several += several[-1:] * (length - len(several))
    return jax.tree.map(lambda *leaf: np.stack(leaf), *several)


def _watchdog(workdir: Path, checkpoints: Checkpoints) -> AbstractContextManager[Callable[[], Any]]:
    """A context in which to wait for the devices, which ends the process if they never answer. Of several processes
    each may have to wait for another that evaluates or writes: there JAX's heartbeats tell.
    """
    if jax.process_count() > 1:
        return nullcontext(nullcontext)
    return watchdog(lambda seconds: distributed.end_stalled(workdir, max(checkpoints.steps(), default=0), seconds))


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """A function that gives the signal, SIGINT or SIGTERM, by which this run is to stop now, else 0.

    A second signal acts at once, as it would have without us. All processes of a run stop at one step: they count the
    votes of the dispatch before.
    """
    caught: list[int] = []
    votes: deque[jax.Array] = deque()

    def asked_to_stop() -> int:
        signum = caught[0] if caught else 0
        if jax.process_count() == 1:
            return signum
        votes.append(steps_.vote(bool(signum)))
        return (signum or signal.SIGTERM) if len(votes) > 1 and bool(votes.popleft()) else 0

    if threading.current_thread() is not threading.main_thread():       # only the main thread may set handlers
        yield asked_to_stop
        return
    old: dict[int, Any] = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handler(signum: int, frame: Any) -> None:
        if caught:      # not restored at the first: Python would report a second one that is under way as an error
            signal.signal(signum, old[signum])
            signal.raise_signal(signum)
        caught.append(signum)
    for s in old:
        signal.signal(s, handler)
    try:
        yield asked_to_stop
    finally:
        for s, previous in old.items():
            signal.signal(s, previous)
