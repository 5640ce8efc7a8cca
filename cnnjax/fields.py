"""Config fields declared once: default, type, allowed values and a line of help, from which configs, their checks and
their table come. A dataclass declares its fields by `setting`, other groups are mappings of `Field`s."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.errors import UserError

COUNT, NATURAL = "[1, 2147483647]", "[0, 2147483647]"
"""Of what is counted in int32, such as steps."""

SHARE, POSITIVE, NOT_NEGATIVE = "[0, 1]", "(0, 3e38]", "[0, 3e38]"

ANY = "*"
"""In a group, stands for fields of any name: those of what the group's `name` says."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a config: its default, whose type is the field's, and what it means.

    `allowed` is the interval of a number, such as "[0, 1)", or of each of a tuple; or the choices of a text. `length`
    is that of a tuple, 0 for any but an empty one.
    """

    default: Any
    help: str
    allowed: str | tuple[str, ...] = ""
    length: int | None = None


Fields = Mapping[str, Any]
"""Declared fields: a `Field` by name, or the `Fields` of a group."""


def setting(default: Any, allowed: str | tuple[str, ...] = "", text: str = "", length: int | None = None) -> Any:
    """A `Field` of a dataclass."""
    return dataclasses.field(default=default, metadata={"field": Field(default, text, allowed, length)})


def of_dataclass(default: Any) -> dict[str, Any]:
    """The declared fields of a dataclass, with the values that `default` has as their defaults."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = of_dataclass(value)
        else:
            declared = field.metadata.get("field", Field(value, field.name.replace("_", " ")))
            found[field.name] = dataclasses.replace(declared, default=_tuples(value))
    return found


def declared(fields: Fields, prefix: str = "") -> dict[str, Field]:
    """The declared fields by dotted name, ANY left out."""
    found: dict[str, Field] = {}
    for name, of in fields.items():
        if name != ANY:
            found |= {prefix + name: of} if isinstance(of, Field) else declared(of, f"{prefix}{name}.")
    return found


def defaults(fields: Fields) -> ConfigDict:
    """The config of declared fields at their defaults."""
    return ConfigDict({name: of.default if isinstance(of, Field) else defaults(of) for name, of in fields.items()
                       if name != ANY})


def check_values(config: Any, fields: Fields, prefix: str = "") -> None:
    """Refuses a value that its field does not allow, of the declared fields that `config` has.

    `prefix` is what the config's fields are called by before their name. Raises UserError naming the field, what was
    found and what was expected.
    """
    found = configs.flatten(config)
    for name, field in declared(fields).items():
        if name in found:
            _check_allowed(prefix + name, found[name], field)


def _check_allowed(name: str, value: Any, field: Field) -> None:
    items = value if isinstance(value, tuple) else (value,)
    if field.length is not None and (len(items) != field.length if field.length else not items):
        raise UserError(f"config field {name!r}: found {value}, expected {field.length or 'some'} numbers")
    if isinstance(field.allowed, tuple):
        if value not in field.allowed:
            *others, last = field.allowed
            raise UserError(f"config field {name!r}: found {value!r}, expected {', '.join(others)} or {last}"
                            f"{configs.nearest(str(value), field.allowed)}")
    elif field.allowed:
        configs.require({name: value}, {name: field.allowed})


def describe(config: ConfigDict, fields: Fields) -> list[list[str]]:
    """A row for each field of a config, in the order of their declaration: its name, value, default where that differs,
    allowed values, meaning."""
    known, found, rows = declared(fields), configs.flatten(config), []
    for name in [*(name for name in known if name in found), *(name for name in found if name not in known)]:
        value = found[name]
        field = known.get(name, Field(value, "of what the group's name says"))
        kind = {bool: "True or False", str: "text", tuple: "a tuple"}.get(type(field.default),
                                                                          type(field.default).__name__)
        interval = " ".join(field.allowed) if isinstance(field.allowed, tuple) else field.allowed.replace(
            ", 2147483647]", ", ...)").replace(", 3e38]", ", ...)")
        rows.append([name, repr(value), "" if value == field.default else repr(field.default), interval or kind,
                     field.help])
    return rows


# Dataclasses

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
        expected = getattr(default, name)
        if dataclasses.is_dataclass(expected) and hasattr(value, "items"):
            check(expected, value, f"{prefix}{name}.")
        elif not dataclasses.is_dataclass(value):
            _check_type(prefix + name, _tuples(value), expected)
            _check_allowed(prefix + name, _tuples(value), known[name].metadata.get("field", Field(expected, "")))


def _check_type(field: str, value: Any, expected: Any) -> None:
    kind = type(expected)
    if not configs.is_of(value, kind):
        raise UserError(f"config field {field!r}: found {value!r}, expected {kind.__name__}")
    items = value if isinstance(value, tuple) else (value,)
    kind = type(expected[0]) if isinstance(expected, tuple) and expected else kind
    if expected != () and not all(configs.is_of(item, kind) for item in items):
        raise UserError(f"config field {field!r}: found {value!r}, expected items of type {kind.__name__}")
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise UserError(f"config field {field!r}: found {value!r}, expected a finite number")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
