"""`load`: the embedded digits, idx files, unknown names, what is held out, and the statistics."""

import gzip
import struct

import numpy as np
import pytest
from ml_collections import ConfigDict

from cnnjax import data
from cnnjax.data import statistics
from cnnjax.errors import UserError


def _error(**fields):
    with pytest.raises(UserError) as caught:
        data.load(fields, 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits():
    dataset = data.load(ConfigDict({"source": "digits"}), 0)
    assert dataset.train.images.shape == (1438, 16, 16, 1)
    assert dataset.test.images.shape == (359, 16, 16, 1)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    assert dataset.validation is None
    assert dataset.classes == tuple("0123456789")
    assert dataset.train.images.max() > 240
    shares = np.bincount(dataset.test.labels) / np.bincount(dataset.train.labels)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
    for seed in (0, 1):                                     # the split is the same for all runs
        np.testing.assert_array_equal(data.load({}, seed).test.images, dataset.test.images)
    assert dataset.mean.shape == dataset.std.shape == (1,)
    np.testing.assert_allclose(dataset.mean, dataset.train.images.mean() / 255, rtol=1e-5)


def test_digits_at_their_own_size_are_the_original_values():
    from sklearn.datasets import load_digits
    dataset = data.load({"image_size": 8}, 0)
    every = np.concatenate([dataset.train.images, dataset.test.images]).reshape(-1, 64).astype(int)
    theirs = np.round(load_digits().data * 255 / 16).astype(int)
    np.testing.assert_array_equal(every[np.lexsort(every.T)], theirs[np.lexsort(theirs.T)])


def test_validation_is_held_out_by_the_seed():
    whole = data.load({"image_size": 8}, 0)
    a, b, other = (data.load({"image_size": 8, "validation": 200}, seed) for seed in (1, 1, 2))
    assert (len(a.train.labels), len(a.validation.labels)) == (1238, 200)
    np.testing.assert_array_equal(a.validation.images, b.validation.images)
    assert not np.array_equal(a.validation.images, other.validation.images)
    np.testing.assert_array_equal(a.test.images, whole.test.images)
    both = np.concatenate([a.train.images, a.validation.images]).reshape(-1, 64)
    every = whole.train.images.reshape(-1, 64)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], every[np.lexsort(every.T)])
    np.testing.assert_allclose(a.mean, a.train.images.mean() / 255, rtol=1e-5)


def test_statistics_are_those_of_all_pixels():
    images = np.random.RandomState(0).randint(0, 256, (7, 5, 3, 2)).astype(np.uint8)
    images[..., 1] //= 4
    mean, std = statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-6)
    assert statistics(np.full((2, 3, 3, 1), 9, np.uint8))[1] == 1      # nothing to divide by


def test_fields_out_of_range_are_told():
    assert "leaves nothing of the 1438 training images" in _error(validation=1438)
    assert "must be 0 or more" in _error(validation=-1)
    assert "must be 0 or more" in _error(image_size=-8)
    assert _error(on_error="ignore") == "data.on_error is 'ignore'; it must be 'stop' or 'skip'"


@pytest.mark.parametrize(("name", "near"), [("digit", "digits"), ("cifar1O", "cifar10"), ("folders", "folder"),
                                            ("tfds:fashion_mnst", "fashion_mnist")])
def test_an_unknown_source_names_the_nearest(name, near):
    assert _error(source=name) == f"data.source: unknown source {name!r}; did you mean {near!r}?"


def test_an_unknown_source_without_a_neighbour_names_all():
    assert _error(source="qqqqqq") == ("data.source: unknown source 'qqqqqq'; known are csv, digits, folder, "
                                       "huggingface, idx, tar and every name of TFDS")


# ----- idx files

def _write_idx(file, array):
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.RandomState(0)
    arrays = {}
    for prefix, count in (("train", 12), ("t10k", 6)):
        arrays[prefix] = rng.randint(0, 256, (count, 5, 5)).astype(np.uint8), (np.arange(count) % 3).astype(np.uint8)
        _write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", arrays[prefix][0])
        _write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", arrays[prefix][1])
    return tmp_path, arrays


def test_idx_files_plain_and_gzipped(mnist):
    folder, arrays = mnist
    dataset = data.load({"source": "idx", "path": str(folder)}, 0)
    np.testing.assert_array_equal(dataset.train.images[..., 0], arrays["train"][0])
    np.testing.assert_array_equal(dataset.test.labels, arrays["t10k"][1])
    assert dataset.train.images.shape == (12, 5, 5, 1)
    assert dataset.test.labels.dtype == np.int32
    assert dataset.classes == ("0", "1", "2")
    assert data.load({"source": "idx", "path": str(folder), "image_size": 8}, 0).test.images.shape == (6, 8, 8, 1)


def test_flaws_of_idx_files_are_told(mnist):
    folder, arrays = mnist
    file, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte.gz"
    whole = file.read_bytes()

    def error():
        return _error(source="idx", path=str(folder))

    file.write_bytes(whole[:-1])
    assert error() == f"{file} declares 12 x 5 x 5 = 300 bytes but holds only 299"
    file.write_bytes(whole + b"x")
    assert error() == f"{file} declares 12 x 5 x 5 = 300 bytes but holds more"
    file.write_bytes(whole[:10])
    assert error() == f"{file} is cut off within its header"
    file.write_bytes(b"\0\0\x08\x01" + whole[4:])
    assert "expected 00 00 08 03" in error()
    file.write_bytes(b"")
    assert "begins with nothing, expected 00 00 08 03" in error()
    file.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12)                    # declares 7.9e28 bytes
    assert "but holds only 0" in error()
    file.write_bytes(whole)
    packed = labels.read_bytes()
    labels.write_bytes(packed[:-9])
    assert f"{labels} cannot be read" in error()
    labels.write_bytes(b"not gzip")
    assert f"{labels} cannot be read" in error()
    _write_idx(labels, arrays["train"][1][:-1])
    assert "has 12 images but 11 labels for train" in error()
    _write_idx(labels, np.full(12, 3, np.uint8))
    assert "has no training image of class 0, but labels up to 3" in error()
    _write_idx(labels, np.zeros(12, np.uint8))
    assert "has the test label 2, which no training image has" in error()
    labels.unlink()
    assert error() == f"data.path: {folder} has no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz"
    assert "the source idx needs the folder" in _error(source="idx", path=str(folder / "none"))
    assert "the source idx needs the folder" in _error(source="idx")
