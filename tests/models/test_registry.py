"""What holds for every registered network, and what `create` says to those who mistype."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.errors import UserError

SMALL = {"alexnet": {"stem": "cifar", "filters": (4, 8, 8, 8, 8), "hidden": 16}, "googlenet": {"stem": "cifar"}}
"""Fields that suit 32x32."""


SAME_BUT_DEEPER = {"resnet101", "resnet110", "resnet152", "resnet32", "resnet44", "resnet56", "plain32", "plain44",
                   "plain56", "plain110", "vgg13", "vgg13_bn", "vgg16_bn", "vgg19_bn"}


@pytest.mark.parametrize("name", sorted({*models.names()} - SAME_BUT_DEEPER))
def test_contract_on_images_of_32(name):
    fields = SMALL.get(name, {"stem": "cifar"} if "stem" in models.fields(name) else {})
    channels = models.image_shape(name)[2]
    module, x = models.create(name, 5, dtype=jnp.bfloat16, **fields), jnp.zeros((2, 32, 32, channels))
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)
    assert set(variables) <= {"params", "batch_stats"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    logits = jax.eval_shape(module.apply, variables, x)
    assert (logits.shape, logits.dtype.name) == ((2, 5), "float32")

    def train(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})

    outputs, state = jax.eval_shape(train, variables, x)
    assert len(outputs) == 3 if name == "googlenet" else outputs.shape == (2, 5)
    assert jax.tree.structure(dict(state)) == jax.tree.structure({k: v for k, v in variables.items() if k != "params"})
    stages = jax.eval_shape(lambda v, x: module.apply(v, x, features=True), variables, x)
    assert all(stage.shape[0] == 2 and stage.dtype.name == "bfloat16" for stage in stages.values())


def test_fields_are_the_defaults_of_create():
    assert models.fields("resnet50")["bottleneck"] is True
    assert models.fields("plain20")["residual"] is False
    assert set(models.fields("lenet5")) == {"num_classes", "c3", "pooling", "output", "dtype"}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: models.create("resnet43"), "unknown network 'resnet43'; did you mean 'resnet4"),
    (lambda: models.create("inception"), "unknown network 'inception'; known are alexnet, "),
    (lambda: models.create("vgg16", droput=0.1), "vgg16 has no field 'droput'; did you mean 'dropout'?"),
    (lambda: models.create("resnet20", shortcut="D"), "resnet20: unknown shortcut 'D'; known are A, B, C"),
    (lambda: models.create("alexnet", stem="cifr"), "alexnet: unknown stem 'cifr'; did you mean 'cifar'?"),
    (lambda: models.image_shape("lenet"), "unknown network 'lenet'; did you mean 'lenet5'?"),
])
def test_mistakes_are_named_in_one_line(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
