"""Config fields are declared once: their defaults are among their allowed values, each is explained, each is used."""

import dataclasses
import os
from argparse import Namespace
from unittest import mock
from unittest.mock import DEFAULT

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from cnnjax import classification, cli, detection, fields, networks
from cnnjax import config as configs
from cnnjax.cli.common import load_config
from cnnjax.configs import defaults
from cnnjax.configs.ladder import defaults as ladder_defaults
from cnnjax.data import detection as detection_data
from cnnjax.data import streaming, synthetic_digits
from cnnjax.detection import backbones, pretraining, settings, stages
from cnnjax.detection.backbones import Backbone
from cnnjax.errors import UserError
from cnnjax.experiments import depth, sweep_settings
from cnnjax.fields import Field
from cnnjax.training import population, schedules
from tests import reads, tiny_runs
from tests.conftest import ROOT, TINY
from tests.data.test_detection_data import Voc, picture
from tests.detection import tiny_ladder
from tests.training.test_lowering_steps import batch_of

GROUP = {"name": Field("a", "which", allowed=("a", "b")), fields.ANY: Field(None, "of it")}
FIELDS = {"rate": Field(0.5, "of learning", "(0, 1]"), "group": GROUP, "sides": Field((2, 3), "in pixels", "[1, 8]")}


def test_defaults_have_the_declared_fields_alone():
    assert fields.defaults(FIELDS).to_dict() == {"rate": 0.5, "group": {"name": "a"}, "sides": (2, 3)}
    assert list(fields.declared(FIELDS)) == ["rate", "group.name", "sides"]


def test_the_open_groups_are_those_that_declare_any_field():
    found = {name for name, of in classification.FIELDS.items() if not isinstance(of, Field) and fields.ANY in of}
    assert found == set(configs.OPEN)


@pytest.mark.parametrize(("change", "message"), [
    ({"rate": 0.0}, "config field 'rate': found 0.0, expected over 0 and at most 1"),
    ({"sides": (2, 9)}, r"config field 'sides': found \(2, 9\), expected at least 1 and at most 8"),
    ({"group": {"name": "A"}}, "config field 'group.name': found 'A', expected a or b"),
])
def test_a_value_that_is_not_allowed_is_refused(change, message):
    config = fields.defaults(FIELDS)
    config.update(change)
    with pytest.raises(UserError, match=message):
        fields.check_values(config, FIELDS)


def test_the_fields_of_a_ladder_are_those_of_its_detectors_too():
    config = ladder_defaults.ladder()
    rows = {row[0]: row for row in fields.describe(config, settings.declared(config))}
    assert rows["faster_rcnn.rpn_nms"][3:] == ["[0, 1]", "IoU over which the worse of two proposals is dropped"]
    assert rows["rcnn.training.steps"][1] == "70000"
    assert not [row for row in rows.values() if row[4].startswith("of what the group's name")]


def test_a_prefix_is_told():
    with pytest.raises(UserError, match=r"'phase\.rate'"):
        fields.check_values(ConfigDict({"rate": 3.0}), FIELDS, "phase.")


@pytest.mark.parametrize("group", [classification.FIELDS, depth.FIELDS, settings.FIELDS])
def test_every_field_is_explained_and_its_default_allowed(group):
    fields.check_values(fields.defaults(group), group)
    for name, field in fields.declared(group).items():
        assert 5 < len(field.help) < 100, name


def test_the_table_of_a_config_tells_values_defaults_and_meanings(capsys):
    assert cli.main(["config", "--config", str(TINY), "--config.model.width=8"]) == 0
    shown = capsys.readouterr().out
    assert "optimizer.learning_rate" in shown
    assert "model.width" in shown
    rows = {row[0]: row for row in fields.describe(configs.load(TINY), classification.FIELDS)}
    assert rows["steps"] == ["steps", "20", "64000", "[1, ...)", classification.FIELDS["steps"].help]
    assert rows["schedule.name"][2:4] == ["", "piecewise cosine polynomial constant"]


@pytest.mark.parametrize("file", sorted(path.relative_to(ROOT) for path in (ROOT / "configs").glob("*/*.py")
                                         if path.name not in ("__init__.py", "defaults.py", "shared.py")), ids=str)
def test_every_config_file_is_explained(file, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["config", "--config", str(file)]) == 0, capsys.readouterr().err


# Every field is used by the code that it is for. The finished runs that tests share say which they used; what these
# leave, since it goes with other values of other fields, is used here.

def unused(declared, *used):
    return fields.declared(declared).keys() - set().union(*used)


def images(folder):
    """A folder of two classes with four images each."""
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((12, 12, 3), 20 * i, np.uint8)).save(folder / name / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def used_by_a_classifier(classifier_run, tmp_path_factory):
    folder = images(tmp_path_factory.mktemp("fields") / "images")
    with reads.recorded() as used:
        population.members(tiny_runs.classifier("population=2"))
        config = tiny_runs.classifier("schedule.name=polynomial", "schedule.warmup_steps=1", "data.source=folder",
                                      f"data.path={folder}", "data.image_size=8", f"data.cache={folder}-cache")
        schedules.from_config(config.schedule, 10, 4)
        classification.load_data(config)
        config.data.streamed = True
        task = classification.task(config)
        with mock.patch.multiple(streaming, training_batches=DEFAULT, evaluation_batches=DEFAULT):
            task.data().batches(0, 0, 1)
            list(task._batches("test"))
        with mock.patch.dict(os.environ):
            load_config(Namespace(config=str(TINY)), ["deterministic=True"], defaults.classification())
    return used | reads.kept(classifier_run)


def of_the_data(used):
    """The reader of a data set is given the group alone."""
    return {f"data.{name}" for name in used}


def test_every_field_of_a_classifier_is_used(used_by_a_classifier):
    used = used_by_a_classifier
    assert unused(classification.FIELDS, used, of_the_data(used)) == set()


def test_every_field_of_a_depth_study_is_used(depth_run, used_by_a_classifier):
    used = used_by_a_classifier
    assert unused(depth.FIELDS, reads.kept(depth_run), used, of_the_data(used)) == set()


def test_every_field_of_a_sweep_is_used(sweep_run):
    with reads.recorded() as used:
        config = tiny_runs.sweep("sweep.sampler=tpe")
        sweep_settings.count(config, {})
        sweep_settings.SAMPLERS["tpe"](config.sweep, 0)
    used |= reads.kept(sweep_run)
    assert unused({"sweep": sweep_settings.FIELDS}, used, {f"sweep.{name}" for name in used}) == set()


def test_every_field_of_a_ladder_beside_those_of_its_detectors_is_used(ladder_run, used_by_a_classifier, tmp_path):
    voc = Voc(tmp_path / "voc")
    for name in "abcde":
        voc.add(name, picture())
    config = ladder_defaults.ladder()
    config.data.update(source="voc", path=str(voc.root), test_split="", classes=("cat",))
    with reads.recorded() as used:
        detection_data.load(config.data, 0)
    used |= reads.kept(ladder_run)
    own = {name: of for name, of in settings.FIELDS.items() if name not in settings.SHARED}
    # The one is a matter of the command, as above, the other a field of detectors, as below.
    assert unused({**own, "init": networks.INIT}, used, of_the_data(used), {"deterministic", "data.canvases"}) == set()
    # Its training is by the loop, which is a classifier's too.
    assert unused(settings.TRAINING, used, used_by_a_classifier) == set()
    assert {"steps", "optimizer.ema", "optimizer.label_smoothing", "eval_every", "patience"} <= used


@pytest.fixture(scope="module")
def used_by_a_resnet():
    """As backbone, which has fields that the small one of the tiny ladder has not."""
    with reads.recorded({Backbone}) as used:
        backbones.create(Backbone("resnet18", stage="stage2", head="stage"))
    return used


@pytest.mark.parametrize("name", dict.fromkeys(module.split(":")[0] for module in detection.MODULES.values()))
def test_every_field_of_a_detector_is_used(name, ladder_run, used_by_a_resnet, tmp_path):
    """By the finished ladder, or when its loss and its detections are traced."""
    config = settings.alone(tiny_ladder.get_config(), name)
    detector = settings.create(config, 5)       # of as many classes as no other test has: traced anew
    classes = reads.dataclasses_of(detector)
    with reads.recorded(classes) as used:
        detector.preprocess(np.zeros((40, 60, 3), np.uint8))
        variables, batch = jax.eval_shape(detector.init, jax.random.key(0)), batch_of()
        variables.pop("linear", None)
        jax.eval_shape(lambda *arguments: detector.loss(*arguments, {}), variables, batch, jax.random.key(0))
        if not detector.needs_proposals:
            jax.eval_shape(detector.predict, variables, batch["images"], batch["sizes"])
        images = synthetic_digits.generate("train", 2, 64, 0)
        proposals = [np.array([[0, 0, 20, 20]], np.float32)] * 2
        setup = stages.Setup(images, config, 0, False, 1.0, {}, lambda: proposals)
        stages.stages_of(detector, setup)[0][1]({}, tmp_path)
        if getattr(detector, "pretrained", {}):
            pretraining.trunk(detector.backbone)
    used |= reads.kept(ladder_run) | used_by_a_resnet
    declared = {f"{cls.__name__}.{field.name}" for cls in classes for field in dataclasses.fields(cls)}
    assert declared - used == set()
