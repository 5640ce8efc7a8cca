"""Broken files, a table of kinds for each door: what each is, and how it is made from a whole one."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Kinds = dict[str, Any]


# Images

def picture(form: str = "PNG", width: int = 24, height: int = 16, **saved: Any) -> bytes:
    """A whole image file of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **saved)
    return stream.getvalue()


PNG, JPEG = picture(), picture("JPEG")


def chunk(kind: bytes, data: bytes, crc: int | None = None, length: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", crc)


SIGNATURE, PIXELS = PNG[:8], zlib.compress(bytes(16 * (1 + 3 * 24)))


def png(width: int = 24, height: int = 16, depth: int = 8, colour: int = 2, pixels: bytes = PIXELS,
        end: bytes = chunk(b"IEND", b""), extra: bytes = b"") -> bytes:
    """A PNG file put together from its parts."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + end


def jpeg_of_size(width: int, height: int) -> bytes:
    """The JPEG with another size in its frame header."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4:]


def bmp_of_size(width: int, height: int) -> bytes:
    """A BMP with another size in its header."""
    whole = picture("BMP")
    return whole[:18] + struct.pack("<ii", width, height) + whole[26:]


IMAGES: Kinds = {
    "empty": b"", "one byte": b"\x89", "zeros": bytes(2000), "text": b"not an image\n" * 50,
    "html": b"<html><body>404 Not Found</body></html>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pdf": b"%PDF-1.4\n%%EOF", "zip": b"PK\x05\x06" + bytes(18), "numpy": b"\x93NUMPY\x01\x00" + bytes(100),
    "ico": picture("ICO"), "jpeg 2000": picture("JPEG2000"), "avif": b"\0\0\0\x1cftypavif" + bytes(50),
    "gif cut": picture("GIF")[:60], "bmp cut": picture("BMP")[:60], "tiff cut": picture("TIFF")[:60],
    "webp cut": picture("WEBP")[:60], "ppm cut": picture("PPM")[:60],
    "bmp bomb by declared size": bmp_of_size(60_000, 60_000), "ppm bomb by declared size": b"P6 60000 60000 255\n",
    "gif bomb by declared size": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(20),
    "utf-16 of a png": PNG.decode("latin-1").encode("utf-16"), "base64 of a png": base64.b64encode(PNG),
    "png without its first byte": PNG[1:], "png after a blank line": b"\n" + PNG,
    "png, line ends turned": PNG.replace(b"\r\n", b"\n"),
    "png signature alone": SIGNATURE, "png cut in its header": PNG[:20], "png cut after its header": PNG[:33],
    **{f"png cut at {share} %": PNG[: len(PNG) * share // 100] for share in (10, 25, 50, 75, 90)},
    "png of no width": png(width=0), "png of no height": png(height=0),
    "png bomb by declared size": png(60_000, 60_000), "png bomb of one row": png(2**31 - 1, 1),
    "png larger than declared bits": png(2**31 + 5, 2**31 + 5),
    "png of depth 3": png(depth=3), "png of colour 9": png(colour=9),
    "png of no pixels": png(pixels=b""), "png of too few pixels": png(pixels=zlib.compress(bytes(50))),
    "png of garbage pixels": png(pixels=b"garbage" * 30),
    "png of cut pixels": png(pixels=PIXELS[:-6]), "png without pixels": SIGNATURE + PNG[8:33] + chunk(b"IEND", b""),
    "png with a false checksum": SIGNATURE + chunk(b"IHDR", PNG[16:29], crc=1) + PNG[33:],
    "png of an endless chunk": SIGNATURE + PNG[8:33] + chunk(b"IDAT", b"abc", length=2**31 - 1),
    "png with a text bomb": png(extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26)))),
    "jpeg marker alone": b"\xff\xd8", "jpeg cut in its header": JPEG[:30],
    **{f"jpeg cut at {share} %": JPEG[: len(JPEG) * share // 100] for share in (25, 50, 75, 90)},
    "jpeg of no width": jpeg_of_size(0, 16), "jpeg of no height": jpeg_of_size(24, 0),
    "jpeg bomb by declared size": jpeg_of_size(65_500, 65_500),
    "jpeg without its first byte": JPEG[1:], "jpeg of noise": b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(500),
    "jpeg without a frame": JPEG.replace(b"\xff\xc0", b"\xff\xfe"),
}


# VOC annotations

BOX = "<xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>12</ymax>"
OBJECT = f"<object><name>cat</name><difficult>0</difficult><bndbox>{BOX}</bndbox></object>"
SIZE = "<size><width>24</width><height>16</height><depth>3</depth></size>"


def annotation(inside: str = OBJECT, size: str = SIZE) -> str:
    return f"<annotation>{size}{inside}</annotation>"


def boxed(**sides: str) -> str:
    """An annotation whose box has other sides."""
    values = {"xmin": "2", "ymin": "3", "xmax": "20", "ymax": "12", **sides}
    box = "".join(f"<{side}>{value}</{side}>" for side, value in values.items())
    return annotation(OBJECT.replace(BOX, box))


BILLION = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))

XML: Kinds = {
    "empty": "", "blank": " \n", "text": "cat 2 3 20 12", "json": '{"object": []}', "csv": "name,x,y\ncat,1,2\n",
    "html": "<html><body><object/></body></html>", "another root": f"<image>{OBJECT}</image>",
    "two roots": annotation() * 2, "rest after the root": annotation() + "x",
    **{f"cut at {share} %": annotation()[: len(annotation()) * share // 100] for share in (5, 25, 50, 75, 95)},
    "unclosed": annotation().replace("</name>", ""), "crossed": annotation().replace("</name>", "</nome>"),
    "a bare ampersand": annotation().replace("cat", "cat & dog"), "a null byte": annotation().replace("cat", "c\0t"),
    "latin-1 said to be utf-8": annotation().replace("cat", "chaté").encode("latin-1"),
    "an image": PNG,
    "an unknown encoding": '<?xml version="1.0" encoding="nonsense"?>' + annotation(),
    "an entity": f'<!DOCTYPE x [<!ENTITY a "b">]>{annotation().replace("cat", "&a;")}',
    "an entity bomb": f'<!DOCTYPE x [<!ENTITY a0 "ha">{BILLION}]>{annotation().replace("cat", "&a9;")}',
    "a file's entity": f'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>{annotation().replace("cat", "&a;")}',
    "a parameter entity": f'<!DOCTYPE x [<!ENTITY % a SYSTEM "http://localhost/x"> %a;]>{annotation()}',
    "an undefined entity": annotation().replace("cat", "&cat;"),
    "no name": annotation(OBJECT.replace("<name>cat</name>", "")),
    "an empty name": annotation(OBJECT.replace("cat", "")), "a blank name": annotation(OBJECT.replace("cat", "  ")),
    "no box": annotation(OBJECT.replace(f"<bndbox>{BOX}</bndbox>", "")),
    "an empty box": annotation(OBJECT.replace(BOX, "")),
    "a box in a box": annotation(OBJECT.replace(BOX, f"<bndbox>{BOX}</bndbox>")),
    **{f"no {side}": annotation(OBJECT.replace(f"<{side}>", "<other>").replace(f"</{side}>", "</other>"))
       for side in ("xmin", "ymin", "xmax", "ymax")},
    "an empty side": boxed(xmin=""), "a side in words": boxed(xmin="two"), "a side in hexadecimal": boxed(xmax="0x10"),
    "a side with a comma": boxed(xmax="10,5"), "nan": boxed(ymin="nan"), "inf": boxed(xmax="inf"),
    "minus inf": boxed(xmin="-inf"), "1e999": boxed(xmax="1e999"), "400 digits": boxed(xmax="9" * 400),
    "reversed across": boxed(xmin="20", xmax="2"), "reversed down": boxed(ymin="12", ymax="3"),
    "no width": boxed(xmin="20"), "no height": boxed(ymin="12"),
    "right of the image": boxed(xmin="30", xmax="40"), "below the image": boxed(ymin="30", ymax="40"),
    "left of the image": boxed(xmin="-40", xmax="-30"),
    "difficult maybe": annotation(OBJECT.replace(">0<", ">maybe<")),
    "difficult 2": annotation(OBJECT.replace(">0<", ">2<")),
    "another size": annotation(size=SIZE.replace("24", "25")), "a size turned": annotation(
        size="<size><width>16</width><height>24</height></size>"),
    "a size in words": annotation(size=SIZE.replace("24", "wide")), "a negative size": annotation(
        size=SIZE.replace("24", "-24")), "a size of 5000 digits": annotation(size=SIZE.replace("24", "2" * 5000)),
    "a size that is nan": annotation(size=SIZE.replace("24", "nan")),
    "20,000 levels": "<annotation>" + "<a>" * 20_000,
}


# COCO annotations

def coco(**parts: Any) -> dict[str, Any]:
    """A whole annotation file of one image, with parts replaced."""
    return {"images": [{"id": 7, "file_name": "a.png", "height": 16, "width": 24}],
            "categories": [{"id": 3, "name": "cat"}],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1.5, 2, 10, 9], "iscrowd": 0}], **parts}


def changed(part: str, **fields: Any) -> dict[str, Any]:
    """The file with fields of its one image, category or annotation set, or dropped where they are `...`."""
    content = coco()
    entry = content[part][0]
    entry.update(fields)
    content[part] = [{k: v for k, v in entry.items() if v is not ...}]
    return content


def doubled(part: str, **fields: Any) -> dict[str, Any]:
    """The file with its one entry twice, the second with other fields."""
    content = coco()
    content[part].append({**content[part][0], **fields})
    return content


COCO: Kinds = {
    "empty": "", "text": "instances", "null": "null", "a number": "3", "a list": [], "an empty object": {},
    "xml": annotation(), "an image": PNG, "not quoted": "{images: []}", "a comma too many": '{"images": [],}',
    **{f"cut at {share} %": json.dumps(coco())[: len(json.dumps(coco())) * share // 100] for share in (5, 30, 60, 95)},
    "latin-1": json.dumps(coco()).replace("cat", "chaté").encode("latin-1"),
    "100,000 levels": "[" * 100_000,
    "5,000 digits": json.dumps(coco()).replace("16", "1" * 5000),
    **{f"no {part}": {k: v for k, v in coco().items() if k != part} for part in coco()},
    **{f"{part} is {what}": coco(**{part: value}) for part in coco()
       for what, value in {"null": None, "a number": 3, "a word": "x", "an object": {"id": 7}, "numbers": [1, 2],
                           "lists": [[]]}.items()},
    "no image": coco(images=[], annotations=[]), "no category": coco(categories=[]),
    "an image without id": changed("images", id=...), "an image without name": changed("images", file_name=...),
    "an image's name is a number": changed("images", file_name=3),
    "an image's name is empty": changed("images", file_name=""),
    "an image outside": changed("images", file_name="../../outside.png"),
    "an image at the root": changed("images", file_name="/etc/hostname"),
    "an image that is not there": changed("images", file_name="b.png"),
    "an image's id is a list": changed("images", id=[7]), "an image's height is another": changed("images", height=17),
    "two images of one id": doubled("images", file_name="b.png"),
    "a category without id": changed("categories", id=...), "a category without name": changed("categories", name=...),
    "a category's id is a list": changed("categories", id=[3]), "a category's name is a number":
        changed("categories", name=5), "two categories of one id": doubled("categories", name="dog"),
    "ids of two types": doubled(
        "categories", id="x", name="dog"),
    "an object without image": changed("annotations", image_id=...), "an object without category":
        changed("annotations", category_id=...), "an object without box": changed("annotations", bbox=...),
    "an object of an unknown image": changed("annotations", image_id=8), "an object of an unknown category":
        changed("annotations", category_id=99), "an object of a list's image": changed("annotations", image_id=[7]),
    **{f"a box of {what}": changed("annotations", bbox=value) for what, value in {
        "null": None, "a number": 3, "a word": "1234", "nothing": [], "three numbers": [1, 2, 3],
        "five numbers": [1, 2, 3, 4, 5], "words": ["1", "2", "3", "4"], "nulls": [None] * 4, "lists": [[1]] * 4,
        "an object": {"x": 1}, "nan": [float("nan"), 2, 3, 4], "infinity": [1, 2, float("inf"), 4],
        "negative width": [10, 2, -5, 4], "negative height": [10, 2, 5, -4], "no width": [1, 2, 0, 4],
        "no height": [1, 2, 4, 0], "what lies outside": [100, 100, 5, 5], "true and false": [True, False, True, True],
    }.items()},
    "a crowd of a word": changed("annotations", iscrowd="yes"),
}


# Tars

def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar of a small image folder and more members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for split in ("train", "test"):
            for kind in ("cat", "dog"):
                info = tarfile.TarInfo(f"{split}/{kind}/a.png")
                info.size = len(PNG)
                archive.addfile(info, io.BytesIO(PNG))
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return stream.getvalue()


def extra(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    return tar((info, data))


def one_image(data: bytes) -> bytes:
    return extra("train/cat/bad.png", data=data)


PLAIN = tar()

TARS: Kinds = {
    "empty": b"", "text": b"not a tar\n" * 100, "an image": PNG, "a zip": b"PK\x03\x04" + bytes(600),
    "nothing in it": bytes(10240),
    **{f"cut at {share} %": PLAIN[: len(PLAIN) * share // 100] for share in (1, 10, 20, 35)},
    "cut within its end mark": PLAIN[: PLAIN.rindex(PNG[-8:]) + 8],
    "a broken header": PLAIN[:100] + b"garbage!" * 6 + PLAIN[148:],
    "a size of garbage": PLAIN[:124] + b"zzzzzzzzzzz\0" + PLAIN[136:],
    "outside": extra("../evil.png", data=PNG), "outside within": extra("train/../../evil.png", data=PNG),
    "absolute": extra("/etc/evil.png", data=PNG),
    "a symbolic link": extra("train/cat/b.png", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": extra("train/cat/b.png", tarfile.LNKTYPE, "train/cat/a.png"),
    "a link to a folder": extra("train/pig", tarfile.SYMTYPE, ".."),
    "a character device": extra("train/cat/b.png", tarfile.CHRTYPE),
    "a block device": extra("train/cat/b.png", tarfile.BLKTYPE), "a pipe": extra("train/cat/b.png", tarfile.FIFOTYPE),
    "a class only to train": extra("train/pig/a.png", data=PNG), "a broken image": one_image(PNG[:100]),
    "an empty image": extra("train/cat/bad.png"), "an image of another size": one_image(picture(width=25)),
    "gzip cut": gzip.compress(PLAIN)[:-100], "gzip of text": gzip.compress(b"text" * 999),
    "gzip with a false checksum": gzip.compress(PLAIN)[:-8] + bytes(8),
    "gzip of garbage": b"\x1f\x8b" + b"garbage" * 99,
    "gzip with garbage inside": gzip.compress(PLAIN)[:60] + b"\xff" * 300,
    "bzip2 cut": bz2.compress(PLAIN)[:-50], "bzip2 of garbage": b"BZh9" + b"garbage" * 99,
    "xz cut": lzma.compress(PLAIN)[:-50], "xz of garbage": b"\xfd7zXZ\0" + b"garbage" * 99,
}


# idx

def idx(shape: tuple[int, ...], data: bytes, magic: bytes | None = None) -> bytes:
    return (magic or bytes([0, 0, 8, len(shape)])) + struct.pack(f">{len(shape)}I", *shape) + data


IDX_IMAGES, IDX_LABELS = idx((4, 5, 5), bytes(100)), idx((4,), bytes([0, 1, 0, 1]))

IDX: dict[str, dict[str, bytes | None]] = {
    name: {"train-images-idx3-ubyte": content} for name, content in {
        "no file": None, "empty": b"", "text": b"images\n" * 9, "an image": PNG, "the magic of labels": IDX_LABELS,
        "floats": idx((4, 5, 5), bytes(400), b"\0\0\x0d\3"), "little-endian": b"\3\x08\0\0" + IDX_IMAGES[4:],
        "two dimensions": idx((4, 25), bytes(100)), "four dimensions": idx((4, 5, 5, 1), bytes(100)),
        "cut in its header": IDX_IMAGES[:9], "short of a byte": IDX_IMAGES[:-1], "a byte too long": IDX_IMAGES + b"x",
        "no images": idx((0, 5, 5), b""), "images of no width": idx((4, 5, 0), b""),
        "images of no height": idx((4, 0, 5), b""), "2**96 pixels": idx((2**32 - 1,) * 3, bytes(9)),
        "more images than labels": idx((5, 5, 5), bytes(125)), "fewer images than labels": idx((3, 5, 5), bytes(75)),
    }.items()} | {
    f"gzip {name}": {"train-images-idx3-ubyte": None, "train-images-idx3-ubyte.gz": content} for name, content in {
        "cut": gzip.compress(IDX_IMAGES)[:-9], "of garbage": b"\x1f\x8b" + b"garbage" * 9, "that is none": IDX_IMAGES,
        "with a false checksum": gzip.compress(IDX_IMAGES)[:-8] + bytes(8), "of nothing": gzip.compress(b""),
    }.items()} | {
    name: {"train-labels-idx1-ubyte": content} for name, content in {
        "no labels": None, "labels cut": IDX_LABELS[:-1], "labels of images": IDX_IMAGES,
        "a class without images": idx((4,), bytes([0, 2, 0, 2])), "one label too many": idx((5,), bytes(5)),
    }.items()} | {"a test label unknown to training": {"t10k-labels-idx1-ubyte": idx((4,), bytes([0, 7, 0, 1]))}}


# PyTorch's files

class Call:
    """Its pickle calls a function."""

    def __init__(self, function: Callable, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def named(module: str, name: str) -> bytes:
    """A pickle that calls `module.name("touched")`."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(S'touched'\ntR."


def zipped(pickled: bytes, files: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """The zip that PyTorch writes, of a pickle and storages."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (files or {}).items():
            archive.writestr(f"archive/{name}", data)
    return stream.getvalue()


def tensor(size: str = "(I2\nI3\nt", stride: str = "(I3\nI1\nt", offset: str = "I0\n", count: str = "I6\n",
           key: str = "S'0'\n", storage: str = "FloatStorage") -> bytes:
    """The pickle of `{"w": tensor}` as PyTorch writes it, in the protocol of text."""
    return (f"(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\n{storage}\n{key}S'cpu'\n{count}tQ"
            f"{offset}{size}{stride}I00\n(dtRs.").encode()


def encrypted(data: bytes) -> bytes:
    """A zip file whose entries say that they are encrypted."""
    changed = bytearray(data)
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 1)
    return bytes(changed)


MAGIC = 0x1950A86A20F9469CFC6C
NUMBERS = {"data/0": np.arange(6, dtype=np.float32).tobytes()}
WHOLE = zipped(tensor(), NUMBERS)


def safetensors(header: Any, numbers: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(**fields: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **fields}}


PTH: Kinds = {
    "empty": b"", "text": b"weights\n" * 50, "an image": PNG, "zeros": bytes(1000), "a tar": PLAIN,
    **{f"zip cut at {share} %": WHOLE[: len(WHOLE) * share // 100] for share in (10, 30, 50, 70, 90, 99)},
    "zip without its end": WHOLE[:-22], "zip without a pickle": b"PK\x05\x06" + bytes(18),
    "a pickle of nothing": zipped(b""), "a pickle cut": zipped(tensor()[:-9], NUMBERS),
    "a pickle of garbage": zipped(b"\x80\x04garbage.", NUMBERS), "a number": zipped(pickle.dumps(3)),
    "a list": zipped(pickle.dumps([1, 2])), "an empty dict": zipped(pickle.dumps({})),
    "a dict of words": zipped(pickle.dumps({"epoch": "3"})), "no numbers": zipped(tensor()),
    "numbers cut": zipped(tensor(), {"data/0": bytes(20)}), "a compressed bomb": zipped(
        tensor(), {"data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED),
    "a false checksum": WHOLE.replace(NUMBERS["data/0"], bytes(24), 1),
    "encrypted": encrypted(WHOLE),
    "a tensor beyond its numbers": zipped(tensor(size="(I5\nI5\nt"), NUMBERS),
    "a tensor of 2**40 numbers": zipped(tensor(size="(L1099511627776L\nt", stride="(I0\nt"), NUMBERS),
    "a tensor of a negative shape": zipped(tensor(size="(I-2\nI3\nt"), NUMBERS),
    "a tensor of negative strides": zipped(tensor(stride="(I-3\nI1\nt"), NUMBERS),
    "a tensor before its numbers": zipped(tensor(offset="I-2\n"), NUMBERS),
    "a tensor of a shape in words": zipped(tensor(size="(S'a'\nS'b'\nt"), NUMBERS),
    "a tensor of half a row": zipped(tensor(size="(F1.5\nI3\nt"), NUMBERS),
    "shape and strides differ": zipped(tensor(size="(I6\nt"), NUMBERS),
    "a negative count": zipped(tensor(count="I-6\n"), NUMBERS), "a count in words": zipped(
        tensor(count="S'six'\n"), NUMBERS),
    "another storage": zipped(tensor(key="S'1'\n"), NUMBERS), "a storage outside": zipped(
        tensor(key="S'../data.pkl'\n"), NUMBERS),
    "an unknown storage": zipped(tensor(storage="ComplexStorage"), NUMBERS),
    "20,000 levels": zipped(b"(" * 20_000 + b"l" * 20_000 + b"."), "an endless list": zipped(b"(lp0\ng0\na."),
    "a state that is its own": zipped(b"(dp0\nS'a'\ng0\ns."),
    **{f"calls {module}.{name}": zipped(named(module, name)) for module, name in (
        ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "open"),
        ("builtins", "getattr"), ("__builtin__", "eval"), ("subprocess", "Popen"), ("subprocess", "check_output"),
        ("torch", "load"), ("torch.hub", "load"), ("numpy", "load"), ("runpy", "run_path"),
        ("importlib", "import_module"), ("cnnjax.cli", "main"),
        ("collections", "defaultdict"), ("shutil", "rmtree"), ("pathlib", "Path"),
        ("collections", "OrderedDict.__class__"), ("torch._utils", "_rebuild_tensor_v2.__globals__"))},
    **{f"calls os.system, older layout, protocol {p}": pickle.dumps(Call(os.system, "touch touched"), p)
       for p in range(6)},
    "older layout of another magic": pickle.dumps(7), "older layout, the magic alone": pickle.dumps(MAGIC),
    "older layout of lists": b"".join(pickle.dumps(x) for x in (MAGIC, 1001, [], [], [])),
    "older layout of a large-endian machine": b"".join(pickle.dumps(x) for x in (
        MAGIC, 1001, {"little_endian": False}, {}, [])),
    "older layout with a call at its end": b"".join((pickle.dumps(MAGIC), pickle.dumps(1001),
                                                     named("os", "system"))),
}

SAFETENSORS: Kinds = {
    "empty": b"", "seven bytes": bytes(7), "text": b"weights " * 9, "a zip": WHOLE, "an endless header":
        struct.pack("<Q", 2**62) + b"{}", "a header cut": safetensors(entry())[:40], "a header of garbage":
        safetensors(b"garbage"), "a header in latin-1": safetensors(b'{"\xe9": 1}'),
    "100,000 levels": safetensors(b"[" * 100_000), "a list": safetensors([]), "a number": safetensors(3),
    "a tensor of null": safetensors({"w": None}), "a tensor of nothing": safetensors({"w": {}}),
    "an unknown dtype": safetensors(entry(dtype="F8")), "a dtype of a list": safetensors(entry(dtype=["F32"])),
    "a shape in words": safetensors(entry(shape=["2", "3"])), "a shape of null": safetensors(entry(shape=None)),
    "a negative shape": safetensors(entry(shape=[-2, -3])), "a shape of halves": safetensors(entry(shape=[1.5, 4])),
    "a shape too large": safetensors(entry(shape=[2, 4])), "a shape of 2**80": safetensors(entry(shape=[2**40, 2**40])),
    "places reversed": safetensors(entry(data_offsets=[24, 0])), "places before": safetensors(
        entry(data_offsets=[-24, 0])), "places beyond": safetensors(entry(data_offsets=[8, 32])),
    "places in words": safetensors(entry(data_offsets=["0", "24"])), "one place": safetensors(entry(data_offsets=[0])),
    "numbers cut": safetensors(entry(), bytes(20)),
}
