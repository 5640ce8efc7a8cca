"""Feature pyramids, RetinaNet and Faster R-CNN with FPN against torchvision's golden file, and by hand."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import detection, interop, ops
from cnnjax.detection import inference, retinanet
from cnnjax.detection.faster_rcnn_fpn import FasterRCNNFPN
from cnnjax.detection.fpn import FPN, PyramidAnchors, PyramidRoIAlign, upsample
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.resize import resize_and_pad
from cnnjax.detection.retinanet import RetinaNet, focal_loss
from cnnjax.detection.targets import Truth
from cnnjax.errors import UserError
from tests.detection import pyramid_cases as cases

GOLDEN = dict(np.load(Path(__file__).parent / "golden_pyramids.npz"))
SMALL = {"name": "small", "widths": (8, 8, 8), "frozen": (), "freeze_norm": False, "hidden": (16,)}
TINY = {"retinanet": {"backbone": SMALL, "backbone_stages": ("stage2", "stage3"), "channels": 8, "pre_nms_top_n": 20,
                      "sizes": ((12.0,), (24.0,), (48.0,), (96.0,)), "canvases": ((64, 64),), "extra": "C5"},
        "faster_rcnn_fpn": {"backbone": SMALL, "backbone_stages": ("stage2", "stage3"), "channels": 8, "rois": 16,
                            "sizes": ((12.0,), (24.0,), (48.0,)), "canvases": ((64, 64),), "canonical_size": 56.0,
                            "rpn_batch": 32, "proposals_train": {"pre_nms_top_n": 20, "post_nms_top_n": 12},
                            "proposals_test": {"pre_nms_top_n": 20, "post_nms_top_n": 12}}}
"""Fields of small detectors by name."""


def truth_of(boxes, classes, rows=8, difficult=()):
    """A ground truth padded to so many rows."""
    padded, labels = np.zeros((rows, 4), np.float32), np.zeros(rows, np.int32)
    padded[:len(boxes)], labels[:len(boxes)] = boxes, classes
    return Truth(padded, labels, np.isin(np.arange(rows), difficult), np.arange(rows) < len(boxes))


def levels_of(grids, channels=1):
    return {f"P{i}": (jnp.zeros((1, *grid, channels)), 2**i) for i, grid in enumerate(grids, 3)}


def small_anchors():
    return PyramidAnchors(cases.SIZES, cases.RATIOS)(cases.IMAGE, levels_of(cases.GRIDS))


# FPN

def test_a_level_is_its_lateral_and_the_upsampled_coarser_sum():
    maps = [jax.random.normal(jax.random.key(i), (1, *size, 3)) for i, size in enumerate([(6, 5), (3, 3)])]
    module = FPN(2)
    variables = module.init(jax.random.key(9), maps)
    p = variables["params"]

    def lateral(i):
        return maps[i] @ p[f"lateral{i}"]["kernel"][0, 0] + p[f"lateral{i}"]["bias"]

    def output(i, x):
        return jax.lax.conv_general_dilated(x, p[f"output{i}"]["kernel"], (1, 1), "SAME",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC")) + p[f"output{i}"]["bias"]

    rows, columns = np.arange(6) // 2, np.arange(5) // 2
    fine = lateral(0) + lateral(1)[:, rows][:, :, columns]
    levels = jax.jit(module.apply)(variables, maps)
    for ours, expected in zip(levels, [output(0, fine), output(1, lateral(1))], strict=False):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(levels[2], levels[1][:, ::2, ::2])


def test_the_levels_of_retinanet_halve_and_p7_sees_p6_rectified():
    maps = [jax.random.normal(jax.random.key(i), (1, side, side, 3)) for i, side in enumerate([8, 4])]
    for extra, source in (("P5", 1), ("C5", None)):
        variables = FPN(2, extra).init(jax.random.key(9), maps)
        levels = jax.jit(FPN(2, extra).apply)(variables, maps)
        assert [x.shape[1] for x in levels] == [8, 4, 2, 1]
        assert variables["params"]["p6"]["kernel"].shape[2] == (2 if source else 3)
        p7 = variables["params"]["p7"]
        window = jnp.pad(jax.nn.relu(levels[2]), ((0, 0), (1, 0), (1, 0), (0, 0)))          # of the one place of P7
        np.testing.assert_allclose(levels[3][:, 0, 0], jnp.einsum("nhwc,hwco->no", window, p7["kernel"]) + p7["bias"],
                                   rtol=1e-5, atol=1e-6)


def test_upsampling_repeats_cells():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(upsample(x, (3, 5))[0, ..., 0],
                                  [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]])


def test_anchors_of_a_padded_image_of_torchvision():
    grids = ((100, 136), (50, 68), (25, 34), (13, 17), (7, 9))
    anchors = PyramidAnchors(retinanet.TORCHVISION_SIZES, (0.5, 1.0, 2.0))((800, 1088), levels_of(grids))
    np.testing.assert_array_equal(jnp.concatenate(anchors)[::617], GOLDEN["retinanet/anchors"])


def test_sizes_that_are_not_those_of_the_levels_are_refused():
    with pytest.raises(UserError, match=r"model.sizes: found groups of 2, 2, 2 sizes.*P3, P4"):
        PyramidAnchors(cases.SIZES, cases.RATIOS)(cases.IMAGE, levels_of(cases.GRIDS[:2]))


def test_regions_are_pooled_from_torchvision_s_levels():
    maps, rois = cases.rois()
    levels = {f"P{i}": (jnp.asarray(x)[None], 2**i) for i, x in enumerate([*maps, maps[-1][::2, ::2]], 2)}
    pooled = jax.jit(lambda rois: PyramidRoIAlign(3)(levels, rois))(rois[None])
    np.testing.assert_allclose(pooled[0], GOLDEN["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("i", range(3))
def test_images_are_resized_and_padded_as_torchvision_does(i):
    canvas, size = resize_and_pad(cases.image(i), cases.SHORT, cases.LONG)
    assert [*size, *canvas.shape[:2]] == GOLDEN[f"size{i}"].tolist()
    np.testing.assert_allclose(canvas.reshape(-1)[::97] / 255, GOLDEN[f"resized{i}"], atol=1e-5)
    assert not canvas[size[0]:].any()
    assert not canvas[:, size[1]:].any()


def test_proposals_of_a_pyramid_are_torchvision_s():
    anchors = jnp.concatenate(small_anchors())
    for i in range(2):
        objectness, deltas = cases.outputs(i, 1)
        boxes, scores, mask = ops.propose_boxes(deltas, objectness[:, 0], anchors, 60, 90, pre_nms_top_n=80,
                                                post_nms_top_n=60, min_size=1e-3, levels=cases.COUNTS)
        count = len(GOLDEN[f"rpn/scores{i}"])
        assert mask.sum() == count
        np.testing.assert_allclose(boxes[:count], GOLDEN[f"rpn/boxes{i}"], atol=1e-4)
        np.testing.assert_allclose(jax.nn.sigmoid(scores[:count]), GOLDEN[f"rpn/scores{i}"], atol=1e-6)


# RetinaNet

def test_focal_loss_by_hand():
    logits = jnp.array([2.0, 2.0, -30.0, 0.0])
    p = 1 / (1 + np.exp(-2.0))
    expected = [-0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p), 0.25 * 30, 0.75 * 0.25 * np.log(2)]
    np.testing.assert_allclose(focal_loss(logits, jnp.array([1, 0, 1, 0]), 2.0, 0.25), expected, rtol=1e-5)


@pytest.mark.parametrize("i", range(3))
def test_losses_of_an_image_are_torchvision_s(i):
    """With objects, without any, and with one that is never the best of an anchor."""
    logits, deltas = cases.outputs(i, cases.CLASSES)
    settings = RetinaNet(cases.CLASSES, box_beta=0.0)
    losses = jax.jit(partial(retinanet.image_loss, settings=settings))(
        logits, deltas, jnp.concatenate(small_anchors()), jnp.array(cases.IMAGE), truth_of(*cases.objects(i)))
    np.testing.assert_allclose(losses, [GOLDEN[f"retinanet/{key}_loss{i}"] for key in
                                        ("classification", "bbox_regression")], rtol=1e-5)
    assert i != 1 or losses[1] == 0


def test_anchors_on_the_padding_and_near_difficult_objects_take_no_part():
    anchors = jnp.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], jnp.float32)
    loss = jax.jit(partial(retinanet.image_loss, settings=RetinaNet(1)))

    def of(logits, width, difficult=()):
        truth = truth_of([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0], difficult=difficult)
        return loss(jnp.array(logits)[:, None], jnp.zeros((3, 4)), anchors, jnp.array([20, width]), truth)[0]

    assert of([0.0, 0.0, 5.0], 42) == of([0.0, 0.0, -5.0], 42)                  # its centre is at 45
    assert of([0.0, 0.0, 5.0], 50) > of([0.0, 0.0, -5.0], 50)
    assert of([0.0, 5.0, 0.0], 60, difficult=[1]) == of([0.0, -5.0, 0.0], 60, difficult=[1])


def test_a_small_box_error_counts_by_its_square():
    anchors = jnp.array([[0, 0, 10, 10]], jnp.float32)
    deltas = jnp.array([[0.05, 0, 1.0, 0]])
    for beta, expected in ((1 / 9, 0.05**2 * 9 / 2 + 1 - 1 / 18), (0.0, 1.05)):
        loss = retinanet.image_loss(jnp.zeros((1, 1)), deltas, anchors, jnp.array([20, 20]),
                                    truth_of(anchors, [0]), RetinaNet(1, box_beta=beta))[1]
        assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("i", range(3))
def test_detections_of_an_image_are_torchvision_s(i):
    logits, deltas = cases.outputs(i, cases.CLASSES)
    settings = RetinaNet(cases.CLASSES, pre_nms_top_n=100,
                         test=Postprocess(nms=0.5, max_detections=60, min_size=-1.0))
    split = np.cumsum(cases.COUNTS)[:-1]
    output = jax.jit(partial(retinanet.detections, anchors=small_anchors(), settings=settings))(
        np.split(logits, split), np.split(deltas, split), jnp.array([60, 90]))
    count = len(GOLDEN[f"retinanet/scores{i}"])
    assert output.mask.sum() == count
    np.testing.assert_array_equal(output.classes[:count], GOLDEN[f"retinanet/labels{i}"])
    np.testing.assert_allclose(output.scores[:count], GOLDEN[f"retinanet/scores{i}"], atol=1e-6)
    np.testing.assert_allclose(output.boxes[:count], GOLDEN[f"retinanet/boxes{i}"], atol=1e-4)


# Networks

@pytest.mark.parametrize(("name", "classes", "count"), [
    ("retinanet", 80, 37_915_572), ("retinanet_resnet50_fpn", 91, 34_014_999),
    ("fasterrcnn_resnet50_fpn", 90, 41_755_286)])
def test_parameters(name, classes, count):
    """Batch norm, 53,120, is not counted, as torchvision has it where it is frozen."""
    shapes = jax.eval_shape(detection.create(name, classes).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count + 53_120


WHOLE = {"retinanet": ("retinanet_resnet50_fpn", {"name": "resnet18"}, 0.0),
         "fasterrcnn": ("fasterrcnn_resnet50_fpn", {"name": "resnet18", "hidden": (32, 32)}, 1e-5)}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_network_detects_what_torchvision_s_does(case):
    """From the pixels of two images to boxes in them, over ResNet-18, by weights in torchvision's keys."""
    name, backbone, epsilon = WHOLE[case]
    fields = {"backbone": backbone, "channels": cases.CHANNELS, "resize": (cases.SHORT, cases.LONG)}
    shapes = jax.eval_shape(detection.create(name, cases.CLASSES, **fields).init, jax.random.key(0))
    empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    keys = interop.to_torch(name, empty, backbone={"norm_epsilon": epsilon})
    factors = {layer: float(GOLDEN[f"{case}/factor/{layer}"]) for layer in cases.FACTORS[case]}
    state = cases.weights({key: value.shape for key, value in keys.items()}, factors)
    detector, variables = interop.detector_from_torch(name, state, **fields)
    assert detector.num_classes == cases.CLASSES
    assert detector.backbone.norm_epsilon == epsilon
    for i in range(2):
        boxes, scores, classes = inference.predict(detector, variables, cases.image(i)).detections
        labels = classes + (case == "fasterrcnn")
        np.testing.assert_array_equal(labels[:40], GOLDEN[f"{case}/whole/labels{i}"])
        np.testing.assert_allclose(scores[:40], GOLDEN[f"{case}/whole/scores{i}"], atol=1e-4)
        np.testing.assert_allclose(boxes[:40], GOLDEN[f"{case}/whole/boxes{i}"], atol=0.05)


def batch_of_two():
    """Bright squares on dark images: one with two, one with none; smaller than their canvas."""
    images = np.zeros((2, 64, 64, 3), np.uint8)
    boxes = np.zeros((2, 8, 4), np.float32)
    for row, (x, y, side) in enumerate([(6, 8, 14), (30, 20, 22)]):
        images[0, y:y + side, x:x + side] = 255
        boxes[0, row] = x, y, x + side, y + side
    mask = np.arange(8) < np.array([[2], [0]])
    return {"images": images, "sizes": np.array([[60, 64], [64, 50]], np.int32), "boxes": boxes,
            "classes": np.where(mask, np.arange(8) % 2, 0).astype(np.int32), "difficult": ~mask & False, "mask": mask}


@pytest.mark.parametrize("name", TINY)
def test_the_loss_falls_within_a_few_steps(name):
    detector, batch, optimizer = detection.create(name, 2, **TINY[name]), batch_of_two(), optax.adam(1e-2)

    @jax.jit
    def step(variables, moments, key):
        params = variables["params"]
        (loss, (state, _)), gradients = jax.value_and_grad(
            lambda params: detector.loss(variables | {"params": params}, batch, key, {}), has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments)
        return {"params": optax.apply_updates(params, updates), **state}, moments, loss

    variables, losses = detector.init(jax.random.key(0)), []
    moments = optimizer.init(variables["params"])
    for i in range(30):
        variables, moments, loss = step(variables, moments, jax.random.key(i))
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_an_image_is_detected_alike_alone_and_in_a_minibatch():
    detector, batch = detection.create("faster_rcnn_fpn", 2, **TINY["faster_rcnn_fpn"]), batch_of_two()
    variables = detector.init(jax.random.key(0))
    both = detector.predict(variables, batch["images"], batch["sizes"])
    for i in range(2):
        alone = detector.predict(variables, batch["images"][i:i + 1], batch["sizes"][i:i + 1])
        np.testing.assert_array_equal(alone.mask[0], both.mask[i])
        np.testing.assert_allclose(alone.boxes[0][alone.mask[0]], both.boxes[i][both.mask[i]], atol=1e-3)
        assert (both.boxes[i][..., 2:] <= batch["sizes"][i][::-1]).all()


def test_frozen_batch_norm_keeps_its_statistics_and_a_live_one_does_not():
    batch = batch_of_two()
    for freeze in (True, False):
        fields = TINY["retinanet"] | {"backbone": SMALL | {"freeze_norm": freeze}}
        detector = detection.create("retinanet", 2, **fields)
        variables = detector.init(jax.random.key(0))
        _, (state, _) = jax.jit(lambda v, d=detector: d.loss(v, batch, jax.random.key(0), {}))(variables)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), state["batch_stats"], variables["batch_stats"])
        assert all(jax.tree.leaves(same)) == freeze


def test_training_begins_with_the_prior_of_an_object():
    detector = detection.create("retinanet", 2, **TINY["retinanet"])
    variables = detector.init(jax.random.key(0))
    logits, _, _ = jax.jit(lambda v, b: detector.network.apply(v, b["images"], b["sizes"]))(variables, batch_of_two())
    np.testing.assert_allclose(jax.nn.sigmoid(jnp.concatenate(logits, 1)), 0.01, atol=2e-3)


def test_fields_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"model.backbone_stages: found stage1, stage3 of strides 2, 8"):
        detection.create("retinanet", 2, **TINY["retinanet"] | {"backbone_stages": ("stage1", "stage3")}).network   # noqa: B018
    with pytest.raises(UserError, match="extra"):
        detection.create("retinanet", 2, extra="P6")
    with pytest.raises(UserError, match="negative"):
        FasterRCNNFPN(2, negative=0.8)
