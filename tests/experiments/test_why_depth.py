"""What the depth study's report measures of trained networks, and what it says of it."""

import math

import numpy as np

from cnnjax import data as datasets
from cnnjax.experiments import why_depth


def test_the_first_images_measured_are_of_all_classes():
    """A folder's images are sorted by class: the first of a sorted choice would be of one class."""
    split = datasets.ImageSet(np.zeros((1000, 4, 4, 1), np.uint8), np.arange(1000, dtype=np.int32) // 100)
    dataset = datasets.Dataset(split, None, split, tuple("abcdefghij"), np.zeros(1, np.float32), np.ones(1, np.float32))
    images, labels = why_depth.surface_images(dataset)
    assert (len(images), len(labels)) == (50, 50)           # a twentieth
    assert len(set(labels.tolist())) == 10


def test_findings_are_the_measured_numbers():
    layers = {"plain56": [{"step": 10, "gradient_norm": [1e-3] * 3 + [0.5] * 3 + [2.0] * 3, "response_std": [0.4] * 9}]}
    measured = {"plain56": {
        "surface": {"steps": [-1, 0, 1], "loss": [[9.0, 1.5, None], [1.0, 1.0, 3.0], [4.0, 5.0, 6.0]], "images": 5},
        "removal": {"block": ["a", "b", "c"], "error": [0.2, 0.3, 0.9], "whole": 0.1, "images": 5},
        "correlation": {"untrained": [-0.001, 1.0], "trained": [0.7, 1.0]}}}
    (sentence,) = why_depth.findings(layers, measured)
    assert sentence == (
        "plain56: gradient norm at step 10 0.001 in the first third of the layers and 2 in the last, response 0.4 "
        "(medians); loss 1.00 where training ended, in the square of directions around it 4.00 (median) and at most "
        "inf; error 10.0 % "
        "whole, 30.0 % (median) and at most 90.0 % with one block removed; gradient correlation at the image 0.00 "
        "untrained, 0.70 trained.")


def test_what_was_measured_is_kept_as_json_and_read_again(tmp_path):
    """JSON knows no NaN: a loss that is none is a null."""
    why_depth.write(tmp_path, "plain56-seed0", {"surface": {"loss": [[1.0, math.nan]]}})
    assert why_depth.read(tmp_path, ["plain56-seed0", "resnet56-seed0"]) == {
        "plain56-seed0": {"surface": {"loss": [[1.0, None]]}}}
