"""Make tests/ops/golden_ops.npz with torchvision, from the cases of tests/ops/ops_cases.py.

    python scripts/make_golden_ops.py        # needs torch and torchvision, no JAX

Made with torchvision 0.29.1 and torch 2.14.1 on the CPU. Indices of suppression are kept as counts and checksums.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator

FOLDER = Path(__file__).parents[1] / "tests" / "ops"
sys.path.insert(0, str(FOLDER))
import ops_cases as cases  # noqa: E402

CASES = 1000


def main() -> None:
    golden = {}
    rows = []
    for seed in range(CASES):
        boxes, scores, classes, threshold = cases.nms_case(seed)
        b, s = torch.tensor(boxes), torch.tensor(scores)
        plain = torchvision.ops.nms(b, s, threshold).numpy().astype(np.int32)
        # Class by class: the offsets that torchvision adds below 1,000 boxes would change the last bits of the IoU.
        apart = torchvision.ops.boxes._batched_nms_vanilla(b, s, torch.tensor(classes), threshold).numpy()
        apart = np.array(sorted(apart, key=lambda i: (-scores[i], i)), np.int32)       # its sort breaks ties anyhow
        rows.append([cases.digest(np.concatenate([boxes.ravel(), scores, classes])), len(plain), cases.digest(plain),
                     len(apart), cases.digest(apart)])
    golden["nms"] = np.array(rows, np.int64)

    features, rois = cases.roi_case()
    x = torch.tensor(features.transpose(2, 0, 1)[None].copy(), requires_grad=True)

    def record(name, out):
        cotangent = torch.linspace(-1, 1, out.numel()).reshape(out.shape[0], *out.shape[2:], out.shape[1])      # NHWC
        x.grad = None
        out.backward(cotangent.permute(0, 3, 1, 2))
        golden[name] = out.detach().numpy().transpose(0, 2, 3, 1)
        golden[name + "_gradient"] = x.grad[0].numpy().transpose(1, 2, 0)

    for i, (size, scale) in enumerate(cases.ROI_SETTINGS):
        record(f"pool{i}", torchvision.ops.roi_pool(x, [torch.tensor(rois)], size, scale))
    for i, (size, scale, ratio, aligned) in enumerate(cases.ALIGN_SETTINGS):
        record(f"align{i}", torchvision.ops.roi_align(x, [torch.tensor(rois)], size, scale, ratio, aligned))

    boxes, anchors, deltas = (torch.tensor(a) for a in cases.coder_case())
    for name, weights in (("unit", (1.0, 1.0, 1.0, 1.0)), ("fast", (10.0, 10.0, 5.0, 5.0))):
        coder = BoxCoder(weights)
        golden[f"encode_{name}"] = coder.encode_single(boxes, anchors).numpy()
        golden[f"decode_{name}"] = coder.decode_single(deltas, anchors).numpy()
    generator = AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),))
    golden["anchors"] = generator.grid_anchors([[3, 4]], [[torch.tensor(16), torch.tensor(16)]])[0].numpy()
    golden["giou"] = torchvision.ops.generalized_box_iou(boxes, anchors).numpy()
    golden["iou"] = torchvision.ops.box_iou(boxes, anchors).numpy()
    np.savez_compressed(FOLDER / "golden_ops.npz", **golden)


if __name__ == "__main__":
    main()
