"""Runs that begin from weights trained before: of a run, of PyTorch, of the package; what of them is new or held."""

import jax
import numpy as np
import pytest

from cnnjax import classification, interop, models, networks, trained
from cnnjax.data.sets import Dataset, ImageSet
from cnnjax.errors import UserError
from cnnjax.training.checkpoints import leaves

SHORT = ("steps=2", "log_every=1", "optimizer.learning_rate=0.01", "schedule.boundaries=(10,)")


def images_of(classes, side=16, channels=1):
    rng = np.random.default_rng(0)
    split = ImageSet(rng.integers(0, 256, (32, side, side, channels)).astype(np.uint8),
                     np.arange(32, dtype=np.int32) % len(classes))
    return Dataset(split, None, split, tuple(classes), np.zeros(channels, np.float32), np.ones(channels, np.float32))


def start_of(config, dataset):
    """The variables that a run begins from."""
    return leaves(classification.task(config, dataset).init(jax.random.key(1)))


def test_a_run_begins_from_another_and_from_its_pixels_mean_and_deviation(classifier_run, tiny, capsys):
    config = tiny(f"init.weights={classifier_run}")
    run = networks.load_run(classifier_run)
    task = classification.task(config, images_of("0123456789"))
    before, after = leaves(run.variables), leaves(task.init(jax.random.key(1)))
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    np.testing.assert_array_equal(task.dataset.mean, run.mean)
    np.testing.assert_array_equal(task.dataset.std, run.std)
    assert "new: nothing" in capsys.readouterr().err


@pytest.mark.parametrize("classes", ["abc", "abcdefghij"])
def test_the_last_layer_is_new_where_the_classes_are_others_even_as_many(classifier_run, tiny, capsys, classes):
    run = leaves(networks.load_run(classifier_run).variables)
    begun = start_of(tiny(f"init.weights={classifier_run}"), images_of(classes))
    new = [name for name in run if np.shape(begun[name]) != np.shape(run[name]) or (begun[name] != run[name]).any()]
    assert "params/classifier/kernel" in new
    assert all(name.startswith("params/classifier/") for name in new)
    assert "new: params/classifier/" in capsys.readouterr().err


def test_a_fine_tuned_run_is_trained_and_loaded(tmp_path, classifier_run, tiny):
    config = tiny(f"init.weights={classifier_run}", *SHORT)
    config.init.frozen = ("stage1_", "conv1", "norm1")
    classification.train(config, tmp_path / "tuned", dataset=images_of("abc"))
    before, after = (leaves(networks.load_run(folder).variables) for folder in (classifier_run, tmp_path / "tuned"))
    for name in before:
        if name.startswith(("params/stage1_", "params/conv1", "params/norm1")):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert np.abs(after["params/stage2_block1/conv1/kernel"] - before["params/stage2_block1/conv1/kernel"]).max() > 0
    assert networks.load_run(tmp_path / "tuned").classes == ("a", "b", "c")


@pytest.mark.parametrize("held", [True, False])
def test_batch_norm_keeps_its_statistics_where_that_is_asked(tmp_path, classifier_run, tiny, held):
    config = tiny(f"init.weights={classifier_run}", f"init.freeze_norm={held}", *SHORT)
    classification.train(config, tmp_path / "tuned", dataset=images_of("abc"))
    before, after = (networks.load_run(folder).variables["batch_stats"] for folder in
                     (classifier_run, tmp_path / "tuned"))
    same = all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))
    assert same == held


def test_a_file_of_pytorch_and_one_of_the_package(tmp_path, tiny):
    """CIFAR networks of PyTorch keep the data set's own mean; the package knows that of its images."""
    shapes = jax.eval_shape(models.create("resnet20").init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    interop.write_safetensors(tmp_path / "w.safetensors", interop.to_torch("resnet20", variables))
    dataset = images_of("0123456789", 32, 3)
    for source, mean in (("cifar10", trained.load("resnet20")[2]["mean"]), (tmp_path / "w.safetensors", dataset.mean)):
        config = tiny(f"init.weights={source}")
        del config.model.blocks, config.model.width
        task = classification.task(config, dataset)
        np.testing.assert_array_equal(task.dataset.mean, np.float32(mean))
    found = leaves(task.init(jax.random.key(1)))
    np.testing.assert_array_equal(found["params/conv1/kernel"], variables["params"]["conv1"]["kernel"])


@pytest.mark.parametrize(("overrides", "message"), [
    (("init.weights={run}", "model.width=8"), r"'model.width': found 8, but the weights of .* with 4; set --config"),
    (("init.weights={run}", "model.name=vgg11"), "is of resnet20, not of vgg11"),
    (("init.weights=nowhere.pth",), "'init.weights': there is no file or workdir nowhere.pth"),
    (("init.weights={text}",), "text.pth"),
    (("init.weights={folder}",), "is not a run"),
    (("init.frozen=('stagee1',)",), "'init.frozen': no parameter begins with 'stagee1'"),
])
def test_what_cannot_be_begun_from_is_refused_in_one_line(tmp_path, classifier_run, tiny, overrides, message):
    (tmp_path / "text.pth").write_text("no weights")
    places = {"run": classifier_run, "text": tmp_path / "text.pth", "folder": tmp_path}
    config = tiny(*(override.format(**places) for override in overrides))
    if config.model.name == "vgg11":
        del config.model.blocks
    with pytest.raises(UserError, match=message) as error:
        classification.task(config, images_of("abc", 32))
    assert "\n" not in str(error.value)
