"""Makes tests/detection/golden_ssd.npz: SSD's default boxes, targets, losses, detections and colours by
torchvision.

    python scripts/make_golden_ssd.py               (where torchvision is installed)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "detection"))

import ssd_cases as cases  # noqa: E402


def default_boxes(generator: DefaultBoxGenerator, size: int, grids: tuple[int, ...]) -> torch.Tensor:
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    return generator(images, [torch.zeros(1, 1, grid, grid) for grid in grids])[0]


def main() -> None:
    out: dict[str, np.ndarray] = {}
    backbone = torch.nn.Identity()
    backbone.out_channels = [8, 8]
    generator = DefaultBoxGenerator([list(r) for r in cases.RATIOS], scales=list(cases.SCALES), steps=list(cases.STEPS))
    model = SSD(backbone, generator, (cases.SIZE, cases.SIZE), cases.CLASSES, detections_per_img=60,
                topk_candidates=40).eval()
    boxes = default_boxes(generator, cases.SIZE, cases.GRIDS)
    out["default_boxes"] = boxes

    targets, matches = [], []
    for seed in range(3):
        objects, labels = cases.objects(seed)
        targets.append({"boxes": torch.tensor(objects), "labels": torch.tensor(labels)})
        matches.append(model.proposal_matcher(box_iou(targets[-1]["boxes"], boxes)) if len(objects)
                       else torch.full((len(boxes),), -1))
    logits, deltas = (torch.tensor(np.stack(part)) for part in zip(*map(cases.outputs, range(3)), strict=True))
    losses = model.compute_loss(targets, {"bbox_regression": deltas, "cls_logits": logits}, [boxes] * 3, matches)
    out |= {"matches": torch.stack(matches).to(torch.int16), "class_loss": losses["classification"],
            "box_loss": losses["bbox_regression"]}

    found = model.postprocess_detections({"bbox_regression": deltas, "cls_logits": logits}, [boxes] * 3,
                                         [(cases.SIZE, cases.SIZE)] * 3)
    for i, detections in enumerate(found):
        out |= {f"detections{i}/{key}": value for key, value in detections.items()}

    features = torch.tensor(np.random.default_rng(0).normal(size=(2, 16, 3, 3)), dtype=torch.float32)
    features[0, :, 1, 1] = 0
    out |= {"features": features, "normalised": normalize(features)}

    picture = torch.tensor(cases.picture()).permute(2, 0, 1) / 255
    for name, factor in cases.COLOURS:
        out[f"colour/{name}/{factor}"] = 255 * getattr(functional, f"adjust_{name}")(picture, factor).permute(1, 2, 0)

    whole = ssd300_vgg16(weights=None, weights_backbone=None).eval()
    whole.load_state_dict({key: torch.tensor(value) for key, value in
                           cases.weights({k: v.shape for k, v in whole.state_dict().items()}).items()})
    out["ssd300/default_boxes"] = default_boxes(whole.anchor_generator, 300, (38, 19, 10, 5, 3, 1))[::61]
    image = torch.tensor(cases.image(0)).permute(2, 0, 1) / 255
    with torch.no_grad():
        detections = whole([image])[0]
    out |= {f"ssd300/{key}": value[:50] for key, value in detections.items()}
    np.savez_compressed(ROOT / "tests" / "detection" / "golden_ssd.npz", **{k: np.asarray(v) for k, v in out.items()})


if __name__ == "__main__":
    main()
