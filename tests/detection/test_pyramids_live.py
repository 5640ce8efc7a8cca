"""`cnnjax detect` with torchvision's weights against torchvision itself, where it is installed (extra `torch`).

Slow: last run with torch 2.14 and torchvision 0.29, all passed.
"""

import json

import cv2
import numpy as np
import pytest

from cnnjax import class_names, cli
from tests.detection import pyramid_cases as cases

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.slow

SHAPES = ((375, 500), (640, 427), (300, 900))
LAST = {"retinanet_resnet50_fpn": {"head.classification_head.cls_logits": 1.2, "head.regression_head.bbox_reg": 0.3},
        "fasterrcnn_resnet50_fpn": {"rpn.head.cls_logits": 2, "rpn.head.bbox_pred": 0.3,
                                    "roi_heads.box_predictor.cls_score": 2.5, "roi_heads.box_predictor.bbox_pred": 1}}
"""The last layers of each network, and the deviation that their output is given on the first image."""


def images():
    """Images (H, W, 3) uint8 of smooth random colours."""
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (h // 20, w // 20, 3)).astype(np.uint8), (w, h),
                       interpolation=cv2.INTER_CUBIC) for h, w in SHAPES]


def tensor(image):
    return torch.tensor(image).permute(2, 0, 1) / 255


@torch.no_grad()
def random_detector(name):
    """torchvision's network with random weights and batch norm statistics, its scores spread."""
    torch.manual_seed(1)
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).eval()
    for layer, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1)
            module.bias.normal_(0, 0.1)
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not layer.startswith("backbone.body"):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
    model.backbone.body.bn1.running_var *= 1e-4             # so small that an epsilon tells
    model.backbone.body.bn1.weight *= 1e-2
    for layer, deviation in LAST[name].items():
        seen = []
        module = model.get_submodule(layer)
        hook = module.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.flatten()))
        model([tensor(images()[0])])
        hook.remove()
        module.weight *= deviation / torch.cat(seen).std()
        if layer.endswith("classification_head.cls_logits"):
            module.bias.fill_(-3)
    return model


def compare(found, expected):
    """The same detections in the same order, but for ties: scores within 1e-4, boxes within 0.05 pixels."""
    names = class_names.known("coco")
    scores, boxes = (np.array([detection[key] for detection in found]) for key in ("score", "box"))
    classes = np.array([names.index(detection["class"]) for detection in found])
    left = np.ones(len(found), bool)
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-4)
    for score, box, label in zip(*(expected[key].numpy() for key in ("scores", "boxes", "labels")), strict=True):
        alike = left & (classes == label) & (np.abs(scores - score) <= 1e-4) & (np.abs(boxes - box) <= 0.05).all(1)
        assert alike.any(), (score, box, label)
        left[alike.argmax()] = False


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", LAST)
def test_detections_are_torchvision_s(name, frozen, tmp_path):
    model, pictures = random_detector(name), images()
    if frozen:
        from cnnjax.bench.pytorch import frozen_norms
        frozen_norms(model)
    state = model.state_dict()
    torch.save(cases.old_keys(state) if frozen else state, tmp_path / "weights.pth")
    for i, image in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
    files = [str(tmp_path / f"{i}.png") for i in range(len(pictures))]
    assert cli.main(["detect", *files, "--model", name, "--weights", str(tmp_path / "weights.pth"), "--out",
                     str(tmp_path / "out"), "--score-threshold", "0"]) == 0
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    for image, row in zip(pictures, rows, strict=True):
        with torch.no_grad():
            expected = model([tensor(image)])[0]
        assert len(row["detections"]) == len(expected["scores"]) > 20
        compare(row["detections"], expected)
