"""Seconds of Faster R-CNN's inference on the CPU beside torchvision's: VGG16, one image of 600x800, 300 proposals.

    python scripts/bench_detection.py [rounds]      (where torchvision is installed)

Both have random weights and do the same work: VGG16 without its last pooling, 9 anchors a place, 6,000 boxes before
suppression and 300 after, RoIAlign to 7x7, two layers of 4,096, 21 classes. They run in turn in one process; the
medians and their ratio are printed. Compilation and one warm-up call are not counted.
"""

import sys
import time
from statistics import median

import jax
import numpy as np
import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import AnchorGenerator, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from cnnjax.detection import faster_rcnn

HEIGHT, WIDTH, CLASSES = 600, 800, 20


def ours(image: np.ndarray):
    detector = faster_rcnn.create(CLASSES, pooling="align")
    variables = detector.init(jax.random.key(0))
    sizes = np.array([[HEIGHT, WIDTH]])
    return lambda: jax.block_until_ready(detector.predict(variables, image[None], sizes))


def theirs(image: np.ndarray):
    backbone = torchvision.models.vgg16().features[:-1]
    backbone.out_channels = 512
    model = FasterRCNN(
        backbone, rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_test=6000, rpn_post_nms_top_n_test=300, min_size=HEIGHT, max_size=1000,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), box_head=TwoMLPHead(512 * 49, 4096),
        box_predictor=FastRCNNPredictor(4096, CLASSES + 1), box_nms_thresh=0.3).eval()
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def run():
        with torch.inference_mode():
            model([tensor])
    return run


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    runs = {"cnnjax": ours(image), "torchvision": theirs(image)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        print(f"{name}: median {median(values):.2f} s of {[round(v, 2) for v in values]}")
    print(f"torchvision / cnnjax: {median(seconds['torchvision']) / median(seconds['cnnjax']):.2f}")


if __name__ == "__main__":
    main()
