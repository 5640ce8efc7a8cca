"""Detectors' weights by torchvision's keys: spellings, prefixes, what they tell, and what is wrong with them."""

import jax
import numpy as np
import pytest

from cnnjax import detection, interop
from cnnjax.errors import UserError
from tests.detection import pyramid_cases as cases

FIELDS = {"fasterrcnn_resnet50_fpn": {"backbone": {"name": "resnet18", "hidden": (4, 4)}, "channels": 2},
          "retinanet_resnet50_fpn": {"backbone": {"name": "resnet18"}, "channels": 2}}


@pytest.fixture(scope="module", params=FIELDS)
def known(request):
    """A detector's name, its fields, and a state dict for three classes."""
    name, fields = request.param, FIELDS[request.param]
    shapes = jax.eval_shape(detection.create(name, 3, **fields).init, jax.random.key(0))
    empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    keys = interop.to_torch(name, empty)
    return name, fields, cases.weights({key: value.shape for key, value in keys.items()}, {})


def test_both_spellings_and_any_prefix_are_the_same_weights(known):
    name, fields, state = known
    variables = interop.from_torch(name, state, **fields)
    for other in (cases.old_keys(state), {f"module.{key}": value for key, value in state.items()}):
        assert other.keys() != state.keys()
        jax.tree.map(np.testing.assert_array_equal, interop.from_torch(name, other, **fields), variables)


def test_there_and_back(known):
    name, fields, state = known
    detector, variables = interop.detector_from_torch(name, state, **fields)
    assert detector.num_classes == 3
    assert interop.torch_fields(name) == {}
    again = interop.to_torch(name, variables)
    assert again.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value)


def test_weights_without_counters_are_of_frozen_batch_norm_without_an_epsilon(known):
    name, fields, state = known
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    frozen = {key: value for key, value in state.items() if key not in counters}
    assert len(counters) == 20
    for given, epsilon in ((state, 1e-5), (frozen, 0.0)):
        detector, variables = interop.detector_from_torch(name, given, **fields)
        assert detector.backbone.norm_epsilon == epsilon
        assert interop.to_torch(name, variables, backbone={"norm_epsilon": epsilon}).keys() == given.keys()
    told = fields["backbone"] | {"norm_epsilon": 1e-3}
    assert interop.detector_from_torch(name, frozen, **fields | {"backbone": told})[0].backbone.norm_epsilon == 1e-3


def test_weights_that_are_another_s_are_refused_by_their_keys(known, tmp_path):
    name, fields, state = known
    file = tmp_path / "weights.safetensors"
    interop.write_safetensors(file, {key: value for key, value in state.items() if "fpn.inner_blocks.0" not in key}
                              | {"roi_heads.mask_head.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=rf"{file}: these are not the weights of {name}: missing "
                                        r"backbone.fpn.inner_blocks.0.0.* extra roi_heads.mask_head.weight"):
        interop.from_torch(name, file, **fields)
    with pytest.raises(UserError, match="misshapen"):
        interop.from_torch(name, state | {"backbone.fpn.inner_blocks.0.0.bias": np.zeros(7, np.float32)}, **fields)


def test_ssd_s_weights_go_there_and_back_and_tell_the_number_of_classes(tmp_path):
    fields = {"width": 2, "extras": ((4, 4, 3, 2, 1), (4, 4, 3, 2, 1), (4, 4, 3, 1, 0), (4, 4, 3, 1, 0))}
    shapes = jax.eval_shape(detection.create("ssd300_vgg16", 3, **fields).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    given = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    state = interop.to_torch("ssd300_vgg16", given, **fields)
    assert state["backbone.extra.0.7.1.weight"].shape == (32, 16, 3, 3)
    assert state["backbone.scale_weight"].shape == (16,)
    interop.write_safetensors(tmp_path / "ssd.safetensors", state)
    detector, variables = interop.detector_from_torch("ssd300_vgg16", tmp_path / "ssd.safetensors", **fields)
    assert detector == detection.create("ssd300_vgg16", 3, **fields)
    jax.tree.map(np.testing.assert_array_equal, variables, given)
    del state["backbone.extra.0.7.1.weight"]
    with pytest.raises(UserError, match=r"not the weights of ssd300_vgg16: missing backbone\.extra\.0\.7\.1\.weight"):
        interop.from_torch("ssd300_vgg16", state, **fields)


def test_a_detector_that_torchvision_has_not_is_refused():
    for function in (interop.from_torch, interop.to_torch):
        with pytest.raises(UserError, match="faster_rcnn has no PyTorch weights to exchange"):
            function("faster_rcnn", {})
