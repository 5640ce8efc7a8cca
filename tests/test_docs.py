"""The documentation site builds strictly, and its pages link to what there is."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from cnnjax import cli

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """The links and pictures of a page, and the anchors that others may link to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)], cwd=ROOT,
                           capture_output=True, text=True)
    assert build.returncode == 0, build.stderr[-4000:]
    return folder


@pytest.mark.slow
def test_internal_links_resolve(site):
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = Page()
        pages[path].feed(path.read_text())
    assert len(pages) > 30
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":         # its links begin at the root of a server
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(site)}: {link}: no such anchor")
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_source_code_is_shown(site):
    text = re.sub(r"<[^>]+>", "", (site / "papers" / "lenet5.html").read_text())
    assert "def scaled_tanh" in text
    assert "@source" not in text


def commands(page):
    """The lines of a page's code blocks that begin with `cnnjax`, each put together where it goes on."""
    blocks = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ").removesuffix(" &") for line in lines if re.match(r" *(\$ )?cnnjax ", line)]


PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_verbs_and_options_that_there_are(page):
    """Values of `--config.` are not read: no config is loaded."""
    refused = []
    for command in commands(page):
        words = shlex.split(command, comments=True)[1:]
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            try:
                cli.parser().parse_args([word for word in words if not word.startswith("--config.")])
            except SystemExit as stopped:
                refused += [f"{command}: {said.getvalue()}"] if stopped.code else []
    assert not refused


def test_commands_are_found():
    assert "cnnjax train --config configs/train/digits.py --workdir runs/digits" in commands(ROOT / "docs" / "index.md")
