"""Sets of images without splits: a part is held out by seed, kept and said."""

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data.detection import hold_out
from cnnjax.data.detection_sets import DetectionSet, Objects
from cnnjax.data.holdout import held_out
from cnnjax.errors import UserError
from tests.data.test_folders import _array, _png


@pytest.fixture
def classes(tmp_path):
    """Ten images of cats and five of dogs, each in a folder."""
    for kind, count in (("cat", 10), ("dog", 5)):
        for i in range(count):
            (tmp_path / "set" / kind / "sub").mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / kind / ("sub" * (i % 2)) / f"{i}.png").write_bytes(_png(_array(i)))
    return tmp_path / "set"


def _load(path, seed=0, **fields):
    return data.load({"source": "folder", "path": str(path), "cache": str(path.parent / "cache"), **fields}, seed)


def _error(*args, **fields):
    with pytest.raises(UserError) as caught:
        _load(*args, **fields)
    return str(caught.value)


def test_a_folder_of_classes_is_split_by_seed_within_each_class_and_said(classes):
    (classes / "README.md").write_text("about")
    dataset = _load(classes)
    assert dataset.classes == ("cat", "dog")
    assert [(s.labels == c).sum() for s in (dataset.train, dataset.test) for c in (0, 1)] == [8, 4, 2, 1]
    assert dataset.notes == (f"no splits in {classes}: 3 of its 15 images are the test, drawn by seed 0 from each "
                             "class (data.test_share=0.2)",)
    assert len(dataset.split["train"]) == 12
    assert dataset.left_out == ("README.md: beside the class folders, so of no class",)
    for i, name in enumerate(dataset.split["test"]):
        assert (dataset.test.images[i] == _array(int(name.rpartition("/")[2][:-4]))).all()
        assert name.startswith(dataset.classes[dataset.test.labels[i]])


def test_the_draw_is_the_seed_s_and_the_share_s(classes):
    first = _load(classes).split
    assert _load(classes).split == first
    assert _load(classes, seed=1).split != first
    assert len(_load(classes, test_share=0.4).split["test"]) == 6
    for share in (0, 1, -0.5, 2, float("nan")):
        assert "data.test_share: found" in _error(classes, test_share=share)


def test_validation_is_held_out_of_what_stays(classes):
    dataset = _load(classes, validation=4)
    assert [len(s.labels) for s in (dataset.train, dataset.validation, dataset.test)] == [8, 4, 3]


def test_one_class_or_one_image_is_too_few(classes, tmp_path):
    for file in list((classes / "dog").rglob("*.png"))[1:]:
        file.unlink()
    assert "class 'dog' has 1 image, too few to hold some out for testing" in _error(classes)
    next((classes / "dog").rglob("*.png")).unlink()
    assert "class dog has no image" in _error(classes)
    (classes / "dog" / "sub").rmdir()
    (classes / "dog").rmdir()
    assert "has one class only, 'cat'" in _error(classes)


def test_a_training_folder_alone_may_be_named_itself(classes, tmp_path):
    (tmp_path / "all").mkdir()
    classes.rename(tmp_path / "all" / "train")
    assert f"or name {tmp_path / 'all'}/train, of which data.test_share is then the test" in _error(tmp_path / "all")
    assert len(_load(tmp_path / "all" / "train").test.labels) == 3


@pytest.mark.parametrize(("count", "share", "expected"), [(2, 0.2, 1), (10, 0.2, 2), (10, 0.99, 9), (1000, 0.2, 200)])
def test_some_are_held_out_and_some_are_not(count, share, expected):
    names = [f"{i}.png" for i in range(count)]
    held = held_out(names, share, 0, "x")
    assert sum(held) == expected
    assert held_out(names[::-1], share, 0, "x") == held[::-1]


def test_a_name_more_moves_at_most_one_other():
    names = [f"{i}.png" for i in range(100)]
    before = {n for n, out in zip(names, held_out(names, 0.2, 3, "x"), strict=True) if out}
    for new in ("a.png", "b.png", "c.png"):
        after = {n for n, out in zip([*names, new], held_out([*names, new], 0.2, 3, "x"), strict=True) if out}
        assert len(before - after) <= 1


def annotated(names, difficult=()):
    """One object an image; image i is filled with i."""
    objects = tuple(Objects.of([((0, 0, 4, 4), 0, name in difficult, False)]) for name in names)
    return DetectionSet(tuple(names), np.full((len(names), 2), 8), objects,
                        lambda i: np.full((8, 8, 3), i, np.uint8))


def test_validation_images_are_held_out_of_a_detection_set_by_name():
    names = [f"{i}.jpg" for i in range(10)]
    kept, held = hold_out(annotated(names), 3, 0)
    assert len(held) == 3
    assert sorted(kept.names + held.names) == names
    assert [held.read(i)[0, 0, 0] for i in range(3)] == [names.index(name) for name in held.names]
    again = hold_out(annotated(names[::-1]), 3, 0)[1]
    assert sorted(again.names) == sorted(held.names)
    assert hold_out(annotated(names), 3, 1)[1].names != held.names


@pytest.mark.parametrize(("count", "difficult", "message"), [
    (4, (), "found 4, but there are 4 training images"), (2, "abcd", "found 2, which leaves no object to train on")])
def test_validation_that_leaves_nothing_is_refused(count, difficult, message):
    with pytest.raises(UserError, match=rf"'data\.validation': {message}"):
        hold_out(annotated("abcd", difficult), count, 0)
