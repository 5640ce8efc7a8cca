"""Whatever is cut, changed or put into a label, table or list: it is read, or refused in one line."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cnnjax import data as images
from cnnjax.data import detection
from cnnjax.errors import UserError
from tests.data import test_tables, test_voc, test_yolo_labels
from tests.data.test_folders import _array, _png

PIECES = [b"", b"<", b"-", b"9", b"nan", b"null", b"[", b"}", b"\0", b"\xff", b"1e400", b"{", b": ", b",", b"\n", b'"',
          b"inf", b"\xef\xbb\xbf", b"..", "é".encode(), b"true", b"'", b"\t", b"/", b"\\"]


def _yolo(root):
    test_yolo_labels.standard(root)
    return "yolo", root / "data.yaml"


def _labels(root):
    test_yolo_labels.standard(root)
    return "yolo", root / "labels" / "train" / "a.txt"


def _voc_list(root):
    test_voc.standard(root, lists=("train", "val"))
    return "voc", root / "ImageSets" / "Main" / "val.txt"


def _objects(root):
    for split in ("train", "val"):
        test_voc.picture(root / split / "0.jpg")
        test_tables.metadata(root / split, [{"file_name": "0.jpg", "objects": test_tables.OBJECTS}])
    return "huggingface", root / "val" / "metadata.jsonl"


def _table(root):
    (root / "images").mkdir(parents=True)
    for i in range(8):
        (root / "images" / f"{i}.png").write_bytes(_png(_array(i)))
    (root / "labels.csv").write_text(test_tables.table())
    return "csv", root / "labels.csv"


def _metadata(root):
    _table(root)
    (root / "labels.csv").unlink()
    test_tables.metadata(root / "images", [{"file_name": f"{i}.png", "label": i % 2} for i in range(8)])
    return "huggingface", root / "images" / "metadata.jsonl"


def _attempt(read, *arguments):
    """What was read, or None where it was refused in one line."""
    said = ""
    try:
        return read(*arguments)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    return None


@pytest.mark.parametrize("make", [_yolo, _labels, _voc_list, _objects, _table, _metadata])
@given(st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_read_or_refused_in_one_line(tmp_path, make, data):
    root = tmp_path / "set"
    shutil.rmtree(root, ignore_errors=True)
    source, file = make(root)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at:at + data.draw(st.integers(0, 10))] = data.draw(st.sampled_from(PIECES))
    file.write_bytes(content)
    for on_error in ("stop", "skip"):
        fields = {"source": source, "path": str(root), "on_error": on_error}
        if make in (_table, _metadata):
            read = _attempt(images.load, {**fields, "cache": str(tmp_path / "cache")}, 0)
            assert read is None or len(read.train.labels) + len(read.test.labels) <= 8
            continue
        read = _attempt(detection.load, ConfigDict(
            {**fields, "train_split": "train", "test_split": "val", "classes": ()}), 0)
        for objects in () if read is None else (*read.train.objects, *read.test.objects):
            assert np.isfinite(objects.boxes).all()
            assert (objects.boxes >= 0).all()
            assert (objects.boxes <= [64, 48, 64, 48]).all()
