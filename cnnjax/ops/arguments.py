"""Checks of the arguments of operations, made where a function is called and before anything is traced."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

Rule = tuple[str, Callable[[np.ndarray], Any]]
"""What is expected, in words, and whether an array holds it, number by number."""

COUNT: Rule = ("a whole number of at least 1", lambda x: (x.dtype.kind in "iu") & (x >= 1))
POSITIVE: Rule = ("a finite number over 0", lambda x: (x > 0) & np.isfinite(x))
SHARE: Rule = ("a number in [0, 1]", lambda x: (x >= 0) & (x <= 1))


def checked(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator by which the arguments of these names must be one or several numbers that their rule allows.

    Arrays of JAX are not looked at, traced or not: that would wait for the device. The decorated function raises
    ValueError that names the argument, what was found and what is expected.
    """
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        assert rules.keys() <= signature.parameters.keys()

        @wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            bound = signature.bind(*arguments, **named)
            for name, value in bound.arguments.items():
                if name in rules and not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
                    _check(f"{function.__name__}: {name}", value, *rules[name])
            return function(*arguments, **named)
        return call
    return decorate


def _check(name: str, value: Any, expected: str, allows: Callable[[np.ndarray], Any]) -> None:
    try:
        array = np.asarray(value)
        fine = array.dtype.kind in "iuf" and array.size > 0 and bool(np.all(allows(array)))
    except ValueError:                      # tuples of several lengths
        fine = False
    if not fine:
        raise ValueError(f"{name}: found {value!r}, expected {expected}")
