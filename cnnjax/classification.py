"""Image classification as a task: a network, a loss and images, which `cnnjax.training.run` trains."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import data as datasets
from cnnjax import fields, networks
from cnnjax.data import augment, batching, streaming, transforms
from cnnjax.errors import UserError, first_line
from cnnjax.evaluation.classification import confident_mistakes
from cnnjax.fields import Field, Fields
from cnnjax.models.layers import frozen_norm
from cnnjax.networks import create_model, load_run
from cnnjax.reporting import classifier as reporting
from cnnjax.reporting import html
from cnnjax.training import distributed, loop, population
from cnnjax.training import run as runs
from cnnjax.training import step as steps
from cnnjax.training import workdir as workdirs
from cnnjax.training.state import HYPERPARAMETERS, split, stream
from cnnjax.training.task import Loss, OnDevice, OnEval, Row, Stream, Variables

Images = datasets.Dataset | streaming.Streamed

AUXILIARY_WEIGHT = 0.3
"""Of the losses of GoogLeNet's two extra heads (Szegedy et al. 2014, section 5)."""

FIELDS: Fields = {
    "model": {
        "name": Field("resnet20", "a network of `cnnjax summary`; its fields may be set beside, such as model.width"),
        fields.ANY: Field(None, "fields of the network")},
    "dtype": Field("float32", "of activations", allowed=("float32", "bfloat16")),
    "deterministic": Field(False, "the same bits on a GPU too, where sums are faster in any order"),
    "sync_batch_norm": Field(False, "batch statistics over all devices; else of each device, as the paper"),
    "data": datasets.FIELDS,
    "population": Field(1, "networks trained at once, of seeds from `seed` on, or as `members` says", "[1, 1000]"),
    "members": {name: Field((), f"a {name.replace('_', ' ')} for each of them, or none")
                for name in ("seed", *HYPERPARAMETERS)},
    "transforms": Field((), "of training images, in this order, such as ({'name': 'cutout', 'size': 16},)"),
    "init": networks.INIT,
    **loop.FIELDS,
}
"""The fields of a classifier's config: the recipe of He et al. 2015, section 4.2, for CIFAR-10."""

Probe = Callable[[nn.Module, Variables], Row]
"""A row for metrics.jsonl that is made at each evaluation, such as the gradient norm of each layer."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that is trained on the images of a data set; see `cnnjax.training.task.Task`."""

    config: ConfigDict
    module: nn.Module
    dataset: Images
    probe: Probe | None = None
    begin: Variables | None = None      # all variables, or all but those of the last layer, to begin from

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
        return variables if self.begin is None else networks.graft(variables, self.begin)

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
            images, label = change(transforms.PIXELS, images / 255, label)
            images = images * 255
        images = augment.normalise(images, self.dataset.mean, self.dataset.std)
        if self.config.data.pad:
            images = augment.pad_crop(images, crop_key, self.config.data.pad, first=first)
        if self.config.data.flip and not self.config.data.streamed:     # else the workers flipped it
            images = augment.flip(images, flip_key, first=first)
        images, label = change(transforms.NORMALISED | transforms.BATCH, images, label)
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


def task(config: ConfigDict, dataset: Images | None = None, probe: Probe | None = None) -> Classifier:
    """The task that a config describes, on what `config.data` names or the same already loaded.

    Raises UserError naming the field for what cannot be run: what is wrong is refused before any image is read.
    """
    check(config)
    dataset = load_data(config) if dataset is None else dataset
    module = create_model(config, len(dataset.classes))
    check_images(config, module, dataset)
    begin = None
    if config.init.weights:
        trained = networks.pretrained(config, module)
        if trained.colours is not None:     # the network is given what it was trained on
            mean, std = (np.array(value, np.float32) for value in trained.colours)
            dataset = dataset._replace(mean=mean, std=std)
        shape = dataset.image_shape
        begin, new = networks.matching(lambda count: networks.init_variables(
            module.clone(num_classes=count), shape, jax.random.key(0)), dataset.classes, trained, config.init.weights)
        if distributed.is_writer():
            print(networks.said(config.init.weights, new), file=sys.stderr)
    made = Classifier(config, module, dataset, probe, begin)
    try:
        split(jax.eval_shape(made.init, jax.random.key(0))["params"], made.frozen)
    except UserError as error:
        raise UserError(f"config field 'init.frozen': {error}") from None
    return made


def train(config: ConfigDict, workdir: Path, *, dataset: Images | None = None, probe: Probe | None = None,
          on_eval: OnEval | None = None) -> dict[str, Any]:
    """Trains and tests `config.model` in `workdir`, going on from what is there, and returns what `result.json` then
    holds. `dataset` as in `task`, `on_eval` as in `cnnjax.training.task`."""
    if config.population != 1:
        return train_population(config, workdir, dataset=dataset, probe=probe)
    return runs.run(config, workdir, task(config, dataset, probe), on_eval=on_eval)


def train_population(config: ConfigDict, workdir: Path, folders: Sequence[Path] = (), *, dataset: Images | None = None,
                     probe: Probe | None = None, together: bool | None = None) -> dict[str, Any]:
    """Trains the `config.population` members that `config.members` describes, and returns the means of their results.

    Each member becomes an ordinary run in a folder of its own, by default in `workdir/members`. Where `together`, by
    default on accelerators, they are one program whose checkpoints are in `workdir` until they are split at the end.
    """
    fields.check_values(config, FIELDS)
    members = population.members(config)
    folders = folders or [workdir / "members" / str(i) for i in range(len(members))]
    if not (population.together() if together is None else together):
        return runs.mean_result(workdir, [train(member, folder, dataset=dataset, probe=probe)
                                          for member, folder in zip(members, folders, strict=True)])
    for member in members:
        check(member)
    one = task(members[0], dataset, probe)
    if isinstance(one.data(), Stream) and len({member.seed for member in members}) > 1:
        raise UserError("config field 'population': its images do not fit on a device, and one stream serves no two "
                        "seeds; give all members one seed by members.seed")
    return runs.run_population(config, members, workdir, folders, one)


def check(config: ConfigDict) -> None:
    """Raises UserError naming the field for a config that no network could be trained by, before anything is read."""
    loop.check(config)
    fields.check_values(config, FIELDS)
    transforms.check(config.transforms, "transforms")
    create_model(config, 10)
    if config.data.ten_crop and not config.data.streamed:
        raise UserError("config field 'data.ten_crop': only streamed images are cropped; set data.streamed")
    several = [name for name, values in config.members.items() if values]
    if config.population == 1 and several:
        raise UserError(f"config field 'members.{several[0]}' is set, but population is 1: set it to the number of "
                        "values")


def check_images(config: ConfigDict, module: nn.Module, dataset: Images) -> None:
    """Raises UserError naming the field when the network cannot take these images: it is traced, not compiled."""
    height, width, channels = dataset.image_shape
    if config.data.pad > min(height, width):
        raise UserError(f"config field 'data.pad': found {config.data.pad}, expected at most the images' side, "
                        f"{min(height, width)}")
    images = f"images of {width}x{height} with {channels} channel{'s' * (channels > 1)}"
    try:
        variables = jax.eval_shape(lambda: module.init(
            {"params": jax.random.key(0), "dropout": jax.random.key(0)}, jnp.zeros((1, *dataset.image_shape)),
            capture_intermediates=True))
    except Exception as error:          # whatever a layer raises for sizes that it cannot have
        raise UserError(f"config field 'model': {config.model.name} as set cannot take {images} "
                        f"({type(error).__name__}: {first_line(error)[:200]})") from None
    empty = [leaf.shape for leaf in jax.tree.leaves(variables) if not leaf.size]
    if empty:
        raise UserError(f"config field 'model': {config.model.name} as set has nothing left of {images} (a layer of "
                        f"shape {empty[0]}); set data.image_size or the network's fields")


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


def evaluate(workdir: Path, split: str, step: int | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The row of loss and errors of a run's checkpoint, chosen as in `load_run`, on "train", "validation" or "test".

    `overrides` set fields of the group `data`, since data moves. Raises UserError for a folder that is no run, a step
    or a split that is not there, and images of other classes.
    """
    run, scored = _scored(workdir, split, step, overrides)
    return {"step": run.step, **scored.evaluate(run.variables, split)[0]}


def report(workdir: Path, split: str = "test", step: int | None = None, overrides: Sequence[str] = (), *,
           answers: bool = True) -> Path:
    """Writes `report.html` of a run: its curves so far and, with `answers`, what its network makes of a split: errors
    by class, confusions, calibration, the surest mistakes. Raises UserError as `evaluate`."""
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    parts = reporting.curves_part(workdirs.read_rows(workdir / workdirs.METRICS), figures)
    title = f"{networks.read_run(workdir).model.name}, {workdir.name}"
    if answers:
        run, scored = _scored(workdir, split, step, overrides)
        found: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        pictures: dict[int, np.ndarray] = {}
        for images, probabilities, own in scored.answers(run.variables, split):
            before = sum(len(part) for part in labels)
            pictures |= {before + int(i): images[i] for i in
                         confident_mistakes(probabilities, own, reporting.MISTAKES)}
            found.append(probabilities)
            labels.append(own)
        parts = [*reporting.answers_part(np.concatenate(found), np.concatenate(labels), run.classes, split, pictures,
                                         figures), html.heading("Training"), *parts]
        title += f", step {run.step}"
    parts += [html.heading("Config"), html.code((workdir / "config.json").read_text())]
    workdirs.write(workdir / "report.html", html.page(title, parts))
    return workdir / "report.html"


def _scored(workdir: Path, split: str, step: int | None, overrides: Sequence[str]) -> tuple[networks.Run, Classifier]:
    """A run and its network on its data set, or on the one that `overrides` name."""
    configs.check_of_data(overrides)
    run = load_run(workdir, step)
    run = run._replace(config=configs.with_overrides(run.config, overrides))
    dataset = load_data(run.config)
    if getattr(dataset, split) is None:
        raise UserError(f"--split {split}: the run in {workdir} was made with data.validation = 0 and has none")
    if dataset.classes != run.classes:
        raise UserError(f"{run.config.data.path or run.config.data.source}: has the classes "
                        f"{', '.join(dataset.classes)}; {workdir} was trained on {', '.join(run.classes)}")
    runs.check_split(runs.description(workdir), dataset.split, workdir)
    return run, Classifier(run.config, run.module, dataset._replace(mean=run.mean, std=run.std))


def load_data(config: ConfigDict) -> Images:
    """The data set of `config.data`: decoded arrays, or with `streamed` files that are read as they come.

    Says in a line each what was chosen and how much is there and not used.
    """
    if config.data.streamed and (config.data.image_size < 1 or config.data.validation):
        raise UserError(f"config field 'data.streamed': needs an image_size and no validation, found image_size "
                        f"{config.data.image_size} and validation {config.data.validation}")
    load = streaming.load if config.data.streamed else datasets.load
    dataset = load(config.data, config.seed)
    for line in (*dataset.notes, *([datasets.summary(dataset.left_out)] if dataset.left_out else [])):
        if distributed.is_writer():
            print(line, file=sys.stderr)
    return dataset
