"""Average precision as PASCAL VOC has it, and the recall of proposals.

The overlap that counts as found is strictly over the threshold. VOC's own code adds 1 to the widths of its integer
boxes; boxes turned continuous on reading, `(x1 - 1, y1 - 1, x2, y2)`, have those widths already.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Detections(NamedTuple):
    """What a detector found on one image, in pixels of that image."""

    boxes: np.ndarray           # (D, 4) float32
    scores: np.ndarray          # (D,) float32
    classes: np.ndarray         # (D,) int32


class Truth(Protocol):
    """What is there: the parts of `cnnjax.data.detection_sets.Objects` that evaluation reads."""

    @property
    def boxes(self) -> np.ndarray:
        """(G, 4) float32."""

    @property
    def classes(self) -> np.ndarray:
        """(G,) int32."""

    @property
    def difficult(self) -> np.ndarray:
        """(G,) bool."""

    @property
    def areas(self) -> np.ndarray | None:
        """(G,) pixels, where they are not those of the boxes."""


class Curve(NamedTuple):
    """Precision and recall of one class after each detection, best first."""

    recall: np.ndarray          # (D,) nan when no object counts
    precision: np.ndarray       # (D,)
    ap: float                   # nan when no object counts


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs, `(N, 4), (M, 4) -> (N, M)`, in double precision."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    overlap = sides.clip(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def voc_curve(detections: Sequence[Detections], truths: Sequence[Truth], cls: int, iou_threshold: float = 0.5,
              eleven_points: bool = False) -> Curve:
    """The curve and average precision of one class over all images (Everingham et al. 2010, section 4.2).

    Detections are taken best first; each looks at the object it overlaps most. Over the threshold it is true if the
    object was not found before, and false (a duplicate) if it was; on a difficult object it counts as neither.
    Difficult objects are not counted among those to find. `eleven_points` averages the interpolated precision at
    recalls 0, 0.1, ..., 1 (VOC 2007), else the area under the interpolated curve is taken (from VOC 2010 on).
    """
    scores, images, boxes = [], [], []
    for i, found in enumerate(detections):
        of = found.classes == cls
        scores.append(found.scores[of])
        boxes.append(found.boxes[of])
        images.append(np.full(of.sum(), i))
    score, image, box = (np.concatenate(part) if part else np.zeros(0) for part in (scores, images, boxes))
    labelled = [(t.boxes[t.classes == cls], t.difficult[t.classes == cls]) for t in truths]
    count = sum(int((~difficult).sum()) for _, difficult in labelled)

    taken = [np.zeros_like(difficult) for _, difficult in labelled]
    verdicts = []                                       # 1 true, 0 false; nothing for one on a difficult object
    for d in np.argsort(-score, kind="stable"):
        i = int(image[d])
        objects, difficult = labelled[i]
        overlaps = iou_matrix(box[d][None], objects)[0]
        best = int(overlaps.argmax()) if len(overlaps) else -1
        if best < 0 or overlaps[best] <= iou_threshold:
            verdicts.append(0)
        elif not difficult[best]:
            verdicts.append(int(not taken[i][best]))
            taken[i][best] = True
    true = np.cumsum(np.array(verdicts, np.float64))
    precision = true / np.arange(1, len(true) + 1)
    if count == 0:
        return Curve(np.full(len(true), np.nan), precision, float("nan"))
    recall = true / count
    return Curve(recall, precision, average_precision(recall, precision, eleven_points))


def average_precision(recall: np.ndarray, precision: np.ndarray, eleven_points: bool = False) -> float:
    """The average of the interpolated precision: the greatest one at that recall or a greater one."""
    if eleven_points:
        return float(np.mean([precision[recall >= t].max(initial=0) for t in np.linspace(0, 1, 11)]))
    recall = np.concatenate([[0], recall, [1]])
    precision = np.maximum.accumulate(np.concatenate([[0], precision, [0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))


def voc_ap(detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int, iou_threshold: float = 0.5,
           eleven_points: bool = False) -> np.ndarray:
    """Average precision of each class, (num_classes,); nan for a class of which no object counts.

    The mean over the others, `np.nanmean`, is the mAP. Raises ValueError when images and truths differ in number.
    """
    if len(detections) != len(truths):
        raise ValueError(f"{len(detections)} images of detections, {len(truths)} of truths: expected as many")
    return np.array([voc_curve(detections, truths, c, iou_threshold, eleven_points).ap for c in range(num_classes)])


def proposal_recall(proposals: Sequence[np.ndarray], truths: Sequence[Truth],
                    counts: Sequence[int] = (50, 100, 200, 500, 1000, 2000), iou_threshold: float = 0.5,
                    ) -> dict[int, float]:
    """The share of objects, difficult ones aside, that one of the first n proposals overlaps by the threshold or more.

    `proposals` has one (P, 4) array an image, best first.
    """
    best: dict[int, list[float]] = {count: [] for count in counts}
    for boxes, truth in zip(proposals, truths, strict=True):
        overlaps = iou_matrix(boxes, truth.boxes[~truth.difficult])             # (P, G)
        for count in counts:
            best[count] += list(overlaps[:count].max(0, initial=0))
    return {count: float(np.mean(np.array(values) >= iou_threshold)) if values else float("nan")
            for count, values in best.items()}
