"""Search spaces: which values of a config's fields a sweep may try.

A config file says so by `space()`, which gives distributions of Optuna by the names of fields, or by `space(trial)`,
which asks a trial for values as Optuna's users write it, and may ask for one only where another was drawn.
"""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
from ml_collections import ConfigDict
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from cnnjax import config as configs
from cnnjax.errors import UserError

R = TypeVar("R")

Values = Mapping[str, Any]
"""Values by the dotted name of a config's field."""

Space = Mapping[str, BaseDistribution] | Callable[[optuna.Trial], Values | None]
"""Distributions by the dotted name of a field, or a function that suggests values under such names, or returns them."""

DRAWS = 64
"""Points of a space that are looked at before anything is trained."""


def load(path: Path) -> Space:
    """The space of a config file. Raises UserError for a file that has none."""
    function = configs.load_function(path, "space")
    with configs.user_code(path):
        if not inspect.signature(function).parameters:
            return function()

    @functools.wraps(function)
    def suggest(trial: optuna.Trial) -> Values | None:
        with configs.user_code(path, passing=optuna.exceptions.OptunaError):    # pruned, or taken over meanwhile
            return function(trial)
    return suggest


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """A value for each field of the space; what was suggested to the trial before stays. Raises UserError for a space
    that gives no values of fields."""
    if callable(space):
        found = space(trial)
        if not isinstance(found, Mapping | None):
            raise UserError(f"space(trial) gave {type(found).__name__}, expected nothing, or a mapping from names of "
                            "fields to values")
        # Beside the values that it works out itself, a space may suggest others by the names of their fields.
        values = {name: v for name, v in trial.params.items() if found is None or "." in name} | dict(found or {})
        if not values:
            raise UserError("space(trial) suggests no value of a field")
        return values
    values = {}
    for field, d in space.items():
        if isinstance(d, CategoricalDistribution):
            values[field] = trial.suggest_categorical(field, d.choices)
        elif isinstance(d, IntDistribution):
            values[field] = trial.suggest_int(field, d.low, d.high, step=d.step, log=d.log)
        else:
            assert isinstance(d, FloatDistribution)
            values[field] = trial.suggest_float(field, d.low, d.high, step=d.step, log=d.log)
    return values


def trial_config(config: ConfigDict, values: Values) -> ConfigDict:
    """The config of a trial: what `cnnjax train` would be given. Raises UserError for an unknown field or a value of
    another type."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        del own.sweep
    for field, value in values.items():
        if not isinstance(field, str):
            raise UserError(f"the space has the name {field!r}, expected the dotted name of a field")
        configs.set_field(own, field, str(value))
    return own


def draws(space: Space, fixed: Values | None = None) -> Iterator[tuple[dict[str, BaseDistribution], dict[str, Any]]]:
    """Distributions and values of up to DRAWS random points of a space, the same ones at each call; with `fixed` those
    that have these values. Points that the space itself prunes are left out."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(DRAWS):
        if fixed:
            study.enqueue_trial(dict(fixed))
        trial = study.ask()
        with contextlib.suppress(optuna.TrialPruned):
            values = suggest(trial, space)
            yield trial.distributions, values


def to_json(space: Space) -> dict[str, Any]:
    """What tells whether a space is the same one: its distributions, of a function those of its `draws`."""
    if not callable(space):
        return {field: distribution_to_json(d) for field, d in space.items()}
    seen: dict[str, set[str]] = {}
    for distributions, _ in draws(space):
        for name, d in distributions.items():
            seen.setdefault(name, set()).add(distribution_to_json(d))
    return {name: sorted(several) for name, several in seen.items()}


def check(config: ConfigDict, space: Space, quick: Callable[[ConfigDict], object],
          whole: Callable[[ConfigDict], R]) -> R:
    """What `whole` gives for some config of the space; both checks raise UserError for a config that cannot be run.

    Raises UserError for a config that cannot be run as it stands, and for a space that is invalid: an unknown field,
    a value of another type, or an end of a range that belongs to no config that can be run. That some values do not go
    together is found when their trial comes.
    """
    if not callable(space):
        _check_mapping(space)
    quick(trial_config(config, {}))
    for field, value in _ends(space):
        only = {field: value}
        trial_config(config, only)
        try:
            _first(config, quick, itertools.chain([only], (values for _, values in draws(space, only))))
        except UserError as error:
            raise UserError(f"{error}; nothing in the space goes with {field}={value!r} (fields that only some values "
                            "have need a space(trial))") from error
    points = [values for _, values in draws(space)]
    for values in points:
        trial_config(config, values)                    # what it refuses is the space's own mistake
    return _first(config, whole, points)


def _check_mapping(space: Mapping[Any, Any]) -> None:
    if not isinstance(space, Mapping):
        raise UserError(f"the config file's space() gave {type(space).__name__}, expected a mapping from names of "
                        "fields to distributions")
    if not space:
        raise UserError("the config file's space() is empty: it maps names of fields to distributions")
    for field, distribution in space.items():
        if not isinstance(distribution, CategoricalDistribution | FloatDistribution | IntDistribution):
            raise UserError(f"space() has {type(distribution).__name__} for {field!r}, expected one of "
                            "optuna.distributions")


def _ends(space: Space) -> Iterator[tuple[str, Any]]:
    """The fields of a mapping with the ends of their ranges, or all their choices."""
    for field, distribution in {}.items() if callable(space) else space.items():
        if isinstance(distribution, CategoricalDistribution):
            yield from ((field, value) for value in distribution.choices)
        else:
            yield from ((field, getattr(distribution, end)) for end in ("low", "high"))


def _first(config: ConfigDict, check: Callable[[ConfigDict], R], points: Iterable[Values]) -> R:
    """What `check` gives for the first of these points that can be run; where none can, why the first cannot."""
    reason = None
    for values in points:
        try:
            return check(trial_config(config, values))
        except UserError as error:
            reason = reason or error
    raise reason or UserError("space(trial) prunes every trial")


def grid(space: Space) -> list[dict[str, Any]]:
    """All combinations of the values of a space, the last field fastest. Raises UserError for a range without steps."""
    if callable(space):
        raise UserError("config field 'sweep.sampler': found 'grid', which needs a space() that gives distributions; "
                        "for a space(trial) choose tpe or random")
    _check_mapping(space)
    axes = []
    for field, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            axes.append(list(distribution.choices))
        elif distribution.step is None or distribution.log:                             # type: ignore[attr-defined]
            raise UserError(f"space() has a range without steps for {field!r}: a grid needs a step or a "
                            "CategoricalDistribution of values")
        else:
            low, high, step = (getattr(distribution, name) for name in ("low", "high", "step"))
            axes.append([low + i * step for i in range(round((high - low) / step) + 1)])
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
