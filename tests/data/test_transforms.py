"""Transforms of training images: each on cases whose answer is known, by name, and independent of the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import classification, classifier
from cnnjax import config as configs
from cnnjax.data import transforms
from cnnjax.errors import UserError
from cnnjax.training import workdir as workdirs

KEY = jax.random.key(0)
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, (12, 16, 3)), jnp.float32)


def test_jitter_without_strength_changes_nothing_and_brightness_is_a_factor():
    same = transforms.colour_jitter(IMAGE, KEY, brightness=0.0, contrast=0.0, saturation=0.0)
    np.testing.assert_allclose(same, IMAGE, atol=1e-6)
    brighter = transforms.colour_jitter(IMAGE * 0.5, KEY, brightness=0.5, contrast=0.0, saturation=0.0)
    factors = np.asarray(brighter / (IMAGE * 0.5))
    assert np.ptp(factors) < 1e-5
    assert 0.5 <= factors.mean() <= 1.5


def test_contrast_keeps_the_mean_of_grey_and_saturation_keeps_grey():
    middle = IMAGE * 0.2 + 0.4
    changed = [transforms.colour_jitter(middle, KEY, brightness=0.0, contrast=c, saturation=s)
               for c, s in ((0.9, 0.0), (0.0, 0.9))]
    grey = [float(transforms._grey(image).mean()) for image in changed]
    np.testing.assert_allclose(grey, float(transforms._grey(middle).mean()), atol=1e-5)


def test_a_crop_of_the_whole_image_is_the_image():
    crop = transforms.random_resized_crop(IMAGE, KEY, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_allclose(crop, IMAGE, atol=1e-5)


def test_a_crop_reads_a_region_of_its_share():
    """Of an image that grows by 1 a row, a crop of a quarter of the area spans half of the rows."""
    rows = jnp.tile(jnp.arange(32.0)[:, None, None], (1, 32, 1))
    for seed in range(5):
        crop = transforms.random_resized_crop(rows, jax.random.key(seed), scale=(0.25, 0.25), ratio=(1.0, 1.0))
        assert float(crop[-1, 0, 0] - crop[0, 0, 0]) == pytest.approx(15.5, abs=0.6)


def test_cutout_clears_a_square_and_nothing_else():
    out = transforms.cutout(IMAGE, KEY, size=6)
    cleared = np.asarray((out == 0).all(-1))
    assert 9 <= cleared.sum() <= 36
    rows, columns = np.flatnonzero(cleared.any(1)), np.flatnonzero(cleared.any(0))
    assert cleared[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].all()
    np.testing.assert_array_equal(np.asarray(out)[~cleared], np.asarray(IMAGE)[~cleared])


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 0.25)])
def test_erasing_makes_noise_of_a_share_of_the_image(probability, share):
    out = transforms.random_erasing(IMAGE, KEY, probability=probability, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    assert float((out != IMAGE).all(-1).mean()) == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("name", list(transforms.OPERATIONS))
def test_an_operation_of_no_strength_keeps_the_image(name):
    if name == "auto_contrast":
        image = (IMAGE - IMAGE.min((0, 1))) / (IMAGE.max((0, 1)) - IMAGE.min((0, 1)))
    else:
        image = jnp.round(IMAGE * 255) / 255
    np.testing.assert_allclose(transforms.OPERATIONS[name](image, strength=jnp.float32(0)), image, atol=1 / 254)


def test_translation_and_rotation_move_pixels_where_they_should():
    moved = transforms.OPERATIONS["translate_x"](IMAGE[:, :15], strength=jnp.float32(0.2))       # by 0.2 * 15 / 3
    np.testing.assert_allclose(moved[:, :14], IMAGE[:, 1:15], atol=1e-5)
    np.testing.assert_allclose(moved[:, 14], 0.5, atol=1e-5)
    turned = transforms._affine(IMAGE[:, :12], transforms._rotation(jnp.float32(np.pi / 2)))
    np.testing.assert_allclose(turned, jnp.rot90(IMAGE[:, :12], -1), atol=1e-4)


def test_rand_augment_draws_other_operations_for_other_images():
    outs = [np.asarray(transforms.rand_augment(IMAGE, jax.random.key(i), count=1, magnitude=0.8)) for i in range(12)]
    assert len({out.tobytes() for out in outs}) > 4
    assert all((out >= 0).all() and (out <= 1).all() and np.isfinite(out).all() for out in outs)


# Of a batch

def batch_of(count=8):
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.uniform(1, 2, (count, 8, 8, 1)) + np.arange(count)[:, None, None, None] * 10, jnp.float32)
    return images, jax.nn.one_hot(jnp.arange(count), count), jax.random.split(KEY, count)


def test_mixup_mixes_images_as_it_mixes_labels():
    images, labels, keys = batch_of()
    mixed, shares = transforms.mixup(images, labels, keys, alpha=1.0)
    weights = np.asarray(shares)[np.arange(8), np.arange(8)]
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert len(set(weights.tolist())) > 4
    expected = weights[:, None, None, None] * images + (1 - weights)[:, None, None, None] * images[::-1]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_the_labels_of_cutmix_are_the_areas():
    images, labels, keys = batch_of()
    mixed, shares = transforms.cutmix(images, labels, keys)
    own = np.asarray((mixed == images).all(-1).mean((1, 2)))
    np.testing.assert_allclose(np.asarray(shares)[np.arange(8), np.arange(8)], own, atol=1e-6)
    assert ((np.asarray(mixed) == images) | (np.asarray(mixed) == images[::-1])).all()
    assert (own < 1).any()


# By name

ALL = ({"name": "rand_augment", "count": 1}, {"name": "cutout", "size": 4}, {"name": "mixup"},
       {"name": "colour_jitter"}, {"name": "random_resized_crop", "scale": (0.5, 1.0)}, {"name": "cutmix"},
       {"name": "random_erasing"})


def test_what_happens_to_an_image_does_not_depend_on_the_devices():
    images, labels, _ = batch_of()
    images = images / 100
    chosen = tuple(t for t in ALL if t["name"] not in transforms.BATCH)
    takes = ("pixels", "normalised")
    apply = jax.jit(lambda images, labels, first: transforms.apply(chosen, takes, images, labels, KEY, first)[0])
    whole, halves = apply(images, labels, 0), [apply(images[i:i + 4], labels[i:i + 4], i) for i in (0, 4)]
    np.testing.assert_allclose(whole, jnp.concatenate(halves), atol=1e-5)


def test_a_run_with_all_of_them_trains_and_counts_soft_labels(tmp_path, tiny):
    config = tiny("model.blocks=(1,)", "steps=2", "log_every=1", "eval_every=2")
    config.transforms = ALL
    classification.train(config, tmp_path / "run")
    rows = workdirs.read_rows(tmp_path / "run" / workdirs.METRICS)
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert workdirs.read_config(tmp_path / "run").transforms == ALL


def test_soft_labels_are_the_targets():
    import flax.linen as nn

    class Fixed(nn.Module):
        def __call__(self, x, *, train):
            return x
    logits, label = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[0.25, 0.75, 0.0]])
    value, (_, metrics) = classifier.loss(Fixed(), {}, {"image": logits, "label": label}, KEY,
                                              {"label_smoothing": 0.0})
    assert float(value) == pytest.approx(-float((jax.nn.log_softmax(logits) * label).sum()), rel=1e-5)
    assert float(metrics["error"]) == 1


@pytest.mark.parametrize(("text", "message"), [
    ("({'name':'cutot'},)", "'transforms': found 'cutot', expected one of .*; did you mean 'cutout'"),
    ("('cutout',)", "'transforms': found 'cutout', expected {'name'"),
    ("({'name':'cutout','sise':3},)", r"'transforms\[0\].sise': cutout has no such field; did you mean 'size'"),
    ("({'name':'mixup','alpha':'a'},)", r"'transforms\[0\].alpha': found 'a', expected float like 0.2"),
    ("({'name':'mixup','alpha':-1.0},)", r"'transforms\[0\].alpha': found -1.0"),
    ("({'name':'random_erasing','scale':(0.5,0.1)},)", r"'transforms\[0\].scale': found \(0.5, 0.1\), expected a pair"),
])
def test_what_is_no_transform_is_refused_by_name(tiny, text, message):
    config = tiny()
    configs.set_field(config, "transforms", text)
    with pytest.raises(UserError, match=message) as error:
        classification.check(config)
    assert "\n" not in str(error.value)
