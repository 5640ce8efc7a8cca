"""`cnnjax data`: what was found of a data set, and its contact sheet."""

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnnjax import cli
from cnnjax.errors import UserError
from cnnjax.reporting import dataset
from tests.data import test_coco, test_voc, test_yolo_labels
from tests.data.test_folders import _array, _png


@pytest.fixture
def classes(tmp_path):
    """Five images of cats and three of dogs, one of them cut off and one larger."""
    for kind, count in (("cat", 5), ("dog", 3)):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "set" / kind / f"{i}.png").write_bytes(_png(_array(i)))
    (tmp_path / "set" / "cat" / "4.png").write_bytes(_png(_array(4, 12)))
    (tmp_path / "set" / "dog" / "2.png").write_bytes(_png(_array(2))[:80])
    (tmp_path / "set" / "notes.txt").write_text("about")
    return tmp_path / "set"


def test_classes_counts_sizes_and_faults_of_a_folder(classes):
    found = dataset.survey(str(classes))
    assert (found.task, found.source, found.classes) == ("classify", "folder", ("cat", "dog"))
    assert found.splits[""].counts.tolist() == [5, 2]
    assert found.splits[""].sizes.tolist() == [[8, 8]] * 4 + [[12, 12]] + [[8, 8]] * 2
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(f"{classes}/dog/2.png: unreadable image")
    assert found.unused == ("notes.txt: beside the class folders, so of no class",)
    assert len(found.pictures) == 7


def test_a_tar_is_the_folder_that_it_packs(classes, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(classes, "train")
        archive.add(classes, "val")
    found = dataset.survey(str(tmp_path / "a.tar.gz"))
    assert found.source == "tar"
    assert {name: split.counts.tolist() for name, split in found.splits.items()} == {"train": [5, 2], "test": [5, 2]}
    assert len(found.skipped) == 2


def test_objects_of_each_split_and_class_are_counted(tmp_path):
    test_voc.standard(tmp_path, ("x", "y", "z"), lists=("train", "test", "cat_train"))
    test_voc.annotation(tmp_path / "Annotations" / "y.xml", test_voc.thing() + test_voc.thing("dog") * 2)
    test_voc.annotation(tmp_path / "Annotations" / "z.xml", test_voc.thing(box=""))
    found = dataset.survey(str(tmp_path))
    assert (found.task, found.source, found.classes) == ("detect", "voc", ("cat", "dog"))
    assert set(found.splits) == {"train", "test"}
    assert found.splits["train"].counts.tolist() == [2, 2]
    assert found.splits["train"].empty == 1
    assert len(found.skipped) == 1
    assert found.notes == ("other splits, not read: cat_train",)


def test_the_verb_prints_and_writes_what_was_found(tmp_path, capsys):
    test_coco.standard(tmp_path / "set")
    arguments = ["data", str(tmp_path / "set"), f"--out={tmp_path / 'sheet.png'}", f"--json={tmp_path / 'a.json'}"]
    for _ in range(2):                      # a sheet of ours may be replaced
        assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/set: boxes, data.source=coco; classes: 1" in said
    assert "contact sheet: " in said
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["splits"]["val"] == {
        "images": 1, "without_objects": 0, "counts": {"cat": 1},
        "sizes": {"smallest": [64, 48], "middle": [64, 48], "largest": [64, 48], "different": 1}}
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert (pixels == (230, 25, 75)).all(-1).any(), "no box in the colour of the first class"
    assert cli.main(["data", str(tmp_path / "set"), "--out", str(tmp_path / "folder")]) == 0
    assert (tmp_path / "folder" / "contact_sheet.png").is_file()


def test_a_file_of_the_user_s_is_not_written_over(tmp_path, capsys):
    test_yolo_labels.standard(tmp_path / "set")
    test_voc.picture(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    assert cli.main(["data", str(tmp_path / "set"), "--out", str(tmp_path / "photo.png")]) == 2
    assert "photo.png is no contact sheet of ours and is not written over" in capsys.readouterr().err
    assert (tmp_path / "photo.png").read_bytes() == before


def test_the_format_and_task_may_be_named(tmp_path, classes):
    test_coco.standard(tmp_path / "both")
    test_yolo_labels.standard(tmp_path / "both")
    with pytest.raises(UserError, match="annotations of several formats, coco, yolo"):
        dataset.survey(str(tmp_path / "both"))
    assert dataset.survey(str(tmp_path / "both"), source="coco").source == "coco"
    assert dataset.survey(str(classes), "classify").source == "folder"
    with pytest.raises(UserError, match="no data set of a known format"):
        dataset.survey(str(classes), "detect")


@pytest.mark.parametrize("arguments", [["none"], ["."], [".", "--task", "detect"], [".", "--source", "mnist"],
                                       ["none", "--source", "voc"], ["none", "--task", "detect", "--source", "voc"],
                                       [".", "--task", "detect", "--source", "mnist"]])
def test_what_is_no_data_set_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
