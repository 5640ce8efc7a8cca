"""The protocol of a detector: how an image becomes its input, its loss, and its detections."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import lax

Variables = dict[str, Any]


class DetectorOutput(NamedTuple):
    """The best detections of each image, best first, padded to D."""

    boxes: jax.Array        # (N, D, 4) float32, pixels of the canvas
    scores: jax.Array       # (N, D) float32
    classes: jax.Array      # (N, D) int32, from 0: the background is none of them
    mask: jax.Array         # (N, D) bool, False for padding


class Detector(Protocol):
    """What training, evaluation and `cnnjax detect` need of a detector."""

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
        """`(loss, (model state, metrics))` of a minibatch; counts that divide it are means over `axis_name`."""

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        """Detections on canvases (N, H, W, 3), the images' heights and widths (N, 2)."""


def example_keys(key: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """A random key for each of a device's `count` examples, by the example's index in the global minibatch, so that
    what is drawn does not depend on the number of devices."""
    if axis_name is None:
        return jax.random.split(key, count)
    keys = jax.random.split(key, count * lax.axis_size(axis_name))
    return lax.dynamic_slice_in_dim(keys, lax.axis_index(axis_name) * count, count)
