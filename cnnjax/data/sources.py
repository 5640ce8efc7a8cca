"""The sources of classification images by name. A source is a function from the `data` config to `Splits`.

`digits` comes with scikit-learn and needs no network; `folder`, `csv`, `huggingface`, `tar` and `idx` read files, and
`auto` is the one of them whose files lie at the path; every other name is one of TensorFlow Datasets.
"""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cnnjax.config import nearest
from cnnjax.data import decode, folders, formats, idx, tfds
from cnnjax.data.sets import ImageSet, Splits
from cnnjax.errors import UserError


def digits(config: ConfigDict) -> Splits:
    """scikit-learn's 1,797 handwritten digits (UCI optical recognition, 8x8, 17 grey levels), one channel.

    Resized bilinearly to 16x16 (or `image_size`). A fifth of every class is the test split (359 images), chosen by a
    seed that never changes: runs of all seeds are scored on the same images.
    """
    from sklearn.datasets import load_digits  # slow to import, and the other sources do without

    values, labels = load_digits(return_X_y=True)
    images = np.round(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    images = decode.resize_all(images, config.image_size or 16)
    labels = labels.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = order[labels[order] == label]
        test[members[:round(len(members) / 5)]] = True
    return Splits({"train": ImageSet(images[~test], labels[~test]), "test": ImageSet(images[test], labels[test])},
                  tuple(str(d) for d in range(10)))


SOURCES: dict[str, Callable[[ConfigDict], Splits]] = {
    "digits": digits,
    **dict.fromkeys(folders.LISTINGS, folders.folder),
    "tar": folders.tar,
    "idx": idx.idx,
}


def names() -> list[str]:
    """The sources that are not TFDS's, sorted."""
    return sorted(SOURCES)


def read(config: ConfigDict) -> Splits:
    """The splits of the source that `config.source` names ("auto": the one whose files lie at `path`).

    Raises `UserError` for an unknown name.
    """
    config.source, notes = formats.resolve(config.source, config.path, "classify")
    if config.source in SOURCES:
        read = SOURCES[config.source](config)
        return read._replace(notes=(*notes, *read.notes))
    explicit = config.source.startswith("tfds:")
    name = config.source.removeprefix("tfds:")
    if not tfds.is_known(name, config.path):
        hint = nearest(name, tfds.names() if explicit else [*SOURCES, *tfds.names()])
        raise UserError(f"data.source: unknown source {config.source!r}"
                        f"{hint or '; known are ' + ', '.join(names()) + ' and every name of TFDS'}")
    return tfds.read(name, config)
