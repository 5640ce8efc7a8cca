"""Makes tests/detection/golden_pyramids.npz: torchvision's feature pyramids, RetinaNet and Faster R-CNN with FPN.

    python scripts/make_golden_pyramids.py          (where torchvision is installed)

Losses, proposals and detections of given outputs; and whole networks over ResNet-18, RetinaNet with frozen batch norm
(epsilon 0) and Faster R-CNN with a live one.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

FOLDER = Path(__file__).parents[1] / "tests" / "detection"
sys.path.append(str(FOLDER))

import pyramid_cases as cases  # noqa: E402


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.tensor(image).permute(2, 0, 1) / 255


def anchors(generator: AnchorGenerator, image: tuple[int, int], grids: tuple[tuple[int, int], ...]) -> torch.Tensor:
    return generator(ImageList(torch.zeros(1, 3, *image), [image]), [torch.zeros(1, 1, *grid) for grid in grids])[0]


def parts() -> dict[str, torch.Tensor]:
    """What is made of given outputs of a small pyramid."""
    out = {}
    generator = AnchorGenerator(cases.SIZES, (cases.RATIOS,) * 3)
    placed = anchors(generator, cases.IMAGE, cases.GRIDS)
    backbone = nn.Identity()
    backbone.out_channels = 8
    model = RetinaNet(backbone, cases.CLASSES, anchor_generator=generator, detections_per_img=60, topk_candidates=100)
    targets = [{"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
               for boxes, labels in map(cases.objects, range(3))]
    logits, deltas = (torch.tensor(np.stack(part)) for part in
                      zip(*(cases.outputs(seed, cases.CLASSES) for seed in range(3)), strict=True))
    head = {"cls_logits": logits, "bbox_regression": deltas}
    for i in range(3):
        losses = model.compute_loss(targets[i:i + 1], {key: value[i:i + 1] for key, value in head.items()}, [placed])
        out |= {f"retinanet/{key}_loss{i}": value for key, value in losses.items()}
    split = {key: list(value.split(cases.COUNTS, 1)) for key, value in head.items()}
    found = model.postprocess_detections(split, [list(placed.split(cases.COUNTS))] * 3, [(60, 90)] * 3)
    out |= {f"retinanet/{key}{i}": value for i, each in enumerate(found) for key, value in each.items()}

    pre_nms, post_nms = {"testing": 80}, {"testing": 60}
    rpn = RegionProposalNetwork(generator, RPNHead(8, 6), 0.7, 0.3, 256, 0.5, pre_nms, post_nms, 0.7)
    for i in range(2):
        objectness, moved = map(torch.tensor, cases.outputs(i, 1))
        boxes = rpn.box_coder.decode(moved, [placed]).view(1, -1, 4)
        boxes, scores = rpn.eval().filter_proposals(boxes, objectness.view(1, -1), [(60, 90)], list(cases.COUNTS))
        out |= {f"rpn/boxes{i}": boxes[0], f"rpn/scores{i}": scores[0]}

    maps, rois = cases.rois()
    pool = MultiScaleRoIAlign(["0", "1", "2"], 3, 2)
    out["pooled"] = pool({str(i): torch.tensor(x).permute(2, 0, 1)[None] for i, x in enumerate(maps)},
                         [torch.tensor(rois)], [cases.IMAGE]).permute(0, 2, 3, 1)

    grids = ((100, 136), (50, 68), (25, 34), (13, 17), (7, 9))
    out["retinanet/anchors"] = anchors(_default_anchorgen(), (800, 1088), grids)[::617]
    transform = GeneralizedRCNNTransform(cases.SHORT, cases.LONG, [0.0] * 3, [1.0] * 3)
    for i in range(3):
        images, _ = transform([tensor(cases.image(i))])
        out |= {f"resized{i}": images.tensors[0].permute(1, 2, 0).reshape(-1)[::97],
                f"size{i}": torch.tensor([*images.image_sizes[0], *images.tensors.shape[2:]])}
    return out


def pyramid(first: int, extra: nn.Module, norm: Callable[[int], nn.Module]) -> nn.Module:
    body, layers = torchvision.models.resnet18(weights=None, norm_layer=norm), range(first, 5)
    names = {f"layer{n}": str(n) for n in layers}
    return BackboneWithFPN(body, names, [32 * 2**n for n in layers], cases.CHANNELS, extra)


def networks() -> dict[str, nn.Module]:
    frozen, extra = partial(FrozenBatchNorm2d, eps=0.0), LastLevelP6P7(cases.CHANNELS, cases.CHANNELS)
    retinanet = RetinaNet(pyramid(2, extra, frozen), cases.CLASSES, cases.SHORT, cases.LONG,
                          anchor_generator=_default_anchorgen())
    faster = FasterRCNN(pyramid(1, LastLevelMaxPool(), nn.BatchNorm2d), None, cases.SHORT, cases.LONG,
                        box_head=TwoMLPHead(cases.CHANNELS * 49, 32),
                        box_predictor=FastRCNNPredictor(32, cases.CLASSES + 1))
    return {"retinanet": retinanet.eval(), "fasterrcnn": faster.eval()}


def spread(model: nn.Module, layers: tuple[str, ...]) -> dict[str, float]:
    """Factors of the last layers by which their output on the first image has a deviation of 1.5, or 0.4 of deltas."""
    factors, shapes = {}, {key: value.shape for key, value in model.state_dict().items()}
    for layer in layers:
        model.load_state_dict({k: torch.tensor(v) for k, v in cases.weights(shapes, factors).items()})
        seen: list[torch.Tensor] = []
        hook = model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output.flatten()))
        model([tensor(cases.image(0))])
        hook.remove()
        factors[layer] = float(np.float32((0.4 if "bbox" in layer else 1.5) / torch.cat(seen).std()))
    model.load_state_dict({k: torch.tensor(v) for k, v in cases.weights(shapes, factors).items()})
    return factors


@torch.no_grad()
def main() -> None:
    out = parts()
    for name, model in networks().items():
        for layer, factor in spread(model, cases.FACTORS[name]).items():
            out[f"{name}/factor/{layer}"] = torch.tensor(factor)
        for i in range(2):
            found = model([tensor(cases.image(i))])[0]
            print(name, i, len(found["scores"]), found["scores"][:3], found["scores"][-1])
            out |= {f"{name}/whole/{key}{i}": value[:40] for key, value in found.items()}
    np.savez_compressed(FOLDER / "golden_pyramids.npz", **{key: np.asarray(value) for key, value in out.items()})


if __name__ == "__main__":
    main()
