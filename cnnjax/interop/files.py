"""Files of PyTorch weights, read without PyTorch and without running what they hold.

A `.pth` file is a pickle, and a pickle is a program. Here only the few calls that a state dict needs are known:
tensors, storages, ordered dicts. Any other name in the file is refused before it is looked up.
"""

import collections
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from cnnjax.errors import UserError, one_line

_STORAGES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
             "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
             "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_}

_SAFETENSORS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
                "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}

_BROKEN = (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error,
           zipfile.BadZipFile, zlib.error, OverflowError, OSError, RecursionError, MemoryError, NotImplementedError,
           RuntimeError)
"""What reading a damaged pickle, zip or header raises; RuntimeError is that of an encrypted zip, OSError of a place
before the file."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Storage(NamedTuple):
    """A run of `length` numbers, known by `key`; their bytes come from elsewhere in the file."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """What a tensor's pickle says: a view into a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file or of a `.pth` (`.pt`, `.th`, `.tar`) state dict, by key, in PyTorch's
    layout.

    Of a checkpoint that holds more, the dict under "state_dict" or "model" is taken. Both of PyTorch's layouts are
    read, the zip file and the one before version 1.6. Raises UserError if the file is missing, is neither, is cut
    short, or asks for anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        loaded, read_storage = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _BROKEN as error:
        raise UserError(f"{path}: not readable as PyTorch weights ({one_line(error)}); expected a state dict written "
                        "by torch.save, or a .safetensors file") from error

    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not any(isinstance(value, _Tensor) for value in loaded.values()):
        raise UserError(f"{path}: holds no state dict; expected names and tensors, alone or under 'state_dict' or "
                        "'model'")
    try:
        return {str(key): _view(value, read_storage) for key, value in loaded.items() if isinstance(value, _Tensor)}
    except _BROKEN as error:
        raise UserError(f"{path}: damaged weights ({one_line(error)})") from error


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
    with open(path, "wb") as file:
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
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(data: _Tensor, *rest: Any) -> _Tensor:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dicts; nothing else can be named, so nothing else can be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no state dict needs")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it holds something else than tensors")
        return _Storage(str(key), dtype, int(count))


def _read_zip(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """`NAME/data.pkl` beside `NAME/data/KEY`, one file a storage (PyTorch 1.6 and later)."""
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
        _, machine, loaded, keys = (_Unpickler(file).load() for _ in range(4))
        if not machine["little_endian"]:
            raise ValueError("written on a big-endian machine")
        kinds = {tensor.storage.key: tensor.storage for tensor in _tensors(loaded)}
        storages = {key: _read_legacy_storage(file, kinds[key]) for key in keys}
    return loaded, lambda storage: storages[storage.key]


def _read_legacy_storage(file: IO[bytes], storage: _Storage) -> np.ndarray:
    count = struct.unpack("<q", file.read(8))[0]
    data = file.read(storage.dtype.itemsize * storage.length)
    if count != storage.length or len(data) != storage.dtype.itemsize * count:
        raise ValueError(f"storage {storage.key} is cut short")
    return np.frombuffer(data, storage.dtype)


def _tensors(loaded: Any) -> list[_Tensor]:
    if isinstance(loaded, _Tensor):
        return [loaded]
    if isinstance(loaded, Mapping):
        loaded = list(loaded.values())
    return [tensor for item in loaded for tensor in _tensors(item)] if isinstance(loaded, list | tuple) else []


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
