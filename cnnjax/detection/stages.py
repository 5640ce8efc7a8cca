"""A detector's training as a list of stages: each starts from the results of the earlier ones and saves its own.

Most detectors have one stage. R-CNN and SPP-net fit SVMs after fine-tuning, Faster R-CNN's alternating training has
four, and all may begin with a backbone that was trained before.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnnjax.data.box_transforms import chain
from cnnjax.data.detection_sets import DetectionSet
from cnnjax.data.minibatches import Batches
from cnnjax.detection import saved
from cnnjax.detection.detector import Sizes, Variables
from cnnjax.models.layers import frozen_norm, synchronised_norm
from cnnjax.training import loop
from cnnjax.training import state as states
from cnnjax.training.task import OnEval, Stream

Loss = Callable[..., tuple[jax.Array, tuple[Any, Any]]]
"""As `Detector.loss`."""


@dataclass(frozen=True)
class Training:
    """A training by the loop, a `cnnjax.training.task.Task`: from which variables, by which loss, on which minibatches.
    """

    variables: Variables
    loss: Loss
    stream: Callable[[int], Iterator[Any]]      # minibatches from a step on
    frozen: tuple[str, ...]                     # beginnings of the paths of parameters that are not trained
    title: str                                  # for the progress bar
    seed: int
    score: Callable[[Variables], dict[str, Any]] | None = None
    """Numbers on the validation images, such as "loss", of which "map" says which checkpoint is the best."""

    @property
    def best(self) -> tuple[str, str] | None:
        return None if self.score is None else ("validation_map", "max")

    @property
    def splits(self) -> tuple[str, ...]:
        return () if self.score is None else ("validation",)

    def init(self, key: jax.Array) -> Variables:
        return dict(self.variables)

    def data(self) -> Stream:
        def part(batch: Any, shard: int, shards: int) -> Any:
            count = len(jax.tree.leaves(batch)[0]) // shards
            return jax.tree.map(lambda x: x[shard * count:(shard + 1) * count], batch)
        return Stream(lambda step, shard, shards: (part(batch, shard, shards) for batch in self.stream(step)))

    def get_batch(self, data: Any, key: jax.Array, step: jax.Array, shard: jax.Array, shards: int) -> Any:
        return data

    def evaluate(self, variables: Any, split: str) -> list[Any]:
        assert self.score is not None
        return [{"split": split, **self.score(jax.device_get(dict(variables)))}]

    def describe(self) -> dict[str, Any]:
        return {}


Stage = tuple[str, Callable[[Mapping[str, Variables], Path], Training | Variables]]
"""Its name and `build(done, folder)`: what is to be trained, or variables made otherwise, given those of the stages
done. In `folder` it may keep what it needs not make again."""


@dataclass(frozen=True)
class Setup:
    """What the stages of a detector are built from."""

    images: DetectionSet
    training: ConfigDict        # steps, batch size, optimizer, schedule, ...
    seed: int
    flip: bool
    jitter: float               # the smallest scale of an image, at random; 1: none
    variables: Variables        # before the first step
    proposals: Callable[[], list[np.ndarray]]       # of each image, (P, 4) in its pixels
    score: Callable[[Any, Variables], dict[str, Any]] | None = None
    """`score(detector, variables)` on the validation images, where there are any."""
    transforms: Sequence[Mapping[str, Any]] = ()    # of `cnnjax.data.box_transforms`, of images without proposals

    def whole(self, detector: Any, stream: Callable[[int], Iterator[Any]]) -> Training:
        """The training of all of a detector at once, so that it can be scored on the way."""
        return Training(self.variables, detector.loss, stream, tuple(getattr(detector, "frozen", ())), detector.title,
                        self.seed, None if self.score is None else partial(self.score, detector))

    def batches(self, canvases: Sizes, proposals: Sequence[np.ndarray] | None = None, stretch: bool = False) -> Batches:
        """Minibatches of images, with proposals where they are given."""
        return Batches(self.images, canvases, self.training.batch_size, self.seed, flip=self.flip, jitter=self.jitter,
                       proposals=proposals, transform=chain(self.transforms) if self.transforms else None,
                       stretch=stretch, steps_per_canvas=self.training.steps_per_dispatch)


def stages_of(detector: Any, setup: Setup) -> list[Stage]:
    """The stages of a detector: its own, or one training by its loss."""
    own = getattr(detector, "stages", None)
    if own is not None:
        return own(setup)
    proposals = setup.proposals() if detector.needs_proposals else None
    stretch = getattr(detector, "stretch", False)
    return [("train", lambda done, folder: setup.whole(
        detector, setup.batches(detector.canvases, proposals, stretch).stream))]


def run(stages: Sequence[Stage], training: ConfigDict, folder: Path, on_eval: OnEval | None = None) -> Variables:
    """What the last stage makes. The earlier ones' results are kept in `folder`, and not made again.

    A lone stage trains in `folder` itself, others each in a folder of their name there.
    """
    done: dict[str, Variables] = {}
    for number, (name, build) in enumerate(stages, 1):
        own = folder / name if len(stages) > 1 else folder
        file = own / "variables.npz"
        if file.exists():
            done[name] = saved.read_arrays(file)
            continue
        built = build(done, folder)
        if isinstance(built, Training):
            built = fit(as_config_says(built, training), training, own, on_eval)
        done[name] = built
        if number < len(stages):
            own.mkdir(parents=True, exist_ok=True)
            saved.write_arrays(file, done[name])
    return done[stages[-1][0]]


def as_config_says(training: Training, config: ConfigDict) -> Training:
    """A training with what the fields `init.frozen`, `init.freeze_norm` and `sync_batch_norm` of `config` say, where it
    has them."""
    init, synchronised = config.get("init"), config.get("sync_batch_norm")

    def loss(variables: Variables, batch: Any, key: jax.Array, hyper: Any, axis_name: str | None = None,
             ) -> tuple[jax.Array, tuple[Any, Any]]:
        with contextlib.ExitStack() as stack:
            if synchronised and axis_name is not None:
                stack.enter_context(synchronised_norm(axis_name))
            if init is not None and init.freeze_norm:
                stack.enter_context(frozen_norm())
            return training.loss(variables, batch, key, hyper, axis_name)
    frozen = tuple(init.frozen) if init is not None else ()
    return dataclasses.replace(training, loss=loss, frozen=(*training.frozen, *frozen))


def fit(training: Training, config: ConfigDict, folder: Path, on_eval: OnEval | None = None) -> Variables:
    """The variables after the steps of `config`, or at the evaluation of the best score on validation images, resumed
    from `folder` if it was begun there; with `optimizer.ema` their moving average."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = training.seed
    folder.mkdir(parents=True, exist_ok=True)
    state = loop.fit(config, folder, training, on_eval=on_eval, name=training.title)
    if training.best is not None:
        with contextlib.closing(loop.open_checkpoints(config, folder, training.best)) as checkpoints:
            restored = checkpoints.restore(state, checkpoints.best_step())
            assert restored is not None
            state = restored[1]
    return dict(jax.device_get(states.variables(state)))
