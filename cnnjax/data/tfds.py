"""Reader of TensorFlow Datasets' image classification sets, prepared once as array_record, read without TensorFlow."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnnjax.config import user_path
from cnnjax.data import cache, decode
from cnnjax.data.sets import Splits, check_classes
from cnnjax.errors import UserError, one_line


def names() -> list[str]:
    """The data sets that TFDS can prepare, sorted."""
    return sorted(_library().list_builders(with_community_datasets=False))


def data_dir(path: str) -> Path:
    """Where data sets are prepared: `path`, by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return user_path(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def is_known(name: str, path: str) -> bool:
    """Whether TFDS knows `name` ("set", "set/config", "set:version"), or a folder of that name was prepared."""
    base = name.split("/")[0].split(":")[0]
    return bool(base) and (base in names() or (data_dir(path) / base).is_dir())


def builder(name: str, path: str) -> Any:
    """The TFDS builder of `name` that reads and writes array_record below `data_dir(path)`, without TensorFlow."""
    library = _library()
    try:
        return library.builder(name, data_dir=data_dir(path), file_format="array_record", try_gcs=False)
    except ImportError as error:        # some builders need TensorFlow, or a reader of their format, merely to be named
        raise UserError(f"data.source: TFDS set {name!r} cannot be opened: it needs the module "
                        f"{error.name!r}") from None
    except (ValueError, AssertionError, RuntimeError, OSError) as error:    # a config or version that does not exist
        raise UserError(f"data.source: TFDS set {name!r} cannot be opened: {_line(error)}") from None


def undecoded(made: Any, split: str, image_key: str) -> Any:
    """The records of a split of the builder `made`, their images as the bytes that they are kept as."""
    return made.as_data_source(split, decoders={image_key: _library().decode.SkipDecoding()})


def decode_image(feature: Any, data: bytes, name: str) -> np.ndarray:
    """A record's image as TFDS decodes it: uint8 (H, W, C). The size that it declares is read before.

    Raises `BadImage` naming it.
    """
    decode.open_header(data, name)
    try:
        return feature.decode_example_np(data)
    except Exception as error:      # whatever the decoder raises for a broken file
        raise decode.BadImage(f"{name} cannot be decoded: {_line(error)}") from None


class Opened(NamedTuple):
    """A prepared image classification set: builder, two keys of a record, TFDS's names of train and test, classes."""

    builder: Any
    image_key: str
    label_key: str
    splits: dict[str, str]
    classes: tuple[str, ...]


def open_prepared(name: str, path: str) -> Opened:
    """The set `name`; where there is no split test, validation is it.

    A set that is not prepared is prepared first, in a process of its own, when TensorFlow is installed.
    Raises `UserError` when that cannot be done, and for a set that is not one of images with one label each.
    """
    made = builder(name, path)
    if not _is_prepared(Path(made.data_dir)):
        prepare(name, path)
        made = builder(name, path)
    info = made.info
    if not info.supervised_keys or len(info.supervised_keys) != 2:
        raise UserError(f"data.source: TFDS set {name!r} is not one of images with a label (it has no supervised keys)")
    image_key, label_key = info.supervised_keys
    features = _library().features
    if not isinstance(info.features[image_key], features.Image) \
            or not isinstance(info.features[label_key], features.ClassLabel):
        raise UserError(f"data.source: TFDS set {name!r} is not one of images with a label (its keys are "
                        f"{image_key!r} and {label_key!r})")
    splits = {"train": "train", "test": "test" if "test" in info.splits else "validation"}
    for split in splits.values():
        if split not in info.splits:
            raise UserError(f"data.source: TFDS set {name!r} has no split {split!r}; it has {', '.join(info.splits)}")
    classes = tuple(info.features[label_key].names)
    check_classes(classes, str(made.data_dir))
    return Opened(made, image_key, label_key, splits, classes)


def read(name: str, config: ConfigDict) -> Splits:
    """The splits of `name`, decoded once into the cache. Raises as `open_prepared` and `decode.decode_all` do."""
    opened = open_prepared(name, config.path)
    folder = Path(opened.builder.data_dir)

    def build(target: Path) -> cache.Built:
        labels, skipped = {}, []
        feature = opened.builder.info.features[opened.image_key]
        for split, theirs in opened.splits.items():
            source = undecoded(opened.builder, theirs, opened.image_key)
            values = np.zeros(len(source), np.int32)

            def image_at(i: int, source: Any = source, values: np.ndarray = values, theirs: str = theirs) -> np.ndarray:
                try:
                    record = source[i]
                    data, values[i] = record[opened.image_key], record[opened.label_key]
                except Exception as error:      # whatever the record reader raises for a broken file
                    raise decode.BadImage(f"{folder}: record {i} of {theirs} cannot be read: {_line(error)}") from None
                image = decode_image(feature, data, f"{folder}: record {i} of {theirs}")
                return decode.resize_all(image[None], config.image_size)[0]

            def name_at(i: int, theirs: str = theirs) -> str:
                return f"record {i} of {theirs}"

            kept, lines = decode.decode_all(len(source), image_at, name_at, target / f"{split}.npy", config.on_error)
            labels[split] = values[kept]
            skipped += lines
        return cache.Built(labels, opened.classes, skipped)

    content = [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in sorted(folder.iterdir())]
    return cache.cached(config.cache, "tfds", [name, config.image_size, config.on_error, content], build)


def prepare(name: str, path: str) -> None:
    """Prepares `name` below `data_dir(path)` by `python -m cnnjax.data.prepare`, the one process with TensorFlow.

    Raises `UserError` when TensorFlow is not installed, with what to install, or with the last line that process wrote.
    """
    command = [sys.executable, "-m", "cnnjax.data.prepare", name, "--data-dir", str(data_dir(path))]
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"data.source: TFDS set {name!r} is not prepared in {data_dir(path)}, and preparing it needs "
                        f"TensorFlow: pip install 'cnnjax[tfds]', or copy the prepared folder here and set data.path")
    print(f"preparing the TFDS set {name} in {data_dir(path)} (once)", file=sys.stderr, flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(lines[-1] if lines else f"data.source: preparing {name!r} failed with status {done.returncode}")


def _is_prepared(folder: Path) -> bool:
    return (folder / "dataset_info.json").is_file() and any(folder.glob("*.array_record*"))


def _library() -> Any:
    import tensorflow_datasets  # a second to import, and the other sources do without

    return tensorflow_datasets


def _line(error: Exception) -> str:
    return one_line(error)[:300]
