"""Every training step and every detector's forward pass lowers for accelerators, without one at hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnnjax import classification, models, networks
from cnnjax.detection import settings
from cnnjax.training import optimizers
from cnnjax.training import state as states
from cnnjax.training import step as steps
from tests.detection import tiny_ladder

PLATFORMS = ("cuda", "tpu")


def lowers(function, *arguments):
    """Whether the program of shapes alone is StableHLO for both, with no callback to the host."""
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    assert "callback" not in exported.mlir_module()


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "plain20", "googlenet"])
def test_a_classifier_s_training_step_lowers(name, tiny):
    config = tiny()
    module = models.create(name, num_classes=10)
    image = jax.ShapeDtypeStruct((2, *models.image_shape(name)), jnp.float32)
    init = partial(networks.init_variables, module, image.shape[1:])
    state = jax.eval_shape(lambda: states.create(config, init))

    def loss(variables, batch, key, hyper, axis_name):
        return classification.loss(module, variables, batch, key, hyper)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((2,), jnp.int32)}
    step = partial(steps.train_step, loss, optimizers.optimizer(config), 0.0)
    with_axis = jax.vmap(step, in_axes=(None, 0), axis_name=steps.AXIS)         # one device of the mapped axis
    lowers(with_axis, state, jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), batch))


def batch_of(images=2, side=64, objects=8, proposals=16):
    shape = jax.ShapeDtypeStruct
    return {"images": shape((images, side, side, 3), np.uint8), "sizes": shape((images, 2), np.int32),
            "boxes": shape((images, objects, 4), np.float32), "classes": shape((images, objects), np.int32),
            "difficult": shape((images, objects), bool), "valid": shape((images, objects), bool),
            "proposals": shape((images, proposals, 4), np.float32), "proposals_valid": shape((images, proposals), bool),
            "crops": shape((images, 16, 16, 3), np.uint8), "labels": shape((images,), np.int32)}


@pytest.mark.parametrize("name", ["rcnn", "sppnet", "fast_rcnn", "faster_rcnn"])
def test_a_detector_s_loss_and_its_gradient_lower(name):
    detector = settings.detector_of(tiny_ladder.get_config(), name, 3)
    variables = jax.eval_shape(lambda: detector.init(jax.random.key(0)))
    variables.pop("linear", None)

    def gradient(variables, batch):
        def loss(params):
            return detector.loss({**variables, "params": params}, batch, jax.random.key(0), {})
        return jax.value_and_grad(loss, has_aux=True)(variables["params"])
    lowers(gradient, variables, batch_of())


@pytest.mark.parametrize("name", ["sppnet", "fast_rcnn", "faster_rcnn"])
def test_a_detector_s_inference_on_a_batch_lowers(name):
    detector = settings.detector_of(tiny_ladder.get_config(), name, 3)
    batch = batch_of(images=2)
    lowers(lambda *arguments: detector.predict(*arguments), jax.eval_shape(lambda: detector.init(jax.random.key(0))),
           batch["images"], batch["sizes"], batch["proposals"])
