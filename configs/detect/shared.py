"""What the configs of detectors on COCO 2017 share.

PATH holds `train2017`, `val2017` and `annotations/instances_{train,val}2017.json`. Images are opened when their turn
comes (`data.verify`), 1,000 training images are held out by seed to choose the checkpoint by, and val2017 is the test.
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import defaults
from cnnjax.detection import settings


def config_of(name: str) -> ConfigDict:
    """The paper's detector `name` on COCO, evaluated eight times."""
    ladder = defaults.ladder()
    ladder.data.update(source="coco", path="data/coco", train_split="train2017", test_split="val2017", validation=1000,
                       verify=False, on_error="skip", canvases=((800, 1344), (1344, 800)))
    ladder.eleven_points = False
    config = settings.alone(ladder, name)
    if "backbone" in config.model:
        config.model.backbone.stride_in_3x3 = True      # as torchvision's ResNet has it
    config.eval_every = config.checkpoint_every = config.steps // 8
    return config
