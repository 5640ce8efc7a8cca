"""Linear SVMs and ridge regression of boxes on cached features: the last stages of R-CNN and SPP-net."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.data.detection_sets import DetectionSet, Objects
from cnnjax.detection.detector import DetectorOutput, Variables
from cnnjax.detection.postprocess import Postprocess, postprocess
from cnnjax.evaluation.voc_ap import iou_matrix

Extract = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`(image, boxes (R, 4)) -> (pooled (R, F), features (R, D))`: what boxes are regressed and classified from."""


class Regions(NamedTuple):
    """The regions of one training image: the ground truth first, then the proposals."""

    boxes: np.ndarray       # (R, 4)
    features: np.ndarray    # (R, D) float32, of the head
    near: np.ndarray        # (M,) which of them overlap an object enough to regress from
    pooled: np.ndarray      # (M, F) float32, of those


def cache_features(data: DetectionSet, proposals: Sequence[np.ndarray], extract: Extract, near: float,
                   folder: Path) -> list[Path]:
    """One file of features an image in `folder`; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:06d}.npz" for i in range(len(data))]
    for i, file in enumerate(files):
        if not file.exists():
            boxes = np.concatenate([data.objects[i].boxes, proposals[i]])
            pooled, features = extract(data.read(i), boxes)
            close = np.flatnonzero(iou_matrix(boxes, data.objects[i].boxes).max(1, initial=0) >= near)
            part = file.with_suffix(f".{os.getpid()}.part")
            with open(part, "wb") as out:
                np.savez(out, boxes=boxes, features=features, near=close, pooled=pooled[close].astype(np.float16))
            part.replace(file)
    return files


def read_features(file: Path) -> Regions:
    """What `cache_features` wrote of one image."""
    with np.load(file) as kept:
        return Regions(kept["boxes"], kept["features"], kept["near"], kept["pooled"].astype(np.float32))


def fit_svms(files: Sequence[Path], objects: Sequence[Objects], num_classes: int, settings: Any, seed: int,
             ) -> Variables:
    """One linear SVM a class (R-CNN, section 2.3 and appendix B): `weights` (D, K), `bias` (K,), `scale` ().

    Positives are the ground truth alone, negatives the regions whose IoU with every object of the class is under
    `settings.svm_negative` (0.3). Features are scaled to a mean norm of 20. Each SVM begins with a few random negatives
    of each image; then one pass over the images adds the hard ones, inside the margin or beyond, and it is fitted
    again whenever `settings.svm_refit` of them have come together.
    """
    rng = np.random.default_rng([seed, 2])
    positives: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    negatives: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    norms = []
    for file, truth in zip(files, objects, strict=True):
        regions = read_features(file)
        norms.append(np.linalg.norm(regions.features, axis=1).mean())
        count = len(truth.classes)
        for c in range(num_classes):
            positives[c].append(regions.features[:count][(truth.classes == c) & ~truth.difficult])
            easy = np.flatnonzero(_negative(regions, truth, c, settings.svm_negative))
            negatives[c].append(regions.features[rng.permutation(easy)[:5]])
    scale = 20 / max(float(np.mean(norms)), 1e-6)

    weights, bias = np.zeros((positives[0][0].shape[1], num_classes), np.float32), np.zeros(num_classes, np.float32)

    def fit(c: int) -> None:
        good, bad = np.concatenate(positives[c]) * scale, np.concatenate(negatives[c]) * scale
        if len(good) == 0 or len(bad) == 0:             # a class without objects is never found
            bias[c] = -10.0
            return
        from sklearn.svm import LinearSVC  # slow to import, and the other detectors do without
        svm = LinearSVC(C=settings.svm_c, loss="hinge", class_weight={1: 2.0}, intercept_scaling=10.0,
                        random_state=seed, max_iter=5000, tol=1e-3)
        svm.fit(np.concatenate([good, bad]), np.repeat([1, 0], [len(good), len(bad)]))
        weights[:, c], bias[c] = svm.coef_[0], svm.intercept_[0]

    for c in range(num_classes):
        fit(c)
    waiting = np.zeros(num_classes, int)
    for file, truth in zip(files, objects, strict=True):
        regions = read_features(file)
        scores = regions.features * scale @ weights + bias                              # (R, K)
        for c in range(num_classes):
            hard = _negative(regions, truth, c, settings.svm_negative) & (scores[:, c] > -1)
            negatives[c].append(regions.features[hard])
            waiting[c] += hard.sum()
            if waiting[c] >= settings.svm_refit:
                fit(c)
                waiting[c] = 0
    for c in range(num_classes):
        fit(c)
    return {"weights": weights, "bias": bias, "scale": np.float32(scale)}


def _negative(regions: Regions, truth: Objects, c: int, threshold: float) -> np.ndarray:
    """Which regions are negatives of class c: (R,) bool."""
    return iou_matrix(regions.boxes, truth.boxes[truth.classes == c]).max(1, initial=0) < threshold


def fit_ridge(files: Sequence[Path], objects: Sequence[Objects], num_classes: int, settings: Any) -> Variables:
    """Box regression of each class by ridge (R-CNN, appendix C): `weights` (K, F, 4), `bias` (K, 4), `scale` ().

    From regions whose IoU with their nearest object, of the class, is at least `settings.regress` (0.6); lambda is
    `settings.ridge` (1,000). Features are scaled to a mean norm of 20 and the four targets whitened.
    """
    x: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    y: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    size = 0
    for file, truth in zip(files, objects, strict=True):
        regions = read_features(file)
        size = regions.pooled.shape[1]
        if not len(truth.classes):
            continue
        iou = iou_matrix(regions.boxes[regions.near], truth.boxes)                      # (M, G)
        nearest, best = iou.argmax(1), iou.max(1, initial=0)
        for c in range(num_classes):
            used = (best >= settings.regress) & (truth.classes[nearest] == c) & ~truth.difficult[nearest]
            x[c].append(regions.pooled[used])
            y[c].append(np.asarray(ops.encode_boxes(truth.boxes[nearest[used]], regions.boxes[regions.near][used])))
    norms = [np.linalg.norm(rows, axis=1) for of_class in x for rows in of_class]
    scale = 20 / max(float(np.concatenate(norms).mean()), 1e-6) if sum(map(len, norms)) else 1.0

    weights, bias = np.zeros((num_classes, size, 4), np.float32), np.zeros((num_classes, 4), np.float32)
    for c in range(num_classes):
        rows = np.concatenate(x[c]) if x[c] else np.zeros((0, size), np.float32)
        if len(rows) > 4:
            # in double precision, so that the order in which threads sum does not show in the result
            scaled = np.concatenate([rows * scale, np.ones((len(rows), 1), np.float32)], 1).astype(np.float64)
            solved = ridge(scaled, np.concatenate(y[c]).astype(np.float64), settings.ridge)
            weights[c], bias[c] = solved[:-1], solved[-1]
    return {"weights": weights, "bias": bias, "scale": np.float32(scale)}


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The w (F, 4) of least `|whiten(y - x w)|^2 + penalty |whiten(w)|^2`; the last column of x is 1.

    The targets are whitened, so that the four weigh alike; w is for targets as they are.
    """
    mean = y.mean(0)
    values, vectors = np.linalg.eigh(np.cov((y - mean).T) + 1e-6 * np.eye(4))
    whiten = vectors / np.sqrt(values) @ vectors.T
    targets = (y - mean) @ whiten
    if len(x) >= x.shape[1]:
        w = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ targets)
    else:                                   # the same by the smaller matrix
        w = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), targets)
    w = w @ np.linalg.inv(whiten)
    w[-1] += mean
    return w


def fit(data: DetectionSet, proposals: Sequence[np.ndarray], extract: Extract, num_classes: int, settings: Any,
        seed: int, folder: Path) -> Variables:
    """Features to disk, then SVMs and box regression on them: the groups "svm" and "ridge"."""
    files = cache_features(data, proposals, extract, settings.regress, folder)
    return {"svm": fit_svms(files, data.objects, num_classes, settings, seed),
            "ridge": fit_ridge(files, data.objects, num_classes, settings)}


def init(num_classes: int, pooled: int, features: int) -> Variables:
    """What `fit` gives, untrained: for so many pooled values and features of a region."""
    zeros, one = partial(np.zeros, dtype=np.float32), np.float32(1)
    return {"svm": {"weights": zeros((features, num_classes)), "bias": zeros(num_classes), "scale": one},
            "ridge": {"weights": zeros((num_classes, pooled, 4)), "bias": zeros((num_classes, 4)), "scale": one}}


def classify(linear: Variables, settings: Postprocess, pooled: jax.Array, features: jax.Array, rois: jax.Array,
             sizes: jax.Array) -> DetectorOutput:
    """Detections by SVMs and ridge regression, with NMS per class.

    `linear` holds the groups "svm" and "ridge"; `pooled` (N, R, F), `features` (N, R, D), `rois` (N, R, 4) padded with
    zeros, `sizes` (N, 2).
    """
    svm, regression = linear["svm"], linear["ridge"]
    scores = features * svm["scale"] @ svm["weights"] + svm["bias"]                     # (N, R, K)
    deltas = jnp.einsum("nrf,kfd->nrkd", pooled * regression["scale"], regression["weights"]) + regression["bias"]
    return postprocess(rois, ops.box_area(rois) > 0, scores, deltas, sizes, settings, weights=(1, 1, 1, 1))
