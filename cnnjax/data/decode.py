"""Image files to uint8 arrays, with every way in which a file can be wrong told in one line."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cnnjax.errors import UserError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)      # MAX_PIXELS is under Pillow's limit
SUFFIXES = (".jpg", ".jpeg", ".png")
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
        raise BadImage(f"{name} is neither a JPEG nor a PNG image") from None
    except BROKEN as error:
        raise BadImage(f"{name} cannot be decoded: {str(error) or type(error).__name__}") from None


def read_file(file: Path) -> bytes:
    """The bytes of an image file. Raises `BadImage`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadImage(f"{file} cannot be read: {error.strerror}") from None


def open_header(data: bytes, name: str) -> Image.Image:
    """A JPEG or PNG file's bytes as a Pillow image whose pixels are not decoded yet. Raises `BadImage`."""
    if not data:
        raise BadImage(f"{name} is empty (0 bytes)")
    with _named(name):
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{name} declares {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    return image


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decoded, turned as its EXIF orientation says, and in RGB: grey, 16-bit grey, palette and CMYK are converted, an
    alpha channel is dropped. Raises `BadImage` naming `name`."""
    with _named(name):
        if image.mode != "RGB" or image.info.get("exif"):
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):                          # 16-bit grey; convert() alone would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The image with its shorter side resized to `size` (bilinear, antialiased) and the centre square cut out."""
    if image.size == (size, size):
        return image
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def decode(data: bytes, name: str, size: int = 0) -> np.ndarray:
    """A JPEG or PNG file's bytes to uint8 (H, W, 3), or (size, size, 3) when `size` is not 0. Raises `BadImage`."""
    image = upright_rgb(open_header(data, name), name)
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
    Raises `UserError` when images differ in size.
    """
    skipped: dict[int, str] = {}

    def attempt(i: int) -> np.ndarray | None:
        try:
            return image_at(i)
        except BadImage as error:
            if on_error == "stop":
                raise BadImage(f"{error}; mend or remove it, or set data.on_error='skip'") from None
            skipped[i] = str(error)
            return None

    first = next((i for i in range(count) if attempt(i) is not None), None)
    if first is None:
        raise UserError(f"none of the {count} images can be read; the first: {skipped[0]}")
    shape = image_at(first).shape
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
