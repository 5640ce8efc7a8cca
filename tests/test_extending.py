"""A detector, transforms and an optimizer from outside of the library, which knows none of them by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import classification, config, detection, networks
from cnnjax.configs.ladder.defaults import shortened
from cnnjax.data import transforms
from cnnjax.data.box_transforms import chain
from cnnjax.detection import saved
from cnnjax.errors import UserError
from cnnjax.experiments import ladder
from cnnjax.training import workdir as workdirs
from cnnjax.training.checkpoints import leaves
from tests.detection import tiny_ladder

HERE = "tests.test_extending"


# What a user writes in a module of their own; tests/detection/toy_detector.py is the detector.

def darkened(image, key, *, share=0.5):
    """A transform of one image."""
    return image * (1 - share)


def shifted(image, label, keys, *, places=1):
    """A transform of a batch: the images and labels of others."""
    return jnp.roll(image, places, 0), jnp.roll(label, places, 0)


def bordered(rng, sample, *, pixels: int = 2):
    """A transform of an image and its boxes."""
    return sample | {"image": np.pad(sample["image"], ((pixels, pixels), (pixels, pixels), (0, 0))),
                     "boxes": sample["boxes"] + np.float32(pixels)}


def without_default(image, key, *, share):
    return image


NUMBER = 3


def test_transforms_of_ones_own_are_applied_by_what_they_take():
    images, labels = jnp.arange(8.0).reshape(2, 2, 2, 1), jnp.eye(2)
    chosen = ({"name": f"{HERE}:darkened", "share": 0.75}, {"name": f"{HERE}:shifted"})
    transforms.check(chosen, "transforms")
    found, same = transforms.apply(chosen, ("pixels",), images, labels, jax.random.key(0))
    np.testing.assert_array_equal(found, images / 4)
    np.testing.assert_array_equal(same, labels)
    found, moved = transforms.apply(chosen, ("normalised", "batch"), images, labels, jax.random.key(0))
    np.testing.assert_array_equal(found, images[::-1])
    np.testing.assert_array_equal(moved, labels[::-1])


def test_a_transform_of_ones_own_moves_boxes():
    sample = {"image": np.ones((4, 6, 3), np.uint8), "boxes": np.array([[0, 1, 2, 3]], np.float32)}
    transform = chain([{"name": f"{HERE}:bordered", "pixels": 3}, {"name": "flip", "probability": 1.0}])
    found = transform(np.random.default_rng(0), sample)
    assert found["image"].shape == (10, 12, 3)
    np.testing.assert_array_equal(found["boxes"], [[7, 4, 9, 6]])


def test_a_classifier_takes_a_transform_of_ones_own_and_any_optimizer_of_optax(tmp_path, tiny):
    settings = tiny("model.blocks=(1,)", "data.pad=0", "steps=1", "log_every=1", "schedule.name=constant",
                    "optimizer.name=lion", "optimizer.learning_rate=0.25", "optimizer.weight_decay=0.0")
    config.set_field(settings, "transforms", f"({{'name':'{HERE}:darkened','share':1.0}},)")
    task = classification.task(settings)
    batch = task.get_batch(task.data().arrays, jax.random.key(0), jnp.int32(0), jnp.int32(0), 1)
    assert float(batch["image"].std()) == pytest.approx(0, abs=1e-6)        # black
    classification.train(settings, tmp_path / "run")
    begun = leaves(task.init(jax.random.fold_in(jax.random.key(0), 0))["params"])
    trained = leaves(networks.load_run(tmp_path / "run").variables["params"])
    moved = np.abs(trained["classifier/bias"] - begun["classifier/bias"])
    np.testing.assert_allclose(moved, 0.25)                                 # Lion's update is a sign


def test_a_detector_takes_a_transform_of_ones_own_and_any_optimizer_of_optax(tmp_path, monkeypatch):
    monkeypatch.setitem(detection.MODULES, "toy", "tests.detection.toy_detector")
    settings = tiny_ladder.get_config()
    settings.detectors = ("toy",)
    training = shortened(10, 2, 0.25)
    training.optimizer.update(name="lion", weight_decay=0.0)
    settings.toy = {"channels": 2, "training": training, "transforms": ({"name": f"{HERE}:bordered", "pixels": 1},)}
    ladder.run(settings, tmp_path / "run")
    detector, _, variables = saved.load(tmp_path / "run" / "cells" / "toy")
    assert detector.title == "Toy"
    assert np.isfinite(jax.tree.leaves(variables)[0]).all()
    assert "largest" in workdirs.read_rows(tmp_path / "run" / "cells" / "toy" / workdirs.METRICS)[0]


@pytest.mark.parametrize(("name", "message"), [
    ("tests.test_extending:nothing", r"'transforms': found 'tests.test_extending:nothing', which cannot be imported "
                                     r"\(AttributeError"),
    ("tests.no_module:nothing", r"which cannot be imported \(ModuleNotFoundError: No module named 'tests.no_module'\)"),
    ("tests.test_extending:NUMBER", r"which cannot be imported \(TypeError: 3 is not a callable object"),
    ("tests.test_extending:without_default", "whose 'share' has no default"),
    (":", "which cannot be imported"),
])
def test_what_cannot_be_imported_is_refused_in_one_line(name, message):
    for check in (lambda: transforms.check(({"name": name},), "transforms"), lambda: chain([{"name": name}])):
        with pytest.raises(UserError, match=message.replace("'transforms'", r"'transforms(\[0\]\.name)?'")) as error:
            check()
        assert "\n" not in str(error.value)


def test_a_field_that_a_transform_of_ones_own_has_not_is_refused():
    with pytest.raises(UserError, match=r"'transforms\[0\]\.shar': tests.test_extending:darkened has no such field; "
                                        "did you mean 'share'"):
        transforms.check(({"name": f"{HERE}:darkened", "shar": 0.5},), "transforms")
    with pytest.raises(UserError, match=r"which takes \(x\), expected \(image, key\)"):
        transforms.check(({"name": "math:sqrt"},), "transforms")
    with pytest.raises(UserError, match=r"'transforms\[0\]\.pixels': found 0\.5, expected one like 2"):
        chain([{"name": f"{HERE}:bordered", "pixels": 0.5}])
