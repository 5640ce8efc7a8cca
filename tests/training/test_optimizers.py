"""Optimizers: SGD by the papers, those of optax by name, what is left out of the decay, factors of the rate."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config as configs
from cnnjax.errors import UserError
from cnnjax.training import loop, optimizers
from cnnjax.training import state as states
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


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lars", "lion", "rmsprop", "adagrad", "radam",
                                  "adabelief"])
def test_any_of_optax_moves_every_parameter(name):
    config = config_of(f"optimizer.name={name}")
    loop.check(config)
    assert all(np.isfinite(value) and value != 0 for value in updates_of(config).values())


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
