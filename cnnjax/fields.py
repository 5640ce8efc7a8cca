"""Hyperparameters declared once, as fields of a frozen dataclass: default, type, what is allowed, a line of help."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from cnnjax import config as configs
from cnnjax.errors import UserError

COUNT = "[1, 2147483647]"
SHARE = "[0, 1]"
POSITIVE = "(0, 3e38]"
NATURAL = "[0, 3e38]"
"""Intervals that many fields have."""


def setting(default: Any, allowed: str | tuple[str, ...] = "", text: str = "", length: int | None = None) -> Any:
    """A field of a dataclass. `allowed` is an interval such as "(0, 1]", of each item where the default is a tuple, or
    the choices; `length` that of a tuple, 0 for any but an empty one; `text` says what it is."""
    return dataclasses.field(default=default, metadata={"allowed": allowed, "text": text, "length": length})


T = TypeVar("T")


def replace(default: T, values: Mapping[str, Any], prefix: str = "model.") -> T:
    """A dataclass with other values in some of its fields, checked: lists become tuples, and a mapping is the fields of
    a field that is itself a dataclass. Raises UserError as `check` does."""
    check(default, values, prefix)
    made: dict[str, Any] = {}
    for name, value in values.items():
        grouped = hasattr(value, "items")
        made[name] = replace(getattr(default, name), value, f"{prefix}{name}.") if grouped else _tuples(value)
    return dataclasses.replace(default, **made)                         # type: ignore[type-var]


def check(default: Any, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises UserError for a field that the dataclass `default` has not, and for a value of another type than it has
    there or that is not allowed; it names the field after `prefix`, what was found and what was expected."""
    known = {field.name: field for field in dataclasses.fields(default)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"config has no field '{prefix}{name}'{configs.nearest(name, known)}")
        expected, metadata = getattr(default, name), known[name].metadata
        if dataclasses.is_dataclass(expected) and hasattr(value, "items"):
            check(expected, value, f"{prefix}{name}.")
        elif not dataclasses.is_dataclass(value):
            _check_value(prefix + name, _tuples(value), expected, metadata)


def _check_value(field: str, value: Any, expected: Any, metadata: Mapping[str, Any]) -> None:
    kind = type(expected)
    if not configs.is_of(value, kind):
        raise UserError(f"config field {field!r}: found {value!r}, expected {kind.__name__}")
    items = value if isinstance(value, tuple) else (value,)
    kind = type(expected[0]) if isinstance(expected, tuple) and expected else type(None) if expected == () else kind
    if expected != () and not all(configs.is_of(item, kind) for item in items):
        raise UserError(f"config field {field!r}: found {value!r}, expected items of type {kind.__name__}")
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise UserError(f"config field {field!r}: found {value!r}, expected a finite number")
    length = metadata.get("length")
    if length is not None and (len(items) != length if length else not items):
        raise UserError(f"config field {field!r}: found {value}, expected {length or 'some'} numbers")
    allowed = metadata.get("allowed")
    if isinstance(allowed, tuple) and value not in allowed:
        raise UserError(f"config field {field!r}: found {value!r}, expected {' or '.join(allowed)}"
                        f"{configs.nearest(value, allowed)}")
    if isinstance(allowed, str) and allowed:
        configs.require({field: value}, {field: allowed})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
