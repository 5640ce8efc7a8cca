"""Learning rate schedules, as multipliers of a base rate.

The base rate is an argument of the compiled step, the shape of the schedule is part of the program: a sweep over rates
compiles once.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnnjax.fields import COUNT, NATURAL, SHARE, Field, Fields

Schedule = Callable[[jax.Array], jax.Array]

FIELDS: Fields = {
    "name": Field("piecewise", "how the learning rate falls",
                  allowed=("piecewise", "cosine", "polynomial", "constant")),
    "boundaries": Field((0.5, 0.75), "of piecewise: where it falls, in shares of the run or steps: (32000, 48000)",
                        "(0, 2147483647]"),
    "factor": Field(0.1, "of piecewise: by which it falls at each boundary", "(0, 1]"),
    "power": Field(1.0, "of polynomial: of the share of the run that is left", "[0, 100]"),
    "warmup_steps": Field(0.0, "length of the warm-up, in steps, or under 1 a share of the run", NATURAL),
    "warmup_factor": Field(0.1, "of the learning rate, at which the warm-up starts", SHARE),
    "warmup": Field("linear", "climbs from the factor, or holds it until the warm-up ends",
                    allowed=("linear", "constant")),
    "scale": Field("none", "scales the learning rate with batch_size / reference_batch, or with its root",
                   allowed=("none", "linear", "sqrt")),
    "reference_batch": Field(128, "the batch size that optimizer.learning_rate is meant for", COUNT),
}
"""The group `schedule` of a config."""


def piecewise(boundaries: tuple[int, ...], factor: float) -> Schedule:
    """`factor**i` after `i` of the boundaries (in steps) are reached: He et al. 2015, section 4.2."""
    return lambda step: factor ** jnp.sum(step >= jnp.asarray(boundaries, jnp.int32)).astype(jnp.float32)


def cosine(steps: int) -> Schedule:
    """From 1 at step 0 to 0 at `steps` along half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    return lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1)))


def polynomial(steps: int, power: float) -> Schedule:
    """`(1 - step / steps)**power`: the rate of GoogLeNet's published solver, with power 0.5."""
    return lambda step: jnp.maximum(1 - step / steps, 0) ** power


def constant() -> Schedule:
    """Always 1."""
    return lambda step: jnp.ones((), jnp.float32)


def with_warmup(schedule: Schedule, steps: int, factor: float, kind: str) -> Schedule:
    """`schedule`, but for the first `steps`: "linear" climbs from `factor` to 1, "constant" holds `factor`.

    He et al. 2015 hold 0.1 for about 400 steps before training 110 layers.
    """
    def warm(step: jax.Array) -> jax.Array:
        held = factor if kind == "constant" else factor + (1 - factor) * step / steps
        return jnp.where(step < steps, held, schedule(step))
    return warm if steps else schedule


def batch_scale(kind: str, batch_size: int, reference: int) -> float:
    """What the rate is multiplied with when it was found for batches of `reference` images: `k` times as large a batch
    takes `k` times the rate ("linear": Goyal et al. 2017, section 2.1) or the root of that ("sqrt": Krizhevsky 2014,
    section 5)."""
    ratio = batch_size / reference
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[kind]


def at_step(when: float, steps: int) -> int:
    """A moment of a run of `steps`: a number under 1 is a share of the run, any other a step."""
    return round(when * steps) if when < 1 else int(when)


def from_config(config: ConfigDict, steps: int, batch_size: int) -> Schedule:
    """The schedule that a config's group `schedule` describes for a run of `steps`, its rate scaled to the batch."""
    schedules: dict[str, Callable[[], Schedule]] = {
        "piecewise": lambda: piecewise(tuple(at_step(b, steps) for b in config.boundaries), config.factor),
        "cosine": lambda: cosine(steps),
        "polynomial": lambda: polynomial(steps, config.power),
        "constant": constant,
    }
    schedule = with_warmup(schedules[config.name](), at_step(config.warmup_steps, steps), config.warmup_factor,
                           config.warmup)
    scale = batch_scale(config.scale, batch_size, config.reference_batch)
    return schedule if scale == 1 else lambda step: scale * schedule(step)
