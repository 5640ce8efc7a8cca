"""What a classification run is made of: the loss, the sums of an evaluation, and photographs that are streamed."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import classification, classifier, networks
from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs


class Fixed(nn.Module):
    """Gives its input's first pixel as logits, whatever its parameters."""

    heads: int = 1

    @nn.compact
    def __call__(self, x, *, train=False):
        logits = x[:, 0, 0, :]
        return logits if not train or self.heads == 1 else (logits,) * self.heads


def images_of(logits):
    return jnp.asarray(logits, jnp.float32)[:, None, None, :]


def loss_of(module, batch, label_smoothing=0.0):
    loss, (_, metrics) = classifier.loss(module, {}, batch, jax.random.key(0), {"label_smoothing": label_smoothing})
    return float(loss), metrics


def test_the_loss_is_the_smoothed_cross_entropy_and_counts_wrong_answers():
    logits = [[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]
    batch = {"image": images_of(logits), "label": jnp.array([0, 0, 1])}
    loss, metrics = loss_of(Fixed(), batch, 0.2)
    log_p = np.asarray(jax.nn.log_softmax(jnp.array(logits)))
    targets = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    assert loss == pytest.approx(-(log_p * targets).sum(1).mean(), rel=1e-5)
    assert metrics["error"] == pytest.approx(2 / 3)


def test_auxiliary_heads_weigh_three_tenths_each():
    batch = {"image": images_of([[2.0, 0.0]]), "label": jnp.array([0])}
    assert loss_of(Fixed(3), batch)[0] == pytest.approx(1.6 * loss_of(Fixed(1), batch)[0], rel=1e-5)


def sums(images, labels, mask, classes):
    mean, std = np.zeros(classes, np.float32), np.full(classes, 1 / 255, np.float32)
    evaluate = classifier.evaluation_sums(Fixed(), mean, std)
    batch = {"image": images, "label": jnp.array(labels), "mask": jnp.array(mask)}
    return {k: float(v) for k, v in evaluate({}, batch).items()}


def test_padding_counts_for_nothing():
    images = images_of([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    found = sums(images, [0, 0, 0], [True, True, False], 2)
    assert (found["count"], found["error"]) == (2, 1)


def test_a_tie_and_a_score_that_is_no_number_are_errors():
    images = images_of([[1.0, 1.0], [np.nan, np.nan]])
    assert sums(images, [0, 0], [True, True], 2)["error"] == 2


def test_top_five():
    images = images_of([np.arange(8.0), np.arange(8.0)])
    found = sums(images, [3, 2], [True, True], 8)           # ranks 4 and 5 of 0, 1, 2, ...
    assert (found["error"], found["top5_error"]) == (2, 1)


def test_ten_crops_are_answered_by_the_mean_of_their_probabilities():
    crops = np.zeros((1, 10, 1, 1, 2), np.float32)
    crops[0, :9, 0, 0] = [0.0, 1.0]
    crops[0, 9, 0, 0] = [30.0, 0.0]                         # one sure crop against nine doubtful ones
    p = (9 * np.exp(0) / (1 + np.exp(1)) + 1) / 10
    found = sums(jnp.asarray(crops), [0], [True], 2)
    assert found["loss"] == pytest.approx(-np.log(p), rel=1e-4)
    assert found["error"] == (p < 0.5)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Grey and white photographs of mixed sizes, 8 a class to train on and 3 to test."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 8), ("test", 3)):
        for name, shade in (("dark", 60), ("light", 200)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(shade - 40, shade + 40, (*rng.integers(20, 60, 2), 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_photographs_are_streamed(tmp_path, tiny, photographs):
    config = tiny("data.source=folder", f"data.path={photographs}", "data.streamed=True", "data.image_size=16",
                  "data.pad=0", "model.blocks=(1,)", "steps=10", "eval_every=10", "data.ten_crop=True")
    classification.train(config, tmp_path / "run")
    rows = workdirs.read_rows(tmp_path / "run" / workdirs.METRICS)
    assert [r["examples"] for r in rows if r["split"] == "test"] == [6]
    assert classification.evaluate(tmp_path / "run", "test") == pytest.approx(rows[-1])


def test_streaming_without_a_size_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match=r"'data.streamed': needs an image_size"):
        classification.train(tiny("data.streamed=True"), tmp_path / "run")


def test_every_network_may_be_synced_or_not(tiny):
    """`sync_batch_norm` sets the axis where a network has batch norm, and is no error where it has none."""
    config = tiny("sync_batch_norm=True")
    assert networks.create_model(config, 10).bn_axis_name == "data"
    config.model = SimpleNamespace(name="lenet5").__dict__
    networks.create_model(config, 10)
