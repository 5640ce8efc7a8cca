"""Defaults of the ladder: the settings of the papers, for VOC 2007. A config file changes what it must."""

from typing import Any

from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax.training import loop


def training(steps: int, batch_size: int, learning_rate: float, boundaries: tuple[float, ...] = (), **other: Any,
             ) -> ConfigDict:
    """The training of one network: SGD with momentum 0.9 at a rate that falls tenfold at each boundary.

    `other` sets further fields, of the optimizer and the schedule too.
    """
    config = configs.defaults({name: of for name, of in loop.FIELDS.items() if name != "seed"})
    config.update(steps=steps, batch_size=batch_size, eval_every=steps, keep_checkpoints=1, tensorboard=False)
    config.optimizer.update(learning_rate=learning_rate, weight_decay=5e-4)
    config.schedule.boundaries = boundaries
    for group in (config, config.optimizer, config.schedule):
        group.update({name: value for name, value in other.items() if name in group})
    return config


def shortened(steps: int, batch_size: int, learning_rate: float, **other: Any) -> ConfigDict:
    """A training for small data: the rate falls at 70 and 90 %, ten rows and five checkpoints in all."""
    return training(steps, batch_size, learning_rate, (0.7, 0.9), log_every=steps // 10,
                    checkpoint_every=steps // 5, weight_decay=1e-4, clip_norm=10.0, warmup_steps=50 / steps, **other)


def test_settings(score_threshold: float) -> ConfigDict:
    """From scores to boxes: suppression a class at IoU 0.3."""
    return ConfigDict({"score_threshold": score_threshold, "nms": 0.3, "most": 100})


def ladder() -> ConfigDict:
    """R-CNN, SPP-net, Fast R-CNN and Faster R-CNN as their papers have them."""
    config = ConfigDict()
    config.seed = 0
    config.dtype = "float32"                # of activations: float32 or bfloat16
    config.deterministic = False            # True: the same bits on a GPU too, where sums are faster in any order
    config.detectors = ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn")

    config.data = ConfigDict()
    config.data.source = "voc"              # auto, voc, coco, yolo, huggingface, tfds or scatter
    config.data.path = ""
    config.data.train_split = "trainval"    # "train+val" joins two
    config.data.test_split = "test"         # empty: data.test_share of train_split, drawn by seed
    config.data.test_share = 0.2            # of the images, where a data set has no splits
    config.data.classes = ()                # empty: those that are found
    config.data.on_error = "stop"           # or "skip": faulty images and boxes are left out, counted and listed
    config.data.train_images = 0            # of scatter: how many are made
    config.data.test_images = 0
    config.data.size = 0                    # of scatter: pixels
    config.data.canvases = ((600, 1000), (1000, 600))       # height and width; an image takes the one it fills best
    config.data.flip = True
    config.data.jitter = 1.0                # smallest scale at random; 1: none

    config.backbone = ConfigDict()
    config.backbone.name = "vgg16"          # "small" or a network of `cnnjax.models`
    config.backbone.widths = (16, 32, 64)   # of "small"
    config.backbone.stage = "conv5"
    config.backbone.head = "dense"          # or "stage": a ResNet's next stage
    config.backbone.hidden = (4096, 4096)
    config.backbone.dropout = 0.5
    config.backbone.stride_in_3x3 = False   # of a ResNet's bottlenecks; True in PyTorch's
    config.backbone.pool = 7
    config.backbone.mean = (0.485, 0.456, 0.406)
    config.backbone.std = (0.229, 0.224, 0.225)
    config.backbone.frozen = ("trunk/net/conv1", "trunk/net/conv2")     # Fast R-CNN, section 4.5
    config.backbone.freeze_norm = True      # batch norm keeps its running statistics
    config.backbone.weights = ""            # a PyTorch file, or a workdir of `cnnjax train`; empty: pre-training here
    config.pretraining = training(2000, 128, 1e-2)

    config.proposals = ConfigDict()
    config.proposals.mode = "fast"          # or "quality"
    config.proposals.side = 500             # to which the longer side of an image is brought
    config.proposals.smallest = 20          # least side there
    config.proposals.most = 2000

    svm = {"svm_c": 1e-3, "svm_negative": 0.3, "svm_refit": 2000, "ridge": 1000.0}
    config.rcnn = ConfigDict(svm)
    config.rcnn.side = 224
    config.rcnn.context = 16
    config.rcnn.fraction = 0.25             # of a batch of 128 windows is foreground
    config.rcnn.foreground = 0.5
    config.rcnn.regress = 0.6               # IoU from which boxes are regressed
    config.rcnn.forward = 64                # windows at a time
    config.rcnn.training = training(70_000, 128, 1e-3, (5 / 7,))
    config.rcnn.test = test_settings(score_threshold=-1.0)

    config.sppnet = ConfigDict(svm)
    config.sppnet.levels = (1, 2, 3, 6)
    config.sppnet.scales = (0.8, 0.96, 1.1467, 1.44, 2.0)   # 480, 576, 688, 864, 1200 of a canvas of 600
    config.sppnet.target = 224.0            # a region is read at the scale that brings it nearest to this side
    config.sppnet.rois = 64
    config.sppnet.fraction = 0.25
    config.sppnet.foreground = 0.5
    config.sppnet.background = (0.1, 0.5)
    config.sppnet.regress = 0.5
    config.sppnet.training = training(300_000, 2, 1e-4, (5 / 6,))
    config.sppnet.test = test_settings(score_threshold=-1.0)

    config.fast_rcnn = ConfigDict()
    config.fast_rcnn.pooling = "pool"       # or "align"
    config.fast_rcnn.rois = 64              # of each image
    config.fast_rcnn.fraction = 0.25
    config.fast_rcnn.foreground = 0.5
    config.fast_rcnn.background = (0.1, 0.5)
    config.fast_rcnn.svd_ranks = (0, 0)     # of the head's layers at test, (1024, 256) in the paper; 0: as trained
    config.fast_rcnn.training = training(40_000, 2, 1e-3, (0.75,))

    config.faster_rcnn = ConfigDict()
    config.faster_rcnn.method = "joint"     # or "alternating": four trainings
    config.faster_rcnn.pooling = "pool"
    config.faster_rcnn.scales = (128.0, 256.0, 512.0)
    config.faster_rcnn.ratios = (0.5, 1.0, 2.0)
    config.faster_rcnn.anchor_style = "caffe"
    config.faster_rcnn.rpn_channels = 512
    config.faster_rcnn.border = 0.0         # pixels that an anchor in training may cross the image's side by
    config.faster_rcnn.positive = 0.7
    config.faster_rcnn.negative = 0.3
    config.faster_rcnn.rpn_batch = 256
    config.faster_rcnn.rpn_fraction = 0.5
    config.faster_rcnn.rpn_nms = 0.7
    config.faster_rcnn.smallest = 16.0
    config.faster_rcnn.proposals_train = ConfigDict({"before": 12_000, "after": 2000})
    config.faster_rcnn.proposals_test = ConfigDict({"before": 6000, "after": 300})
    config.faster_rcnn.rois = 128
    config.faster_rcnn.fraction = 0.25
    config.faster_rcnn.foreground = 0.5
    config.faster_rcnn.background = (0.0, 0.5)
    config.faster_rcnn.training = training(70_000, 1, 1e-3, (5 / 7,))

    config.test = test_settings(score_threshold=0.05)
    config.eleven_points = True             # VOC 2007's average precision; else the area under the curve
    return config
