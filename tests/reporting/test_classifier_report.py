"""The report of a run: of a finished one, of one under way, on other data, and what it refuses."""

import shutil

import pytest
from PIL import Image

from cnnjax import classification, cli
from cnnjax.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory, classifier_run):
    """A run of this module's own, to report on."""
    return shutil.copytree(classifier_run, tmp_path_factory.mktemp("report") / "run")


def test_eval_tells_the_error_of_the_last_row_and_writes_a_page_that_needs_no_other_file(run, capsys):
    assert cli.main(["eval", "--workdir", str(run)]) == 0
    said = capsys.readouterr().out
    row = classification.evaluate(run, "test")
    assert f"test error {100 * row['error']:.2f} %" in said
    page = (run / "report.html").read_text()
    assert f"top-1 error is {100 * row['error']:.2f} %" in page
    assert f"On {row['examples']} test images" in page
    for heading in ("Error of each class", "Confusions", "Calibration", "The most confident mistakes",
                    "Training", "Config"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png;base64,") == 4
    assert "src=\"http" not in page
    with Image.open(run / "figures" / "mistakes.png") as picture:
        assert picture.size[0] > 800


def test_a_run_under_way_is_shown_by_its_curves(tmp_path, classifier_run, capsys):
    half = shutil.copytree(classifier_run, tmp_path / "half")
    (half / "result.json").unlink()
    shutil.rmtree(half / "checkpoints")
    assert cli.main(["report", str(half)]) == 0
    page = (half / "report.html").read_text()
    assert "Confusions" not in page
    assert page.count("data:image/png;base64,") == 1


def test_data_may_have_moved_but_nothing_else_may_be_set(run, tmp_path):
    with pytest.raises(UserError, match=r"--config\.model\.width=8: a run is used as it was trained"):
        classification.evaluate(run, "test", overrides=["model.width=8"])
    for split in ("train", "test"):
        for name in "ab":
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("L", (16, 16)).save(folder / "1.png")
    with pytest.raises(UserError, match=r"has the classes a, b; .* was trained on 0, 1, 2"):
        classification.evaluate(run, "test", overrides=["data.source=folder", f"data.path={tmp_path}"])


@pytest.mark.parametrize(("split", "message"), [("validation", "made with data.validation = 0")])
def test_a_split_that_is_not_there_is_refused(run, split, message):
    with pytest.raises(UserError, match=message):
        classification.report(run, split)


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
