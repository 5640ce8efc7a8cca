"""SSD by hand, and against torchvision through the values that scripts/make_golden_ssd.py keeps."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import interop, ops
from cnnjax.detection import ssd
from cnnjax.detection.detector import DetectorOutput
from cnnjax.detection.losses import total_count
from cnnjax.detection.targets import Truth
from cnnjax.errors import UserError
from tests.detection import ssd_cases as cases

GOLDEN = dict(np.load(Path(__file__).with_name("golden_ssd.npz")))
DEFAULT_BOXES = ops.default_boxes(cases.SIZE, cases.GRIDS, cases.STEPS, cases.SCALES, cases.RATIOS, clip=True)


def truth(boxes, classes, difficult=None, room=8):
    """An image's ground truth padded to so many rows, with rubbish in the padding."""
    count = len(boxes)
    mask = np.arange(room) < count
    padded = np.full((room, 4), 7.0, np.float32)
    padded[:count] = boxes
    flags = np.zeros(room, bool)
    flags[:count] = False if difficult is None else difficult
    return Truth(jnp.asarray(padded), jnp.asarray(np.pad(classes, (0, room - count)), jnp.int32), jnp.asarray(flags),
                 jnp.asarray(mask))


def labelled(seed, room=8):
    """`truth` of the golden file's objects, whose labels count the background."""
    boxes, labels = cases.objects(seed)
    return truth(boxes, labels - 1, room=room)


def tiny(**fields):
    """Three maps of a 64x64 image: 8x8, 4x4 and 2x2 places."""
    given = {"scales": (0.2, 0.35, 0.5, 0.7), "ratios": ((2,), (2, 3), (2,)), "steps": (8, 16, 32),
             "extras": ((8, 16, 3, 2, 1),), "convs": (1, 1, 1, 1, 1), "width": 4}
    return ssd.create(3, size=64, **given | fields)


def batch_of(truths, side=64, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(truths), side, side, 3)).astype(np.uint8)
    boxes, classes, difficult, mask = (jnp.stack(part) for part in zip(*truths, strict=True))
    return {"images": images, "sizes": np.full((len(truths), 2), side), "boxes": boxes, "classes": classes,
            "difficult": difficult, "mask": mask}


# The network

@pytest.mark.parametrize(("detector", "parameters", "boxes"), [
    (ssd.create(20), 26_285_486, 8732), (ssd.create_torchvision(90), 35_641_826, 8732),
    (ssd.create(20, size=512), 27_188_676, 24_564)])
def test_parameters_and_default_boxes_are_counted(detector, parameters, boxes):
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters
    images = jnp.zeros((1, detector.size, detector.size, 3))
    logits, deltas = jax.eval_shape(detector.network.apply, variables, images)
    assert logits.shape == (1, boxes, detector.num_classes + 1)
    assert deltas.shape == (1, boxes, 4)
    assert detector.default_boxes().shape == (boxes, 4)


def test_l2_normalisation_is_torchvision_s_and_zeros_have_a_gradient():
    features = GOLDEN["features"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ssd.l2_normalise(features), GOLDEN["normalised"].transpose(0, 2, 3, 1), atol=1e-6)
    assert not ssd.l2_normalise(jnp.zeros((1, 3))).any()
    assert jnp.isfinite(jax.grad(lambda x: ssd.l2_normalise(x).sum())(jnp.zeros((1, 3)))).all()


def test_the_paper_s_default_boxes():
    boxes = ssd.create(20).default_boxes()
    np.testing.assert_allclose(boxes[0], (-11, -11, 19, 19), atol=1e-4)                 # 30 pixels about (4, 4)
    side = np.sqrt(30 * 111)                    # the next map's first size: 0.37 of 300
    assert boxes[1, 2] - boxes[1, 0] == pytest.approx(np.sqrt(0.1 * 0.2) * 300, rel=1e-5)
    assert side == pytest.approx(57.7, abs=0.1)
    np.testing.assert_allclose(boxes[2, 2:] - boxes[2, :2], (30 * np.sqrt(2), 30 / np.sqrt(2)), rtol=1e-5)
    np.testing.assert_allclose(boxes[-1, 2:] - boxes[-1, :2], (264 / np.sqrt(2), 264 * np.sqrt(2)), rtol=1e-5)


def test_default_boxes_are_torchvision_s():
    np.testing.assert_array_equal(DEFAULT_BOXES, GOLDEN["default_boxes"])
    np.testing.assert_array_equal(ssd.create_torchvision(90).default_boxes()[::61], GOLDEN["ssd300/default_boxes"])


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"model\.size': found 128, at which scales and ratios"):
        ssd.create(3, size=128)
    with pytest.raises(UserError, match=r"model\.steps': found 4 values, expected 3: there are 3 maps"):
        tiny(steps=(8, 16, 32, 64))


# Targets and loss

def test_matches_are_torchvision_s():
    for seed in range(3):
        labels, _ = ssd.ssd_targets(DEFAULT_BOXES, labelled(seed), 0.5)
        objects = GOLDEN["matches"][seed]
        expected = np.where(objects >= 0, np.append(cases.objects(seed)[1], 0)[objects], 0)
        np.testing.assert_array_equal(labels, expected)


def test_losses_are_torchvision_s():
    of_class = of_box = positives = 0
    for seed in range(3):
        targets = ssd.ssd_targets(DEFAULT_BOXES, labelled(seed), 0.5)
        sums = ssd.multibox_loss(*cases.outputs(seed), *targets, 3)
        of_class, of_box, positives = of_class + sums[0], of_box + sums[1], positives + (targets[0] > 0).sum()
    np.testing.assert_allclose(of_class / positives, GOLDEN["class_loss"], rtol=1e-5)
    np.testing.assert_allclose(of_box / positives, GOLDEN["box_loss"], rtol=1e-5)


def test_each_object_has_its_best_box_and_others_at_the_threshold():
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 14], [20, 0, 30, 10], [40, 0, 50, 10]], jnp.float32)
    objects = [[0, 0, 10, 11], [22, 6, 42, 16]]                                         # the second overlaps little
    labels, deltas = ssd.ssd_targets(boxes, truth(objects, [0, 1]), 0.5)
    np.testing.assert_array_equal(labels, (1, 1, 2, 0))
    np.testing.assert_allclose(deltas[0], (0, 10 * 0.5 / 10, 0, 5 * np.log(1.1)), rtol=1e-5)
    assert not deltas[3].any()


def test_a_difficult_object_is_neither_learnt_nor_background():
    boxes = jnp.array([[0, 0, 10, 10], [20, 0, 30, 10]], jnp.float32)
    labels, _ = ssd.ssd_targets(boxes, truth([[0, 0, 10, 10]], [2], difficult=[True]), 0.5)
    np.testing.assert_array_equal(labels, (-1, 0))


def test_an_object_without_area_takes_no_box():
    labels, deltas = ssd.ssd_targets(DEFAULT_BOXES, truth([[5, 5, 5, 9], [200, 200, 220, 220]], [0, 1]), 0.5)
    assert not labels.any()
    assert not deltas.any()


def test_hard_negatives_by_hand():
    """One positive: of five negatives the three of the greatest loss are learnt, the ignored box never."""
    background = jnp.array([0, -1, 2, 2, 0, 5, -9], jnp.float32)        # logit of the one class against 0
    logits = jnp.stack([jnp.zeros(7), background], 1)
    labels = jnp.array([1, 0, 0, 0, 0, 0, -1])
    deltas = jnp.zeros((7, 4)).at[0].set(jnp.array([0.5, 2, 0, 0])).at[1].set(9.0)
    of_class, of_box = ssd.multibox_loss(logits, deltas, labels, jnp.zeros((7, 4)), 3)
    expected = np.log(2) + 2 * np.log1p(np.exp(2)) + np.log1p(np.exp(5))
    assert of_class == pytest.approx(expected, rel=1e-5)
    assert of_box == pytest.approx(0.125 + 1.5, rel=1e-5)


@jax.jit
def gradient_of(variables, batch):
    return jax.value_and_grad(tiny().loss, has_aux=True)(variables, batch, jax.random.key(0), {})


@pytest.fixture(scope="module")
def variables():
    return tiny().init(jax.random.key(0))


def test_without_objects_the_loss_and_its_gradient_are_zero(variables):
    (loss, (_, metrics)), gradient = gradient_of(variables, batch_of([labelled(1)] * 4))
    assert loss == metrics["class_loss"] == metrics["box_loss"] == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_padding_and_the_split_over_devices_do_not_change_the_loss(variables):
    loss = jax.jit(lambda batch: tiny().loss(variables, batch, jax.random.key(0), {})[0])
    batches = [batch_of([labelled(seed, room) for seed in range(4)]) for room in (7, 16)]
    np.testing.assert_allclose(loss(batches[0]), loss(batches[1]), rtol=1e-6)
    halves = jax.tree.map(lambda x: np.asarray(x).reshape(2, 2, *x.shape[1:]), batches[0])
    parts = jax.jit(jax.vmap(lambda batch: tiny().loss(variables, batch, jax.random.key(0), {}, "data")[0],
                             axis_name="data"))(halves)
    np.testing.assert_allclose(parts.mean(), loss(batches[0]), rtol=1e-5)


def test_the_count_is_at_least_one_over_all_devices():
    counts = jax.vmap(partial(total_count, axis_name="data"), axis_name="data")(jnp.zeros(4))
    np.testing.assert_array_equal(counts, 0.25)


# Detections

def check(found: DetectorOutput, expected, tolerance):
    count = int(found.mask.sum())
    assert count == len(expected["scores"])
    np.testing.assert_array_equal(found.classes[:count] + 1, expected["labels"])
    np.testing.assert_allclose(found.scores[:count], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found.boxes[:count], expected["boxes"], atol=tolerance)


def test_detections_are_torchvision_s():
    detector = tiny(test={"max_detections": 60}, pre_nms_top_n=40)
    for i in range(3):
        found = ssd.postprocess(detector, DEFAULT_BOXES, *cases.outputs(i), jnp.array([64, 64]))
        check(found, {key: GOLDEN[f"detections{i}/{key}"] for key in ("boxes", "scores", "labels")}, 1e-4)


def test_what_is_not_finite_is_not_detected():
    logits, deltas = cases.outputs(0)
    logits[3], deltas[5, 2], deltas[7, 0] = np.nan, np.nan, np.inf
    found = ssd.postprocess(tiny(), DEFAULT_BOXES, logits, deltas, jnp.array([64, 64]))
    assert found.mask.any()
    assert jnp.isfinite(found.boxes[found.mask]).all()
    assert jnp.isfinite(found.scores[found.mask]).all()
    nothing = ssd.postprocess(tiny(), DEFAULT_BOXES, np.full_like(logits, np.nan), deltas, jnp.array([64, 64]))
    assert not nothing.mask.any()


def test_the_image_is_stretched_without_rounding():
    canvas, size = tiny().preprocess(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert canvas.shape == (64, 64, 3)
    assert canvas.dtype == np.float32
    np.testing.assert_array_equal(size, (64, 64))
    np.testing.assert_allclose(canvas[9, 31, 0], 255 * (0.5 * 31.5 / 16 - 0.5), rtol=1e-5)


def random_weights():
    """The random weights of the golden file, by torchvision's keys."""
    shapes = jax.eval_shape(ssd.create_torchvision(90).init, jax.random.key(0))
    state = interop.to_torch("ssd300_vgg16", jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    return cases.weights({key: value.shape for key, value in state.items()})


@pytest.mark.slow
def test_the_whole_network_s_detections_are_torchvision_s():
    detector, variables = interop.detector_from_torch("ssd300_vgg16", random_weights())
    assert detector == ssd.create_torchvision(90)
    canvas, size = detector.preprocess(cases.image(0))
    found = detector.predict(variables, canvas[None], size[None])
    height, width = cases.IMAGE_SIZES[0]
    boxes = ops.resize_boxes(found.boxes[0], height / 300, width / 300)[:50]
    check(DetectorOutput(boxes, *(part[0, :50] for part in found[1:4])),
          {key: GOLDEN[f"ssd300/{key}"] for key in ("boxes", "scores", "labels")}, 0.05)


def test_a_few_steps_lower_the_loss_and_detection_runs(variables):
    batch = batch_of([labelled(seed) for seed in range(4)])
    losses = []
    for _ in range(12):
        (loss, _), gradient = gradient_of(variables, batch)
        variables = jax.tree.map(lambda p, g: p - 0.001 * g, variables, gradient)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0], losses
    found = tiny().predict(variables, batch["images"], batch["sizes"])
    assert found.boxes.shape == (4, 200, 4)
    assert found.classes.max() < 3


def test_batch_norm_keeps_its_statistics_and_bfloat16_gives_float32_results():
    detector = tiny(batch_norm=True, dtype="bfloat16")
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    logits, deltas = jax.eval_shape(detector.network.apply, variables, jnp.zeros((1, 64, 64, 3)))
    assert logits.dtype == deltas.dtype == jnp.float32
    loss, (state, _) = jax.eval_shape(lambda *given: detector.loss(*given, {}), variables, batch_of([labelled(0)]),
                                      jax.random.key(0))
    assert loss.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, {"batch_stats": variables["batch_stats"]})
