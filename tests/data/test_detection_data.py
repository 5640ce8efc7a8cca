import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from cnnjax.data import assemble, decode, detection, synthetic_digits
from cnnjax.data.canvases import choose_canvas
from cnnjax.data.detection_sets import DetectionSet, Objects
from cnnjax.data.minibatches import Batches
from cnnjax.errors import UserError

OBJECT = """<object><name>{name}</name><truncated>{truncated}</truncated><difficult>{difficult}</difficult>
<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


class Voc:
    """A folder in the layout of PASCAL VOC, filled image by image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)

    def add(self, name, image, boxes=((1, 1, 10, 10),), size=None, split="trainval", suffix=".png", **saved):
        image.save(self.root / "JPEGImages" / (name + suffix), **saved)
        said = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        objects = "".join(b if isinstance(b, str) else OBJECT.format(
            name="cat", truncated=0, difficult=0, x1=b[0], y1=b[1], x2=b[2], y2=b[3]) for b in boxes)
        (self.root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{said}{objects}</annotation>")
        with open(self.root / "ImageSets" / "Main" / f"{split}.txt", "a") as file:
            file.write(name + "\n")

    def load(self, on_error="stop", classes=()):
        return detection.load(ConfigDict({
            "source": "voc", "path": str(self.root), "train_split": "trainval", "test_split": "trainval",
            "classes": classes, "on_error": on_error}), 0)


@pytest.fixture
def voc(tmp_path):
    return Voc(tmp_path / "voc")


def picture(width=20, height=12, mode="RGB"):
    return Image.fromarray(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)).convert(mode)


def test_voc_boxes_become_continuous_and_keep_their_flags(voc):
    flagged = OBJECT.format(name="dog", truncated=1, difficult=1, x1=3, y1=4, x2=20, y2=12)
    voc.add("a", picture(), [(1, 2, 10, 11), flagged], (20, 12))
    data = voc.load()
    objects = data.train.objects[0]
    np.testing.assert_array_equal(objects.boxes, [[0, 1, 10, 11], [2, 3, 20, 12]])
    assert data.classes == ("cat", "dog")
    assert objects.classes.tolist() == [0, 1]
    assert objects.difficult.tolist() == objects.truncated.tolist() == [False, True]
    np.testing.assert_array_equal(data.train.read(0), np.asarray(picture()))


def test_given_classes_select_and_an_unknown_one_is_refused(voc):
    dog = OBJECT.format(name="dog", truncated=0, difficult=0, x1=3, y1=4, x2=9, y2=9)
    voc.add("a", picture(), [(1, 2, 10, 11), dog])
    data = voc.load(classes=("dog",))
    assert data.classes == ("dog",)
    assert len(data.train.objects[0].boxes) == 1
    with pytest.raises(UserError, match=r"no object 'dogs'.*did you mean 'dog'"):
        voc.load(classes=("dogs",))


@pytest.mark.parametrize(("box", "reason"), [
    ((5, 5, 5, 9), "no area"), ((5, 5, 5, 5), "no area"), ((9, 5, 4, 9), "reversed"), ((30, 2, 40, 9), "outside"),
    (("nan", 2, 9, 9), "not finite"),
])
def test_a_faulty_box_is_refused_by_file_and_reason_or_skipped_and_listed(voc, box, reason):
    voc.add("bad", picture(), [(1, 1, 4, 4), box])
    with pytest.raises(UserError, match=rf"bad\.xml: cat box .*{reason}.*data\.on_error=skip"):
        voc.load()
    data = voc.load("skip")
    assert len(data.train.objects[0].boxes) == 1
    assert len(data.skipped) == 2           # the split serves as train and as test
    assert reason in data.skipped[0]


def test_a_box_over_the_border_is_cut_and_one_pixel_is_enough(voc):
    voc.add("a", picture(), [(0, 0, 25, 30), (20, 12, 21, 13)])
    np.testing.assert_array_equal(voc.load().train.objects[0].boxes, [[0, 0, 20, 12], [19, 11, 20, 12]])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_grey_transparent_and_palette_images_are_read_as_colour(voc, mode):
    voc.add("a", picture(mode=mode))
    assert voc.load().train.read(0).shape == (12, 20, 3)


def test_an_image_of_one_pixel_is_trained_on(voc):
    voc.add("a", picture(1, 1), ["<object><name>cat</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax>"
                                 "<ymax>1</ymax></bndbox></object>"], (1, 1))
    batch = Batches(voc.load().train, ((8, 8),), 1, 0)(0)
    assert batch["sizes"].tolist() == [[8, 8]]
    np.testing.assert_array_equal(batch["boxes"][0, 0], [0, 0, 8, 8])


def test_exif_turns_the_image_unless_the_annotation_has_the_stored_size(voc):
    exif = Image.Exif()
    exif[0x0112] = 6
    voc.add("turned", picture(), size=(12, 20), exif=exif, suffix=".jpg")
    voc.add("stored", picture(), size=(20, 12), exif=exif, suffix=".jpg")
    train = voc.load().train
    assert train.read(0).shape == (20, 12, 3)
    assert train.read(1).shape == (12, 20, 3)
    assert train.sizes.tolist() == [[20, 12], [12, 20]]


def test_broken_files_are_refused_or_skipped(voc):
    for name in ("whole", "cut", "none", "xml", "size"):
        voc.add(name, picture(64, 48), size=(65, 48) if name == "size" else None, suffix=".jpg")
    cut = voc.root / "JPEGImages" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (voc.root / "JPEGImages" / "none.jpg").unlink()
    (voc.root / "Annotations" / "xml.xml").write_text("<annotation><object>")
    data = voc.load("skip")
    assert data.train.names == ("whole.jpg",)
    text = "\n".join(data.skipped)
    for expected in ("cut.jpg: unreadable image", "none.jpg: no such image file", "xml.xml: not a VOC annotation",
                     "size.jpg: the image is 64x48"):
        assert expected in text
    with pytest.raises(UserError, match=r"\.(jpg|xml): "):
        voc.load()


def test_entities_in_an_annotation_are_not_expanded(voc):
    voc.add("a", picture())
    (voc.root / "Annotations" / "a.xml").write_text(
        '<!DOCTYPE x [<!ENTITY a "b">]><annotation><object><name>&a;</name></object></annotation>')
    with pytest.raises(UserError, match=r"a\.xml: not a VOC annotation \(EntitiesForbidden"):
        voc.load()


def test_missing_folder_and_split_name_the_nearest(voc):
    voc.add("a", picture())
    config = ConfigDict({"source": "voc", "path": str(voc.root), "train_split": "trainvall", "test_split": "trainval",
                         "classes": (), "on_error": "stop"})
    with pytest.raises(UserError, match=r"no split 'trainvall'.*did you mean 'trainval'"):
        detection.load(config, 0)
    config.path = str(voc.root / "nowhere")
    with pytest.raises(UserError, match=r"data\.path .*nowhere: no such folder"):
        detection.load(config, 0)


def test_coco_boxes_categories_and_crowds(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    picture().save(tmp_path / "val" / "1.png")
    content = {"images": [{"id": 7, "file_name": "1.png", "height": 12, "width": 20}],
               "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
               "annotations": [{"image_id": 7, "category_id": 18, "bbox": [1.5, 2, 4, 5], "iscrowd": 0},
                               {"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], "iscrowd": 1}]}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    config = ConfigDict({"source": "coco", "path": str(tmp_path), "train_split": "val", "test_split": "val",
                         "classes": (), "on_error": "stop"})
    data = detection.load(config, 0)
    assert data.classes == ("car", "dog")
    objects = data.train.objects[0]
    np.testing.assert_array_equal(objects.boxes, [[1.5, 2, 5.5, 7], [0, 0, 1, 1]])
    assert objects.classes.tolist() == [1, 0]
    assert objects.difficult.tolist() == [False, True]
    config.test_split = "test"
    with pytest.raises(UserError, match=r"no file annotations/instances_test\.json"):
        detection.load(config, 0)
    del content["categories"]
    (tmp_path / "annotations" / "instances_test.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"instances_test\.json: not a COCO annotation file"):
        detection.load(config, 0)


def coco_set(root, **splits):
    """A COCO data set of one 20x12 image a split, with an object of each category that is given for it."""
    (root / "annotations").mkdir()
    for split, names in splits.items():
        (root / split).mkdir()
        picture().save(root / split / "1.png")
        content = {"images": [{"id": 7, "file_name": "1.png", "height": 12, "width": 20}],
                   "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
                   "annotations": [{"image_id": 7, "category_id": i, "bbox": [1, 2, 4, 5]} for i in range(len(names))]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return ConfigDict({"source": "coco", "path": str(root), "train_split": "train", "test_split": "val",
                       "classes": (), "on_error": "stop"})


def test_objects_of_a_class_that_only_the_test_split_has_are_said(tmp_path):
    data = detection.load(coco_set(tmp_path, train=("car",), val=("car", "tram")), 0)
    assert data.classes == ("car",)
    assert [len(objects.classes) for objects in data.test.objects] == [1]
    assert [line.split(": ")[1] for line in data.unused] == ["1 object of 'tram', which is none of the classes car"]


def test_images_whose_size_is_annotated_are_not_opened_before_they_are_read(tmp_path, monkeypatch):
    config = coco_set(tmp_path, train=("car",), val=("car",))
    config.verify = False
    opened = []
    read_file = decode.read_file
    monkeypatch.setattr(decode, "read_file", lambda file: opened.append(file) or read_file(file))
    data = detection.load(config, 0)
    assert opened == []
    assert data.train.sizes.tolist() == [[12, 20]]
    np.testing.assert_array_equal(data.train.read(0), np.asarray(picture()))
    assert len(opened) == 1
    picture(20, 13).save(tmp_path / "train" / "1.png")
    with pytest.raises(UserError, match=r"1.png: the image is 20x13, its annotation has another size"):
        data.train.read(0)
    (tmp_path / "train" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1.png"):
        data.train.read(0)


def test_an_unverified_image_is_turned_unless_its_annotation_has_the_stored_size(tmp_path):
    exif = Image.Exif()
    exif[274] = 6                                                   # a quarter turn
    picture().save(tmp_path / "a.jpg", exif=exif)
    turned, stored = (assemble.read_annotated(tmp_path / "a.jpg", size) for size in ((20, 12), (12, 20)))
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))
    with pytest.raises(UserError, match="another size"):
        assemble.read_annotated(tmp_path / "a.jpg", (12, 12))


def test_a_split_of_the_set_s_own_is_for_validation(tmp_path):
    config = coco_set(tmp_path, train=("car", "tram"), val=("car",), dev=("tram", "car"))
    config.validation_split = "dev"
    data = detection.load(config, 0)
    assert data.validation.objects[0].classes.tolist() == [1, 0]
    config.validation = 1
    with pytest.raises(UserError, match=r"'data.validation': found 1, but data.validation_split is set too"):
        detection.load(config, 0)
    config.validation = 0
    for wrong, message in (("train", "data.train_split = train has the images of train too"),
                           ("val", "data.test_split = val has the images of val too"),
                           ("dav", "no split 'dav'.*set data.validation_split")):
        config.validation_split = wrong
        with pytest.raises(UserError, match=message):
            detection.load(config, 0)


@pytest.mark.parametrize(("train", "val", "empty"), [((), ("car",), "train"), (("car",), (), "val")])
def test_a_split_without_an_object_is_refused_before_anything_is_trained(tmp_path, train, val, empty):
    config = coco_set(tmp_path, train=train, val=val)
    with pytest.raises(UserError, match=rf"no object of .* in split '{empty}'"):
        detection.load(config, 0)


def test_scattered_digits_are_the_seed_s_and_lie_inside():
    a, b = (synthetic_digits.generate("train", 6, 96, seed) for seed in (3, 3))
    other = synthetic_digits.generate("train", 6, 96, 4)
    for i in range(6):
        np.testing.assert_array_equal(a.read(i), b.read(i))
        boxes = a.objects[i].boxes
        assert 1 <= len(boxes) <= synthetic_digits.MOST
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
        assert (sides >= synthetic_digits.SIDES[0] - 1).all()
        assert (sides <= synthetic_digits.SIDES[1]).all()
    assert any((a.read(i) != other.read(i)).any() for i in range(6))
    assert (a.read(0) != synthetic_digits.generate("test", 1, 96, 3).read(0)).any()


def coloured(sizes, objects=1):
    """Images whose only box is red, everything else black."""
    images, truths = [], []
    for n, (height, width) in enumerate(sizes):
        image = np.zeros((height, width, 3), np.uint8)
        x, y = 2 + n, 3
        image[y:y + 4, x:x + 6] = (255, 0, 0)
        images.append(image)
        truths.append(Objects.of([((x, y, x + 6, y + 4), n % 3, False, False)] * objects))
    return DetectionSet(tuple(map(str, range(len(sizes)))), np.array(sizes), tuple(truths), images.__getitem__)


def test_boxes_follow_the_pixels_through_flip_and_jitter():
    data = coloured([(20, 32)] * 4)
    batches = Batches(data, ((40, 64),), 2, 5, flip=True, jitter=0.5, proposals=[o.boxes for o in data.objects])
    flipped = 0
    for step in range(8):
        batch = batches(step)
        for i in range(2):
            x1, y1, x2, y2 = batch["boxes"][i, 0]
            ys, xs = np.nonzero(batch["images"][i, :, :, 0] > 127)
            np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x1, y1, x2, y2], atol=1.01)
            np.testing.assert_array_equal(batch["boxes"][i, 0], batch["proposals"][i, 0])
            flipped += x1 > batch["sizes"][i, 1] / 2
    assert 0 < flipped < 16


def test_stretched_images_fill_the_canvas_and_boxes_follow():
    batches = Batches(coloured([(20, 40), (60, 30)], objects=2), ((32, 48),), 2, 0, flip=True, stretch=True)
    batch = batches(0)
    np.testing.assert_array_equal(batch["sizes"], [(32, 48)] * 2)
    for row, i in enumerate(batches.indices(0)):
        height, width = batches.data.sizes[i]
        sizes = batches.data.objects[i].boxes[:, 2:] - batches.data.objects[i].boxes[:, :2]
        found = batch["boxes"][row, :2]
        np.testing.assert_allclose(found[:, 2:] - found[:, :2], sizes * (48 / width, 32 / height), rtol=1e-5)


def test_a_transform_augments_before_placing_and_drops_whole_rows():
    def crop(rng, sample):
        kept = np.array([False, True])
        return {"image": sample["image"][:10], **{key: sample[key][kept] for key in ("boxes", "classes", "difficult")}}

    batch = Batches(coloured([(20, 40)], objects=2), ((20, 40),), 1, 0, transform=crop)(0)
    np.testing.assert_array_equal(batch["sizes"], [(10, 40)])
    np.testing.assert_array_equal(batch["mask"][0, :2], (True, False))
    assert not batch["boxes"][0, 1:].any()


def test_a_transform_s_randomness_is_the_step_s_and_the_example_s():
    drawn = []

    def note(rng, sample):
        drawn.append(rng.random())
        return sample

    batches = Batches(coloured([(20, 40)] * 2), ((20, 40),), 2, 0, transform=note)
    for step in (0, 1, 0):
        batches(step)
    assert len(set(drawn)) == 4
    assert drawn[:2] == drawn[4:]


def test_batches_are_a_function_of_the_step_and_visit_every_image_once():
    data = coloured([(20, 32)] * 5 + [(32, 20)] * 2)
    batches = Batches(data, ((20, 32), (32, 20)), 2, 1, flip=True)
    assert batches.steps_per_epoch == [3, 1]
    for epoch in (0, 1):
        seen = {i for step in range(4 * epoch, 4 * epoch + 4) for i in batches.indices(step).tolist()}
        assert seen == set(range(7))
    assert {batches(step)["images"].shape for step in range(4)} == {(2, 20, 32, 3), (2, 32, 20, 3)}
    again = Batches(data, ((20, 32), (32, 20)), 2, 1, flip=True)
    resumed = again.stream(3)
    for step in range(3, 6):
        for key, value in next(resumed).items():
            np.testing.assert_array_equal(value, batches(step)[key])


def test_the_steps_of_a_dispatch_share_a_canvas_and_each_canvas_has_its_share():
    """Three epochs of blocks of three steps: every image of a full batch is visited three times."""
    data = coloured([(20, 32)] * 6 + [(32, 20)] * 4)
    batches = Batches(data, ((20, 32), (32, 20), (64, 64)), 2, 7, steps_per_canvas=3)
    steps = [batches.indices(step).tolist() for step in range(15)]
    canvases = [{batches.canvas_of[i] for i in images} for images in steps]
    assert all(canvases[block] == canvases[block + 1] == canvases[block + 2] for block in range(0, 15, 3))
    assert sorted(i for images in steps for i in images) == sorted([*range(10)] * 3)
    other = Batches(data, ((20, 32), (32, 20), (64, 64)), 2, 8, steps_per_canvas=3)
    assert steps != [other.indices(step).tolist() for step in range(15)]


def test_one_canvas_gives_the_order_of_its_epochs_whatever_the_dispatch():
    data = coloured([(20, 32)] * 5)
    one, ten = (Batches(data, ((20, 32),), 2, 3, steps_per_canvas=n) for n in (1, 10))
    for step in range(30):
        np.testing.assert_array_equal(one.indices(step), ten.indices(step))


def test_an_image_without_objects_is_a_batch_of_padding():
    data = coloured([(8, 8)], objects=0)
    batch = Batches(data, ((8, 8),), 1, 0)(0)
    assert not batch["mask"].any()
    assert batch["boxes"].shape == (1, 8, 4)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_two_canvases_give_the_scale_of_fast_rcnn(height, width):
    canvases = ((600, 1000), (1000, 600))
    canvas = canvases[choose_canvas((height, width), canvases)]
    scale = min(canvas[0] / height, canvas[1] / width)
    assert scale == pytest.approx(min(600 / min(height, width), 1000 / max(height, width)))


def test_settings_out_of_range_are_refused(voc):
    with pytest.raises(UserError, match=r"data\.jitter"):
        Batches(coloured([(8, 8)]), ((8, 8),), 1, 0, jitter=1.5)
    with pytest.raises(UserError, match=r"data\.on_error: found 'ignore'"):
        voc.load("ignore")


def test_tfds_that_is_not_prepared_says_how(tmp_path):
    config = ConfigDict({"source": "tfds", "path": str(tmp_path), "train_split": "trainval", "test_split": "test",
                         "classes": (), "on_error": "stop"})
    with pytest.raises(UserError, match="VOC 2007 is not prepared there; run `tfds build voc/2007"):
        detection.load(config, 0)
    config.source = "flickr"
    with pytest.raises(UserError, match=r"data\.source: found 'flickr'"):
        detection.load(config, 0)
