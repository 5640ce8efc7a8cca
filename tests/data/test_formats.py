"""data.source=auto: the format that lies at a path."""

import json
import tarfile

import pytest
from ml_collections import ConfigDict

from cnnjax import data
from cnnjax.data import detection, formats
from cnnjax.errors import UserError
from tests.data import test_coco, test_labelme, test_voc, test_yolo_labels
from tests.data.test_folders import _array, _png
from tests.data.test_tables import OBJECTS, metadata


def make(root, kind):
    if kind == "voc":
        test_voc.standard(root)
    elif kind == "coco":
        test_coco.standard(root)
    elif kind == "coco utf-16":
        test_coco.standard(root, "utf-16")
    elif kind == "yolo":
        test_yolo_labels.standard(root)
    elif kind == "yolo beside":
        test_yolo_labels.add(root, "a", layout="{name}")
        (root / "classes.txt").write_text("cat\n")
    elif kind == "labelme":
        test_labelme.add(root, "a")
    elif kind == "huggingface":
        test_voc.picture(root / "train" / "a.jpg")
        metadata(root / "train", [{"file_name": "a.jpg", "objects": OBJECTS}])


@pytest.mark.parametrize("kind", ["voc", "coco", "coco utf-16", "yolo", "yolo beside", "labelme", "huggingface"])
def test_annotations_are_known_by_their_files(tmp_path, kind):
    make(tmp_path, kind)
    assert formats.guess(str(tmp_path), "detect") == kind.split()[0]
    assert formats.guess_task(str(tmp_path)) == "detect"


def test_a_detection_set_is_read_by_what_lies_in_the_folder_and_said(tmp_path):
    make(tmp_path, "voc")
    read = detection.load(ConfigDict({"source": "auto", "path": str(tmp_path), "train_split": "trainval",
                                      "test_split": "test", "classes": (), "on_error": "stop"}), 0)
    assert read.classes == ("cat",)
    assert read.notes[0] == f"data.source=auto: {tmp_path} is read as voc"


def test_annotations_of_two_formats_and_of_none_are_refused(tmp_path):
    make(tmp_path, "voc")
    make(tmp_path, "yolo")
    with pytest.raises(UserError, match="annotations of several formats, voc, yolo"):
        formats.guess(str(tmp_path), "detect")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"a": 1}))
    for task in ("detect", "classify"):
        with pytest.raises(UserError, match="no data set of a known format; expected "):
            formats.guess(str(tmp_path / "empty"), task)
        with pytest.raises(UserError, match="no file or folder"):
            formats.guess(str(tmp_path / "none"), task)


@pytest.fixture
def folder(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "set" / kind / f"{i}.png").write_bytes(_png(_array(i)))
    return tmp_path / "set"


def load(path):
    return data.load({"source": "auto", "path": str(path), "cache": str(path.parent / "cache")}, 0)


def test_classes_are_read_by_what_lies_in_the_folder_and_said(folder, tmp_path):
    assert formats.guess_task(str(folder)) == "classify"
    dataset = load(folder)
    assert dataset.classes == ("cat", "dog")
    assert dataset.notes[0] == f"data.source=auto: {folder} is read as folder"
    (folder / "labels.csv").write_text("file,label\n" + "".join(
        f"{kind}/{i}.png,{kind}\n" for kind in ("cat", "dog") for i in range(5)))
    assert load(folder).split == dataset.split
    assert load(folder / "labels.csv").notes[0].endswith("is read as csv")
    (folder / "labels.csv").unlink()
    metadata(folder, [{"file_name": f"{kind}/{i}.png", "label": kind} for kind in ("cat", "dog") for i in range(5)])
    assert load(folder).notes[0].endswith("is read as huggingface")
    assert load(folder).split == dataset.split


def test_a_tar_and_idx_files_are_known(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "train")
        archive.add(folder, "test")
    assert len(load(tmp_path / "a.tar.gz").test.labels) == 10
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert formats.guess(str(tmp_path / "idx"), "classify") == "idx"
