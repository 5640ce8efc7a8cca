"""A classifier as a task: its batches, its loss and its scores, which `cnnjax.training.run` trains by."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cnnjax import data as datasets
from cnnjax import networks
from cnnjax.data import augment, batching, streaming, transforms
from cnnjax.models.layers import frozen_norm
from cnnjax.training import step as steps
from cnnjax.training.state import stream
from cnnjax.training.task import Loss, OnDevice, Row, Stream, Variables

Images = datasets.Dataset | streaming.Streamed

AUXILIARY_WEIGHT = 0.3
"""Of the losses of GoogLeNet's two extra heads (Szegedy et al. 2014, section 5)."""

Probe = Callable[[nn.Module, Variables], Row]
"""A row for metrics.jsonl that is made at each evaluation, such as the gradient norm of each layer."""



@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that is trained on the images of a data set; see `cnnjax.training.task.Task`."""

    config: ConfigDict
    module: nn.Module
    dataset: Images
    probe: Probe | None = None
    pretrained: Variables | None = None     # all variables to begin with, or all but those of the last layer

    @property
    def frozen(self) -> tuple[str, ...]:
        return self.config.init.frozen

    @property
    def best(self) -> tuple[str, str] | None:
        return None if self.dataset.validation is None else ("validation_error", "min")

    @property
    def splits(self) -> tuple[str, ...]:
        held_out = () if self.dataset.validation is None else ("validation",)
        return (*held_out, "test", *(() if self.probe is None else ("layers",)))

    def init(self, key: jax.Array) -> Variables:
        variables = networks.init_variables(self.module, self.dataset.image_shape, key)
        return variables if self.pretrained is None else networks.graft(variables, self.pretrained)

    def data(self) -> OnDevice | Stream:
        """The training split: whole on every device if it fits there, else batch by batch."""
        train, size, key = self.dataset.train, self.config.batch_size, stream(jax.random.key(self.config.seed), "order")
        if self.config.data.streamed:
            return Stream(lambda step, shard, shards: streaming.training_batches(
                train, key, size, self.config.data.image_size, step, on_error=self.config.data.on_error,
                flip=self.config.data.flip, shard=shard, shards=shards))
        if self._fits("train"):
            return OnDevice({"image": np.asarray(train.images), "label": train.labels})
        return Stream(lambda step, shard, shards: batching.stream(train, key, size, step, shard=shard, shards=shards))

    def get_batch(self, data: Any, key: jax.Array, step: jax.Array, shard: jax.Array, shards: int) -> Any:
        """Images and labels of a device, shuffled by epoch, cropped, flipped and normalised."""
        size = self.config.batch_size
        if not self.config.data.streamed and self._fits("train"):
            data = augment.get_batch(data, stream(key, "order"), step, size, shard=shard, shards=shards)
        first, label = shard * (size // shards), data["label"]
        key = jax.random.fold_in(stream(key, "augment"), step)
        crop_key, flip_key = jax.random.split(key)
        change = partial(transforms.apply, self.config.transforms, key=jax.random.fold_in(key, 2), first=first)
        images = data["image"]
        if self.config.transforms:
            label = jax.nn.one_hot(label, len(self.dataset.classes))
            images, label = change(("pixels",), images / 255, label)
            images = images * 255
        images = augment.normalise(images, self.dataset.mean, self.dataset.std)
        if self.config.data.pad:
            images = augment.pad_crop(images, crop_key, self.config.data.pad, first=first)
        if self.config.data.flip and not self.config.data.streamed:     # else the workers flipped it
            images = augment.flip(images, flip_key, first=first)
        images, label = change(("normalised", "batch"), images, label)
        return {"image": images, "label": label}

    def loss(self, variables: Variables, batch: Any, key: jax.Array, hyper: Mapping[str, jax.Array],
             axis_name: str | None) -> Loss:
        with frozen_norm() if self.config.init.freeze_norm else contextlib.nullcontext():
            return loss(self.module, variables, batch, key, hyper)

    def evaluate(self, variables: Variables, split: str) -> list[Row]:
        """Loss and errors on "train", "validation" or "test", without augmentation, every image counted exactly once;
        or the row of the probe on "layers"."""
        if split == "layers":
            assert self.probe is not None
            return [self.probe(self.module, variables)]
        sums = {k: float(v) for k, v in self._sums(variables, self._batches(split)).items()}
        count = sums.pop("count")
        if len(self.dataset.classes) <= 10:
            del sums["top5_error"]
        return [{"split": split, **{k: v / count for k, v in sums.items()}, "examples": int(count)}]

    def answers(self, variables: Variables, split: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Images (n, H, W, C) uint8 of a split, the probabilities of their classes (n, K) and their labels (n,), batch
        by batch in the split's order."""
        def probabilities(variables: Variables, images: jax.Array) -> jax.Array:
            return jnp.exp(log_probabilities(self.module, variables, augment.normalise(
                images, self.dataset.mean, self.dataset.std)))
        answer = steps.each_device(probabilities)
        for batch in self._batches(split):
            images, labels, mask = (np.asarray(batch[name]).reshape(-1, *batch[name].shape[2:])
                                    for name in ("image", "label", "mask"))
            found = np.asarray(answer(variables, batch["image"])).reshape(len(labels), -1)
            views = images if images.ndim == 4 else images[:, 0]
            yield views[mask], found[mask], labels[mask]

    def describe(self) -> dict[str, Any]:
        data = self.dataset
        return {"classes": list(data.classes), "image_shape": list(data.image_shape), "mean": data.mean.tolist(),
                "std": data.std.tolist(), "left_out": list(data.left_out), "notes": list(data.notes),
                "split": dict(data.split)}

    @cached_property
    def _sums(self) -> Callable[..., dict[str, jax.Array]]:
        return steps.evaluation(evaluation_sums(self.module, self.dataset.mean, self.dataset.std))

    @cached_property
    def _kept(self) -> dict[str, list[Any]]:
        """Batches of the splits that stay on the devices from one evaluation to the next."""
        return {}

    def _fits(self, split: str) -> bool:
        return batching.fits(getattr(self.dataset, split))

    def _batches(self, split: str) -> Iterator[Any]:
        if split in self._kept:
            yield from self._kept[split]
            return
        images, data, size = getattr(self.dataset, split), self.config.data, self.config.batch_size
        batches = batching.evaluation_batches(images, size) if not data.streamed else streaming.evaluation_batches(
            images, size, data.image_size, ten_crop=data.ten_crop, on_error=data.on_error)
        placed: Iterator[Any] = (steps.place(steps.local_share(batch)) for batch in batches)
        if not data.streamed and self._fits(split):
            self._kept[split] = list(placed)
            placed = iter(self._kept[split])
        yield from placed


def loss(module: nn.Module, variables: Variables, batch: Any, key: jax.Array,
         hyper: Mapping[str, jax.Array]) -> Loss:
    """Cross-entropy with label smoothing, and the share of wrong answers, for a batch of `image` and `label`, int32
    (N,) or the shares of the classes (N, classes)."""
    others = [name for name in variables if name != "params"]
    outputs, others = module.apply(variables, batch["image"], train=True, mutable=others, rngs={"dropout": key})
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    label = batch["label"]
    targets = jax.nn.one_hot(label, logits.shape[-1]) if label.ndim == 1 else label
    targets = optax.smooth_labels(targets, hyper["label_smoothing"])
    losses = [optax.softmax_cross_entropy(o, targets).mean() for o in (logits, *auxiliary)]
    total = losses[0] + AUXILIARY_WEIGHT * sum(losses[1:])
    return total, (others, {"error": jnp.mean(logits.argmax(-1) != targets.argmax(-1))})


def log_probabilities(module: nn.Module, variables: Variables, images: jax.Array) -> jax.Array:
    """Of the classes (N, K), for normalised images (N, H, W, C), or (N, 10, H, W, C): the mean over ten crops."""
    if images.ndim == 4:
        return jax.nn.log_softmax(module.apply(variables, images, train=False))
    crops = module.apply(variables, images.reshape(-1, *images.shape[2:]), train=False)
    return jnp.log(jax.nn.softmax(crops).reshape(*images.shape[:2], -1).mean(1))


def evaluation_sums(module: nn.Module, mean: np.ndarray, std: np.ndarray) -> Callable[..., dict[str, jax.Array]]:
    """Sums over a batch of `image`, `label` and `mask`: `loss`, `error`, `top5_error` and the `count` of examples."""
    def metrics_fn(variables, batch):
        images = augment.normalise(batch["image"], mean, std)
        logits = log_probabilities(module, variables, images) if images.ndim == 5 else module.apply(
            variables, images, train=False)
        label = batch["label"][:, None]
        score = jnp.take_along_axis(logits, label, 1)
        # The rank of the right class; a tie counts against it, and so does a score that is no number.
        rank = logits.shape[-1] - 1 - jnp.sum(logits < score, -1)
        per_example = {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
                       "error": rank > 0, "top5_error": rank > 4, "count": jnp.ones_like(rank)}
        return {name: jnp.sum(jnp.where(batch["mask"], value, 0).astype(jnp.float32))
                for name, value in per_example.items()}
    return metrics_fn
