"""Config fields are declared once: their defaults are among their allowed values, each is explained, each is read."""

import pytest
from ml_collections import ConfigDict

from cnnjax import classification, cli, fields
from cnnjax import config as configs
from cnnjax.configs.ladder import defaults as ladder_defaults
from cnnjax.detection import settings
from cnnjax.errors import UserError
from cnnjax.experiments import depth
from cnnjax.fields import Field
from tests.conftest import ROOT, TINY

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


@pytest.fixture
def reads(monkeypatch):
    """A function `(config, act)` that gives the dotted names of the fields which `act()` reads."""
    getitem, flatten = ConfigDict.__getitem__, configs.flatten
    found, paths, quiet = set(), {}, [False]

    def recorded(self, key):
        value = getitem(self, key)
        if id(self) in paths and not quiet[0]:
            name = paths[id(self)] + key
            found.add(name)
            if isinstance(value, ConfigDict):
                paths[id(value)] = f"{name}."
        return value

    def unrecorded(config, prefix=""):
        before, quiet[0] = quiet[0], True
        try:
            return flatten(config, prefix)
        finally:
            quiet[0] = before

    def read(config, act):
        monkeypatch.setattr(ConfigDict, "__getitem__", recorded)
        monkeypatch.setattr(configs, "flatten", unrecorded)
        paths.update({id(config): ""})
        act()
        monkeypatch.undo()
        return found
    return read


def test_every_field_of_a_classifier_is_read(tmp_path, tiny, reads):
    """In a run of one step; beside it the fields of the other schedules, sources and ways to start."""
    config = tiny("model.blocks=(1,)", "steps=1", "log_every=1", "schedule.warmup_steps=1")
    found = reads(config, lambda: classification.train(config, tmp_path / "run"))
    unread = set(fields.declared(classification.FIELDS)) - found
    assert unread <= {"schedule.power", "deterministic"}, unread
