"""Image folders and tars: read right, cached safely, and each flaw told in one line that names it."""

import io
import json
import os
import shutil
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cnnjax import data
from cnnjax.data import cache, decode
from cnnjax.errors import UserError


def _png(array, mode=None):
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, "PNG")
    return stream.getvalue()


def _array(seed, size=8):
    return np.random.RandomState(seed).randint(0, 256, (size, size, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """train and test, classes cat and dog, 3 and 2 PNG images a class of known pixels."""
    for s, (split, count) in enumerate({"train": 3, "test": 2}.items()):
        for c, kind in enumerate(("dog", "cat")):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
            for i in range(count):
                (tmp_path / "set" / split / kind / f"{i}.png").write_bytes(_png(_array(s * 100 + c * 10 + i)))
    return tmp_path / "set"


def _load(source, path, tmp_path, **fields):
    return data.load({"source": source, "path": str(path), "cache": str(tmp_path / "cache"), **fields}, 0)


def _error(*args, **fields):
    with pytest.raises(UserError) as caught:
        _load(*args, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _tar(folder, file, mode="w"):
    with tarfile.open(file, mode) as archive:
        for child in sorted(folder.iterdir()):
            archive.add(child, child.name)
    return file


def _check(dataset):
    assert dataset.classes == ("cat", "dog")
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.train.images, np.stack([_array(s) for s in (10, 11, 12, 0, 1, 2)]))
    np.testing.assert_array_equal(dataset.test.images, np.stack([_array(s) for s in (110, 111, 100, 101)]))
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32


def test_a_folder_and_its_tars_give_the_same_images(folder, tmp_path):
    _check(_load("folder", folder, tmp_path))
    _check(_load("tar", _tar(folder, tmp_path / "a.tar"), tmp_path))
    for kind in ("gz", "bz2", "xz"):
        _check(_load("tar", _tar(folder, tmp_path / f"a.tar.{kind}", f"w:{kind}"), tmp_path))
    with tarfile.open(tmp_path / "nested.tar", "w") as archive:
        archive.add(folder, "cifar")                    # with the folder around the splits
    _check(_load("tar", tmp_path / "nested.tar", tmp_path))


def test_a_tar_without_splits_is_split_by_seed_as_its_folder(folder, tmp_path):
    for kind in ("cat", "dog"):
        for i in range(2):
            (folder / "test" / kind / f"{i}.png").rename(folder / "train" / kind / f"test{i}.png")
    whole = (folder / "train").rename(tmp_path / "pets")
    with tarfile.open(tmp_path / "around.tar.gz", "w:gz") as archive:
        archive.add(whole, "pets")
    for file in (_tar(whole, tmp_path / "a.tar"), tmp_path / "around.tar.gz"):
        for seed in (0, 1, 0):                              # the cache holds the images whole
            a, b = (data.load({"source": source, "path": str(path), "cache": str(tmp_path / "cache"),
                               "test_share": 0.4}, seed) for source, path in (("folder", whole), ("tar", file)))
            assert a.split == b.split
            assert len(b.split["test"]) == 4
            assert a.classes == b.classes == ("cat", "dog")
            assert "4 of its 10 images are the test, drawn by seed" in b.notes[0]
            for split in ("train", "test"):
                for ours, theirs in zip(getattr(a, split), getattr(b, split), strict=True):
                    np.testing.assert_array_equal(theirs, ours)


def test_the_cache_is_read_again_and_follows_the_content(folder, tmp_path, monkeypatch):
    dataset = _load("folder", folder, tmp_path)
    assert isinstance(dataset.train.images, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode", lambda *_: pytest.fail("decoded again"))
        _check(_load("folder", folder, tmp_path))
    (folder / "train" / "cat" / "0.png").write_bytes(_png(_array(99)))
    np.testing.assert_array_equal(_load("folder", folder, tmp_path).train.images[0], _array(99))


def test_the_tar_cache_follows_the_content_though_size_and_time_stay(folder, tmp_path):
    file = _tar(folder, tmp_path / "a.tar")
    stat = file.stat()
    _load("tar", file, tmp_path)
    (folder / "train" / "cat" / "0.png").write_bytes(_png(_array(99)))
    _tar(folder, file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    np.testing.assert_array_equal(_load("tar", file, tmp_path).train.images[0], _array(99))


def test_a_damaged_cache_is_made_again_and_a_killed_ones_rest_is_ignored(folder, tmp_path):
    _load("folder", folder, tmp_path)
    (made,) = (tmp_path / "cache").iterdir()
    for damage in (lambda: os.truncate(made / "train.npy", 200), lambda: (made / "meta.json").write_text("{"),
                   lambda: (made / "test_labels.npy").unlink(), lambda: os.truncate(made / "test_labels.npy", 0)):
        damage()
        _check(_load("folder", folder, tmp_path))
    old = tmp_path / "cache" / "unfinished-of-a-killed-process"
    old.mkdir()
    os.utime(old, (0, 0))
    shutil.rmtree(made)
    _check(_load("folder", folder, tmp_path))
    assert not old.exists()


def test_a_failed_build_leaves_nothing(folder, tmp_path):
    (folder / "train" / "dog" / "1.png").write_bytes(b"")
    _error("folder", folder, tmp_path)
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert "data.cache: cannot write" in _error("folder", folder, tmp_path)


def test_a_full_disk_is_named(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(cache, "_sync", full)
    assert "No space left on device; make room" in _error("folder", folder, tmp_path)
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_folder_comes_from_the_environment(monkeypatch, tmp_path):
    assert cache.root(str(tmp_path)) == tmp_path
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "b"))
    assert cache.root("") == tmp_path / "b"
    monkeypatch.delenv("CNNJAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/x")
    assert cache.root("") == tmp_path / "x" / "cnnjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root("") == tmp_path / ".cache" / "cnnjax"


def test_val_serves_as_test_or_as_validation(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "three")
    (folder / "test").rename(folder / "val")
    assert len(_load("folder", folder, tmp_path).test.labels) == 4
    shutil.copytree(folder / "val", tmp_path / "three" / "val")
    dataset = _load("folder", tmp_path / "three", tmp_path)
    assert len(dataset.validation.labels) == len(dataset.test.labels) == 4
    assert "has a validation split of its own" in _error("folder", tmp_path / "three", tmp_path, validation=2)


def test_images_of_all_modes_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    expected = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(decode.decode(_png(grey), "grey"), expected)
    rgba = np.concatenate([expected, expected[..., :1]], 2)
    np.testing.assert_array_equal(decode.decode(_png(rgba), "rgba"), expected)
    np.testing.assert_array_equal(decode.decode(_png(np.stack([grey, grey], 2)), "grey with alpha"), expected)
    np.testing.assert_array_equal(decode.decode(_png(grey.astype(np.uint16) * 257), "16 bits"), expected)
    np.testing.assert_array_equal(decode.decode(_png(grey > 100), "1 bit"), (expected > 100) * np.uint8(255))
    palette = io.BytesIO()
    Image.fromarray(expected).quantize(64).save(palette, "PNG", transparency=3)
    np.testing.assert_array_equal(decode.decode(palette.getvalue(), "palette"), expected)
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(cmyk, "JPEG")
    red = decode.decode(cmyk.getvalue(), "cmyk")
    assert red.shape == (8, 8, 3)
    assert red[..., 0].min() > 240
    assert red[..., 1:].max() < 15


CORNERS = np.zeros((16, 32, 3), np.uint8)               # a colour a quarter: every turn gives another picture
CORNERS[:8, :16], CORNERS[:8, 16:], CORNERS[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
TURNED = {1: CORNERS, 2: CORNERS[:, ::-1], 3: CORNERS[::-1, ::-1], 4: CORNERS[::-1], 5: CORNERS.transpose(1, 0, 2),
          6: np.rot90(CORNERS, -1), 7: CORNERS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(CORNERS)}


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _turned(form, tag, orientation):
    """An image file of CORNERS that says its orientation by the tag."""
    exif, saved = Image.Exif(), {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    late = {"eXIf after the pixels": _chunk(b"eXIf", exif.tobytes()[6:]),
            "XMP after the pixels": _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)}.get(tag, b"")
    if tag == "XMP" and form == "PNG":
        saved["pnginfo"] = PngImagePlugin.PngInfo()
        saved["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif not late:
        saved[tag.lower()] = exif if tag == "EXIF" else xmp
    stream = io.BytesIO()
    Image.fromarray(CORNERS).save(stream, form, lossless=True, **saved)
    end = stream.getvalue().rindex(b"IEND") - 4 if late else len(stream.getvalue())
    return stream.getvalue()[:end] + late + stream.getvalue()[end:]


@pytest.mark.parametrize(("form", "tag"), [
    ("JPEG", "EXIF"), ("JPEG", "XMP"), ("PNG", "EXIF"), ("PNG", "XMP"), ("PNG", "eXIf after the pixels"),
    ("PNG", "XMP after the pixels"), ("WEBP", "EXIF"), ("WEBP", "XMP"), ("TIFF", "EXIF")])
def test_size_and_pixels_turn_by_whichever_tag_says_so(form, tag):
    for orientation, expected in TURNED.items():
        data = _turned(form, tag, orientation)
        assert decode.upright_size(decode.open_header(data, "x"), "x") == expected.shape[1::-1]
        found = decode.decode(data, "x").astype(int)
        assert found.shape == expected.shape
        assert abs(found - expected).mean() < 6                 # a wrong turn is off by 80 and more


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    assert decode.decode(_turned("PNG", "EXIF", orientation), "x").shape == (16, 32, 3)


def test_broken_exif_does_not_cost_the_image():
    stream = io.BytesIO()
    Image.fromarray(CORNERS).save(stream, "PNG", exif=b"Exif\0\0no header of a TIFF")
    np.testing.assert_array_equal(decode.decode(stream.getvalue(), "x"), CORNERS)


@pytest.mark.parametrize(("form", "suffix"), [("BMP", ".bmp"), ("GIF", ".GIF"), ("TIFF", ".tif"), ("TIFF", ".TIFF"),
                                              ("WEBP", ".WebP"), ("PPM", ".ppm"), ("JPEG", ".jpe"), ("PNG", ".PNG")])
def test_every_kind_of_image_that_pillow_knows_is_read(folder, tmp_path, form, suffix):
    """F2."""
    flat = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    Image.fromarray(flat).save(folder / "train" / "cat" / f"9{suffix}", form, **({"lossless": True} if form == "WEBP"
                                                                               else {}))
    dataset = _load("folder", folder, tmp_path)
    assert len(dataset.train.labels) == 7
    np.testing.assert_allclose(dataset.train.images[3].astype(int), flat, atol=2)
    assert not dataset.left_out


def test_the_first_frame_of_an_animation_is_read():
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode.decode(stream.getvalue(), "x"), np.full((8, 8, 3), (255, 0, 0)))


def test_deep_pixels_are_scaled_or_refused():
    def tiff(array):
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "TIFF")
        return stream.getvalue()
    assert decode.decode(tiff(np.full((4, 4), 0x8001, np.uint16)), "x").tolist() == np.full((4, 4, 3), 128).tolist()
    with pytest.raises(decode.BadImage, match="x has pixels of 32 bits"):
        decode.decode(tiff(np.full((4, 4), 2**20, np.int32)), "x")
    with pytest.raises(decode.BadImage, match="x has floating-point pixels"):
        decode.decode(tiff(np.full((4, 4), 0.5, np.float32)), "x")


def test_images_of_nested_folders_belong_to_their_class(folder, tmp_path):
    """F1, in a folder and in a tar."""
    for depth in ("sub", "sub/deeper"):
        (folder / "train" / "cat" / depth).mkdir()
        (folder / "train" / "cat" / depth / "0.png").write_bytes(_png(_array(7)))
    for dataset in (_load("folder", folder, tmp_path), _load("tar", _tar(folder, tmp_path / "a.tar"), tmp_path)):
        np.testing.assert_array_equal(dataset.train.labels, [0] * 5 + [1] * 3)
        assert not dataset.left_out


@pytest.mark.parametrize(("train", "val", "test"), [
    ("Train", "valid", "TEST"), ("training", "validation", "testing"), ("TRAIN", "dev", "Test"),
    ("train", "eval", "test")])
def test_splits_of_other_names_are_known(folder, tmp_path, train, val, test):
    """F2."""
    shutil.copytree(folder / "test", folder / "held")
    for old, new in (("train", train), ("held", val), ("test", test)):
        (folder / old).rename(folder / new)
    dataset = _load("folder", folder, tmp_path)
    assert len(dataset.validation.labels) == 4
    _check(dataset)


def test_two_folders_of_one_split_are_refused(folder, tmp_path):
    shutil.copytree(folder / "test", folder / "val")
    shutil.copytree(folder / "test", folder / "Valid")
    assert "two folders of one split, Valid/ and val/" in _error("folder", folder, tmp_path)


@pytest.mark.parametrize("source", ["folder", "tar"])
def test_whatever_is_not_read_is_listed(folder, tmp_path, source):
    for name in ("train/cat/notes.txt", "train/cat/._0.png", "train/cat/Thumbs.db", "train/cat/photo.heic",
                 "train/cat/.cache/0.png", "train/beside.png", "test/.DS_Store", "README.md", "extra/cat/0.png",
                 "__MACOSX/train/cat/._0.png", "train/cat/no_suffix"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_png(_array(0)))
    dataset = _load(source, folder if source == "folder" else _tar(folder, tmp_path / "a.tar"), tmp_path)
    _check(dataset)
    lines = {line.partition(": ")[0].rstrip("/"): line.partition(": ")[2] for line in dataset.left_out}
    expected = {
        "train/cat/notes.txt": "no image that is read (.txt)", "train/cat/photo.heic": "no image that is read (.heic)",
        "train/cat/no_suffix": "no image that is read (no suffix)", "train/cat/._0.png": "hidden",
        "train/cat/Thumbs.db": "hidden", "test/.DS_Store": "hidden", "__MACOSX": "hidden", "README.md":
        "no split (train, val or test)", "extra": "no split (train, val or test)",
        "train/beside.png": "beside the class folders, so of no class"}
    assert lines.items() >= expected.items()
    assert ("train/cat/.cache" if source == "folder" else "train/cat/.cache/0.png") in lines
    assert data.summary(dataset.left_out).startswith(f"{len(dataset.left_out)} left out of the data: ")


def test_broken_links_loops_and_pipes_are_listed_and_links_followed(folder, tmp_path):
    """F2."""
    cat = folder / "train" / "cat"
    (cat / "broken.png").symlink_to(tmp_path / "nowhere")
    (cat / "loop").symlink_to(cat)
    os.mkfifo(cat / "pipe.png")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "0.png").write_bytes(_png(_array(5)))
    (cat / "linked").symlink_to(tmp_path / "else")
    dataset = _load("folder", folder, tmp_path)
    assert len(dataset.train.labels) == 7
    assert dataset.left_out == ("train/cat/broken.png: a broken link",
                                "train/cat/loop: a link to a folder that it lies in", "train/cat/pipe.png: not a file")


@pytest.mark.parametrize("source", ["folder", "tar"])
def test_a_single_class_is_refused_by_name(folder, tmp_path, source):
    """F4."""
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "dog")
    path = folder if source == "folder" else _tar(folder, tmp_path / "a.tar")
    assert "/train has one class only, 'cat'; expected two or more" in _error(source, path, tmp_path)


def test_a_path_a_level_off_is_told(folder, tmp_path):
    """F4."""
    assert f"it has cat, dog; did you mean its parent, {folder}?" in _error("folder", folder / "train", tmp_path)
    (tmp_path / "around").mkdir()
    folder.rename(tmp_path / "around" / "set")
    assert f"it has set; did you mean {tmp_path / 'around' / 'set'}?" in _error("folder", tmp_path / "around", tmp_path)
    inside = tmp_path / "inside"
    for split in ("train", "test"):
        shutil.copytree(tmp_path / "around" / "set" / split, inside / split / "images")
    assert "has one class only, 'images'" in _error("folder", inside, tmp_path)


def test_images_without_class_folders_are_no_test_split(folder, tmp_path):
    """As competitions give their test images: val is the test then, and the others are said."""
    (folder / "test").rename(folder / "val")
    (folder / "test").mkdir()
    (folder / "test" / "0.png").write_bytes(_png(_array(0)))
    dataset = _load("folder", folder, tmp_path)
    assert len(dataset.test.labels) == 4
    assert dataset.left_out == ("test/0.png: beside the class folders, so of no class",)


def test_images_that_the_disk_cannot_hold_are_refused_before_they_are_decoded(folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    message = _error("folder", folder, tmp_path)
    assert message.startswith("data.cache: 6 images of 8x8 take 0.0 GB decoded, but")
    assert "set data.image_size or data.streamed" in message


def test_image_size_keeps_the_aspect_and_the_centre(folder, tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    (folder / "train" / "cat" / "0.png").write_bytes(_png(wide))
    dataset = _load("folder", folder, tmp_path, image_size=8)
    np.testing.assert_array_equal(dataset.train.images[0], np.full((8, 8, 3), 200))
    assert _load("folder", folder, tmp_path, image_size=5).train.images.shape == (6, 5, 5, 3)


def _bomb(width, height):
    """A PNG that declares so many pixels in some tens of bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty (0 bytes)"),
    (b"%PDF, or anything else", "is no image of a known kind (JPEG, PNG,"),
    (_png(_array(0))[:100], "cannot be decoded"),
    (_bomb(8, 8), "cannot be decoded"),
    (_bomb(9000, 9000), "declares 9000x9000 pixels; at most"),
    (_bomb(60000, 60000), "cannot be decoded: Image size (3600000000 pixels)"),
], ids=["empty", "other", "cut", "no pixels", "large", "bomb"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_image_is_named_or_skipped(folder, tmp_path, content, said):
    broken = folder / "train" / "dog" / "1.png"
    broken.write_bytes(content)
    message = _error("folder", folder, tmp_path)
    assert message.startswith(f"{broken} {said}")
    assert "data.on_error='skip'" in message
    for _ in range(2):                                          # the second time from the cache
        dataset = _load("folder", folder, tmp_path, on_error="skip")
        (line,) = dataset.left_out
        assert line.startswith(f"{broken} {said}")
        np.testing.assert_array_equal(dataset.train.labels, [0, 0, 0, 1, 1])
        np.testing.assert_array_equal(dataset.train.images[3:], np.stack([_array(0), _array(2)]))


def test_the_first_image_may_be_the_broken_one(folder, tmp_path):
    (folder / "train" / "cat" / "0.png").write_bytes(b"")
    dataset = _load("folder", folder, tmp_path, on_error="skip")
    assert len(dataset.left_out) == 1
    np.testing.assert_array_equal(dataset.train.images[0], _array(11))


def test_a_cut_jpeg_is_not_half_read():
    stream = io.BytesIO()
    Image.fromarray(_array(0, 64)).save(stream, "JPEG")
    with pytest.raises(decode.BadImage, match=r"a\.jpg cannot be decoded: image file is truncated"):
        decode.decode(stream.getvalue()[:-500], "a.jpg")


def test_a_class_whose_images_are_all_skipped_is_an_error(folder, tmp_path):
    for file in (folder / "test" / "dog").iterdir():
        file.write_bytes(b"")
    assert "class test/dog has no readable image" in _error("folder", folder, tmp_path, on_error="skip")
    for file in (folder / "test" / "cat").iterdir():
        file.write_bytes(b"")
    assert "none of the 4 images can be read; the first: " in _error("folder", folder, tmp_path, on_error="skip")


def test_flaws_of_a_folder_are_told(folder, tmp_path):
    assert _error("folder", tmp_path / "none", tmp_path) == f"data.path: no folder '{tmp_path / 'none'}'"
    assert _error("folder", "", tmp_path) == "data.path: no folder ''"

    (folder / "train" / "cat" / "0.png").write_bytes(_png(_array(0, 9)))
    assert "cat/1.png is 8x8; set data.image_size" in _error("folder", folder, tmp_path)
    (folder / "train" / "cat" / "0.png").write_bytes(_png(_array(10)))
    for file in folder.glob("test/*/*"):
        file.write_bytes(_png(_array(0, 9)))
    assert "the splits differ in size (train 8x8, test 9x9); set data.image_size" in _error("folder", folder, tmp_path)

    (folder / "train" / "eel").mkdir()
    (folder / "train" / "eel" / "notes.txt").write_text("no image")
    (folder / "train" / ".hidden").mkdir()
    assert "class train/eel has no image (*.jpg, *.jpeg, " in _error("folder", folder, tmp_path)
    (folder / "train" / "eel" / "0.PNG").write_bytes(_png(_array(0)))
    assert "class 'eel' is missing from test/" in _error("folder", folder, tmp_path)
    shutil.rmtree(folder / "test")
    assert "needs the folders train/<class>/ and test/<class>/ (or val/<class>/); it has train" in _error(
        "folder", folder, tmp_path)
    shutil.rmtree(folder / "train")
    assert "it has nothing" in _error("folder", folder, tmp_path)


def test_flaws_of_a_tar_are_told(folder, tmp_path):
    assert "no tar file" in _error("tar", tmp_path / "none.tar", tmp_path)
    assert "no tar file" in _error("tar", tmp_path, tmp_path)
    whole = _tar(folder, tmp_path / "a.tar").read_bytes()
    bad = tmp_path / "bad.tar"
    for content in (b"", b"not a tar" * 200):
        bad.write_bytes(content)
        assert f"{bad} is not a tar, or is cut off" in _error("tar", bad, tmp_path)
    with tarfile.open(tmp_path / "a.tar") as archive:
        ends = [member.offset_data + member.size for member in archive if member.isreg()]
    for length in (ends[-1] - 10, (ends[-1] + 511) // 512 * 512, ends[2] + 300):
        bad.write_bytes(whole[:length])
        assert "cut off" in _error("tar", bad, tmp_path)
    packed = _tar(folder, tmp_path / "a.tar.gz", "w:gz").read_bytes()
    bad.write_bytes(packed[:-200])
    assert "cut off" in _error("tar", bad, tmp_path)


@pytest.mark.parametrize(("name", "kind", "said"), [
    ("../outside/cat/0.png", tarfile.REGTYPE, "'../outside/cat/0.png', which lies outside it: refused"),
    ("/train/cat/0.png", tarfile.REGTYPE, "'/train/cat/0.png', which lies outside it: refused"),
    ("train/cat/9.png", tarfile.SYMTYPE, "'train/cat/9.png', which is a link or special file: refused"),
    ("train/cat/9.png", tarfile.LNKTYPE, "'train/cat/9.png', which is a link or special file: refused"),
    ("train/cat/9.png", tarfile.FIFOTYPE, "'train/cat/9.png', which is a link or special file: refused"),
])
def test_members_that_lead_out_of_a_tar_are_refused(folder, tmp_path, name, kind, said):
    file = _tar(folder, tmp_path / "a.tar")
    with tarfile.open(file, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert said in _error("tar", file, tmp_path)


def test_the_cached_folder_is_plain_data(folder, tmp_path):
    """What the cache holds needs no pickle to be read."""
    _load("folder", folder, tmp_path)
    (made,) = (tmp_path / "cache").iterdir()
    assert json.loads((made / "meta.json").read_text())["classes"] == ["cat", "dog"]
    assert np.load(made / "train.npy", allow_pickle=False).shape == (6, 8, 8, 3)
