"""Optimizers: SGD by the papers, those of optax by name, what is left out of the decay, factors of the rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import classification
from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.training import loop, optimizers
from cnnjax.training import state as states
from cnnjax.training import workdir as workdirs
from tests import tiny_runs

PARAMS = {"first": {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}, "second": {"kernel": jnp.array([2.0])}}
ZERO = {"first": {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}, "second": {"kernel": jnp.zeros(1)}}


def config_of(*overrides):
    return tiny_runs.classifier("schedule.name=constant", "schedule.warmup_steps=0", "optimizer.learning_rate=0.5",
                                *overrides)


def updates_of(config, gradient=1.0):
    hyper = {name: jnp.float32(config.optimizer[name]) for name in states.HYPERPARAMETERS}
    made = optimizers.optimizer(config)(hyper)
    gradients = {group: {name: jnp.full(1, gradient) for name in leaves} for group, leaves in PARAMS.items()}
    updates, _ = made.update(gradients, made.init(PARAMS), PARAMS)
    return {f"{group}/{name}": float(value[0]) for group, leaves in updates.items() for name, value in leaves.items()}


def test_sgd_decays_every_parameter_before_the_momentum():
    found = updates_of(config_of("optimizer.weight_decay=0.25"), gradient=1.0)
    assert found == dict.fromkeys(("first/kernel", "first/bias", "second/kernel"), -0.5 * (1 + 0.25 * 2))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
def test_kernels_alone_decay_where_that_is_asked(name):
    found, without = (updates_of(config_of(f"optimizer.weight_decay={decay}", "optimizer.decay=kernels",
                                           f"optimizer.name={name}")) for decay in (0.25, 0.0))
    assert found["first/bias"] == without["first/bias"]
    assert found["first/kernel"] != without["first/kernel"]


def test_the_longest_beginning_gives_the_factor_of_the_rate():
    found = updates_of(config_of("optimizer.weight_decay=0.0",
                                 "optimizer.factors=(('first/',10.0),('first/bias',0.0))"))
    assert found == {"first/kernel": -5.0, "first/bias": 0.0, "second/kernel": -0.5}


def test_adamw_is_that_of_optax():
    """The first step of Adam is the sign of the gradient; then comes the decay."""
    found = updates_of(config_of("optimizer.name=adamw", "optimizer.weight_decay=0.25", "optimizer.eps=0.0"), -3.0)
    assert found["first/kernel"] == pytest.approx(0.5 * (1 - 0.25 * 2), rel=1e-4)


NETWORK = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "norm": {"scale": (4,)}, "classifier": {"kernel": (8, 3)}}
"""Shapes of each kind of parameter: some optimizers treat matrices apart."""


REFUSED = ("lbfgs", "polyak_sgd",                                       # they ask for the loss beside the gradient
           "optimistic_adam", "rprop", "scale_by_rprop", "sm3")         # they take no schedule of the learning rate


@pytest.mark.parametrize("name", optimizers.of_optax())
def test_each_of_optax_steps_a_network_or_is_refused(name):
    """Three steps down the gradient of a sum of squares, from random parameters."""
    config = config_of(f"optimizer.name={name}", "optimizer.learning_rate=0.01")
    if name in REFUSED:
        with pytest.raises(UserError, match=f"'optimizer': {name} as set cannot be made"):
            loop.check(config)
        return
    loop.check(config)
    rng = np.random.default_rng(0)
    begun = {layer: {leaf: jnp.asarray(rng.normal(size=shape), jnp.float32) for leaf, shape in leaves.items()}
             for layer, leaves in NETWORK.items()}
    hyper = {name: jnp.float32(config.optimizer[name]) for name in states.HYPERPARAMETERS}
    made = optimizers.optimizer(config)(hyper)
    params, state = begun, made.init(begun)
    for _ in range(3):
        updates, state = made.update(params, state, params)
        params = optax.apply_updates(params, updates)
    for before, after in zip(*map(jax.tree.leaves, (begun, params)), strict=True):
        assert np.isfinite(after).all()
        assert np.square(after).sum() < np.square(before).sum()


@pytest.mark.slow       # last run on 2026-11-25: passed
@pytest.mark.parametrize("overrides", [
    ("name=adamw", "learning_rate=0.01", "b2=0.99", "decay=kernels"), ("name=lars", "learning_rate=1.0"),
    ("name=lamb", "learning_rate=0.02"), ("name=lion", "learning_rate=0.003"), ("name=radam", "learning_rate=0.02"),
    ("name=adafactor", "learning_rate=0.02", "weight_decay=0.0"), ("name=rmsprop", "learning_rate=0.003",
    "weight_decay=0.0")])
def test_a_config_of_each_kind_trains_the_digits(overrides, tmp_path, tiny):
    config = tiny("steps=60", "eval_every=60", "schedule.name=constant", "model.blocks=(1,1,1)",
                  *(f"optimizer.{override}" for override in overrides))
    classification.train(config, tmp_path / "run")
    losses = [row["loss"] for row in workdirs.read_rows(tmp_path / "run" / workdirs.METRICS) if row["split"] == "train"]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(("overrides", "message"), [
    (("optimizer.name=adamm",), "'optimizer.name': found 'adamm', expected sgd or one of optax: .*adamw"),
    (("optimizer.name=chain",), "'optimizer.name': found 'chain'"),
    (("optimizer.b1=0.8",), "'optimizer.b1': sgd has no such field"),
    (("optimizer.learning_rat=0.1",), "sgd has no such field; did you mean 'optimizer.learning_rate'"),
    (("optimizer.name=adamw", "optimizer.beta1=0.8"), "'optimizer.beta1': adamw has no such field"),
    (("optimizer.name=adamw", "optimizer.b1=high"), "'optimizer': adamw as set cannot be made"),
    (("optimizer.name=adam", "optimizer.weight_decay=0.1"), "'optimizer.weight_decay': found 0.1, but adam has none"),
    (("optimizer.name=adam", "optimizer.decay=kernels"), "'optimizer.decay': found 'kernels', but adam cannot"),
    (("optimizer.factors=('fc',2.0)",), "'optimizer.factors': found 'fc', expected pairs"),
    (("optimizer.factors=(('fc',-2.0),)",), "'optimizer.factors': found .*expected pairs"),
])
def test_what_cannot_be_made_is_refused_before_anything_is_read(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        loop.check(config_of(*overrides))
    assert "\n" not in str(error.value)


def test_new_names_are_taken_by_open_groups_alone():
    config = configs.load(tiny_runs.TINY, ["optimizer.b1=0.8"])
    assert config.optimizer.b1 == 0.8
