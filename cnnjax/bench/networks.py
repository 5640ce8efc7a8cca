"""Speed of networks: the training step as it is run, the same with Flax's own convolutions ("plain Flax"), and
PyTorch's channels-last step.

Every contender is a process of its own, with the environment it needs, that compiles, warms up, and then takes one
measured step whenever it is told to. The contenders step in turn, so that what else the machine does hits all alike;
the medians and their ratios are what counts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import IO, Any

from cnnjax import launch
from cnnjax.bench import verdict
from cnnjax.bench.answer import answer
from cnnjax.errors import UserError

HEADER = ("network", "what", "ms a step", "images/s", "ratio", "of matmul rate")

_JAX: dict[str, Any] = {"conv": "ours", "devices": 1, "steps": 1, "dtype": "float32", "pages": False}
_FAST: dict[str, Any] = {"devices": 0, "steps": 4, "pages": True}           # devices: one a core

LEVERS: dict[str, dict[str, Any]] = {
    "plain Flax": {"conv": "xla"},
    "our convolution gradients": {},
    "+ huge pages": {"pages": True},
    "+ one device a core": {"pages": True, "devices": 0},
    "+ 4 steps a call": _FAST,
    "+ bfloat16": _FAST | {"dtype": "bfloat16"},
}
"""Each line has the levers above it too."""


def run(kind: str, networks: Sequence[str] = ("resnet20", "resnet56"), batch: int = 128, rounds: int = 9,
        torch_python: str = sys.executable) -> list[dict[str, Any]]:
    """Rows of the bench.

    `kind` is "train" or "inference", contenders: plain Flax, ours, PyTorch; or "levers", the training step with one
    lever more a row. `ratio` is the plain step's time over the row's, medians of `rounds` steps. `torch_python` is an
    interpreter with torch. `matmul` is the network's arithmetic, a training step counted as three forward passes, over
    time, as a share of the rate of a 2048x2048 float32 matrix product on all cores.

    Raises UserError for an unknown kind or network.
    """
    from cnnjax import models
    if kind not in ("train", "inference", "levers"):
        raise UserError(f"bench: unknown kind {kind!r}; known are train, inference, levers")
    cores = verdict.cores()
    rate = _matmul_rate()
    rows = []
    for network in networks:
        image = models.image_shape(network)
        spec: dict[str, Any] = {"network": network, "batch": batch, "train": kind != "inference", "image": image,
                                "classes": 10 if image[0] == 32 else 1000}
        if kind == "levers":
            contenders = LEVERS
        elif kind == "train":
            contenders = {"plain Flax": LEVERS["plain Flax"], "cnnjax": _FAST}
        else:
            contenders = {"plain Flax": LEVERS["plain Flax"], "cnnjax": {"devices": 0, "pages": True}}
        workers = {}
        for name, fields in contenders.items():
            full: dict[str, Any] = spec | _JAX | fields
            devices = full["devices"] or cores
            base = dict(os.environ) | {"JAX_PLATFORMS": "cpu"}
            workers[name] = Worker([sys.executable, "-m", "cnnjax.bench.networks"], full | {"devices": devices},
                                    launch.environment(devices, base) if full["pages"] else base)
        workers["PyTorch"] = torch_worker(torch_python, spec | {"threads": cores})
        seconds = measure({name: worker for name, worker in workers.items() if worker.ready()}, rounds)
        flops = next(worker.flops for worker in workers.values() if worker.flops)
        plain = median(seconds["plain Flax"])
        for name, times in seconds.items():
            t = median(times)
            rows.append({"network": network, "what": name, "batch": batch, "seconds": t, "times": times,
                         "fastest": min(times), "slowest": max(times), "images_per_second": batch / t,
                         "ratio": plain / t, "matmul": flops / t / rate})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows as text under `HEADER`."""
    return [[r["network"], r["what"], f"{1e3 * r['seconds']:.0f}", f"{r['images_per_second']:.0f}", f"{r['ratio']:.2f}",
             f"{100 * r['matmul']:.0f} %"] for r in rows]


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line a row of ours, ahead of PyTorch or behind it; none where it did not take part."""
    torch = {row["network"]: row["times"] for row in rows if row["what"] == "PyTorch"}
    return [verdict.against(f"{row['network']}, {row['what']}", row["times"], torch[row["network"]]) for row in rows
            if row["network"] in torch and row["what"] != "PyTorch"]


def measure(workers: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` steps of every worker, in turn; then the workers are closed."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(worker.step())
    for worker in workers.values():
        worker.close()
    return seconds


class Worker:
    """A contender's process, spoken to by lines: it says "ready" and its arithmetic, then seconds for every line."""

    def __init__(self, command: list[str], spec: dict[str, Any], environment: dict[str, str]) -> None:
        self.flops = 0.0
        self._process = subprocess.Popen([*command, json.dumps(spec)], env=environment, text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ready(self) -> bool:
        """Whether the process can take part: PyTorch may be missing or not know the network. Ours must."""
        words = self._pipe("stdout").readline().split()
        if words[:1] != ["ready"]:
            error = self._process.communicate()[1].strip().splitlines()
            if "pytorch.py" not in str(self._process.args):
                raise UserError(f"bench: a measured process ended: {error[-1] if error else 'no message'}")
            return False
        self.flops = float(words[1]) if len(words) > 1 else 0.0
        return True

    def keep_on_one_core(self) -> None:
        """Keeps the process and all that it starts on one core, where the system can; called before `ready`."""
        if hasattr(os, "sched_setaffinity"):
            with suppress(ProcessLookupError):       # one that has ended is told by `ready`
                os.sched_setaffinity(self._process.pid, {min(os.sched_getaffinity(0))})

    def step(self) -> float:
        self._pipe("stdin").write("step\n")
        self._pipe("stdin").flush()
        return float(self._pipe("stdout").readline())

    def close(self) -> None:
        self._process.communicate()

    def _pipe(self, name: str) -> IO[str]:
        return getattr(self._process, name)


def torch_worker(python: str, spec: dict[str, Any]) -> Worker:
    """PyTorch's process, by an interpreter that may lack it."""
    return Worker([python, "-P", str(Path(__file__).with_name("pytorch.py"))], spec, dict(os.environ))


def _matmul_rate() -> float:
    """Floating point operations a second of a 2048x2048 float32 product on all cores; the best of 5."""
    import jax
    a = jax.device_put(jax.random.normal(jax.random.key(0), (2048, 2048)), jax.devices("cpu")[0])
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * 2048 ** 3 / min(times)


def task_of(spec: dict[str, Any]) -> Any:
    """The task of `cnnjax train` for a network, on as many random images as a batch has."""
    import numpy as np

    from cnnjax import classification, fields
    from cnnjax.data.sets import Dataset, ImageSet
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 256, (spec["batch"], *spec["image"]), np.uint8),
                      rng.integers(0, spec["classes"], spec["batch"], np.int32))
    middle = np.full(spec["image"][2], 0.5, np.float32)
    config = fields.defaults(classification.FIELDS)
    config.update(batch_size=spec["batch"], steps_per_dispatch=spec["steps"], dtype=spec["dtype"])
    config.model.name = spec["network"]
    config.data.update(pad=0, flip=False)
    config.optimizer.learning_rate = 1e-3
    return classification.task(config, Dataset(images, None, images, tuple(map(str, range(spec["classes"]))), middle,
                                               middle))


def make_step(spec: dict[str, Any]) -> tuple[Callable[[Any], tuple[Any, Any]], Any, float]:
    """`(step, state, flops)`: `step(state) -> (state, what it computed)` is `spec["steps"]` steps of `cnnjax train` in
    one call, or the inference of a batch.

    `flops` is the arithmetic of one step by XLA's count of the forward pass, thrice in training.
    """
    import jax
    import numpy as np

    from cnnjax.models import layers
    from cnnjax.training import loop
    from cnnjax.training import state as states
    from cnnjax.training import step as steps
    if spec["conv"] == "xla":
        layers.conv_general_dilated = None      # type: ignore[assignment]  # Flax then takes XLA's, in this process
    task = task_of(spec)
    state = steps.replicate(states.create(task.config, task.init))
    x = np.zeros((spec["batch"], *spec["image"]), np.float32)
    forward = jax.jit(task.module.apply).lower(states.variables(state), x)
    flops = float((forward.cost_analysis() or {})["flops"])
    if spec["train"]:
        train, data = loop.program(task.config, task, ExitStack())
        return (lambda state: train(state, data(spec["steps"]), spec["steps"])), state, 3 * flops
    apply = steps.each_device(task.module.apply)
    variables, shares = states.variables(state), steps.place(steps.shard(x, spec["devices"]))
    return (lambda state: (state, apply(variables, shares))), state, flops


def _work(spec: dict[str, Any]) -> None:
    """A contender's process: see `Worker`. The seconds of a call are divided by its steps."""
    import jax
    step, state, flops = make_step(spec)

    def call() -> None:
        nonlocal state
        state, computed = step(state)
        jax.block_until_ready((state, computed))
    for _ in range(2):
        call()
    answer(call, steps=spec["steps"] if spec["train"] else 1, ready=f"ready {flops}")


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
