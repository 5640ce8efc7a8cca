"""`cnnjax export` of detectors: each format gives the detector's answers; what a format cannot hold is refused."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cnnjax import cli, detection
from cnnjax.detection import saved, settings
from cnnjax.errors import UserError
from cnnjax.interop import export_detector as exporting
from cnnjax.interop import read_state, to_torch
from tests.detection import pyramid_cases, ssd_cases, tiny_ladder

export_detector = exporting.export_detector
OUTSIDE = Path(__file__).with_name("outside.py")


def tiny(name):
    """A tiny detector and variables from N(0, 0.1), which make it find boxes all over."""
    detector = settings.detector_of(tiny_ladder.get_config(), name, 3)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return detector, jax.tree.map(lambda leaf: np.abs(rng.normal(0, 0.1, leaf.shape)).astype(np.float32), shapes)


@pytest.mark.parametrize("name", ["yolo", "retinanet", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("ssd", "faster_rcnn", "faster_rcnn_fpn"))])
def test_stablehlo_detects_as_the_detector_without_cnnjax(name, tmp_path):
    detector, variables = tiny(name)
    path = tmp_path / "net.stablehlo"
    assert export_detector("stablehlo", path, detector, "abc", variables) < 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {"net.stablehlo", "net.stablehlo.json"}
    said = json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert (said["classes"], said["canvas"]) == (["a", "b", "c"], [64, 64])
    images = np.random.default_rng(5).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
    sizes = np.array([[64, 64]], np.int32)
    np.savez(tmp_path / "in.npz", images, sizes)
    subprocess.run([sys.executable, OUTSIDE, path, tmp_path / "in.npz", tmp_path / "out.npz"], check=True)
    found = np.load(tmp_path / "out.npz").values()
    for ours, theirs in zip(detector.predict(variables, images, sizes)[:4], found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)


def test_other_answers_are_found_out(monkeypatch):
    detector, variables = tiny("yolo")
    right = exporting._answers(detector, variables)

    def other(images, sizes):
        boxes, scores, classes, mask = map(np.array, right(images, sizes))
        assert mask.any()
        scores[mask.nonzero()[0][0], mask.nonzero()[1][0]] += 0.01 * max(1, scores[mask].max())
        return boxes, scores, classes, mask
    assert exporting.difference(right, right, (64, 64)) == 0
    assert exporting.difference(other, right, (64, 64)) == pytest.approx(0.01, rel=0.01)
    missing = lambda images, sizes: (*right(images, sizes)[:3], np.zeros_like(right(images, sizes)[3]))  # noqa: E731
    assert exporting.difference(missing, right, (64, 64)) == np.inf


@pytest.mark.parametrize(("name", "format", "message"), [
    ("rcnn", "stablehlo", "R-CNN takes region proposals, .* no format holds that"),
    ("fast_rcnn", "torch", "Fast R-CNN takes region proposals"), ("yolo", "torch", "torchvision has no YOLO; use stab"),
    ("yolo", "onnx", "--format onnx: holds classifiers, not detectors"),
    ("retinanet", "safetensors", "torchvision's retinanet_resnet50_fpn cannot hold this detector: trunk/net/norm1_1: "),
    ("ssd", "torch", "torchvision's ssd300_vgg16 cannot hold this detector")])
def test_what_a_format_cannot_hold_is_refused_in_one_line(name, format, message, tmp_path):
    detector, variables = tiny(name)
    with pytest.raises(UserError, match=message) as error:
        export_detector(format, tmp_path / "net", detector, "abc", variables)
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_the_command_of_a_trained_detector(tmp_path, capsys):
    detector, variables = tiny("yolo")
    saved.save(tmp_path / "run", "yolo", detector, ("a", "b", "c"), variables)
    arguments = ["export", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "net.bin"), "--format"]
    assert cli.main([*arguments, "stablehlo"]) == 0
    assert "YOLO as stablehlo for cpu, cuda, tpu; boxes and scores as the network's within" in capsys.readouterr().out
    for more, message in ((("stablehlo",), "is there already"), (("onnx",), "holds classifiers, not detectors"),
                          (("torch", "--canvas", "64", "64"), "--canvas goes with --format stablehlo"),
                          (("stablehlo", "--canvas", "64", "96"), "--canvas 64 96: YOLO takes images of 64 64"),
                          (("stablehlo", "--step", "3"), "--step is a classifier's")):
        assert cli.main([*arguments, *more]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["export", "--model", "resnet20", "--weights", "cifar10", "--out", str(tmp_path / "x"), "--format",
                     "torch", "--canvas", "64", "64"]) == 2
    assert "--canvas is a detector's" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16"])
def test_torchvision_reads_what_is_exported(name, tmp_path):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    from safetensors.torch import load_file
    background = name != "retinanet_resnet50_fpn"
    detector = detection.create(name, 4)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    empty = to_torch(name, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))
    make = ssd_cases.weights if name == "ssd300_vgg16" else lambda shapes: pyramid_cases.weights(shapes, {})
    state = make({key: value.shape for key, value in empty.items()})
    _, variables = exporting.detector_from_torch(name, state)
    for format, load in (("torch", lambda path: torch.load(path, weights_only=True)), ("safetensors", load_file)):
        path = tmp_path / f"net.{format}"
        assert export_detector(format, path, detector, "abcd", variables) == 0
        theirs = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None,
                                                             num_classes=4 + background)
        theirs.load_state_dict(load(path))                                      # strict: every key, no other
        for key, value in theirs.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[key], err_msg=key)
    assert read_state(tmp_path / "net.safetensors").keys() == state.keys()


@pytest.mark.slow
def test_anchors_that_torchvision_has_not_are_refused(tmp_path):
    detector = detection.create("retinanet_resnet50_fpn", 4, sizes=((8.0, 10.0, 12.0),) * 5)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    with pytest.raises(UserError, match="retinanet_resnet50_fpn is another network, such as in its anchors"):
        export_detector("torch", tmp_path / "net.pth", detector, "abcd", variables)
    assert not [*tmp_path.iterdir()]
