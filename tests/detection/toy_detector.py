"""A detector outside of the library: it says, of the brightest cell of an image, that there is an object of class 0."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import fields
from cnnjax.data.canvases import fit_canvas
from cnnjax.detection.detector import DetectorOutput, Sizes
from cnnjax.fields import setting


@dataclass(frozen=True)
class Toy:
    num_classes: int
    canvases: Sizes = ((64, 64),)
    channels: int = setting(4, "[1, 64]", "of its one hidden layer")

    title: ClassVar[str] = "Toy"
    needs_proposals: ClassVar[bool] = False
    default_score_threshold: ClassVar[float] = 0.3

    @property
    def network(self):
        return nn.Sequential([nn.Conv(self.channels, (8, 8), (8, 8)), nn.relu, nn.Conv(1, (1, 1))])

    def preprocess(self, image):
        return fit_canvas(image, self.canvases)

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, 64, 64, 3)))

    def loss(self, variables, batch, key, hyper, axis_name=None):
        logits = self.network.apply(variables, batch["images"] / 255)
        return jnp.square(logits - 1).mean(), ({}, {"largest": logits.max()})

    def predict(self, variables, canvases, sizes, proposals=None):
        return _predict(self, variables, canvases, sizes)


def create(num_classes, **values):
    return fields.replace(Toy(num_classes), values)


@partial(jax.jit, static_argnums=0)
def _predict(detector, variables, canvases, sizes):
    scores = jax.nn.sigmoid(detector.network.apply(variables, canvases / 255)[..., 0])      # (N, h, w)
    n, _, width = scores.shape
    y, x = jnp.divmod(scores.reshape(n, -1).argmax(1), width)
    corner = jnp.stack([x, y], -1) * 8.0
    boxes = jnp.minimum(jnp.concatenate([corner, corner + 8], -1), jnp.tile(sizes[:, ::-1], 2))
    return DetectorOutput(boxes[:, None], scores.max((1, 2))[:, None], jnp.zeros((n, 1), int), jnp.ones((n, 1), bool))
