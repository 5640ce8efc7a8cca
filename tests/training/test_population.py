"""Populations, accumulated gradients and scaled rates: the same numbers by another way of computing them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import classification
from cnnjax.errors import UserError
from cnnjax.training import loop, population
from cnnjax.training import state as states
from cnnjax.training import step as steps
from cnnjax.training import workdir as workdirs
from tests import tiny_runs

# Gradient accumulation

def linear_loss(variables, batch, key, hyper, axis_name):
    """Least squares, with a running sum of the batches' means as the network's state."""
    error = batch["x"] @ variables["params"]["w"] - batch["y"]
    return jnp.mean(error**2), ({"seen": variables["seen"] + batch["x"].mean()}, {"bias": error.mean()})


def linear_state(rng):
    hyper = {name: jnp.float32(0.1) for name in states.HYPERPARAMETERS}
    params = {"w": jnp.asarray(rng.normal(size=3), jnp.float32)}
    return states.State(step=jnp.int32(0), seed=jnp.uint32(0), params=params, frozen={},
                        model_state={"seen": jnp.float32(0)}, opt_state=(), ema=None, hyper=hyper)


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate):
    rng = np.random.default_rng(0)
    state = linear_state(rng)
    batch = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in (("x", (12, 3)), ("y", 12))}
    whole, _, metrics = steps.gradients(linear_loss, state, batch, jax.random.key(0))
    parts, model_state, part_metrics = steps.gradients(linear_loss, state, batch, jax.random.key(0), accumulate)
    np.testing.assert_allclose(parts["w"], whole["w"], rtol=1e-5)
    assert part_metrics.keys() == metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(part_metrics[name], metrics[name], rtol=1e-5, atol=1e-6)
    # The network's state goes from part to part.
    np.testing.assert_allclose(model_state["seen"], batch["x"].reshape(accumulate, -1).mean(1).sum(), rtol=1e-4)


def test_each_part_has_a_key_of_its_own():
    def loss(variables, batch, key, hyper, axis_name):
        drawn = jax.random.uniform(key)
        return variables["params"]["w"].sum() * 0 + drawn, ({"seen": variables["seen"]}, {"square": drawn**2})
    state = linear_state(np.random.default_rng(0))
    _, _, metrics = steps.gradients(loss, state, {"x": jnp.zeros(4)}, jax.random.key(0), 4)
    assert metrics["square"] - metrics["loss"]**2 > 1e-4        # their variance: zero if the keys were one


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match=r"'batch_size': 16 images cannot be shared evenly by the 1 devices in 3 parts"):
        classification.train(tiny("optimizer.accumulate=3"), tmp_path / "run")
    with pytest.raises(UserError, match=r"'optimizer.accumulate': found 0, expected at least 1"):
        classification.train(tiny("optimizer.accumulate=0"), tmp_path / "run")


# Scaling of the rate

@pytest.mark.parametrize(("scale", "batch", "factor"), [("none", 1024, 1), ("linear", 1024, 8), ("linear", 32, 0.25),
                                                        ("sqrt", 512, 2), ("sqrt", 128, 1)])
def test_the_rate_follows_the_batch(tiny, scale, batch, factor):
    config = tiny(f"schedule.scale={scale}", f"batch_size={batch}", "schedule.warmup_steps=4",
                  "schedule.warmup_factor=0.5")
    rates = [states.rate(config, step) for step in (0, 2, 4, 10, 15)]
    np.testing.assert_allclose(rates, 0.1 * factor * np.array([0.5, 0.75, 1, 0.1, 0.01]), rtol=1e-5)


@pytest.mark.parametrize(("override", "message"), [
    ("schedule.scale=cubic", "'schedule.scale': found 'cubic', expected none, linear or sqrt"),
    ("schedule.reference_batch=0", "'schedule.reference_batch': found 0"),
])
def test_an_unknown_scale_is_refused(tiny, override, message):
    with pytest.raises(UserError, match=message):
        loop.check(tiny(override))


# Members

def test_members_differ_in_what_is_listed(tiny):
    seeds = population.members(tiny("population=3", "seed=5"))
    assert [m.seed for m in seeds] == [5, 6, 7]
    assert all(m.population == 1 for m in seeds)
    rates = population.members(tiny("population=2", "members.learning_rate=(0.1,1.0)", "members.momentum=(0.5,0.9)"))
    assert [(m.seed, m.optimizer.learning_rate, m.optimizer.momentum) for m in rates] == [(0, 0.1, 0.5), (0, 1.0, 0.9)]


@pytest.mark.parametrize(("overrides", "message"), [
    (("population=0",), "'population': found 0"),
    (("population=3", "members.momentum=(0.5,0.9)"), "'members.momentum': found 2 values, expected population = 3"),
    (("population=2", "data.validation=100"), "'data.validation': each seed holds other images out"),
])
def test_a_population_without_sense_is_refused(tiny, overrides, message):
    with pytest.raises(UserError, match=message):
        population.members(tiny(*overrides))


def test_rows_split_into_those_of_the_members():
    rows = [{"split": "test", "loss": 1.0, "norms": [1, 2]}, {"split": "test", "loss": 3.0, "norms": [3, 4]}]
    merged = population.merged(rows)
    assert merged["loss"] == 2
    for i in range(2):
        assert population.row_of({"step": 5, **merged}, i) == {"step": 5, **rows[i]}


def test_a_diverged_member_does_not_take_the_others_with_it():
    named = population.named({"loss": jnp.array([1.0, jnp.nan, 3.0]), "error": jnp.array([0.25, 1.0, 0.75])})
    assert (named["loss"], named["error"], named["error/1"]) == (2, 0.5, 1)
    assert np.isnan(population.named({"loss": jnp.array([jnp.nan])})["loss"])


# Few steps at a small rate: one program for all rounds otherwise than one for each, and that grows with the steps.
FOUR = ("model.blocks=(1,)", "population=4", "steps=6", "log_every=1", "eval_every=3", "checkpoint_every=3",
        "optimizer.learning_rate=0.001", "schedule.boundaries=(30,40)")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A population of four seeds in one program, and the same four in turn."""
    config = tiny_runs.classifier(*FOUR)
    folder = tmp_path_factory.mktemp("four")
    for name, together in (("one", True), ("turn", False)):
        classification.train_population(config, folder / name, together=together)
    return folder


def test_members_have_the_losses_of_their_lone_runs(four):
    for i in range(4):
        rows = [workdirs.read_rows(four / name / "members" / str(i) / workdirs.METRICS) for name in ("one", "turn")]
        for split, count in (("train", 6), ("test", 2)):
            one, turn = ([r for r in several if r["split"] == split] for several in rows)
            assert len(one) == len(turn) == count
            for a, b in zip(one, turn, strict=True):
                assert a.keys() == b.keys()
                assert a["step"] == b["step"]
                for name in a.keys() - {"split", "step"}:
                    assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), (name, a["step"])
    losses = [workdirs.read_rows(four / "one" / "members" / str(i) / workdirs.METRICS)[-2]["loss"] for i in range(4)]
    assert len(set(losses)) == 4


def test_a_member_is_an_ordinary_run(four):
    folder = four / "one" / "members" / "2"
    assert workdirs.read_config(folder).seed == 2
    result = json.loads((folder / "result.json").read_text())
    row = classification.evaluate(folder, "test")
    assert row["step"] == 6
    assert row["error"] == pytest.approx(result["test_error"])
