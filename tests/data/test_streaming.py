"""Photographs of mixed sizes: crops, and batches that depend on seed and step alone, not on who decodes them."""

import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import crops, decode, streaming
from cnnjax.errors import UserError

KEY = jax.random.key(5)


def _jpeg(array, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def _ramp(height, width):
    """Red grows to the right, green downwards: a crop tells where it was cut."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, np.full_like(x, 128)], -1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """36 training and 11 test photographs of as many sizes, classes a and b; blue is the image's number."""
    base = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 36), ("val", 11)):
        for i in range(count):
            file = base / split / "ab"[i % 2] / f"{i:02}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            array = _ramp(40 + 3 * i, 90 - i)
            array[..., 2] = 5 * i
            file.write_bytes(_jpeg(array))
    return base


def test_random_boxes_follow_the_paper():
    rng = np.random.default_rng(0)
    boxes = np.array([crops.random_box(400, 300, rng) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all() and (boxes[:, 2] <= 400).all() and (boxes[:, 3] <= 300).all()    # noqa: PT018
    area, ratio = width * height / (400 * 300), width / height
    assert 0.075 < area.min() < 0.09
    assert area.max() > 0.9
    assert abs(np.log(ratio)).max() < np.log(4 / 3) + 0.03
    small = area < 0.5                                          # no box that small is ever refused
    assert abs(np.median(area[small]) - 0.29) < 0.015
    assert abs(np.log(ratio[small]).mean()) < 0.015


@pytest.mark.parametrize(("width", "height", "box"), [(3000, 100, (1433.33, 0, 1566.67, 100)),
                                                      (100, 3000, (0, 1433.33, 100, 1566.67))])
def test_an_image_too_long_for_any_box_gives_its_centre(width, height, box):
    class Largest:
        def uniform(self, low, high):
            return high if high == 1 else 0.0

    np.testing.assert_allclose(crops.random_box(width, height, Largest()), box, atol=0.01)


def test_a_training_crop_is_the_box_of_the_image():
    image = _ramp(90, 160)
    for seed in range(8):
        crop = crops.training_crop(_jpeg(image), "a", 32, np.random.default_rng(seed)).astype(float)
        assert crop.shape == (32, 32, 3)
        rng = np.random.default_rng(seed)
        x1, y1, x2, y2 = crops.random_box(160, 90, rng)
        mirrored = rng.random() < 0.5
        x = (x1 + (np.arange(32) + 0.5) * (x2 - x1) / 32 - 0.5) * 255 / 159
        y = (y1 + (np.arange(32) + 0.5) * (y2 - y1) / 32 - 0.5) * 255 / 89
        np.testing.assert_allclose(crop[..., 0].mean(0), x[::-1] if mirrored else x, atol=6)
        np.testing.assert_allclose(crop[..., 1].mean(1), y, atol=6)


def test_a_large_jpeg_decoded_small_gives_nearly_the_same_crop(monkeypatch):
    data = _jpeg(_ramp(900, 1200))
    small = crops.training_crop(data, "a", 32, np.random.default_rng(1)).astype(int)
    monkeypatch.setattr(crops, "_reduced", lambda image, scale: image)
    whole = crops.training_crop(data, "a", 32, np.random.default_rng(1)).astype(int)
    assert abs(small - whole).max() <= 4


def test_a_turned_photograph_is_cropped_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, upright = np.rot90(_ramp(90, 160)), _ramp(90, 160)       # counter-clockwise, to be turned clockwise
    a = crops.training_crop(_jpeg(turned, exif=exif), "a", 32, np.random.default_rng(3)).astype(int)
    b = crops.training_crop(_jpeg(upright), "a", 32, np.random.default_rng(3)).astype(int)
    assert abs(a - b).max() < 8
    a = crops.evaluation_crop(_jpeg(turned, exif=exif), "a", 32, 40).astype(int)
    assert abs(a - crops.evaluation_crop(_jpeg(upright), "a", 32, 40)).max() < 8


def test_evaluation_crops():
    array = np.random.RandomState(0).randint(0, 256, (40, 60, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    centre = crops.evaluation_crop(stream.getvalue(), "a", 32, 40)
    np.testing.assert_array_equal(centre, array[4:36, 14:46])
    ten = crops.evaluation_crop(stream.getvalue(), "a", 32, 40, ten_crop=True)
    windows = [array[:32, :32], array[:32, -32:], array[-32:, :32], array[-32:, -32:], array[4:36, 14:46]]
    np.testing.assert_array_equal(ten, windows + [w[:, ::-1] for w in windows])
    assert crops.evaluation_crop(_jpeg(_ramp(7, 500)), "a", 32, 40).shape == (32, 32, 3)


def test_workers_flip_only_where_the_config_says_so(tmp_path):
    """White on the right half alone, whatever the crop: only a flip brings it to the left."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    mirrored = [False, False]
    for seed in range(40):
        for i, flip in enumerate((False, True)):
            crop = crops.training_crop(_jpeg(image), "a", 16, np.random.default_rng(seed), flip).astype(int)
            mirrored[i] |= bool(crop[:, 0].mean() > crop[:, -1].mean() + 50)
    assert mirrored == [False, True]


def test_training_batches_do_not_depend_on_the_workers_and_go_on_from_a_step(folder):
    photographs = streaming.open_folder(str(folder))
    assert photographs.classes == ("a", "b")
    with streaming.training_batches(photographs.train, KEY, 20, 16, workers=1) as batches:
        one = [next(batches) for _ in range(6)]
    with streaming.training_batches(photographs.train, KEY, 20, 16, step=3, workers=2) as batches:
        assert batches.step == 3
        two = [next(batches) for _ in range(3)]
    for a, b in zip(one[3:], two, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
    assert set(one[0]) == {"image", "label"}
    assert one[0]["image"].shape == (20, 16, 16, 3)
    assert (one[0]["image"].dtype, one[0]["label"].dtype) == (np.uint8, np.int32)
    number = np.concatenate([np.median(batch["image"][..., 2], (1, 2)) for batch in one]) / 5
    label = np.concatenate([batch["label"] for batch in one])
    np.testing.assert_array_equal(np.round(number) % 2, label)
    assert set(Counter(np.round(number[:108]).astype(int)).values()) == {3}         # 3 epochs of 36
    assert not np.array_equal(one[0]["image"], one[1]["image"])
    assert not multiprocessing.active_children()


def test_the_shards_make_the_batch(folder):
    train = streaming.open_folder(str(folder)).train
    options = {"size": 16, "workers": 1}
    with streaming.training_batches(train, KEY, 12, **options) as whole, \
            streaming.training_batches(train, KEY, 12, shard=1, shards=2, **options) as half:
        for _ in range(2):
            np.testing.assert_array_equal(next(half)["image"], next(whole)["image"][6:])


@pytest.mark.parametrize("ten_crop", [False, True])
def test_evaluation_counts_each_photograph_once(folder, ten_crop):
    test = streaming.open_folder(str(folder)).test
    batches = list(streaming.evaluation_batches(test, 4, 16, ten_crop=ten_crop, workers=1))
    assert [int(batch["mask"].sum()) for batch in batches] == [4, 4, 3]
    assert batches[0]["image"].shape == ((4, 10, 16, 16, 3) if ten_crop else (4, 16, 16, 3))
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    for i in range(11):
        data, label, name = test.read(i)
        np.testing.assert_array_equal(images[i], crops.evaluation_crop(data, name, 16, 18, ten_crop))
        assert labels[i] == label
    assert not batches[-1]["image"][~batches[-1]["mask"]].any()


def test_statistics_of_a_sample(folder):
    train = streaming.open_folder(str(folder)).train
    mean, std = streaming.sample_statistics(train, 16, count=18, workers=1)
    np.testing.assert_allclose(mean[:2], 0.5, atol=0.03)
    assert mean.dtype == std.dtype == np.float32
    assert abs(mean[2] - np.linspace(0, 175, 18).mean() / 255) < 0.02


@pytest.fixture
def broken(tmp_path):
    for split in ("train", "test"):
        for kind in "ab":
            (tmp_path / split / kind).mkdir(parents=True)
            for i in range(4):
                (tmp_path / split / kind / f"{i}.jpg").write_bytes(_jpeg(np.full((20, 20, 3), 100, np.uint8)))
    for split in ("train", "test"):
        (tmp_path / split / "a" / "2.jpg").write_bytes(b"")
    return tmp_path


def test_a_broken_photograph_is_named_or_skipped(broken):
    photographs = streaming.open_folder(str(broken))
    with streaming.training_batches(photographs.train, KEY, 8, 16, workers=1) as batches, \
            pytest.raises(UserError, match=r"train/a/2.jpg is empty \(0 bytes\); correct or remove it, or set "):
        next(batches)
    assert not multiprocessing.active_children()
    with streaming.training_batches(photographs.train, KEY, 8, 16, workers=1, on_error="skip") as batches, \
            pytest.warns(UserWarning, match=r"image 1 skipped: .*train/a/2.jpg is empty"):
        batch = next(batches)
    assert (batch["image"] > 90).all()
    np.testing.assert_array_equal(np.bincount(batch["label"]), [4, 4])      # 3.jpg stands in for 2.jpg
    with pytest.warns(UserWarning, match="image 1 skipped"):
        batches = list(streaming.evaluation_batches(photographs.test, 8, 16, workers=1, on_error="skip"))
    np.testing.assert_array_equal(batches[0]["mask"], [True, True, False, True, True, True, True, True])
    (broken / "train" / "a" / "2.jpg").unlink()
    with streaming.training_batches(photographs.train, KEY, 8, 16, workers=1) as batches, \
            pytest.raises(UserError, match=r"2.jpg cannot be read: No such file"):
        next(batches)


def test_nothing_but_broken_photographs_ends():
    class Nothing:
        def __len__(self):
            return 3

        def read(self, i):
            raise decode.BadImage(f"{i} is broken")

    recipe = crops.Recipe(8, seed=(0, 0), skip=True)
    done = crops.do(crops.Task(0, 0, 0, [1]), Nothing(), recipe, np.zeros((1, 8, 8, 3), np.uint8))
    assert done.error.startswith("a hundred images in a row cannot be read")


def test_a_killed_worker_is_told(folder):
    train = streaming.open_folder(str(folder)).train
    with streaming.training_batches(train, KEY, 20, 16, workers=1, ahead=1) as batches:
        next(batches)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="a decoding worker died"):       # after what was made before
            list(itertools.islice(batches, 10))


def test_workers_end_when_their_parent_is_killed(folder, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(f"""
        import multiprocessing, time
        import jax
        from cnnjax.data import streaming
        if __name__ == "__main__":
            batches = streaming.training_batches(streaming.open_folder({str(folder)!r}).train, jax.random.key(0), 8, 16,
                                                 workers=1)
            next(batches)
            print(multiprocessing.active_children()[0].pid, flush=True)
            time.sleep(600)
    """))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{child}/stat") as stat:       # ended, though nobody has asked for its status yet
            if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


def test_a_worker_does_not_import_jax():
    done = subprocess.run([sys.executable, "-c", "import sys, cnnjax.data.crops; assert 'jax' not in sys.modules"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_measure(folder):
    train = streaming.open_folder(str(folder)).train
    with streaming.training_batches(train, KEY, 8, 16, workers=1) as batches:
        rates = streaming.measure(batches, lambda batch: time.sleep(0.05), count=4)
    assert 100 < rates.step < 165
    assert 0 < rates.both <= 165
    assert rates.data > 0
    assert 0 <= rates.waiting < 1
