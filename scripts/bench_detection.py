"""Seconds of Faster R-CNN on the CPU beside torchvision's, where that is installed.

    python scripts/bench_detection.py [--rounds 5] [vgg16] [fpn] [fpn-training]

- vgg16: inference on one image of 600x800. VGG16 without its last pooling, 9 anchors a place, 6,000 boxes before
  suppression and 300 after, RoIAlign to 7x7, two layers of 4,096, 21 classes.
- fpn: inference of `fasterrcnn_resnet50_fpn` on one image of 800x1066, the same weights in both.
- fpn-training: a training step of the same on two images, five objects each: forward, backward, SGD with momentum.

Both do the same work with random weights, in turn in one process. Medians and their ratio; compilation and one warm-up
call are not counted.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import numpy as np
import torch
import torchvision
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.faster_rcnn import AnchorGenerator, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from cnnjax import fields, launch
from cnnjax.bench.pytorch import frozen_norms
from cnnjax.detection import faster_rcnn
from cnnjax.interop.detectors import detector_from_torch
from cnnjax.training import loop, optimizers
from cnnjax.training import state as states
from cnnjax.training import step as steps

Run = Callable[[], object]
rng = np.random.default_rng(0)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def inference(model: torch.nn.Module, image: np.ndarray) -> Run:
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model([tensor(image)])
    return run


def vgg16() -> dict[str, Run]:
    height, width, classes = 600, 800, 20
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    detector = faster_rcnn.create(classes, pooling="align")
    variables = detector.init(jax.random.key(0))
    sizes = np.array([[height, width]])
    backbone = torchvision.models.vgg16().features[:-1]
    backbone.out_channels = 512
    model = FasterRCNN(
        backbone, rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_test=6000, rpn_post_nms_top_n_test=300, min_size=height, max_size=1000,
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), box_head=TwoMLPHead(512 * 49, 4096),
        box_predictor=FastRCNNPredictor(4096, classes + 1), box_nms_thresh=0.3)
    return {"cnnjax": lambda: jax.block_until_ready(detector.predict(variables, image[None], sizes)),
            "torchvision": inference(model, image)}


def resnet50_fpn() -> tuple[torch.nn.Module, Any, Any]:
    """torchvision's network, frozen as it is when it begins from weights, and ours with the same weights."""
    torch.manual_seed(0)
    model = frozen_norms(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None))
    body = model.backbone.body
    for parameter in (*body.conv1.parameters(), *body.layer1.parameters()):
        parameter.requires_grad_(False)
    return model, *detector_from_torch("fasterrcnn_resnet50_fpn", model.state_dict())


def fpn() -> dict[str, Run]:
    image = rng.integers(0, 256, (800, 1066, 3), np.uint8)
    model, detector, variables = resnet50_fpn()
    canvas, size = detector.preprocess(image)
    return {"cnnjax": lambda: jax.block_until_ready(detector.predict(variables, canvas[None], size[None])),
            "torchvision": inference(model, image)}


def fpn_training() -> dict[str, Run]:
    images = rng.integers(0, 256, (2, 800, 1088, 3), np.uint8)          # canvases are multiples of 32
    corners = rng.uniform((0, 0), (800, 600), (2, 5, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(40, 200, (2, 5, 2))], -1).astype(np.float32)
    model, detector, variables = resnet50_fpn()

    config = fields.defaults(loop.FIELDS)
    config.update({"batch_size": 2, "steps": 100})
    config.optimizer.learning_rate = 1e-4
    data = {"images": images, "sizes": np.full((2, 2), (800, 1088), np.int32), "boxes": boxes,
            "classes": np.ones((2, 5), np.int32), "mask": np.ones((2, 5), bool), "difficult": np.zeros((2, 5), bool)}

    def get_batch(data: Any, key: jax.Array, step: jax.Array, shard: jax.Array, shards: int) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, shard * (2 // shards), 2 // shards), data)
    train = steps.train_dispatch(detector.loss, optimizers.optimizer(config), get_batch, 1, on_device=True)
    held = [steps.replicate(states.create(config, lambda key: variables, detector.frozen))]
    arrays = steps.replicate(data)

    def ours() -> None:
        held[0], metrics = train(held[0], arrays, 1)
        jax.block_until_ready(metrics)

    model.train()
    model.transform.min_size, model.transform.max_size = (800,), 1333
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4, 0.9)
    targets = [{"boxes": torch.from_numpy(b), "labels": torch.ones(5, dtype=torch.int64)} for b in boxes]

    def theirs() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model([tensor(image) for image in images], targets).values()).backward()
        optimizer.step()
    return {"cnnjax": ours, "torchvision": theirs}


CASES = {"vgg16": vgg16, "fpn": fpn, "fpn-training": fpn_training}


def main(names: list[str], rounds: int) -> None:
    for name in names:
        runs = CASES[name]()
        seconds: dict[str, list[float]] = {who: [] for who in runs}
        for run in runs.values():
            run()
        for _ in range(rounds):
            for who, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[who].append(time.perf_counter() - began)
        for who, values in seconds.items():
            print(f"{name}, {who}: median {median(values):.2f} s of {[round(v, 2) for v in values]}", flush=True)
        print(f"{name}, torchvision / cnnjax: {median(seconds['torchvision']) / median(seconds['cnnjax']):.2f}",
              flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    environment = launch.environment(len(os.sched_getaffinity(0)))
    if environment != os.environ:           # the step runs on a device a core
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    main(options.names or [*CASES], options.rounds)
