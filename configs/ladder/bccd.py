"""The ladder on blood cells (BCCD: 364 images, PASCAL VOC layout): an hour or more on two CPU cores.

    cnnjax ladder --config configs/ladder/bccd.py --workdir runs/bccd --config.data.path=FOLDER

FOLDER holds `JPEGImages`, `Annotations` and `ImageSets`. Images are halved to 320x240. Two boxes have no area and
are skipped.
"""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import defaults
from cnnjax.configs.ladder.defaults import shortened


def get_config() -> ConfigDict:
    config = defaults.ladder()
    config.data.path = "data/bccd"
    config.data.on_error = "skip"
    config.data.canvases = ((240, 320),)
    config.data.jitter = 0.8
    config.eleven_points = False

    config.backbone.name = "small"
    config.backbone.widths = (16, 32, 64)
    config.backbone.stage = "stage3"        # stride 8
    config.backbone.hidden = (256,)
    config.backbone.dropout = 0.0
    config.backbone.mean, config.backbone.std = (0.7, 0.67, 0.7), (0.25, 0.25, 0.25)
    config.backbone.frozen = ()
    config.backbone.freeze_norm = False
    config.pretraining = shortened(200, 32, 0.02)

    # Red cells touch and their borders are faint: "fast" misses more of them.
    config.proposals.mode = "quality"
    config.proposals.side = 320
    config.proposals.min_size = 10          # platelets are 12 and more
    config.proposals.max_proposals = 1000

    config.rcnn.side, config.rcnn.context = 56, 4
    config.rcnn.training = shortened(400, 64, 0.01)
    config.sppnet.scales, config.sppnet.target = (1.0, 1.5), 64.0
    config.sppnet.training = shortened(600, 2, 0.01)
    config.fast_rcnn.svd_ranks = (0,)
    config.fast_rcnn.training = shortened(1500, 2, 0.02)

    faster = config.faster_rcnn
    faster.pooling = "align"
    faster.scales, faster.ratios, faster.anchor_style = (20.0, 40.0, 56.0, 96.0), (0.7, 1.0, 1.4), "centre"
    faster.rpn_channels = 64
    faster.border = 1e9                     # cells cut by the side are wanted
    faster.rois = 64
    faster.min_size = 6.0
    faster.proposals_train.update(pre_nms_top_n=1000, post_nms_top_n=300)
    faster.proposals_test.update(pre_nms_top_n=1000, post_nms_top_n=200)
    faster.training = shortened(3000, 2, 0.02)

    for pyramid in (config.faster_rcnn_fpn, config.retinanet):
        pyramid.backbone.update(config.backbone)
        pyramid.ratios = (0.7, 1.0, 1.4)
        pyramid.test.nms = 0.45
    fpn = config.faster_rcnn_fpn
    fpn.backbone_stages, fpn.channels = ("stage2", "stage3"), 48        # strides 4 and 8
    fpn.sizes, fpn.canonical_size = ((20.0, 28.0), (40.0, 56.0), (80.0, 112.0)), 112.0
    fpn.rois, fpn.min_size = 64, 6.0
    fpn.proposals_train.update(pre_nms_top_n=500, post_nms_top_n=300)
    fpn.proposals_test.update(pre_nms_top_n=500, post_nms_top_n=200)
    fpn.training = shortened(2000, 2, 1e-3)
    # Two heads of five convolutions at a stride of 4 would take two thirds of a step: from 8 on, with smaller anchors.
    retinanet = config.retinanet
    retinanet.backbone.widths, retinanet.backbone.stage = (16, 32, 64, 96), "stage4"
    retinanet.backbone_stages, retinanet.channels = ("stage3", "stage4"), 64
    retinanet.extra, retinanet.head_std = "P5", 0.0
    retinanet.sizes = ((18.0, 30.0, 48.0), (40.0, 56.0, 72.0), (80.0, 100.0, 120.0), (110.0, 135.0, 160.0))
    retinanet.training = shortened(2000, 2, 1e-3)

    # Red cells are a fifth of the image wide: 14 cells a side, since up to thirty lie on one.
    config.yolo.update(size=224, grid=14, hidden=256, dropout=0.2, batch_norm=True, trunk=(
        ((16, 3, 2),), ((32, 3, 1),), ((64, 3, 1), (64, 3, 1)), ((128, 3, 1), (128, 3, 1))))
    config.yolo.mean, config.yolo.std = config.backbone.mean, config.backbone.std
    config.yolo.training = shortened(2400, 8, 1e-3)

    config.ssd.update(size=192, width=12, convs=(1, 1, 2, 2, 1), batch_norm=True, extras=((48, 96, 3, 2, 1),))
    config.ssd.update(scales=(0.08, 0.18, 0.34, 0.5), ratios=((1.4,),) * 3, steps=(8.0, 16.0, 32.0))
    config.ssd.mean, config.ssd.std = config.backbone.mean, config.backbone.std
    config.ssd.transforms = ({"name": "photometric_distort"}, {"name": "iou_crop", "scale": (0.7, 1.0)})
    config.ssd.training = shortened(2800, 4, 2e-3)

    for name in ("faster_rcnn_fpn", "retinanet", "yolo", "ssd"):        # Adam as for scattered digits
        config[name].training.optimizer.update(name="adam", weight_decay=0.0)

    # One red cell in twenty overlaps another by an IoU of 0.3, one in a hundred by 0.47 (training images).
    for test in (config.test, config.rcnn.test, config.sppnet.test, config.yolo.test):
        test.nms = 0.45
    return config
