"""YOLO's text files and data.yaml, as its users and as annotation tools lay them out."""

from functools import partial

import numpy as np
import pytest

from tests.conftest import error_line
from tests.data import annotated
from tests.data.annotated import picture

ROW = "0 0.5 0.5 0.25 0.5\n"            # of 64x48: (24, 12, 40, 36)
YAML = "names: [cat, dog]\ntrain: images/train\nval: images/val\n"


def add(root, name, rows=ROW, layout="{kind}/{name}"):
    picture(root / f"{layout.format(kind='images', name=name)}.jpg")
    if rows is not None:
        label = root / f"{layout.format(kind='labels', name=name)}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_bytes(rows if isinstance(rows, bytes) else rows.encode())


def standard(root, rows=ROW, yaml=YAML):
    add(root, "train/a", rows)
    add(root, "val/b")
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)


def load(root, train="train", test="val", **fields):
    return annotated.load("yolo", root, train, test, **fields)


refusal = partial(error_line, load)


def right(images, names):
    annotated.check(images, names, [24, 12, 40, 36])
    return True


@pytest.mark.parametrize("yaml", [
    YAML, "names: {0: cat, 1: dog}\ntrain: images/train\nval: images/val\n",
    "path: ../datasets/somewhere\n" + YAML, "path: .\nnc: 2\n" + YAML, "\ufeff" + YAML.replace("\n", "\r\n"),
    "names:\n- cat\n- dog\ntrain: ../images/train\nval: ../images/val\ntest:\nroboflow: {workspace: x}\n",
    "names: [cat, dog]\ntrain: [images/train]\nvalid: ./images/val/\ntest: # none\n",
    "names: [cat, dog]\ntrain: lists/train.txt\nval: lists/val.txt\n"])
def test_a_yaml_file_names_splits_and_classes(tmp_path, yaml):
    root = tmp_path / "set"
    standard(root, yaml=yaml)
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("./images/train/a.jpg\n")
    (root / "lists" / "val.txt").write_bytes(b"../images/val/b.jpg\r\n\r\n")
    for path in (root, root / "data.yaml"):
        data = load(path)
        assert data.classes == ("cat", "dog")
        assert right(data.train, ("a.jpg",))
        assert right(data.test, ("b.jpg",))
    assert right(load(root, "trainval", "test").test, ("b.jpg",))


@pytest.mark.parametrize("layout", ["{split}/{kind}/{name}", "{kind}/{split}/{name}"])
def test_the_folders_of_roboflow_and_ultralytics_are_read(tmp_path, layout):
    for split, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        add(tmp_path, name, layout=layout.replace("{split}", split))
    images = layout.format(split="{}", kind="images", name="").rstrip("/")
    keys = {"train": "train", "val": "valid", "test": "test"}
    (tmp_path / "data.yaml").write_text("names: [cat]\n" + "".join(
        f"{key}: ../{images.format(split)}\n" for key, split in keys.items()))
    data = load(tmp_path, "trainval", "test")
    assert right(data.train, ("a.jpg", "b.jpg"))
    assert right(data.test, ("c.jpg",))
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\n")
    assert right(load(tmp_path, "trainval", "test").train, ("a.jpg", "b.jpg"))


@pytest.mark.parametrize("names", ["classes.txt", "obj.names", "predefined_classes.txt", "voc.names"])
def test_labels_beside_the_images_are_split_by_seed(tmp_path, names):
    """As labelImg writes them."""
    for i in range(10):
        add(tmp_path, str(i), layout="{name}")
    (tmp_path / names).write_text("cat\ndog\n")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert right(data.train, data.train.names)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert "2 of its 10 images are it, drawn by seed 0" in data.notes[0]


def test_lists_of_darknet_are_splits(tmp_path):
    for name in "ab":
        add(tmp_path / "data", name, layout="obj/{name}")
    (tmp_path / "train.txt").write_text("data/obj/a.jpg\n")
    (tmp_path / "valid.txt").write_text("data/obj/b.jpg\n")
    (tmp_path / "obj.names").write_text("cat\n")
    data = load(tmp_path)
    assert right(data.train, ("a.jpg",))
    assert right(data.test, ("b.jpg",))


def test_without_names_classes_are_numbers_and_said(tmp_path):
    standard(tmp_path, yaml=None, rows=ROW + ROW.replace("0", "10", 1) + ROW.replace("0", "2", 1))
    data = load(tmp_path)
    assert data.classes == ("0", "2", "10")
    assert "classes are called by their numbers" in data.notes[0]


@pytest.mark.parametrize(("row", "box"), [
    ("0 0.5 0.5 1 1", (0, 0, 64, 48)), ("0.0 .5 5e-1 1.0 1.0", (0, 0, 64, 48)), ("0\t0.5\t0.5\t1\t1", (0, 0, 64, 48)),
    ("  0  0.5 0.5  1 1  ", (0, 0, 64, 48)), ("0 0.95 0.5 0.2 1", (54.4, 0, 64, 48)),
    ("0 0.25 0.25 0.75 0.25 0.5 0.75", (16, 12, 48, 36)),
    ("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75", (16, 12, 48, 36))])
def test_a_row_is_a_box_or_the_bounds_of_a_polygon(tmp_path, row, box):
    standard(tmp_path, f"{row}\n")
    data = load(tmp_path)
    np.testing.assert_allclose(data.train.objects[0].boxes, [box], rtol=1e-6)
    assert any("1 objects in" in note and "polygons" in note for note in data.notes) == (len(row.split()) > 5)


def test_keypoints_after_a_box_are_no_polygon(tmp_path):
    standard(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.1 0.2 0.2\n", "kpt_shape: [2, 2]\n" + YAML)
    assert right(load(tmp_path).train, ("a.jpg",))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n\n"])
def test_labels_are_read_in_any_encoding(tmp_path, encoding, end):
    standard(tmp_path, (ROW.strip() + end).encode(encoding))
    assert right(load(tmp_path).train, ("a.jpg",))


def test_an_image_without_a_label_is_without_objects_and_said(tmp_path):
    standard(tmp_path)
    add(tmp_path, "train/none", None)
    add(tmp_path, "train/empty", "\n")
    data = load(tmp_path)
    assert [len(objects.classes) for objects in data.train.objects] == [1, 0, 0]
    assert any(note.startswith("1 of 3 images in") and "have no label file" in note for note in data.notes)


@pytest.mark.parametrize(("row", "reason"), [
    ("0 320 240 64 48", "320 240 64 48 are not shares of the image's sides, from 0 to 1"),
    ("0 -0.5 0.5 0.1 0.1", "are not shares"), ("2 0.5 0.5 0.1 0.1", "class 2, expected 0 to 1"),
    ("-1 0.5 0.5 0.1 0.1", "class -1, expected 0 to 1"), ("0.5 0.5 0.5 0.1 0.1", "class 0.5, expected"),
    ("cat 0.5 0.5 0.1 0.1", "'cat 0.5 0.5 0.1 0.1', expected numbers"), ("0 0,5 0,5 0,1 0,1", "expected numbers"),
    ("0 0.5 0.5 0.1", "has 4 numbers"), ("0", "has 1 numbers"), ("0 0.5 0.5 0.1 0.1 0.9", "has 6 numbers"),
    ("0 0.5 0.5 0 0.1", "has no area"), ("0 0.5 nan 0.1 0.1", "are not shares"),
    ("0 0.5 0.5 -0.005 0.1", "is reversed"), ("0 0.5 0.5 inf 0.1", "are not shares"),
    ("1e400 0.5 0.5 0.1 0.1", "class 1e400, expected 0 to 1"), ("nan 0.5 0.5 0.1 0.1", "class nan, expected 0 to 1")])
def test_a_broken_row_is_skipped_and_listed_and_the_others_are_kept(tmp_path, row, reason):
    standard(tmp_path, f"{row}\n{ROW}")
    assert reason in (line := refusal(tmp_path))
    assert "a.txt: " in line
    data = load(tmp_path, on_error="skip")
    assert right(data.train, ("a.jpg",))
    assert len(data.skipped) == 1


def test_labels_that_are_no_text_are_skipped_with_their_image(tmp_path):
    standard(tmp_path)
    add(tmp_path, "train/bad", b"\xff\xfe0")
    assert "bad.txt: cannot be read as text" in refusal(tmp_path)
    assert right(load(tmp_path, on_error="skip").train, ("a.jpg",))


def test_labels_without_an_image_and_splits_that_are_not_there_are_listed(tmp_path):
    standard(tmp_path, yaml=YAML + "test: images/test\n")
    (tmp_path / "labels" / "train" / "gone.txt").write_text(ROW)
    unused = [line.removeprefix(f"{tmp_path}/") for line in load(tmp_path).unused]
    assert unused == ["data.yaml: test is 'images/test', which is not there", "labels/train/gone.txt: has no image"]


def test_two_names_of_one_class_are_one(tmp_path):
    standard(tmp_path, yaml=YAML.replace("dog", "cat"), rows=ROW + ROW.replace("0", "1", 1))
    data = load(tmp_path)
    assert data.classes == ("cat",)
    assert data.train.objects[0].classes.tolist() == [0, 0]
    assert "several classes are named 'cat'" in data.notes[0]


@pytest.mark.parametrize(("yaml", "said"), [
    ("names: [cat\n", "data.yaml: not YAML"), ("", "found NoneType, expected names"),
    ("- cat\n", "found list, expected names, train, val and test"),
    ("names: 3\ntrain: images/train\n", "names is 3, expected a list"),
    ("nc: 3\n" + YAML, "nc is 3, but there are 2 names"),
    ("names: {0: cat, 2: dog}\ntrain: images/train\n", "numbered from 0 on without a gap"),
    ("names: {a: cat}\ntrain: images/train\n", "numbered from 0 on without a gap"),
    ("names: [cat]\ntrain: 3\n", "train is 3, expected a folder"),
    ("names: [cat]\ntrain: nowhere\n", "no images where data.yaml says that the splits are"),
    ("names: [cat, dog]\ntrain: images/train\n", "no split 'val'"),
    ("!!python/object/apply:os.system ['true']\n", "not YAML")])
def test_flaws_of_a_yaml_file_are_told(tmp_path, yaml, said):
    standard(tmp_path, yaml=yaml)
    assert said in refusal(tmp_path)


def test_a_folder_without_images_and_several_yaml_files_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "b.yaml").write_text(YAML)
    (tmp_path / "other.yaml").write_text("lr: 0.1\n")
    assert "a.yaml and b.yaml could describe the set; name one of them in data.path" in refusal(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.yaml").unlink()
    assert "no images and no data.yaml in it" in refusal(tmp_path)
