"""A classifier's network: made as a config says, read from a run, or begun from weights that were trained before."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from cnnjax import config as configs
from cnnjax import interop, models, trained
from cnnjax.config import nearest, user_path
from cnnjax.errors import UserError
from cnnjax.fields import Field, Fields
from cnnjax.models.googlenet import GoogLeNet
from cnnjax.training import run as runs
from cnnjax.training import step as steps
from cnnjax.training import workdir as workdirs
from cnnjax.training.task import Variables

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of its pixels in [0, 1], of red, green and blue."""

INIT: Fields = {
    "weights": Field("", "to begin from: a file of PyTorch or safetensors, a workdir, or cifar10 of the package"),
    "frozen": Field((), "beginnings of the paths of parameters that are not trained, such as stage1"),
    "freeze_norm": Field(False, "batch norm keeps the statistics that it began with"),
}
"""The group `init` of a config."""


def create_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The network of `config.model`. Raises UserError for an unknown name, field or dtype."""
    fields = dict(config.model)
    name = fields.pop("name")
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
    items = found if isinstance(found, tuple) else (found,)
    if isinstance(default, tuple) and default and not all(configs.is_of(item, type(default[0])) for item in items):
        raise UserError(f"config field 'model.{field}': found {found!r}, expected items of type "
                        f"{type(default[0]).__name__}")
    if any(isinstance(n, int | float) and not n >= 0 for n in items):
        raise UserError(f"config field 'model.{field}': found {found!r}, expected nothing negative")


def init_variables(module: nn.Module, image_shape: Sequence[int], key: jax.Array) -> Variables:
    """A network's variables for images (H, W, C), drawn from a key."""
    def init(key: jax.Array) -> Variables:
        return dict(module.init({"params": key, "dropout": key}, jnp.zeros((1, *image_shape)), train=True))
    return jax.jit(init)(key)


class Run(NamedTuple):
    """A run's config, its network at a step, and what it says of its images in run.json. Made without its images."""

    config: ConfigDict
    module: nn.Module
    variables: Variables
    step: int
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray


def load_run(workdir: Path, step: int | None = None) -> Run:
    """The run of one classifier in `workdir`, with the variables of the checkpoint of `step`, else of the best on the
    validation split where there is one, else of the last.

    Raises UserError for a folder that is no such run, and for a step that is not there.
    """
    config, said = read_run(workdir), runs.description(workdir)
    classes, image_shape = tuple(said["classes"]), tuple(said["image_shape"])
    module = create_model(config, len(classes))
    variables, step = runs.restore(workdir, config, partial(init_variables, module, image_shape), config.init.frozen,
                                   step)
    return Run(config, module, variables, step, classes, image_shape, *(
        np.array(said[name], np.float32) for name in ("mean", "std")))


def read_run(workdir: Path) -> ConfigDict:
    """The config of a run of one network. Raises UserError for a workdir that holds none, or a study or a detector."""
    if (workdir / "detector.json").exists():
        raise UserError(f"{workdir} holds a detector, not a classifier; its images go to cnnjax detect")
    config = workdirs.read_config(workdir)
    found = configs.flatten(config)
    for field in ("model.name", "data.source", "steps", "batch_size", "optimizer.learning_rate"):
        if field not in found:
            raise UserError(f"{workdir} is not a run of one network: its config has no {field!r}; the runs of a study "
                            "are in its folder cells")
    return config



# Weights to begin from

Init = Callable[[int], Any]
"""`init(count)`: the variables of a network for so many classes."""


class Pretrained(NamedTuple):
    """Weights that were trained before. What is not known is None."""

    variables: Variables
    classes: tuple[str, ...] | None
    colours: tuple[Any, Any] | None     # mean and deviation of their pixels, in units where 255 is 1


def pretrained(config: ConfigDict, module: nn.Module) -> Pretrained:
    """The weights that `config.init.weights` names, for the network `module` of `config.model`.

    Those of PyTorch come with ImageNet's mean and deviation (0.5 for GoogLeNet), but for CIFAR networks, whose
    repositories differ. Raises UserError for weights of another network, and for a field of the network that they were
    not trained with, such as the stride of its bottlenecks, which would fit all the same.
    """
    source, name = config.init.weights, config.model.name
    path = user_path(source)
    if path.is_dir():
        run = load_run(path)
        _same_network(module, run.module, run.config.model.name, source, name)
        return Pretrained(run.variables, run.classes, (run.mean, run.std))
    if not path.exists() and source in trained.DATA_SETS:
        of, variables, card = trained.load(name)
        _same_network(module, of, name, source, name)
        return Pretrained(variables, tuple(card["classes"]), (card["mean"], card["std"]))
    if not path.exists():
        raise UserError(f"config field 'init.weights': there is no file or workdir {path}, and no weights of that name "
                        f"come with the package ({', '.join(trained.DATA_SETS)})")
    of, variables = interop.network_from_torch(name, path)
    _same_network(module, of, name, source, name)
    return Pretrained(variables, None, colours(of))


def colours(module: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of the pixels that PyTorch's weights of a network were trained on; None where that differs
    between repositories, as for the CIFAR networks."""
    if getattr(module, "stem", None) == "cifar":
        return None
    return ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) if isinstance(module, GoogLeNet) else IMAGENET


FREE = ("num_classes", "dtype", "bn_axis_name", "dropout", "zero_init", "parent", "name")
"""Fields in which a network may differ from the one that its weights were trained in."""


def _same_network(ours: nn.Module, theirs: nn.Module, name: str, source: str, wanted: str) -> None:
    if type(ours) is not type(theirs):
        raise UserError(f"config field 'init.weights': {source} is of {name}, not of {wanted}")
    for field in ours.__dataclass_fields__:
        a, b = getattr(ours, field), getattr(theirs, field)
        if field not in FREE and a != b:
            raise UserError(f"config field 'model.{field}': found {a!r}, but the weights of {source} are of a network "
                            f"with {b!r}; set --config.model.{field}={b}")


def matching(init: Init, classes: Sequence[str], found: Pretrained, source: str) -> tuple[Variables, list[str]]:
    """Those of the weights `found` that a network for `classes` begins from, and the paths of what it makes new: of the
    layers whose shape depends on the number of classes, where the classes are others or more or fewer.

    `init(count)` gives the variables of the network for so many classes; it is traced, not run. Raises UserError naming
    a path that `found` lacks, has beside, or has in another shape.
    """
    ours, one_more = (flatten_dict(dict(jax.eval_shape(partial(init, len(classes) + extra))), sep="/")
                      for extra in (0, 1))
    theirs = flatten_dict(dict(found.variables), sep="/")
    others = found.classes is not None and found.classes != tuple(classes)
    new = [path for path in ours if path in theirs and ours[path].shape != one_more[path].shape and
           (others or np.shape(theirs[path]) != ours[path].shape)]
    for path, leaf in ours.items():
        if path not in theirs:
            raise UserError(f"config field 'init.weights': {source} lacks {path}{nearest(path, theirs)}")
        if np.shape(theirs[path]) != leaf.shape and path not in new:
            raise UserError(f"config field 'init.weights': {path} has shape {np.shape(theirs[path])} in {source}, this "
                            f"network has {leaf.shape}")
    for path in theirs:
        if path not in ours:
            raise UserError(f"config field 'init.weights': {source} has {path}, which this network lacks"
                            f"{nearest(path, ours)}")
    return unflatten_dict({path: leaf for path, leaf in theirs.items() if path not in new}, sep="/"), new


def said(source: str, new: Sequence[str]) -> str:
    """What is told at the start of a training that begins from weights, `new` the paths of what is made new."""
    return f"begins from {source}; new: {', '.join(new) or 'nothing'}"


def graft(variables: Variables, found: Variables) -> Variables:
    """`variables` with the leaves that `found` has in their place."""
    ours = flatten_dict(dict(variables), sep="/")
    taken = {path: jnp.asarray(leaf, ours[path].dtype) for path, leaf in flatten_dict(dict(found), sep="/").items()}
    return unflatten_dict(ours | taken, sep="/")
