"""Tables of files and labels, and Hugging Face's metadata: what people name their columns, files and folders."""

import json
from functools import partial

import numpy as np
import pytest
from ml_collections import ConfigDict

from cnnjax import data
from cnnjax.data import detection, streaming
from cnnjax.errors import UserError
from tests.conftest import error_line
from tests.data.annotated import picture
from tests.data.test_folders import _array, _png

KINDS = ("dog", "cat", "dog", "cat")


@pytest.fixture
def images(tmp_path):
    """0.png to 7.png, of dogs and cats in turn, in a folder of their own."""
    folder = tmp_path / "set" / "images"
    folder.mkdir(parents=True)
    for i in range(8):
        (folder / f"{i}.png").write_bytes(_png(_array(i)))
    return tmp_path / "set"


def table(header="file,label", name="images/{i}.png", delimiter=",", labels=("cat", "dog"), rows=range(8), **how):
    lines = [header.replace(",", delimiter)] if header else []
    lines += [delimiter.join((name.format(i=i), labels[i % 2])) for i in rows]
    return "\n".join(lines) + "\n"


def load(path, source="csv", seed=0, **fields):
    return data.load({"source": source, "path": str(path), "cache": str(path.parent / "cache"), **fields}, seed)


refusal = partial(error_line, load)


def right(dataset, classes=("cat", "dog")):
    """That the images are those of the files that were drawn, with the labels of the table."""
    assert dataset.classes == classes
    for split, files in dataset.split.items():
        numbers = [int(name.rpartition("/")[2][:-4]) for name in files]
        read = getattr(dataset, split)
        np.testing.assert_array_equal(read.images, np.stack([_array(i) for i in numbers]))
        np.testing.assert_array_equal(read.labels, [i % 2 for i in numbers])
    assert len(dataset.train.labels) == 6
    assert len(dataset.test.labels) == 2
    return True


@pytest.mark.parametrize("text", [
    table(), table("filename,class"), table("Image, Category"), table("path,target,"[:-1]), table("a,b"), table(""),
    table(delimiter=";"), table(delimiter="\t"), table(name="{i}.png"), table(name="{i}"), table(name="{i}.JPG"),
    table(name="./images/{i}.png"), table(name="images\\{i}.png"), table(name='"images/{i}.png"'),
    table(name=" images/{i}.png "), table("").replace("\n", "\r\n"), table().replace("\n", "\n\n"),
    "label,file\n" + "".join(f"{('cat', 'dog')[i % 2]},{i}.png\n" for i in range(8)),
    "".join(f"{('cat', 'dog')[i % 2]},{i}.png\n" for i in range(8)),
    "id,breed,age\n" + "".join(f"{i},{('cat', 'dog')[i % 2]},{i}\n" for i in range(8)),
    "filename,cat,dog\n" + "".join(f"{i}.png,{int(i % 2 == 0)},{int(i % 2)}\n" for i in range(8)),
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_files_and_labels_is_read_and_split_by_seed(images, text, encoding):
    (images / "labels.csv").write_bytes(text.encode(encoding))
    for path in (images, images / "labels.csv"):
        dataset = load(path)
        assert right(dataset)
        assert dataset.notes[0].startswith(f"no splits in {images}: 2 of its 8 images are the test, drawn by seed 0")
        assert not dataset.left_out


def test_labels_that_are_numbers_keep_their_order(images):
    (images / "a.csv").write_text(table(labels=("2", "10")))
    assert right(load(images), ("2", "10"))


@pytest.mark.parametrize("header", ["file,label,split", "file,label,Subset"])
def test_a_column_of_splits_is_used(images, header):
    splits = ("train", "TRAIN", "training", "train", "valid", "val", "test", "Test")
    (images / "a.csv").write_text(header + "\n" + "".join(
        f"{i}.png,{('cat', 'dog')[i % 2]},{split}\n" for i, split in enumerate(splits)))
    dataset = load(images)
    assert [s.labels.tolist() for s in (dataset.train, dataset.validation, dataset.test)] == [
        [0, 0, 1, 1], [0, 1], [0, 1]]
    assert not dataset.split
    (images / "a.csv").write_text(header + "\n0.png,cat,fold1\n")
    assert "line 2: split 'fold1', expected train, val or test" in refusal(images)


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("Train_labels.csv", "val.csv"),
                                   ("train/_classes.csv", "valid/_classes.csv")])
def test_a_table_a_split_is_used(images, names):
    for name, rows in zip(names, (range(4), range(4, 8)), strict=True):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text(table(rows=rows))
    dataset = load(images)
    np.testing.assert_array_equal(dataset.train.images, np.stack([_array(i) for i in (0, 2, 1, 3)]))
    np.testing.assert_array_equal(dataset.test.images, np.stack([_array(i) for i in (4, 6, 5, 7)]))


def test_images_of_one_name_are_told_apart_by_the_folder_of_their_split(images):
    for split, shift in (("train", 0), ("test", 4)):
        (images / split).mkdir()
        for i in range(4):
            (images / split / f"{i}.png").write_bytes(_png(_array(i + shift)))
        (images / f"{split}.csv").write_text(table(name="{i}.png", rows=range(4)))
    dataset = load(images)
    np.testing.assert_array_equal(dataset.test.images, np.stack([_array(i) for i in (4, 6, 5, 7)]))
    assert len(dataset.left_out) == 8                       # of images/


def test_rows_and_files_that_are_not_used_are_listed(images):
    (images / "images" / "more.png").write_bytes(_png(_array(9)))
    (images / "a.csv").write_text(table() + "images/0.png,cat\nimages/1.png,\n")
    dataset = load(images)
    assert right(dataset)
    assert sorted(dataset.left_out) == [f"images/0.png: there twice ({images}/a.csv, line 10)",
                                        f"images/1.png: no label ({images}/a.csv, line 11)",
                                        "images/more.png: in no row"]


def test_a_missing_image_is_named_or_skipped(images):
    (images / "a.csv").write_text(table() + "images/8\0.png,cat\n")
    assert "cannot be read: embedded null byte" in refusal(images)
    (images / "a.csv").write_text(table() + "images/8.png,cat\n")
    assert "8.png cannot be read: No such file or directory" in refusal(images)
    dataset = load(images, on_error="skip")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 8
    assert "8.png cannot be read" in dataset.left_out[0]


@pytest.mark.parametrize(("text", "said"), [
    ("", "has 0 rows"), ("file,label\n", "has 1 row, expected more"),
    ("file,label\n0.png,cat\n1.png\n", "line 3: expected 2 columns"),
    ("a,b,c\n0.png,cat,1\n", "a.csv: no column of files among a, b, c"),
    ("file,x,y\n0.png,0.5,3\n", "no column is named as labels are"),
    ("file,cat,dog\n0.png,1,1\n", "line 2: is of 2 classes (cat, dog), expected one"),
    ("file,cat,dog\n0.png,0,0\n", "line 2: is of 0 classes (none), expected one"),
    ("filename,class,xmin,ymin,xmax,ymax\n0.png,cat,1,2,3,4\n", "is a table of boxes"),
    ("0.png,cat,1\n1.png,dog,2\n", "has no header; expected one that names its 3 columns"),
    ("file,label\n0.png,cat\n0.png,dog\n", "line 3: '0.png' is 'dog', but 'cat' at"),
    ("file,label\n0.png,cat\n1.png,cat\n", "has one class only, 'cat'"),
    ("file,label,split\n0.png,cat,train\n1.png,dog,train\n", "found the splits train with labels; expected train and"),
    ("file,label,split\n0.png,cat,train\n1.png,dog,\n", "some rows have a split and some have none"),
    ("file,label,split\n0.png,cat,train\n1.png,dog,train\n2.png,cow,test\n",
     "class 'cow' of test has no image in train"),
    ('file,label\n"0.png,cat\n', "not a table"),
])
def test_flaws_of_a_table_are_told(images, text, said):
    (images / "a.csv").write_text(text)
    assert said in refusal(images)


def test_a_path_without_a_table_is_told(images):
    assert "has no table (*.csv)" in refusal(images)
    assert "no table of images or folder" in refusal(images / "none.csv")
    (images / "a.csv").write_bytes(b"file,label\n\xff\xfe")
    assert "a.csv: cannot be read as text" in refusal(images)


def test_an_image_that_could_be_two_is_refused(images):
    (images / "other").mkdir()
    (images / "other" / "0.png").write_bytes(_png(_array(9)))
    (images / "a.csv").write_text(table(name="{i}.png"))
    assert right(load(images))                              # those of images/ are nearer
    (images / "images").rename(images / "more")
    assert "line 2: '0.png' could be more/0.png or other/0.png" in refusal(images)


def test_a_table_is_streamed_as_it_is_loaded(images):
    (images / "a.csv").write_text(table())
    streamed = streaming.open_folder(str(images), "csv", 0.25, 3)
    loaded = load(images, seed=3, test_share=0.25)
    assert streamed.split == loaded.split
    assert [streamed.test.read(i)[1] for i in range(len(streamed.test))] == loaded.test.labels.tolist()


# Hugging Face

def metadata(folder, rows, name="metadata.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".csv"):
        text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    else:
        text = "\n".join(json.dumps(row) for row in rows)
    (folder / name).write_text(text + "\n", encoding="utf-8-sig")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("labels", [("cat", "dog"), (0, 1), (2, 10), (True, False)])
def test_metadata_beside_the_images_is_read_and_split_by_seed(images, name, labels):
    rows = [{"file_name": f"{i}.png", "label": labels[i % 2], "text": "x"} for i in range(8)]
    metadata(images / "images", rows, name)
    dataset = load(images, "huggingface")
    if labels == (True, False):
        assert dataset.classes == ("False", "True")
    else:
        assert right(dataset, tuple(map(str, labels)))


def test_metadata_of_each_split_is_read(images):
    for split, rows in (("train", range(4)), ("validation", range(4, 6)), ("test", range(6, 8))):
        for i in rows:
            (images / split / "sub").mkdir(parents=True, exist_ok=True)
            (images / "images" / f"{i}.png").rename(images / split / "sub" / f"{i}.png")
        metadata(images / split, [{"file_name": f"sub/{i}.png", "label": i % 2} for i in rows])
    dataset = load(images, "huggingface")
    assert [s.labels.tolist() for s in (dataset.train, dataset.validation, dataset.test)] == [
        [0, 0, 1, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize(("text", "said"), [
    ("{", "line 1: not JSON"), ("[1]\n", "line 1: no 'file_name'"), ('{"label": 1}', "line 1: no 'file_name'"),
    ('{"file_name": "0.png", "text": "a cat"}', "no 'label' among file_name, text"), ("", "is empty"),
    ('{"file_name": "0.png", "label": [1, 2]}', "label is [1, 2], expected one class"),
])
def test_flaws_of_metadata_are_told(images, text, said):
    (images / "images" / "metadata.jsonl").write_text(text)
    assert said in refusal(images, "huggingface")
    (images / "images" / "metadata.csv").write_text("file_name,label\n")
    assert "has a metadata.jsonl and a metadata.csv" in refusal(images, "huggingface")


OBJECTS = {"bbox": [[9, 2, 40, 40], [0, 0, 10, 10]], "category": ["cat", "dog"], "area": [900, None]}


def boxes(root, on_error="stop", test=""):
    return detection.load(ConfigDict({"source": "huggingface", "path": str(root), "train_split": "train",
                                      "test_split": test, "classes": (), "on_error": on_error}), 0)


@pytest.mark.parametrize("objects", [
    OBJECTS, {"bbox": OBJECTS["bbox"], "categories": [0, 1]}, {**OBJECTS, "category": [2, 10]},
    [{"bbox": b, "category": c, "area": a} for b, c, a in zip(*OBJECTS.values(), strict=True)]])
def test_objects_of_metadata_are_boxes(tmp_path, objects):
    for split in ("train", "test"):
        picture(tmp_path / split / "0.jpg")
        metadata(tmp_path / split, [{"file_name": "0.jpg", "objects": objects}])
    read = boxes(tmp_path, test="test")
    np.testing.assert_array_equal(read.test.objects[0].boxes, [[9, 2, 49, 42], [0, 0, 10, 10]])
    assert read.test.objects[0].classes.tolist() == [0, 1]
    assert read.classes in (("cat", "dog"), ("0", "1"), ("2", "10"))


@pytest.mark.parametrize(("objects", "said"), [
    ({"bbox": [[9, 2, 40]], "category": ["cat"]}, "bbox is [9, 2, 40], expected four numbers"),
    ({"bbox": [[9, 2, 40, 40]], "category": []}, "no lists 'bbox' and 'category' of one length"),
    (None, "objects is None, expected an object of lists"), ({"bbox": []}, "no lists 'bbox' and 'category'")])
def test_broken_objects_of_metadata_are_skipped_and_listed(tmp_path, objects, said):
    for i in range(5):
        picture(tmp_path / f"{i}.jpg")
    metadata(tmp_path, [*({"file_name": f"{i}.jpg", "objects": OBJECTS} for i in range(4)),
                        {"file_name": "4.jpg", "objects": objects}])
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 5: .*"):
        boxes(tmp_path)
    read = boxes(tmp_path, "skip")
    assert len(read.train) + len(read.test) == 5
    assert said in read.skipped[0]


def test_metadata_without_objects_is_no_detection_set(tmp_path):
    picture(tmp_path / "0.jpg")
    metadata(tmp_path, [{"file_name": "0.jpg", "label": 1}])
    with pytest.raises(UserError, match="no 'objects' among file_name, label"):
        boxes(tmp_path)
