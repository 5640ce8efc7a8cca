"""The command line: one line for an error, exit status 2, help that teaches."""

import subprocess
import sys

import pytest

from cnnjax import cli
from tests.conftest import ROOT


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--config", "configs/train/digit.py", "--workdir", "x"], "did you mean 'digits.py'?"),
    (["train", "--config", "tests/tiny_config.py", "--workdir", "x", "--config.step=3"], "did you mean 'steps'?"),
    (["train", "--config", "tests/tiny_config.py", "--workdir", "x", "--config.model.name=resnet200"], "did you mean"),
    (["train", "--config", "tests/tiny_config.py", "--workdir", "x", "--config.data.source=digit"],
     "did you mean 'digits'"),
    (["train", "--config", "tests/tiny_config.py", "--workdir", "x", "--config.data.source=folder",
      "--config.data.path=/nowhere"], "/nowhere"),
    (["train", "--config", "tests/tiny_config.py", "--workdir", "/proc/x"], "/proc/x cannot be written"),
    (["eval", "--workdir", "nowhere"], "nowhere is not a run: it has no config.json"),
    (["eval", "--workdir", "nowhere", "--config.steps=3"], "takes its config from the workdir"),
    (["depth", "--config.study.depths=(20,21)"], "plain21 is not a network"),
    (["summary", "vgg61"], "unknown network 'vgg61'; did you mean 'vgg19'?"),
    (["summary", "vgg16", "--draw", "x.png"], "an .svg file"),
    (["summary", "vgg16", "--config.steps=3"], "summary takes no --config fields"),
    (["ladder", "--config.detectors=('yolo',)"], "yolo"),
    (["depth", "--config.study.seeds=()"], "'study.seeds': found ()"),
])
def test_a_mistake_ends_in_one_line_and_status_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("cnnjax: ")
    assert shown.count("\n") == 1
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["depth", "--help"], ["train", "--help"], ["eval", "--help"]])
def test_help_exits_well(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    assert "cnnjax" in capsys.readouterr().out


def test_an_unknown_argument_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--config", "tests/tiny_config.py", "--workdir", "x", "--learning-rate=3"])
    assert stop.value.code == 2
    assert "--learning-rate=3" in capsys.readouterr().err


def test_the_import_is_light():
    """`import cnnjax` brings neither JAX nor TensorFlow; a training process never brings TensorFlow."""
    code = ("import sys, cnnjax; assert 'jax' not in sys.modules; "
            "import cnnjax.classification, cnnjax.cli, experiments.depth; assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
