"""Every way in refuses what is broken: in one line and with exit status 2, or skipped and listed; never a traceback,
never silently. The kinds of broken files are in `bad_files.py`, those of configs in `bad_configs.py`."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cnnjax import cli, data, interop
from cnnjax.data import decode, detection
from cnnjax.detection import run as detector_runs
from cnnjax.errors import UserError
from cnnjax.experiments import sweep_queue
from cnnjax.training import loop
from cnnjax.training.checkpoints import Checkpoints
from tests.conftest import ROOT, compilations, error_line
from tests.faults import bad_configs as configs
from tests.faults import bad_files as files


class Reached(Exception):
    """The config went through: the training would have begun."""


@pytest.fixture
def refused(monkeypatch, capsys):
    """A function of a command's arguments that must end in one line and status 2; it gives the line.

    Where training would begin, Reached is raised instead, and nothing may be compiled on the way.
    """
    def reached(*arguments, **others):
        raise Reached

    def fit(config, *arguments, **others):
        loop.check(config)
        raise Reached

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loop, "fit", fit)
    monkeypatch.setattr(detector_runs, "train_and_test", reached)
    monkeypatch.setattr(sweep_queue, "open_study", reached)

    def run(*arguments):
        with compilations() as compiled:
            try:
                status = cli.main([str(a) for a in arguments])
            except SystemExit as stop:          # what argparse refuses
                status = stop.code
        shown = capsys.readouterr().err
        assert status == 2, shown
        lines = [line for line in shown.splitlines() if not line.startswith("usage: ") and line.strip()]
        assert len(lines) == 1, shown
        assert lines[0].startswith("cnnjax"), shown
        assert not compiled
        return lines[0]
    return run


def one_line(error):
    assert "\n" not in str(error)


def content_of(kind):
    """The bytes that a table has as bytes, text or an object of JSON."""
    if isinstance(kind, bytes):
        return kind
    return (kind if isinstance(kind, str) else json.dumps(kind)).encode()


def damaged(data, whole, times, new, most):
    """Bytes of which up to `times` runs of up to `most` are replaced by what the strategy `new` gives."""
    found = bytearray(whole)
    for _ in range(data.draw(st.integers(1, times))):
        at = data.draw(st.integers(0, max(len(found) - 1, 0)))
        piece = data.draw(new)
        found[at:at + data.draw(st.integers(0, most))] = piece
    return bytes(found)


def table(kinds):
    return pytest.mark.parametrize("kind", list(kinds.values()), ids=list(kinds))


# Configs

@pytest.mark.parametrize(("verb", "override"), configs.OVERRIDES)
def test_a_bad_override(refused, tmp_path, verb, override):
    workdir = tmp_path / "run"
    refused(verb, "--config", configs.FILES[verb], "--workdir", workdir, f"--config.{override}")
    assert not workdir.exists(), "what was refused has claimed the workdir"


@table(configs.TEXTS)
def test_a_bad_config_file(refused, tmp_path, kind):
    suffix, text = kind
    path = tmp_path / f"config{suffix}"
    path.write_bytes(content_of(text))
    for verb in ("train", "depth", "ladder", "sweep"):
        refused(verb, "--config", path, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@table(configs.SPACES)
def test_a_bad_space(refused, tmp_path, kind):
    path = tmp_path / "config.py"
    path.write_text("import optuna\nfrom optuna.distributions import *\n"
                    "from cnnjax.configs.sweep.digits import get_config\n" + kind)
    refused("sweep", "--config", path, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@table(configs.WORKDIRS)
@pytest.mark.parametrize("verb", ["eval", "look", "detect"])
def test_a_workdir_that_is_no_run(refused, tmp_path, verb, kind):
    (tmp_path / "config.json").write_bytes(content_of(kind))
    (tmp_path / "detector.json").write_bytes(content_of(kind))
    (tmp_path / "detector.npz").write_bytes(b"garbage")
    (tmp_path / "a.png").write_bytes(files.PNG)
    image = [tmp_path / "a.png", "--out", tmp_path / "out"] if verb == "detect" else []
    refused(verb, "--workdir", tmp_path, *image)


# Images

@pytest.fixture
def folder(tmp_path):
    """An image folder of one file a class."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            (tmp_path / "set" / split / name / "a.png").write_bytes(files.PNG)
    return tmp_path / "set"


def images(source, path, on_error="stop"):
    return data.load({"source": source, "path": str(path), "cache": str(path.parent / "cache"), "on_error": on_error},
                     0)


@table(files.IMAGES)
def test_a_broken_image(folder, tmp_path, kind):
    for name in ("bad.png", "bad.JPG"):
        bad = folder / "train" / "cat" / name
        bad.write_bytes(kind)
        assert str(bad) in error_line(images, "folder", folder)
        skipped = images("folder", folder, "skip")
        assert len(skipped.train.labels) == 2
        assert len(skipped.left_out) == 1
        assert name in skipped.left_out[0]
        bad.unlink()
    seen = Voc(tmp_path / "voc")
    seen.add("bad", files.annotation())
    (seen.root / "JPEGImages" / "bad.png").write_bytes(kind)
    assert "bad.png: " in seen.refused()


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to(p.parent / "nowhere"), os.mkfifo],
                         ids=["a folder", "a dangling link", "a pipe"])
def test_what_is_no_file_is_no_image(folder, make):
    """Of an image folder only files are read."""
    make(folder / "train" / "cat" / "bad.png")
    found = images("folder", folder)
    assert len(found.train.labels) == 2
    assert len(found.left_out) == (0 if (folder / "train" / "cat" / "bad.png").is_dir() else 1)


def test_an_image_that_may_not_be_read(folder, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "Permission denied" in error_line(images, "folder", folder)


@given(st.sampled_from([files.PNG, files.JPEG]), st.data())
@settings(max_examples=100, deadline=None)
def test_any_damage_to_an_image_is_refused_or_decoded(whole, data):
    """Whatever is cut, changed or put in: a picture of the right type, or a line."""
    try:
        found = decode.decode(damaged(data, whole, 4, st.binary(max_size=6), 8), "x.png")
    except UserError as error:
        one_line(error)
    else:
        assert found.dtype == np.uint8
        assert found.shape[2] == 3


# Annotations

class Voc:
    """A VOC folder with one good image."""

    def __init__(self, root):
        self.root = root
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True)
        self.add("good", files.annotation())

    def add(self, name, content):
        (self.root / "JPEGImages" / f"{name}.png").write_bytes(files.PNG)
        (self.root / "Annotations" / f"{name}.xml").write_bytes(content_of(content))
        with (self.root / "ImageSets" / "Main" / "all.txt").open("a") as file:
            file.write(f"{name}\n")

    def load(self, on_error="stop"):
        return detection.load(ConfigDict({"source": "voc", "path": str(self.root), "train_split": "all",
                                          "test_split": "all", "classes": (), "on_error": on_error}), 0)

    def refused(self):
        """The line of the refusal; when skipped the good image's object must stay alone, and the bad one listed."""
        found = self.load("skip")
        assert found.train.names[0] == "good.png"
        assert sum(len(o.boxes) for o in found.train.objects) == 1
        assert found.skipped
        assert all("bad" in line and "\n" not in line for line in found.skipped)
        return error_line(self.load)


@table(files.XML)
def test_a_broken_voc_annotation(tmp_path, kind):
    voc = Voc(tmp_path / "voc")
    voc.add("bad", kind)
    assert "bad.xml: " in (line := voc.refused()) or "bad.png: the image is" in line


@pytest.mark.parametrize(("name", "content"), [("all", b"\xff\xfe\0g"), ("all", b""), ("all", b"../../good\n"),
                                               ("all", b"/etc/hostname\n"), ("all", b"nowhere\n")],
                         ids=["no text", "empty", "outside", "absolute", "not there"])
def test_a_broken_split_of_voc(tmp_path, name, content):
    voc = Voc(tmp_path / "voc")
    (voc.root / "ImageSets" / "Main" / f"{name}.txt").write_bytes(content)
    error_line(voc.load)


@table(files.COCO)
def test_a_broken_coco_annotation(tmp_path, kind):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, content in (("good", files.coco()), ("bad", kind)):
        (root / split).mkdir()
        (root / split / "a.png").write_bytes(files.PNG)
        (root / "annotations" / f"instances_{split}.json").write_bytes(content_of(content))
    for path in (root / "outside.png", tmp_path / "outside.png"):
        path.write_bytes(files.PNG)

    def load(on_error="stop"):
        return detection.load(ConfigDict({"source": "coco", "path": str(root), "train_split": "good",
                                          "test_split": "bad", "classes": (), "on_error": on_error}), 0)
    error_line(load)
    try:
        found = load("skip")
    except UserError as error:
        one_line(error)
    else:
        assert found.skipped
        assert not sum(len(o.boxes) for o in found.test.objects)


def test_a_folder_in_place_of_an_annotation(tmp_path):
    (tmp_path / "annotations" / "instances_a.json").mkdir(parents=True)
    config = ConfigDict({"source": "coco", "path": str(tmp_path), "train_split": "a", "test_split": "a", "classes": (),
                         "on_error": "stop"})
    error_line(detection.load, config, 0)
    voc = Voc(tmp_path / "voc")
    voc.add("bad", "")
    (voc.root / "Annotations" / "bad.xml").unlink()
    (voc.root / "Annotations" / "bad.xml").mkdir()
    voc.refused()


@given(st.sampled_from([files.annotation().encode(), json.dumps(files.coco()).encode()]), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_an_annotation_is_refused_or_read(tmp_path, whole, data):
    """Whatever is cut, changed or put in: finite boxes inside of the image, or a line."""
    content = damaged(data, whole, 3, st.sampled_from(
        [b"", b"<", b"-", b"9", b"nan", b"null", b"[", b"}", b"\0", b"\xff", b"1e400"]), 12)
    root = tmp_path / "any"
    shutil.rmtree(root, ignore_errors=True)
    if whole.startswith(b"<"):
        voc = Voc(root)
        voc.add("any", content)
        load = voc.load
    else:
        (root / "annotations").mkdir(parents=True)
        (root / "a").mkdir()
        (root / "a" / "a.png").write_bytes(files.PNG)
        (root / "annotations" / "instances_a.json").write_bytes(content)
        config = ConfigDict({"source": "coco", "path": str(root), "train_split": "a", "test_split": "a", "classes": (),
                             "on_error": "stop"})

        def load():
            return detection.load(config, 0)
    try:
        found = load()
    except UserError as error:
        one_line(error)
    else:
        for objects, (height, width) in zip(found.train.objects, found.train.sizes, strict=True):
            assert np.isfinite(objects.boxes).all()
            assert (objects.boxes >= 0).all()
            assert (objects.boxes <= [width, height, width, height]).all()


# Tars and idx

@table(files.TARS)
def test_a_broken_tar(tmp_path, kind):
    (tmp_path / "x").mkdir()
    file = tmp_path / "x" / "a.tar"
    file.write_bytes(kind)
    assert str(file) in error_line(images, "tar", file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"], "something was unpacked"
    assert not list((tmp_path / "x" / "cache").glob("*"))


@pytest.mark.parametrize("kind", list(files.IDX.values()), ids=list(files.IDX))
def test_a_broken_idx_file(tmp_path, kind):
    folder = tmp_path / "idx"
    folder.mkdir()
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(files.IDX_IMAGES)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(files.IDX_LABELS)
    assert len(images("idx", folder).train.labels) == 4
    for name, content in kind.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    assert str(folder) in error_line(images, "idx", folder)


# Weights and checkpoints

def test_a_whole_file_of_weights_is_read(tmp_path):
    (tmp_path / "w.pth").write_bytes(files.WHOLE)
    (tmp_path / "w.safetensors").write_bytes(files.safetensors(files.entry()))
    assert interop.read_state(tmp_path / "w.pth")["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert interop.read_state(tmp_path / "w.safetensors")["w"].shape == (2, 3)


@pytest.mark.parametrize(("suffix", "kind"), [(suffix, kind) for suffix, kinds in (
    (".pth", files.PTH), (".safetensors", files.SAFETENSORS)) for kind in kinds])
def test_a_broken_file_of_weights(tmp_path, monkeypatch, suffix, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"w{suffix}"
    path.write_bytes((files.PTH if suffix == ".pth" else files.SAFETENSORS)[kind])
    assert str(path) in error_line(interop.read_state, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "the file did something"


@given(st.sampled_from([(".pth", files.WHOLE), (".safetensors", files.safetensors(files.entry()))]), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_weights_is_refused_or_read(tmp_path, whole, data):
    path = tmp_path / f"w{whole[0]}"
    path.write_bytes(damaged(data, whole[1], 3, st.binary(max_size=4), 4))
    try:
        state = interop.read_state(path)
    except UserError as error:
        one_line(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in state.values())


STATE = {"step": np.int32(3), "params": {"conv1": {"kernel": np.zeros((3, 3, 1, 4), np.float32)},
                                         "fc": {"bias": np.zeros(10, np.float32)}}}


@table({
    "another width": {**STATE, "params": {**STATE["params"], "conv1": {"kernel": np.zeros((3, 3, 1, 8), np.float32)}}},
    "another input": {**STATE, "params": {**STATE["params"], "conv1": {"kernel": np.zeros((3, 3, 3, 4), np.float32)}}},
    "more classes": {**STATE, "params": {**STATE["params"], "fc": {"bias": np.zeros(100, np.float32)}}},
    "a layer more": {**STATE, "params": {**STATE["params"], "conv2": {"kernel": np.zeros(3, np.float32)}}},
    "a layer less": {**STATE, "params": {"fc": STATE["params"]["fc"]}},
    "a layer of another name": {**STATE, "params": {"conv": STATE["params"]["conv1"], "fc": STATE["params"]["fc"]}},
    "an average more": {**STATE, "ema": {"fc": {"bias": np.zeros(10, np.float32)}}},
    "another rank": {**STATE, "step": np.zeros(1, np.int32)},
})
def test_a_checkpoint_of_another_network(tmp_path, kind):
    kept = Checkpoints(tmp_path)
    kept.save(3, kind, {})
    kept.wait()
    assert "checkpoint in" in error_line(kept.restore, STATE)
    kept.close()
