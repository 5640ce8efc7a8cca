"""What the zoo's configs share."""

from typing import Any

from ml_collections import ConfigDict

from cnnjax.configs import defaults


def digits(name: str, *, steps: int, rate: float, batch_size: int = 64, image_size: int = 16,
           **fields: Any) -> ConfigDict:
    """A short run on the 1,438 training images of scikit-learn's digits: SGD, half a cosine, crops, no mirroring."""
    config = defaults.classification()
    config.model = ConfigDict({"name": name, **fields})
    config.data.image_size = image_size
    config.data.pad = image_size // 8
    config.data.flip = False                # a mirrored digit is another sign
    config.batch_size = batch_size
    config.steps = steps
    config.optimizer.learning_rate = rate
    config.schedule.name = "cosine"
    config.log_every = max(1, steps // 50)
    config.eval_every = max(1, steps // 5)
    config.checkpoint_every = config.eval_every
    return config


def imagenet(name: str, *, epochs: int, batch_size: int, rate: float, weight_decay: float, image_size: int = 224,
             **fields: Any) -> ConfigDict:
    """A run on ImageNet's 1,281,167 training images (TFDS `imagenet2012`), momentum 0.9; the schedule is the
    paper's."""
    config = defaults.classification()
    config.model = ConfigDict({"name": name, **fields})
    config.data.source = "imagenet2012"
    config.data.image_size = image_size
    config.data.streamed = True
    config.data.pad = 0                     # the workers crop at random
    config.batch_size = batch_size
    config.steps = round(epochs * 1_281_167 / batch_size / 5_000) * 5_000       # whole evaluations
    config.optimizer.learning_rate = rate
    config.optimizer.weight_decay = weight_decay
    config.log_every = 100
    config.eval_every = 5_000
    config.checkpoint_every = 5_000
    return config


def drops(config: ConfigDict, *parts: float) -> None:
    """Divides the rate by ten at these parts of the run."""
    config.schedule.name = "piecewise"
    config.schedule.boundaries = parts
    config.schedule.factor = 0.1
