"""Decode image files to uint8 arrays; a file that cannot be decoded is reported in one line."""

import contextlib
import io
import math
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cnnjax.errors import UserError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)      # MAX_PIXELS is under Pillow's limit
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
            ".pnm")
"""Of the files that are read as images, in any case of letters."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow's names of them. Of an animated or paged file the first frame is read."""
MAX_PIXELS = 2**26
"""A file that declares more (8192 x 8192) is refused before any of it is decoded."""

_CHUNK = 256        # images a task: enough that handing out tasks costs nothing
BROKEN = (OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error, zlib.error,
          Image.DecompressionBombError)
"""What decoders raise for a broken file."""


class BadImage(UserError):
    """An image file that cannot be read. The message names it."""


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns what decoders raise into a `BadImage` that names the file."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise BadImage(f"{name} is no image of a known kind ({', '.join(FORMATS)})") from None
    except BROKEN as error:
        raise BadImage(f"{name} cannot be decoded: {str(error) or type(error).__name__}") from None


def read_file(file: Path) -> bytes:
    """The bytes of an image file. Raises `BadImage`."""
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:      # ValueError: a name that no file can have
        raise BadImage(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def open_header(data: bytes, name: str) -> Image.Image:
    """An image file's bytes as a Pillow image whose pixels are not decoded yet. Raises `BadImage`, also for a file that
    declares more pixels than `MAX_PIXELS`."""
    if not data:
        raise BadImage(f"{name} is empty (0 bytes)")
    with _named(name):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{name} declares {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    return image


def load(image: Image.Image, name: str) -> None:
    """Decodes the image's pixels in place. Raises `BadImage`."""
    with _named(name):
        image.load()


_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
"""What makes an image of that EXIF orientation upright."""


def orientation(image: Image.Image, name: str) -> int:
    """The EXIF orientation, 1 to 8, wherever the file says it: EXIF (in a PNG before or after the pixels) or XMP.

    1 is upright; so is what cannot be understood, and a TIFF, which Pillow turns itself. Whatever asks for the size and
    whatever decodes the pixels asks here, so that the two agree. Raises `BadImage` where a PNG's pixels, which come
    before its last chunks, cannot be decoded.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG":
        load(image, name)
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except BROKEN:
        return 1
    return found if found in _TURNS else 1


def upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    """(width, height) after the turn that the orientation asks for. Raises `BadImage` as `orientation` does."""
    return image.size if orientation(image, name) < 5 else (image.height, image.width)


def to_rgb(image: Image.Image, name: str, upright: bool = True) -> Image.Image:
    """Decoded, in RGB, and turned as its orientation says if `upright`.

    Grey, 16-bit grey, palette and CMYK are converted, an alpha channel is dropped. Raises `BadImage` naming `name`.
    """
    turn = _TURNS.get(orientation(image, name)) if upright else None
    with _named(name):
        image.load()
        if turn is not None:
            image = image.transpose(turn)
        if image.mode.startswith("I"):                          # 16-bit grey; convert() alone would clip at 255
            values = np.asarray(image)
            if values.size and not 0 <= values.min() <= values.max() < 2**16:
                raise BadImage(f"{name} has pixels of 32 bits; at most 16 a channel are read")
            image = Image.fromarray((values >> 8).astype(np.uint8))
        if image.mode == "F":
            raise BadImage(f"{name} has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The image with its shorter side resized to `size` (bilinear, antialiased) and the centre square cut out."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def decode(data: bytes, name: str, size: int = 0) -> np.ndarray:
    """An image file's bytes to uint8 (H, W, 3), or (size, size, 3) when `size` is not 0. Raises `BadImage`."""
    image = to_rgb(open_header(data, name), name)
    return np.asarray(fit_square(image, size) if size else image)


def resize_all(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, H, W, C) with C 1 or 3 to (N, size, size, C), as `fit_square`; unchanged when `size` is 0."""
    if not size or images.shape[1:3] == (size, size):
        return images
    resized = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for i, image in enumerate(images):
        resized[i] = np.asarray(fit_square(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image),
                                           size)).reshape(size, size, -1)
    return resized


def decode_all(count: int, image_at: Callable[[int], np.ndarray], name_at: Callable[[int], str], target: Path,
               on_error: str) -> tuple[np.ndarray, list[str]]:
    """Decodes images 0 to `count - 1` by all cores into the memory-mappable file `target`: uint8 (N, H, W, C).

    `image_at(i)` runs on threads (decoders release the interpreter lock). An image that raises `BadImage` stops it all,
    or with `on_error="skip"` leaves its place out. Returns the indices kept and a line for each one left out.
    Raises `UserError` when images differ in size, or when the disk has no room for them all.
    """
    skipped: dict[int, str] = {}

    def attempt(i: int) -> np.ndarray | None:
        try:
            return image_at(i)
        except BadImage as error:
            if on_error == "stop":
                raise BadImage(f"{error}; correct or remove it, or set data.on_error='skip'") from None
            skipped[i] = str(error)
            return None

    first = next((i for i in range(count) if attempt(i) is not None), None)
    if first is None:
        raise UserError(f"none of the {count} images can be read; the first: {skipped[0]}")
    shape = image_at(first).shape
    size, free = count * math.prod(shape), shutil.disk_usage(target.parent).free
    if size > free:     # writing a mapped file to a full disk kills the process without an error
        raise UserError(f"data.cache: {count} images of {_size(shape)} take {size / 1e9:,.1f} GB decoded, but "
                        f"{target.parent.parent} has {free / 1e9:,.1f} GB left; name another folder in data.cache or "
                        "CNNJAX_CACHE, or set data.image_size or data.streamed")
    out = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(count, *shape))

    def work(indices: range) -> None:
        for i in indices:
            image = attempt(i)
            if image is None:
                continue
            if image.shape != shape:
                raise UserError(f"images differ in size: {name_at(first)} is {_size(shape)}, {name_at(i)} is "
                                f"{_size(image.shape)}; set data.image_size to bring them to one")
            out[i] = image

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in pool.map(work, _chunks(count)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    kept = np.array([i for i in range(count) if i not in skipped])
    if skipped:     # rare, so simply written again without the gaps
        gaps, part = out, target.with_name(target.name + ".part")
        out = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(kept), *shape))
        for chunk in _chunks(len(kept)):
            out[chunk.start:chunk.stop] = gaps[kept[chunk.start:chunk.stop]]
        part.replace(target)
    out.flush()
    return kept, [skipped[i] for i in sorted(skipped)]


def _chunks(count: int) -> Iterator[range]:
    return (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"
