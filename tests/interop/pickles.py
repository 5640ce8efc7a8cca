"""Writes weight files as PyTorch does, in the layout before 1.6, without PyTorch: for what today's no longer writes."""

import io
import pickle
import struct
from typing import Any

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
             "bfloat16": "BFloat16Storage"}


class Global:
    """A function or class that the pickle asks for by name, and that need not exist here."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self) -> None:
        """pickle only lets callables stand before arguments."""


class Call:
    """In the pickle: `function(*arguments)`, then `__setstate__(state)` where there is one."""

    def __init__(self, function: "Global | Call", *arguments: Any, state: Any = None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __call__(self) -> None:
        """What a call gives may be called in turn."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


class Storage:
    """The numbers of one or more tensors; of a view, `(start, length)` of them."""

    def __init__(self, key: str, numbers: np.ndarray, view: tuple[int, int] | None = None):
        self.key, self.numbers, self.view = key, numbers, view


class _Pickler(pickle._Pickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file, protocol=2)
        self.storages: dict[str, np.ndarray] = {}

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj.numbers
        view = obj.view and (f"view of {obj.key}", *obj.view)
        return "storage", Global("torch", _STORAGES[obj.numbers.dtype.name]), obj.key, "cpu", obj.numbers.size, view


def old_tensor(array: np.ndarray, key: str) -> Call:
    """A tensor as PyTorch 0.3 pickles it, in a storage of its own; its strides are the array's."""
    numbers = np.ravel(array, order="K")
    return Call(Global("torch._utils", "_rebuild_tensor"), Storage(key, numbers), 0, array.shape,
                tuple(step // array.itemsize for step in array.strides))


def old_tensors(state: dict[str, np.ndarray]) -> dict[str, Call]:
    return {key: old_tensor(array, str(number)) for number, (key, array) in enumerate(state.items())}


def old_file(content: Any) -> bytes:
    """The bytes of a file of PyTorch before 1.6 that holds `content`."""
    file = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(header, file, protocol=2)
    pickler = _Pickler(file)
    pickler.dump(content)
    pickle.dump(sorted(pickler.storages), file, protocol=2)
    for key in sorted(pickler.storages):
        numbers = pickler.storages[key]
        file.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    return file.getvalue()
