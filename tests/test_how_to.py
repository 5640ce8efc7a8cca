"""Every code block of the how-to pages and tutorials that can run here does, in a temporary folder.

The blocks of a page run one after the other, as a reader would: `sh` by bash, `python` by Python, `diff` by patch, and
what has the name of a file as its title is written there. A title that begins with "not run here" says why a block is
left out. Trainings are cut to a few steps.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT, devices_of_cpu

pytestmark = pytest.mark.slow

PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
NOT_RUN = "not run here: "

class Block(NamedTuple):
    language: str
    title: str
    code: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page in their order."""
    found = re.findall(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


@pytest.fixture
def environment(tmp_path_factory):
    """Of a shell in which `cnnjax` is this code, its trainings shortened."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "cnnjax"
    command.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.short_command \"$@\"\n")
    command.chmod(0o755)
    return devices_of_cpu(1) | {"PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                                "CNNJAX_CACHE": str(folder / "cache"), "MPLBACKEND": "agg"}


def copy_of_checkout(folder: Path) -> None:
    """Copies what git tracks."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "tests" / "short_command.py", folder / "tests")


@pytest.mark.parametrize("tutorial", sorted((ROOT / "docs" / "tutorials").glob("*.py")), ids=lambda path: path.stem)
def test_a_tutorial_runs(tutorial, tmp_path, environment):
    pytest.importorskip("jupytext", reason="the tutorials need the extra docs")
    environment["PYTHONPATH"] = str(ROOT)
    run = subprocess.run([sys.executable, ROOT / "scripts" / "run_notebook.py", tutorial, tmp_path], env=environment,
                         capture_output=True, text=True, timeout=3000)
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_blocks_of_a_page_run(page, tmp_path, environment):
    if page.stem.startswith("add-a-"):      # they change the code
        copy_of_checkout(tmp_path)
        environment["PYTHONPATH"] = str(tmp_path)
    else:
        environment["PYTHONPATH"] = str(ROOT)
    ran = 0
    for block in blocks(page):
        if block.title.startswith(NOT_RUN) or block.code.startswith("--8<--"):
            continue
        if block.title:
            (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.title).write_text(block.code)
            continue
        command = {"sh": ["bash", "-euo", "pipefail", "-c", block.code], "python": [sys.executable, "-c", block.code],
                   "diff": ["patch", "-p1"]}.get(block.language)
        if block.language == "text":
            continue
        assert command, f"a block of {page.name} has no language that says what it is:\n{block.code}"
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3000,
                             input=block.code if block.language == "diff" else None)
        assert run.returncode == 0, f"{block.code}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
        ran += 1
    assert ran
