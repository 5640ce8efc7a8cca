"""The protocol of a task: its variables, training data, loss and evaluation."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Variables = Mapping[str, Any]
"""A network's collections by name: "params" and, where it has them, others such as "batch_stats"."""

Row = dict[str, Any]
"""A row of metrics.jsonl: its "split" and numbers by name."""

Loss = tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]
"""`(loss, (the other collections, metrics))`."""

OnEval = Callable[[int, dict[str, float]], None]
"""`on_eval(step, scores)` is told the numbers of each evaluation, such as "test_error", once its rows are written. What
it raises ends the run, which may be taken up again."""


class OnDevice(NamedTuple):
    """Training data that every device keeps whole."""

    arrays: Any


class Stream(NamedTuple):
    """Training data that comes batch by batch."""

    batches: Callable[[int, int, int], Iterator[Any]]
    """`batches(step, shard, shards)`: the `shard`-th of `shards` equal parts of the batch of each step from `step`
    on, a pure function of the step."""


class Task(Protocol):
    """A network, its data and its loss, as `cnnjax.training.loop.fit` trains them. All of it is pure but `data`, which
    reads files."""

    @property
    def best(self) -> tuple[str, str] | None:
        """The score of the checkpoint to keep beside the latest, and its better end: `("validation_error", "min")`.
        None keeps the latest alone. Never a score on the test split."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What `evaluate` is asked for at each evaluation."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Beginnings of the paths of parameters that are not trained, such as `("stage1/",)`."""

    def init(self, key: jax.Array) -> Variables:
        """The variables at step 0."""

    def data(self) -> OnDevice | Stream:
        """The training data."""

    def get_batch(self, data: Any, key: jax.Array, step: jax.Array, shard: jax.Array, shards: int) -> Any:
        """What one device trains on at `step`, inside the compiled step: its part of the batch, augmented.

        `data` is what `OnDevice` keeps, or the device's part of a batch of `Stream`; `key` is that of the run's seed.
        """

    def loss(self, variables: Variables, batch: Any, key: jax.Array, hyper: Mapping[str, jax.Array],
             axis_name: str | None) -> Loss:
        """The loss of one device's batch. Counts that divide it are means over `axis_name`."""

    def evaluate(self, variables: Variables, split: str) -> list[Row]:
        """The rows of one of `splits`."""

    def describe(self) -> dict[str, Any]:
        """What using the trained network needs beside its variables, for run.json: classes, image size, mean, ..."""
