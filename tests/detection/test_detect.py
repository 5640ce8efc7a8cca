"""`cnnjax detect` on files: which it writes and which it leaves alone, with a detector that finds one box."""

import json

import numpy as np
import pytest

from cnnjax.detection import detect, faster_rcnn
from cnnjax.detection.inference import Prediction
from cnnjax.detection.saved import Saved
from cnnjax.errors import UserError
from cnnjax.evaluation.voc_ap import Detections
from cnnjax.reporting import boxes


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Detection into `out` of images named relative to the test's folder."""
    found = Prediction(Detections(np.array([[1, 1, 6, 6.0]]), np.array([0.9]), np.array([0])), np.zeros((0, 4)), {})
    monkeypatch.setattr(detect.saved, "load", lambda folder: Saved(faster_rcnn.create(1), ("cat",), {}))
    monkeypatch.setattr(detect.inference, "predict", lambda *arguments: found)

    def run(*names, out="out"):
        (tmp_path / out).mkdir(exist_ok=True)
        return detect.run(tmp_path, [tmp_path / name for name in names], tmp_path / out)
    return run


@pytest.fixture
def image(tmp_path):
    """Makes an image file of a grey of its own; its bytes."""
    def make(name, grey):
        path = tmp_path / name
        boxes.save(np.full((8, 8, 3), grey, np.uint8), path)
        return path.read_bytes()
    return make


def pictures(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


def test_inputs_in_the_output_folder_are_left_as_they_are(run, image, tmp_path):
    first, second = image("set/1.png", 10), image("set/2.PNG", 20)
    rows = run("set", out="set")
    assert [row["drawing"] for row in rows] == ["1-2.png", "2.png"]
    assert ((tmp_path / "set/1.png").read_bytes(), (tmp_path / "set/2.PNG").read_bytes()) == (first, second)


def test_run_again_over_its_own_folder_draws_the_same_inputs(run, image, tmp_path):
    image("set/1.png", 10)
    assert run("set", out="set") == run("set", out="set")
    assert pictures(tmp_path / "set") == ["1-2.png", "1.png"]


def test_an_earlier_drawing_given_as_input_is_not_replaced(run, image, tmp_path):
    image("1.jpg", 10)
    run("1.jpg")
    drawn = (tmp_path / "out/1.png").read_bytes()
    assert [row["drawing"] for row in run("out/1.png")] == ["1-2.png"]
    assert (tmp_path / "out/1.png").read_bytes() == drawn


@pytest.mark.parametrize(("names", "drawings"), [
    (["a/1.jpg", "b/1.jpg"], ["1.png", "1-2.png"]), (["a/1.jpg", "a/1.png"], ["1.png", "1-2.png"]),
    (["a/Dog.jpg", "b/dog.jpg"], ["Dog.png", "dog-2.png"]),
    (["a/1.jpg", "b/1.jpg", "c/1-2.jpg"], ["1.png", "1-2.png", "1-2-2.png"])])
def test_each_image_has_a_drawing_of_its_own(run, image, tmp_path, names, drawings):
    for grey, name in enumerate(names):
        image(name, 60 * grey)
    rows = run(*names)
    assert [row["drawing"] for row in rows] == drawings
    assert json.loads((tmp_path / "out/detections.json").read_text()) == rows
    middles = [int(np.asarray(detect.read_image(tmp_path / "out" / drawing))[-1, -1, 0]) for drawing in drawings]
    np.testing.assert_allclose(middles, [60 * grey for grey in range(len(names))], atol=2)


def test_files_of_others_in_the_output_folder_are_not_replaced(run, image, tmp_path):
    image("1.jpg", 10)
    others = image("out/1.png", 90)
    assert [row["drawing"] for row in run("1.jpg")] == ["1-2.png"]
    assert (tmp_path / "out/1.png").read_bytes() == others
    (tmp_path / "out/3.png").symlink_to(tmp_path / "nowhere.png")
    image("3.jpg", 10)
    assert [row["drawing"] for row in run("3.jpg")] == ["3-2.png"]
    assert not (tmp_path / "nowhere.png").exists()


@pytest.mark.parametrize("text", ["{}x", '{"images": []}', "[1]", '[{"image_id": 1}]'])
def test_detections_of_another_tool_are_not_overwritten(run, image, tmp_path, text):
    image("1.jpg", 10)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/detections.json").write_text(text)
    with pytest.raises(UserError, match=r"detections\.json is not of this command.*choose another --out"):
        run("1.jpg")
    assert (tmp_path / "out/detections.json").read_text() == text
