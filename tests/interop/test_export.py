"""`cnnjax export`: each format, read again, gives the network's answers; what a format cannot hold is refused."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cnnjax import cli, models, predict
from cnnjax.errors import UserError
from cnnjax.interop import export, from_torch, read_state, to_torch, torch_pickle

OUTSIDE = Path(__file__).with_name("outside.py")
NETWORKS = {"resnet20": ({}, (32, 32, 3)), "plain20": ({"blocks": (1, 1, 1)}, (32, 32, 3)), "lenet5": ({}, (32, 32, 1)),
            "alexnet": ({"filters": (8, 16, 24, 16, 16), "hidden": 24}, (227, 227, 3)),
            "vgg11": ({"width": 4, "hidden": 24, "pool_to": 2}, (64, 64, 3)),
            "googlenet": ({"aux": False}, (64, 64, 3)), "resnet50": ({}, (64, 64, 3))}


def network(name, **more):
    """A network and random variables that neither explode nor vanish: to make them by `init` takes its compiler."""
    fields, shape = NETWORKS[name]
    module = models.create(name, 7, **fields | more)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape))))
    rng = np.random.default_rng(0)

    def leaf(shape):
        return (rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape) if len(shape) > 1 else rng.uniform(0.5, 1, shape))
    return module, jax.tree.map(lambda like: leaf(like.shape).astype(np.float32), shapes), shape


@pytest.mark.parametrize("name", ["plain20", "lenet5", "alexnet", "vgg11",
                                  pytest.param("googlenet", marks=pytest.mark.slow)])
def test_stablehlo_is_one_program_for_any_batch_size_and_platform(name, tmp_path):
    module, variables, shape = network(name)
    path = tmp_path / "net.stablehlo"
    assert export.export("stablehlo", path, name, module, variables, shape, {"mean": [0.5]}) < 1e-4
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    for count in (2, 5):
        images = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
        np.testing.assert_allclose(program.call(images), jax.jit(module.apply)(variables, images), rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "net.stablehlo.json").read_text()) == {"mean": [0.5]}
    assert {p.name for p in tmp_path.iterdir()} == {"net.stablehlo", "net.stablehlo.json"}


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_programs_run_without_cnnjax(format, tmp_path):
    if format == "onnx":
        pytest.importorskip("jax2onnx")
    module, variables, shape = network("resnet20")
    path = tmp_path / f"net.{format}"
    export.export(format, path, "resnet20", module, variables, shape, {})
    images = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    np.savez(tmp_path / "in.npz", images)
    subprocess.run([sys.executable, OUTSIDE, path, tmp_path / "in.npz", tmp_path / "out.npz"], check=True)
    (found,) = np.load(tmp_path / "out.npz").values()
    np.testing.assert_allclose(found, module.apply(variables, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["plain20", "vgg11", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("alexnet", "googlenet", "resnet50"))])
def test_onnx_is_one_graph_for_any_batch_size(name, tmp_path, capsys):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    import onnx
    module, variables, shape = network(name)
    path = tmp_path / "net.onnx"
    assert export.export("onnx", path, name, module, variables, shape, {"mean": [0.5]}) < 1e-4
    assert capsys.readouterr().out == ""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [json.loads(p.value) for p in model.metadata_props if p.key == "cnnjax"] == [{"mean": [0.5]}]
    run = export._read_onnx(path, name)
    for count in (2, 5):
        images = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
        np.testing.assert_allclose(run(images), module.apply(variables, images), rtol=1e-4, atol=1e-4)


def test_onnx_holds_lenet5_or_refuses_it_in_one_line(tmp_path):
    """Its pooling is converted wrongly by some versions of jax2onnx."""
    pytest.importorskip("jax2onnx")
    module, variables, shape = network("lenet5")
    path = tmp_path / "net.onnx"
    try:
        export.export("onnx", path, "lenet5", module, variables, shape, {})
    except UserError as error:
        assert str(error).startswith("--format onnx: ")                         # noqa: PT017
        assert "\n" not in str(error)                                           # noqa: PT017
        assert not [*tmp_path.iterdir()]
    else:
        images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
        expected = module.apply(variables, images)
        np.testing.assert_allclose(export._read_onnx(path, "lenet5")(images), expected, rtol=1e-4, atol=1e-3)


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    module, variables, shape = network("resnet20")
    with pytest.raises(UserError, match=r"--format onnx: jax2onnx is not installed; pip install"):
        export.export("onnx", tmp_path / "net.onnx", "resnet20", module, variables, shape, {})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("format", ["torch", "safetensors"])
@pytest.mark.parametrize("name", ["resnet20", "plain20"])
def test_state_dicts_are_read_as_pytorchs(name, format, tmp_path):
    module, variables, shape = network(name)
    path = tmp_path / "net"                                         # no suffix is needed
    fields = NETWORKS[name][0]
    if fields:
        with pytest.raises(UserError, match=f"PyTorch's {name} cannot hold this network: .* missing layer1.1"):
            export.export(format, path, name, module, variables, shape, {})
        assert not [*tmp_path.iterdir()]
        return
    assert export.export(format, path, name, module, variables, shape, {"classes": ["a"]}) == 0
    path = path.rename(tmp_path / ("net.pth" if format == "torch" else "net.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, from_torch(name, path), variables)
    if format == "torch":
        with zipfile.ZipFile(path) as archive:
            assert json.loads(archive.read("archive/extra/metadata.json")) == {"classes": ["a"]}
    else:
        with safetensors.safe_open(path, "np") as file:
            assert json.loads(file.metadata()["cnnjax"]) == {"classes": ["a"]}
        for key, value in safetensors.numpy.load_file(path).items():
            np.testing.assert_array_equal(value, to_torch(name, variables)[key], err_msg=key)


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("lenet5", {}, "lenet5 has no PyTorch weights"), ("alexnet", {}, "PyTorch's alexnet cannot hold this network"),
    ("resnet20", {"shortcut": "C"}, "PyTorch's resnet20 cannot hold this network"),
    pytest.param("resnet50", {}, "gives other answers than the network", marks=pytest.mark.slow)])
def test_what_pytorch_cannot_hold_is_refused(name, fields, message, tmp_path):
    module, variables, shape = network(name, **fields)
    with pytest.raises(UserError, match=message):
        export.export("torch", tmp_path / "net.pth", name, module, variables, shape, {})
    assert not [*tmp_path.iterdir()]


def test_state_dicts_of_every_dtype_there_and_back(tmp_path):
    state = {"matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T, "count": np.array(7), "empty": np.zeros((0, 2)),
             "half": np.ones((2, 1, 2), np.float16), "flags": np.array([True, False]), "naïve": np.zeros(1, np.int8)}
    torch_pickle.save(tmp_path / "x.pth", state)
    back = read_state(tmp_path / "x.pth")
    assert list(back) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
        assert back[key].dtype == value.dtype


@pytest.mark.slow
def test_torch_reads_what_is_exported(tmp_path):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    from safetensors.torch import load_file
    module = models.create("resnet50", 5, stride_in_3x3=True)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    for format, load in (("torch", lambda path: torch.load(path, weights_only=True)), ("safetensors", load_file)):
        path = tmp_path / f"net.{format}"
        export.export(format, path, "resnet50", module, variables, (64, 64, 3), {})
        theirs = torchvision.models.resnet50(num_classes=5).eval()
        theirs.load_state_dict(load(path))                                      # strict: every key, no other
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        np.testing.assert_allclose(module.apply(variables, images), expected, atol=1e-4, rtol=1e-4)


def test_a_file_whose_answers_differ_is_not_kept(tmp_path, monkeypatch):
    module, variables, shape = network("resnet20")
    broken = jax.tree.map(lambda leaf: leaf * 1.01, variables)
    write, read = export._WRITERS["torch"]
    monkeypatch.setitem(export._WRITERS, "torch", (lambda path, name, module, variables, *rest: write(
        path, name, module, broken, *rest), read))
    with pytest.raises(UserError, match=r"--format torch: read again, the file gives other answers"):
        export.export("torch", tmp_path / "net.pth", "resnet20", module, variables, shape, {})
    assert not [*tmp_path.iterdir()]


def test_the_command(tmp_path, capsys):
    arguments = ["export", "--model", "resnet20", "--weights", "cifar10", "--format"]
    for format in ("stablehlo", "torch", "safetensors"):
        path = tmp_path / f"net.{format}"
        assert cli.main([*arguments, format, "--out", str(path)]) == 0
        assert f"resnet20 as {format}" in capsys.readouterr().out
        path.write_bytes(b"mine")
        assert cli.main([*arguments, format, "--out", str(path)]) == 2
        assert "is there already" in capsys.readouterr().err
        assert path.read_bytes() == b"mine"
        assert cli.main([*arguments, format, "--out", str(path), "--overwrite"]) == 0
    said = json.loads((tmp_path / "net.stablehlo.json").read_text())
    assert (said["network"], len(said["classes"]), said["image_shape"]) == ("resnet20", 10, [32, 32, 3])
    assert said["preprocessing"]["style"] == "fit"
    assert cli.main([*arguments, "torch", "--out", str(tmp_path / "none" / "x.pth")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_run_is_exported(classifier_run, tmp_path, capsys):
    path = tmp_path / "net.stablehlo"
    assert cli.main(["export", "--workdir", str(classifier_run), "--format", "stablehlo", "--out", str(path)]) == 0
    found = predict.of_run(classifier_run)
    images = np.random.default_rng(0).normal(size=(4, *found.image_shape)).astype(np.float32)
    np.testing.assert_allclose(jax.export.deserialize(bytearray(path.read_bytes())).call(images),
                               jax.jit(found.module.apply)(found.variables, images), atol=1e-4)
