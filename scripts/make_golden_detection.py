"""Makes tests/detection/golden.npz: targets and losses of detectors by torchvision.

    python scripts/make_golden_detection.py         (where torchvision is installed)
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou


def random_boxes(rng: np.random.Generator, count: int, side: float) -> torch.Tensor:
    corner, size = rng.uniform(0, 0.7 * side, (count, 2)), rng.uniform(0.05 * side, 0.5 * side, (count, 2))
    return torch.tensor(np.concatenate([corner, corner + size], 1), dtype=torch.float32)


def main() -> None:
    rng = np.random.default_rng(0)
    out: dict[str, np.ndarray] = {}

    # The RPN: labels, deltas and losses, all labelled anchors taking part.
    anchors, truth = random_boxes(rng, 400, 200), random_boxes(rng, 5, 200)
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
    labels, matched = rpn.assign_targets_to_anchors([anchors], [{"boxes": truth}])
    deltas = rpn.box_coder.encode(matched, [anchors])[0]
    objectness = torch.tensor(rng.normal(size=(400, 1)), dtype=torch.float32)
    predicted = torch.tensor(rng.normal(size=(400, 4)), dtype=torch.float32)
    rpn.fg_bg_sampler = lambda labels: ([torch.where(labels[0] >= 1, 1, 0)], [torch.where(labels[0] == 0, 1, 0)])
    object_loss, box_loss = rpn.compute_loss(objectness, predicted, labels, [deltas])
    out |= {"anchors": anchors, "truth": truth, "anchor_labels": labels[0], "anchor_deltas": deltas,
            "objectness": objectness[:, 0], "anchor_predicted": predicted, "objectness_loss": object_loss,
            "rpn_box_loss": box_loss}

    # The head: labels by one threshold of 0.5, deltas with the weights, the loss of fastrcnn_loss (whose beta is 1/9).
    rois, classes = torch.cat([random_boxes(rng, 120, 200), truth + 4]), torch.tensor([1, 2, 3, 2, 1])
    matches = Matcher(0.5, 0.5, allow_low_quality_matches=False)(box_iou(truth, rois))
    roi_labels = torch.where(matches >= 0, classes[matches.clamp(min=0)], 0)
    roi_deltas = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode([truth[matches.clamp(min=0)]], [rois])[0]
    scores = torch.tensor(rng.normal(size=(125, 4)), dtype=torch.float32)
    moved = torch.tensor(rng.normal(size=(125, 16)), dtype=torch.float32)
    class_loss, region_box_loss = fastrcnn_loss(scores, moved, [roi_labels], [roi_deltas])
    out |= {"rois": rois, "classes": classes, "roi_labels": roi_labels, "roi_deltas": roi_deltas, "scores": scores,
            "moved": moved, "class_loss": class_loss, "box_loss": region_box_loss}

    path = Path(__file__).parents[1] / "tests" / "detection" / "golden.npz"
    np.savez_compressed(path, **{k: np.asarray(v) for k, v in out.items()})


if __name__ == "__main__":
    main()
