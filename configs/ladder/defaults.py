"""Defaults of the ladder: the settings of the papers, for VOC 2007. A config file changes what it must."""

from typing import Any

from ml_collections import ConfigDict

from cnnjax import detection, fields
from cnnjax.data import box_transforms
from cnnjax.detection import saved, settings


def training(steps: int, batch_size: int, learning_rate: float, boundaries: tuple[float, ...] = (), **other: Any,
             ) -> ConfigDict:
    """The training of one network: SGD with momentum 0.9 at a rate that falls tenfold at each boundary.

    `other` sets further fields, of the optimizer and the schedule too.
    """
    config = fields.defaults(settings.TRAINING)
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
    shared = fields.defaults(settings.FIELDS).to_dict()
    own = saved.fields_of(detection.create(name, 1))
    return ConfigDict({field: value for field, value in own.items()
                       if field != "canvases" and shared.get(field) != value})


def ladder() -> ConfigDict:
    """R-CNN, SPP-net, Fast R-CNN and Faster R-CNN as their papers have them.

    The group of a detector has the fields of its dataclass, where they are explained, and `training`. The groups
    `backbone`, `proposals` (selective search) and `test` (postprocessing) are of all detectors that have no such group
    of their own.
    """
    config = fields.defaults(settings.FIELDS)
    config.pretraining = training(2000, 128, 1e-2)
    for name, phase in {
            "rcnn": training(70_000, 128, 1e-3, (5 / 7,)),
            "sppnet": training(300_000, 2, 1e-4, (5 / 6,)),
            "fast_rcnn": training(40_000, 2, 1e-3, (0.75,)),
            "faster_rcnn": training(70_000, 1, 1e-3, (5 / 7,)),
            "faster_rcnn_fpn": training(80_000, 16, 0.02, (0.75,), weight_decay=1e-4),
            "yolo": training(35_000, 64, 1e-2, (5 / 9, 7 / 9), warmup_steps=1000, warmup_factor=0.1),
            "ssd": training(60_000, 32, 1e-3, (2 / 3, 5 / 6)),
            "retinanet": training(90_000, 16, 0.01, (2 / 3, 8 / 9), weight_decay=1e-4)}.items():
        config[name] = fields_of(name)
        config[name].training = phase
    config.yolo.transforms, config.ssd.transforms = box_transforms.YOLO, box_transforms.SSD
    return config
