"""Fields of a detector's training are read, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection import backbones, common, faster_rcnn, settings, sppnet
from cnnjax.errors import UserError
from tests.detection import tiny_ladder


def test_a_detector_is_the_moving_average_of_its_training(tmp_path):
    """One step of rate 1 on a linear loss: parameter 0 becomes -1, and its average with decay 0.75 is -0.25."""
    phase = tiny_ladder.get_config().faster_rcnn.training
    phase.update(steps=1, batch_size=1, steps_per_dispatch=1)
    phase.optimizer.update(learning_rate=1.0, weight_decay=0.0, momentum=0.0, ema=0.75, clip_norm=0.0)
    phase.schedule.update(name="constant", warmup_steps=0)

    def loss(variables, batch, key):
        return variables["params"]["w"].sum(), ({}, {})

    trained = common.train(phase, 0, tmp_path, {"params": {"w": jnp.zeros(1)}}, loss,
                           lambda step: iter([{"x": np.zeros(1, np.float32)}]))
    assert float(trained["params"]["w"][0]) == -0.25


def test_label_smoothing_of_a_detector_is_refused():
    config = tiny_ladder.get_config()
    config.fast_rcnn.training.optimizer.label_smoothing = 0.1
    with pytest.raises(UserError, match=r"fast_rcnn\.training\.optimizer\.label_smoothing"):
        settings.check(config)


def test_dtype_and_dropout_reach_the_region_proposal_network_and_sppnet():
    config = tiny_ladder.get_config()
    config.backbone.dropout = 0.25
    backbone = backbones.create(config.backbone, jnp.bfloat16)
    assert faster_rcnn.create(backbone, 3, config.faster_rcnn).rpn.dtype == jnp.bfloat16
    config.dtype = "bfloat16"
    head = sppnet.create(config, 3).head
    assert (head.dropout, jax.dtypes.canonicalize_dtype(head.dtype)) == (0.25, jnp.bfloat16)
