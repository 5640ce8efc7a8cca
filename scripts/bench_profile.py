"""Where the time of our training step goes, on one core: by XLA's own trace, so per operation that XLA ran.

    taskset -c 0 python scripts/bench_profile.py [NETWORK]
"""

import collections
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax

from cnnjax import models
from cnnjax.bench import networks
from cnnjax.reporting import tables
from cnnjax.training import optimizers
from cnnjax.training import state as states
from cnnjax.training import step as steps


def kind(opcode: str, origin: str) -> str:
    """What an operation is for, from its opcode and the JAX code that it came from."""
    if "/cond/branch_0_fun" in origin:              # the backward pass of cnnjax/ops/conv.py on a CPU
        if "/while/" in origin:
            return "kernel gradients, product" if opcode == "dot" else "kernel gradients, shifted copies"
        return "image gradients"
    if origin.endswith("conv_general_dilated"):
        return "forward convolutions"
    return "batch norm, ReLU, sums, copies, update"


def main(network: str = "resnet20", count: int = 3) -> None:
    spec = {"network": network, "batch": 64, "train": True, "image": models.image_shape(network), "classes": 10,
            "conv": "ours", "devices": 1, "steps": 1, "dtype": "float32"}
    task = networks.task_of(spec)
    one = partial(steps.train_step, task.loss, optimizers.optimizer(task.config), 0.0)
    step = jax.pmap(one, in_axes=(None, 0), out_axes=None, axis_name=steps.AXIS)
    data, key = task.data().arrays, jax.random.key(0)
    batch = jax.tree.map(lambda x: x[None], task.get_batch(data, key, 0, 0, 1))
    state = states.create(task.config, task.init)
    compiled = step.lower(state, batch).compile()
    operations = {}
    for line in compiled.as_text().splitlines():
        if match := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = .*? ([a-z][\w\-]*)\(", line):
            origin = re.search(r'op_name="([^"]*)"', line)
            operations[match[1]] = (match[2], origin[1] if origin else "")
    for _ in range(2):
        state, loss = step(state, batch)
        jax.block_until_ready(loss)
    totals: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                state, loss = step(state, batch)
                jax.block_until_ready((state, loss))
        trace = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
        for plane in trace.planes:
            for line in plane.lines:
                for event in line.events:
                    opcode, origin = operations.get(event.name, ("while", ""))
                    if opcode not in ("while", "conditional", "call"):      # they hold others
                        totals[kind(opcode, origin)] += event.duration_ns / 1e6 / count
    whole = sum(totals.values())
    rows = [[name, f"{ms:.0f}", f"{100 * ms / whole:.0f} %"] for name, ms in totals.most_common()]
    tables.show(("part", "ms a step", "share"), [*rows, ["all", f"{whole:.0f}", "100 %"]],
                f"{network}, batch 64, one core")


if __name__ == "__main__":
    main(*sys.argv[1:])
