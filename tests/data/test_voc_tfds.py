"""VOC 2007 as TFDS keeps it: a folder with the very records and descriptions, written here without TensorFlow."""

import io
import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from cnnjax.data import assemble, decode, detection
from cnnjax.errors import UserError
from tests.data.test_folders import _bomb as bomb

CAT, DOG = 7, 11        # of VOC's twenty classes by name
OBJECTS = {
    "train": [[((1, 2, 10, 11), CAT, False, False), ((3, 4, 20, 12), DOG, True, True)], []],
    "validation": [[((5, 5, 5, 9), CAT, False, False), ((19, 11, 20, 12), DOG, False, False)]],
    "test": [[((1, 1, 20, 12), DOG, False, False)]],
}
PIXELS = np.arange(12 * 20 * 3, dtype=np.uint8).reshape(12, 20, 3)


def _example(name, objects, content=b""):
    """The record of one image of 20x12, whose corners are divided by its size as TFDS does; `content` in its place."""
    picture = io.BytesIO(content)
    if not content:
        Image.fromarray(PIXELS).save(picture, "PNG")
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(picture.getvalue())
    feature["image/filename"].bytes_list.value.append(name.encode())
    boxes = [(y1 / 12, x1 / 20, y2 / 12, x2 / 20) for (x1, y1, x2, y2), *_ in objects]
    feature["objects/bbox"].float_list.value.extend(v for box in boxes for v in box)
    for key, column in (("label", 1), ("is_difficult", 2), ("is_truncated", 3)):
        feature[f"objects/{key}"].int64_list.value.extend(int(row[column]) for row in objects)
    feature["objects/pose"].int64_list.value.extend(4 for _ in objects)
    for key in ("labels", "labels_no_difficult"):
        feature[key].int64_list.value.extend({row[1] for row in objects})
    return example.SerializeToString()


@pytest.fixture
def prepared(tmp_path):
    """A config for a folder in which VOC 2007 is prepared."""
    return _prepare(tmp_path, {})


def _prepare(tmp_path, broken):
    """The same with other contents in place of the images of some names."""
    import tensorflow_datasets as tfds

    folder = tmp_path / "voc" / "2007" / "5.0.0"
    folder.mkdir(parents=True)
    splits = []
    for split, images in OBJECTS.items():
        records = [_example(f"{split}{i}.jpg", objects, broken.get(f"{split}{i}.jpg", b""))
                   for i, objects in enumerate(images)]
        writer = ArrayRecordWriter(str(folder / f"voc-{split}.array_record-00000-of-00001"), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        splits.append({"name": split, "numBytes": str(sum(map(len, records))), "shardLengths": [str(len(records))],
                       "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
    (folder / "dataset_info.json").write_text(json.dumps({
        "name": "voc", "configName": "2007", "version": "5.0.0", "fileFormat": "array_record", "splits": splits}))
    tfds.builder("voc/2007", data_dir=str(tmp_path), file_format="array_record").info.features.save_config(folder)
    return ConfigDict({"source": "tfds", "path": str(tmp_path), "train_split": "trainval", "test_split": "test",
                       "classes": (), "on_error": "skip"})


def test_prepared_voc_is_read_as_the_files_are(prepared):
    data = detection.load(prepared, 0)
    assert data.classes[CAT] == "cat"
    assert data.classes[DOG] == "dog"
    assert data.train.names == ("train0.jpg", "train1.jpg", "validation0.jpg")
    assert data.test.names == ("test0.jpg",)
    np.testing.assert_array_equal(data.train.sizes, [[12, 20]] * 3)
    np.testing.assert_array_equal(data.train.read(2), PIXELS)
    first, empty, last = data.train.objects
    np.testing.assert_allclose(first.boxes, [[0, 1, 10, 11], [2, 3, 20, 12]], atol=1e-5)
    assert first.classes.tolist() == [CAT, DOG]
    assert first.difficult.tolist() == first.truncated.tolist() == [False, True]
    assert empty.boxes.shape == (0, 4)
    np.testing.assert_allclose(last.boxes, [[18, 10, 20, 12]], atol=1e-5)
    assert len(data.skipped) == 1
    assert data.skipped[0].startswith("validation0.jpg: cat box (5, 5, 5, 9) has no area")
    np.testing.assert_allclose(data.test.objects[0].boxes, [[0, 0, 20, 12]], atol=1e-5)


def test_a_faulty_box_in_prepared_voc_is_refused_by_name(prepared):
    prepared.on_error = "stop"
    with pytest.raises(UserError, match=r"validation0\.jpg: cat box .* has no area"):
        detection.load(prepared, 0)


@pytest.mark.parametrize(("content", "reason"), [
    (bomb(9000, 9000), "declares 9000x9000 pixels; at most"), (bomb(60000, 60000), "cannot be decoded: Image size"),
    (b"no image", "is no image of a known kind"), (bomb(8, 8), "cannot be decoded")])
def test_the_size_that_a_record_declares_is_read_before_it_is_decoded(tmp_path, content, reason, monkeypatch):
    config = _prepare(tmp_path, {"train1.jpg": content})
    if "declares" in reason or "Image size" in reason:
        import tensorflow_datasets as tfds
        decode_np = tfds.features.Image.decode_example_np
        monkeypatch.setattr(tfds.features.Image, "decode_example_np", lambda self, data: (
            pytest.fail("decoded") if data == content else decode_np(self, data)))
    data = detection.load(config, 0)
    assert data.train.names == ("train0.jpg", "validation0.jpg")
    assert data.skipped[0].startswith("train1.jpg: unreadable image (")
    assert reason in data.skipped[0]
    config.on_error = "stop"
    with pytest.raises(UserError, match=r"train1\.jpg: unreadable image"):
        detection.load(config, 0)


@pytest.mark.parametrize("turn", ["stored", "turned"])
def test_the_size_of_an_image_that_is_not_upright_is_read_before_it_is_decoded(tmp_path, monkeypatch, turn):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 120)).save(tmp_path / "a.jpg", exif=exif)
    monkeypatch.setattr(decode, "MAX_PIXELS", 200 * 120 - 1)
    with pytest.raises(UserError, match=r"declares 200x120 pixels; at most 23,999 are decoded"):
        assemble.read_image(tmp_path / "a.jpg", turn == "turned")
    with pytest.raises(UserError, match=r"it declares 200x120 pixels"):
        assemble.probe((tmp_path / "a.jpg").read_bytes())
