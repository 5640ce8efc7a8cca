"""Configs: overrides are typed and checked by name, and each config file of the project is whole."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import cnnjax.configs as config_files
from cnnjax import classification
from cnnjax import config as configs
from cnnjax.configs import defaults
from cnnjax.configs.ladder import defaults as ladder_defaults
from cnnjax.errors import UserError
from cnnjax.experiments import ladder
from cnnjax.experiments import space as spaces
from cnnjax.training import loop, population, schedules
from tests import tiny_runs
from tests.conftest import ROOT, TINY


@pytest.mark.parametrize(("override", "field", "value"), [
    ("steps=400", "steps", 400),
    ("steps=4_000", "steps", 4_000),
    ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
    ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
    ("data.flip=true", "data.flip", True),
    ("data.flip=False", "data.flip", False),
    ("data.path=12", "data.path", "12"),
    ("schedule.boundaries=(1,2)", "schedule.boundaries", (1, 2)),
    ("schedule.boundaries=[3]", "schedule.boundaries", (3,)),
    ("schedule.boundaries=3", "schedule.boundaries", (3,)),
    ("schedule.boundaries=()", "schedule.boundaries", ()),
    ("model.shortcut=B", "model.shortcut", "B"),
    ("model.zero_init=True", "model.zero_init", True),
])
def test_overrides_have_the_type_of_their_field(override, field, value):
    config = configs.load(TINY, [override])
    found = configs.flatten(config)[field]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("text", "value"), [
    ("cat,dog", ("cat", "dog")), ("cat, dog,", ("cat", "dog")), ("cat", ("cat",)), ("traffic light,dog",
    ("traffic light", "dog")), ("('cat','dog')", ("cat", "dog")), ("'a,b'", ("a,b",)), ("['a,b']", ("a,b",)), ("", ()),
    ("cat,2", ("cat", "2")), ("(cat,dog)", ("cat", "dog")), ("[cat, dog]", ("cat", "dog")), ("(cat,)", ("cat",)),
    ("(cat)", ("cat",)), ("('cat',dog)", ("cat", "dog")), ("'a,b',c", ("a,b", "c")), ('"a,b"', ("a,b",)),
    ("cat (wild),dog", ("cat (wild)", "dog")), ("o'brien,d'arcy", ("o'brien", "d'arcy"))])
@pytest.mark.parametrize("field", ["data.classes", "detectors"])
def test_names_with_commas_between_are_several(field, text, value):
    config = ladder_defaults.ladder()
    configs.set_field(config, field, text)
    assert configs.flatten(config)[field] == value


@pytest.mark.parametrize("text", ["(cat,dog", "cat,dog)", "((cat,dog),x)", "[cat,(dog]", "'cat,dog", "{cat,dog}"])
@pytest.mark.parametrize("field", ["data.classes", "detectors"])
def test_names_whose_brackets_do_not_close_are_refused(field, text):
    with pytest.raises(UserError, match="brackets or quotes do not close"):
        configs.set_field(ladder_defaults.ladder(), field, text)


def test_numbers_are_names_where_names_are_expected():
    config = ladder_defaults.ladder()
    configs.set_field(config, "detectors", "1,2")
    assert config.detectors == ("1", "2")


@pytest.mark.parametrize(("override", "message"), [
    ("step=4", "config has no field 'step'; did you mean 'steps'?"),
    ("schedule.warmup_step=4", "did you mean 'schedule.warmup_steps'?"),
    ("optimiser.momentum=0.5", "did you mean 'optimizer.momentum'?"),
    ("steps=many", "config field 'steps': found 'many', expected int like 20"),
    ("steps=1.5", "config field 'steps': found '1.5', expected int"),
    ("data.flip=3", "config field 'data.flip': found '3', expected bool"),
    ("data=3", "config field 'data' is a group of fields: set one of"),
    ("schedule.boundaries=(1,'a')", "expected items of type int"),
    ("schedule.boundaries=a,b", "found 'a' in 'a,b', expected items of type int"),
    ("schedule.boundaries=(1,cat)", "found 'cat' in '(1,cat)', expected items of type int"),
    ("steps", "expected --config.steps=VALUE"),
    ("steps.more=3", "config has no field 'steps.more'"),
])
def test_mistaken_overrides_are_refused_in_one_line(override, message):
    with pytest.raises(UserError) as error:
        configs.load(TINY, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_with_its_nearest_sibling():
    with pytest.raises(UserError, match=r"digit.py does not exist; did you mean 'digits.py'"):
        configs.load(ROOT / "configs" / "depth" / "digit.py")


@pytest.mark.parametrize("text", ["def get_config(:", "raise OSError('no')", "x = 1", "def get_config(): return {}"])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken.py"):
        configs.load(path)


def test_check_refuses_a_field_that_nothing_reads():
    config = defaults.classification()
    with config.unlocked():
        config.schedule.beta = 0.9
    with pytest.raises(UserError, match=r"unknown field 'schedule.beta'"):
        configs.check(config, defaults.classification())


def test_check_refuses_a_missing_field_and_a_wrong_type():
    config = defaults.classification()
    with config.unlocked():
        del config.steps
    with pytest.raises(UserError, match="lacks the field 'steps'"):
        configs.check(config, defaults.classification())
    config = defaults.classification()
    with config.ignore_type():
        config.seed = "zero"
    with pytest.raises(UserError, match="'seed': found 'zero', expected int"):
        configs.check(config, defaults.classification())


def test_differences_name_field_and_both_values():
    assert list(configs.differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4})) == [
        "a.b: 1 there, 3 here", "c: 2 there, absent here", "d: absent there, 4 here"]


DEPTH = [m.name for m in pkgutil.walk_packages(config_files.__path__, "cnnjax.configs.")
         if m.name.startswith(("cnnjax.configs.depth.", "cnnjax.configs.train."))]


@pytest.mark.parametrize("name", DEPTH)
def test_the_config_files_hold_no_unknown_field(name):
    config = importlib.import_module(name).get_config()
    reference = defaults.depth_study() if "study" in config else defaults.classification()
    configs.check(config, reference)


def test_the_paper_s_recipe():
    """He et al. 2015, section 4.2."""
    from cnnjax.configs.depth import cifar10
    config = cifar10.get_config()
    assert (config.steps, config.batch_size) == (64_000, 128)
    assert [schedules.at_step(when, config.steps) for when in config.schedule.boundaries] == [32_000, 48_000]
    assert config.optimizer.learning_rate == 0.1
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    assert (config.data.pad, config.data.flip) == (4, True)


@pytest.mark.parametrize(("found", "expected"), [
    ("~/a", "{home}/a"), ("~", "{home}"), ("a/~", "a/~"), ("~nobody_of_that_name/a", "~nobody_of_that_name/a"),
    ("/a", "/a")])
def test_home_is_expanded_at_the_beginning_of_a_path(found, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(configs.user_path(found)) == expected.format(home=tmp_path)


@pytest.mark.parametrize("field", ["data.path", "data.cache", "backbone.weights", "init.weights",
                                   "retinanet.backbone.weights"])
def test_home_is_expanded_in_config_files_and_overrides(field, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    of = "defaults.classification" if field.startswith("init.") else "ladder.defaults.ladder"
    (tmp_path / "c.py").write_text("from cnnjax.configs import defaults, ladder\n"
                                   "import cnnjax.configs.ladder.defaults\n\n"
                                   f"def get_config():\n    config = {of}()\n"
                                   f"    config.{field} = '~/in the file'\n    return config\n")
    assert configs.flatten(configs.load("~/c.py"))[field] == f"{tmp_path}/in the file"
    assert configs.flatten(configs.load("~/c.py", [f"{field}=~/here"]))[field] == f"{tmp_path}/here"
    assert configs.flatten(configs.load("~/c.py", [f"{field}="]))[field] == ""


def test_no_field_of_a_path_is_forgotten():
    known = configs.flatten(defaults.classification()).keys() | configs.flatten(ladder_defaults.ladder()).keys()
    endings = ("path", "cache", "weights", "folder", "file", "dir")
    assert {field.split(".")[-1] for field in known if field.endswith(endings)} == set(configs.PATHS)


@pytest.mark.parametrize("name", ["cnnjax.configs.depth.digits", "cnnjax.configs.train.digits"])
def test_a_run_is_shortened_by_its_steps_alone(name):
    """Warm-up and drops keep their places in the run; nothing else has to be set."""
    config = importlib.import_module(name).get_config()
    whole = [float(schedules.from_config(config.schedule, config.steps, config.batch_size)(step))
             for step in range(0, config.steps, config.steps // 30)]
    config.steps = 30
    loop.check(config)
    short = [float(schedules.from_config(config.schedule, 30, config.batch_size)(step)) for step in range(30)]
    near = [min(abs(rate - other) for other in whole[max(0, i - 1):i + 2]) for i, rate in enumerate(short)]
    assert max(near) < 0.1


def test_old_names_of_packages_are_taken_and_told(tmp_path):
    """In a process that finds no packages of these names, as where cnnjax is installed."""
    (tmp_path / "old.py").write_text("from configs import defaults\nfrom experiments import space\n\n\n"
                                     "def get_config():\n    return defaults.classification()\n")
    code = ("import sys; from pathlib import Path; import cnnjax; from cnnjax import config; "
            "sys.path = [folder for folder in sys.path if not (Path(folder) / 'experiments').is_dir()]; "
            "sys.meta_path = [finder for finder in sys.meta_path if 'Editable' not in str(finder)]; "
            "print(config.load('old.py').steps)")
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, check=True)
    assert run.stdout == f"{defaults.classification().steps}\n"
    assert run.stderr.splitlines() == ["config file old.py: 'configs' is called 'cnnjax.configs' now: the next version "
                                       "will not know its old name"]


def test_old_names_of_fields_are_taken_and_told_once(tmp_path, capsys):
    configs._tell_renamed.cache_clear()
    file = tmp_path / "old.py"
    file.write_text("from cnnjax.configs.ladder import scatter\n\n\n"
                    "def get_config():\n    config = scatter.get_config()\n"
                    "    config.proposals.most = 77\n    config.faster_rcnn.proposals_test.update(after=9)\n"
                    "    return config\n")
    config = configs.load(file, ["faster_rcnn.smallest=3", "test.most=5"])
    configs.check(config, ladder_defaults.ladder())
    assert (config.proposals.max_proposals, config.faster_rcnn.proposals_test.post_nms_top_n) == (77, 9)
    assert (config.faster_rcnn.min_size, config.test.max_detections) == (3.0, 5)
    told = capsys.readouterr().err.splitlines()
    assert [line.split("'")[1::2] for line in told] == [[old, configs.RENAMED[old]] for old in (
        "proposals.most", "faster_rcnn.proposals_test.after", "faster_rcnn.smallest", "test.most")]
    configs.set_field(config, "test.most", "6")
    assert config.test.max_detections == 6
    assert capsys.readouterr().err == ""


def test_the_old_name_of_a_field_is_taken_in_a_space(capsys):
    configs._tell_renamed.cache_clear()
    config = ladder_defaults.ladder()
    config.sweep = {}
    assert spaces.trial_config(config, {"rcnn.test.most": 7}).rcnn.test.max_detections == 7
    assert "is called 'rcnn.test.max_detections' now" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("(0.5,0.75)", (0.5, 0.75)), ("0.5", (0.5,)), ("(10,0.75)", (10, 0.75))])
def test_steps_may_become_shares_of_the_run(text, value):
    """Of a config that names steps, such as the tiny one."""
    config = configs.load(TINY, [f"schedule.boundaries={text}"])
    configs.check(config, defaults.classification())
    loop.check(config)
    assert config.schedule.boundaries == value


@pytest.mark.parametrize(("field", "make", "check"), [
    ("model.blocks", tiny_runs.classifier, classification.check),
    ("study.depths", defaults.depth_study, lambda config: configs.check(config, defaults.depth_study())),
    ("backbone.hidden", ladder_defaults.ladder, ladder.check),
    ("members.seed", lambda: tiny_runs.classifier("population=2"), population.members),
])
def test_what_counts_stays_whole(field, make, check):
    """A share in the place of a count is refused before anything is trained, wherever the type is declared."""
    config = make()
    configs.set_field(config, field, "(0.5,2)")
    message = rf"'{field}': found \(0\.5, 2\), expected (items of type int|whole numbers|at least 1)"
    with pytest.raises(UserError, match=message):
        check(config)


@pytest.mark.parametrize("text", ["(0.75,0.5)", "(15,0.5)", "(0.5,0.5)", "(15,10)"])
def test_boundaries_out_of_order_are_refused(text):
    """Steps and shares are compared as steps of the run, of which there are 20."""
    with pytest.raises(UserError, match=r"'schedule\.boundaries': found .*, expected steps in order"):
        loop.check(configs.load(TINY, [f"schedule.boundaries={text}"]))
