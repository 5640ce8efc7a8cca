"""Save and restore checkpoints by Orbax: training state, the history kept on the host, and a checksum of both.

The only module that uses Orbax.

A checkpoint becomes visible by one rename, so that a half-written one is never read; one whose bytes were changed since
is found by its checksum and passed over for the one before it.
"""

import contextlib
import os
import sys
import zlib
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from cnnjax.config import nearest
from cnnjax.errors import DISK, UserError, first_line


class Checkpoints:
    """The checkpoints of one run. Saves are asynchronous: the state is copied at once and written while training goes
    on.

    The `keep` latest stay, and with `best`, a key of the metrics given to `save` and "min" or "max", also the one where
    that was least or greatest.
    """

    def __init__(self, folder: Path, keep: int = 2, best: tuple[str, str] | None = None):
        logging.set_verbosity(logging.FATAL)    # Orbax reports each save, and what it raises as well, with tracebacks
        policy = LatestN(keep)
        score = None if best is None else itemgetter(best[0])
        mode = "min" if best is None else best[1]
        if score is not None:
            policy = AnyPreservationPolicy([policy, BestN(get_metric_fn=score, reverse=mode == "min", n=1,
                                                          keep_checkpoints_without_metrics=False)])
        self.folder = folder
        self.best = best
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, cleanup_tmp_directories=True, step_prefix="step",
                best_fn=score, best_mode=mode),
        )

    def save(self, step: int, state: Any, host: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Starts to write the checkpoint of `step`: the state and `host`, a JSON object."""
        if step in self._manager.all_steps():
            return
        arrays = jax.device_get(state)
        with _disk(self.folder):
            self._manager.save(step, metrics=metrics, force=True, args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                host=ocp.args.JsonSave({"checksum": checksum(arrays), **host})))

    def restore(self, like: Any, step: int | None = None) -> tuple[int, Any, dict[str, Any]] | None:
        """`(step, state, host)` of the newest whole checkpoint, or of `step`; None when there is no checkpoint at all.

        `like` is a state of the same structure. Raises UserError when a checkpoint is of another network, or when none
        can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        broken = []
        for candidate in steps:
            try:
                restored = self._manager.restore(candidate, args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), host=ocp.args.JsonRestore()))
                state, host = restored["state"], restored["host"]
                if checksum(state) != host.pop("checksum"):
                    raise ValueError("its bytes are not those that were written")
            except Exception as error:      # Orbax and TensorStore raise many kinds for torn files
                broken.append(f"{self.folder / f'step_{candidate}'}: {first_line(error)[:200]}")
                continue
            for message in broken:
                print(f"cnnjax: passed over a broken checkpoint, {message}", file=sys.stderr)
            return candidate, _as(like, state, self.folder), host
        if broken:
            raise UserError(f"no checkpoint can be read: {'; '.join(broken)}; remove {self.folder} to start again")
        return None

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step where the `best` metric was best, if any was saved with it."""
        return self._manager.best_step() if self.best is not None else None

    def remove_after(self, step: int) -> None:
        """Deletes the checkpoints newer than `step`: the broken ones that a resume passed over."""
        for newer in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(newer)

    def wait(self) -> None:
        """Returns when all saves are on disk; raises what went wrong with them, OSError for a full disk."""
        with _disk(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with _disk(self.folder):
            self._manager.close()


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Raises OSError for what the disk refuses, which Orbax and TensorStore tell by errors of their own kinds."""
    try:
        yield
    except Exception as error:
        for number in DISK:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(folder)) from error
        raise


def checksum(tree: Any) -> int:
    """CRC-32 of the names, shapes and bytes of the leaves, whichever containers hold them."""
    crc = 0
    for name, leaf in sorted(leaves(tree).items()):
        array = np.ascontiguousarray(leaf)
        crc = zlib.crc32(array.tobytes(), zlib.crc32(f"{name}{array.shape}{array.dtype}".encode(), crc))
    return crc


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, such as `params/conv1/kernel`."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): leaf
            for path, leaf in paths}


def _as(like: Any, state: Any, folder: Path) -> Any:
    """The leaves of `state` in the structure of `like`, checked by name and shape."""
    wanted, found = leaves(like), leaves(state)
    for name in wanted.keys() ^ found.keys():
        verb = "lacks" if name in wanted else "has the extra"
        raise UserError(f"checkpoint in {folder} {verb} array {name!r}: it is of another network or optimizer"
                        f"{nearest(name, found if name in wanted else wanted)}")
    for name, leaf in wanted.items():
        if np.shape(found[name]) != np.shape(leaf):
            raise UserError(f"checkpoint in {folder}: array {name!r} has shape {np.shape(found[name])}, this network "
                            f"has {np.shape(leaf)}")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])
