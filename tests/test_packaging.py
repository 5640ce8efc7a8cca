"""What a wheel holds."""

import sys

import pytest

from tests.conftest import ROOT


def test_every_package_is_installed_and_none_beside_cnnjax(monkeypatch):
    setuptools = pytest.importorskip("setuptools", reason="setup.py is read by it")
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    exec((ROOT / "setup.py").read_text(), {"__name__": "__main__"})
    folders = {file.parent.relative_to(ROOT) for top in ("cnnjax", "experiments", "configs")
               for file in (ROOT / top).rglob("*.py")}
    names = {".".join(folder.parts if folder.parts[0] == "cnnjax" else ("cnnjax", *folder.parts)) for folder in folders}
    assert set(given["packages"]) == names
    assert given["package_dir"] == {"cnnjax.experiments": "experiments", "cnnjax.configs": "configs"}


def test_the_studies_are_found_in_a_checkout():
    import cnnjax.configs.depth.digits
    import cnnjax.experiments.zoo

    for module, file in ((cnnjax.configs.depth.digits, "configs/depth/digits.py"),
                         (cnnjax.experiments.zoo, "experiments/zoo.py")):
        assert sys.modules[module.__name__].__file__ == str(ROOT / file)
