"""`cnnjax predict`: the classes of image files, as torchvision gives them, and what cannot be predicted."""

import csv
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from cnnjax import class_names, classification, cli, models, networks, predict, trained
from cnnjax.data.preprocessing import Preprocessing
from cnnjax.errors import UserError
from cnnjax.interop import to_torch, torch_fields, write_safetensors

sys.path.insert(0, str(Path(__file__).parent / "interop"))
from photographs import photographs, resnet50_state

GOLDEN = Path(__file__).parent / "interop" / "golden" / "predict.npz"


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """A file of ResNet-50's random weights in torchvision's keys."""
    module = models.create("resnet50", 1000, **torch_fields("resnet50"))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    state = resnet50_state({key: value.shape for key, value in to_torch("resnet50", empty).items()})
    state["fc.bias"] = np.load(GOLDEN)["bias"]
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    write_safetensors(path, state)
    return path


def pictures(folder, count=3, side=40):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (side, side + i, 3), np.uint8)).save(path)
    return paths


def test_golden_slice_of_torchvisions_top_5(resnet50, tmp_path):
    golden = np.load(GOLDEN)
    network = predict.of_weights("resnet50", str(resnet50))
    predictions, unread = predict.predict(network, photographs(tmp_path), batch_size=4)
    assert unread == []
    assert [p.file.name for p in predictions] == list(golden["files"])
    names = class_names.known("imagenet")
    for p, classes, probabilities in zip(predictions, golden["classes"], golden["probabilities"], strict=True):
        np.testing.assert_allclose(p.probabilities, probabilities, atol=1e-4)
        distinct = np.flatnonzero(probabilities[:-1] - probabilities[1:] > 2e-4)        # the order is theirs there
        assert [p.classes[i] for i in distinct] == [names[classes[i]] for i in distinct], p.file


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("ten_crop", [False, True])
def test_torchvisions_own_top_5(resnet50, tmp_path, suffix, ten_crop):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    from torchvision.transforms import functional

    from cnnjax.interop import read_state
    model = torchvision.models.resnet50(weights=None).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in read_state(resnet50).items()})
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    network = predict.of_weights("resnet50", str(resnet50))
    assert list(network.classes) == weights.meta["categories"]
    paths = photographs(tmp_path, suffix)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        paths.append(tmp_path / f"{name}{suffix}")
        Image.fromarray(pixels).save(paths[-1])
    predictions, _ = predict.predict(network, paths, ten_crop=ten_crop)
    for path, found in zip(paths, predictions, strict=True):
        image = Image.open(path).convert("RGB")
        if ten_crop:
            crops = functional.ten_crop(functional.resize(image, [256]), [224])
            x = torch.stack([functional.normalize(functional.to_tensor(crop), *networks.IMAGENET) for crop in crops])
        else:
            x = weights.transforms()(image)[None]
        with torch.no_grad():
            values, indices = model(x).softmax(1).mean(0).topk(5)
        np.testing.assert_allclose(found.probabilities, values.numpy(), atol=1e-4)
        assert found.classes == tuple(weights.meta["categories"][i] for i in indices.tolist())


def test_a_networks_views_by_hand():
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    folder = Preprocessing((6, 8), (0.5,) * 3, (0.5,) * 3)
    data = png(image)
    np.testing.assert_array_equal(folder.views(data, "x"), image[None])
    np.testing.assert_array_equal(folder.views(data, "x", flip=True), [image, image[:, ::-1]])
    crops = Preprocessing((4, 4), (0.5,) * 3, (0.5,) * 3, "torchvision", 6).views(data, "x", ten_crop=True)
    corners = ((0, 0), (0, 4), (2, 0), (2, 4), (1, 2))
    np.testing.assert_array_equal(crops, [side[y:y + 4, x:x + 4] for side in (image, image[:, ::-1])
                                          for y, x in corners])
    with pytest.raises(UserError, match="ten crops are square; this network takes images of 8x6"):
        folder.views(data, "x", ten_crop=True)
    grey = Preprocessing((6, 8), (0.5,), (0.5,)).views(data, "x")
    assert grey.shape == (1, 6, 8, 1)
    np.testing.assert_array_equal(grey[0, ..., 0], np.asarray(Image.fromarray(image).convert("L")))


def png(pixels):
    import io
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def test_an_image_too_narrow_to_resize_is_one_line():
    with pytest.raises(UserError, match="x is 1x9000, which is too narrow"):
        Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, "torchvision", 256).views(
            png(np.zeros((9000, 1, 3), np.uint8)), "x")


def test_probabilities_are_the_mean_over_views(tmp_path):
    network = predict.of_weights("resnet20", "cifar10")
    paths = pictures(tmp_path)
    (plain, _), (flipped, _) = (predict.predict(network, paths, top=10, flip=flip) for flip in (False, True))
    for path in paths:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    mirrored, _ = predict.predict(network, paths, top=10)
    for one, other, both in zip(plain, mirrored, flipped, strict=True):
        mean = {name: (dict(zip(one.classes, one.probabilities, strict=True))[name] + value) / 2
                for name, value in zip(other.classes, other.probabilities, strict=True)}
        for name, value in zip(both.classes, both.probabilities, strict=True):
            assert value == pytest.approx(mean[name], abs=1e-6)
        assert sum(both.probabilities) == pytest.approx(1, abs=1e-5)


def test_networks_of_the_package_give_the_errors_of_their_cards_preprocessing(tmp_path):
    network = predict.of_weights("plain20", "cifar10")
    module, variables, card = trained.load("plain20")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    x = (pixels / 255 - card["mean"]) / card["std"]
    expected = np.asarray(jax.nn.softmax(jax.jit(module.apply)(variables, x[None].astype(np.float32))[0]))
    [found], _ = predict.predict(network, [tmp_path / "x.png"], top=10)
    assert list(found.classes) == [card["classes"][i] for i in np.argsort(-expected)]
    np.testing.assert_allclose(found.probabilities, -np.sort(-expected), atol=1e-6)


def test_a_run_predicts_its_own_test_images(classifier_run, tmp_path, capsys):
    config = networks.read_run(classifier_run)
    dataset = classification.load_data(config)
    images = dataset.test.images[:60]
    paths = [tmp_path / f"{i:02}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
    network = predict.of_run(classifier_run)
    predictions, _ = predict.predict(network, paths)
    run = networks.load_run(classifier_run)
    x = (np.asarray(images, np.float32) / 255 - dataset.mean) / dataset.std
    logits = jax.jit(run.module.apply)(run.variables, x.astype(np.float32))
    assert [p.classes[0] for p in predictions] == [dataset.classes[i] for i in np.asarray(logits).argmax(1)]

    assert cli.main(["predict", str(tmp_path), "--workdir", str(classifier_run), "--top", "1"]) == 0
    assert capsys.readouterr().out.count(".png") == len(paths)


def run(*arguments):
    return cli.main(["predict", *map(str, arguments), "--model", "resnet20", "--weights", "cifar10"])


def test_a_detector_is_not_a_classifier(tmp_path):
    (tmp_path / "detector.json").touch()
    with pytest.raises(UserError, match="holds a detector, not a classifier; its images go to cnnjax detect"):
        predict.of_run(tmp_path)


def test_files_written(tmp_path, capsys):
    paths = pictures(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("x")
    nested = pictures(tmp_path / "in" / "deeper", 1)
    outputs = {name: tmp_path / f"out.{name}" for name in ("json", "csv")}
    arguments = (tmp_path / "in", "--top", "2", "--json", outputs["json"], "--csv", outputs["csv"], "--sheet",
                 tmp_path / "sheet.png")
    assert run(*arguments) == 0
    said = capsys.readouterr()
    assert "in/notes.txt: no image" in said.err
    rows = json.loads(outputs["json"].read_text())
    assert {row["file"] for row in rows} == {str(path) for path in (*paths, *nested)}
    for row in rows:
        assert [set(p) for p in row["predictions"]] == [{"class", "probability"}] * 2
        first, second = (p["probability"] for p in row["predictions"])
        assert 1 >= first >= second >= 0
    lines = list(csv.DictReader(outputs["csv"].read_text().splitlines()))
    assert [line["rank"] for line in lines] == ["1", "2"] * 4
    assert [float(line["probability"]) for line in lines] == [
        p["probability"] for row in rows for p in row["predictions"]]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 160
    for name in ("json", "csv"):
        outputs[name].write_text("mine")
    assert run(*arguments) == 2
    assert "out.json is there already" in capsys.readouterr().err
    assert [outputs[name].read_text() for name in outputs] == ["mine", "mine"]
    assert run(*arguments, "--overwrite") == 0
    assert json.loads(outputs["json"].read_text()) == rows


def test_no_image_is_written_over(tmp_path, capsys):
    paths = pictures(tmp_path)
    before = [path.read_bytes() for path in paths]
    for option in ("--sheet", "--json", "--csv"):
        assert run(*paths, option, paths[0], "--overwrite") == 2
        assert "0.png: is one of the images" in capsys.readouterr().err
    assert run(*paths, "--json", tmp_path / "x", "--csv", tmp_path / "x") == 2
    assert "written to twice" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before


def test_a_broken_image_is_told_and_the_others_are_done(tmp_path, capsys):
    paths = pictures(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    (tmp_path / "empty.jpg").touch()
    assert run(tmp_path, "--json", tmp_path / "out.json") == 2
    said = capsys.readouterr().err.splitlines()
    assert sum("1.png cannot be decoded" in line for line in said) == 1
    assert sum("empty.jpg is empty" in line for line in said) == 1
    assert said[-1] == "cnnjax: 2 of 4 images cannot be read, and are left out"
    assert [row["file"] for row in json.loads((tmp_path / "out.json").read_text())] == [str(paths[0]), str(paths[2])]


@pytest.mark.parametrize(("arguments", "message"), [
    (("none.png",), "none.png: no such image or folder"), (("empty",), r"empty: no image \(.jpg"),
    (("in", "--top", "0"), "--top 0: expected at least 1"),
    (("in", "--sheet", "x.txt"), "--sheet x.txt: found the suffix '.txt', expected one of .png"),
    (("in", "--json", "none/x.json"), "there is no folder none"),
    (("in", "--classes", "none.txt"), "none.txt: cannot be read as text"),
    (("in", "--classes", "two.txt"), "two.txt: names 2 classes, but cifar10 has 10"),
    (("in", "--classes", "twice.txt"), "twice.txt: the class 'a' stands there twice"),
    (("in", "--classes", "broken.json"), "broken.json: not readable as names of classes"),
    (("in", "--step", "3"), "--step is that of a run's checkpoint"),
    (("in", "--workdir", "in"), "--workdir and --model: a run knows its network")])
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    for name, text in (("two.txt", "a\nb\n"), ("twice.txt", "a\nb\na\n"), ("broken.json", '{"0": "a", "2": "b"}')):
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        raise UserError(one_line_of(run(*arguments), capsys))


def one_line_of(status, capsys):
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    return lines[-1]


@pytest.mark.parametrize(("model", "weights", "message"), [
    ("resnet20", "mine.safetensors", "mine.safetensors: has 7 classes, whose names are not known; give a file"),
    ("resnet32", "mine.safetensors", "these are not the weights of resnet32: missing layer1.3"),
    ("resnet18", "cifar10", "no trained weights of 'resnet18' come with the package"),
    ("resnet20", "cifar11", "cifar11: no such file of weights"), ("resnet21", "x", "unknown network 'resnet21'")])
def test_weights_that_cannot_be_used(tmp_path, monkeypatch, model, weights, message):
    monkeypatch.chdir(tmp_path)
    module = models.create("resnet20", 7)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    write_safetensors("mine.safetensors", to_torch("resnet20", variables))
    with pytest.raises(UserError, match=message):
        predict.of_weights(model, weights)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = predict.of_weights("resnet20", "cifar10")
    broken = jax.tree.map(lambda leaf: leaf * np.nan, network.variables)
    with pytest.raises(UserError, match=r"0\.png: the network gives no finite probabilities"):
        predict.predict(network._replace(variables=broken), pictures(tmp_path))


@pytest.mark.parametrize(("name", "text"), [
    ("x.txt", "ant\n\nbee \n"), ("x.txt", "\ufeffant\r\nbee"), ("x.json", '["ant", "bee"]'),
    ("x.json", '{"1": "bee", "0": "ant"}'), ("x.json", '{"0": ["n01", "ant"], "1": ["n02", "bee"]}')])
def test_names_of_classes_from_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert class_names.read(tmp_path / name) == ("ant", "bee")


def test_imagenets_names():
    names = class_names.known("imagenet")
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[134], names[517], names[999]) == ("tench", "crane bird", "crane", "toilet tissue")
