"""Reader of tables of image files and their classes: CSV with ",", ";" or tabs between, with a header or without.

`path` is the table or the folder of it: `train.csv` and `test.csv` (or `val.csv`), one in the folder of each split, or
a single one, whose column `split` may tell them apart.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnjax.config import user_path
from cnnjax.data import decode, files
from cnnjax.data.labelled import Row, listing
from cnnjax.data.sets import Listing
from cnnjax.errors import UserError

SUFFIXES = (".csv", ".tsv")
FILES = ("file_name", "filename", "file", "path", "filepath", "file_path", "image", "image_path", "image_id",
         "image_name", "img", "name", "id")
LABELS = ("label", "labels", "class", "class_name", "classname", "category", "label_name", "target", "class_id",
          "label_id", "breed", "species")
SPLITS = ("split", "subset", "set", "partition", "fold", "data set")
BOXES = ("xmin", "x1", "bbox", "xmax")


def list_table(path: str) -> tuple[Path, Listing]:
    """The image files of the rows, and the folder that their names are relative to.

    A header names the columns of the file and of the label by one of `FILES` and `LABELS`; one of two columns may have
    any names. Columns of 0 and 1, one a class, are read where one of each row is 1. Raises UserError for a table that
    is missing, cannot be understood or is of boxes, and as `labelled.listing`.
    """
    given = user_path(path)
    base = given.parent if given.is_file() else given
    if not path or not base.is_dir():
        raise UserError(f"data.path: no table of images or folder {path!r}")
    tree = files.walk(base)
    tables = [given.name] if given.is_file() else find(tree)
    if not tables:
        raise UserError(f"data.path: {base} has no table (*.csv); expected labels.csv, or train.csv and test.csv")
    alone = len(tables) == 1 and split_of(tables[0]) in ("", "train")
    return base, listing(base, tree, [row for name in tables for row in _rows(base, name, alone)])


def find(tree: files.Tree) -> list[str]:
    """The tables of a folder: those of splits, or the only one; none where several are of no split."""
    tables = [name for name in tree.files if name.lower().endswith(SUFFIXES) and name.count("/") < 2]
    of_splits = [name for name in tables if split_of(name)]
    return of_splits or (tables if len(tables) == 1 else [])


def split_of(name: str) -> str:
    """The split that a table's name (train.csv, train_labels.csv) or folder says, or ""."""
    folder, _, last = name.rpartition("/")
    words = last.rpartition(".")[0].replace("-", "_").replace(".", "_").split("_")
    return next((split for word in (*words, *folder.split("/")) if (split := files.split_of(word))), "")


def _rows(base: Path, name: str, alone: bool) -> Iterator[Row]:
    """The rows of one table. `alone`: there is no other, so that its name is no split's."""
    text = files.read_text(base / name).lstrip("\ufeff")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max("\t;|,", key=first.count)
    try:
        lines = [(i, [cell.strip() for cell in line]) for i, line in enumerate(
            csv.reader(text.splitlines(), delimiter=delimiter, strict=True), 1) if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise UserError(f"{base / name}: not a table ({error})") from None
    if len(lines) < 2:
        raise UserError(f"{base / name}: has {len(lines)} row{'s' * (len(lines) != 1)}, expected more")
    width = len(lines[0][1])
    if bad := next((i for i, cells in lines if len(cells) != width), 0):
        raise UserError(f"{base / name}, line {bad}: expected {width} columns, as in the first")
    header = [cell.casefold() for cell in lines[0][1]]
    label: int | None
    split: int | None
    if any(cell.endswith(decode.SUFFIXES) for cell in header):
        if width != 2:
            raise UserError(f"{base / name}: has no header; expected one that names its {width} columns, such as "
                            "file,label")
        file = 0 if header[0].endswith(decode.SUFFIXES) else 1
        label, split = 1 - file, None
    else:
        file, label, split = _columns(f"{base / name}", header)
        lines = lines[1:]
    hot = [c for c in range(width) if c not in (file, split)] if label is None else []
    own, folder = "" if alone else split_of(name), name.rpartition("/")[0]
    for i, cells in lines:
        where = f"{base / name}, line {i}"
        text = cells[label] if label is not None else _hot(where, [cells[c] for c in hot], [header[c] for c in hot])
        asked = own if split is None or not cells[split] else (files.split_of(cells[split]) or "")
        if split is not None and cells[split] and not asked:
            raise UserError(f"{where}: split {cells[split]!r}, expected train, val or test")
        yield Row(cells[file], text, asked, where, folder)


def _columns(where: str, header: Sequence[str]) -> tuple[int, int | None, int | None]:
    """Which columns are the file, the label (None: one of 0 and 1 a class) and the split (None: there is none)."""
    file, label, split = (next((header.index(name) for name in names if name in header), None)
                          for names in (FILES, LABELS, SPLITS))
    shown = ", ".join(header[:8])
    if any(name in header for name in BOXES):
        raise UserError(f"{where}: is a table of boxes (columns {shown}); expected one of files and labels, or use "
                        "data.source=voc, coco or yolo for boxes")
    if file is None and len(header) == 2:
        file = 0 if label is None else 1 - label
    if label is None and file is not None and len(header) == 2:
        label = 1 - file
    if file is None or (label is None and len(header) - (split is not None) < 3):
        what, names = ("files", FILES) if file is None else ("labels", LABELS)
        raise UserError(f"{where}: no column of {what} among {shown}; expected one named {', '.join(names[:4])}, ...")
    return file, label, split


def _hot(where: str, cells: Sequence[str], classes: Sequence[str]) -> str:
    """The one class whose cell is 1."""
    if any(cell not in ("0", "1", "0.0", "1.0") for cell in cells):
        raise UserError(f"{where}: no column is named as labels are ({', '.join(LABELS[:4])}, ...), and the others are "
                        "not 0 and 1")
    chosen = [name for name, cell in zip(classes, cells, strict=True) if cell.startswith("1")]
    if len(chosen) != 1:
        raise UserError(f"{where}: is of {len(chosen)} classes ({', '.join(chosen) or 'none'}), expected one")
    return chosen[0]
