"""Files of PyTorch weights, read without PyTorch and without running what they hold.

A `.pth` file is a pickle, and a pickle is a program. Here only the few calls that a state dict needs are known:
tensors, storages, ordered dicts. Any other name in the file stands for an inert object, and is never looked up.
"""

import collections
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from cnnjax.config import user_path
from cnnjax.errors import UserError, one_line

_STORAGES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
             "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
             "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
             "ComplexFloatStorage": np.complex64, "ComplexDoubleStorage": np.complex128}

_SAFETENSORS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
                "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}

_BROKEN = (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error,
           zipfile.BadZipFile, zlib.error, OverflowError, OSError, RecursionError, MemoryError, NotImplementedError,
           RuntimeError)
"""What reading a damaged pickle, zip or header raises; RuntimeError is that of an encrypted zip, OSError of a place
before the file."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_NESTINGS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
             "state_dict_ema", "ema_state_dict", "model_ema", "ema")
"""The names that checkpoints keep a state dict under: the trained weights before their moving average."""


class _Storage(NamedTuple):
    """A run of `length` numbers, known by `key`; their bytes come from elsewhere in the file.

    A view of a storage (PyTorch 0.3 and before) begins at the number `start` of it.
    """

    key: str
    dtype: np.dtype
    length: int
    start: int = 0


class _Tensor(NamedTuple):
    """What a tensor's pickle says: a view into a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        """Gradient flags and hooks, which Parameters of PyTorch 0.3 and before carry."""


class _Inert:
    """Stands for an object that weights do not need. Whatever a pickle does to it or calls on it does nothing.

    Each name in a file is a subclass of its own, since pickles can only make objects of classes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
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


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file or of a `.pth` (`.pt`, `.th`, `.tar`) state dict, by key, in PyTorch's
    layout.

    Of a checkpoint that holds more, the state dict that `state_in` finds is taken; all else stays inert. Both of
    PyTorch's layouts are read, the zip file and the one before version 1.6. Raises UserError if the file is missing, is
    neither, is cut short, or holds no state dict.
    """
    path = user_path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        loaded, read_storage = _read_zip(path) if _is_zip(path) else _read_legacy(path)
    except _BROKEN as error:
        raise UserError(f"{path}: not readable as PyTorch weights ({one_line(error)}); expected a state dict written "
                        "by torch.save, or a .safetensors file") from error

    state = state_in(loaded, str(path))
    try:
        return {key: _view(value, read_storage) for key, value in state.items()}
    except _BROKEN as error:
        raise UserError(f"{path}: damaged weights ({one_line(error)})") from error


def state_in(loaded: Any, source: str) -> dict[str, Any]:
    """The tensors, by key, of the state dict in a checkpoint: `loaded` itself or what lies one or two names deep.

    The names are "state_dict", "model_state_dict", "model", "net", "weights", "params" and the like; a moving average
    ("ema", "model_ema") is taken where there is nothing else. A tensor is what has a shape. Raises UserError, which
    begins with `source` and lists the keys found, if there is no state dict or if it holds a tensor of an unknown kind.
    """
    state = _nested_state(loaded, 2)
    if state is None:
        if not isinstance(loaded, Mapping):
            found = f"{type(loaded).__name__}, not what its state_dict() gives"
        else:
            keys = [f"{key!r} ({type(value).__name__})" for key, value in loaded.items()]
            found = f"the keys {some(keys, 12)}" if keys else "an empty dict"
        raise UserError(f"{source}: holds no state dict; found {found}; expected names and tensors, alone or under one "
                        f"of {', '.join(map(repr, _NESTINGS))}")
    unread = [f"{key} ({type(value).__module__}.{type(value).__name__})" for key, value in state.items()
              if _is_unread(value)]
    if unread:
        raise UserError(f"{source}: holds tensors of a kind that is not read: {some(unread, 3)}; save it again as "
                        "plain float tensors")
    return {str(key): value for key, value in state.items() if hasattr(value, "shape")}


def _nested_state(loaded: Any, deep: int) -> Mapping[Any, Any] | None:
    if not isinstance(loaded, Mapping):
        return None
    for name in _NESTINGS if deep else ():
        state = _nested_state(loaded.get(name), deep - 1)
        if state is not None:
            return state
    return loaded if any(hasattr(value, "shape") or _is_unread(value) for value in loaded.values()) else None


def _is_unread(value: Any) -> bool:
    """Whether it is a tensor that PyTorch rebuilds by a function unknown here: quantised, sparse, of 8-bit floats."""
    return isinstance(value, _Inert) and type(value).__name__.startswith("_rebuild")


def some(items: Sequence[str], most: int = 3) -> str:
    """The first items of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def write_safetensors(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by key to a `.safetensors` file, for PyTorch to load with `safetensors.torch.load_file`."""
    names = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
    header, start = {}, 0
    for key, array in state.items():
        header[key] = {"dtype": names[array.dtype], "shape": list(array.shape),
                       "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)                                             # numbers start at a multiple of eight
    with open(user_path(path), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in state.values():
            file.write(np.ascontiguousarray(array).tobytes())


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Eight bytes of header length, a JSON header of dtype, shape and place by key, then the numbers."""
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    if length > len(data) - 8:
        raise ValueError("its header is cut short")
    header = json.loads(data[8:8 + length])
    numbers = memoryview(data)[8 + length:]
    arrays = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        dtype, shape, (start, end) = np.dtype(_SAFETENSORS[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if not 0 <= start <= end <= len(numbers) or end - start != dtype.itemsize * math.prod(shape):
            raise ValueError(f"{key} does not fit into the file")
        arrays[key] = np.frombuffer(numbers[start:end], dtype).reshape(shape)
    return arrays


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
                    *rest: Any) -> _Tensor:
    return _Tensor(storage, storage.start + offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: _Tensor, *rest: Any) -> _Tensor:
    return data


def _rebuild_from_type(rebuild: Callable[..., Any], kind: Any, args: tuple[Any, ...], state: Any) -> Any:
    """A tensor with attributes of its own. `rebuild` comes from the file, so it is one of `_KNOWN` or inert."""
    return rebuild(*args)


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
}


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dicts; anything else that is named is inert, so nothing else can be called.

    `storages` are those that were named, by key. Byte strings of Python 2 are read as Latin-1, which always can be.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        return type(name, (_Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *rest = pid
        if kind == "module":                # a class with its source text, of whole networks of PyTorch 0.3 and before
            return dtype
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"it holds a {kind} of {getattr(dtype, '__name__', dtype)}, which is not read")
        _, count, *view = rest
        storage = self.storages[str(key)] = _Storage(str(key), dtype, int(count))
        return storage._replace(start=int(view[0][1])) if view and view[0] else storage


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\3\4"


def _read_zip(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """`NAME/data.pkl` beside `NAME/data/KEY`, one file a storage (PyTorch 1.6 and later)."""
    if not zipfile.is_zipfile(path):        # its table of contents stands at the end
        raise ValueError("a zip file that is cut short")
    archive = zipfile.ZipFile(path)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file without data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    with archive.open(pickles[0]) as file:
        loaded = _Unpickler(file).load()

    def read_storage(storage: _Storage) -> np.ndarray:
        name = f"{folder}data/{storage.key}"
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"storage {storage.key} is compressed, which PyTorch never does")
        if archive.getinfo(name).file_size < storage.length * storage.dtype.itemsize:
            raise ValueError(f"storage {storage.key} is cut short")
        return np.frombuffer(archive.read(name), storage.dtype, storage.length)

    return loaded, read_storage


def _read_legacy(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """Pickles one after another: magic number, version, machine, the state, the storages' keys; then the storages."""
    with open(path, "rb") as file:
        if _Unpickler(file).load() != _LEGACY_MAGIC:
            raise ValueError("neither a zip file nor PyTorch's older layout")
        _, machine = (_Unpickler(file).load() for _ in range(2))
        unpickler = _Unpickler(file)
        loaded, keys = unpickler.load(), _Unpickler(file).load()
        if not machine["little_endian"]:
            raise ValueError("written on a big-endian machine")
        storages = {key: _read_legacy_storage(file, unpickler.storages[key]) for key in keys}
    return loaded, lambda storage: storages[storage.key]


def _read_legacy_storage(file: IO[bytes], storage: _Storage) -> np.ndarray:
    count = struct.unpack("<q", file.read(8))[0]
    data = file.read(storage.dtype.itemsize * storage.length)
    if count != storage.length or len(data) != storage.dtype.itemsize * count:
        raise ValueError(f"storage {storage.key} is cut short")
    return np.frombuffer(data, storage.dtype)


def _view(tensor: _Tensor, read_storage: Callable[[_Storage], np.ndarray]) -> np.ndarray:
    """The array of a tensor. Raises ValueError if it reaches beyond its storage."""
    storage, offset, shape, stride = tensor
    if math.prod(shape) > storage.length:
        raise ValueError(f"a tensor of shape {shape} in a storage of {storage.length} numbers")
    if len(shape) != len(stride) or min((offset, *shape, *stride)) < 0:
        raise ValueError(f"a tensor of shape {shape}, strides {stride} and offset {offset}")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    numbers = read_storage(storage)
    if math.prod(shape) and last >= len(numbers):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its {len(numbers)} numbers")
    steps = [step * storage.dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps).copy()
