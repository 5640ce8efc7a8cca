"""The ladder on scattered digits, which need no file: all four detectors in minutes on two CPU cores.

    cnnjax ladder --config configs/ladder/scatter.py --workdir runs/scatter
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import defaults
from cnnjax.configs.ladder.defaults import shortened


def get_config() -> ConfigDict:
    config = defaults.ladder()
    config.data.source = "scatter"
    config.data.train_images = 300
    config.data.test_images = 100
    config.data.size = 128
    config.data.canvases = ((128, 128),)
    config.data.flip = False                # a mirrored digit is another sign
    config.data.jitter = 0.8
    config.eleven_points = False

    config.backbone.name = "small"
    config.backbone.widths = (16, 32)
    config.backbone.stage = "stage2"        # stride 4
    config.backbone.hidden = (128,)
    config.backbone.dropout = 0.0
    config.backbone.mean, config.backbone.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    config.backbone.frozen = ()
    config.backbone.freeze_norm = False
    config.pretraining = shortened(500, 64, 0.02)

    config.proposals.side = 128
    config.proposals.min_size = 8
    config.proposals.max_proposals = 256

    config.rcnn.side, config.rcnn.context = 56, 4
    config.rcnn.training = shortened(400, 64, 0.01)
    config.sppnet.scales, config.sppnet.target = (1.0, 1.5), 32.0
    config.sppnet.training = shortened(500, 4, 0.01)
    config.fast_rcnn.rois = 32
    config.fast_rcnn.svd_ranks = (0,)
    config.fast_rcnn.training = shortened(800, 4, 0.02)

    faster = config.faster_rcnn
    faster.pooling = "align"
    faster.scales, faster.ratios, faster.anchor_style = (16.0, 24.0, 36.0, 48.0), (1.0, 1.6), "centre"
    faster.rpn_channels = 64
    faster.border = 1e9                     # so near the side as digits lie, all anchors are wanted
    faster.positive = 0.6
    faster.rpn_batch, faster.rois = 64, 32
    faster.min_size = 4.0
    faster.proposals_train.update(pre_nms_top_n=500, post_nms_top_n=100)
    faster.proposals_test.update(pre_nms_top_n=300, post_nms_top_n=50)
    faster.training = shortened(1000, 4, 0.02)

    for pyramid in (config.faster_rcnn_fpn, config.retinanet):
        pyramid.backbone.update(config.backbone)
        pyramid.backbone.widths, pyramid.backbone.stage = (16, 32, 64), "stage3"
        pyramid.backbone_stages = ("stage2", "stage3")                  # strides 4 and 8
        pyramid.ratios = (1.2, 1.9)             # digits are 1.1 to 2 times as high as wide, but for some ones
    fpn = config.faster_rcnn_fpn
    fpn.channels = 64
    fpn.sizes, fpn.canonical_size = ((16.0, 24.0), (32.0, 40.0), (48.0, 64.0)), 64.0
    fpn.positive, fpn.rpn_batch, fpn.rois, fpn.min_size = 0.6, 64, 32, 4.0
    fpn.proposals_train.update(pre_nms_top_n=300, post_nms_top_n=100)
    fpn.proposals_test.update(pre_nms_top_n=200, post_nms_top_n=50)
    fpn.training = shortened(1200, 4, 1e-3)
    retinanet = config.retinanet
    retinanet.channels, retinanet.extra, retinanet.head_std = 48, "P5", 0.0
    retinanet.sizes = ((12.0, 16.0), (20.0, 28.0), (36.0, 48.0), (64.0, 96.0))
    retinanet.training = shortened(1200, 8, 2e-3)

    config.yolo.update(size=128, grid=4, hidden=1024, dropout=0.3, batch_norm=True, trunk=(
        ((16, 3, 2),), ((32, 3, 1),), ((64, 3, 1), (64, 3, 1)), ((128, 3, 1), (128, 3, 1), (64, 1, 1))))
    # Fully connected layers learn each cell by itself: few cells, and objects must have been everywhere. Of the objects
    # one in thirty shares its cell with another and is not learnt.
    config.yolo.transforms = ({"name": "scale_translate", "amount": 0.3}, {"name": "exposure_saturation"})
    config.yolo.training = shortened(2000, 16, 1e-3)

    # At 128 pixels the finest map, of stride 8, has no box that a digit of 16 pixels overlaps by half.
    config.ssd.update(size=192, width=12, convs=(1, 1, 2, 2, 1), batch_norm=True, extras=((48, 96, 3, 2, 1),))
    config.ssd.update(scales=(0.12, 0.2, 0.3, 0.4), ratios=((1.6,),) * 3, steps=(8.0, 16.0, 32.0))
    config.ssd.mean, config.ssd.std = config.backbone.mean, config.backbone.std
    config.ssd.transforms = ({"name": "photometric_distort"}, {"name": "iou_crop", "scale": (0.7, 1.0)},)
    config.ssd.training = shortened(1300, 8, 2e-3)

    # Adam: of layers without batch norm SGD is far from the end after so few steps. At a rate of 0.02, from scratch, it
    # left RetinaNet at an mAP of 58 % and YOLO, after 2,500 steps, at the loss of a constant output.
    for name in ("faster_rcnn_fpn", "retinanet", "yolo", "ssd"):
        config[name].training.optimizer.update(name="adam", weight_decay=0.0)
    return config
