"""What a training run is made of between two steps, and the optimizer that moves it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from cnnjax.training import schedules

HYPERPARAMETERS = ("learning_rate", "momentum", "weight_decay", "label_smoothing")
"""Fields of `config.optimizer` that are arguments of the compiled step, not constants in it."""


@struct.dataclass
class State:
    """All that the rest of a run depends on. A pytree: it is what a checkpoint holds."""

    step: jax.Array                 # int32, steps done
    seed: jax.Array                 # uint32; every random key of the run is folded out of it
    params: Any
    model_state: Any                # other collections of the network, such as batch_stats
    opt_state: Any
    ema: Any                        # averaged parameters, or None
    hyper: dict[str, jax.Array]     # HYPERPARAMETERS, float32


Optimizer = Callable[[dict[str, jax.Array]], optax.GradientTransformation]


def optimizer(config: ConfigDict) -> Optimizer:
    """SGD with momentum by a config with the groups `optimizer` and `schedule`, as a function of the hyperparameters.

    Weight decay is added to the gradient before the momentum and acts on every parameter, as in He et al. 2015;
    `clip_norm` clips the gradient before that.
    """
    schedule = schedules.from_config(config.schedule, config.steps, config.batch_size)
    clip = [optax.clip_by_global_norm(config.optimizer.clip_norm)] if config.optimizer.clip_norm else []

    def make(hyper: dict[str, jax.Array]) -> optax.GradientTransformation:
        return optax.chain(
            *clip,
            optax.add_decayed_weights(hyper["weight_decay"]),
            optax.trace(hyper["momentum"], nesterov=config.optimizer.nesterov),
            optax.scale_by_schedule(lambda step: -hyper["learning_rate"] * schedule(step)),
        )
    return make


def create(config: ConfigDict, init: Callable[[jax.Array], tuple[Any, Any]]) -> State:
    """The state at step 0. `init(key)` gives parameters and the network's other collections."""
    hyper = {name: jnp.float32(config.optimizer[name]) for name in HYPERPARAMETERS}
    seed = jnp.uint32(config.seed)
    params, model_state = jax.jit(lambda seed: init(stream(seed, "init")))(seed)
    return State(
        step=jnp.int32(0), seed=seed, params=params, model_state=model_state,
        opt_state=optimizer(config)(hyper).init(params),
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema else None, hyper=hyper,
    )


def rate(config: ConfigDict, step: int) -> float:
    """The learning rate of the step that is taken at `step`."""
    schedule = schedules.from_config(config.schedule, config.steps, config.batch_size)
    return float(config.optimizer.learning_rate * schedule(jnp.int32(step)))


STREAMS = ("init", "order", "augment", "dropout")


def stream(seed: jax.Array | int, name: str) -> jax.Array:
    """The random key of one of the STREAMS of a run's seed: none of them depends on what the others drew."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))
