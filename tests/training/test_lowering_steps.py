"""The training step of every task, and all that predicts, lower for accelerators without one at hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnnjax import classifier, detection, models, networks
from cnnjax.detection import rcnn, settings
from cnnjax.training import optimizers
from cnnjax.training import state as states
from cnnjax.training import step as steps
from tests.detection import tiny_ladder

PLATFORMS = ("cuda", "tpu")

shape = jax.ShapeDtypeStruct


def lowers(function, *arguments):
    """Whether the program of shapes alone is StableHLO for both, with no callback to the host."""
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    assert "callback" not in exported.mlir_module()


def step_lowers(config, init, loss, batch):
    """The whole training step, on two devices that share the batch."""
    state = jax.eval_shape(lambda: states.create(config, init))
    step = partial(steps.train_step, loss, optimizers.optimizer(config), 0.0)
    shares = jax.tree.map(lambda x: shape((2, x.shape[0] // 2, *x.shape[1:]), x.dtype), batch)
    lowers(jax.vmap(step, in_axes=(None, 0), axis_name=steps.AXIS), state, shares)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "plain20", "googlenet"])
def test_a_classifiers_training_step_lowers(name, tiny):
    module = models.create(name, num_classes=10)
    image = shape((2, *models.image_shape(name)), jnp.float32)

    def loss(variables, batch, key, hyper, axis_name):
        return classifier.loss(module, variables, batch, key, hyper)
    step_lowers(tiny(), partial(networks.init_variables, module, image.shape[1:]), loss,
                {"image": image, "label": shape((2,), jnp.int32)})


@pytest.mark.parametrize("views", [(), (10,)], ids=["one", "ten_crop"])
def test_a_classifiers_evaluation_and_prediction_lower(views):
    module = models.create("resnet20", num_classes=10)
    variables = jax.eval_shape(lambda: networks.init_variables(module, (32, 32, 3), jax.random.key(0)))
    images = shape((2, *views, 32, 32, 3), jnp.uint8)
    lowers(classifier.evaluation_sums(module, np.zeros(3), np.ones(3)), variables,
           {"image": images, "label": shape((2,), jnp.int32), "mask": shape((2,), bool)})
    lowers(partial(classifier.log_probabilities, module), variables, shape(images.shape, jnp.float32))


# Detectors

DETECTORS = ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn", "faster_rcnn_fpn", "yolo", "ssd", "retinanet")


def test_every_file_of_a_detector_is_among_them():
    """The other names of the registry are those of the same code with other fields."""
    files = {module.split(":")[0] for module in detection.MODULES.values()}
    assert files == {detection.MODULES[name].split(":")[0] for name in DETECTORS}


def batch_of(images=2, side=64, objects=8, proposals=16):
    return {"images": shape((images, side, side, 3), np.uint8), "sizes": shape((images, 2), np.int32),
            "boxes": shape((images, objects, 4), np.float32), "classes": shape((images, objects), np.int32),
            "difficult": shape((images, objects), bool), "mask": shape((images, objects), bool),
            "proposals": shape((images, proposals, 4), np.float32), "proposals_mask": shape((images, proposals), bool),
            "crops": shape((images, 16, 16, 3), np.uint8), "labels": shape((images,), np.int32)}


@pytest.fixture(params=DETECTORS)
def detector(request):
    return settings.detector_of(tiny_ladder.get_config(), request.param, 3)


def test_a_detectors_training_step_lowers(detector, tiny):
    def init(key):          # the SVMs are not trained by steps
        return {name: tree for name, tree in detector.init(key).items() if name != "linear"}
    step_lowers(tiny(), init, detector.loss, batch_of())


def test_a_detectors_predictions_on_a_batch_lower(detector):
    variables, batch = jax.eval_shape(lambda: detector.init(jax.random.key(0))), batch_of()
    if isinstance(detector, rcnn.RCNN):         # it cuts its regions out on the host
        network = {name: tree for name, tree in variables.items() if name != "linear"}
        lowers(partial(rcnn._features, detector), network, batch["crops"])
        features = jax.eval_shape(partial(rcnn._features, detector), network, batch["crops"])
        of_regions = [shape((2, 16, f.shape[-1]), f.dtype) for f in features]
        lowers(partial(rcnn._classify, detector), variables["linear"], *of_regions, batch["proposals"], batch["sizes"])
    else:
        lowers(detector.predict, variables, batch["images"], batch["sizes"],
               batch["proposals"] if detector.needs_proposals else None)
