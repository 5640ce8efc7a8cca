"""COCO's average precision, computed by COCO's own code, pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.evaluation.voc_ap import Detections, Truth


def coco_ap(detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int) -> dict[str, float]:
    """AP over IoU 0.5 to 0.95, AP50, AP75, AP of small, medium and large objects, and AR at 1, 10 and 100 boxes.

    An object is small, medium or large by the area that its annotation gives, often its mask's, else by its box's;
    a detection by its box's. Difficult objects are passed as crowds: neither to be found nor wrong to find. A quantity
    of which there is no object is nan.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    for i, truth in enumerate(truths):
        corners = truth.boxes.astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        areas = sides.prod(-1) if truth.areas is None else truth.areas
        for j, (cls, difficult) in enumerate(zip(truth.classes, truth.difficult, strict=True)):
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": int(cls),
                                "bbox": [*corners[j, :2].tolist(), *sides[j].tolist()], "area": float(areas[j]),
                                "iscrowd": int(difficult)})
    rows = [np.concatenate([np.full((len(d.scores), 1), i), d.boxes[:, :2], d.boxes[:, 2:] - d.boxes[:, :2],
                            d.scores[:, None], d.classes[:, None]], 1) for i, d in enumerate(detections)]

    with contextlib.redirect_stdout(io.StringIO()):     # it prints its progress
        truth_set = COCO()
        truth_set.dataset = {"info": {}, "images": [{"id": i} for i in range(len(truths))], "annotations": annotations,
                             "categories": [{"id": c} for c in range(num_classes)]}
        truth_set.createIndex()
        found = np.concatenate(rows) if rows else np.zeros((0, 7))
        if not len(found):              # loadRes refuses an empty list
            found = np.array([[0.0, 0, 0, 0, 0, 0, 0]])
        evaluation = COCOeval(truth_set, truth_set.loadRes(found.astype(np.float64)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100")
    return {name: float(value) if value >= 0 else float("nan")
            for name, value in zip(names, evaluation.stats, strict=False)}
