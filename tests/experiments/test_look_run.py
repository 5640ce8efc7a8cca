"""`cnnjax look` on a run: pictures of its test images or of a file, and what it refuses."""

import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from cnnjax import cli
from cnnjax.errors import UserError
from cnnjax.experiments import look, why_depth


@pytest.fixture(scope="module")
def run(tmp_path_factory, classifier_run):
    """A run of this module's own, to draw in."""
    return shutil.copytree(classifier_run, tmp_path_factory.mktemp("look") / "run")


def test_pictures_of_a_run_and_of_a_file(run, tmp_path):
    paths = look.run(run, count=2)
    assert {path.name for path in paths} == {"kernels.png", "features.png", "grad_cam.png"}
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 50
    before = (run / "figures" / "grad_cam.png").read_bytes()
    photograph = tmp_path / "photograph.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(photograph)
    look.run(run, image=photograph, stage="stage1")
    assert (run / "figures" / "grad_cam.png").read_bytes() != before


def test_the_images_may_have_moved(run, tmp_path, capsys):
    look.run(run, count=2)
    before = (run / "figures" / "grad_cam.png").read_bytes()
    labels = np.arange(20, dtype=np.uint8) % 10
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", np.full((20, 8, 8), 40, np.uint8)), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    moved = ["--config.data.source=idx", f"--config.data.path={tmp_path}"]
    assert cli.main(["look", "--workdir", str(run), "--count", "2", *moved, "--config.data.image_size=16"]) == 0
    assert (run / "figures" / "grad_cam.png").read_bytes() != before
    for more, message in ((["--config.model.width=8"], "a run is used as it was trained"),
                          (["--image", "x.png", *moved], "look --image takes no --config fields"),
                          (moved, "has images of (8, 8, 1), rows, columns, channels")):
        assert cli.main(["look", "--workdir", str(run), *more]) == 2
        assert message in capsys.readouterr().err


def test_a_file_becomes_what_the_network_takes(tmp_path):
    half = np.zeros((10, 20, 3), np.uint8)
    half[:, 10:] = 255
    file = tmp_path / "half.png"
    Image.fromarray(half).save(file)
    image = look.read_image(file, (16, 16, 1))
    assert image.shape == (16, 16, 1)
    assert (image[:, :6] == 0).all()
    assert (image[:, 10:] == 255).all()


@pytest.mark.parametrize(("fields", "message"), [
    ({"count": 0}, "--count 0: expected 1 or more"),
    ({"stage": "stage9"}, "stage9"),
    ({"step": 3}, "--step 3"),
    ({"image": "absent.png"}, "absent.png: no such file"),
    ({"image": "."}, "a folder, expected an image file"),
    ({"image": "text.png"}, "text.png"),
])
def test_what_cannot_be_shown_is_refused(run, tmp_path, fields, message):
    (tmp_path / "text.png").write_text("no image")
    if "image" in fields:
        fields = {"image": tmp_path / fields["image"]}
    with pytest.raises(UserError, match=message) as error:
        look.run(run, **fields)
    assert "\n" not in str(error.value)


def test_the_landscape_of_a_run(run, monkeypatch):
    monkeypatch.setattr(why_depth, "SURFACE_IMAGES", 20)
    path = look.landscape(run)
    assert path == run / "figures" / "landscape.png"
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize(("networks", "data", "message"), [
    (["resnet65"], ".", "'resnet65' come with the package; did you mean 'resnet56'"),
    (["resnet56"], None, "--trained needs --data"),
    (["resnet56"], "two", "found images .* of classes ant, bee; resnet56 was trained on CIFAR-10"),
])
def test_a_landscape_that_cannot_be_drawn_is_refused(tmp_path, networks, data, message):
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            folder = tmp_path / "two" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "1.png")
    with pytest.raises(UserError, match=message):
        look.landscape(tmp_path / "out", networks=networks, data=data and tmp_path / data)
    assert not (tmp_path / "out").exists()
