import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.detection import backbones, rcnn
from cnnjax.errors import UserError
from configs.ladder import defaults


def shapes(backbone, height, width):
    """The shapes of the map and of the head's vectors, without computing them."""
    def run(key):
        images = jnp.zeros((1, height, width, 3), jnp.uint8)
        features, _ = backbone.trunk.init_with_output(key, images, jnp.array([[height, width]]), train=False)
        pooled = jnp.zeros((2, backbone.pool, backbone.pool, features.shape[-1]))
        return features, backbone.head.init_with_output(key, pooled, train=False)[0]
    return [x.shape for x in jax.eval_shape(run, jax.random.key(0))]


def test_vgg16_and_resnet50_c4_are_the_papers():
    config = defaults.ladder().backbone
    vgg = backbones.create(config)
    assert vgg.stride == 16
    assert shapes(vgg, 600, 800) == [(1, 37, 50, 512), (2, 4096)]
    config.update(name="resnet50", stage="stage3", head="stage", pool=14)
    c4 = backbones.create(config)
    assert c4.stride == 16
    assert shapes(c4, 600, 800) == [(1, 38, 50, 1024), (2, 2048)]
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


def test_frozen_parameters_are_set_apart():
    params = {"trunk": {"net": {"conv1": {"kernel": 1}, "conv2": {"kernel": 2}}}, "head": {"fc6": {"kernel": 3}}}
    trained, held = backbones.split(params, ("trunk/net/conv1", "head"))
    assert held == {"trunk/net/conv1/kernel": 1, "head/fc6/kernel": 3}
    assert trained == {"trunk/net/conv2/kernel": 2}
    assert backbones.nested(trained | held) == params
    assert backbones.split(params, ())[1] == {}
    with pytest.raises(UserError, match="no parameter begins with 'trunk/net/conv9'"):
        backbones.split(params, ("trunk/net/conv9",))


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

    trunk = backbones.Trunk(Look(), "here", (0.5,) * 3, (0.25,) * 3)
    out = trunk.apply({}, jnp.full((1, 4, 6, 3), 255, jnp.uint8), jnp.array([[2, 5]]), train=False)
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
    config = defaults.ladder().backbone
    config.update(fields)
    module = rcnn.create(backbones.create(config), 20)
    key = jax.random.key(0)
    detector = jax.eval_shape(lambda: module.init(key, jnp.zeros((1, 224, 224, 3), jnp.uint8)))
    source = jax.eval_shape(lambda: models.create(config.name, num_classes=1000).init(key, jnp.zeros((1, 224, 224, 3))))
    out = backbones.transplant(detector, source, {"trunk/net": "", "head": ""})
    assert moved in backbones.flat(out["params"])
    assert jax.tree.structure(out) == jax.tree.structure(dict(detector))
