"""The protocol of a detector: how an image becomes its input, its loss, and its detections."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import lax

Variables = dict[str, Any]

Sizes = tuple[tuple[int, int], ...]
"""Canvases, (height, width) in pixels."""


class DetectorOutput(NamedTuple):
    """The best detections of each image, best first, padded to D."""

    boxes: jax.Array        # (N, D, 4) float32, pixels of the canvas
    scores: jax.Array       # (N, D) float32
    classes: jax.Array      # (N, D) int32, from 0: the background is none of them
    mask: jax.Array         # (N, D) bool, False for padding
    proposals: jax.Array | None = None      # (N, P, 4) of a network that makes its own, best first, padded with zeros


class Detector(Protocol):
    """What training, evaluation and `cnnjax detect` need of a detector.

    A detector is a frozen dataclass of its hyperparameters, `create(num_classes, **fields)` in the same file. It may
    also have

    - `canvases`, the sizes of the images of its minibatches: it needs them unless it has stages of its own;
    - `stretch`, True where an image is to fill its canvas whatever its shape (`cnnjax.data.canvases.place`);
    - `frozen`, the beginnings of the paths of parameters that are not trained;
    - `pretrained`, which of its parts a pre-trained backbone fills: {"trunk": "trunk", "roi_heads/head": "head"};
    - `stages(setup)`, a list of `cnnjax.detection.stages.Stage`, where it is trained in several steps;
    - `scored_in_training`, False where what is trained is not yet a detector, so that validation images tell nothing.
    """

    @property
    def num_classes(self) -> int:
        """How many classes it knows, the background not counted."""

    @property
    def title(self) -> str:
        """Its name as its paper writes it."""

    @property
    def needs_proposals(self) -> bool:
        """Whether `loss` and `predict` take region proposals that are made outside of the network."""

    @property
    def default_score_threshold(self) -> float:
        """From which score a detection is drawn where the user does not say."""

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image (H, W, 3) uint8 of any size, resized as the paper says, on one of a few canvases; its height and
        width there, (2,) int32."""

    def init(self, key: jax.Array) -> Variables:
        """Random variables."""

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array,
             hyper: Mapping[str, jax.Array], axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """`(loss, (model state, metrics))` of a minibatch; counts that divide it are means over `axis_name`.

        The model state is that of Flax: the collections of `variables` other than "params", such as "batch_stats".
        """

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """Detections on canvases (N, H, W, 3), the images' heights and widths (N, 2).

        `proposals` (N, P, 4) are in pixels of the canvas, padded with zeros.
        """


def example_keys(key: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """A random key for each of a device's `count` examples, by the example's index in the global minibatch, so that
    what is drawn does not depend on the number of devices."""
    if axis_name is None:
        return jax.random.split(key, count)
    keys = jax.random.split(key, count * lax.axis_size(axis_name))
    return lax.dynamic_slice_in_dim(keys, lax.axis_index(axis_name) * count, count)
