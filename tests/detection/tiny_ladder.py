"""The embedded ladder made tiny: real code, seconds."""

from ml_collections import ConfigDict

from cnnjax.configs.ladder import scatter
from cnnjax.configs.ladder.defaults import shortened


def get_config() -> ConfigDict:
    config = scatter.get_config()
    config.data.update(train_images=4, test_images=2, size=64, canvases=((64, 64),))
    config.backbone.update(widths=(8,), stage="stage1", hidden=(16,), pool=3)
    config.proposals.update(side=64, max_proposals=64)
    config.rcnn.update(side=16, context=2, forward=16)
    config.sppnet.update(levels=(1, 2), scales=(1.0, 1.5), rois=8)
    config.fast_rcnn.rois = 8
    config.faster_rcnn.update(scales=(24.0,), ratios=(1.0,), rpn_channels=8, rpn_batch=16, rois=8)
    config.faster_rcnn.proposals_train.update(pre_nms_top_n=64, post_nms_top_n=16)
    config.faster_rcnn.proposals_test.update(pre_nms_top_n=64, post_nms_top_n=16)
    for pyramid in (config.faster_rcnn_fpn, config.retinanet):
        pyramid.backbone.update(widths=(8, 8, 8), stage="stage3", hidden=(16,), pool=3)
        pyramid.update(channels=8, training=shortened(10, 2, 0.01))
    config.faster_rcnn_fpn.update(rpn_batch=16, rois=8)
    config.faster_rcnn_fpn.proposals_train.update(pre_nms_top_n=32, post_nms_top_n=16)
    config.faster_rcnn_fpn.proposals_test.update(pre_nms_top_n=32, post_nms_top_n=16)
    config.yolo.update(size=64, grid=2, hidden=16, trunk=(((4, 3, 2),), ((8, 3, 1),), ((8, 3, 1),)))
    config.ssd.update(size=64, width=4, convs=(1, 1, 1, 1, 1), extras=((4, 8, 3, 2, 1),))
    config.pretraining = shortened(10, 8, 0.01)
    for kind in ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn", "yolo", "ssd"):
        config[kind].training = shortened(10, 8 if kind == "rcnn" else 2, 0.01)
    return config
