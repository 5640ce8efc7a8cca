"""What the four detectors share: how they are trained, what they give, and the end of the way from scores to boxes."""

import dataclasses
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import ops
from cnnjax.data.detection import choose_canvas, place, rescale_boxes
from cnnjax.detection.backbones import flat, nested
from cnnjax.errors import UserError
from cnnjax.evaluation.voc_ap import Detections
from cnnjax.training import loop, task
from cnnjax.training import state as states

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Deltas are divided by deviations of 0.1, 0.1, 0.2, 0.2, as the released code of Faster R-CNN has them."""

Variables = dict[str, Any]

Loss = Callable[[Variables, Any, jax.Array], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
"""`(variables, batch, key) -> (loss, (batch_stats, metrics))`."""


class Found(NamedTuple):
    """What a detector made of one image, in its pixels, and the seconds of "proposals", "network" and "rest"."""

    detections: Detections
    proposals: np.ndarray       # (P, 4), best first
    seconds: dict[str, float]


Detector = Callable[[np.ndarray], Found]
"""From an image (H, W, 3) uint8 of any size."""


# Training

def train(phase: ConfigDict, seed: int, folder: Path, variables: Variables, loss: Loss,
          stream: Callable[[int], Iterator[Any]], frozen: Sequence[str] = (), name: str = "train") -> Variables:
    """`variables` after the steps of `phase`, resumed from `folder` if it was begun there; with `optimizer.ema` their
    moving average.

    Parameters whose path begins with one of `frozen` are held: to the loop they are state, not parameters.
    """
    config = phase.copy_and_resolve_references()
    with config.unlocked():
        config.seed = seed
    folder.mkdir(parents=True, exist_ok=True)
    state = loop.fit(config, folder, Phase(variables, loss, stream, tuple(frozen)), name=name)
    return jax.device_get(states.variables(state))


@dataclasses.dataclass(frozen=True)
class Phase:
    """Detector training that goes on from `variables`; see `cnnjax.training.task.Task`."""

    variables: task.Variables
    loss_of: Loss
    stream: Callable[[int], Iterator[Any]]
    frozen: tuple[str, ...]

    best = None
    splits = ()

    def init(self, key: jax.Array) -> task.Variables:
        return {"batch_stats": {}, **self.variables}

    def data(self) -> task.Stream:
        return task.Stream(lambda step, shard, shards: self.stream(step))

    def get_batch(self, data: Any, key: jax.Array, step: jax.Array, shard: jax.Array, shards: int) -> Any:
        return data

    def loss(self, variables: task.Variables, batch: Any, key: jax.Array, hyper: Any,
             axis_name: str | None) -> task.Loss:
        value, (stats, metrics) = self.loss_of(dict(variables), batch, key)
        return value, ({"batch_stats": stats}, metrics)

    def evaluate(self, variables: task.Variables, split: str) -> list[task.Row]:
        return []

    def describe(self) -> dict[str, Any]:
        return {}


def save(folder: Path, kind: str, classes: Sequence[str], config: ConfigDict, arrays: Mapping[str, Any]) -> None:
    """Writes a trained detector: `detector.npz`, its arrays, then `detector.json`, which says that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "detector.npz.part"
    with open(part, "wb") as file:
        named: dict[str, Any] = {k: np.asarray(v) for k, v in flat(arrays).items()}
        np.savez(file, **named)
    part.replace(folder / "detector.npz")
    described = {"kind": kind, "classes": list(classes), "config": json.loads(config.to_json())}
    (folder / "detector.json").write_text(json.dumps(described, indent=1) + "\n")


def load(folder: Path) -> tuple[str, tuple[str, ...], ConfigDict, Variables]:
    """Kind, classes, config and arrays of a detector that `save` wrote. Raises UserError when there is none."""
    try:
        described = json.loads((folder / "detector.json").read_text())
        for part in ("kind", "classes", "config"):
            described[part]
        with np.load(folder / "detector.npz") as kept:
            arrays = nested({k: kept[k] for k in kept.files})
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no trained detector there ({Path(str(error.filename)).name} is missing)") from None
    except (ValueError, KeyError, TypeError, OSError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: the detector cannot be read ({type(error).__name__}: {error})") from None
    config = _tuples(described["config"])
    return described["kind"], tuple(described["classes"]), ConfigDict(config), arrays


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# From scores to boxes

class Boxes(NamedTuple):
    """The D best boxes of one image, padded."""

    boxes: jax.Array        # (D, 4)
    scores: jax.Array       # (D,)
    classes: jax.Array      # (D,) int32
    valid: jax.Array        # (D,) bool


def finish(rois: jax.Array, there: jax.Array, scores: jax.Array, deltas: jax.Array, size: jax.Array,
           settings: Any, weights: Sequence[float] = BOX_WEIGHTS) -> Boxes:
    """Boxes moved by their class' deltas, clipped, the likely ones kept, and of those that overlap the best one.

    `rois` (R, 4), `there` (R,), `scores` (R, K) of the foreground classes, `deltas` (R, K, 4), `size` (2,) height and
    width. `settings` is the `test` group: `score_threshold`, `nms` (the IoU), `most` boxes; the deltas were
    multiplied by `weights`.
    """
    classes = scores.shape[1]
    boxes = ops.clip_boxes(ops.decode_boxes(deltas, rois[:, None], weights), size[0], size[1]).reshape(-1, 4)
    scores = scores.reshape(-1)                                                         # (R * K,)
    label = jnp.tile(jnp.arange(classes), len(rois))
    likely = jnp.repeat(there, classes) & (scores > settings.score_threshold) & (ops.box_area(boxes) > 0)
    keep, valid = ops.batched_nms(boxes, scores, label, settings.nms, settings.most, likely)
    return Boxes(boxes[keep], scores[keep], label[keep], valid)


def to_detections(found: Any, old: Any, new: Any) -> Detections:
    """Padded boxes of a canvas as detections in the image's own pixels; `old` and `new` are (height, width)."""
    boxes, scores, classes, valid = map(np.asarray, found)
    return Detections(rescale_boxes(boxes[valid], old, new), scores[valid], classes[valid].astype(np.int32))


def on_canvas(image: np.ndarray, canvases: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A batch of one image on the canvas that suits it: (1, H, W, 3) uint8 and its (1, 2) int32 height and width."""
    placed, size = place(image, canvases[choose_canvas(image.shape[:2], canvases)])
    return placed[None], size[None]


def room(count: int) -> int:
    """A power of two, at least 64, for so many rows: programs of few static sizes serve every image."""
    return max(64, 1 << max(count - 1, 0).bit_length())


def pad_rows(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows padded with zeros to `count`, and which are there."""
    padded = np.zeros((count, *rows.shape[1:]), np.float32)
    padded[: len(rows)] = rows
    return padded, np.arange(count) < len(rows)
