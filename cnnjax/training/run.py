"""Train a task in a workdir; write its result and `run.json`, which holds what using the trained network needs."""

import contextlib
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import __version__
from cnnjax.errors import UserError
from cnnjax.training import distributed, loop, population
from cnnjax.training import state as states
from cnnjax.training import workdir as workdirs
from cnnjax.training.history import NEW
from cnnjax.training.state import State
from cnnjax.training.task import OnEval, Task, Variables

FORMAT = 1
"""Of run.json, and of the checkpoints beside it."""


def run(config: ConfigDict, workdir: Path, task: Task, *, on_eval: OnEval | None = None) -> dict[str, Any]:
    """Trains `task` in `workdir`, going on from what is there, and returns what `result.json` then holds.

    A run may be given more steps, where the learning rate of those already taken stays the same. Raises UserError for
    a workdir of another config or of other data.
    """
    with workdirs.claim(workdir, config, may_change=_more_steps(workdir, config)):
        describe(workdir, task.describe(), task.best)
        state = loop.fit(config, workdir, task, on_eval=on_eval, name=workdir.name)
        return _summarise(workdir, state)


def run_population(config: ConfigDict, members: Sequence[ConfigDict], workdir: Path, folders: Sequence[Path],
                   task: Task) -> dict[str, Any]:
    """Trains `members` of one `task` as one program, whose checkpoints are in `workdir`, and makes each a run of its
    own in its folder; returns the means of their results, and all of them under "members"."""
    with workdirs.claim(workdir, config):
        describe(workdir, task.describe(), task.best)
        state = loop.fit(config, workdir, task, members=members, name=workdir.name)
        return mean_result(workdir, [
            _split(workdir, member, folder, population.member(state, i), i, task)
            for i, (member, folder) in enumerate(zip(members, folders, strict=True))])


def mean_result(workdir: Path, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means of the members' results, and all of them under "members"; written to `result.json`."""
    means = {key: float(np.mean([r[key] for r in results])) if isinstance(value, float) else value
             for key, value in results[0].items()}
    if distributed.is_writer():
        workdir.mkdir(parents=True, exist_ok=True)
        workdirs.write(workdir / "result.json", workdirs.to_json({**means, "members": results}, indent=2) + "\n")
    return {**means, "members": results}


def _split(workdir: Path, config: ConfigDict, folder: Path, state: State, i: int, task: Task) -> dict[str, Any]:
    """Makes member `i` of the finished population in `workdir` a run of its own in `folder`."""
    with workdirs.claim(folder, config):
        describe(folder, task.describe(), task.best)
        metrics = []
        for row in workdirs.read_rows(workdir / workdirs.METRICS):
            own = population.row_of(row, i)
            if "learning_rate" in own:
                own["learning_rate"] = states.rate(config, row["step"] - 1)
            metrics.append(own)
        if distributed.is_writer():
            workdirs.write_rows(folder / workdirs.METRICS, metrics)
            workdirs.write_rows(folder / workdirs.TIMING, workdirs.read_rows(workdir / workdirs.TIMING))
        with contextlib.closing(loop.open_checkpoints(config, folder, task.best)) as checkpoints:
            scores = {f"{row['split']}_{key}": value for row in metrics if row["step"] == config.steps
                      for key, value in row.items() if isinstance(value, float)}
            checkpoints.save(config.steps, state, NEW, scores)
            checkpoints.wait()
        return _summarise(folder, state)


def _summarise(workdir: Path, state: State) -> dict[str, Any]:
    """Writes `result.json`: the scores of the last evaluation by split, such as "test_error" of "test_images", and the
    mean training error over the last twentieth of the steps, as in the curves of He et al. 2015: over augmented
    batches."""
    rows = workdirs.read_rows(workdir / workdirs.METRICS)
    timing = workdirs.read_rows(workdir / workdirs.TIMING)
    last = int(state.step)
    late = [r["error"] for r in rows if r["split"] == "train" and "error" in r and r["step"] > 0.95 * last]
    result: dict[str, Any] = {
        "parameters": sum(x.size for x in jax.tree.leaves((state.params, state.frozen))), "steps": last,
        "train_error": float(np.mean(late)) if late else None,
        "images_per_second": float(np.median([r["images_per_second"] for r in timing])),
        "seconds": timing[-1]["seconds"],
    }
    for row in rows:
        if row["step"] == last and "examples" in row:
            result |= {f"{row['split']}_{key}": value for key, value in row.items() if isinstance(value, float)}
            result[f"{row['split']}_images"] = row["examples"]
    if distributed.is_writer():
        workdirs.write(workdir / "result.json", workdirs.to_json(result, indent=2) + "\n")
    return result


# run.json

def describe(workdir: Path, described: Mapping[str, Any], best: tuple[str, str] | None) -> None:
    """Writes `run.json`: what is `described`, by which score the `best` checkpoint is chosen (both as in a task), the
    format, the versions of what it was begun with.

    Raises UserError, naming what differs, where the run was begun on other data.
    """
    if not distributed.is_writer():
        return
    path, said = workdir / "run.json", json.loads(workdirs.to_json(dict(described)))
    if path.exists():
        for key, before in description(workdir).items():
            if key in said and said[key] != before and key not in ("left_out", "notes"):
                raise UserError(f"workdir {workdir} was begun with {key} {_short(before)}, the data has "
                                f"{_short(said[key])} now; choose another --workdir")
        return
    packages = {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}
    workdirs.write(path, workdirs.to_json({
        "format": FORMAT, **said, "best": best, "commit": _commit(),
        "versions": {"cnnjax": __version__, "python": platform.python_version(), **packages}}, indent=1) + "\n")


def description(workdir: Path) -> dict[str, Any]:
    """What `run.json` of a workdir says. Raises UserError where there is none, or one of another format."""
    path = workdir / "run.json"
    try:
        said = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{workdir} is not a run of one network, or of a version of cnnjax before 0.2: it has no "
                        "run.json; the runs of a study are in its folder cells") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        found = said.get("format") if isinstance(said, dict) else type(said).__name__
        raise UserError(f"{path}: found format {found}, this version of cnnjax reads {FORMAT}")
    return said


def check_split(said: Mapping[str, Any], split: Mapping[str, Sequence[str]], workdir: Path) -> None:
    """Raises UserError where images of the test split, which was drawn by seed, are among those that the run whose
    `run.json` is `said` was trained on: as when images came or went since."""
    trained = set(split.get("test", ())) & set(said.get("split", {}).get("train", ()))
    if trained:
        raise UserError(f"{len(trained)} images of the test split, such as {min(trained)}, were trained on in "
                        f"{workdir}: the images are others than then, and so is the split drawn by seed; put them "
                        "back, or name a folder with a test split in data.path")


def restore(workdir: Path, config: ConfigDict, init: Callable[[jax.Array], Variables], frozen: Sequence[str] = (),
            step: int | None = None) -> tuple[dict[str, Any], int]:
    """The variables of a run's checkpoint, and its step: that of `step`, else the best, else the last.

    `init` and `frozen` as in a task. Raises UserError for a step that is not there, and where no checkpoint is.
    """
    best = description(workdir)["best"]
    like = jax.eval_shape(lambda: states.create(config, init, frozen))
    with contextlib.closing(loop.open_checkpoints(config, workdir, best and tuple(best))) as checkpoints:
        if step is not None and step not in checkpoints.steps():
            raise UserError(f"--step {step}: {workdir} has checkpoints of steps {checkpoints.steps()}")
        restored = checkpoints.restore(like, step if step is not None else checkpoints.best_step())
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    return states.variables(restored[1]), restored[0]


def _more_steps(workdir: Path, config: ConfigDict) -> tuple[str, ...]:
    """("steps",) where the run in `workdir` has other steps, and may have those of `config`.

    Raises UserError where that would change the learning rate of a step already taken.
    """
    if not (workdir / "config.json").exists():
        return ()
    old = workdirs.read_config(workdir)
    if any(not text.startswith("steps:") for text in workdirs.changes(old, config)) or old.steps == config.steps:
        return ()                       # nothing, or more than the steps, which `claim` tells
    taken = max((int(path.name.removeprefix("step_")) for path in (workdir / "checkpoints").glob("step_*")
                 if path.name.removeprefix("step_").isdigit()), default=0)
    instead = f"choose another --workdir, and --config.init.weights={workdir} to begin from what is trained there"
    if config.steps < taken:
        raise UserError(f"config field 'steps': found {config.steps}, but {workdir} has taken {taken}; {instead}")
    steps = jnp.arange(taken)
    before, after = (jax.vmap(states.rate_function(c))(steps) for c in (old, config))
    if bool((before != after).any()):
        first = int(jnp.argmax(before != after))
        raise UserError(f"config field 'steps': {old.steps} in {workdir}, {config.steps} here, which changes the "
                        f"learning rate of steps already taken, as of step {first + 1} from {before[first]:.4g} to "
                        f"{after[first]:.4g}; {instead}")
    return ("steps",)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


@cache
def _commit() -> str | None:
    """The commit of the code that this process runs, with "-dirty" where files were changed since; None outside of a
    checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError):
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=root,
                               capture_output=True, text=True)
        return found.stdout.strip() or None
    return None
