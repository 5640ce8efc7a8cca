"""What goes into R-CNN, SPP-net and Fast R-CNN: proposals, warped windows, pyramids."""

from functools import partial
from itertools import count

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from cnnjax import fields, ops
from cnnjax.configs.ladder.defaults import shortened
from cnnjax.data import synthetic_digits
from cnnjax.data.detection_sets import Objects
from cnnjax.detection import rcnn, sppnet, stages
from cnnjax.detection.backbones import DenseHead, Small, Trunk
from cnnjax.detection.losses import class_loss
from cnnjax.detection.proposals import Cache, SelectiveSearch, selective_search
from cnnjax.errors import UserError
from cnnjax.evaluation.voc_ap import proposal_recall
from cnnjax.training import workdir

SEARCH = SelectiveSearch(side=96, min_size=6, max_proposals=200)


def test_selective_search_finds_the_digits_and_is_kept(tmp_path):
    data = synthetic_digits.generate("train", 3, 96, 0)
    search = Cache(tmp_path, SEARCH)
    kept = search.all(data.read(i) for i in range(3))
    assert proposal_recall([p.boxes for p in kept], data.objects, (200,))[200] > 0.8
    again = Cache(tmp_path, SEARCH)(data.read(0))
    np.testing.assert_array_equal(again.boxes, kept[0].boxes)
    assert again.seconds == kept[0].seconds > 0
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(selective_search(data.read(0), SEARCH), kept[0].boxes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (30, 50)])
def test_selective_search_of_plain_and_tiny_images(shape):
    boxes = selective_search(np.full((*shape, 3), 128, np.uint8), SEARCH)
    assert boxes.shape[1:] == (4,)
    assert (boxes >= 0).all()
    assert (boxes <= [shape[1], shape[0]] * 2).all()


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"'proposals\.mode': found 'slow', expected fast or quality"):
        fields.replace(SEARCH, {"mode": "slow"}, "proposals.")


def test_windows_are_warped_as_the_operation_has_it():
    rng = np.random.default_rng(0)
    coarse = jnp.array(rng.uniform(0, 255, (8, 8, 3)))
    image = np.asarray(ops.roi_align(coarse, jnp.array([[0.0, 0, 8, 8]]), 64, 1.0)[0])
    image = image.round().astype(np.uint8)                          # smooth, so that rounding of weights is small
    boxes = np.array([[10, 12, 42, 28], [-4, -6, 20, 30], [50, 40, 70, 80], [5, 5, 7, 60]], np.float32)
    for context in (0, 4):
        crops = rcnn.warp(image, boxes, 24, context, (10, 20, 30))
        for channel, fill in enumerate((10.0, 20.0, 30.0)):
            expected = ops.roi_warp(jnp.array(image[..., channel:channel + 1], jnp.float32), jnp.array(boxes), 24,
                                    context, fill)
            np.testing.assert_allclose(crops[..., channel], expected[..., 0], atol=4)


def test_labels_of_windows_by_hand():
    truth = Objects.of([((0, 0, 10, 10), 2, False, False), ((20, 0, 30, 10), 0, True, False)])
    windows = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.9], [20, 0, 30, 9]], np.float32)
    assert rcnn.label_windows(windows, truth, 0.5).tolist() == [3, 3, 0, -1]
    assert rcnn.label_windows(windows, Objects.of([]), 0.5).tolist() == [0] * 4


def test_batches_of_windows_have_their_share_of_foreground():
    data = synthetic_digits.generate("train", 4, 64, 0)
    settings = ConfigDict({"side": 16, "context": 2, "fraction": 0.25, "foreground": 0.5})
    windows = rcnn.Windows(data, rcnn.random_windows(data, 0), settings, (0, 0, 0), 16, 0, flip=True)
    a, b = windows(3), windows(3)
    assert (a["labels"] > 0).sum() == 4
    assert a["crops"].shape == (16, 16, 16, 3)
    np.testing.assert_array_equal(a["crops"], b["crops"])
    assert (windows(4)["crops"] != a["crops"]).any()


class Shrink(nn.Module):
    """A trunk that takes the mean of 2x2 pixels."""

    @nn.compact
    def __call__(self, images, sizes, *, train):
        return {"mean": (nn.avg_pool(images.astype(jnp.float32), (2, 2), (2, 2)), 2)}


def test_a_region_is_read_at_the_scale_that_brings_it_nearest_to_the_target():
    image = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3)) * 255
    rois = jnp.array([[[0.0, 0, 16, 16], [4, 4, 12, 12]]])          # at scales 1 and 2: 16 and 32, 8 and 16
    module = sppnet.Network(Shrink(), nn.Dense(1), 2, levels=(1, 2), scales=(1.0, 2.0), target=16.0)
    out = jax.jit(partial(module.apply, method="pyramids"))({}, image, jnp.array([[32, 32]]), rois)[0]
    once = Shrink().apply({}, image, None, train=False)["mean"][0][0]
    twice = Shrink().apply({}, jax.image.resize(image, (1, 64, 64, 3), "linear"), None, train=False)["mean"][0][0]
    np.testing.assert_allclose(out[0], ops.roi_pyramid_pool(once, rois[0], 0.5, (1, 2))[0], rtol=1e-5)
    np.testing.assert_allclose(out[1], ops.roi_pyramid_pool(twice, rois[0], 1.0, (1, 2))[1], rtol=1e-5)


def test_one_spp_classifier_serves_images_of_different_sizes():
    module = sppnet.SPPClassifier(Shrink(), DenseHead((8,)), 5, levels=(1, 2))
    variables = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    plain = jnp.full((2, 16, 16, 3), 100.0)
    apply = jax.jit(module.apply)
    small = apply(variables, plain)
    assert small.shape == (2, 5)
    np.testing.assert_allclose(apply(variables, jnp.full((2, 24, 40, 3), 100.0)), small, rtol=1e-5)


def test_an_spp_classifier_is_trained_on_images_of_two_sizes_in_turn(tmp_path):
    digits, labels = load_digits(return_X_y=True)

    def images(rows, side):
        grey = [cv2.resize(digits[r].reshape(8, 8).astype(np.float32) * 15.9, (side, side)) for r in rows]
        return np.repeat(np.array(grey)[..., None], 3, -1).astype(np.uint8)

    def stream(step):
        for s in count(step):
            rows = np.random.default_rng(s).integers(0, 1500, 32)
            yield {"images": images(rows, (16, 24)[s % 2]), "labels": labels[rows]}

    def loss(variables, batch, key, hyper, axis_name):
        scores, new = module.apply(variables, batch["images"], train=True, mutable=["batch_stats"])
        return class_loss(scores, batch["labels"], jnp.ones(32, bool)), (new, {})

    module = sppnet.SPPClassifier(Trunk(Small((8,)), {"stage1": 2}, (0.3,) * 3, (0.4,) * 3), DenseHead((32,)), 10,
                                  levels=(1, 2, 3))
    begin = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3), jnp.uint8))
    phase = shortened(60, 32, 0.05, steps_per_dispatch=1)
    trained = stages.fit(stages.Training(begin, loss, stream, (), "SPP-net", 0), phase, tmp_path)
    losses = [row["loss"] for row in workdir.read_rows(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2
    unseen = np.arange(1500, 1797)                      # at a size that it was not trained on
    found = jax.jit(module.apply)(trained, images(unseen, 20)).argmax(-1)
    assert (found == labels[unseen]).mean() > 0.6       # by chance: 0.1
