"""Hooks of mkdocs: the results beside the docs become pages of the site, and source code is shown as it stands.

Links between `docs/` and `experiments/` are written as they hold in the repository and rewritten for the site. A line
`@source cnnjax.models.lenet.scaled_tanh` becomes that function's source code.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Adds `experiments/RESULTS.md`, the pages of `experiments/results`, and the data that they link to."""
    folder = ROOT / "experiments"
    for path in [folder / "RESULTS.md", *sorted((folder / "results").glob("*.md")),
                 *sorted((folder / "results").glob("*.json"))]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


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
