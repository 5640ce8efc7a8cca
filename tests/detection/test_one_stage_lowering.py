"""The training steps and the detection of YOLO and SSD lower for accelerators, without one at hand."""

import jax
import numpy as np
import pytest

from cnnjax.detection import ssd, yolo
from tests.detection import test_ssd, test_yolo
from tests.training.test_lowering_steps import lowers

DETECTORS = {"yolo": test_yolo.tiny(), "fast_yolo": test_yolo.tiny(bottleneck=4, batch_norm=True),
             "ssd": test_ssd.tiny(), "ssd_batch_norm": test_ssd.tiny(batch_norm=True)}


@pytest.mark.parametrize("name", DETECTORS)
def test_loss_gradient_and_detection_lower(name):
    detector = DETECTORS[name]
    variables = jax.eval_shape(detector.init, jax.random.key(0))
    shape = jax.ShapeDtypeStruct
    images = shape((2, detector.size, detector.size, 3), np.uint8)
    batch = {"images": images, "sizes": shape((2, 2), np.int32), "boxes": shape((2, 8, 4), np.float32),
             "classes": shape((2, 8), np.int32), "difficult": shape((2, 8), bool), "valid": shape((2, 8), bool)}

    def gradient(variables, batch):
        return jax.value_and_grad(lambda params: detector.loss({**variables, "params": params}, batch,
                                                               jax.random.key(0), {}), has_aux=True)(
            variables["params"])
    lowers(gradient, variables, batch)
    lowers(detector.predict, variables, images, batch["sizes"])


def test_the_whole_networks_lower():
    for detector in (ssd.create_torchvision(90), yolo.create(20)):
        images = jax.ShapeDtypeStruct((1, detector.size, detector.size, 3), np.float32)
        lowers(detector.predict, jax.eval_shape(detector.init, jax.random.key(0)), images,
               jax.ShapeDtypeStruct((1, 2), np.int32))
