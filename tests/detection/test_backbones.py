import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.configs.ladder import defaults
from cnnjax.detection import backbones, rcnn
from cnnjax.errors import UserError


def shapes(backbone, pool, height, width):
    """The shapes of the last level and of the head's vectors, without computing them."""
    def run(key):
        images, sizes = jnp.zeros((1, height, width, 3), jnp.uint8), jnp.array([[height, width]])
        levels = backbone.trunk.apply(backbone.trunk.init(key, images, sizes), images, sizes)
        features, stride = list(levels.values())[-1]
        assert stride == backbone.stride
        pooled = jnp.zeros((2, pool, pool, features.shape[-1]))
        return features, backbone.head.init_with_output(key, pooled, train=False)[0]
    return [x.shape for x in jax.eval_shape(run, jax.random.key(0))]


def test_vgg16_and_resnet50_c4_are_the_papers():
    config = defaults.ladder().backbone
    vgg = backbones.create(config)
    assert vgg.stride == 16
    assert shapes(vgg, 7, 600, 800) == [(1, 37, 50, 512), (2, 4096)]
    config.update(name="resnet50", stage="stage3", head="stage", pool=14)
    c4 = backbones.create(config)
    assert c4.stride == 16
    assert shapes(c4, 14, 600, 800) == [(1, 38, 50, 1024), (2, 2048)]
    config.update(name="resnet20", stage="stage3", head="dense", hidden=(8,), pool=7)
    assert backbones.create(config).stride == 4


@pytest.mark.parametrize(("fields", "message"), [
    ({"stage": "conv6"}, r"backbone\.stage: vgg16 has no stage 'conv6'; did you mean 'conv5'"),
    ({"head": "none"}, r"backbone\.head: found 'none', expected 'dense' or 'stage'"),
    ({"head": "stage"}, r"backbone\.head: 'stage' needs a ResNet"),
    ({"name": "vgg17"}, "vgg17.*did you mean"),
])
def test_a_mistaken_field_is_named(fields, message):
    config = defaults.ladder().backbone
    config.update(fields)
    with pytest.raises(UserError, match=message):
        backbones.create(config)


def test_several_stages_are_levels_with_their_strides():
    config = defaults.ladder().backbone
    config.update(name="resnet50", stage="stage4")
    trunk = backbones.create(config, stages=("stage1", "stage2", "stage3", "stage4")).trunk
    images, sizes = jnp.zeros((1, 64, 96, 3), jnp.uint8), jnp.array([[64, 96]])
    strides = {}

    def run(key):
        levels = trunk.apply(trunk.init(key, images, sizes), images, sizes)
        strides.update({name: stride for name, (_, stride) in levels.items()})
        return [features for features, _ in levels.values()]
    shapes = [x.shape for x in jax.eval_shape(run, jax.random.key(0))]
    assert strides == {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
    assert shapes == [(1, 16, 24, 256), (1, 8, 12, 512), (1, 4, 6, 1024), (1, 2, 3, 2048)]


def test_transplanted_layers_are_checked_by_name_and_shape():
    zeros = {"params": {"trunk": {"net": {"conv1": {"kernel": np.zeros((3, 3))}}}, "classes": {"bias": np.zeros(2)}}}
    source = {"params": {"conv1": {"kernel": np.ones((3, 3))}, "fc8": {"bias": np.ones(9)}}}
    moved = backbones.transplant(zeros, source, {"trunk/net": ""})
    assert (moved["params"]["trunk"]["net"]["conv1"]["kernel"] == 1).all()
    assert (moved["params"]["classes"]["bias"] == 0).all()
    with pytest.raises(UserError, match="has shape \\(2, 2\\), this network has \\(3, 3\\)"):
        backbones.transplant(zeros, {"params": {"conv1": {"kernel": np.ones((2, 2))}}}, {"trunk/net": ""})
    with pytest.raises(UserError, match="lack params/conv1/kernel; did you mean 'conv2/kernel'"):
        backbones.transplant(zeros, {"params": {"conv2": {"kernel": np.ones((3, 3))}}}, {"trunk/net": ""})


def test_what_lies_outside_the_image_is_zero_to_the_network():
    seen = []

    class Look(backbones.nn.Module):
        def __call__(self, x, *, train, features):
            seen.append(x)
            return {"here": x}

    trunk = backbones.Trunk(Look(), {"here": 1}, (0.5,) * 3, (0.25,) * 3)
    out, _ = backbones.only(trunk.apply({}, jnp.full((1, 4, 6, 3), 255, jnp.uint8), jnp.array([[2, 5]])))
    np.testing.assert_array_equal(out[0, :2, :5], 2)
    assert not out[0, 2:].any()
    assert not out[0, :, 5:].any()


def test_truncated_svd_is_exact_at_full_rank_and_the_best_below():
    head = backbones.DenseHead((8, 6))
    x = jax.random.normal(jax.random.key(1), (4, 2, 2, 3))
    params = head.init(jax.random.key(0), x, train=False)["params"]
    whole = head.apply({"params": params}, x, train=False)
    factors = {"params": backbones.truncate(params, (8, 6))}
    full = backbones.DenseHead((8, 6), ranks=(8, 6)).apply(factors, x, train=False)
    np.testing.assert_allclose(full, whole, atol=1e-5)
    low = backbones.truncate(params, (3, 0))
    error = params["fc6"]["kernel"] - low["fc6_u"]["kernel"] @ low["fc6"]["kernel"]
    values = np.linalg.svd(params["fc6"]["kernel"], compute_uv=False)
    assert np.linalg.norm(error) == pytest.approx(np.linalg.norm(values[3:]), rel=1e-4)
    assert "fc7_u" not in low


@pytest.mark.parametrize(("fields", "moved"), [
    ({}, "head/fc7/kernel"),
    ({"name": "resnet50", "stage": "stage3", "head": "stage", "pool": 14}, "head/stage4_block3/conv3/kernel"),
    ({"name": "resnet20", "stage": "stage2", "head": "stage"}, "head/stage3_block3/conv2/kernel"),
    ({"name": "plain20", "stage": "stage2", "head": "stage"}, "head/stage3_block3/conv2/kernel"),
])
def test_a_classifier_s_layers_fit_the_detector_of_its_name(fields, moved):
    key, made = jax.random.key(0), rcnn.create(20, backbone=fields)
    detector = jax.eval_shape(lambda: made.init(key))
    source = jax.eval_shape(lambda: models.create(made.backbone.name, num_classes=1000).init(
        key, jnp.zeros((1, 224, 224, 3))))
    out = backbones.transplant(detector, source, {"trunk/net": "", "head": ""})
    assert moved in backbones.flat(out["params"])
    assert jax.tree.structure(out) == jax.tree.structure(dict(detector))
