"""Writes weight files as PyTorch did, in its two layouts before 1.6, without PyTorch: today's writes only one."""

import io
import pickle
import struct
import tarfile
from typing import Any

import numpy as np

_STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
             "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


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


def _dumped(*things: Any) -> bytes:
    file = io.BytesIO()
    for thing in things:
        _Pickler(file).dump(thing)
    return file.getvalue()


class _Key:
    """Stands for a tensor in the tar's `pickle`: its persistent id."""

    def __init__(self, key: int):
        self.key = key


class _TarPickler(_Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return str(obj.key) if isinstance(obj, _Key) else None


def tar_file(arrays: dict[str, np.ndarray], *, outer: str = "", view: tuple[str, str, int] | None = None,
             **beside: Any) -> bytes:
    """The bytes of a tar of PyTorch before 0.1.10: a state dict, under `outer` if given, with `beside` beside it.

    `view` (name, base, start) adds a tensor of the numbers of `base` from `start` on, in a storage that is a view.
    """
    storages, tensors, views, state = [], [], [], {}
    for key, (name, array) in enumerate(arrays.items(), 1):
        numbers = np.ravel(array, order="K")
        storages.append(_dumped((1000 + key, "cpu", Global("torch", _STORAGES[array.dtype.name]))) +
                        struct.pack("<q", numbers.size) + numbers.tobytes())
        tensors.append((key, 1000 + key, array.shape, [step // array.itemsize for step in array.strides]))
        state[name] = _Key(key)
    if view is not None:
        name, base, start = view
        count, whole = arrays[base].size - start, 1001 + list(arrays).index(base)
        views.append((2000, whole, start, count))
        tensors.append((500, 2000, (count,), [1]))
        state[name] = _Key(500)
    packed = b"".join(_dumped((key, storage, Global("torch", "FloatTensor"))) + struct.pack(
        f"<q{2 * len(shape)}qq", len(shape), *shape, *stride, 0) for key, storage, shape, stride in tensors)
    file = io.BytesIO()
    _TarPickler(file).dump({outer: state, **beside} if outer else state)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as archive:
        for name, data in (("sys_info", _dumped({"protocol_version": 1000})),
                           ("pickle", file.getvalue()),
                           ("tensors", _dumped(len(tensors)) + packed),
                           ("storages", _dumped(len(storages)) + b"".join(storages) + _dumped(views))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()
