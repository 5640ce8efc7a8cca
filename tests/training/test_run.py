"""A run's files: what it says of itself, more steps on a finished run, parameters that are held, trackers."""

import json
import shutil
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import classification, networks
from cnnjax.errors import UserError
from cnnjax.training import history, loop
from cnnjax.training import run as runs
from cnnjax.training import state as states
from cnnjax.training import workdir as workdirs
from cnnjax.training.checkpoints import leaves
from cnnjax.training.task import OnDevice
from tests.data.annotated import picture


@pytest.fixture
def finished(tmp_path, classifier_run):
    """A finished run of the test's own."""
    return shutil.copytree(classifier_run, tmp_path / "finished")


def test_a_run_says_what_using_its_network_needs(classifier_run, tiny):
    said = json.loads((classifier_run / "run.json").read_text())
    dataset = classification.load_data(tiny())
    assert said["format"] == 1
    assert said["classes"] == [str(i) for i in range(10)]
    assert said["image_shape"] == [16, 16, 1]
    np.testing.assert_array_equal(np.float32(said["mean"]), dataset.mean)
    np.testing.assert_array_equal(np.float32(said["std"]), dataset.std)
    assert said["versions"]["jax"] == jax.__version__


def test_a_run_is_loaded_without_its_images(classifier_run, monkeypatch):
    monkeypatch.setattr(classification, "load_data", None)
    run = networks.load_run(classifier_run)
    logits = jax.eval_shape(run.module.apply, run.variables, jnp.zeros((1, *run.image_shape)))
    assert logits.shape == (1, len(run.classes))
    assert run.step == run.config.steps


def test_a_workdir_of_other_data_is_refused(finished, tiny):
    said = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps({**said, "classes": ["ant", "bee"]}))
    with pytest.raises(UserError, match=r'was begun with classes \["ant", "bee"\], the data has \["0", .* now'):
        classification.train(tiny(), finished)


def describe(workdir, config):
    task = classification.task(config)
    runs.describe(workdir, task.describe(), task.best)


def test_a_split_drawn_by_seed_is_kept_and_holds_for_the_workdir(tmp_path, tiny):
    for kind in ("ant", "bee"):
        for i in range(5):
            picture(tmp_path / "set" / kind / f"{i}.png", (16, 16))
    config = tiny("data.source=folder", f"data.path={tmp_path / 'set'}", f"data.cache={tmp_path / 'cache'}")
    describe(tmp_path, config)
    said = json.loads((tmp_path / "run.json").read_text())
    assert [len(said["split"][split]) for split in ("train", "test")] == [8, 2]
    assert "2 of its 10 images are the test, drawn by seed 0" in said["notes"][0]
    describe(tmp_path, config)
    (tmp_path / "set").rename(tmp_path / "moved")
    config.data.path = str(tmp_path / "moved")
    describe(tmp_path, config)
    picture(tmp_path / "moved" / "ant" / "new.png", (16, 16))
    with pytest.raises(UserError, match=r'was begun with split {"train": .*choose another --workdir'):
        describe(tmp_path, config)


def test_a_drawn_test_split_with_images_that_were_trained_on_is_refused():
    split = {"train": ("a.png",), "test": ("b.png", "c.png")}
    runs.check_split({"split": {"train": ["a.png"], "test": ["b.png"]}}, split, "runs/x")
    runs.check_split({}, split, "runs/x")                   # of an older run
    with pytest.raises(UserError, match=r"1 images of the test split, such as c.png, were trained on in runs/x"):
        runs.check_split({"split": {"train": ["a.png", "c.png"], "test": ["b.png"]}}, split, "runs/x")


@pytest.mark.parametrize(("text", "message"), [
    (None, "has no run.json"), ("{", "run.json is not JSON"), ('{"format": 7}', "found format 7, .* reads 1"),
    ("[]", "found format list")])
def test_a_run_of_another_format_is_refused_in_one_line(finished, text, message):
    (finished / "run.json").unlink()
    if text is not None:
        (finished / "run.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        networks.load_run(finished)
    assert "\n" not in str(error.value)


# More steps on a finished run

CONSTANT = ("schedule.name=constant", "schedule.warmup_steps=0", "model.blocks=(1,)", "optimizer.learning_rate=0.01")


def test_more_steps_give_what_a_run_of_so_many_steps_gives(tmp_path, tiny):
    classification.train(tiny(*CONSTANT, "steps=10"), tmp_path / "more")
    result = classification.train(tiny(*CONSTANT, "steps=20"), tmp_path / "more")
    classification.train(tiny(*CONSTANT, "steps=20"), tmp_path / "whole")
    assert result["steps"] == 20
    more, whole = (tmp_path / name / workdirs.METRICS for name in ("more", "whole"))
    assert more.read_bytes() == whole.read_bytes()
    a, b = (leaves(networks.load_run(tmp_path / name).variables) for name in ("more", "whole"))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_more_steps_that_change_a_rate_already_taken_are_refused(finished, tiny):
    """Of 20 steps a tenth of the rate from the 10th on; of 40 from the 20th on."""
    config = tiny("steps=40")
    config.schedule.boundaries = (0.5, 0.75)
    (finished / "config.json").write_text((finished / "config.json").read_text().replace(
        "10,\n      15", "0.5,\n      0.75"))
    with pytest.raises(UserError, match=r"'steps': 20 in .*, 40 here, which changes the learning rate of steps already "
                       r"taken, as of step 11 from 0.01 to 0.1; .*--config.init.weights="):
        classification.train(config, finished)


def test_fewer_steps_than_taken_are_refused(finished, tiny):
    with pytest.raises(UserError, match=r"'steps': found 15, but .* has taken 20"):
        classification.train(tiny("steps=15"), finished)


# Early end

class Scored:
    """A task whose validation score is given, evaluation by evaluation."""

    best, splits, frozen = ("validation_map", "max"), ("validation",), ()

    def __init__(self, scores):
        self.scores = list(scores)

    def init(self, key):
        return {"params": {"w": jnp.zeros(1)}}

    def data(self):
        return OnDevice(jnp.zeros((8, 1)))

    def get_batch(self, data, key, step, shard, shards):
        return data

    def loss(self, variables, batch, key, hyper, axis_name):
        return jnp.mean((variables["params"]["w"] - 1)**2), ({}, {})

    def evaluate(self, variables, split):
        return [{"split": split, "map": self.scores.pop(0)}]


@pytest.mark.parametrize(("scores", "evaluations"), [
    ([0.1, 0.3, 0.2, 0.3, 0.9, 0.9], 4),        # as good is not better
    ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6),
])
def test_a_run_ends_when_its_score_no_longer_grows(tmp_path, tiny, scores, evaluations):
    config = tiny("steps=12", "eval_every=2", "patience=2", "steps_per_dispatch=2", "log_every=2")
    state = loop.fit(config, tmp_path, Scored(scores))
    assert int(state.step) == 2 * evaluations
    again = loop.fit(config, tmp_path, Scored([]))          # it has ended: nothing is trained or evaluated
    assert int(again.step) == 2 * evaluations
    rows = workdirs.read_rows(tmp_path / workdirs.METRICS)
    assert [row["map"] for row in rows if row["split"] == "validation"] == scores[:evaluations]


def test_patience_without_a_validation_split_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match="'patience': found 2, but there is no validation split"):
        classification.train(tiny("patience=2"), tmp_path / "run")


# Parameters that are held

class Two(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(2, name="second")(nn.Dense(3, name="first")(x))


class Held:
    """A linear network whose first layer is not trained; its second layer's targets are ones."""

    best, splits, frozen = None, (), ("first/",)

    def init(self, key):
        return Two().init(key, jnp.ones((1, 4)))

    def data(self):
        return OnDevice(jnp.ones((8, 4)))

    def get_batch(self, data, key, step, shard, shards):
        return data

    def loss(self, variables, batch, key, hyper, axis_name):
        return jnp.mean((Two().apply(variables, batch) - 1)**2), ({}, {})


def test_neither_decay_nor_averages_touch_what_is_held(tmp_path, tiny):
    config = tiny("steps=5", "optimizer.weight_decay=0.1", "optimizer.ema=0.5", "log_every=1")
    before = states.create(config, Held().init)
    state = loop.fit(config, tmp_path, Held())
    assert set(state.params) == set(state.ema) == {"second"}
    after = states.variables(state)["params"]
    np.testing.assert_array_equal(after["first"]["kernel"], before.params["first"]["kernel"])
    assert np.abs(after["second"]["kernel"] - before.params["second"]["kernel"]).max() > 1e-3


def test_a_beginning_that_no_parameter_has_is_refused(tiny):
    with pytest.raises(UserError, match=r"no parameter begins with 'frist/'.*did you mean"):
        states.create(tiny(), Held().init, ("frist/",))


def test_merging_is_the_inverse_of_splitting():
    params = {"a": {"kernel": 1, "bias": 2}, "b": {"c": {"kernel": 3}, "d": 4}}
    trained, frozen = states.split(params, ("a/k", "b/c"))
    assert trained == {"a": {"bias": 2}, "b": {"d": 4}}
    assert states.merge(trained, frozen) == params


# Trackers

def test_a_run_that_is_taken_up_again_is_one_run_of_weights_and_biases(tmp_path, tiny, monkeypatch):
    begun = []

    def init(**options):
        begun.append(options)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=True))
    config = tiny("wandb=project")
    for _ in range(3):
        with history._trackers(config, tmp_path, 0):
            pass
    assert len({options["id"] for options in begun}) == 1
    assert all(options["resume"] == "allow" for options in begun)
