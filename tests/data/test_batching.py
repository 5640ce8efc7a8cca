"""Batches from the device and streamed ones are the same, a stream goes on from its step, each image is scored once."""

import threading

import jax
import numpy as np
import pytest

from cnnjax.data import ImageSet, augment, batching

KEY = jax.random.key(3)


@pytest.fixture
def images(tmp_path):
    rng = np.random.RandomState(0)
    file = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (21, 4, 4, 3))
    file[:] = rng.randint(0, 256, file.shape)
    file.flush()
    return ImageSet(np.load(tmp_path / "images.npy", mmap_mode="r"), rng.randint(0, 5, 21).astype(np.int32))


def test_streamed_batches_are_those_of_a_set_on_the_device(images):
    on_device = jax.device_put({"image": np.asarray(images.images), "label": images.labels})
    get_batch = jax.jit(lambda step: augment.get_batch(on_device, KEY, step, 8))
    with batching.stream(images, KEY, 8) as batches:
        for step in range(6):
            assert batches.step == step
            batch, expected = next(batches), get_batch(step)
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["label"], expected["label"])
            assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)


def test_a_stream_goes_on_from_its_step(images):
    with batching.stream(images, KEY, 8) as batches:
        through = [next(batches)["image"] for _ in range(5)]
    with batching.stream(images, KEY, 8, step=3) as batches:
        np.testing.assert_array_equal(next(batches)["image"], through[3])
        np.testing.assert_array_equal(next(batches)["image"], through[4])


def test_the_shards_of_a_stream_make_the_batch(images):
    with batching.stream(images, KEY, 8, shard=0, shards=2) as a, \
            batching.stream(images, KEY, 8, shard=1, shards=2) as b, batching.stream(images, KEY, 8) as whole:
        for _ in range(3):
            np.testing.assert_array_equal(np.concatenate([next(a)["label"], next(b)["label"]]), next(whole)["label"])


def test_prefetch_hands_on_what_is_raised_and_ends():
    def make(step):
        if step == 2:
            raise OSError("the disk is gone")
        return step

    before = threading.active_count()
    prefetch = batching.Prefetch(make)
    assert [next(prefetch), next(prefetch)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetch)
    with pytest.raises(StopIteration):
        next(prefetch)
    assert threading.active_count() == before


def test_closing_ends_the_thread_though_results_wait():
    before = threading.active_count()
    with batching.Prefetch(lambda step: step, ahead=2) as prefetch:
        next(prefetch)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


@pytest.mark.parametrize("batch_size", [1, 4, 7, 21, 50])
def test_evaluation_counts_each_image_once(images, batch_size):
    seen = []
    for batch in batching.evaluation_batches(images, batch_size):
        assert len(batch["image"]) == len(batch["label"]) == len(batch["mask"]) == batch_size
        assert not batch["image"][~batch["mask"]].any()
        seen.append((batch["image"][batch["mask"]], batch["label"][batch["mask"]]))
    np.testing.assert_array_equal(np.concatenate([s[0] for s in seen]), images.images)
    np.testing.assert_array_equal(np.concatenate([s[1] for s in seen]), images.labels)


def test_fits(images):
    assert batching.fits(images)
    assert not batching.fits(images, share=1e-12)
