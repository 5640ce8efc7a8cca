"""The command line: one line for an error, exit status 2, help that teaches."""

import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax import cli
from cnnjax import config as configs
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
    (["eval", "--workdir", "nowhere", "--config.steps=3"], "a run is used as it was trained"),
    (["depth", "--config.study.depths=(20,21)"], "plain21 is not a network"),
    (["summary", "vgg61"], "unknown network 'vgg61'; did you mean 'vgg19'?"),
    (["summary", "vgg16", "--draw", "x.png"], "an .svg file"),
    (["summary", "vgg16", "--config.steps=3"], "summary takes no --config fields"),
    (["ladder", "--config.detectors=('yolo9',)"], "yolo9"),
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


def test_the_old_name_of_an_option_is_taken_and_told(capsys):
    options = cli.parser().parse_args(["detect", "a.png", "--least-score", "0.25"])
    assert options.score_threshold == 0.25
    assert capsys.readouterr().err == ("--least-score is called --score-threshold now: the next version will not know "
                                       "its old name\n")
    assert cli.parser().parse_args(["detect", "a.png"]).score_threshold is None


def test_an_unknown_argument_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--config", "tests/tiny_config.py", "--workdir", "x", "--learning-rate=3"])
    assert stop.value.code == 2
    assert "--learning-rate=3" in capsys.readouterr().err


def test_the_import_is_light():
    """`import cnnjax` brings neither JAX nor TensorFlow, training a classifier nothing that draws; a training process
    never brings TensorFlow."""
    code = ("import sys, cnnjax; assert 'jax' not in sys.modules; "
            "import cnnjax.classification, cnnjax.cli; assert 'matplotlib' not in sys.modules; "
            "import cnnjax.experiments.depth; assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("arguments", "option"), [
    (["depth", "--workdir=~/x"], "workdir"), (["detect", "a.png", "--workdir=w", "--out=~/x"], "out"),
    (["look", "--workdir=w", "--image=~/x"], "image"), (["look", "--workdir=w", "--data=~/x"], "data"),
    (["summary", "--draw=~/x"], "draw"), (["bench", "ops", "--json=~/x"], "json"),
    (["bench", "train", "--torch-python=~/x"], "torch_python")])
def test_home_is_expanded_in_paths_on_the_command_line(arguments, option, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(cli.parser().parse_args(arguments), option) == tmp_path / "x"


def test_home_is_expanded_in_lists_of_paths_and_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CNNJAX_CACHE", "~/c")
    assert cli.parser().parse_args(["detect", "--workdir=w", "~/a.png", "b.png"]).images == [
        tmp_path / "a.png", Path("b.png")]
    assert cli.parser().parse_args(["sweep", "--against", "~/a"]).against == [tmp_path / "a"]
    assert configs.cache_directory() == tmp_path / "c"


@pytest.mark.parametrize(("arguments", "message"), [
    (["depth", "--workdir", "file"], "--workdir file: file is no folder; choose another --workdir"),
    (["eval", "--workdir", "file/x/y"], "--workdir file/x/y: file is no folder; choose another --workdir"),
    (["look", "--workdir", "link"], "--workdir link: link is no folder; choose another --workdir"),
    (["detect", "a.png", "--workdir", ".", "--out", "file"], "--out file: file is no folder; choose another --out"),
    (["summary", "lenet5", "--draw", "none/x.svg"], "--draw none/x.svg: there is no folder none; make it first"),
    (["summary", "lenet5", "--draw", "file/x.svg"], "--draw file/x.svg: there is no folder file; make it first"),
    (["bench", "ops", "--json", "none/x.json"], "--json none/x.json: there is no folder none; make it first"),
    (["bench", "ops", "--json", "."], "--json .: is a folder, expected a file")])
def test_a_file_where_a_folder_belongs_is_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == f"cnnjax: {message}\n"
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
