"""How a population of four seeds is trained fastest on this machine: by vmap, by lax.map in one program, or in turn.

    python scripts/bench_population.py [--config.model.width=8 ...]

Steps of the three ways are timed in turn, round by round; each prints its median time of a step of all members, and its
ratio to "in turn". The networks are of 8 layers on the digits, since three programs are compiled.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np

from cnnjax import classification
from cnnjax import config as configs
from cnnjax.training import optimizers, population
from cnnjax.training import state as states
from cnnjax.training import step as steps

ROUNDS, MEMBERS = 5, 4


def main(*arguments: str) -> None:
    root = Path(__file__).parent.parent
    config = configs.load(root / "configs" / "train" / "digits.py", [
        "model.blocks=(1,1,1)", f"population={MEMBERS}", *(a.removeprefix("--config.") for a in arguments)])
    members = population.members(config)
    task, optimizer = classification.task(members[0]), optimizers.optimizer(config)
    data = steps.replicate(task.data().arrays)

    def step(state: states.State, data: dict[str, jax.Array]) -> states.State:
        batch = task.get_batch(data, jax.random.key(state.seed), state.step, jax.lax.axis_index(steps.AXIS),
                               jax.lax.axis_size(steps.AXIS))
        return steps.train_step(task.loss, optimizer, 0.0, state, batch)[0]

    def mapped(over_members):
        return jax.pmap(lambda state, data, nothing: over_members(lambda s: step(s, data), state), axis_name=steps.AXIS,
                        in_axes=(None, None, 0), out_axes=None)
    nothing = np.zeros(jax.local_device_count())
    alone = mapped(lambda f, state: f(state))
    together = {"vmap": mapped(lambda f, state: jax.vmap(f)(state)), "lax.map": mapped(jax.lax.map)}

    lone = [steps.replicate(states.create(member, task.init)) for member in members]
    stacked = dict.fromkeys(together, steps.replicate(population.stack(lone)))
    times: dict[str, list[float]] = {"in turn": [], "vmap": [], "lax.map": []}
    for _ in range(ROUNDS + 1):                         # the first round compiles
        for name in times:
            began = time.perf_counter()
            if name == "in turn":
                lone = [alone(state, data, nothing) for state in lone]
                jax.block_until_ready(lone)
            else:
                stacked[name] = jax.block_until_ready(together[name](stacked[name], data, nothing))
            times[name].append(time.perf_counter() - began)

    for name, state in stacked.items():
        for i, own in enumerate(lone):
            for a, b in zip(jax.tree.leaves(dataclasses.replace(own, seed=0).params),
                            jax.tree.leaves(population.member(state.params, i)), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-2, err_msg=name)       # the same members, after six steps
    base = statistics.median(times["in turn"][1:])
    print(f"{jax.devices()[0].device_kind}, {jax.default_backend()}: a step of {MEMBERS} members of "
          f"{dict(config.model)}, {config.batch_size} images each, medians of {ROUNDS}")
    for name, seconds in times.items():
        median = statistics.median(seconds[1:])
        print(f"  {name:8} {1000 * median:8.1f} ms  {median / base:.2f} of in turn; first call {seconds[0]:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
