"""The idx files of MNIST (LeCun, Cortes and Burges) and of the sets in its form, such as Fashion-MNIST and KMNIST."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnnjax.config import user_path
from cnnjax.data import decode
from cnnjax.data.sets import ImageSet, Splits, check_classes
from cnnjax.errors import UserError

_FILES = {"train": "train", "test": "t10k"}


def idx(config: ConfigDict) -> Splits:
    """The folder `path` with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-... (or .gz), one channel.

    Raises `UserError` for a missing file, a wrong magic number or size, or labels that do not match the images.
    """
    folder = user_path(config.path)
    if not config.path or not folder.is_dir():
        raise UserError(f"data.path: no folder {config.path!r}; the source idx needs the folder with "
                        "train-images-idx3-ubyte and its three companions")
    splits = {}
    for split, prefix in _FILES.items():
        images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"), 3)
        labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"), 1)
        if len(images) != len(labels):
            raise UserError(f"data.path: {folder} has {len(images)} images but {len(labels)} labels for {split}")
        if not len(images):
            raise UserError(f"data.path: {folder} has no image for {split}")
        if not images.size:
            raise UserError(f"data.path: {folder} has images of {images.shape[2]}x{images.shape[1]} pixels for {split}")
        splits[split] = ImageSet(decode.resize_all(images[..., None], config.image_size), labels.astype(np.int32))
    classes = int(splits["train"].labels.max()) + 1
    missing = sorted(set(range(classes)) - set(splits["train"].labels.tolist()))
    if missing:
        raise UserError(f"data.path: {folder} has no training image of class {missing[0]}, but labels up to "
                        f"{classes - 1}")
    if splits["test"].labels.max() >= classes:
        raise UserError(f"data.path: {folder} has the test label {splits['test'].labels.max()}, which no "
                        "training image has")
    check_classes([str(c) for c in range(classes)], str(folder))
    return Splits(splits, tuple(str(c) for c in range(classes)))


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes, perhaps gzipped: uint8, with so many dimensions. Raises `UserError` naming it."""
    try:
        with (gzip.open(file) if file.suffix == ".gz" else file.open("rb")) as stream:
            head = stream.read(4 + 4 * dimensions)
            if head[:4] != bytes([0, 0, 8, dimensions]):
                raise UserError(f"{file} is not an idx file of unsigned bytes in {dimensions} dimensions: it begins "
                                f"with {head[:4].hex(' ') or 'nothing'}, expected 00 00 08 {dimensions:02x}")
            if len(head) < 4 + 4 * dimensions:
                raise UserError(f"{file} is cut off within its header")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            expected = int(np.prod(shape, dtype=object))
            data = bytearray()      # read piece by piece: what a header declares is no reason to reserve it
            while len(data) <= expected and (part := stream.read(2**24)):
                data += part
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if len(data) != expected:
        found = f"only {len(data):,}" if len(data) < expected else "more"
        raise UserError(f"{file} declares {' x '.join(map(str, shape))} = {expected:,} bytes but holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise UserError(f"data.path: {folder} has no {name} or {name}.gz")
