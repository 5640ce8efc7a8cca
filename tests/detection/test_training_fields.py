"""Fields of a detector's training are read, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection import settings, stages
from cnnjax.errors import UserError
from cnnjax.training import workdir
from tests.detection import tiny_ladder


def test_a_detector_is_the_moving_average_of_its_training(tmp_path):
    """One step of rate 1 on a linear loss: parameter 0 becomes -1, and its average with decay 0.75 is -0.25."""
    phase = tiny_ladder.get_config().faster_rcnn.training
    phase.update(steps=1, batch_size=1, steps_per_dispatch=1)
    phase.optimizer.update(learning_rate=1.0, weight_decay=0.0, momentum=0.0, ema=0.75, clip_norm=0.0)
    phase.schedule.update(name="constant", warmup_steps=0)

    def loss(variables, batch, key, hyper, axis_name):
        return variables["params"]["w"].sum(), ({}, {})

    training = stages.Training({"params": {"w": jnp.zeros(1)}}, loss,
                               lambda step: iter([{"x": np.zeros(1, np.float32)}]), (), "train", 0)
    trained = stages.fit(training, phase, tmp_path)
    assert float(trained["params"]["w"][0]) == -0.25


def linear_phase(**fields):
    """Training on a linear loss, whose parameter falls by 1 a step."""
    phase = tiny_ladder.get_config().faster_rcnn.training
    phase.update(batch_size=1, steps_per_dispatch=1, log_every=1, **fields)
    phase.optimizer.update(learning_rate=1.0, weight_decay=0.0, momentum=0.0, ema=0.0, clip_norm=0.0)
    phase.schedule.update(name="constant", warmup_steps=0)
    return phase


def test_the_variables_of_the_best_validation_score_are_kept(tmp_path):
    def loss(variables, batch, key, hyper, axis_name):
        return variables["params"]["w"].sum(), ({}, {})

    def score(variables):
        return {"examples": 1, "map": 1 - 0.1 * abs(float(variables["params"]["w"][0]) + 4)}

    phase = linear_phase(steps=9, eval_every=2, checkpoint_every=9)
    for _ in range(2):                      # the second time nothing is trained again
        training = stages.Training({"params": {"w": jnp.zeros(1)}}, loss,
                                   lambda step: iter([{"x": np.zeros(1, np.float32)}] * 9), (), "train", 0, score)
        assert float(stages.fit(training, phase, tmp_path)["params"]["w"][0]) == -4
    rows = [row for row in workdir.read_rows(tmp_path / workdir.METRICS) if row["split"] == "validation"]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 9]


@pytest.mark.parametrize(("field", "reason"), [
    ("faster_rcnn.training", "there are no validation images: set data.validation"),
    ("pretraining", "what is trained is no detector yet"), ("rcnn.training", "what is trained is no detector yet")])
def test_evaluations_on_the_way_are_refused_where_there_can_be_none(field, reason):
    config = tiny_ladder.get_config()
    config.data.validation = 0 if field.startswith("faster") else 1
    group = config.pretraining if field == "pretraining" else config[field.split(".")[0]].training
    group.eval_every = 5
    with pytest.raises(UserError, match=rf"'{field}\.eval_every': found 5, under steps = 10, but {reason}"):
        settings.check(config)


def test_label_smoothing_of_a_detector_is_refused():
    config = tiny_ladder.get_config()
    config.fast_rcnn.training.optimizer.label_smoothing = 0.1
    with pytest.raises(UserError, match=r"fast_rcnn\.training\.optimizer\.label_smoothing"):
        settings.check(config)


def test_dtype_and_dropout_reach_the_region_proposal_network_and_sppnet():
    config = tiny_ladder.get_config()
    config.backbone.dropout, config.dtype = 0.25, "bfloat16"
    rpn = settings.detector_of(config, "faster_rcnn", 3).network.rpn
    assert jax.dtypes.canonicalize_dtype(rpn.dtype) == jnp.bfloat16
    head = settings.detector_of(config, "sppnet", 3).network.head
    assert (head.dropout, jax.dtypes.canonicalize_dtype(head.dtype)) == (0.25, jnp.bfloat16)


def test_transforms_are_checked_and_refused_where_nothing_takes_them():
    config = tiny_ladder.get_config()
    config.detectors = ("ssd",)
    config.ssd.transforms = ({"name": "zoom_in"},)
    with pytest.raises(UserError, match=r"'ssd\.transforms\[0\]\.name': found 'zoom_in'"):
        settings.check(config)
    config.detectors = ("faster_rcnn",)
    config.faster_rcnn.transforms = ({"name": "zoom_out"},)
    with pytest.raises(UserError, match=r"'faster_rcnn\.transforms': found 1, but only detectors of one stage"):
        settings.check(config)
