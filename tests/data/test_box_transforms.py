"""Augmentation of annotated images: boxes follow their pixels, and colours are torchvision's."""

from pathlib import Path

import numpy as np
import pytest

from cnnjax.data import box_transforms
from cnnjax.data.box_transforms import TRANSFORMS, chain
from cnnjax.errors import UserError
from tests.detection import ssd_cases as cases

GOLDEN = dict(np.load(Path(cases.__file__).with_name("golden_ssd.npz")))
GEOMETRY = ("flip", "iou_crop", "scale_translate", "zoom_out")


def sample_of(seed=0, count=3, height=60, width=80):
    """An image of grey noise with rectangles, each of a colour of its own that tells its label."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (height, width, 1)).repeat(3, -1).astype(np.uint8)
    boxes = []
    for label in range(count):
        x, y = 3 + 25 * label, rng.integers(4, 30)
        box = (x, y, x + rng.integers(8, 20), y + rng.integers(8, 24))
        image[box[1]:box[3], box[0]:box[2]] = (200, 100 + label, 0)
        boxes.append(box)
    return {"image": image, "boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.arange(count),
            "difficult": np.arange(count) == 1}


def painted(image, label):
    """The box of the pixels of a label's colour."""
    rows, columns = np.nonzero((image == (200, 100 + label, 0)).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("name", GEOMETRY)
def test_boxes_and_all_that_belongs_to_them_follow_the_pixels(name):
    changed = 0
    for seed in range(30):
        before = sample_of(seed)
        after = TRANSFORMS[name](np.random.default_rng(seed), before)
        changed += after["image"].shape != before["image"].shape or (after["image"] != before["image"]).any()
        assert after["image"].dtype == np.uint8
        assert after["boxes"].dtype == np.float32
        assert len(after["boxes"]) == len(after["labels"]) == len(after["difficult"])
        np.testing.assert_array_equal(after["difficult"], after["labels"] == 1)
        height, width = after["image"].shape[:2]
        for box, label in zip(after["boxes"], after["labels"], strict=True):
            np.testing.assert_array_equal(box, painted(after["image"], label))
            assert 0 <= box[0] < box[2] <= width
            assert 0 <= box[1] < box[3] <= height
    assert changed > 8


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_a_function_of_its_generator_and_changes_nothing_it_is_given(name):
    before = sample_of()
    kept = {key: value.copy() for key, value in before.items()}
    first, second = (TRANSFORMS[name](np.random.default_rng(7), before) for _ in range(2))
    for key, value in kept.items():
        np.testing.assert_array_equal(before[key], value)
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("height", "width"), [(60, 80), (1, 1), (1, 9)])
def test_images_without_boxes_and_of_few_pixels_pass(name, height, width):
    for seed in range(10):
        after = TRANSFORMS[name](np.random.default_rng(seed), sample_of(0, 0, height, width))
        assert after["image"].size
        assert after["boxes"].shape == (0, 4)


# Colours

@pytest.mark.parametrize(("name", "factor"), cases.COLOURS)
def test_colours_are_torchvision_s(name, factor):
    adjust = box_transforms.adjust_hsv if name == "hue" else getattr(box_transforms, f"adjust_{name}")
    found = adjust(cases.picture().astype(np.float32), factor)
    np.testing.assert_allclose(found, GOLDEN[f"colour/{name}/{factor}"], atol=0.02)


def test_exposure_and_saturation_stay_within_the_factor():
    grey = {"image": np.full((1, 1, 3), 100, np.uint8), "boxes": np.zeros((0, 4), np.float32)}
    values = [box_transforms.exposure_saturation(np.random.default_rng(seed), grey)["image"][0, 0, 0]
              for seed in range(200)]
    assert min(values) == pytest.approx(67, abs=1)
    assert max(values) == pytest.approx(150, abs=1)


def test_distortion_without_probability_is_none():
    sample = sample_of()
    after = box_transforms.photometric_distort(np.random.default_rng(0), sample, probability=0.0)
    np.testing.assert_array_equal(after["image"], sample["image"])


# Crops and canvases

def test_a_crop_has_the_iou_and_the_aspect_that_are_asked_for():
    for seed in range(40):
        before = sample_of(seed, 1)
        before["boxes"][0] = (20, 10, 70, 50)
        after = box_transforms.iou_crop(np.random.default_rng(seed), before, ious=(0.7,))
        height, width = after["image"].shape[:2]
        assert height < 60 or width < 80
        assert 0.5 <= width / height <= 2
        inside = (after["boxes"][0, 2:] - after["boxes"][0, :2]).prod()
        assert inside / (50 * 40 + height * width - inside) >= 0.7


def test_a_crop_that_cannot_be_leaves_the_image():
    before = sample_of(0, 1)
    before["boxes"][0] = (5, 5, 6, 6)
    after = box_transforms.iou_crop(np.random.default_rng(0), before, ious=(0.9,))
    assert after is before


def test_zooming_out_fills_the_canvas():
    after = box_transforms.zoom_out(np.random.default_rng(0), sample_of(), probability=1.0, side_range=(2.0, 2.0),
                                    fill=(1, 2, 3))
    assert after["image"].shape == (120, 160, 3)
    assert (after["image"] == (1, 2, 3)).all(-1).sum() == 120 * 160 - 60 * 80


def test_sides_move_by_up_to_a_fifth():
    shapes = np.array([box_transforms.scale_translate(np.random.default_rng(seed), sample_of())["image"].shape[:2]
                       for seed in range(200)])
    assert (shapes >= (36, 48)).all()
    assert (shapes <= (84, 112)).all()
    assert shapes.min(0).tolist() < [42, 56]
    assert shapes.max(0).tolist() > [78, 104]


# Chains

def test_the_papers_chains_run():
    for transforms in (box_transforms.SSD, box_transforms.YOLO):
        transform = chain(transforms)
        for seed in range(10):
            after = transform(np.random.default_rng(seed), sample_of(seed))
            assert len(after["boxes"]) == len(after["labels"])


def test_settings_are_passed_on():
    transform = chain([{"name": "zoom_out", "probability": 1.0, "side_range": (3, 3)}, {"name": "flip"}])
    assert transform(np.random.default_rng(0), sample_of())["image"].shape == (180, 240, 3)


@pytest.mark.parametrize(("transforms", "message"), [
    ([{"name": "flap"}], r"'transforms\[0\]\.name': found 'flap', expected one of .*did you mean 'flip'"),
    ([{}], r"'transforms\[0\]\.name': found None"),
    ([{"name": "flip"}, {"name": "flip", "chance": 1.0}], r"no field 'transforms\[1\]\.chance'; flip has probability"),
    ([{"name": "flip", "probability": "1"}], r"'transforms\[0\]\.probability': found '1', expected one like 0\.5"),
    ([{"name": "zoom_out", "side_range": (1.0,)}], r"side_range': found \(1\.0,\), expected one like \(1\.0, 4\.0\)"),
    ([{"name": "iou_crop", "ious": (0.5, "x")}], r"ious': found \(0\.5, 'x'\)"),
])
def test_chains_that_cannot_be_are_refused(transforms, message):
    with pytest.raises(UserError, match=message):
        chain(transforms)
