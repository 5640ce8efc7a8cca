"""LabelMe's JSON files: where the images lie, which shapes are boxes, and what is wrong told by file and shape."""

import json

import numpy as np
import pytest

from cnnjax.errors import UserError
from tests.data import annotated
from tests.data.annotated import picture

BOX = {"label": "cat", "points": [[10, 5], [30, 25]], "shape_type": "rectangle"}


def add(root, name, shapes=(BOX,), image="{stem}.jpg"):
    """An image of 64x48, and its JSON file beside it unless `image` leads elsewhere."""
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    said = image.format(stem=path.stem)
    picture(path.parent / said.replace("\\", "/"))
    path.write_text(json.dumps({"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": said,
                                "imageData": None, "imageHeight": 48, "imageWidth": 64}))


def load(root, source="labelme", **fields):
    return annotated.load(source, root, "train", "test", **{"test_share": 0.5, **fields})


@pytest.mark.parametrize("image", ["{stem}.jpg", "..\\images\\{stem}.jpg", "../images/{stem}.jpg"])
def test_images_lie_beside_the_files_or_where_these_say(tmp_path, image):
    for split in ("train", "test"):
        add(tmp_path, f"{split}/a/1", image=image)
    read = load(tmp_path)
    for images in (read.train, read.test):
        assert len(images) == 1
        assert images.read(0).shape == (48, 64, 3)
        np.testing.assert_array_equal(images.objects[0].boxes, [[10, 5, 30, 25]])
    assert read.classes == ("cat",)
    assert not read.unused


def test_a_set_without_splits_is_split_by_seed_and_known_by_its_files(tmp_path):
    for i in range(4):
        add(tmp_path, str(i))
    picture(tmp_path / "more.jpg")
    read = load(tmp_path, source="auto")
    assert (len(read.train), len(read.test)) == (2, 2)
    assert read.notes[0] == f"data.source=auto: {tmp_path} is read as labelme"
    assert read.unused == (f"{tmp_path / 'more.jpg'}: has no annotation",)


def test_boxes_of_each_kind_of_shape(tmp_path):
    shapes = [{"label": "a", "points": [[30, 25], [10, 5]], "shape_type": "rectangle"},
              {"label": "a", "points": [[1, 2], [9, 4], [5, 40]], "shape_type": "polygon"},
              {"label": "a", "points": [[20, 20], [23, 24]], "shape_type": "circle"},
              {"label": "a", "points": [[2, 3], [8, 9]], "shape_type": "mask"},
              {"label": "a", "points": [[2, 3]], "shape_type": "point"},
              {"label": "a", "points": [[2, 3], [8, 9]], "shape_type": "line"}]
    for split in ("train", "test"):
        add(tmp_path, f"{split}/1", shapes)
    read = load(tmp_path)
    np.testing.assert_array_equal(read.train.objects[0].boxes, [[10, 5, 30, 25], [1, 2, 9, 40], [15, 15, 25, 25],
                                                                [2, 3, 8, 9]])
    for kind in ("point", "line"):
        assert sum(f"1 shapes in {tmp_path / 'train'} are of kind '{kind}'" in note for note in read.notes) == 1


@pytest.mark.parametrize(("shapes", "message"), [
    ([{**BOX, "label": ""}], r"1\.json.*shape 1\) has no label"), ([7], r"1\.json.*\(shape 1\): 7, expected an object"),
    ([{**BOX, "points": [[1, 2]]}], r"\(shape 1\): points \[\[1, 2\]\], expected a rectangle's"),
    ([{**BOX, "points": [[1, "x"], [3, 4]]}], r"\(shape 1\): points .* expected a rectangle's"),
    ([{**BOX, "points": [[10, 5], [10, 25]]}], "has no area"), ("no list", "it has no list 'shapes'")])
def test_what_is_wrong_is_told_in_one_line_or_left_out(tmp_path, shapes, message):
    for split in ("train", "test"):
        add(tmp_path, f"{split}/1")
        add(tmp_path, f"{split}/2")
    add(tmp_path, "train/1", shapes)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    assert len(load(tmp_path, on_error="skip").train.objects[-1].boxes) == 1


def test_files_that_are_no_annotations_are_refused(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"no annotation \(\*.json\) in or below it"):
        load(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a.json: not JSON"):
        load(tmp_path)
