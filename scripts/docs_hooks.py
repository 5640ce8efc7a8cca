"""Hooks of mkdocs: results and tutorials become pages, source code is shown as it stands, equations become MathML.

Links between `docs/` and `experiments/` are written as they hold in the repository and rewritten for the site. A line
`@source cnnjax.models.lenet.scaled_tanh` becomes that function's source code.
"""

import ast
import re
from html import unescape
from pathlib import Path
from typing import Any

import jupytext
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Adds `experiments/RESULTS.md`, the pages of `experiments/results`, the data that they link to, and the
    tutorials."""
    folder = ROOT / "experiments"
    for path in [folder / "RESULTS.md", *sorted((folder / "results").glob("*.md")),
                 *sorted((folder / "results").glob("*.json"))]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=notebook(path)))
    return files


def notebook(path: Path) -> str:
    """The Markdown of a notebook, with what its cells printed and drew when `scripts/make_docs.py` ran it."""
    parts, outputs = [], path.with_suffix("")
    for i, cell in enumerate(jupytext.read(path).cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        shell = cell.source.startswith("%%bash\n")
        parts.append(f"```{'sh' if shell else 'python'}\n{cell.source.removeprefix('%%bash').strip()}\n```")
        if (outputs / f"{i}.txt").is_file():
            parts.append(f"```text\n{(outputs / f'{i}.txt').read_text().rstrip()}\n```")
        if (outputs / f"{i}.png").is_file():
            parts.append(f"![What the cell above draws]({path.stem}/{i}.png)")
    parts.append(f"This page is a notebook: `jupytext --to ipynb docs/tutorials/{path.name}` gives it to Jupyter.")
    return "\n\n".join(parts) + "\n"


def on_page_content(html: str, **_: Any) -> str:
    """Replaces each equation by MathML, which browsers draw without a script from elsewhere."""
    def mathml(match: re.Match[str]) -> str:
        tag, latex = match[1], unescape(match[2])[2:-2]         # in \( \) or \[ \]
        drawn = convert(latex, display="block" if tag == "div" else "inline")
        if "<mi>&</mi>" in drawn or "<mi>\\" in drawn:             # the converter leaves what it does not know
            raise PluginError(f"an equation that cannot be drawn: {latex}")
        return f'<{tag} class="arithmatex">{drawn}</{tag}>'
    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', mathml, html, flags=re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites links for the site, where `experiments/` lies inside of `docs/`, and shows source code."""
    if page.file.src_uri.startswith("experiments/"):
        markdown = markdown.replace("../docs/", "../")
    else:
        up = "../" * page.file.src_uri.count("/")
        markdown = markdown.replace(f"]({up}../experiments/", f"]({up}experiments/")
    return re.sub(r"^@source (\S+)$", lambda match: source(match[1]), markdown, flags=re.MULTILINE)


def source(name: str) -> str:
    """The Markdown that shows a function or class by its full name: where it stands, and its source code.

    Raises PluginError where there is none.
    """
    parts = name.split(".")
    file = next((ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(len(parts) - 1, 0, -1)
                 if ROOT.joinpath(*parts[:n]).with_suffix(".py").is_file()), None)
    if file is None:
        raise PluginError(f"@source {name}: no such module")
    text = file.read_text()
    node: Any = ast.parse(text)
    path = file.relative_to(ROOT)
    for part in parts[len(path.parts):]:
        node = next((child for child in node.body if getattr(child, "name", None) == part), None)
        if node is None:
            raise PluginError(f"@source {name}: no {part} in {path}")
    code = ast.get_source_segment(text, node, padded=True)
    return f"`{path.as_posix()}`, line {node.lineno}:\n\n```python\n{code}\n```"
