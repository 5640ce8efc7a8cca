"""Every config of the zoo is one that `cnnjax train` takes, for a network that can be built."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cnnjax import config as configs
from cnnjax import networks
from cnnjax.configs import defaults
from cnnjax.training import loop

ZOO = Path(defaults.__file__).parent / "zoo"
FILES = sorted(path for path in ZOO.glob("*.py") if path.stem not in ("__init__", "shared"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config(path):
    config = configs.load(path)
    configs.check(config, defaults.classification())
    loop.check(config)
    assert f"--config configs/zoo/{path.name}" in path.read_text()
    module = networks.create_model(config, 10)
    side = config.data.image_size
    x = jnp.zeros((2, side, side, 3 if config.data.source == "imagenet2012" else 1))
    logits, _ = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x), x)
    assert logits.shape == (2, 10)


def test_every_paper_has_a_recipe_and_a_short_run():
    names = {path.stem for path in FILES}
    assert {"lenet5", "alexnet", "vgg16", "googlenet", "resnet50"} <= names
    assert {"lenet5_digits", "alexnet_digits", "vgg16_digits", "googlenet_digits", "resnet18_digits"} <= names
