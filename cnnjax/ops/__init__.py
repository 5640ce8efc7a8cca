"""Pure functions on arrays for detection: boxes, anchors, matching, NMS, RoI pooling and pyramid pooling."""

from cnnjax.ops.anchors import (
    base_anchors,
    centred_inside,
    default_boxes,
    generate_anchors,
    inside_image,
    propose_boxes,
)
from cnnjax.ops.boxes import (
    box_area,
    box_giou,
    box_iou,
    boxes_to_coco,
    boxes_to_voc,
    clip_boxes,
    coco_to_boxes,
    decode_boxes,
    encode_boxes,
    flip_boxes,
    resize_boxes,
    voc_to_boxes,
)
from cnnjax.ops.matching import IGNORED, NEGATIVE, POSITIVE, Matches, match_boxes, sample_balanced
from cnnjax.ops.nms import batched_nms, nms, soft_nms
from cnnjax.ops.pyramid import roi_pyramid_pool, spatial_pyramid_pool
from cnnjax.ops.roi import multilevel_roi_align, pyramid_level, roi_align, roi_pool, roi_warp

__all__ = [
    "IGNORED", "NEGATIVE", "POSITIVE", "Matches", "base_anchors", "batched_nms", "box_area", "box_giou", "box_iou",
    "boxes_to_coco", "boxes_to_voc", "centred_inside", "clip_boxes", "coco_to_boxes", "decode_boxes", "default_boxes",
    "encode_boxes", "flip_boxes", "generate_anchors", "inside_image", "match_boxes", "multilevel_roi_align", "nms",
    "propose_boxes", "pyramid_level", "resize_boxes", "roi_align", "roi_pool", "roi_pyramid_pool", "roi_warp",
    "sample_balanced", "soft_nms", "spatial_pyramid_pool", "voc_to_boxes",
]
