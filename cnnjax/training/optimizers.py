"""The optimizer of a run: SGD as the papers have it, or one of optax by its name."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cnnjax.config import is_of, nearest
from cnnjax.errors import UserError, one_line
from cnnjax.fields import ANY, COUNT, Field, Fields
from cnnjax.training import schedules

FIELDS: Fields = {
    "name": Field("sgd", "sgd, or an optimizer of optax such as adamw or lars, whose fields may be set beside"),
    "learning_rate": Field(0.1, "the base of the schedule", "[0, 3e38]"),
    "momentum": Field(0.9, "of SGD, and of those of optax that have it", "[0, 1)"),
    "nesterov": Field(False, "whether the momentum is Nesterov's"),
    "weight_decay": Field(1e-4, "of the parameters that `decay` says", "[0, 3e38]"),
    "decay": Field("all", "which parameters decay: all, as He et al. 2015, or kernels: no biases and no norms",
                   allowed=("all", "kernels")),
    "clip_norm": Field(0.0, "norm to which the gradient is clipped; 0: it is not", "[0, 3e38]"),
    "label_smoothing": Field(0.0, "share of a label that goes to all classes alike", "[0, 1)"),
    "ema": Field(0.0, "decay of the averaged parameters that are evaluated; 0: none", "[0, 1)"),
    "accumulate": Field(1, "parts of a device's batch that are computed one after the other", COUNT),
    "factors": Field((), "pairs of a beginning of parameters' paths and the factor of their learning rate"),
    ANY: Field(None, "fields of the optimizer in optax"),
}
"""The group `optimizer` of a config."""

Optimizer = Callable[[dict[str, jax.Array]], optax.GradientTransformation]
"""Of the hyperparameters, which are arguments of the compiled step, not constants in it."""


def optimizer(config: ConfigDict) -> Optimizer:
    """The optimizer of a config with the groups `optimizer` and `schedule`.

    "sgd" adds the weight decay to the gradient before the momentum, as He et al. 2015 do; `clip_norm` clips the
    gradient before that. One of optax is given the learning rate, and of momentum, nesterov and weight_decay what it
    has. Raises UserError naming the field.
    """
    group = config.optimizer
    schedule = schedules.from_config(config.schedule, config.steps, config.batch_size)
    clip = [optax.clip_by_global_norm(group.clip_norm)] if group.clip_norm else []
    mask = _kernels if group.decay == "kernels" else None
    own = {name: value for name, value in group.items() if name not in FIELDS}
    known = _parameters(group.name, own, group)

    def make(hyper: dict[str, jax.Array]) -> optax.GradientTransformation:
        def rate(step: jax.Array) -> jax.Array:
            return hyper["learning_rate"] * schedule(step)

        if group.name == "sgd":
            steps = [optax.add_decayed_weights(hyper["weight_decay"], mask),
                     optax.trace(hyper["momentum"], nesterov=group.nesterov),
                     optax.scale_by_schedule(lambda step: -rate(step))]
        else:
            given = {"momentum": hyper["momentum"], "nesterov": group.nesterov, "weight_decay": hyper["weight_decay"],
                     **dict.fromkeys(("mask", "weight_decay_mask"), mask)}
            steps = [getattr(optax, group.name)(
                rate, **own, **{name: value for name, value in given.items() if name in known and value is not None})]
        return optax.chain(*clip, *steps, *([_scaled(group.factors)] if group.factors else []))
    return make


def check(config: ConfigDict, prefix: str = "") -> None:
    """Raises UserError naming the field for an optimizer that cannot be made; `prefix` as in `config.check_values`."""
    for pair in config.optimizer.factors:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and is_of(pair[1], float) and
                pair[1] >= 0):
            raise UserError(f"config field '{prefix}optimizer.factors': found {pair!r}, expected pairs of the "
                            "beginning of a path and a factor, such as (('fc/', 10.0),)")
    try:
        jax.eval_shape(partial(_first_update, config), {"layer": {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}})
    except UserError as error:
        raise UserError(str(error).replace("config field '", f"config field '{prefix}")) from error
    except Exception as error:      # whatever an optimizer of optax makes of its fields
        raise UserError(f"config field '{prefix}optimizer': {config.optimizer.name} as set cannot be made "
                        f"({type(error).__name__}: {one_line(error)[:200]})") from error


def _first_update(config: ConfigDict, params: Any) -> Any:
    hyper = {name: jnp.float32(config.optimizer[name]) for name in ("learning_rate", "momentum", "weight_decay")}
    made = optimizer(config)(hyper)
    return made.update(params, made.init(params), params)


def _parameters(name: str, own: dict[str, Any], group: ConfigDict) -> set[str]:
    """What the optimizer `name` of optax is given by name. Raises UserError for a name or field that is not there, and
    for a field that would be without effect."""
    if name == "sgd":
        if own:
            field = f"optimizer.{next(iter(own))}"
            raise UserError(f"config field {field!r}: sgd has no such field"
                            f"{nearest(field, [f'optimizer.{name}' for name in FIELDS if name != ANY])}")
        return set()
    makers = of_optax()
    if name not in makers:
        raise UserError(f"config field 'optimizer.name': found {name!r}, expected sgd or one of optax: "
                        f"{', '.join(makers)}")
    known = makers[name]
    for field in own:
        if field not in known:
            raise UserError(f"config field 'optimizer.{field}': {name} has no such field{nearest(field, known)}")
    for field in ("momentum", "nesterov", "weight_decay"):
        if field not in known and group[field] not in (FIELDS[field].default, 0):
            raise UserError(f"config field 'optimizer.{field}': found {group[field]}, but {name} has none; leave it "
                            "out")
    if group.decay != "all" and not known & {"mask", "weight_decay_mask"}:
        raise UserError(f"config field 'optimizer.decay': found {group.decay!r}, but {name} cannot leave parameters "
                        "out")
    return known


@cache
def of_optax() -> dict[str, set[str]]:
    """The optimizers of optax by name, and what each is given by name."""
    makers = {name: set(inspect.signature(make).parameters) for name, make in
              inspect.getmembers(optax, inspect.isfunction) if not name.startswith("_")}
    return {name: fields for name, fields in makers.items() if "learning_rate" in fields and name != "sgd"}


def _kernels(params: Any) -> Any:
    """Which parameters are kernels, or a norm's neither scale nor bias: a tree of bools."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _scaled(factors: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    """Multiplies the updates of parameters whose path begins with one of `factors`; of several the longest counts."""
    def factor(path: Any) -> float:
        name = "/".join(key.key for key in path)
        return max(((prefix, value) for prefix, value in factors if name.startswith(prefix)),
                   key=lambda pair: len(pair[0]), default=("", 1.0))[1]
    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(
        lambda path, update: factor(path) * update, updates))
