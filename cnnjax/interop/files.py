"""Files of PyTorch weights: state dicts as PyTorch pickles them, without running them, and safetensors."""

import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from cnnjax.config import user_path
from cnnjax.errors import UserError, one_line
from cnnjax.interop import torch_pickle

_BROKEN = (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error,
           zipfile.BadZipFile, zlib.error, tarfile.TarError, OverflowError, OSError, RecursionError, MemoryError,
           NotImplementedError, RuntimeError, safetensors.SafetensorError)
"""What reading a damaged pickle, archive or header raises; RuntimeError is that of an encrypted zip, OSError of a place
before the file."""

_NESTINGS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
             "state_dict_ema", "ema_state_dict", "model_ema", "ema")
"""The names that checkpoints keep a state dict under: the trained weights before their moving average."""

_DEEPEST = 4
"""Names that a state dict may lie under one another."""

def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file or of a `.pth` (`.pt`, `.th`, `.tar`, `.pkl`) state dict, by key, in
    PyTorch's layout.

    Of a checkpoint that holds more, the state dict that `state_in` finds is taken; all else stays inert. PyTorch's
    three layouts are read, and a plain pickle of NumPy arrays (`torch_pickle.load`). Raises UserError if the file is
    missing, is none of these, is cut short, or holds no state dict.
    """
    path = user_path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        loaded, read_storage = torch_pickle.load(path)
    except _BROKEN as error:
        raise UserError(f"{path}: not readable as PyTorch weights ({one_line(error)}); expected a state dict written "
                        "by torch.save, or a .safetensors file") from error

    state = state_in(loaded, str(path))
    try:
        return {key: torch_pickle.to_array(value, read_storage) for key, value in state.items()}
    except _BROKEN as error:
        raise UserError(f"{path}: damaged weights ({one_line(error)})") from error


def state_in(loaded: Any, source: str) -> dict[str, Any]:
    """The tensors, by key, of the state dict in a checkpoint: `loaded` itself or what lies up to four names deep.

    The names are "state_dict", "model_state_dict", "model", "net", "weights", "params" and the like; a moving average
    ("ema", "model_ema") is taken where there is nothing else. A tensor is what has a shape. Raises UserError, which
    begins with `source` and lists the keys found, if there is no state dict or if it holds a tensor of an unknown kind.
    """
    state = _nested_state(loaded, _DEEPEST)
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
    return isinstance(value, torch_pickle.Inert) and type(value).__name__.startswith("_rebuild")


def some(items: Sequence[str], most: int = 3) -> str:
    """The first items of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def write_safetensors(path: str | Path, state: Mapping[str, np.ndarray],
                      metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays by key to a `.safetensors` file, for PyTorch to load with `safetensors.torch.load_file`."""
    arrays = {key: np.ascontiguousarray(array).reshape(array.shape) for key, array in state.items()}
    safetensors.numpy.save_file(arrays, user_path(path), None if metadata is None else dict(metadata))
