"""Shuffling, cropping and flipping: what is random is so, what must not change does not."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.data import augment

KEY = jax.random.key(7)


def epoch_order(key, epoch, n):
    """The order of `n` images in one epoch of the stream."""
    return augment.stream_indices(key, jnp.uint32(epoch) * jnp.uint32(n) + jnp.arange(n, dtype=jnp.uint32), n)


@pytest.mark.parametrize("n", [1, 2, 13, 50_000])
def test_an_epoch_holds_each_image_once(n):
    order = epoch_order(KEY, 3, n)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_epochs_and_keys_give_different_orders():
    orders = [epoch_order(key, epoch, 1000) for key, epoch in
              [(KEY, 0), (KEY, 1), (jax.random.key(8), 0), (jax.random.key(8), 1)]]
    for a, b in itertools.combinations(orders, 2):
        assert np.mean(np.asarray(a) == np.asarray(b)) < 0.01       # a chance match is 1 in 1000


def test_all_permutations_of_four_are_equally_likely():
    """The smallest set is the hardest case for a shuffle made of swaps: chi-square over its 24 orders."""
    positions = jnp.arange(4 * 4800, dtype=jnp.uint32)
    orders = np.asarray(augment.stream_indices(KEY, positions, 4)).reshape(-1, 4)
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 49.7    # 23 degrees of freedom, p = 0.001


def test_an_order_looks_random():
    """Each image's place over many epochs is uniform, and neighbours of an epoch are unrelated."""
    n, epochs = 100, 2000
    orders = np.asarray(augment.stream_indices(KEY, jnp.arange(n * epochs, dtype=jnp.uint32), n)).reshape(epochs, n)
    for place in (0, 1, 50, 99):
        counts = np.bincount(orders[:, place], minlength=n)
        assert ((counts - epochs / n) ** 2 / (epochs / n)).sum() < 149.0        # 99 degrees of freedom, p = 0.001
    order = np.asarray(epoch_order(KEY, 0, 50_000)).astype(float)
    for lag in (1, 2, 128):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 / np.sqrt(50_000)
    assert abs(np.corrcoef(order, np.arange(50_000))[0, 1]) < 4 / np.sqrt(50_000)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 20))
def test_batches_are_the_stream_cut_in_pieces(seed, step):
    """Batches straddle epochs without loss: 13 images in batches of 8 come up equally often."""
    key = jax.random.key(seed)
    whole = np.concatenate([epoch_order(key, epoch, 13) for epoch in range(14)])
    np.testing.assert_array_equal(augment.batch_indices(key, step, 8, 13), whole[step * 8:step * 8 + 8])
    halves = [augment.batch_indices(key, step, 8, 13, shard=shard, shards=2) for shard in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), whole[step * 8:step * 8 + 8])


def test_a_batch_may_be_larger_than_the_set():
    rows = augment.batch_indices(KEY, 5, 40, 10)
    np.testing.assert_array_equal(np.bincount(rows, minlength=10), np.full(10, 4))


def test_get_batch_gathers_images_and_labels_of_the_same_rows():
    on_device = {"image": jnp.arange(20, dtype=jnp.uint8).reshape(20, 1, 1, 1), "label": jnp.arange(20)}
    batch = jax.jit(lambda step: augment.get_batch(on_device, KEY, step, 6))(4)
    assert batch["image"].shape == (6, 1, 1, 1)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    np.testing.assert_array_equal(batch["label"], augment.batch_indices(KEY, 4, 6, 20))


def _images(n=64, size=6, channels=2):
    return jnp.asarray(np.random.RandomState(0).randint(1, 256, (n, size, size, channels)), jnp.uint8)


def test_pad_crop_is_a_window_of_the_padded_image_and_every_window_occurs():
    images, pad = _images(), 1
    crops = np.asarray(jax.jit(augment.pad_crop, static_argnums=2)(images, KEY, pad))
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    seen = Counter()
    for crop, image in zip(crops, padded, strict=True):
        windows = [(y, x) for y in range(3) for x in range(3) if np.array_equal(crop, image[y:y + 6, x:x + 6])]
        assert len(windows) == 1
        seen.update(windows)
    assert len(seen) == 9
    assert crops.dtype == np.uint8


def test_pad_zero_crops_nothing():
    np.testing.assert_array_equal(augment.pad_crop(_images(), KEY, 0), _images())


def test_flip_mirrors_about_half():
    images = _images(n=512)
    flipped = np.asarray(augment.flip(images, KEY))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, np.asarray(images), strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(flipped, np.asarray(images), strict=True)])
    assert np.all(mirrored ^ same)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(512)


def test_augmentation_does_not_depend_on_how_a_batch_is_shared():
    images = _images(n=16)
    for change in (lambda x, first: augment.pad_crop(x, KEY, 2, first=first),
                   lambda x, first: augment.flip(x, KEY, first=first)):
        whole = change(images, 0)
        np.testing.assert_array_equal(jnp.concatenate([change(images[:8], 0), change(images[8:], 8)]), whole)


def test_normalise():
    images = _images()
    mean, std = np.array([0.2, 0.5], np.float32), np.array([0.1, 0.3], np.float32)
    expected = (np.asarray(images, np.float64) / 255 - mean) / std
    np.testing.assert_allclose(augment.normalise(images, mean, std), expected, atol=1e-5)
    assert augment.normalise(images, mean, std, jnp.bfloat16).dtype == jnp.bfloat16
