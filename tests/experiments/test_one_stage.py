"""One-stage detectors, and Faster R-CNN with a pyramid, in the ladder; killed, they go on to the same bits."""

import json
import shutil

import numpy as np
import pytest

from cnnjax.detection import saved
from cnnjax.experiments import ladder
from tests.conftest import Killed, kill
from tests.detection import tiny_ladder


@pytest.mark.slow       # last run on 2026-11-25: passed
@pytest.mark.parametrize(("name", "proposer"), [("yolo", ""), ("ssd", ""), ("retinanet", ""),
                                                ("faster_rcnn_fpn", "region proposal network")])
def test_a_killed_training_goes_on_to_the_same_bits(name, proposer, tmp_path, at_row):
    config = tiny_ladder.get_config()
    config.detectors = (name,)
    config[name].training.update(log_every=2, checkpoint_every=4, steps_per_dispatch=2)
    ladder.run(config, tmp_path / "whole")
    for folder in (tmp_path / "whole" / "cells").glob("backbone-*"):        # or it would be killed in its pre-training
        shutil.copytree(folder, tmp_path / "killed" / "cells" / folder.name)
    at_row(4, kill)
    with pytest.raises(Killed):
        ladder.run(config, tmp_path / "killed")
    ladder.run(config, tmp_path / "killed")
    whole, killed = (saved.load(tmp_path / run / "cells" / name) for run in ("whole", "killed"))
    expected, found = (saved.flat(part.variables) for part in (whole, killed))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    result = json.loads((tmp_path / "killed" / "cells" / name / "result.json").read_text())
    assert result["resumed"]
    assert result["proposals_by"] == proposer
    pre_trained = list((tmp_path / "whole" / "cells").glob("backbone-*/variables.npz"))
    assert len(pre_trained) == (name in ("retinanet", "faster_rcnn_fpn"))
