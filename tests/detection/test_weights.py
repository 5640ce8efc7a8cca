"""What a detector starts from: the weights of a classifier, from a run of `cnnjax train` or from a PyTorch file."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import classification, models
from cnnjax.configs import defaults
from cnnjax.configs.ladder import defaults as ladder
from cnnjax.data import synthetic_digits
from cnnjax.detection import backbones, pretraining, settings
from cnnjax.errors import UserError
from cnnjax.interop import to_torch
from cnnjax.interop.files import write_safetensors
from cnnjax.training import loop, workdir
from cnnjax.training import run as runs
from cnnjax.training import state as states


def config_of(weights, **backbone):
    config = ladder.ladder()
    config.rcnn.update(side=16, context=2)
    config.backbone.update(name="resnet20", stage="stage2", head="stage", pool=4, frozen=(), weights=str(weights))
    config.backbone.update(backbone)
    return config


def begin(config, folder):
    images = synthetic_digits.generate("train", 1, 64, 0)
    return backbones.flat(pretraining.backbone(settings.detector_of(config, "rcnn", 2), config.pretraining, images, 0,
                                               False, folder))


def randomly_filled(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)


def test_a_detector_starts_from_a_file_of_pytorch(tmp_path):
    shapes = jax.eval_shape(lambda: models.create("resnet20").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    classifier = randomly_filled(shapes)
    write_safetensors(tmp_path / "net.safetensors", to_torch("resnet20", classifier))
    given = backbones.flat(classifier)
    taken = begin(config_of(tmp_path / "net.safetensors"), tmp_path / "none")
    for path, value in taken.items():
        if "classes" not in path and not path.startswith("linear/"):
            there = path.replace("trunk/net/", "").replace("head/", "")
            np.testing.assert_array_equal(value, given[there], err_msg=path)
    assert "params/head/stage3_block1/conv1/kernel" in taken
    assert "batch_stats/trunk/net/stage1_block1/norm1/mean" in taken
    assert not (tmp_path / "none").exists()             # nothing was pre-trained

    with pytest.raises(UserError, match=r"backbone\.weights: .*does not exist"):
        begin(config_of(tmp_path / "no.pth"), tmp_path)


def test_weights_whose_bottlenecks_stride_elsewhere_are_refused(tmp_path):
    (tmp_path / "resnet50.pth").touch()
    with pytest.raises(UserError, match=r"stride_in_3x3: found False, but the resnet50 .* trained with True"):
        begin(config_of(tmp_path / "resnet50.pth", name="resnet50", stage="stage3"), tmp_path)


def test_a_detector_starts_from_a_run_of_training(tmp_path):
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), "red" if name == "a" else "blue").save(folder / "1.png")
    trained = defaults.classification()
    trained.model.update(name="resnet20")
    trained.data.update(source="folder", path=str(tmp_path / "images"), cache=str(tmp_path / "cache"))
    # what a run leaves, without its steps: 20 layers take long to compile
    run = tmp_path / "run"
    with workdir.claim(run, trained):
        task = classification.task(trained)
        runs.describe(run, task.describe(), task.best)
        empty = jax.eval_shape(lambda: states.create(trained, task.init))
        state = randomly_filled(empty.params)
        whole = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), empty).replace(params=state)
        with contextlib.closing(loop.open_checkpoints(trained, run, None)) as checkpoints:
            checkpoints.save(1, whole, {})
            checkpoints.wait()
    given = backbones.flat(state)
    # layers that the classifier has not are new, here the dense head
    taken = begin(config_of(run, stage="stage3", head="dense", hidden=(8,)), tmp_path / "none")
    for path, value in taken.items():
        if path.startswith("params/trunk/net/"):
            np.testing.assert_array_equal(value, given[path.removeprefix("params/trunk/net/")], err_msg=path)
    assert taken["params/head/fc6/kernel"].shape == (4 * 4 * 64, 8)
    assert "params/trunk/net/stage3_block3/conv2/kernel" in taken
