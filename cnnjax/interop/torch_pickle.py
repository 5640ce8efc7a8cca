"""What PyTorch pickles, read without PyTorch and without running it: three layouts of files, and tensors as views.

A `.pth` file is a pickle, and a pickle is a program. Here only the few calls that weights need are known: tensors,
storages, NumPy arrays, ordered dicts. Any other name in the file stands for an inert object, and is never looked up.
"""

import collections
import math
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

_STORAGES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
             "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
             "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
             "ComplexFloatStorage": np.complex64, "ComplexDoubleStorage": np.complex128}

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_MAX_EXPANDED = 2**28
"""Numbers of a tensor that repeats those of its storage (stride 0); a small file could else ask for any memory."""


class Storage(NamedTuple):
    """A run of `length` numbers, known by `key`; their bytes come from elsewhere in the file.

    A view of a storage (PyTorch 0.3 and before) begins at the number `start` of it.
    """

    key: str
    dtype: np.dtype
    length: int
    start: int = 0


class Tensor(NamedTuple):
    """What a tensor's pickle says: a view into a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        """Gradient flags and hooks, which Parameters of PyTorch 0.3 and before carry."""


class Inert:
    """Stands for an object that weights do not need. Whatever a pickle does to it or calls on it does nothing.

    Each name in a file is a subclass of its own, since pickles can only make objects of classes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignores an item of a list."""

    def extend(self, items: Any) -> None:
        """Ignores items of a list."""

    def add(self, item: Any) -> None:
        """Ignores an item of a set."""


ReadStorage = Callable[[Storage], np.ndarray]
"""Gives the numbers of a storage, from its `start` or from before it."""


def load(path: Path) -> tuple[Any, ReadStorage]:
    """What a file of PyTorch holds, its tensors as `Tensor`, and the function that reads their numbers for `to_array`.

    Knows the zip file (PyTorch 1.6 and later), pickles one after another (0.1.10 to 1.5), the tar (before) and a plain
    pickle of a dict of NumPy arrays. Raises ValueError and what pickle, zipfile and tarfile raise for other files.
    """
    with open(path, "rb") as file:
        if file.read(4) == b"PK\3\4":
            return _load_zip(path)
    if tarfile.is_tarfile(path):
        return _load_tar(path)
    return _load_pickles(path)


def to_array(value: Any, read_storage: ReadStorage) -> np.ndarray:
    """The array of a `Tensor` or of a NumPy array in the file. Raises ValueError if it reaches beyond its storage."""
    if not isinstance(value, Tensor):
        return np.asarray(value.array)
    storage, offset, shape, stride = value
    if len(shape) != len(stride) or min((storage.length, offset, *shape, *stride)) < 0:
        raise ValueError(f"a tensor of shape {shape}, strides {stride} and offset {offset} in {storage.length} numbers")
    size = math.prod(shape)
    if size > max(storage.length, _MAX_EXPANDED):
        raise ValueError(f"a tensor of shape {shape} in a storage of {storage.length} numbers")
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    numbers = read_storage(storage)
    if size and last >= len(numbers):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its {len(numbers)} numbers")
    steps = [step * storage.dtype.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
    return view if size > storage.length else view.copy()           # a copy lets go of what else its storage holds


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
                    *rest: Any) -> Tensor:
    return Tensor(storage, storage.start + offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


def _rebuild_from_type(rebuild: Callable[..., Any], kind: Any, args: tuple[Any, ...], state: Any) -> Any:
    """A tensor with attributes of its own. `rebuild` comes from the file, so it is one of `_KNOWN` or inert."""
    return rebuild(*args)


class _Dtype:
    """NumPy's dtype of numbers, from its code such as "f4". `numpy` is None for objects, text and records."""

    def __init__(self, code: Any = "", *rest: Any) -> None:
        self.numpy = np.dtype(code) if isinstance(code, str) and re.fullmatch("[biufc][0-9]{1,2}", code) else None

    def __setstate__(self, state: Any) -> None:
        if self.numpy is not None:
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """A NumPy array. One of objects, text or records has no `shape`: it is no weights."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, numbers = state
        self._fill(numbers, dtype, shape, "F" if column_major else "C")

    def _fill(self, numbers: Any, dtype: _Dtype, shape: Any, order: Any) -> None:
        if dtype.numpy is not None:
            self.array = np.frombuffer(numbers, dtype.numpy).reshape(shape, order=order)
            self.shape = self.array.shape


def _array_of_buffer(numbers: Any, dtype: _Dtype, shape: Any, order: Any, *rest: Any) -> _Array:
    """How pickle's protocol 5 makes an array."""
    array = _Array()
    array._fill(numbers, dtype, shape, order)
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes in pickle's protocol 2."""
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,                       # PyTorch 0.3 and before
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,                    # PyTorch 0.3 and before
    ("torch.autograd.variable", "Variable"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGES.items()},
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda *_: b"",                                   # of an empty array, in protocol 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages, arrays and ordered dicts; anything else that is named is inert, so nothing else can be
    called.

    `storages` are those that were named, by key. Byte strings of Python 2 are read as Latin-1, which always can be.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        return type(name, (Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *rest = pid
        if kind == "module":                # a class with its source text, of whole networks of PyTorch 0.3 and before
            return dtype
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it holds a {kind} of {getattr(dtype, '__name__', dtype)}, which is not read")
        _, count, *view = rest
        storage = self.storages[str(key)] = Storage(str(key), dtype, int(count))
        return storage._replace(start=int(view[0][1])) if view and view[0] else storage


def _load_zip(path: Path) -> tuple[Any, ReadStorage]:
    """`NAME/data.pkl` beside `NAME/data/KEY`, one file a storage (PyTorch 1.6 and later)."""
    if not zipfile.is_zipfile(path):        # its table of contents stands at the end
        raise ValueError("a zip file that is cut short")
    archive = zipfile.ZipFile(path)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file without data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("written on a big-endian machine")
    with archive.open(pickles[0]) as file:
        loaded = _Unpickler(file).load()

    def read_storage(storage: Storage) -> np.ndarray:
        name = f"{folder}data/{storage.key}"
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"storage {storage.key} is compressed, which PyTorch never does")
        if archive.getinfo(name).file_size < storage.length * storage.dtype.itemsize:
            raise ValueError(f"storage {storage.key} is cut short")
        return np.frombuffer(archive.read(name), storage.dtype, storage.length)

    return loaded, read_storage


def _load_pickles(path: Path) -> tuple[Any, ReadStorage]:
    """Pickles one after another: magic number, version, machine, the state, the storages' keys; then the storages.

    Or one pickle alone, of a dict of NumPy arrays.
    """
    with open(path, "rb") as file:
        magic = _Unpickler(file).load()
        if isinstance(magic, Mapping):
            return magic, _no_storages
        if magic != _LEGACY_MAGIC:
            raise ValueError("neither a zip file nor one of PyTorch's older layouts")
        _, machine = (_Unpickler(file).load() for _ in range(2))
        unpickler = _Unpickler(file)
        loaded, keys = unpickler.load(), _Unpickler(file).load()
        if not machine["little_endian"]:
            raise ValueError("written on a big-endian machine")
        storages = {key: _read_counted(file, unpickler.storages[key]) for key in keys}
    return loaded, lambda storage: storages[storage.key]


def _no_storages(storage: Storage) -> np.ndarray:
    raise ValueError("a plain pickle that holds tensors of PyTorch")


def _read_counted(file: IO[bytes], storage: Storage) -> np.ndarray:
    """The numbers of a storage after eight bytes that say how many there are."""
    if struct.unpack("<q", file.read(8))[0] != storage.length:
        raise ValueError(f"storage {storage.key} is cut short")
    return _read_numbers(file, storage)


def _read_numbers(file: IO[bytes], storage: Storage) -> np.ndarray:
    data = file.read(storage.dtype.itemsize * storage.length)
    if len(data) != storage.dtype.itemsize * storage.length:
        raise ValueError(f"storage {storage.key} is cut short")
    return np.frombuffer(data, storage.dtype)


class _TarUnpickler(_Unpickler):
    """Of the tar's `pickle`: its persistent ids are the keys of `tensors` and storages, or of classes."""

    def __init__(self, file: IO[bytes], made: dict[int, Any]) -> None:
        super().__init__(file)
        self._made = made

    def persistent_load(self, pid: Any) -> Any:
        return pid[0] if isinstance(pid, tuple) else self._made[int(pid)]


def _load_tar(path: Path) -> tuple[Any, ReadStorage]:
    """A tar of `storages`, `tensors` (shape, strides, offset of each) and `pickle`, which names them by key
    (PyTorch before 0.1.10)."""
    made: dict[int, Any] = {}
    numbers: dict[str, np.ndarray] = {}
    with tarfile.open(path, "r:") as archive:
        file = _member(archive, "storages")
        for _ in range(_Unpickler(file).load()):
            key, _, dtype = _Unpickler(file).load()
            if not isinstance(dtype, np.dtype):
                raise ValueError(f"it holds a storage of {getattr(dtype, '__name__', dtype)}, which is not read")
            (length,) = struct.unpack("<q", file.read(8))
            made[key] = Storage(str(key), dtype, length)
            numbers[str(key)] = _read_numbers(file, made[key])
        for key, whole, offset, length in _Unpickler(file).load():
            made[key] = made[whole]._replace(length=length, start=offset)

        file = _member(archive, "tensors")
        for _ in range(_Unpickler(file).load()):
            key, storage, _ = _Unpickler(file).load()
            (dimensions,) = struct.unpack("<i4x", file.read(8))
            shape, stride = (struct.unpack(f"<{dimensions}q", file.read(8 * dimensions)) for _ in range(2))
            (offset,) = struct.unpack("<q", file.read(8))
            made[key] = _rebuild_tensor(made[storage], offset, shape, stride)
        return _TarUnpickler(_member(archive, "pickle"), made).load(), lambda storage: numbers[storage.key]


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"a tar whose {name} is no file")
    return file


def save(path: Path, state: Mapping[str, np.ndarray], metadata: str = "") -> None:
    """Writes a state dict as `torch.save` does since PyTorch 1.6: for `torch.load`, also with `weights_only`.

    `metadata` becomes the file `extra/metadata.json` in it, which PyTorch passes over.
    """
    storages = {np.dtype(dtype): name for name, dtype in _STORAGES.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        tensors = [_pickled_tensor(str(i), storages[array.dtype], array) for i, array in enumerate(state.values())]
        items = b"".join(_pickled(key) + tensor for key, tensor in zip(state, tensors, strict=True))
        ordered = _named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
        archive.writestr("archive/data.pkl", pickle.PROTO + b"\2" + ordered + pickle.MARK + items + pickle.SETITEMS +
                         pickle.STOP)
        archive.writestr("archive/byteorder", "little")
        for i, array in enumerate(state.values()):
            archive.writestr(f"archive/data/{i}", array.astype(array.dtype.newbyteorder("<")).tobytes())
        archive.writestr("archive/version", "3\n")
        if metadata:
            archive.writestr("archive/extra/metadata.json", metadata)


def _pickled_tensor(key: str, storage: str, array: np.ndarray) -> bytes:
    """`torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)` in pickle's opcodes."""
    strides = [math.prod(array.shape[i + 1:]) for i in range(array.ndim)]
    where = _pickled("storage") + _named("torch", storage) + _pickled(key) + _pickled("cpu") + _pickled(array.size)
    arguments = b"".join((
        pickle.MARK, where, pickle.TUPLE, pickle.BINPERSID, _pickled(0), _pickled(array.shape),
        _pickled(tuple(strides)), pickle.NEWFALSE, _named("collections", "OrderedDict"), pickle.EMPTY_TUPLE,
        pickle.REDUCE))
    return _named("torch._utils", "_rebuild_tensor_v2") + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE


def _named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _pickled(value: Any) -> bytes:
    """A text, a number or a tuple of numbers, without what begins and ends a pickle."""
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(map(_pickled, value)) + pickle.TUPLE
    if isinstance(value, str):
        return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()
    if value >= 2**31:
        return pickle.LONG1 + b"\x08" + struct.pack("<q", value)
    return pickle.BININT + struct.pack("<i", value)
