"""Detectors are found by name, and one from outside of the library goes all the way through the ladder."""

import json
from dataclasses import fields as fields_of

import jax
import numpy as np
import pytest

from cnnjax import detection
from cnnjax.configs.ladder.defaults import shortened
from cnnjax.detection import detect, saved
from cnnjax.errors import UserError
from cnnjax.experiments import ladder
from cnnjax.reporting import boxes
from cnnjax.training import workdir as workdirs
from tests.detection import tiny_ladder


@pytest.mark.parametrize("name", detection.names())
def test_a_detector_by_name_has_what_the_protocol_asks(name):
    detector = detection.create(name, 3)
    assert detector == detection.create(name, 3)
    assert hash(detector) == hash(detection.create(name, 3))
    assert detector.title
    assert 0 <= detector.default_score_threshold < 1
    assert isinstance(detector.needs_proposals, bool)
    for attribute in ("preprocess", "init", "loss", "predict"):
        assert callable(getattr(detector, attribute))
    canvas, size = detector.preprocess(np.zeros((40, 60, 3), np.uint8))
    assert canvas.dtype in (np.uint8, np.float32)
    assert (size <= canvas.shape[:2]).all()
    again = detection.create(name, 3, **json.loads(json.dumps(saved.fields_of(detector))))
    assert again == detector                # what detector.json holds makes the same detector


def test_an_unknown_name_or_field_is_named():
    with pytest.raises(UserError, match=r"'faster_rcn'.*did you mean 'faster_rcnn'"):
        detection.create("faster_rcn", 3)
    with pytest.raises(UserError, match=r"no field 'model\.roi'.*did you mean 'rois'"):
        detection.create("fast_rcnn", 3, roi=3)
    with pytest.raises(UserError, match=r"'model\.test\.nms': found 3, expected at least 0 and at most 1"):
        detection.create("fast_rcnn", 3, test={"nms": 3})


def test_a_detector_of_ones_own_is_trained_kept_and_used(tmp_path, monkeypatch):
    monkeypatch.setitem(detection.MODULES, "toy", "tests.detection.toy_detector")
    config = tiny_ladder.get_config()
    config.detectors = ("toy",)
    config.toy = {"channels": 2, "training": shortened(10, 2, 0.01, eval_every=5)}
    config.data.update(train_images=6, validation=2)
    workdir = tmp_path / "run"
    ladder.run(config, workdir)
    result = json.loads((workdir / "cells" / "toy" / "result.json").read_text())
    assert (result["title"], result["proposals_by"], result["disk_bytes"]) == ("Toy", "", 0)
    assert "| Toy |" in (workdir / "table.md").read_text()
    rows = workdirs.read_rows(workdir / "cells" / "toy" / workdirs.METRICS)
    assert "largest" in rows[0]
    assert [(row["step"], row["examples"]) for row in rows if row["split"] == "validation"] == [(5, 2), (10, 2)]
    assert json.loads((workdir / "data.json").read_text())["train"] == 4
    detector, classes, variables = saved.load(workdir / "cells" / "toy")
    assert detector.channels == 2
    assert {field.name for field in fields_of(detector)} == {"num_classes", "canvases", "channels"}
    assert jax.tree.leaves(variables)[0].dtype == np.float32
    boxes.save(np.full((40, 80, 3), 255, np.uint8), tmp_path / "a.png")
    (row,) = detect.run(workdir / "cells" / "toy", [tmp_path / "a.png"], tmp_path / "out", score_threshold=0.0)
    assert [found["class"] for found in row["detections"]] == [classes[0]]
    config.toy.channels = 0
    with pytest.raises(UserError, match=r"'toy\.channels': found 0, expected at least 1 and at most 64"):
        ladder.check(config)
