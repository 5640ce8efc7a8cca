"""A detector's loss on a minibatch is the mean of its losses on the shares of several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection import settings, stages
from tests.detection import tiny_ladder


def minibatch(images, objects):
    """`images` of noise, of which image n has `objects[n]` boxes and twelve proposals."""
    rng = np.random.default_rng(0)

    def boxes(count):
        corner = rng.uniform(0, 30, (images, count, 2))
        return jnp.asarray(np.concatenate([corner, corner + rng.uniform(12, 30, (images, count, 2))], -1), jnp.float32)
    return {"images": jnp.asarray(rng.integers(0, 256, (images, 64, 64, 3), np.uint8)),
            "sizes": jnp.full((images, 2), 64), "boxes": boxes(4),
            "classes": jnp.asarray(rng.integers(0, 3, (images, 4))),
            "difficult": jnp.zeros((images, 4), bool), "mask": jnp.arange(4) < jnp.array(objects)[:, None],
            "proposals": boxes(12), "proposals_mask": jnp.ones((images, 12), bool)}


# The slow ones were last run on 2026-11-25: passed.
@pytest.mark.parametrize("name", [pytest.param("sppnet", marks=pytest.mark.slow), "fast_rcnn",
                                  pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_the_loss_does_not_depend_on_the_number_of_devices(name):
    config = tiny_ladder.get_config()
    config.backbone.freeze_norm = True                  # else each device normalises by its own images
    detector = settings.detector_of(config, name, 3)
    variables, key = detector.init(jax.random.key(1)), jax.random.key(2)
    batch = minibatch(4, (4, 1, 0, 2))

    def on_devices(count):
        shares = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)

        def device(params, share):
            loss, (_, metrics) = detector.loss({**variables, "params": params}, share, key, {}, "data")
            return loss, metrics

        def mean(params):
            return jax.tree.map(jnp.mean, jax.vmap(device, (None, 0), axis_name="data")(params, shares))
        return jax.jit(jax.value_and_grad(mean, has_aux=True))(variables["params"])
    whole, halves = on_devices(1), on_devices(2)
    assert float(whole[0][0]) > 0.5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, halves)


def test_synchronised_batch_norm_makes_the_loss_that_of_the_whole_minibatch():
    config = settings.alone(tiny_ladder.get_config(), "yolo")
    config.model.dropout, config.sync_batch_norm = 0.0, True
    detector = settings.create(config, 3)
    variables, batch = detector.init(jax.random.key(1)), minibatch(4, (4, 1, 0, 2))
    training = stages.Training(variables, detector.loss, iter, (), "", 0)

    def on_devices(count, loss):
        shares = jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batch)
        values = jax.vmap(lambda share: loss(variables, share, jax.random.key(2), {}, "data")[0], axis_name="data")
        return float(jax.jit(values)(shares).mean())
    synchronised = stages.as_config_says(training, config).loss
    whole = on_devices(1, synchronised)
    assert on_devices(2, synchronised) == pytest.approx(whole, rel=1e-4)
    assert on_devices(2, training.loss) != pytest.approx(whole, rel=1e-3)
