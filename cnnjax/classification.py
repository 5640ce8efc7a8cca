"""Image classification: a network, a loss and images put together into a run of the training loop."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import data as datasets
from cnnjax import models
from cnnjax.data import augment, feed, streaming
from cnnjax.errors import UserError, first_line
from cnnjax.training import distributed, loop, population
from cnnjax.training import state as states
from cnnjax.training import step as steps
from cnnjax.training import workdir as workdirs
from cnnjax.training.state import State, stream

Images = datasets.Dataset | streaming.Streamed

AUXILIARY_WEIGHT = 0.3
"""Of the losses of GoogLeNet's two extra heads (Szegedy et al. 2014, section 5)."""

RANGES = {"data.pad": "[0, 4096]", "data.image_size": "[0, 8192]", "data.validation": loop.NATURAL,
          "data.test_share": "(0, 1)",
          "population": "[1, 1000]"}
"""What `config.require` allows, beside the loop's."""

Probe = Callable[[nn.Module, State], dict[str, Any]]
"""A row for metrics.jsonl that is made at each evaluation, such as the gradient norm of each layer."""


def create_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The network of `config.model`. Raises UserError for an unknown name, field or dtype."""
    fields = dict(config.model)
    name = fields.pop("name")
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config field 'dtype': found {config.dtype!r}, expected float32 or bfloat16")
    try:
        known = models.fields(name)
        for field in fields.keys() & known.keys():
            _check_field(field, fields[field], known[field])
        if config.sync_batch_norm and "bn_axis_name" in known:
            fields["bn_axis_name"] = steps.AXIS
        return models.create(name, num_classes, dtype=jnp.dtype(config.dtype), **fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"config field 'model': {error}") from error


def _check_field(field: str, found: Any, default: Any) -> None:
    """Raises UserError for a field of a network that has not its default's type, or that holds a negative number."""
    if default is not None and not configs.is_of(found, type(default)):
        raise UserError(f"config field 'model.{field}': found {found!r}, expected {type(default).__name__} like "
                        f"{default!r}")
    if any(isinstance(n, int | float) and not n >= 0 for n in (found if isinstance(found, tuple) else (found,))):
        raise UserError(f"config field 'model.{field}': found {found!r}, expected nothing negative")


def check(config: ConfigDict) -> None:
    """Raises UserError naming the field for a config that no network could be trained by, before anything is read."""
    loop.check(config)
    configs.require(config, RANGES)
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


def loss_function(module: nn.Module) -> steps.LossFn:
    """Cross-entropy with label smoothing, and the share of wrong answers, for a batch of `image` and `label`."""
    def loss_fn(params, model_state, batch, key, hyper):
        outputs, model_state = module.apply({"params": params, **model_state}, batch["image"], train=True,
                                            mutable=list(model_state), rngs={"dropout": key})
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), hyper["label_smoothing"])
        losses = [optax.softmax_cross_entropy(o, targets).mean() for o in (logits, *auxiliary)]
        loss = losses[0] + AUXILIARY_WEIGHT * sum(losses[1:])
        return loss, (model_state, {"error": jnp.mean(logits.argmax(-1) != batch["label"])})
    return loss_fn


def evaluation_sums(module: nn.Module, mean: np.ndarray, std: np.ndarray) -> Callable[..., dict[str, jax.Array]]:
    """Sums over a batch of `image`, `label` and `mask`: `loss`, `error`, `top5_error` and the `count` of examples."""
    def metrics_fn(params, model_state, batch):
        images = augment.normalise(batch["image"], mean, std)
        if images.ndim == 5:                                        # (N, 10, H, W, C): the mean of ten crops' answers
            crops = module.apply({"params": params, **model_state}, images.reshape(-1, *images.shape[2:]), train=False)
            probabilities = jax.nn.softmax(crops).reshape(*images.shape[:2], -1)
            logits = jnp.log(probabilities.mean(1))
        else:
            logits = module.apply({"params": params, **model_state}, images, train=False)
        label = batch["label"][:, None]
        score = jnp.take_along_axis(logits, label, 1)
        # The rank of the right class; a tie counts against it, and so does a score that is no number.
        rank = logits.shape[-1] - 1 - jnp.sum(logits < score, -1)
        per_example = {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
                       "error": rank > 0, "top5_error": rank > 4, "count": jnp.ones_like(rank)}
        return {name: jnp.sum(jnp.where(batch["mask"], value, 0).astype(jnp.float32))
                for name, value in per_example.items()}
    return metrics_fn


def evaluator(config: ConfigDict, module: nn.Module, dataset: Images,
              splits: tuple[str, ...]) -> Callable[[State], list[dict[str, Any]]]:
    """A function of the state that gives a row of loss and errors for each split; every image counts exactly once."""
    evaluate = steps.evaluation(evaluation_sums(module, dataset.mean, dataset.std))

    def read(split: str) -> Iterator[Any]:
        if config.data.streamed:
            batches = streaming.evaluation_batches(getattr(dataset, split), config.batch_size, config.data.image_size,
                                                   ten_crop=config.data.ten_crop, on_error=config.data.on_error)
        else:
            batches = feed.evaluation_batches(getattr(dataset, split), config.batch_size)
        for batch in batches:
            yield steps.place(steps.local_share(batch))

    kept = {split: list(read(split)) for split in splits if not config.data.streamed and
            feed.fits(getattr(dataset, split))}

    def rows(state: State) -> list[dict[str, Any]]:
        params = state.params if state.ema is None else state.ema
        result = []
        for split in splits:
            sums = {k: float(v) for k, v in evaluate(params, state.model_state, kept.get(split) or read(split)).items()}
            count = sums.pop("count")
            if len(dataset.classes) <= 10:
                del sums["top5_error"]
            result.append({"split": split, **{k: v / count for k, v in sums.items()}, "examples": int(count)})
        return result
    return rows


def take_function(config: ConfigDict, dataset: Images, resident: bool) -> steps.TakeFn:
    """A device's share of the batch of a step, shuffled by epoch, cropped, flipped and normalised.

    `resident`: its data is the whole training split; else the share itself, as `feed.stream` gives it.
    """
    def take(data: dict[str, jax.Array], state: State) -> dict[str, jax.Array]:
        shard, shards = lax.axis_index(steps.AXIS), lax.axis_size(steps.AXIS)
        start = shard * (config.batch_size // shards)
        batch = data
        if resident:
            batch = augment.take(data, stream(state.seed, "order"), state.step, config.batch_size,
                                 shard=shard, shards=shards)
        crop_key, flip_key = jax.random.split(jax.random.fold_in(stream(state.seed, "augment"), state.step))
        images = augment.normalise(batch["image"], dataset.mean, dataset.std)
        if config.data.pad:
            images = augment.pad_crop(images, crop_key, config.data.pad, first=start)
        if config.data.flip and not config.data.streamed:       # else the workers flipped it
            images = augment.flip(images, flip_key, first=start)
        return {"image": images, "label": batch["label"]}
    return take


def training_data(config: ConfigDict, dataset: Images) -> dict[str, Any]:
    """The arguments of `loop.fit` that bring it the training split: whole on every device if it fits, else streamed."""
    key = stream(config.seed, "order")
    share = {"shard": jax.process_index(), "shards": jax.process_count()}
    if config.data.streamed:
        return {"take": take_function(config, dataset, resident=False),
                "stream": lambda step: streaming.training_batches(
                    dataset.train, key, config.batch_size, config.data.image_size, step,
                    on_error=config.data.on_error, flip=config.data.flip, **share)}
    if feed.fits(dataset.train):
        images = {"image": np.asarray(dataset.train.images), "label": dataset.train.labels}
        return {"take": take_function(config, dataset, resident=True), "resident": images}
    return {"take": take_function(config, dataset, resident=False),
            "stream": lambda step: feed.stream(dataset.train, key, config.batch_size, step, **share)}


def train(config: ConfigDict, workdir: Path, *, dataset: Images | None = None,
          probe: Probe | None = None, watch: loop.Watch | None = None) -> dict[str, Any]:
    """Trains and tests `config.model` in `workdir`, going on from what is there, and returns what `result.json` then
    holds.

    `dataset` is what `config.data` names, for a caller who has loaded it already; `watch` is told of each evaluation.
    """
    if config.population != 1:
        return train_population(config, workdir, dataset=dataset, probe=probe)
    check(config)                           # what is wrong is refused before any image is read
    dataset = load_data(config) if dataset is None else dataset
    module = create_model(config, len(dataset.classes))
    check_images(config, module, dataset)
    with workdirs.claim(workdir, config):
        splits = ("test",) if dataset.validation is None else ("validation", "test")
        scores = evaluator(config, module, dataset, splits)

        def rows(state: State) -> list[dict[str, Any]]:
            return scores(state) + ([] if probe is None else [probe(module, state)])

        state = loop.fit(
            config, workdir, init=init_function(module, dataset), loss_fn=loss_function(module),
            evaluate=rows, watch=watch, name=workdir.name, **training_data(config, dataset))
        return _summarise(config, workdir, state)


def train_population(config: ConfigDict, workdir: Path, folders: Sequence[Path] = (), *, dataset: Images | None = None,
                     probe: Probe | None = None, together: bool | None = None) -> dict[str, Any]:
    """Trains the `config.population` members that `config.members` describes, and returns the means of their results.

    Each member becomes an ordinary run in a folder of its own, by default in `workdir/members`. Where `together`, by
    default on accelerators, they are one program whose checkpoints are in `workdir` until they are split at the end.
    """
    configs.require(config, RANGES)
    members = population.members(config)
    folders = folders or [workdir / "members" / str(i) for i in range(len(members))]
    if not (population.together() if together is None else together):
        return _mean_result(workdir, [train(member, folder, dataset=dataset, probe=probe)
                                      for member, folder in zip(members, folders, strict=True)])
    for member in members:
        check(member)
    dataset = load_data(config) if dataset is None else dataset
    module = create_model(config, len(dataset.classes))
    check_images(config, module, dataset)
    data = training_data(config, dataset)
    if "stream" in data and len({member.seed for member in members}) > 1:
        raise UserError("config field 'population': its images do not fit on a device, and one stream serves no two "
                        "seeds; give all members one seed by members.seed")
    with workdirs.claim(workdir, config):
        splits = ("test",) if dataset.validation is None else ("validation", "test")
        scores = evaluator(config, module, dataset, splits)

        def rows(state: State) -> list[dict[str, Any]]:
            states_ = [population.member(state, i) for i in range(len(members))]
            each = [scores(own) + ([] if probe is None else [probe(module, own)]) for own in states_]
            return [population.merged(several) for several in zip(*each, strict=True)]

        state = loop.fit(config, workdir, init=init_function(module, dataset), loss_fn=loss_function(module),
                         evaluate=rows, members=members, name=workdir.name, **data)
        results = [_split(workdir, member, folder, population.member(state, i), i)
                   for i, (member, folder) in enumerate(zip(members, folders, strict=True))]
        return _mean_result(workdir, results)


def _split(workdir: Path, config: ConfigDict, folder: Path, state: State, i: int) -> dict[str, Any]:
    """Makes member `i` of the finished population in `workdir` a run of its own in `folder`."""
    with workdirs.claim(folder, config):
        metrics = []
        for row in workdirs.read_rows(workdir / workdirs.METRICS):
            own = population.row_of(row, i)
            if "learning_rate" in own:
                own["learning_rate"] = states.rate(config, row["step"] - 1)
            metrics.append(own)
        if distributed.is_writer():
            workdirs.write_rows(folder / workdirs.METRICS, metrics)
            workdirs.write_rows(folder / workdirs.TIMING, workdirs.read_rows(workdir / workdirs.TIMING))
        with contextlib.closing(loop.open_checkpoints(config, folder)) as checkpoints:
            scores = {f"{row['split']}_error": row["error"] for row in metrics
                      if row["step"] == config.steps and "error" in row}
            checkpoints.save(config.steps, state, {"seconds": 0.0, "window": []}, scores)
            checkpoints.wait()
        return _summarise(config, folder, state)


def _mean_result(workdir: Path, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means of the members' results, and all of them under "members"; written to `result.json`."""
    means = {key: float(np.mean([r[key] for r in results])) if isinstance(value, float) else value
             for key, value in results[0].items()}
    if distributed.is_writer():
        workdir.mkdir(parents=True, exist_ok=True)
        workdirs.write(workdir / "result.json", workdirs.to_json({**means, "members": results}, indent=2) + "\n")
    return {**means, "members": results}


def evaluate(workdir: Path, split: str, step: int | None = None) -> dict[str, Any]:
    """The row of loss and errors of a run's checkpoint on "train", "validation" or "test", without augmentation.

    The checkpoint is that of `step`, else the best on the validation split where there is one, else the last.
    Raises UserError for a folder that is no run, a step or a split that is not there.
    """
    config = read_run(workdir)
    dataset = load_data(config)
    if getattr(dataset, split) is None:
        raise UserError(f"--split {split}: the run in {workdir} was made with data.validation = 0 and has none")
    module, state, step = restore(workdir, config, dataset, step)
    return {"step": step, **evaluator(config, module, dataset, (split,))(state)[0]}


def read_run(workdir: Path) -> ConfigDict:
    """The config of a run of one network. Raises UserError for a workdir that holds none, or a study or a ladder."""
    config = workdirs.read_config(workdir)
    found = configs.flatten(config)
    for field in ("model.name", "data.source", "steps", "batch_size", "optimizer.learning_rate"):
        if field not in found:
            raise UserError(f"{workdir} is not a run of one network: its config has no {field!r}; the runs of a study "
                            "are in its folder cells")
    return config


def restore(workdir: Path, config: ConfigDict, dataset: Images,
            step: int | None = None) -> tuple[nn.Module, State, int]:
    """The network and the state of a run's checkpoint, chosen as in `evaluate`, and its step."""
    module = create_model(config, len(dataset.classes))
    like = jax.eval_shape(lambda: states.create(config, init_function(module, dataset)))
    with contextlib.closing(loop.open_checkpoints(config, workdir)) as checkpoints:
        if step is not None and step not in checkpoints.steps():
            raise UserError(f"--step {step}: {workdir} has checkpoints of steps {checkpoints.steps()}")
        restored = checkpoints.restore(like, step if step is not None else checkpoints.best_step())
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    step, state, _ = restored
    return module, state, step


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


def init_function(module: nn.Module, dataset: Images) -> Callable[[jax.Array], tuple[Any, Any]]:
    """`init(key) -> (params, other collections)` of a network for the images of a data set."""
    sample = jnp.zeros((1, *dataset.image_shape))

    def init(key: jax.Array) -> tuple[Any, Any]:
        variables = dict(module.init({"params": key, "dropout": key}, sample, train=True))
        return variables.pop("params"), variables
    return init


def _summarise(config: ConfigDict, workdir: Path, state: State) -> dict[str, Any]:
    rows = workdirs.read_rows(workdir / workdirs.METRICS)
    timing = workdirs.read_rows(workdir / workdirs.TIMING)
    late = [r["error"] for r in rows if r["split"] == "train" and r["step"] > 0.95 * config.steps]
    result: dict[str, Any] = {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)), "steps": config.steps,
        # As in the paper's curves: over augmented batches, here those of the last twentieth of the steps.
        "train_error": float(np.mean(late)) if late else None,
        "images_per_second": float(np.median([r["images_per_second"] for r in timing])),
        "seconds": timing[-1]["seconds"],
    }
    for row in rows:
        if row["step"] == config.steps and row["split"] in ("validation", "test"):
            result |= {f"{row['split']}_error": row["error"], f"{row['split']}_images": row["examples"]}
    if distributed.is_writer():
        workdirs.write(workdir / "result.json", workdirs.to_json(result, indent=2) + "\n")
    return result
