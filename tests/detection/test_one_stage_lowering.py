"""YOLO and SSD300 at their papers' sizes lower for accelerators, without one at hand."""

import jax
import numpy as np

from cnnjax.detection import ssd, yolo
from tests.training.test_lowering_steps import lowers


def test_the_whole_networks_lower():
    for detector in (ssd.create_torchvision(90), yolo.create(20)):
        images = jax.ShapeDtypeStruct((1, detector.size, detector.size, 3), np.float32)
        lowers(detector.predict, jax.eval_shape(detector.init, jax.random.key(0)), images,
               jax.ShapeDtypeStruct((1, 2), np.int32))
