"""VOC's XML as people's tools leave it: names, encodings, numbers, layouts. D1 to D13: rows of docs/reliability.md."""

import codecs
from functools import partial

import numpy as np
import pytest

from tests.conftest import error_line
from tests.data import annotated
from tests.data.annotated import picture

BOX = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
SIZE = "<size><width>64</width><height>48</height></size>"


def thing(name="cat", rest="", box=BOX):
    return f"<object><name>{name}</name>{rest}{box}</object>"


def annotation(path, objects=None, size=SIZE, filename="", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"<annotation>{filename}{size}{thing() if objects is None else objects}</annotation>"
    path.write_bytes(text.encode(encoding))


def standard(root, names=("x",), suffix=".jpg", lists=("trainval", "test"), **how):
    """A set in the layout of VOC, its lists all of the same images."""
    for name in names:
        picture(root / "JPEGImages" / (name + suffix))
        annotation(root / "Annotations" / f"{name}.xml", **how)
    for split in lists:
        file = root / "ImageSets" / "Main" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names))


def load(root, train="trainval", test="test", **fields):
    return annotated.load("voc", root, train, test, **fields)


refusal = partial(error_line, load)


def right(images, names=("x.jpg",)):
    annotated.check(images, names, [8, 8, 40, 30])
    return True


# D1

@pytest.mark.parametrize("suffix", [".PNG", ".JPEG", ".Jpg", ".jfif", ".bmp", ".BMP", ".webp", ".gif", ".tif", ".TIFF",
                                    ".ppm"])
def test_images_of_any_suffix_are_found_and_read(tmp_path, suffix):
    standard(tmp_path, suffix=suffix)
    assert right(load(tmp_path).train, (f"x{suffix}",))


def test_an_image_of_a_kind_that_is_not_read_is_named(tmp_path):
    standard(tmp_path)
    (tmp_path / "JPEGImages" / "x.jpg").rename(tmp_path / "JPEGImages" / "x.heic")
    assert "JPEGImages/x.heic: is of no kind that is read as an image (*.jpg, " in refusal(tmp_path)


@pytest.mark.parametrize("said", ["x.png", "x", "x.JPG", "C:\\photos\\x.jpg", "/home/else/x.jpeg", "", " x.jpg "])
def test_an_image_is_found_whatever_the_suffix_or_folder_that_its_annotation_names(tmp_path, said):
    standard(tmp_path, filename=f"<filename>{said}</filename>")
    assert right(load(tmp_path).train)


def test_an_image_of_another_name_is_found_by_its_annotation(tmp_path):
    standard(tmp_path, ("x",), filename="<filename>IMG.2020.01.jpg</filename>")
    (tmp_path / "JPEGImages" / "x.jpg").rename(tmp_path / "JPEGImages" / "img.2020.01.JPG")
    assert right(load(tmp_path).train, ("img.2020.01.JPG",))


def test_of_two_images_of_one_stem_the_named_one_is_read_and_otherwise_neither(tmp_path):
    standard(tmp_path, filename="<filename>x.png</filename>")
    picture(tmp_path / "JPEGImages" / "x.png")
    assert right(load(tmp_path).train, ("x.png",))
    annotation(tmp_path / "Annotations" / "x.xml")
    assert "x.xml: two images could be its own: JPEGImages/x.jpg and JPEGImages/x.png" in refusal(tmp_path)


def test_masks_of_the_same_name_in_other_folders_are_no_images_of_the_set(tmp_path):
    standard(tmp_path)
    picture(tmp_path / "SegmentationClass" / "x.png")
    assert right(load(tmp_path).train)
    (tmp_path / "JPEGImages" / "x.jpg").unlink()
    picture(tmp_path / "JPEGImages" / "y.jpg")
    assert "JPEGImages/x.jpg: no such image file" in refusal(tmp_path)


def test_folders_in_other_letters_are_known(tmp_path):
    standard(tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "Images")
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    assert right(load(tmp_path).train)


# D3

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \n", "\t\r\n", "\n\n"])
def test_a_list_is_read_in_any_encoding_and_with_any_line_end(tmp_path, encoding, end):
    standard(tmp_path, ("x", "y"))
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_bytes(f"x{end}y{end}".encode(encoding))
    assert right(load(tmp_path).test, ("x.jpg", "y.jpg"))


@pytest.mark.parametrize("line", ["x.jpg", "x.PNG", "JPEGImages/x.jpg", "x  1", "x -1", "  x", "./x"])
def test_a_list_may_name_the_file_its_folder_or_a_flag(tmp_path, line):
    standard(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text(line)
    assert right(load(tmp_path).test)


def test_names_with_blanks_and_dots_are_read(tmp_path):
    standard(tmp_path, ("my photo 1", "a.b.c"))
    assert right(load(tmp_path).test, ("my photo 1.jpg", "a.b.c.jpg"))


def test_an_image_that_is_listed_twice_is_read_once_and_said(tmp_path):
    standard(tmp_path, ("x", "x"))
    data = load(tmp_path)
    assert right(data.train)
    assert data.unused[0].endswith("trainval.txt: x is there twice")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "gbk",
                                      "shift-jis"])
@pytest.mark.parametrize("declared", [True, False])
def test_an_annotation_is_read_in_the_encoding_of_its_mark_or_declaration(tmp_path, encoding, declared):
    name = {"latin-1": "Kätzchen", "gbk": "狗", "shift-jis": "狗"}.get(encoding, "Kätzchen")
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\r\n' if declared else ""
    standard(tmp_path)
    file = tmp_path / "Annotations" / "x.xml"
    text = head + f"<annotation>\r\n{thing(name)}</annotation>\r\n"
    file.write_bytes(text.encode(encoding))
    if encoding in ("latin-1", "gbk", "shift-jis") and not declared:
        assert "x.xml: not a VOC annotation (UnicodeDecodeError" in refusal(tmp_path)
        return
    data = load(tmp_path)
    assert data.classes == (name,)
    assert right(data.train)


def test_an_annotation_that_declares_an_encoding_that_it_is_not_in_is_read_by_its_mark_or_as_utf_8(tmp_path):
    standard(tmp_path)
    for data in (b'<?xml version="1.0" encoding="utf-16"?>' + f"<annotation>{thing()}</annotation>".encode(),
                 codecs.BOM_UTF8 + f"\n\n<?xml version='1.0'?><annotation>{thing()}</annotation>".encode()):
        (tmp_path / "Annotations" / "x.xml").write_bytes(data)
        assert right(load(tmp_path).train)


# D4

@pytest.mark.parametrize(("flag", "difficult"), [
    ("<difficult/>", False), ("<difficult></difficult>", False), ("<difficult>Unspecified</difficult>", False),
    ("<difficult> 1 </difficult>", True), ("<difficult>1.0</difficult>", True), ("<difficult>0.0</difficult>", False),
    ("<difficult>True</difficult>", True), ("<difficult>false</difficult>", False),
    ("<difficult>\n0\n</difficult>", False),
    ("<truncated/>", False), ("<truncated>Unspecified</truncated>", False), ("<truncated>0.35</truncated>", False),
    ("<pose/><occluded>maybe</occluded>", False), ("", False)])
def test_flags_that_are_empty_or_unspecified_are_zero(tmp_path, flag, difficult):
    standard(tmp_path, objects=thing() + thing(rest=flag))
    assert load(tmp_path).train.objects[0].difficult.tolist() == [False, difficult]


@pytest.mark.parametrize("size", [
    "", "<size/>", "<size><width/><height/></size>", "<size><width>64.0</width><height>48.0</height></size>",
    "<size><width> 64 </width><height>\n48</height></size>", "<size><width>0</width><height>0</height></size>",
    "<size><width>64</width></size>", "<size><width></width><height>48</height><depth/></size>",
    "<size><depth>Unspecified</depth></size>"])
def test_a_size_that_is_missing_empty_zero_or_a_float_is_read_or_unknown(tmp_path, size):
    standard(tmp_path, size=size)
    assert load(tmp_path).train.sizes.tolist() == [[48, 64]]


def test_sides_with_blanks_and_fractions_are_numbers(tmp_path):
    box = "<bndbox><xmin> 9.0 </xmin><ymin>\n9</ymin><xmax>40.5</xmax><ymax>3e1</ymax></bndbox>"
    standard(tmp_path, objects=thing(box=box))
    np.testing.assert_array_equal(load(tmp_path).train.objects[0].boxes, [[8, 8, 40.5, 30]])


def test_boxes_that_reach_far_over_the_border_are_cut_and_said(tmp_path):
    far, near = BOX.replace("40", "90"), BOX.replace(">9<", ">0<").replace("40", "66")
    standard(tmp_path, objects=thing(box=far) + thing(box=near))
    data = load(tmp_path)
    np.testing.assert_array_equal(data.train.objects[0].boxes, [[8, 8, 64, 30], [0, 0, 64, 30]])
    assert data.notes[0] == ("1 image is both in the training split and in the test split")
    assert data.notes[1] == ("split 'trainval': 1 box reaches over the image's border by more than 2 pixels and is cut "
                             "there")


def test_classes_that_differ_in_the_case_of_letters_are_said(tmp_path):
    standard(tmp_path, objects=thing() + thing("Cat") + thing("dog"))
    assert load(tmp_path).notes[-1] == "classes that differ in the case of letters alone: Cat, cat"


# D5, of VOC

@pytest.mark.parametrize(("broken", "reason"), [
    (thing(box=""), "has no bndbox"), (thing(box="<bndbox/>"), "has no bndbox"), (thing(""), "object 2 has no name"),
    (thing(box=BOX.replace(">9<", "><", 1)), "expected four numbers"),
    (thing(box=BOX.replace("40", "forty")), "expected four numbers"),
    (thing(box=BOX.replace("40", "nan")), "is not finite"), (thing(box=BOX.replace("40", "4")), "is reversed"),
    (thing(rest="<difficult>maybe</difficult>"), "difficult is 'maybe', expected 0 or 1")])
def test_a_broken_object_is_skipped_and_listed_and_the_others_are_kept(tmp_path, broken, reason):
    standard(tmp_path, objects=thing() + broken + thing("dog"))
    assert reason in refusal(tmp_path)
    data = load(tmp_path, on_error="skip")
    assert data.train.objects[0].classes.tolist() == [0, 1]
    assert len(data.skipped) == 2
    assert all("x.xml: " in line and reason in line for line in data.skipped)
    assert not data.unused


def test_a_broken_object_of_a_class_that_is_not_asked_for_is_no_fault(tmp_path):
    standard(tmp_path, objects=thing() + thing("dog", box=""))
    data = load(tmp_path, classes=("cat",))
    assert right(data.train)
    assert data.unused[0] == "split 'trainval': 1 object of classes that data.classes does not name (dog 1)"


# D7 and D12, of VOC

def test_a_class_that_only_the_test_split_has_is_counted_and_said(tmp_path):
    standard(tmp_path, ("x", "y"))
    annotation(tmp_path / "Annotations" / "y.xml", thing() + thing("dog"))
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("x")
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.test.objects[1].classes.tolist() == [0, 1]
    assert "no object to train on, but for difficult ones, of 1 of the 2 classes: dog" in data.notes


@pytest.mark.parametrize("objects", ["", thing(rest="<difficult>1</difficult>")], ids=["empty", "difficult only"])
@pytest.mark.parametrize("split", ["trainval", "test"])
def test_a_split_without_an_object_that_counts_is_refused(tmp_path, split, objects):
    standard(tmp_path, ("x", "y"))
    annotation(tmp_path / "Annotations" / "y.xml", objects)
    (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("y")
    assert f"no object of cat in split '{split}', but for difficult ones" in refusal(tmp_path)
    (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("")
    assert f"no usable image in split '{split}'" in refusal(tmp_path)


def test_what_data_classes_leaves_out_is_no_fault(tmp_path):
    standard(tmp_path, objects=thing() + thing("dog") * 3)
    data = load(tmp_path, classes=("cat",))
    assert not data.skipped
    assert data.left_out == data.unused
    assert data.said()[1].startswith("2 not used: split 'trainval': 3 objects of classes that data.classes does not ")


# D13

def beside(root, names):
    for name in names:
        picture(root / f"{name}.jpg")
        annotation(root / f"{name}.xml")


def test_annotations_beside_the_images_are_split_by_seed_and_said(tmp_path):
    names = [f"{i:02d}" for i in range(20)]
    beside(tmp_path, names)
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert set(data.train.names) | set(data.test.names) == {f"{name}.jpg" for name in names}
    assert right(data.test, data.test.names)
    assert data.split == {"train": data.train.names, "test": data.test.names}
    assert data.notes == (f"no test split in {tmp_path}: 4 of its 20 images are it, drawn by seed 0 "
                          "(data.test_share=0.2)",)
    assert load(tmp_path).test.names == data.test.names
    assert load(tmp_path, seed=1).test.names != data.test.names
    assert len(load(tmp_path, test_share=0.5).test) == 10
    assert "data.test_share: found 1.5, expected over 0 and under 1" in refusal(tmp_path, test_share=1.5)


def test_an_image_more_moves_at_most_one_other_between_the_drawn_splits(tmp_path):
    beside(tmp_path, [f"{i:02d}" for i in range(20)])
    before = set(load(tmp_path).test.names)
    beside(tmp_path, ["new"])
    assert len(before - set(load(tmp_path).test.names)) <= 1


@pytest.mark.parametrize(("images", "annotations"), [("images", "annotations"), ("JPEGImages", "Annotations"),
                                                     ("Images", "xmls"), ("images", "labels"), ("img", "ann/xml")])
def test_folders_of_images_and_annotations_without_lists_are_split_by_seed(tmp_path, images, annotations):
    for i in range(5):
        picture(tmp_path / images / f"{i}.jpg")
        annotation(tmp_path / annotations / f"{i}.xml")
    data = load(tmp_path)
    assert right(data.train, data.train.names)
    assert (len(data.train), len(data.test)) == (4, 1)


@pytest.mark.parametrize(("train", "val", "test"), [
    ("train", "valid", "test"), ("Train", "VAL", "Test"), ("training", "validation", "testing")])
@pytest.mark.parametrize("layout", ["{split}/{name}", "{split}/{kind}/{name}", "{kind}/{split}/{name}",
                                    "data/{split}/{kind}/sub/{name}"])
def test_folders_of_splits_are_read_in_any_layout_and_spelling(tmp_path, layout, train, val, test):
    for split, name in ((train, "a.b"), (val, "b"), (test, "a.b")):     # the name of one image in two splits
        picture(tmp_path / f"{layout.format(split=split, kind='images', name=name)}.jpg")
        annotation(tmp_path / f"{layout.format(split=split, kind='annotations', name=name)}.xml")
    data = load(tmp_path)
    assert right(data.train, ("a.b.jpg", "b.jpg"))
    assert right(data.test, ("a.b.jpg",))
    assert not data.split
    assert f"data.train_split=trainval is read from {train} + {val}" in data.notes
    assert right(load(tmp_path, "train", "val").test, ("b.jpg",))


def test_val_is_the_test_where_there_is_none_and_is_not_trained_on(tmp_path):
    beside(tmp_path / "train", ["a"])
    beside(tmp_path / "valid", ["b"])
    data = load(tmp_path)
    assert right(data.train, ("a.jpg",))
    assert right(data.test, ("b.jpg",))
    assert "data.test_split=test is read from valid" in data.notes
    assert "no split 'test'" in refusal(tmp_path, "train+valid", "test")


def test_without_a_test_split_the_user_may_have_one_drawn(tmp_path):
    beside(tmp_path / "train", [str(i) for i in range(10)])
    assert "set data.test_split, or data.test_split= (nothing) to hold data.test_share of train out by seed" in refusal(
        tmp_path, "train")
    data = load(tmp_path, "train", "")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert set(data.split["test"]) == {f"train/{name}" for name in data.test.names}


@pytest.mark.parametrize("name", ["default", "all", "project-1"])
def test_a_single_list_of_no_split_is_the_whole_set(tmp_path, name):
    """As CVAT exports it."""
    standard(tmp_path, [str(i) for i in range(10)], lists=(name,))
    assert (len(load(tmp_path).train), len(load(tmp_path).test)) == (8, 2)
    assert len(load(tmp_path, name, name).test) == 10
    if name == "project-1":
        assert "no split 'minitrain'" in refusal(tmp_path, "minitrain")


@pytest.mark.parametrize("place", ["ImageSets/Main", "imagesets/main", "ImageSets", "ImageSets/Layout", "."])
def test_lists_may_lie_beside_the_annotations(tmp_path, place):
    standard(tmp_path, lists=())
    for split in ("Train", "valid", "TEST"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / f"{split}.txt").write_text("x\n")
    assert right(load(tmp_path).test)
    assert right(load(tmp_path, "train", "val").test)


def test_a_path_a_level_too_high_is_told(tmp_path):
    standard(tmp_path / "VOCdevkit" / "VOC2007")
    assert f"did you mean {tmp_path / 'VOCdevkit' / 'VOC2007'}?" in refusal(tmp_path / "VOCdevkit")


def test_what_a_set_without_lists_has_besides_is_listed(tmp_path):
    beside(tmp_path, ["a", "b"])
    picture(tmp_path / "background.jpg")
    picture(tmp_path / "._a.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "nowhere")
    data = load(tmp_path)
    assert sorted(line.removeprefix(f"{tmp_path}/") for line in data.unused) == [
        "._a.jpg: hidden", "background.jpg: has no annotation", "c.jpg: a broken link"]


def test_a_folder_without_annotations_is_refused_by_name(tmp_path):
    picture(tmp_path / "a.jpg")
    assert f"data.path {tmp_path}: no annotation (*.xml) in or below it" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "none")
    beside(tmp_path, ["a"])
    assert "has 1 image, too few to hold some out for testing" in refusal(tmp_path)


def test_images_of_both_splits_are_said(tmp_path):
    standard(tmp_path)
    assert "1 image is both in the training split and in the test split" in load(tmp_path).notes
