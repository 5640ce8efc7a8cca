"""The metrics of a run: fetched from the devices one dispatch late, written to files, trackers and the terminal."""

import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax.errors import Diverged
from cnnjax.training import distributed, progress
from cnnjax.training import state as states
from cnnjax.training import workdir as workdirs
from cnnjax.training.task import Row

FINITE = ("loss", "grad_norm", "update_norm", "param_norm")
"""Metrics that abort a run if they are not finite. The loss alone does not tell: on a CPU XLA's maximum of NaN and 0 is
0, so that a ReLU hides parameters that are NaN, and the loss stays finite for ever."""


NEW: dict[str, Any] = {"seconds": 0.0, "window": (), "best": None, "stale": 0}
"""What `History.host` gives before the first step."""


class History:
    """What a run has measured so far: its rows, and the seconds that it took, those before a resume included."""

    def __init__(self, config: ConfigDict, host: dict[str, Any], write: Callable[[Row], None],
                 write_timing: Callable[[Row], None], report: progress.Report):
        """`host` is what `host()` gave when the checkpoint was saved from which the run goes on."""
        self._config = config
        self._write, self._write_timing, self._report = write, write_timing, report
        self._before = host["seconds"]
        self._window: list[Row] = list(host["window"])          # of the steps since the last row
        self._best: float | None = host["best"]                 # score on the validation split
        self._stale: int = host["stale"]                        # evaluations since then
        self._running: deque[tuple[int, int, Any]] = deque()    # last step, how many, their metrics on the devices
        self._last_scores = ""
        self._began = self._mark = time.monotonic()

    def host(self) -> dict[str, Any]:
        """What a checkpoint keeps of this: a JSON object."""
        return {"seconds": self._seconds(), "window": self._window, "best": self._best, "stale": self._stale}

    def add(self, step: int, count: int, metrics: Any) -> None:
        """Takes the metrics of the `count` steps up to `step`, which may still be under way: nothing waits for them."""
        self._running.append((step, count, metrics))

    def read(self, behind: int, last_good: Callable[[], Sequence[int]],
             waiting: Callable[[], AbstractContextManager[Any]]) -> None:
        """Waits, in a context `waiting()`, for all but the newest `behind` dispatches and writes their rows.

        Raises Diverged for a metric of FINITE that is not; `last_good` gives the steps that have a checkpoint.
        """
        while len(self._running) > behind:
            step, count, metrics = self._running.popleft()
            with waiting():
                metrics = jax.device_get(metrics)
            now = time.monotonic()
            speed = count * self._config.batch_size / (now - self._mark)
            self._mark = now
            for i, at in enumerate(range(step - count + 1, step + 1)):
                row = {key: float(value[i]) for key, value in metrics.items()}
                self._check(row, at, last_good)
                self._window.append(row)
                if at % self._config.log_every == 0 or at == self._config.steps:
                    self._write_window(at, speed)
            shown = [f"{key} {row[key]:.3g}" for key in ("loss", "error") if key in row]
            rate = f"rate {states.rate(self._config, step - 1):.3g}"
            self._report(step, ", ".join([*shown, rate, f"{speed:.0f} images/s{self._last_scores}"]))

    def evaluated(self, step: int, rows: Sequence[Row], best: tuple[str, str] | None) -> dict[str, float]:
        """Writes the rows of an evaluation; gives its numbers by split and name, such as "test_error". `best` as in a
        task."""
        scores: dict[str, float] = {}
        for row in rows:
            self._write({"step": step, **row})
            scores |= {f"{row['split']}_{key}": value for key, value in row.items() if isinstance(value, float)}
        if best is not None:
            name, mode = best
            sign = 1 if mode == "min" else -1
            better = self._best is None or sign * scores[name] < sign * self._best
            self._best, self._stale = (scores[name], 0) if better else (self._best, self._stale + 1)
        shown = [f"{name.replace('_', ' ')} {scores[name]:.3g}" for name in scores
                 if name.endswith(("_error", "_map")) and "top5" not in name]
        self._last_scores = "".join(f", {text}" for text in shown)
        self._mark = time.monotonic()
        return scores

    def paused(self) -> None:
        """Tells that time passed since the last dispatch which is not the training's, such as a checkpoint's."""
        self._mark = time.monotonic()

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _check(self, row: Row, step: int, last_good: Callable[[], Sequence[int]]) -> None:
        wrong = next((key for key in FINITE if not math.isfinite(row.get(key, 0.0))), None)
        if wrong is not None:
            kept = last_good()
            raise Diverged(
                f"the {wrong} is {row[wrong]} at step {step}, learning rate {states.rate(self._config, step - 1):.4g}; "
                f"the last good checkpoint is of step {kept[-1] if kept else 0}; try a lower "
                "optimizer.learning_rate or set optimizer.clip_norm")

    def _write_window(self, step: int, speed: float) -> None:
        mean = {key: float(np.mean([row[key] for row in self._window])) for key in sorted(self._window[0])}
        self._write({"step": step, "split": "train", "learning_rate": states.rate(self._config, step - 1), **mean})
        self._write_timing({"step": step, "images_per_second": speed, "seconds": self._seconds()})
        self._window.clear()


@contextmanager
def open_history(config: ConfigDict, workdir: Path, step: int, host: dict[str, Any], name: str) -> Iterator[History]:
    """The history of a run that goes on from `step`, and its files, trackers and progress bar; of several processes
    only the first one has those."""
    def ignore(*_: Any) -> None:
        pass

    with ExitStack() as stack:
        if not distributed.is_writer():
            yield History(config, host, ignore, ignore, ignore)
            return
        metrics = workdirs.Rows(workdir / workdirs.METRICS, step)
        timing = workdirs.Rows(workdir / workdirs.TIMING, step)
        stack.callback(metrics.close)
        stack.callback(timing.close)
        track = stack.enter_context(_trackers(config, workdir, step))
        report = stack.enter_context(progress.bar(name, config.steps, step))

        def write(row: Row) -> None:
            metrics.append(row)
            track(row)
        yield History(config, host, write, timing.append, report)


@contextmanager
def _trackers(config: ConfigDict, workdir: Path, step: int) -> Iterator[Callable[[Row], None]]:
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
            run = wandb.init(project=config.wandb, dir=str(workdir), name=workdir.name, config=config.to_dict(),
                             id=_wandb_id(workdir), resume="allow")
            stack.callback(run.finish)
            sinks.append(lambda key, value, at: run.log({key: value}, step=at))

        def send(row: Row) -> None:
            for key, value in row.items():
                if isinstance(value, float):
                    for sink in sinks:
                        sink(f"{row['split']}/{key}", value, row["step"])
        yield send


def _wandb_id(workdir: Path) -> str:
    """The run of Weights & Biases that this workdir's rows go to, however often it is stopped and taken up again."""
    path = workdir / "wandb" / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        workdirs.write(path, uuid.uuid4().hex[:8])
    return path.read_text()
