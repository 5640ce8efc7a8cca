"""Pure functions on arrays for detection: boxes, anchors, suppression, pooling of regions and pyramids."""

from cnnjax.ops.anchors import base_anchors, generate_anchors, inside_image
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
from cnnjax.ops.nms import batched_nms, nms
from cnnjax.ops.pyramid import spatial_pyramid_pool
from cnnjax.ops.roi import roi_align, roi_pool

__all__ = [
    "base_anchors", "batched_nms", "box_area", "box_giou", "box_iou", "boxes_to_coco", "boxes_to_voc", "clip_boxes",
    "coco_to_boxes", "decode_boxes", "encode_boxes", "flip_boxes", "generate_anchors", "inside_image", "nms",
    "resize_boxes", "roi_align", "roi_pool", "spatial_pyramid_pool", "voc_to_boxes",
]
