"""The trained networks of the package: there, small, described, and those that their cards say."""

import jax
import numpy as np
import pytest

from cnnjax import models, trained
from cnnjax.errors import UserError


def test_the_four_networks_of_the_depth_study_are_there():
    assert trained.names() == ["plain20", "plain56", "resnet20", "resnet56"]
    assert sum(path.stat().st_size for path in trained.FOLDER.iterdir() if path.is_file()) < 6e6


@pytest.mark.parametrize("name", trained.names())
def test_a_card_describes_its_weights(name):
    module, variables, card = trained.load(name)
    assert module == models.create(name)
    assert card["parameters"] == sum(leaf.size for leaf in _leaves(variables["params"]))
    assert abs(card["test_error_of_these_weights"] - card["test_error"]) <= 2e-4 + 1e-9
    assert (card["image_shape"], len(card["classes"]), card["test_images"]) == ([32, 32, 3], 10, 10_000)
    assert {"data", "recipe", "commit", "mean", "std", "train_error"} <= card.keys()


def _leaves(tree):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]


def test_a_trained_network_gives_finite_logits_that_differ_between_images():
    module, variables, _ = trained.load("resnet20")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    logits = np.asarray(jax.jit(module.apply)(variables, images))
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    assert not np.allclose(*logits)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resnet56'"):
        trained.load("resnet55")
