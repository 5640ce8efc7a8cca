"""Pooling beyond the golden values: properties, warping, pyramids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops


def test_pool_by_hand():
    x = jnp.arange(16.0).reshape(4, 4, 1)
    out = ops.roi_pool(x, jnp.array([[0, 0, 3, 3], [0, 0, 0, 0], [-9, -9, -5, -5]], jnp.float32), 2, 1.0)[..., 0]
    np.testing.assert_array_equal(out, [[[5, 7], [13, 15]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    # 2.5 rounds to 3, away from zero, not to the even 2.
    np.testing.assert_array_equal(ops.roi_pool(x, jnp.array([[2.5, 2.5, 2.5, 2.5]]), 1, 1.0), [[[[15]]]])


def test_of_equal_values_the_first_gets_the_gradient():
    roi = jnp.array([[0, 0, 4, 4]], jnp.float32)
    gradient = jax.grad(lambda x: ops.roi_pool(x, roi, 1, 1.0).sum())(jnp.zeros((5, 5, 1)))[..., 0]
    assert gradient[0, 0] == 1
    assert gradient.sum() == 1


def test_pool_of_many_channels_and_large_bins_is_the_plain_maximum():
    x = jax.random.normal(jax.random.key(0), (40, 23, 70))          # two slices of channels; over two windows a side
    out = jax.jit(lambda x: ops.roi_pool(x, jnp.array([[-40, 1, 60, 38], [3, 2, 9, 30]], jnp.float32), 2, 1.0))(x)
    np.testing.assert_array_equal(out[0, 0, 1], x[1:20, 10:].max((0, 1)))
    np.testing.assert_array_equal(out[1, 1, 0], x[16:31, 3:7].max((0, 1)))


@pytest.mark.parametrize("pool", [ops.roi_pool, ops.roi_align])
def test_images_dtypes_and_padding(pool):
    key = jax.random.key(0)
    features = jax.random.normal(key, (2, 9, 11, 3))
    rois = jnp.array([[[8, 8, 100, 90], [0, 0, 40, 40]], [[20, 20, 60, 120], [0, 0, 0, 0]]], jnp.float32)
    both = jax.jit(jax.vmap(lambda x, r: pool(x, r, 3, 1 / 16)))
    out = both(features, rois)
    np.testing.assert_allclose(out[1, :1], pool(features[1], rois[1, :1], 3, 1 / 16), atol=1e-6)
    low = both(features.astype(jnp.bfloat16), rois)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), out, atol=0.05)
    gradient, of_rois = jax.jit(jax.grad(lambda x, r: both(x, r)[:, :1].sum(), (0, 1)))(
        features.astype(jnp.bfloat16), rois)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32).sum((1, 2)), 9, atol=0.1)      # each bin gives 1 to the map
    assert (of_rois == 0).all()


def test_align_of_a_ramp_is_the_ramp_at_the_centres_of_bins():
    x = jnp.broadcast_to(jnp.arange(12.0), (10, 12))[..., None]
    out = ops.roi_align(x, jnp.array([[32, 32, 128, 128]], jnp.float32), 3, 1 / 16)[0, ..., 0]
    np.testing.assert_allclose(out, np.broadcast_to([2.5, 4.5, 6.5], (3, 3)), rtol=1e-6)


def test_warp():
    image = jax.random.uniform(jax.random.key(0), (20, 30, 3))
    roi = jnp.array([[4, 5, 12, 13]], jnp.float32)
    np.testing.assert_allclose(ops.roi_warp(image, roi, 8)[0], image[5:13, 4:12], atol=1e-6)
    out = ops.roi_warp(image, jnp.array([[0, 5, 8, 13]], jnp.float32), 12, context=2, fill=-1.0)[0]
    np.testing.assert_allclose(out[:, 2:], image[3:15, :10], atol=1e-5)
    np.testing.assert_allclose(out[:, :2], -1, atol=1e-6)           # left of the image
    gradient = jax.grad(lambda x: ops.roi_warp(x, roi, 4).sum())(image)
    assert float(gradient.sum()) == pytest.approx(48, rel=1e-5)


def test_levels_of_a_feature_pyramid():
    sizes = jnp.array([0, 50, 111.9, 112, 224, 447, 448, 5000])
    boxes = jnp.stack([0 * sizes, 0 * sizes, sizes, sizes], 1)
    assert ops.pyramid_level(boxes).tolist() == [2, 2, 2, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (9, 7), (6, 13)])
def test_pyramid_of_any_size(height, width):
    x = np.random.default_rng(0).normal(size=(height, width, 2)).astype(np.float32)
    expected = []
    for level in (1, 2, 4):
        for i in range(level):
            rows = slice(i * height // level, -(-(i + 1) * height // level))
            for j in range(level):
                expected += x[rows, j * width // level:-(-(j + 1) * width // level)].max((0, 1)).tolist()
    np.testing.assert_array_equal(jax.jit(ops.spatial_pyramid_pool)(x), np.float32(expected))


@pytest.mark.parametrize("level", [1, 2, 4])
def test_pyramid_of_a_map_of_its_own_size_is_the_map(level):
    x = jax.random.normal(jax.random.key(level), (level, level, 3))
    np.testing.assert_array_equal(ops.spatial_pyramid_pool(x, (level,)), x.ravel())


def test_of_equal_values_in_a_bin_of_the_pyramid_the_first_gets_the_gradient():
    gradient = jax.grad(lambda x: ops.spatial_pyramid_pool(x, (2,)).sum())(jnp.zeros((4, 5, 1)))
    assert np.argwhere(gradient[..., 0]).tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]
    assert gradient.max() == 1


def test_pyramid_of_a_region_is_the_pyramid_of_its_crop():
    x = jax.random.normal(jax.random.key(0), (10, 12, 2))
    roi = jnp.array([[2, 3, 8, 9]], jnp.float32)
    ours, crop = jax.jit(lambda x: (ops.roi_pyramid_pool(x, roi, 1.0, (1, 2, 3)),
                                    ops.spatial_pyramid_pool(x[3:10, 2:9], (1, 2, 3))))(x)
    np.testing.assert_array_equal(ours[0], crop)


def test_align_of_several_maps_is_that_of_each_roi_s_own_map():
    levels = [jax.random.normal(jax.random.key(i), (*size, 2)) for i, size in enumerate([(12, 9), (6, 5), (3, 3)])]
    rois = jnp.array([[3, 5, 30, 40], [-9, 2, 71, 96], [0, 0, 8, 8], [20, 20, 90, 60]], jnp.float32)
    level = jnp.array([1, 2, 0, 1])

    def several(levels):
        return ops.multilevel_roi_align(levels, rois, level, (3, 2), (1 / 8, 1 / 16, 1 / 32), aligned=False)

    def one_by_one(levels):
        apart = [ops.roi_align(x, rois, (3, 2), 1 / 8 / 2**i, aligned=False) for i, x in enumerate(levels)]
        return jnp.stack(apart)[level, jnp.arange(4)]

    ours, expected = (jax.jit(jax.value_and_grad(lambda x, f=f: jnp.square(f(x)).sum()))(levels)
                      for f in (several, one_by_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected)
