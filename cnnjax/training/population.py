"""Populations: several networks trained in one program, of other seeds or other continuous hyperparameters.

A population's state is its members' states stacked along a first axis, and its step is `vmap` of the step. Member by
member it computes what a run alone computes. A row of a population holds each number as the mean over the members, and
as each member's: `{"loss": ..., "loss/0": ..., "loss/1": ...}`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax.config import is_of
from cnnjax.errors import UserError
from cnnjax.training.state import HYPERPARAMETERS


def members(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the `config.population` members, each that of a run alone.

    They differ in what `config.members` lists a value each for, a seed or one of the HYPERPARAMETERS; where it lists
    nothing they take the seeds from `config.seed` on. Raises UserError for a list of another length.
    """
    count = config.population
    if count < 1:
        raise UserError(f"config field 'population': found {count}, expected at least 1")
    names = ("seed", *HYPERPARAMETERS)
    lists = {name: tuple(config.members[name]) for name in names if len(config.members[name])}
    for name, values in lists.items():
        if len(values) != count:
            raise UserError(f"config field 'members.{name}': found {len(values)} values, expected population = {count}")
        if not all(is_of(value, int if name == "seed" else float) for value in values):
            raise UserError(f"config field 'members.{name}': found {values}, expected "
                            f"{'whole numbers' if name == 'seed' else 'numbers'}")
    if not lists:
        lists = {"seed": tuple(range(config.seed, config.seed + count))} if count > 1 else {}
    if "seed" in lists and len(set(lists["seed"])) > 1 and config.get("data", {}).get("validation"):
        raise UserError("config field 'data.validation': each seed holds other images out, and a population shares its "
                        "images; set it to 0 or give all members one seed")
    result = []
    for i in range(count):
        own = config.copy_and_resolve_references()
        own.population = 1
        with own.ignore_type():
            own.members = ConfigDict(dict.fromkeys(names, ()))
        for name, values in lists.items():
            if name == "seed":
                own.seed = values[i]
            else:
                own.optimizer[name] = float(values[i])
        result.append(own)
    return result


def together() -> bool:
    """Whether a population is one program here. On a CPU its members run one after the other: convolutions with a
    kernel for each member become grouped ones there, which are slower than one at a time (docs/scaling.md)."""
    return jax.default_backend() != "cpu"


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose leaves have the members along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree: Any, i: int) -> Any:
    """The tree of member `i` of a stacked one."""
    return jax.tree.map(lambda leaf: leaf[i], tree)


def named(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Metrics of shape (members,) as scalars: the mean over the members that are still numbers, and each's."""
    alive = jnp.stack([jnp.isfinite(values) for values in metrics.values()]).all(0)
    result = {}
    for key, values in metrics.items():
        result[key] = jnp.where(alive, values, 0).sum() / alive.sum()
        result |= {f"{key}/{i}": values[i] for i in range(len(values))}
    return result


def merged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the members' rows of one split."""
    result: dict[str, Any] = {"split": rows[0]["split"]}
    for key in rows[0]:
        if key == "split":
            continue
        values = [row[key] for row in rows]
        if isinstance(values[0], float):
            result[key] = float(np.mean([v for v in values if np.isfinite(v)] or [np.nan]))
        result |= {f"{key}/{i}": value for i, value in enumerate(values)}
    return result


def row_of(row: dict[str, Any], i: int) -> dict[str, Any]:
    """The row of member `i`, as its run alone has it but for the rate, which is a matter of its config."""
    own = {key.removesuffix(f"/{i}"): value for key, value in row.items() if key.endswith(f"/{i}")}
    return {key: own.get(key, row[key]) for key in row if "/" not in key} | own
