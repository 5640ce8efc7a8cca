"""YOLO's targets, loss and detections on cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection import yolo
from cnnjax.detection.targets import Truth
from cnnjax.detection.yolo import CellTargets, Grid

SIZE = jnp.array([100, 200])        # a cell of a 2x2 grid is 50 high and 100 wide


def truth(boxes, classes, difficult=None, room=8):
    """An image's ground truth padded to so many rows, with rubbish in the padding."""
    count = len(boxes)
    padded = np.full((room, 4), 7.0, np.float32)
    padded[:count] = boxes
    flags = np.zeros(room, bool)
    flags[:count] = False if difficult is None else difficult
    return Truth(jnp.asarray(padded), jnp.asarray(np.pad(classes, (0, room - count)), jnp.int32), jnp.asarray(flags),
                 jnp.arange(room) < count)


NOTHING = truth(np.zeros((0, 4)), np.zeros(0, int))


def tiny(**fields):
    trunk = (((4, 3, 2),), ((8, 3, 1),), ((8, 3, 1),))
    return yolo.create(3, **{"size": 32, "grid": 2, "trunk": trunk, "hidden": 16} | fields)


def batch_of(truths, side=32):
    images = np.random.default_rng(0).integers(0, 256, (len(truths), side, side, 3)).astype(np.uint8)
    boxes, classes, difficult, mask = (jnp.stack(part) for part in zip(*truths, strict=True))
    return {"images": images, "sizes": np.full((len(truths), 2), side), "boxes": boxes, "classes": classes,
            "difficult": difficult, "mask": mask}


@pytest.mark.parametrize(("detector", "parameters", "convolutions"), [
    (yolo.create(20), 271_703_550, 24), (yolo.create_fast(20), 45_089_374, 9)])
def test_parameters_and_convolutions_are_counted(detector, parameters, convolutions):
    params = jax.eval_shape(detector.init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert sum(name.startswith("conv") for name in params) == convolutions
    outputs = jax.eval_shape(detector.network.apply, {"params": params}, jnp.zeros((1, 448, 448, 3)))
    assert outputs.shape == (1, 7 * 7 * 30)


# Targets

def test_an_object_belongs_to_the_cell_of_its_centre():
    targets = yolo.cell_targets(truth([[110, 10, 150, 46]], [2]), SIZE, 2)              # its centre is (130, 28)
    np.testing.assert_array_equal(targets.objects, (False, True, False, False))
    np.testing.assert_allclose(targets.boxes[1], (0.3, 0.56, np.sqrt(40 / 200), np.sqrt(36 / 100)), rtol=1e-5)
    np.testing.assert_allclose(targets.corners[1], (0.55, 0.1, 0.75, 0.46), rtol=1e-5)
    assert targets.classes[1] == 2


def test_of_two_objects_in_a_cell_the_first_is_learnt_and_one_without_area_is_none():
    boxes = [[10, 10, 10, 40], [10, 10, 30, 30], [20, 20, 60, 40], [180, 80, 220, 120]]
    targets = yolo.cell_targets(truth(boxes, [0, 1, 2, 2]), SIZE, 2)
    np.testing.assert_array_equal(targets.objects, (True, False, False, True))          # the last centre on the corner
    np.testing.assert_array_equal(targets.classes[jnp.array([0, 3])], (1, 2))


def test_the_cell_of_a_difficult_object_is_ignored_unless_another_s_is_there():
    boxes = [[10, 10, 30, 30], [120, 10, 140, 30], [125, 15, 145, 35]]
    targets = yolo.cell_targets(truth(boxes, [0, 1, 2], difficult=[True, True, False]), SIZE, 2)
    np.testing.assert_array_equal(targets.ignored, (True, False, False, False))
    np.testing.assert_array_equal(targets.objects, (False, True, False, False))
    assert targets.classes[1] == 2


# Loss

def one_cell(boxes, confidence, classes):
    return Grid(jnp.array([boxes], jnp.float32), jnp.array([confidence], jnp.float32), jnp.array([classes],
                                                                                               jnp.float32))


OBJECT = CellTargets(jnp.array([True]), jnp.array([False]), jnp.array([[0.25, 0.25, 0.75, 0.75]]),
                     jnp.array([[0.5, 0.5, np.sqrt(0.5), np.sqrt(0.5)]]), jnp.array([1]))


def test_the_terms_of_the_loss_by_hand():
    """The second box is half of the object: IoU 0.5, so it is responsible; the first does not meet it."""
    root = np.sqrt(0.5)
    outputs = one_cell([[0.0, 0.0, 0.1, 0.1], [0.5, 0.375, root, 0.5]], [0.4, 0.9], [0.2, 0.7])
    terms = yolo.grid_loss(outputs, OBJECT, 1, 5.0, 0.5)
    assert float(terms.coordinates) == pytest.approx(5 * (0.125**2 + (root - 0.5)**2), rel=1e-5)
    assert float(terms.object_confidence) == pytest.approx((0.9 - 0.5)**2, rel=1e-5)
    assert float(terms.background_confidence) == pytest.approx(0.5 * 0.4**2, rel=1e-5)
    assert float(terms.classes) == pytest.approx(0.2**2 + 0.3**2, rel=1e-5)


def test_the_nearer_box_is_responsible_where_none_meets_the_object():
    outputs = one_cell([[0.0, 0.0, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]], [0.4, 0.6], [0, 1])
    terms = yolo.grid_loss(outputs, OBJECT, 1, 1.0, 1.0)
    assert float(terms.object_confidence) == pytest.approx(0.6**2, rel=1e-5)
    assert float(terms.background_confidence) == pytest.approx(0.4**2, rel=1e-5)


def test_a_negative_root_is_an_error_though_the_box_is_right():
    root = np.sqrt(0.5)
    outputs = one_cell([[0.5, 0.5, -root, root], [0.0, 0.0, 0.0, 0.0]], [1, 0], [0, 1])
    terms = yolo.grid_loss(outputs, OBJECT, 1, 1.0, 1.0)
    assert float(terms.object_confidence) == pytest.approx(0, abs=1e-6)
    assert float(terms.coordinates) == pytest.approx((2 * root)**2, rel=1e-5)


def test_cells_without_an_object_learn_their_confidence_alone_and_ignored_ones_nothing():
    outputs = Grid(jnp.ones((2, 1, 4)), jnp.array([[0.6], [0.8]]), jnp.ones((2, 3)))
    none = jnp.array([False, False])
    targets = CellTargets(none, jnp.array([False, True]), jnp.zeros((2, 4)), jnp.zeros((2, 4)), jnp.zeros(2, int))
    terms = yolo.grid_loss(outputs, targets, 1, 5.0, 0.5)
    assert terms.coordinates == terms.object_confidence == terms.classes == 0
    assert float(terms.background_confidence) == pytest.approx(0.5 * 0.6**2, rel=1e-5)


def test_no_gradient_passes_through_the_iou():
    def loss(boxes):
        outputs = Grid(boxes, jnp.zeros((1, 2)), jnp.zeros((1, 2)))
        return yolo.grid_loss(outputs, OBJECT, 1, 0.0, 0.5).object_confidence
    assert not jax.grad(loss)(jnp.full((1, 2, 4), 0.6)).any()


@pytest.fixture(scope="module")
def variables():
    return tiny().init(jax.random.key(0))


def loss_of(detector, variables, batch, axis_name=None):
    return detector.loss(variables, batch, jax.random.key(1), {}, axis_name)


def test_without_objects_the_loss_is_finite_and_only_of_confidence(variables):
    (loss, (_, metrics)), gradient = jax.jit(jax.value_and_grad(
        lambda variables: loss_of(tiny(), variables, batch_of([NOTHING] * 2)), has_aux=True))(variables)
    assert loss == metrics["background_confidence_loss"]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert metrics["coordinates_loss"] == metrics["classes_loss"] == metrics["object_confidence_loss"] == 0


def test_padding_and_the_split_over_devices_do_not_change_the_loss(variables):
    objects = [([[2, 2, 20, 14]], [0]), ([[20, 20, 31, 30], [3, 18, 9, 29]], [1, 2]), (np.zeros((0, 4)), []),
               ([[1, 1, 30, 30]], [2])]
    first, second = (batch_of([truth(*part, room=room) for part in objects]) for room in (2, 16))
    whole = jax.jit(lambda batch: loss_of(tiny(), variables, batch)[0])
    np.testing.assert_allclose(whole(first), whole(second), rtol=1e-6)
    halves = jax.tree.map(lambda x: np.asarray(x).reshape(2, 2, *x.shape[1:]), first)
    parts = jax.jit(jax.vmap(lambda batch: loss_of(tiny(), variables, batch, "data")[0], axis_name="data"))(halves)
    np.testing.assert_allclose(parts.mean(), whole(first), rtol=1e-5)


def test_dropout_drops_hidden_units_in_training_alone(variables):
    apply, images = jax.jit(tiny().network.apply, static_argnames="train"), jnp.ones((2, 32, 32, 3))
    plain = apply(variables, images)
    np.testing.assert_array_equal(plain, apply(variables, images, train=True))
    dropped = apply(variables, images, dropout_keys=jax.random.split(jax.random.key(0), 2))
    assert not np.allclose(dropped[0], dropped[1])                      # alike images, keys of their own
    assert not np.allclose(dropped, plain)


# Detections

def test_a_detection_by_hand():
    """A box in the second cell, of probability 0.8 and confidence 0.5, and one that reaches over the border."""
    outputs = np.zeros((4, 13), np.float32)         # 2 boxes of 5 numbers, 3 classes
    outputs[1, :5] = 0.3, 0.56, np.sqrt(0.2), 0.6, 0.5
    outputs[1, 10:] = 0.8, 0.0, -0.4
    outputs[2, 5:10] = 0.0, 0.0, 0.5, -0.5, 1.0
    outputs[2, 11] = 0.3
    found = yolo.postprocess(tiny(test={"score_threshold": 0.1}), SIZE, outputs.reshape(-1))
    np.testing.assert_array_equal(found.mask[:3], (True, True, False))
    np.testing.assert_allclose(found.scores[:2], (0.4, 0.3), rtol=1e-5)
    np.testing.assert_array_equal(found.classes[:2], (0, 1))
    np.testing.assert_allclose(found.boxes[:2], [[110, 10, 150, 46], [0, 37.5, 25, 62.5]], rtol=1e-4)


def test_overlapping_boxes_of_a_class_are_suppressed():
    outputs = np.zeros((4, 13), np.float32)
    outputs[0, :10] = 0.5, 0.5, 0.6, 0.6, 1.0, 0.55, 0.5, 0.6, 0.6, 0.9
    outputs[0, 10] = 1.0
    found = yolo.postprocess(tiny(), SIZE, outputs.reshape(-1))
    assert found.mask.sum() == 1
    assert found.scores[0] == 1


def test_what_is_not_finite_is_not_detected():
    outputs = np.full((4, 13), 0.5, np.float32)
    outputs[0, 0], outputs[1, 4], outputs[2, 10:] = np.nan, np.inf, np.nan
    outputs[3, 5:7] = np.inf
    found = yolo.postprocess(tiny(), SIZE, outputs.reshape(-1))
    assert found.mask.any()
    assert jnp.isfinite(found.boxes[found.mask]).all()
    assert jnp.isfinite(found.scores[found.mask]).all()
    assert not yolo.postprocess(tiny(), SIZE, np.full_like(outputs, np.nan).reshape(-1)).mask.any()


def test_the_image_is_stretched_to_a_square():
    canvas, size = yolo.create(20).preprocess(np.zeros((30, 50, 3), np.uint8))
    assert canvas.shape == (448, 448, 3)
    np.testing.assert_array_equal(size, (448, 448))


def test_a_few_steps_lower_the_loss_and_detection_runs():
    detector = tiny(batch_norm=True, bottleneck=8)
    variables = detector.init(jax.random.key(0))
    batch = batch_of([truth([[2, 2, 20, 14]], [0]), truth([[20, 20, 31, 30], [3, 18, 9, 29]], [1, 2])])

    @jax.jit
    def step(variables):
        (loss, (state, _)), gradient = jax.value_and_grad(
            lambda params: loss_of(detector, {**variables, "params": params}, batch), has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.001 * g, variables["params"], gradient)
        return {"params": params, **state}, loss

    losses = []
    for _ in range(20):
        variables, loss = step(variables)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0], losses
    found = detector.predict(variables, batch["images"], batch["sizes"])
    assert found.boxes.shape == (2, 100, 4)
    assert found.classes.max() < 3
