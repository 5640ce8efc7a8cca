"""COCO's JSON as COCO and annotation tools write it. D1 to D13: rows of docs/reliability.md."""

import json
from functools import partial

import pytest

from tests.conftest import error_line
from tests.data import annotated
from tests.data.annotated import picture

BROKEN = {"id": 2, "image_id": 1, "category_id": 1, "area": 32}


def content(**parts):
    """A whole annotation file of one 64x48 image, with parts replaced."""
    return {"images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 2, 40, 40], "area": 900}], **parts}


def write(file, parts, encoding="utf-8"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(json.dumps(parts, ensure_ascii=False).encode(encoding))


def standard(root, encoding="utf-8", suffix=".jpg", splits=("train", "val"), **parts):
    for split in splits:
        picture(root / split / f"1{suffix}")
        write(root / "annotations" / f"instances_{split}.json", content(**parts), encoding)


def load(root, train="train", test="val", **fields):
    return annotated.load("coco", root, train, test, **fields)


refusal = partial(error_line, load)


def right(images, names=("1.jpg",)):
    annotated.check(images, names, [9, 2, 49, 42])
    return True


# D1

@pytest.mark.parametrize("suffix", [".PNG", ".JPEG", ".Jpg", ".bmp", ".webp", ".gif", ".tif", ".ppm"])
@pytest.mark.parametrize("named", [True, False])
def test_images_of_any_suffix_are_found_by_their_own_name_or_with_another_suffix(tmp_path, suffix, named):
    standard(tmp_path, suffix=suffix, images=[{"id": 1, "file_name": f"1{suffix}" if named else "1.jpg"}])
    assert right(load(tmp_path).train, (f"1{suffix}",))


@pytest.mark.parametrize("name", ["1", "1.JPG", "train/1.jpg", "./1.jpg", "images\\1.jpg", "/data/upload/1.jpg",
                                  "C:\\photos\\1.jpg", "https://host/photos/1.jpg"])
def test_an_image_is_found_whatever_folder_its_file_name_has(tmp_path, name):
    standard(tmp_path, images=[{"id": 1, "file_name": name}])
    assert right(load(tmp_path).test)


def test_of_two_images_of_one_stem_the_named_one_is_read_and_otherwise_neither(tmp_path):
    standard(tmp_path)
    picture(tmp_path / "train" / "1.png")
    assert right(load(tmp_path).train)
    standard(tmp_path, images=[{"id": 1, "file_name": "1"}])
    assert "several images could be meant: train/1.jpg, train/1.png" in refusal(tmp_path)


def test_an_image_of_another_split_is_not_taken_for_a_missing_one(tmp_path):
    standard(tmp_path)
    (tmp_path / "val" / "1.jpg").rename(tmp_path / "val" / "2.jpg")
    assert "val/1.jpg: no such image file" in refusal(tmp_path)


def test_images_that_the_annotations_do_not_name_are_listed(tmp_path):
    standard(tmp_path)
    picture(tmp_path / "val" / "2.jpg")
    (tmp_path / "train" / "3.heic").write_bytes(b"")
    assert load(tmp_path).unused == (f"{tmp_path}/val/2.jpg: not in instances_val.json",)
    standard(tmp_path, images=[*content()["images"], {"id": 2, "file_name": "3.jpg"}])
    assert "no such image file; train/3.heic is of no kind that is read (*.jpg" in refusal(tmp_path)


def test_a_name_that_leads_out_of_the_set_is_refused(tmp_path):
    standard(tmp_path / "set", images=[{"id": 1, "file_name": "../../1.jpg"}])
    picture(tmp_path / "1.jpg")
    picture(tmp_path / "set" / "1.jpg")
    assert "the image '../../1.jpg' lies outside of its folder" in refusal(tmp_path / "set")
    standard(tmp_path / "set", images=[{"id": 1, "file_name": "../train/1.jpg"}])      # from the JSON's own folder
    assert right(load(tmp_path / "set").train)


# D3

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-32-be"])
def test_json_is_read_in_any_encoding(tmp_path, encoding):
    standard(tmp_path, encoding, categories=[{"id": 1, "name": "Kätzchen"}])
    data = load(tmp_path)
    assert data.classes == ("Kätzchen",)
    assert right(data.train)


# D5

@pytest.mark.parametrize(("broken", "reason"), [
    ({}, "bbox is None, expected four numbers"), ({"bbox": None}, "bbox is None"), ({"bbox": []}, "bbox is []"),
    ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]"), ({"bbox": [1, 2, 3, 4, 5]}, "bbox is [1, 2, 3, 4, 5]"),
    ({"bbox": [float("nan"), 1, 2, 3]}, "not finite"), ({"bbox": [1, 2, float("inf"), 3]}, "not finite"),
    ({"bbox": ["1", "2", "3", "4"]}, "bbox is ['1', '2'"), ({"bbox": [None] * 4}, "bbox is [None"),
    ({"bbox": {"x": 1}}, "bbox is {'x': 1}"), ({"bbox": "1 2 3 4"}, "bbox is '1 2 3 4'"),
    ({"bbox": [[1, 2, 3, 4]]}, "bbox is [[1"), ({"bbox": [10**400, 1, 2, 3]}, "expected four numbers"),
    ({"bbox": [10, 2, -5, 4]}, "is reversed"), ({"bbox": [10, 2, 5, 0]}, "has no area"),
    ({"bbox": [100, 2, 5, 5]}, "lies outside the image"),
    ({"bbox": [1, 2, 3, 4], "iscrowd": "yes"}, "iscrowd is 'yes'"),
    ({"bbox": [1, 2, 3, 4], "image_id": 9}, "annotations[1] is of the image 9, which is not in the list"),
    ({"bbox": [1, 2, 3, 4], "image_id": None}, "is of the image None"),
    ({"bbox": [1, 2, 3, 4], "image_id": "1"}, "is of the image '1'"),
    ({"bbox": [1, 2, 3, 4], "image_id": [1]}, "is of the image [1]"),
    ({"bbox": [1, 2, 3, 4], "category_id": 7}, "is of the category 7, which is not in the list"),
    ({"bbox": [1, 2, 3, 4], "category_id": None}, "is of the category None")])
def test_a_broken_annotation_is_skipped_and_listed_and_the_others_are_kept(tmp_path, broken, reason):
    standard(tmp_path, annotations=[*content()["annotations"], {**BROKEN, **broken}])
    assert reason in refusal(tmp_path)
    data = load(tmp_path, on_error="skip")
    assert right(data.train)
    assert right(data.test)
    assert len(data.skipped) == 2
    assert reason in data.skipped[0]
    assert "instances_train.json: " in data.skipped[0]
    assert data.left_out == data.skipped


@pytest.mark.parametrize("entry", ["an annotation", None, 3, [1]])
def test_an_annotation_that_is_no_object_is_skipped(tmp_path, entry):
    standard(tmp_path, annotations=[entry, *content()["annotations"]])
    assert "annotations[0] is " in refusal(tmp_path)
    assert right(load(tmp_path, on_error="skip").train)


@pytest.mark.parametrize(("image", "reason"), [
    ({"file_name": "2.jpg"}, "images[1] has no 'id'"), ({"id": 2}, "image 2 has no file_name"),
    ({"id": 2, "file_name": ""}, "image 2 has no file_name"), ({"id": 2, "file_name": "2.jpg"}, "no such image file"),
    ({"id": 1, "file_name": "1.jpg"}, "images[1] is there twice (id 1)"), (None, "images[1] has no 'id'"),
    ({"id": 2, "file_name": "a\nb.jpg"}, "a b.jpg: no such image file"),
    ({"id": 2, "file_name": "\0"}, "no such image file")])
def test_a_broken_image_entry_is_skipped_and_the_others_are_kept(tmp_path, image, reason):
    standard(tmp_path, images=[*content()["images"], image])
    assert reason in refusal(tmp_path)
    data = load(tmp_path, on_error="skip")
    assert right(data.train)
    assert reason in data.skipped[0]


def test_two_images_of_one_id_are_refused_whole(tmp_path):
    """An object could be of either."""
    standard(tmp_path, images=[{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}])
    for on_error in ("stop", "skip"):
        assert "two of the images have the same id, 1" in refusal(tmp_path, on_error=on_error)


def test_a_broken_annotation_of_a_class_that_is_not_asked_for_is_no_fault(tmp_path):
    standard(tmp_path, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
             annotations=[*content()["annotations"], {**BROKEN, "category_id": 2}])
    assert right(load(tmp_path, classes=("cat",)).train)


def test_boxes_in_shares_of_the_image_are_said(tmp_path):
    standard(tmp_path, annotations=[{**content()["annotations"][0], "bbox": [0.1, 0.2, 0.5, 0.25]}])
    assert "split 'train': no box reaches beyond the first pixel: are they shares" in load(tmp_path).notes[0]


# D6

@pytest.mark.parametrize("root", [{"id": 0, "name": "cat"}, {"id": 9, "name": "cat"},
                                  {"id": 0, "name": "cat", "supercategory": "none"}, {"id": 0, "name": " cat "}])
def test_an_unused_category_of_the_same_name_is_ignored_and_said(tmp_path, root):
    standard(tmp_path, categories=[root, {"id": 1, "name": "cat", "supercategory": "cat"}])
    data = load(tmp_path)
    assert data.classes == ("cat",)
    assert right(data.train)
    assert "1 of the 2 categories named 'cat' without an object" in data.unused[0]
    assert load(tmp_path, classes=("cat",)).classes == ("cat",)


def test_used_categories_of_one_name_are_one_class_and_said(tmp_path):
    standard(tmp_path, categories=[{"id": 5, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
             annotations=[{**content()["annotations"][0], "category_id": i} for i in (1, 5, 2)])
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.train.objects[0].classes.tolist() == [0, 0, 1]
    assert "the categories 1, 5 have the same name 'cat': they are one class" in data.notes[0]


def test_an_unused_root_category_of_another_name_is_no_class(tmp_path):
    """As Roboflow exports: the project's name, of which all classes are parts."""
    standard(tmp_path, categories=[{"id": 0, "name": "pets", "supercategory": "none"},
                                   {"id": 1, "name": "cat", "supercategory": "pets"},
                                   {"id": 2, "name": "dog", "supercategory": "pets"}])
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert "the category 'pets', the parent of others, without an object" in data.unused[0]


def test_a_category_that_is_there_twice_is_one_and_two_names_of_one_id_are_refused(tmp_path):
    standard(tmp_path, categories=[{"id": 1, "name": "cat"}] * 2)
    assert load(tmp_path).classes == ("cat",)
    standard(tmp_path, categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}])
    assert "two of the categories have the same id, 1: 'cat' and 'dog'" in refusal(tmp_path)


# D7 and D12

def test_a_class_that_only_the_test_split_has_is_said_with_the_split(tmp_path):
    standard(tmp_path)
    write(tmp_path / "annotations" / "instances_val.json", content(
        categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        annotations=[{**content()["annotations"][0], "category_id": i} for i in (1, 2, 2)]))
    data = load(tmp_path)
    assert data.unused == ("split 'val': 2 objects of 'dog', which is none of the classes cat",)
    assert not data.skipped
    standard(tmp_path, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])
    assert "of 1 of the 2 classes: dog" in load(tmp_path).notes[0]


@pytest.mark.parametrize("annotations", [[], [{**content()["annotations"][0], "iscrowd": 1}]], ids=["none", "crowds"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_an_object_that_counts_is_refused(tmp_path, split, annotations):
    standard(tmp_path)
    write(tmp_path / "annotations" / f"instances_{split}.json", content(annotations=annotations))
    assert f"no object of cat in split '{split}', but for difficult ones" in refusal(tmp_path)


# D8

@pytest.mark.parametrize(("area", "expected"), [(900, 900), (0, 0), (None, 1600), ("900", 1600), (float("nan"), 1600),
                                                (-1, 1600), (True, 1600), (900.5, 900.5)])
def test_the_area_of_the_annotation_is_kept_and_the_box_s_stands_in_for_what_is_none(tmp_path, area, expected):
    first = content()["annotations"][0]
    standard(tmp_path, annotations=[first, {**first, "area": area}])
    assert load(tmp_path).test.objects[0].areas.tolist() == [900, expected]


@pytest.mark.parametrize(("crowd", "difficult"), [(0, False), (1, True), (None, False), (True, True), (False, False)])
def test_a_crowd_is_difficult(tmp_path, crowd, difficult):
    first = content()["annotations"][0]
    standard(tmp_path, annotations=[first, {**first, "iscrowd": crowd}])
    assert load(tmp_path).test.objects[0].difficult.tolist() == [False, difficult]


# D10

@pytest.mark.parametrize("side", [0, 0.0, None, "64", "", -1, 64.0, 64.5, float("nan"), 10**400, [64], True, ...])
@pytest.mark.parametrize("both", [True, False])
def test_a_width_that_is_none_is_read_from_the_image(tmp_path, side, both):
    sizes = {"width": side, "height": {64.0: 48.0}.get(side, side) if both and side.__hash__ else 48}
    standard(tmp_path, images=[{"id": 1, "file_name": "1.jpg", **{k: v for k, v in sizes.items() if v is not ...}}])
    data = load(tmp_path)
    assert right(data.train)
    assert data.train.sizes.tolist() == [[48, 64]]


def test_another_size_than_the_image_s_is_a_fault(tmp_path):
    standard(tmp_path, images=[{"id": 1, "file_name": "1.jpg", "width": 65, "height": 48}])
    assert "the image is 64x48, its annotation has another size" in refusal(tmp_path)


# D13

@pytest.mark.parametrize("json_name", ["{split}/_annotations.coco.json", "annotations/instances_{split}.json",
                                       "annotations/{split}.json", "{split}.json", "{split}_annotations.json",
                                       "annotations/instances_{split}2017.json", "labels/{split}.coco.json"])
@pytest.mark.parametrize("folder", ["{split}", "images/{split}", "{split}/images", "images"])
def test_exports_of_other_tools_are_read(tmp_path, json_name, folder):
    for i, split in enumerate(("train", "valid", "Test")):
        picture(tmp_path / folder.format(split=split) / f"{i}.jpg")
        write(tmp_path / json_name.format(split=split), content(images=[{"id": 1, "file_name": f"{i}.jpg"}]))
    data = load(tmp_path, "trainval", "test")
    assert right(data.train, ("0.jpg", "1.jpg"))
    assert right(data.test, ("2.jpg",))
    assert right(load(tmp_path, "train", "val").test, ("1.jpg",))


@pytest.mark.parametrize("json_name", ["_annotations.coco.json", "annotations.json", "result.json",
                                       "annotations/instances_default.json", "annotations/annotations.json",
                                       "my-project.json"])
@pytest.mark.parametrize("folder", [".", "images", "data"])
def test_a_set_without_splits_is_split_by_seed_and_said(tmp_path, json_name, folder):
    for i in range(10):
        picture(tmp_path / folder / f"{i}.jpg")
    write(tmp_path / json_name, content(images=[{"id": i, "file_name": f"{i}.jpg"} for i in range(10)], annotations=[
        {"image_id": i, "category_id": 1, "bbox": [9, 2, 40, 40]} for i in range(10)]))
    data = load(tmp_path, "trainval", "test")
    assert right(data.train, data.train.names)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert "2 of its 10 images are it, drawn by seed 0 (data.test_share=0.2)" in data.notes[-1]


def test_coco_s_own_other_files_are_no_splits(tmp_path):
    standard(tmp_path, splits=("train2017", "val2017"))
    for kind in ("captions", "person_keypoints"):
        write(tmp_path / "annotations" / f"{kind}_val2017.json", {})
    assert right(load(tmp_path, "train2017", "val2017").test)
    assert right(load(tmp_path, "trainval", "test").test)


def test_a_split_that_is_not_there_or_not_clear_is_refused_with_what_is(tmp_path):
    standard(tmp_path, splits=("train2014", "train2017", "val2017"))
    assert "the split 'train' could be any of train2014, train2017" in refusal(tmp_path)
    assert "no split 'minival' (no file annotations/instances_minival.json); it has" in refusal(
        tmp_path, "train2014", "minival")
    write(tmp_path / "other" / "instances_val2017.json", content())
    assert "2 files could be the annotations of split 'val2017'" in refusal(tmp_path, "train2014", "val2017")
    (tmp_path / "empty").mkdir()
    assert "no annotation file (*.json) in it" in refusal(tmp_path / "empty")


def test_a_json_file_may_be_named_and_is_the_whole_set(tmp_path):
    standard(tmp_path)
    for i in range(4):
        picture(tmp_path / "train" / f"{i}.jpg")
    file = tmp_path / "annotations" / "instances_train.json"
    write(file, content(images=[{"id": i, "file_name": f"{i}.jpg"} for i in range(4)], annotations=[
        {"image_id": i, "category_id": 1, "bbox": [9, 2, 40, 40]} for i in range(4)]))
    data = load(file)
    assert (len(data.train), len(data.test)) == (3, 1)
    assert right(data.train, data.train.names)
    (tmp_path / "set").mkdir()
    for name in ("train", "annotations"):
        (tmp_path / name).rename(tmp_path / "set" / name)
    assert load(tmp_path / "set" / "annotations" / "instances_train.json").split == data.split
    assert "no such folder or file (*.json)" in refusal(tmp_path / "none.json")
