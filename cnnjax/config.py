"""Config files and the overrides of the command line: read, checked by name and type, compared."""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnnjax.errors import UserError, one_line

PATHS = ("path", "cache", "weights")
"""The names, in any group, of the fields that hold a path, in which `load` expands `~`."""


RENAMED = {
    "proposals.smallest": "proposals.min_size",
    "proposals.most": "proposals.max_proposals",
    "test.most": "test.max_detections",
    "rcnn.test.most": "rcnn.test.max_detections",
    "sppnet.test.most": "sppnet.test.max_detections",
    "faster_rcnn.smallest": "faster_rcnn.min_size",
    **{f"faster_rcnn.proposals_{part}.{old}": f"faster_rcnn.proposals_{part}.{new}" for part in ("train", "test")
       for old, new in (("before", "pre_nms_top_n"), ("after", "post_nms_top_n"))},
}
"""Fields that were called otherwise up to version 0.1: config files, overrides and spaces may have the old names, and
that they are old is said."""

RENAMED_PACKAGES = {"configs": "cnnjax.configs", "experiments": "cnnjax.experiments"}
"""Packages that config files imported by other names up to version 0.1, likewise."""

OPEN = ("model", "optimizer")
"""Groups that have fields of any name beside those declared: of what the group's `name` says."""


def user_path(path: str | Path) -> Path:
    """A path that the user gives: `~` and `~name` at its beginning stand for home folders, as in a shell."""
    return Path(os.path.expanduser(path))


def cache_directory() -> Path:
    """The one folder for what can be made again: `CNNJAX_CACHE`, or `cnnjax` in the user's cache directory."""
    return user_path(os.environ.get("CNNJAX_CACHE") or
                     Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "cnnjax")


def load(path: str | Path, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config that `get_config()` of the Python file `path` gives, or the one a JSON file holds, such as a run's
    config.json, with `a.b=value` overrides set on it and `~` in its PATHS expanded.

    Raises UserError for a file that is missing or has no `get_config`, and for an override whose field is unknown or
    whose value is not of the field's type.
    """
    path = user_path(path)
    if path.suffix == ".json" and path.is_file():
        try:
            config = from_json(path.read_text())
        except ValueError as error:
            raise UserError(f"config file {path} is not a JSON object: {error}") from error
    else:
        config = call(path, "get_config")
        if not isinstance(config, ConfigDict):
            raise UserError(f"config file {path}: get_config() gave {type(config).__name__}, expected a ConfigDict")
    for old, new in RENAMED.items():
        *parents, name = old.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, ConfigDict) else None
        if isinstance(node, ConfigDict) and name in node:
            _tell_renamed(old)
            with node.unlocked():
                node[new.split(".")[-1]] = node[name]
                del node[name]
    for override in overrides:
        field, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--config.{field}: expected --config.{field}=VALUE")
        set_field(config, field, text)
    for field, value in flatten(config).items():
        *groups, name = field.split(".")
        if name in PATHS and isinstance(value, str) and value.startswith("~"):
            functools.reduce(ConfigDict.__getitem__, groups, config)[name] = str(user_path(value))
    return config


@functools.cache                # once, however many trials of a sweep set it
def _tell_renamed(field: str) -> None:
    print(f"config field {field!r} is called {RENAMED[field]!r} now: the next version will not know its old name",
          file=sys.stderr)


def call(path: Path, name: str) -> Any:
    """What the function `name` of the Python file `path` gives. Raises UserError for whatever goes wrong there."""
    function = load_function(path, name)
    with user_code(path):
        return function()


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """The function `name` of the Python file `path`. Raises UserError for whatever goes wrong there."""
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"config file {path} does not exist{nearest(path.name, siblings)}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {path}: expected a .py or .json file")
    module = importlib.util.module_from_spec(spec)
    with user_code(path):
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            if error.name not in RENAMED_PACKAGES:
                raise
            print(f"config file {path}: {error.name!r} is called {RENAMED_PACKAGES[error.name]!r} now: the next "
                  "version will not know its old name", file=sys.stderr)
            sys.modules.update({old: importlib.import_module(new) for old, new in RENAMED_PACKAGES.items()})
            spec.loader.exec_module(module)
        function = getattr(module, name)
        if not callable(function):
            raise TypeError(f"{name} is {type(function).__name__}, expected a function")
    return function


def import_function(field: str, name: str) -> Callable[..., Any]:
    """The function that `name`, "package.module:function", says: it may lie outside of the library, where Python finds
    modules. Its fields are its arguments by keyword alone, which have defaults.

    Raises UserError naming the config field for whatever goes wrong there.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        needed = [p.name for p in inspect.signature(found).parameters.values()
                  if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    except Exception as error:          # what the module's own code raises is for the user to correct too
        raise UserError(f"config field {field!r}: found {name!r}, which cannot be imported ({type(error).__name__}: "
                        f"{one_line(error)})") from error
    if needed:
        raise UserError(f"config field {field!r}: found {name!r}, whose {needed[0]!r} has no default; give it one")
    return found


@contextlib.contextmanager
def user_code(path: Path, passing: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Tells what the code of a config file raises, whatever it is but `passing`, by a UserError: for the user to
    correct."""
    try:
        yield
    except passing:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"config file {path}: {type(error).__name__}: {one_line(error)}") from error


def set_field(config: ConfigDict, field: str, text: str) -> None:
    """Sets the dotted `field` to `text` read as the field's present type. In OPEN groups new names may be set.

    Raises UserError that names the field, what was found and what was expected.
    """
    if field in RENAMED:
        _tell_renamed(field)
        field = RENAMED[field]
    *parents, name = field.split(".")
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or (name not in node and ".".join(parents) not in OPEN):
        raise UserError(f"config has no field {field!r}{nearest(field, flatten(config))}")
    if name in node:
        if isinstance(node[name], ConfigDict):
            raise UserError(f"config field {field!r} is a group of fields: set one of {', '.join(node[name])}")
        node[name] = _parse(field, text, node[name])
    else:
        with node.unlocked():
            node[name] = literal(text)


def check_of_data(overrides: Iterable[str]) -> None:
    """Raises UserError for an override of a finished run that is not of the group `data`."""
    for override in overrides:
        if not override.startswith("data."):
            raise UserError(f"--config.{override}: a run is used as it was trained; only --config.data.* may be set")


def with_overrides(config: ConfigDict, overrides: Iterable[str]) -> ConfigDict:
    """A config with `field=value` overrides. Raises UserError as `set_field`."""
    changed = config.copy_and_resolve_references()
    for override in overrides:
        field, _, text = override.partition("=")
        set_field(changed, field, text)
    return changed


def _parse(field: str, text: str, default: Any) -> Any:
    value = text if isinstance(default, str) else literal(text)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, tuple):
        of_names = bool(default) and isinstance(default[0], str)
        if value == text or (of_names and not text.startswith(("(", "[", "'", '"'))):       # cat,dog as 100,200
            names = _names(field, text)
            value = names if of_names or not default else [literal(name) for name in names]
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
        # Where steps stand a share of the run may too, such as 0.5: whether numbers are to be whole is for `check`.
        kind = float if default and type(default[0]) is int else type(default[0]) if default else object
        wrong = [v for v in value if default and not is_of(v, kind)]
        if wrong:
            raise UserError(f"config field {field!r}: found {wrong[0]!r} in {text!r}, expected items of type "
                            f"{type(default[0]).__name__}")
    if type(value) is not type(default):
        raise UserError(f"config field {field!r}: found {text!r}, expected {type(default).__name__} like {default!r}")
    return value


def _names(field: str, text: str) -> list[str]:
    """The names of `cat,dog`, in brackets or not, each of which may be in quotes. Raises UserError for brackets or
    quotes that are not closed."""
    inner = text.strip()
    if (inner[:1], inner[-1:]) in (("(", ")"), ("[", "]")):
        inner = inner[1:-1]
    names = []
    for part in filter(None, re.findall(r"""\s*('[^']*'|"[^"]*"|[^,]*?)\s*(?:,|$)""", inner)):
        quoted = part[0] in "'\"" and len(part) > 1 and part[-1] == part[0]
        if not quoted and (part[0] in "'\"" or any(part.count(a) != part.count(b) for a, b in ("()", "[]", "{}"))):
            raise UserError(f"config field {field!r}: found {part!r} in {text!r}, whose brackets or quotes do not "
                            "close; expected names with commas between, such as cat,dog or ('cat','dog')")
        names.append(part[1:-1] if quoted else part)
    return names


def literal(text: str) -> Any:
    """`text` as the Python value that it reads as, else itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):       # what literal_eval documents
        return text


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def check(config: ConfigDict, reference: ConfigDict) -> None:
    """Refuses a config that has other fields or other types than `reference`, whose OPEN groups may have more.

    A library call cannot mistype a field that nothing reads. Raises UserError naming the field.
    """
    known, found = flatten(reference), flatten(config)
    for field, value in found.items():
        if field not in known:
            if field.startswith(tuple(f"{group}." for group in OPEN)):
                continue
            raise UserError(f"config has an unknown field {field!r}{nearest(field, known)}")
        expected = type(known[field])
        if not is_of(value, expected):
            raise UserError(f"config field {field!r}: found {value!r}, expected {expected.__name__}")
        items = value if isinstance(value, tuple) else (value,)
        kind = type(known[field][0]) if isinstance(value, tuple) and known[field] else None
        if kind and not all(is_of(item, kind) for item in items):
            raise UserError(f"config field {field!r}: found {value!r}, expected items of type {kind.__name__}")
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            raise UserError(f"config field {field!r}: found {value!r}, expected a finite number")
    for field in known:
        if field not in found:
            raise UserError(f"config lacks the field {field!r} (default {known[field]!r})")


def is_of(value: Any, kind: type) -> bool:
    """Whether the value is of exactly this type; a whole number is also a float, a bool is no number."""
    return type(value) is kind or (kind is float and type(value) is int)


def require(config: Any, intervals: Mapping[str, str], prefix: str = "") -> None:
    """Refuses a number outside of its field's interval, such as `{"optimizer.momentum": "[0, 1)"}`, and of a tuple each
    item. What is no finite number lies in none.

    `prefix` is what the config's fields are called by before their name. Raises UserError naming the field, what was
    found and what was expected.
    """
    leaves = flatten(config)
    for field, interval in intervals.items():
        low, high = (float(end) for end in interval[1:-1].split(","))
        value = leaves[field]
        for number in value if isinstance(value, tuple) else (value,):
            over = isinstance(number, int | float) and (number >= low if interval[0] == "[" else number > low)
            under = isinstance(number, int | float) and (number <= high if interval[-1] == "]" else number < high)
            if over and under and math.isfinite(number):
                continue
            least = f"at least {low:.10g}" if interval[0] == "[" else f"over {low:.10g}"
            most = "" if math.isinf(high) else f" and {'at most' if interval[-1] == ']' else 'under'} {high:.10g}"
            raise UserError(f"config field '{prefix}{field}': found {value}, expected {least}{most}")


def dump(config: ConfigDict) -> str:
    """The config as indented JSON, its keys sorted: what `config.json` holds."""
    return json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config of which `dump` made `text`, JSON's lists as the tuples that a config holds. Raises ValueError."""
    def tuples(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: tuples(value) for key, value in tree.items()}
        return tuple(map(tuples, tree)) if isinstance(tree, list) else tree
    try:
        tree = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(tree, dict):
        raise ValueError(f"found {type(tree).__name__}, expected an object")
    return ConfigDict(tuples(tree))


def differences(old: Any, new: Any) -> Iterator[str]:
    """One text for each leaf that differs between two nested mappings, such as `steps: 300 there, 400 here`."""
    there, here = flatten(old), flatten(new)
    for field in sorted(there.keys() | here.keys()):
        a, b = there.get(field, "absent"), here.get(field, "absent")
        if a != b:
            yield f"{field}: {a} there, {b} here"


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: `; did you mean 'x'?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
