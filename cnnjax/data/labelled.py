"""Group rows of (image file, label), read from tables and metadata files, into lists of files by split and class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnnjax.data import decode, files
from cnnjax.data.sets import Listing, check_classes, sort_classes
from cnnjax.errors import UserError


class Row(NamedTuple):
    """A line of a table."""

    file: str           # as it is written there
    label: str          # "" where there is none
    split: str          # "train", "val", "test", or "" for a set without splits
    where: str          # file and line, of messages
    folder: str         # in which the table lies, relative to the set's


def listing(base: Path, tree: files.Tree, rows: Sequence[Row]) -> Listing:
    """The files that the rows name, found as `files.Index` does: in the table's folder, in one of its split, anywhere.

    Labels that are whole numbers are sorted as such. A file without a label, twice with one label or in no row is left
    out and listed. Raises UserError for a file that could be two, or has two labels or splits, for splits without train
    or test, and for a class of which train has no image.
    """
    index = files.Index(tree.files, decode.SUFFIXES)
    folders = [name for name in tree.folders if "/" not in name and files.split_of(name)]
    found: dict[str, dict[str, list[str]]] = {}
    seen: dict[str, Row] = {}
    left_out = list(tree.left_out)
    for row in rows:
        if not row.label:
            left_out.append(f"{row.file}: no label ({row.where})")
            continue
        own = [folder for folder in folders if row.split and files.split_of(folder) == row.split]
        near = [place for place in (*own, f"{row.folder}/images".strip("/"), row.folder) if index.has(place)]
        same = index.find(row.file, [*near, ""])
        if len(same) > 1:
            raise UserError(f"{row.where}: {row.file!r} could be {' or '.join(same[:3])}; write its folder or suffix")
        name = same[0] if same else f"{row.folder}/{row.file}".strip("/")       # told when it is read, as a broken one
        if (other := seen.get(name)) is not None:
            if (other.label, other.split) != (row.label, row.split):
                raise UserError(f"{row.where}: {row.file!r} is {row.label!r}{row.split and f' of {row.split}'}, but "
                                f"{other.label!r}{other.split and f' of {other.split}'} at {other.where}")
            left_out.append(f"{row.file}: there twice ({row.where})")
            continue
        seen[name] = row
        found.setdefault(row.split, {}).setdefault(row.label, []).append(name)
    left_out += [f"{name}: in no row" for name in index.names if name not in seen]
    return _by_split(base, found, left_out)


def _by_split(base: Path, found: dict[str, dict[str, list[str]]], left_out: list[str]) -> Listing:
    if "" in found:
        if len(found) > 1:
            raise UserError(f"data.path: {base}: some rows have a split and some have none")
        train = found[""]
    elif "train" not in found or not ("test" in found or "val" in found):
        raise UserError(f"data.path: {base}: found the splits {', '.join(found) or 'none'} with labels; expected train "
                        "and test (or val), or no splits")
    else:
        train = found["train"]
    classes = sort_classes(train)
    check_classes(classes, str(base))
    for split, kinds in found.items():
        if other := sorted(set(kinds) - set(classes)):
            raise UserError(f"data.path: {base}: class {other[0]!r} of {split} has no image in train")
    names = {"": "", "train": "train", "test": "test", "val": "validation" if "test" in found else "test"}
    return Listing({names[split]: {kind: sorted(found[split].get(kind, [])) for kind in classes}
                    for split in ("", "train", "test", "val") if split in found}, classes, tuple(left_out))
