"""Names of classes: of the public data sets, one text file each beside this module, and of the user's own files."""

import json
from pathlib import Path

from cnnjax.data.files import read_lines, read_text
from cnnjax.errors import UserError, one_line

BACKGROUND = "__background__"
"""What torchvision calls the first class of most detectors."""

FOLDER = Path(__file__).parent


def known(name: str) -> tuple[str, ...]:
    """The names of a public data set's classes in order: "imagenet", its 1000, and "coco", its 91 with
    the background and unused numbers (N/A), as torchvision spells them."""
    return tuple(read_lines(FOLDER / f"{name}.txt"))


def coco_of(count: int) -> tuple[str, ...] | None:
    """COCO's names where a detector has as many classes as torchvision's, the background counted or not; else None."""
    names = known("coco")
    return {len(names): names, len(names) - 1: names[1:]}.get(count)


def read(file: Path) -> tuple[str, ...]:
    """The names in a user's file, in order: text with one a line, or JSON, a list of names or an object of name by
    number (`{"0": "cat"}`, or `{"0": ["n02123045", "cat"]}` as Keras has them).

    Raises UserError for a file that is none of these, and for a name that comes twice.
    """
    if file.suffix.lower() == ".json":
        try:
            names = _of_json(json.loads(read_text(file)))
        except ValueError as error:
            raise UserError(f"{file}: not readable as names of classes ({one_line(error)}); expected a list of names, "
                            "or an object of name by number") from None
    else:
        names = read_lines(file)
    if not names:
        raise UserError(f"{file}: no name of a class there; expected one a line")
    twice = [name for i, name in enumerate(names) if name in names[:i] and name != "N/A"]
    if twice:
        raise UserError(f"{file}: the class {twice[0]!r} stands there twice")
    return tuple(names)


def _of_json(found: object) -> list[str]:
    if isinstance(found, dict):
        try:
            found = [found[str(i)] for i in range(len(found))]
        except KeyError as error:
            raise ValueError(f"{len(found)} names, but none of number {error}") from None
        found = [name[-1] if isinstance(name, list) and name else name for name in found]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"found {type(found).__name__} of other things than names")
    return found
