"""Defaults of the ladder: the settings of the papers, for VOC 2007. A config file changes what it must."""

from dataclasses import asdict
from typing import Any

from ml_collections import ConfigDict

from cnnjax import detection, fields
from cnnjax.detection import saved
from cnnjax.detection.backbones import Backbone
from cnnjax.detection.postprocess import Postprocess
from cnnjax.detection.proposals import SelectiveSearch
from cnnjax.training import loop


def training(steps: int, batch_size: int, learning_rate: float, boundaries: tuple[float, ...] = (), **other: Any,
             ) -> ConfigDict:
    """The training of one network: SGD with momentum 0.9 at a rate that falls tenfold at each boundary.

    `other` sets further fields, of the optimizer and the schedule too.
    """
    config = fields.defaults({name: of for name, of in loop.FIELDS.items() if name != "seed"})
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


def fields_of(name: str) -> ConfigDict:
    """The group of a detector: its fields but for those that all detectors share."""
    shared = {"dtype": "float32", "canvases": CANVASES, "backbone": asdict(Backbone()),
              "proposals": asdict(SelectiveSearch()), "test": asdict(Postprocess())}
    fields = saved.fields_of(detection.create(name, 1))
    return ConfigDict({field: value for field, value in fields.items() if shared.get(field) != value})


CANVASES = ((600, 1000), (1000, 600))


def ladder() -> ConfigDict:
    """R-CNN, SPP-net, Fast R-CNN and Faster R-CNN as their papers have them.

    The group of a detector has the fields of its dataclass, where they are explained, and `training`. The groups
    `backbone`, `proposals` (selective search) and `test` (postprocessing) are of all detectors that have no such group
    of their own.
    """
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
    config.data.canvases = CANVASES         # height and width; an image takes the one it fills best
    config.data.flip = True
    config.data.jitter = 1.0                # smallest scale at random; 1: none

    config.backbone = ConfigDict(asdict(Backbone()))
    config.pretraining = training(2000, 128, 1e-2)
    config.proposals = ConfigDict(asdict(SelectiveSearch()))
    config.test = ConfigDict(asdict(Postprocess()))
    for name, phase in {
            "rcnn": training(70_000, 128, 1e-3, (5 / 7,)),
            "sppnet": training(300_000, 2, 1e-4, (5 / 6,)),
            "fast_rcnn": training(40_000, 2, 1e-3, (0.75,)),
            "faster_rcnn": training(70_000, 1, 1e-3, (5 / 7,))}.items():
        config[name] = fields_of(name)
        config[name].training = phase
    config.eleven_points = True             # VOC 2007's average precision; else the area under the curve
    return config
