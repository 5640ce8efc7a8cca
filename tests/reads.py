"""Which fields of configs the library uses: recorded while it runs.

A field counts as used when the code asks for it by name, in a ConfigDict or in a dataclass such as a detector, outside
of what copies, checks or prints configs whole.
"""

import contextlib
import dataclasses
import inspect
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ml_collections import ConfigDict

ROOT = Path(__file__).parent.parent

PROGRAM = (str(ROOT / "cnnjax"), str(ROOT / "experiments"))

WHOLE = tuple(str(ROOT / "cnnjax" / file) for file in ("config.py", "fields.py", "detection/settings.py"))
"""Files that treat configs whole: they pass a field on, whatever it is for."""

CONFIG_DICT = inspect.getfile(ConfigDict)

NO_USE = re.compile(r"(^|\.)(_?check\w*|__post_init__|fields_of)(\.|$)")
"""Functions that refuse a value or print it."""


def _is_use(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename == CONFIG_DICT and \
            frame.f_code.co_name in ("__getattr__", "get"):
        frame = frame.f_back
    if frame is None:
        return False
    file, function = frame.f_code.co_filename, frame.f_code.co_qualname
    copies = file.endswith("cnnjax/data/__init__.py") and function.startswith("load")     # all fields of the group
    return file.startswith(PROGRAM) and file not in WHOLE and not NO_USE.search(function) and not copies


def dataclasses_of(value: Any) -> set[type]:
    """The type of a dataclass, and those of its fields."""
    found = {type(value)}
    for field in dataclasses.fields(value):
        if dataclasses.is_dataclass(getattr(value, field.name)):
            found |= dataclasses_of(getattr(value, field.name))
    return found


@contextlib.contextmanager
def recorded(classes: Collection[type] = ()) -> Iterator[set[str]]:
    """A set that fills with the names of used fields: "optimizer.momentum" of a config, "RCNN.side" of a dataclass that
    is among `classes`. A group that was copied out of a config is a config of its own."""
    found: set[str] = set()
    nodes: dict[int, tuple[ConfigDict, str]] = {}           # kept, so that no other has their identity meanwhile
    getitem = ConfigDict.__getitem__

    def item(self: ConfigDict, key: str) -> Any:
        value = getitem(self, key)
        path = nodes.setdefault(id(self), (self, ""))[1]
        if isinstance(value, ConfigDict):
            nodes.setdefault(id(value), (value, f"{path}{key}."))
        elif _is_use(sys._getframe(1)):
            found.add(path + key)
        return value

    def attribute(self: Any, name: str) -> Any:
        if name in type(self).__dataclass_fields__ and _is_use(sys._getframe(1)):
            found.add(f"{type(self).__name__}.{name}")
        return object.__getattribute__(self, name)

    ConfigDict.__getitem__ = item
    for cls in classes:
        cls.__getattribute__ = attribute
    try:
        yield found
    finally:
        ConfigDict.__getitem__ = getitem
        for cls in classes:
            del cls.__getattribute__


@contextlib.contextmanager
def keep(workdir: Path, classes: Collection[type] = ()) -> Iterator[None]:
    """Leaves beside a workdir the names of the fields that are used meanwhile, for `kept`."""
    with recorded(classes) as found:
        yield
    _file(workdir).write_text("\n".join(sorted(found)))


def kept(workdir: Path) -> set[str]:
    """The names of the fields that the run in a workdir used."""
    return set(_file(workdir).read_text().split("\n"))


def _file(workdir: Path) -> Path:
    return workdir.with_name(f"{workdir.name}.reads")
