"""What a detector gets wrong: classes taken for another, false detections, objects missed, by class and by image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.evaluation.voc_ap import Detections, Truth, iou_matrix

SMALL, LARGE = 32.0**2, 96.0**2
"""Areas in pixels under which COCO calls an object small, and over which large."""


class Outcomes(NamedTuple):
    """Of K classes and N images."""

    confusion: np.ndarray       # (K + 1, K + 1) int: objects of the row's class detected as the column's; the last row
    #                             are detections of no object, the last column objects of no detection
    right: np.ndarray           # (N,) int: detections of an object as its class
    false: np.ndarray           # (N,) int: other detections
    missed: np.ndarray          # (N,) int: objects that were not detected as their class


def outcomes(detections: Sequence[Detections], truths: Sequence[Truth], num_classes: int, score_threshold: float,
             iou_threshold: float = 0.5) -> Outcomes:
    """What became of the detections of at least a score and of the objects, difficult ones aside.

    Best first, a detection has the object of its class that it overlaps most by more than the threshold and that no
    better one has. Detections that are left have, in the same way, an object of another class that is left. One on a
    difficult object counts as nothing.
    """
    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    right, false, missed = (np.zeros(len(truths), int) for _ in range(3))
    for i, (found, truth) in enumerate(zip(detections, truths, strict=True)):
        order = np.argsort(-found.scores, kind="stable")
        order = order[found.scores[order] >= score_threshold]
        overlap = iou_matrix(found.boxes[order], truth.boxes)                       # (D, G)
        overlap[overlap <= iou_threshold] = 0
        called, classes = found.classes[order], truth.classes
        of = np.full(len(order), -1)                                                # the object of each detection
        for same in (True, False):
            for d in np.flatnonzero(of < 0):
                fits = overlap[d] * ((classes == called[d]) == same)
                fits[of[(of >= 0)]] = 0
                if len(fits) and fits.max() > 0:
                    of[d] = fits.argmax()
        counted = (of < 0) | ~truth.difficult[of] if len(classes) else of < 0
        # a second detection of a difficult object, which others may have, is no error either
        on_difficult = (overlap * truth.difficult).max(1, initial=0) > 0
        counted &= ~((of < 0) & on_difficult)
        for d in np.flatnonzero(counted):
            confusion[classes[of[d]] if of[d] >= 0 else num_classes, called[d]] += 1
        lost = ~truth.difficult & ~np.isin(np.arange(len(classes)), of)
        np.add.at(confusion[:, num_classes], classes[lost], 1)
        right[i] = sum(of[d] >= 0 and classes[of[d]] == called[d] for d in np.flatnonzero(counted))
        false[i] = counted.sum() - right[i]
        missed[i] = (~truth.difficult).sum() - right[i]
    return Outcomes(confusion, right, false, missed)


def sizes_of(truths: Sequence[Truth]) -> dict[str, int]:
    """How many objects, difficult ones aside, are small, medium and large, as COCO has it."""
    areas = np.concatenate([np.zeros(0), *((
        (t.boxes[:, 2:] - t.boxes[:, :2]).prod(-1) if t.areas is None else t.areas)[~t.difficult] for t in truths)])
    small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    return {"small": small, "medium": len(areas) - small - large, "large": large}
