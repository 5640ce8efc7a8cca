"""Modules import one another one way: no circle, and no part of the library a part that is built on it."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import ROOT

STUDIES = ("cnnjax.experiments", "cnnjax.configs")
FOLDERS = {"cnnjax": ROOT / "cnnjax", **{name: ROOT / name.split(".")[1] for name in STUDIES}}
FILES = {".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
         for package, folder in FOLDERS.items() for path in folder.rglob("*.py")}

BASE = {"errors", "config", "fields", "strict_json"}
"""What any part but ops may import."""

MAY_IMPORT = {
    "ops": {"errors"},
    "models": BASE | {"ops"},
    "evaluation": BASE | {"ops"},
    "data": BASE | {"ops"},
    "training": BASE,
}
"""Parts of the library, and the other parts of it that each may import, also inside of functions."""


def imported(name: str, tree: ast.AST) -> set[str]:
    """The modules of ours that the statements of a module import; functions' own, and those for types alone, where they
    are part of the tree."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
            module = ".".join(filter(None, (package if node.level else "", node.module)))
            found |= {f"{module}.{alias.name}" if f"{module}.{alias.name}" in FILES else module for alias in node.names}
    return found & FILES.keys()


def everywhere(name: str) -> set[str]:
    return imported(name, ast.parse(FILES[name].read_text()))


def at_the_top(tree: ast.Module) -> ast.Module:
    """A file without the bodies of its functions and its `if TYPE_CHECKING`."""
    class Pruned(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return ast.Pass()

        def visit_If(self, node):
            return ast.Pass() if ast.unparse(node.test) == "TYPE_CHECKING" else node
    return Pruned().visit(tree)


def test_there_is_no_circle_of_imports():
    graph = {name: imported(name, at_the_top(ast.parse(path.read_text()))) - {name} for name, path in FILES.items()}
    assert "cnnjax.experiments.why_depth" in graph["cnnjax.experiments.depth"]
    assert len(graph["cnnjax.classification"]) > 5
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_of_the_library_imports_only_what_it_is_built_on(part):
    for name in FILES:
        if name.split(".")[:2] == ["cnnjax", part]:
            parts = {[*module.split("."), ""][1] for module in everywhere(name)}
            assert parts <= MAY_IMPORT[part] | {part, ""}, name              # "": the version


def test_the_library_imports_no_study_but_in_its_command():
    for name in FILES:
        if not name.startswith((*STUDIES, "cnnjax.cli")):
            assert not [module for module in everywhere(name) if module.startswith((*STUDIES, "cnnjax.cli"))], name
