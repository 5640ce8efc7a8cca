"""YOLO: Redmon, Divvala, Girshick and Farhadi, "You Only Look Once: Unified, Real-Time Object Detection" (2016).

One network maps the whole image to a grid of boxes, confidences and class probabilities. `create` is the network of
figure 3, `create_fast` Fast YOLO. Neither has a softmax or a sigmoid: all outputs are linear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import fields, ops
from cnnjax.detection.backbones import normalise
from cnnjax.detection.detector import DetectorOutput, Sizes, Variables, example_keys
from cnnjax.detection.postprocess import Postprocess, best_boxes, each_image
from cnnjax.detection.targets import Truth
from cnnjax.fields import NOT_NEGATIVE, setting
from cnnjax.models.layers import BatchNorm, conv, he_normal

Trunk = Sequence[Sequence[Sequence[int]]]
"""Convolutions, (filters, kernel, stride), in stages with 2x2 max pooling between them."""

PAPER: Trunk = (
    ((64, 7, 2),),
    ((192, 3, 1),),
    ((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1)),
    (*((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1)),
    (*((512, 1, 1), (1024, 3, 1)) * 2, (1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
)
"""Figure 3: 24 convolutions, 448x448 to 7x7x1024."""

FAST: Trunk = (*(((filters, 3, 1),) for filters in (16, 32, 64, 128, 256, 512)), ((1024, 3, 1),) * 3)
"""The nine convolutions of the authors' first release; the paper gives their number alone."""

leaky_relu = partial(nn.leaky_relu, negative_slope=0.1)     # eq. 2


class YOLONetwork(nn.Module):
    """The network. `(N, H, W, 3)` normalised pixels to `(N, outputs)` float32.

    The map is fully connected to `bottleneck` linear units (Fast YOLO), where that is not 0, then to `hidden` ones,
    which are dropped out where `dropout_keys`, one for each image, are given, then to the outputs.
    """

    outputs: int
    trunk: Trunk
    bottleneck: int
    hidden: int
    dropout: float
    batch_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, dropout_keys: jax.Array | None = None) -> jax.Array:
        for s, stage in enumerate(self.trunk, 1):
            if s > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for c, (filters, kernel, stride) in enumerate(stage, 1):
                x = conv(filters, kernel, stride, use_bias=True, dtype=self.dtype, name=f"conv{s}_{c}")(x)
                if self.batch_norm:
                    x = BatchNorm(name=f"norm{s}_{c}")(x, train=train)
                x = leaky_relu(x)
        x = x.reshape(len(x), -1)                                                       # (N, 7 * 7 * 1024)
        if self.bottleneck:
            x = nn.Dense(self.bottleneck, kernel_init=he_normal, dtype=self.dtype, name="bottleneck")(x)
        x = leaky_relu(nn.Dense(self.hidden, kernel_init=he_normal, dtype=self.dtype, name="hidden")(x))
        if dropout_keys is not None:
            dropout = nn.Dropout(self.dropout, deterministic=False)
            x = jax.vmap(lambda units, key: dropout(units, rng=key))(x, dropout_keys)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01), name="output")(x.astype(jnp.float32))


class Grid(NamedTuple):
    """The outputs for one image, of the S x S cells in row order: `S * S * (B * 5 + C)` numbers (section 2)."""

    boxes: jax.Array        # (S * S, B, 4): x, y of the centre in the cell, root of width and height as image shares
    confidence: jax.Array   # (S * S, B): probability of an object times IoU with it
    classes: jax.Array      # (S * S, C): probabilities, given an object

    @classmethod
    def of(cls, outputs: jax.Array, grid: int, boxes: int) -> "Grid":
        cells = outputs.reshape(grid * grid, -1)                                        # (S * S, B * 5 + C)
        predictors = cells[:, :boxes * 5].reshape(grid * grid, boxes, 5)
        return cls(predictors[..., :4], predictors[..., 4], cells[:, boxes * 5:])


def decode_cells(boxes: jax.Array, grid: int) -> jax.Array:
    """`Grid.boxes` as corners in [0, 1], `(S * S, B, 4)`: centres placed in their cells, sizes squared."""
    row, column = jnp.divmod(jnp.arange(grid * grid), grid)
    centre = (jnp.stack([column, row], -1)[:, None] + boxes[..., :2]) / grid
    half = 0.5 * jnp.square(boxes[..., 2:])
    return jnp.concatenate([centre - half, centre + half], -1)


class CellTargets(NamedTuple):
    """What the cells of one image learn."""

    objects: jax.Array      # (S * S,) bool: the centre of an object falls into the cell
    ignored: jax.Array      # (S * S,) bool: that of a difficult object does, and no other's
    corners: jax.Array      # (S * S, 4) of the object, in [0, 1]
    boxes: jax.Array        # (S * S, 4) of the object, as `Grid.boxes`
    classes: jax.Array      # (S * S,) int32


def cell_targets(truth: Truth, size: jax.Array, grid: int) -> CellTargets:
    """Assign each object to the cell of its centre (section 2); `size` (2,) is the canvas's height and width.

    A cell has one object, the first whose centre falls into it. Objects without area are left out.
    """
    corners = ops.resize_boxes(truth.boxes, 1 / size[0], 1 / size[1])
    centre = grid * 0.5 * (corners[:, :2] + corners[:, 2:])
    place = jnp.clip(jnp.floor(centre), 0, grid - 1)
    cell = (place[:, 1] * grid + place[:, 0]).astype(jnp.int32)
    learnt = truth.mask & ~truth.difficult & (ops.box_area(truth.boxes) > 0)
    nowhere, rows = grid * grid, jnp.arange(len(cell))
    first = jnp.full(nowhere, len(cell)).at[jnp.where(learnt, cell, nowhere)].min(rows, mode="drop")
    objects = first < len(cell)
    difficult = jnp.where(truth.mask & truth.difficult, cell, nowhere)
    ignored = jnp.zeros(nowhere, bool).at[difficult].set(True, mode="drop") & ~objects
    first = jnp.where(objects, first, 0)
    boxes = jnp.concatenate([centre - place, jnp.sqrt(jnp.maximum(corners[:, 2:] - corners[:, :2], 0))], -1)
    return CellTargets(objects, ignored, corners[first], boxes[first], truth.classes[first])


class Terms(NamedTuple):
    """The sums of eq. 3 over one image's cells, weighted."""

    coordinates: jax.Array
    object_confidence: jax.Array
    background_confidence: jax.Array
    classes: jax.Array


def grid_loss(outputs: Grid, targets: CellTargets, grid: int, coordinate_weight: float,
              background_weight: float) -> Terms:
    """The loss of one image, term by term (eq. 3).

    Of a cell's predictors the one whose box has the highest IoU with the object is responsible for it, and its
    confidence is to be that IoU; where all are 0, that of the least squared error, as in the released code. All other
    confidences are to be 0, but those of ignored cells.
    """
    iou = ops.box_iou(decode_cells(outputs.boxes, grid), targets.corners[:, None])[..., 0]          # (S * S, B)
    iou = lax.stop_gradient(iou)
    error = jnp.square(outputs.boxes - targets.boxes[:, None]).sum(-1)
    best = jnp.where((iou > 0).any(-1), iou.argmax(-1), error.argmin(-1))
    responsible = targets.objects[:, None] & (jnp.arange(iou.shape[-1]) == best[:, None])
    background = ~responsible & ~targets.ignored[:, None]
    wanted = jax.nn.one_hot(targets.classes, outputs.classes.shape[-1])
    of_class = jnp.square(outputs.classes - wanted).sum(-1)
    return Terms(coordinate_weight * jnp.where(responsible, error, 0).sum(),
                 jnp.where(responsible, jnp.square(outputs.confidence - iou), 0).sum(),
                 background_weight * jnp.where(background, jnp.square(outputs.confidence), 0).sum(),
                 jnp.where(targets.objects, of_class, 0).sum())


@dataclass(frozen=True)
class YOLO:
    """YOLO as a detector; the defaults are the paper's for VOC. Images are stretched to `size` x `size`.

    A box is detected as a class where probability times confidence is over `test.score_threshold`.
    """

    num_classes: int
    size: int = setting(448, "[16, 8192]", "pixels a side of the canvas")
    grid: int = setting(7, "[1, 256]", "cells a side, S")
    boxes: int = setting(2, "[1, 64]", "of a cell, B")
    trunk: Sequence[Sequence[Sequence[int]]] = setting(PAPER, text="convolutions (filters, kernel, stride) in "
                                                       "stages, 2x2 max pooling between these")
    bottleneck: int = setting(0, "[0, 65536]", "linear units before the hidden ones; 0: none")
    hidden: int = setting(4096, "[1, 65536]", "units of the first fully connected layer")
    dropout: float = setting(0.5, "[0, 1)", "of the hidden units")
    batch_norm: bool = setting(False, text="after each convolution")
    mean: Sequence[float] = setting((0.5, 0.5, 0.5), "[-1000, 1000]", "of pixels in [0, 1]", length=3)
    std: Sequence[float] = setting((0.5, 0.5, 0.5), "(0, 1000]", "of pixels in [0, 1]", length=3)
    coordinate_weight: float = setting(5.0, NOT_NEGATIVE, "of the boxes' errors")
    background_weight: float = setting(0.5, NOT_NEGATIVE, "of the confidence where no object is")
    test: Postprocess = field(default_factory=partial(Postprocess, score_threshold=0.001, nms=0.5, max_detections=100))
    dtype: str = setting("float32", ("float32", "bfloat16"), "of activations")

    title: ClassVar[str] = "YOLO"
    stretch: ClassVar[bool] = True
    needs_proposals: ClassVar[bool] = False
    default_score_threshold: ClassVar[float] = 0.2

    @property
    def canvases(self) -> Sizes:
        return ((self.size, self.size),)

    @property
    def network(self) -> YOLONetwork:
        outputs = self.grid**2 * (self.boxes * 5 + self.num_classes)
        return YOLONetwork(outputs, self.trunk, self.bottleneck, self.hidden, self.dropout, self.batch_norm,
                           self.dtype)

    def preprocess(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image stretched by bilinear interpolation, `(size, size, 3)` uint8, and (size, size)."""
        stretched = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return stretched, np.array([self.size, self.size], np.int32)

    def init(self, key: jax.Array) -> Variables:
        return jax.jit(self.network.init)(key, jnp.zeros((1, self.size, self.size, 3)))

    def loss(self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array,
             hyper: Mapping[str, jax.Array], axis_name: str | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """The sum of squared errors (eq. 3), a mean over the images."""
        del hyper
        apply: Any = self.network.apply
        outputs, new = apply(variables, normalise(batch["images"], self.mean, self.std), train=True,
                             mutable=["batch_stats"], dropout_keys=example_keys(key, len(batch["images"]), axis_name))

        canvas = jnp.asarray(batch["images"].shape[1:3])

        def one(outputs: jax.Array, truth: Truth) -> Terms:
            return grid_loss(Grid.of(outputs, self.grid, self.boxes), cell_targets(truth, canvas, self.grid), self.grid,
                             self.coordinate_weight, self.background_weight)

        terms = jax.tree.map(jnp.mean, jax.vmap(one)(outputs, Truth.of(batch)))
        metrics = {f"{name}_loss": value for name, value in terms._asdict().items()}
        return sum(terms, jnp.float32(0)), (dict(new), metrics)

    def predict(self, variables: Variables, canvases: jax.Array, sizes: jax.Array,
                proposals: jax.Array | None = None) -> DetectorOutput:
        del sizes, proposals                                            # the image fills the canvas
        return _predict(self, variables, canvases)


@partial(jax.jit, static_argnums=0)
def _predict(detector: YOLO, variables: Variables, canvases: jax.Array) -> DetectorOutput:
    apply: Any = detector.network.apply
    outputs = apply(variables, normalise(canvases, detector.mean, detector.std))
    return each_image(partial(postprocess, detector, jnp.asarray(canvases.shape[1:3])), outputs)


def postprocess(detector: YOLO, size: jax.Array, outputs: jax.Array) -> DetectorOutput:
    """The detections of one image, which has height and width `size` (2,), from the network's outputs."""
    cells = Grid.of(outputs, detector.grid, detector.boxes)
    corners = ops.resize_boxes(decode_cells(cells.boxes, detector.grid), size[0], size[1])
    scores = cells.confidence[..., None] * cells.classes[:, None]                       # (S * S, B, C)
    finite = jnp.broadcast_to(jnp.isfinite(corners).all(-1)[..., None], scores.shape)   # before clipping
    boxes, classes = jnp.broadcast_arrays(ops.clip_boxes(corners, size[0], size[1])[..., None, :],
                                          jnp.arange(detector.num_classes)[:, None])
    return best_boxes(boxes.reshape(-1, 4), scores.reshape(-1), classes[..., 0].reshape(-1), detector.test,
                      finite.reshape(-1))


def create(num_classes: int = 20, **values: Any) -> YOLO:
    """The paper's YOLO, other values in some of its fields."""
    return fields.replace(YOLO(num_classes), values)


def create_fast(num_classes: int = 20, **values: Any) -> YOLO:
    """Fast YOLO: nine convolutions, and 256 linear units before the 4,096."""
    return create(num_classes, **{"trunk": FAST, "bottleneck": 256} | values)
