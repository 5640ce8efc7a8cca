"""Reader of VOC 2007 as TensorFlow Datasets prepares it (array_record)."""

from typing import Any

import numpy as np

from cnnjax.config import user_path
from cnnjax.data import decode, tfds
from cnnjax.data.annotations import Faults, usable_box
from cnnjax.data.detection_sets import DetectionSet, Objects
from cnnjax.data.voc import continuous
from cnnjax.errors import UserError

SPLITS = {"trainval": "train+validation", "val": "validation"}      # TFDS' names of VOC's splits


def read(path: str, train_split: str, test_split: str,
         faults: Faults) -> tuple[DetectionSet, DetectionSet, tuple[str, ...]]:
    """The two splits and VOC's classes, from the folder `path` in which TFDS prepares its sets.

    TFDS divides the 1-based corners by the size of the image and nothing else, so they are converted as in `voc`.
    Raises UserError where it is not prepared.
    """
    if not any(user_path(path).glob("voc/2007/*/dataset_info.json")):
        raise UserError(f"data.path {path}: VOC 2007 is not prepared there; run `tfds build voc/2007 --data_dir {path} "
                        "--file_format array_record` once, where TensorFlow is installed")
    builder = tfds.builder("voc/2007", path)
    names = tuple(builder.info.features["objects"]["label"].names)
    train, test = (_split(builder, names, split, faults) for split in (train_split, test_split))
    return train, test, names


def _split(builder: Any, names: tuple[str, ...], which: str, faults: Faults) -> DetectionSet:
    theirs = "+".join(SPLITS.get(part, part) for part in which.split("+"))
    source, feature = tfds.undecoded(builder, theirs, "image"), builder.info.features["image"]
    kept, sizes, objects, titles = [], [], [], []
    for i in range(len(source)):
        title = f"record {i} of {theirs}"
        try:
            example = source[i]
            title = example["image/filename"].decode()
            height, width = tfds.decode_image(feature, example["image"], title).shape[:2]
        except decode.BadImage as error:
            faults.found(title, f"unreadable image ({error})")
            continue
        except Exception as error:          # whatever the record reader raises for a broken file
            faults.found(title, f"cannot be read ({type(error).__name__}: {error})")
            continue
        rows = []
        for bbox, label, difficult, truncated in zip(*(np.asarray(example["objects"][key]) for key in (
                "bbox", "label", "is_difficult", "is_truncated")), strict=True):
            box = usable_box(continuous(bbox[[1, 0, 3, 2]] * [width, height, width, height]), height, width)
            if isinstance(box, str):
                faults.found(title, f"{names[label]} {box}")
            else:
                rows.append((box, int(label), bool(difficult), bool(truncated)))
        kept.append(i)
        sizes.append((height, width))
        objects.append(Objects.of(rows))
        titles.append(title)
    return DetectionSet(tuple(titles), np.array(sizes).reshape(-1, 2), tuple(objects),
                        lambda i: tfds.decode_image(feature, source[kept[i]]["image"], titles[i]))
