"""Runs a notebook in jupytext's percent format: `python scripts/run_notebook.py NOTEBOOK.py FOLDER`.

Its cells run in FOLDER, and FOLDER/made.ipynb is the notebook with what they printed and drew. A cell that fails ends
it.
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook after its cells ran in `folder`."""
    notebook = jupytext.read(path)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where).execute()
    nbformat.write(notebook, folder / "made.ipynb")
    return notebook


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
