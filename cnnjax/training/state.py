"""The training state (parameters, optimizer state, batch statistics, step), its random keys and its learning rate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cnnjax.config import nearest
from cnnjax.errors import UserError
from cnnjax.training import schedules
from cnnjax.training.optimizers import optimizer
from cnnjax.training.task import Variables

HYPERPARAMETERS = ("learning_rate", "momentum", "weight_decay", "label_smoothing")
"""Fields of `config.optimizer` that are arguments of the compiled step, not constants in it."""


@struct.dataclass
class State:
    """All that the rest of a run depends on. A pytree: it is what a checkpoint holds."""

    step: jax.Array                 # int32, steps done
    seed: jax.Array                 # uint32; every random key of the run is folded out of it
    params: Any                     # those that are trained
    frozen: Any                     # those that are not: no optimizer, decay or average touches them
    model_state: Any                # other collections of the network, such as batch_stats
    opt_state: Any
    ema: Any                        # averaged parameters, or None
    hyper: dict[str, jax.Array]     # HYPERPARAMETERS, float32


def create(config: ConfigDict, init: Callable[[jax.Array], Variables], frozen: Sequence[str] = ()) -> State:
    """The state at step 0 of a run of `config.seed`. `init(key)` gives the network's variables, of whose parameters
    those whose path begins with one of `frozen` are not trained."""
    # Copied: the step overwrites what it is given, and these may be kept elsewhere.
    variables = jax.tree.map(jnp.array, dict(init(stream(jax.random.key(jnp.uint32(config.seed)), "init"))))
    params, held = split(variables["params"], frozen)
    hyper = {name: jnp.float32(config.optimizer[name]) for name in HYPERPARAMETERS}
    return State(
        step=jnp.int32(0), seed=jnp.uint32(config.seed), params=params, frozen=held,
        model_state={name: tree for name, tree in variables.items() if name != "params"},
        opt_state=optimizer(config)(hyper).init(params),
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema else None, hyper=hyper,
    )


def split(params: Mapping[str, Any], frozen: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters to train, and those whose path, such as `stage1/conv1/kernel`, begins with one of `frozen`.

    Raises UserError for a beginning that no parameter has.
    """
    if not frozen:
        return dict(params), {}
    leaves = flatten_dict(dict(params), sep="/")
    for prefix in frozen:
        if not any(path.startswith(prefix) for path in leaves):
            raise UserError(f"no parameter begins with {prefix!r}, which is to be frozen{nearest(prefix, leaves)}")
    held = {path: leaf for path, leaf in leaves.items() if path.startswith(tuple(frozen))}
    trained = {path: leaf for path, leaf in leaves.items() if path not in held}
    return unflatten_dict(trained, sep="/"), unflatten_dict(held, sep="/")


def merge(params: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split`."""
    both = dict(params)
    for name, value in frozen.items():
        both[name] = merge(both[name], value) if name in both else value
    return both


def variables(state: State, *, averaged: bool = True) -> dict[str, Any]:
    """The network's variables in a state: with the averaged parameters, if there are any and `averaged` holds."""
    params = state.ema if averaged and state.ema is not None else state.params
    return {"params": merge(params, state.frozen), **state.model_state}


def rate_function(config: ConfigDict) -> schedules.Schedule:
    """The learning rate as a function of the step that it is taken at."""
    schedule = schedules.from_config(config.schedule, config.steps, config.batch_size)
    return lambda step: config.optimizer.learning_rate * schedule(step)


def rate(config: ConfigDict, step: int) -> float:
    """The learning rate of the step that is taken at `step`."""
    return float(rate_function(config)(jnp.int32(step)))


STREAMS = ("init", "order", "augment", "dropout")


def stream(key: jax.Array, name: str) -> jax.Array:
    """The random key of one of the STREAMS of a run's key: none of them depends on what the others drew."""
    return jax.random.fold_in(key, STREAMS.index(name))
