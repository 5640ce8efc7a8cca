"""torchvision's Faster R-CNN, trained on COCO, fine-tuned to detect what one's own images show.

    cnnjax train --config configs/detect/fine_tune.py --workdir runs/mine --config.data.path=FOLDER \\
        --config.init.weights=fasterrcnn_resnet50_fpn_coco.pth

FOLDER holds images with boxes in any layout that `cnnjax data FOLDER` reads. The layers that know the classes are made
new; the first stages of the ResNet are held, and all batch norm, whose epsilon was 0 in torchvision's weights. Another
detector by `--config.model.name`, with its fields: see `cnnjax config --config FILE`.
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import defaults
from cnnjax.configs.ladder.defaults import fields_of, training
from cnnjax.detection import settings

NAME = "fasterrcnn_resnet50_fpn"


def get_config() -> ConfigDict:
    ladder = defaults.ladder()
    ladder.data.update(source="auto", train_split="train", validation=50, canvases=((800, 1344), (1344, 800)))
    ladder.eleven_points = False
    ladder[NAME] = fields_of(NAME)
    ladder[NAME].backbone.norm_epsilon = 0.0
    ladder[NAME].training = training(
        2000, 2, 0.0025, (0.6, 0.9), weight_decay=1e-4, warmup_steps=200, clip_norm=10.0, eval_every=200,
        checkpoint_every=200, log_every=20, patience=4, steps_per_dispatch=1)
    return settings.alone(ladder, NAME)
