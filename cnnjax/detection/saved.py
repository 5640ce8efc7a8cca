"""A trained detector in a folder: `detector.npz`, its variables, and `detector.json`, which says how it is made."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax import detection
from cnnjax.detection.backbones import flat, nested
from cnnjax.detection.detector import Detector, Variables
from cnnjax.errors import UserError
from cnnjax.training import distributed
from cnnjax.training import workdir as workdirs

FORMAT = 1


class Saved(NamedTuple):
    """A detector that was read from a folder."""

    detector: Any               # a `Detector`
    classes: tuple[str, ...]
    variables: Variables


def fields_of(detector: Any) -> dict[str, Any]:
    """The fields of a detector that `cnnjax.detection.create` takes, nested dataclasses as dicts."""
    fields = dataclasses.asdict(detector)
    del fields["num_classes"]
    return fields


def save(folder: Path, name: str, detector: Detector, classes: Sequence[str], variables: Variables) -> None:
    """Writes a trained detector; `detector.json` is written last: where it is, the folder is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / "detector.npz", variables)
    described = {"format": FORMAT, "name": name, "classes": list(classes), "model": fields_of(detector)}
    workdirs.write(folder / "detector.json", workdirs.to_json(described, indent=1) + "\n")


def load(folder: Path) -> Saved:
    """The detector that `save` wrote. Raises UserError when there is none, or one of another format."""
    try:
        described = json.loads((folder / "detector.json").read_text())
        if described.get("format") != FORMAT:
            raise UserError(f"{folder}: the detector is of format {described.get('format', 0)}, expected {FORMAT}; "
                            "train it again with this version")
        name, classes, fields = described["name"], tuple(described["classes"]), described["model"]
        variables = read_arrays(folder / "detector.npz")
        detector = detection.create(name, len(classes), **fields)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no trained detector there ({Path(str(error.filename)).name} is missing)") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, RecursionError,
            zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: the detector cannot be read ({type(error).__name__}: {error})") from None
    return Saved(detector, classes, variables)


def write_arrays(path: Path, tree: Mapping[str, Any]) -> None:
    """Writes arrays by path, whole or not at all. A collection without arrays, such as the `batch_stats` of a network
    without batch norm, leaves no trace. Of the processes of one run the one that writes does so."""
    if not distributed.is_writer():
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        named: dict[str, Any] = {name: np.asarray(value) for name, value in flat(tree).items()}
        np.savez(file, **named)
    part.replace(path)


def read_arrays(path: Path) -> Variables:
    """What `write_arrays` wrote."""
    with np.load(path) as kept:
        return nested({name: kept[name] for name in kept.files})
