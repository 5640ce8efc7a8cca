"""One detector from its config to its report, by a detector that compiles in a moment; weights to begin from."""

import json
import shutil

import jax
import numpy as np
import pytest

from cnnjax import cli, detection, fields, interop
from cnnjax import config as configs
from cnnjax.configs.ladder.defaults import shortened
from cnnjax.data import detection as datasets
from cnnjax.detection import pretraining, run, saved, settings
from cnnjax.errors import UserError
from cnnjax.models.layers import as_at_test
from cnnjax.training import workdir as workdirs
from tests.conftest import ROOT
from tests.detection import tiny_ladder
from tests.detection.test_sharded_loss import minibatch


@pytest.fixture
def toy(monkeypatch):
    """The config of the toy detector alone, on six images of which two are held out."""
    monkeypatch.setitem(detection.MODULES, "toy", "tests.detection.toy_detector")
    config = tiny_ladder.get_config()
    config.toy = {"channels": 2, "training": shortened(10, 2, 0.01, eval_every=5)}
    config.data.update(train_images=6, validation=2)
    return settings.alone(config, "toy")


def rows_of(workdir, split):
    return [row for row in workdirs.read_rows(workdir / workdirs.METRICS) if row["split"] == split]


def test_a_run_says_validates_reports_and_is_judged_on_any_split(toy, tmp_path, capsys):
    workdir, file = tmp_path / "run", tmp_path / "toy.json"
    file.write_text(configs.dump(toy))
    assert cli.main(["train", "--config", str(file), "--workdir", str(workdir)]) == 0
    printed = capsys.readouterr().out
    assert "Toy on 2 test images: mAP" in printed

    said = json.loads((workdir / "run.json").read_text())
    assert said["images"] == {"train": 4, "validation": 2, "test": 2}
    assert said["classes"] == list("0123456789")
    assert said["best"] == ["validation_map", "max"]
    assert said["versions"]["jax"] == jax.__version__

    detector, classes, variables = saved.load(workdir)
    assert len(classes) == 10
    scored = rows_of(workdir, "validation")
    assert [row["step"] for row in scored] == [5, 10]
    assert all(row["loss"] > 0 for row in scored)
    # of equal mAP the later checkpoint is kept: its loss is that of its row
    images = datasets.load(toy.data, toy.seed).validation
    assert run.validation_loss(detector, variables, images, toy) == pytest.approx(scored[-1]["loss"], rel=1e-5)

    page = (workdir / "report.html").read_text()
    for text in ("Toy, 4 images to train, 2 to test", "Precision and recall", "Errors of each class", "Confusions",
                 "AP by size", "Best images", "Worst images", "validation images"):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")         # opens without a network
    before = json.loads((workdir / "result.json").read_text())
    assert cli.main(["eval", "--workdir", str(workdir), "--split", "train"]) == 0
    assert "on 4 train images" in (workdir / "report.html").read_text()
    assert json.loads((workdir / "result.json").read_text()) == before
    assert cli.main(["eval", "--workdir", str(workdir), "--split", "validation"]) == 0
    assert cli.main(["eval", "--workdir", str(workdir), "--config.data.test_images=3"]) == 0
    assert "on 3 test images" in (workdir / "report.html").read_text()
    assert cli.main(["eval", "--workdir", str(workdir)]) == 0
    assert json.loads((workdir / "result.json").read_text())["ap"] == before["ap"]
    for wrong, message in ((["--config.steps=3"], "only --config.data.* may be set"), (["--step", "5"], "--step")):
        assert cli.main(["eval", "--workdir", str(workdir), *wrong]) == 2
        assert message in capsys.readouterr().err
    (workdir / "result.json").unlink()                          # as of a run under way
    assert cli.main(["report", str(workdir)]) == 0
    page = (workdir / "report.html").read_text()
    assert "Training" in page
    assert "Best images" not in page


def test_patience_ends_a_detector_s_training_early(toy, tmp_path):
    toy.update(steps=10, eval_every=1, patience=2, log_every=1)     # the mAP of one constant box never gets better
    run.train(toy, tmp_path)
    assert [row["step"] for row in rows_of(tmp_path, "validation")] == [1, 2, 3]


def test_patience_without_validation_images_is_refused_before_any_pre_training():
    config = tiny_ladder.get_config()
    config.faster_rcnn.training.patience = 2
    with pytest.raises(UserError, match=r"'faster_rcnn.training.patience': found 2, but there are no validation"):
        settings.check(config)


def test_parameters_to_freeze_stay_and_an_unknown_one_is_named(toy, tmp_path):
    toy.init.frozen = ("layers_0/",)
    run.train(toy, tmp_path)
    detector, _, variables = saved.load(tmp_path)
    begun = detector.init(jax.random.key(toy.seed))["params"]
    np.testing.assert_array_equal(variables["params"]["layers_0"]["kernel"], begun["layers_0"]["kernel"])
    assert (variables["params"]["layers_2"]["kernel"] != begun["layers_2"]["kernel"]).any()
    toy.init.frozen = ("layer_0/",)
    with pytest.raises(UserError, match=r"'init.frozen': no parameter begins with 'layer_0/'.*did you mean 'layers_0"):
        settings.check_alone(toy)


def test_a_ladder_s_command_says_that_a_classifier_is_none(tmp_path, capsys):
    assert cli.main(["ladder", "--config", "configs/train/digits.py", "--workdir", str(tmp_path / "w")]) == 2
    assert "is no config of detectors" in capsys.readouterr().err


# Weights to begin from

def tiny(name, num_classes, **fields):
    config = tiny_ladder.get_config()
    return detection.create(name, num_classes, **{**saved.fields_of(settings.detector_of(config, name, 1)), **fields})


def drawn(detector, seed=1):
    """Variables of the detector's shapes, drawn without compiling it."""
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def test_a_run_s_weights_begin_a_detector_of_other_classes_whose_head_is_new(tmp_path):
    old, new = tiny("yolo", 3), tiny("yolo", 2)
    weights = drawn(old)
    saved.save(tmp_path, "yolo", old, ("a", "b", "c"), weights)
    begun, made = pretraining.from_detector(new, "yolo", str(tmp_path), ("b", "d"), seed=5)
    head = ["params/output/bias", "params/output/kernel"]
    assert sorted(made) == head
    flat, given = saved.flat(begun), saved.flat(weights)
    fresh = saved.flat(new.init(jax.random.key(5)))
    for path, leaf in flat.items():
        np.testing.assert_array_equal(leaf, fresh[path] if path in made else given[path], err_msg=path)
    # the same classes keep the head; as many of other names do not
    assert pretraining.from_detector(old, "yolo", str(tmp_path), ("a", "b", "c"), seed=5)[1] == []
    assert sorted(pretraining.from_detector(old, "yolo", str(tmp_path), ("a", "b", "x"), seed=5)[1]) == head


def test_a_file_of_torchvision_begins_a_detector_of_fewer_classes(tmp_path):
    detector = tiny("ssd", 4, batch_norm=False)
    file = tmp_path / "ssd.safetensors"
    interop.write_safetensors(file, interop.to_torch("ssd", drawn(detector), **saved.fields_of(detector)))
    begun, made = pretraining.from_detector(tiny("ssd", 2, batch_norm=False), "ssd", str(file), ("x", "y"), seed=0)
    assert sorted(made) == [f"params/classes{i}/{leaf}" for i in range(3) for leaf in ("bias", "kernel")]
    np.testing.assert_array_equal(begun["params"]["fc6"]["kernel"], drawn(detector)["params"]["fc6"]["kernel"])


def test_an_epsilon_that_weights_were_not_trained_with_is_refused(tmp_path):
    name, backbone = "retinanet_resnet50_fpn", {"name": "resnet18", "norm_epsilon": 0.0}
    frozen = detection.create(name, 2, backbone=backbone, channels=2)
    file = tmp_path / "coco.safetensors"
    interop.write_safetensors(file, interop.to_torch(name, drawn(frozen), backbone=backbone, channels=2))
    live = detection.create(name, 2, backbone={"name": "resnet18"}, channels=2)
    with pytest.raises(UserError, match=r"'model.backbone.norm_epsilon': found 1e-05, but the weights .* with 0.0"):
        pretraining.from_detector(live, name, str(file), ("x", "y"), seed=0)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("mean", (0.1, 0.2, 0.3), r"'model.mean': found \(0.1, 0.2, 0.3\), but the weights of .* were trained with"),
    ("extras", ((4, 4, 3, 2, 1),), r"has shape .* this network has")])
def test_weights_of_another_network_are_refused(tmp_path, field, value, message):
    old = tiny("ssd", 2)
    saved.save(tmp_path, "ssd", old, ("a", "b"), drawn(old))
    with pytest.raises(UserError, match=message):
        pretraining.from_detector(tiny("ssd", 2, **{field: value}), "ssd", str(tmp_path), ("a", "b"), 0)
    with pytest.raises(UserError, match="is of SSD, not of YOLO"):
        pretraining.from_detector(tiny("yolo", 2), "yolo", str(tmp_path), ("a", "b"), 0)


def test_a_training_begins_from_weights_and_says_so(toy, tmp_path, capsys):
    run.train(toy, tmp_path / "first")
    toy.init.weights = str(tmp_path / "first")
    toy.optimizer.learning_rate = 0.0
    toy.data.validation = 0
    toy.eval_every = toy.steps
    run.train(toy, tmp_path / "second")
    assert f"begins from {tmp_path / 'first'}; new: nothing" in capsys.readouterr().out
    first, second = (saved.flat(saved.load(tmp_path / name).variables) for name in ("first", "second"))
    for path, leaf in first.items():
        np.testing.assert_array_equal(second[path], leaf, err_msg=path)
    toy.init.weights = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"'init.weights': there is no file or workdir"):
        settings.check_alone(toy)


# What each detector's loss does

@pytest.mark.parametrize("name", ["yolo", "ssd", "retinanet", "faster_rcnn_fpn"])
def test_the_loss_of_held_out_images_is_at_test_and_without_objects_finite(name):
    detector = tiny(name, 3, **({"dropout": 0.5} if name == "yolo" else {}))
    variables = detector.init(jax.random.key(0))

    @jax.jit
    def both(variables, batch, key):
        with as_at_test():
            held_out, (state, _) = detector.loss(variables, batch, key, {})
        return held_out, state, detector.loss(variables, batch, key, {})[0]

    empty = minibatch(2, (0, 0))
    held_out, state, trained = both(variables, empty, jax.random.key(1))
    assert np.isfinite([held_out, trained]).all()
    for path, leaf in saved.flat(state).items():
        np.testing.assert_array_equal(leaf, saved.flat(variables)[path], err_msg=path)      # statistics are kept
    if name in ("yolo", "ssd", "retinanet"):            # the others sample by the key
        held_out, _, trained = both(variables, minibatch(2, (3, 1)), jax.random.key(1))
        again, _, _ = both(variables, minibatch(2, (3, 1)), jax.random.key(2))
        assert held_out == again                        # no dropout
        assert held_out != trained                      # running statistics


@pytest.mark.parametrize("path", [path for path in sorted((ROOT / "configs" / "detect").glob("*.py"))
                                  if path.stem not in ("__init__", "shared")], ids=lambda path: path.stem)
def test_every_config_of_a_detector_can_be_run(path):
    config = configs.load(path)
    configs.check(config, fields.defaults(settings.declared_alone(config)))
    settings.check_alone(config)
    assert "cnnjax train --config configs/detect/" + path.name in path.read_text()


def test_a_detector_has_as_many_classes_as_were_published_unless_told():
    counts = {name: detection.create(name).num_classes for name in
              ("yolo", "ssd", "retinanet", "fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16")}
    assert list(counts.values()) == [20, 20, 80, 90, 91, 90]
    with pytest.warns(UserWarning, match="torchvision's weights of COCO are for 90, which it calls 91"):
        assert detection.create("ssd300_vgg16", 91).num_classes == 91
    with pytest.raises(UserError, match="num_classes: found 0, expected at least 1; the background is not counted"):
        detection.create("ssd", 0)


def test_finished_cells_of_a_ladder_are_workdirs_too(ladder_run, tmp_path):
    cell = shutil.copytree(ladder_run / "cells", tmp_path / "cells") / "faster_rcnn"
    said = json.loads((cell / "run.json").read_text())
    assert said["images"]["train"] == 4
    assert cli.main(["eval", "--workdir", str(cell)]) == 0
    assert "Faster R-CNN" in (cell / "report.html").read_text()
    assert cli.main(["report", str(cell)]) == 0
