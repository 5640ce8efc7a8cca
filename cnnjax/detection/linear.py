"""What R-CNN and SPP-net put on top of a network: linear SVMs and ridge regression on features kept on disk."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import LinearSVC

from cnnjax import ops
from cnnjax.data.detection import DetectionSet, Objects
from cnnjax.detection.common import Boxes, Detector, Found, Variables, finish, pad_rows, room, to_detections
from cnnjax.detection.proposals import Cache
from cnnjax.evaluation.voc_ap import iou_matrix

Extract = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`(image, boxes (R, 4)) -> (pooled (R, F), top (R, D))`: what the boxes are regressed and classified from."""


class Regions(NamedTuple):
    """The regions of one training image: the ground truth first, then the proposals."""

    boxes: np.ndarray       # (R, 4)
    top: np.ndarray         # (R, D) float32
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
            pooled, top = extract(data.read(i), boxes)
            close = np.flatnonzero(iou_matrix(boxes, data.objects[i].boxes).max(1, initial=0) >= near)
            part = file.with_suffix(f".{os.getpid()}.part")
            with open(part, "wb") as out:
                np.savez(out, boxes=boxes, top=top, near=close, pooled=pooled[close].astype(np.float16))
            part.replace(file)
    return files


def read_features(file: Path) -> Regions:
    """What `cache_features` wrote of one image."""
    with np.load(file) as kept:
        return Regions(kept["boxes"], kept["top"], kept["near"], kept["pooled"].astype(np.float32))


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
    for file, there in zip(files, objects, strict=True):
        regions = read_features(file)
        norms.append(np.linalg.norm(regions.top, axis=1).mean())
        count = len(there.classes)
        for c in range(num_classes):
            positives[c].append(regions.top[:count][(there.classes == c) & ~there.difficult])
            easy = np.flatnonzero(_negative(regions, there, c, settings.svm_negative))
            negatives[c].append(regions.top[rng.permutation(easy)[:5]])
    scale = 20 / max(float(np.mean(norms)), 1e-6)

    weights, bias = np.zeros((positives[0][0].shape[1], num_classes), np.float32), np.zeros(num_classes, np.float32)

    def fit(c: int) -> None:
        good, bad = np.concatenate(positives[c]) * scale, np.concatenate(negatives[c]) * scale
        if len(good) == 0 or len(bad) == 0:             # a class without objects is never found
            bias[c] = -10.0
            return
        svm = LinearSVC(C=settings.svm_c, loss="hinge", class_weight={1: 2.0}, intercept_scaling=10.0,
                        random_state=seed, max_iter=5000, tol=1e-3)
        svm.fit(np.concatenate([good, bad]), np.repeat([1, 0], [len(good), len(bad)]))
        weights[:, c], bias[c] = svm.coef_[0], svm.intercept_[0]

    for c in range(num_classes):
        fit(c)
    waiting = np.zeros(num_classes, int)
    for file, there in zip(files, objects, strict=True):
        regions = read_features(file)
        scores = regions.top * scale @ weights + bias                                   # (R, K)
        for c in range(num_classes):
            hard = _negative(regions, there, c, settings.svm_negative) & (scores[:, c] > -1)
            negatives[c].append(regions.top[hard])
            waiting[c] += hard.sum()
            if waiting[c] >= settings.svm_refit:
                fit(c)
                waiting[c] = 0
    for c in range(num_classes):
        fit(c)
    return {"weights": weights, "bias": bias, "scale": np.float32(scale)}


def _negative(regions: Regions, there: Objects, c: int, threshold: float) -> np.ndarray:
    """Which regions are negatives of class c: (R,) bool."""
    return iou_matrix(regions.boxes, there.boxes[there.classes == c]).max(1, initial=0) < threshold


def fit_ridge(files: Sequence[Path], objects: Sequence[Objects], num_classes: int, settings: Any) -> Variables:
    """Box regression of each class by ridge (R-CNN, appendix C): `weights` (K, F, 4), `bias` (K, 4), `scale` ().

    From regions whose IoU with their nearest object, of the class, is at least `settings.regress` (0.6); lambda is
    `settings.ridge` (1,000). Features are scaled to a mean norm of 20 and the four targets whitened.
    """
    x: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    y: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
    size = 0
    for file, there in zip(files, objects, strict=True):
        regions = read_features(file)
        size = regions.pooled.shape[1]
        if not len(there.classes):
            continue
        iou = iou_matrix(regions.boxes[regions.near], there.boxes)                      # (M, G)
        nearest, best = iou.argmax(1), iou.max(1, initial=0)
        for c in range(num_classes):
            used = (best >= settings.regress) & (there.classes[nearest] == c) & ~there.difficult[nearest]
            x[c].append(regions.pooled[used])
            y[c].append(np.asarray(ops.encode_boxes(there.boxes[nearest[used]], regions.boxes[regions.near][used])))
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


def classify(top: Variables, settings: Any, pooled: jax.Array, features: jax.Array, rois: jax.Array,
             there: jax.Array, size: jax.Array) -> Boxes:
    """The final boxes of one image by SVMs and ridge, suppressed a class at `settings.nms`. For jit.

    `top` holds the groups "svm" and "ridge"; `pooled` (R, F), `features` (R, D), `rois` (R, 4), `there` (R,).
    """
    svm, regression = top["svm"], top["ridge"]
    scores = features * svm["scale"] @ svm["weights"] + svm["bias"]                     # (R, K)
    deltas = jnp.einsum("rf,kfd->rkd", pooled * regression["scale"], regression["weights"]) + regression["bias"]
    return finish(rois, there, scores, deltas, size, settings, weights=(1, 1, 1, 1))


def detector(extract: Extract, top: Variables, settings: Any, search: Cache) -> Detector:
    """A detector on single images from features and what `fit` gave."""
    program = jax.jit(partial(classify, jax.device_put(top), settings))

    def run(image: np.ndarray) -> Found:
        proposed = search(image)
        began = time.perf_counter()
        features = extract(image, proposed.boxes)
        done = time.perf_counter()
        size, most = image.shape[:2], room(len(proposed.boxes))
        rois, there = pad_rows(proposed.boxes, most)
        pooled, fc = (pad_rows(rows, most)[0] for rows in features)
        found = jax.device_get(program(pooled, fc, rois, there, np.array(size)))
        return Found(to_detections(found, size, size), proposed.boxes,
                     {"proposals": proposed.seconds, "network": done - began, "rest": time.perf_counter() - done})
    return run
