"""Image classification from a config: its fields and their checks, training, populations, scores and reports of runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import data as datasets
from cnnjax import fields, networks
from cnnjax.classifier import Classifier, Images, Probe
from cnnjax.classifier import evaluation_sums as evaluation_sums
from cnnjax.classifier import loss as loss
from cnnjax.data import streaming, transforms
from cnnjax.errors import UserError, first_line
from cnnjax.evaluation.classification import confident_mistakes
from cnnjax.fields import Field, Fields
from cnnjax.networks import create_model, load_run
from cnnjax.training import distributed, loop, population
from cnnjax.training import run as runs
from cnnjax.training import workdir as workdirs
from cnnjax.training.state import HYPERPARAMETERS, split
from cnnjax.training.task import OnEval, Stream

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

def task(config: ConfigDict, dataset: Images | None = None, probe: Probe | None = None) -> Classifier:
    """The task that a config describes, on what `config.data` names or the same already loaded.

    Raises UserError naming the field for what cannot be run: what is wrong is refused before any image is read.
    """
    check(config)
    dataset = load_data(config) if dataset is None else dataset
    module = create_model(config, len(dataset.classes))
    check_images(config, module, dataset)
    weights = None
    if config.init.weights:
        trained = networks.pretrained(config, module)
        if trained.colours is not None:     # the network is given what it was trained on
            mean, std = (np.array(value, np.float32) for value in trained.colours)
            dataset = dataset._replace(mean=mean, std=std)
        shape = dataset.image_shape
        weights, new = networks.matching(lambda count: networks.init_variables(
            module.clone(num_classes=count), shape, jax.random.key(0)), dataset.classes, trained, config.init.weights)
        if distributed.is_writer():
            print(networks.said(config.init.weights, new), file=sys.stderr)
    made = Classifier(config, module, dataset, probe, weights)
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
    for member in members:
        check(member)
    folders = folders or [workdir / "members" / str(i) for i in range(len(members))]
    if not (population.together() if together is None else together):
        said: set[str] = set()
        return runs.mean_result(workdir, [
            train(member, folder, dataset=load_data(member, said) if dataset is None else dataset, probe=probe)
            for member, folder in zip(members, folders, strict=True)])
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


def evaluate(workdir: Path, split: str, step: int | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The row of loss and errors of a run's checkpoint, chosen as in `load_run`, on "train", "validation" or "test".

    `overrides` set fields of the group `data`, since data moves. Raises UserError for a folder that is no run, a step
    or a split that is not there, and images of other classes.
    """
    run, on_split = scored(workdir, split, step, overrides)
    return {"step": run.step, **on_split.evaluate(run.variables, split)[0]}


def report(workdir: Path, split: str = "test", step: int | None = None, overrides: Sequence[str] = (), *,
           answers: bool = True) -> Path:
    """Writes `report.html` of a run: its curves so far and, with `answers`, what its network makes of a split: errors
    by class, confusions, calibration, the most confident mistakes. Raises UserError as `evaluate`."""
    from cnnjax.reporting import classifier as reporting  # Matplotlib is slow to import, and training does without
    from cnnjax.reporting import html
    figures = workdir / "figures"
    figures.mkdir(exist_ok=True)
    parts = reporting.curves_part(workdirs.read_rows(workdir / workdirs.METRICS), figures)
    title = f"{networks.read_run(workdir).model.name}, {workdir.name}"
    if answers:
        run, on_split = scored(workdir, split, step, overrides)
        found: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        pictures: dict[int, np.ndarray] = {}
        for images, probabilities, own in on_split.answers(run.variables, split):
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


def scored(workdir: Path, split: str, step: int | None = None,
           overrides: Sequence[str] = ()) -> tuple[networks.Run, Classifier]:
    """A run and its network on its data set, or on the one that `overrides` name. Raises UserError as `evaluate`."""
    configs.check_of_data(overrides)
    run = load_run(workdir, step)
    run = run._replace(config=configs.with_overrides(run.config, overrides))
    dataset = load_data(run.config)
    if getattr(dataset, split) is None:
        raise UserError(f"--split {split}: the run in {workdir} was made with data.validation = 0 and has none")
    if dataset.classes != run.classes:
        raise UserError(f"{run.config.data.path or run.config.data.source}: has the classes "
                        f"{', '.join(dataset.classes)}; {workdir} was trained on {', '.join(run.classes)}")
    if tuple(dataset.image_shape) != tuple(run.image_shape):
        raise UserError(f"{run.config.data.path or run.config.data.source}: has images of {dataset.image_shape}, rows, "
                        f"columns, channels; {workdir} was trained on {run.image_shape}; see data.image_size")
    runs.check_split(runs.description(workdir), dataset.split, workdir)
    return run, Classifier(run.config, run.module, dataset._replace(mean=run.mean, std=run.std))


def load_data(config: ConfigDict, said: set[str] | None = None) -> Images:
    """The data set of `config.data`: decoded arrays, or with `streamed` files that are read as they come.

    Says in a line each what was chosen and how much is there and not used, but for the lines in `said`, which grows.
    """
    said = set() if said is None else said
    if config.data.streamed and (config.data.image_size < 1 or config.data.validation):
        raise UserError(f"config field 'data.streamed': needs an image_size and no validation, found image_size "
                        f"{config.data.image_size} and validation {config.data.validation}")
    load = streaming.load if config.data.streamed else datasets.load
    dataset = load(config.data, config.seed)
    for line in (*dataset.notes, *([datasets.summary(dataset.left_out)] if dataset.left_out else [])):
        if distributed.is_writer() and line not in said:
            print(line, file=sys.stderr)
        said.add(line)
    return dataset
