"""Preprocess image files for a trained classifier: decode, resize, crop; its mean and standard deviation."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from cnnjax.data import crops, decode
from cnnjax.errors import UserError


@dataclass(frozen=True)
class Preprocessing:
    """An image file to uint8 `(height, width, channels)`, which the network takes as `(x / 255 - mean) / std`.

    `style` says how the image comes to its size. "fit": the largest centre of the size's shape is resized to it.
    "crop": the shorter side is resized to `resize` and the centre cut out. "torchvision": the same, rounded as
    torchvision's transforms do. All resizing is bilinear and antialiased. Of one channel: grey.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    style: Literal["fit", "crop", "torchvision"] = "fit"
    resize: int = 0

    def views(self, data: bytes, name: str, *, flip: bool = False, ten_crop: bool = False) -> np.ndarray:
        """What a network is shown of an image file's bytes: uint8 (views, height, width, channels).

        One view, or with `flip` also its mirror image; with `ten_crop` the four corners and the centre of the image
        whose shorter side is 256/224 of the size (or `resize`), and their mirror images. Raises `BadImage`.
        """
        pixels = self._crops(data, name, ten_crop)
        if flip and not ten_crop:
            pixels = np.concatenate([pixels, pixels[:, :, ::-1]])
        if len(self.mean) == 1:
            return np.stack([np.asarray(Image.fromarray(view).convert("L"))[..., None] for view in pixels])
        return pixels

    def _crops(self, data: bytes, name: str, ten_crop: bool) -> np.ndarray:
        height, width = self.size
        if ten_crop and height != width:
            raise UserError(f"ten crops are square; this network takes images of {width}x{height}")
        image = decode.open_header(data, name)
        resize = self.resize or round(height * 256 / 224)
        if (self.style != "fit" or ten_crop) and resize**2 * max(image.size) > decode.MAX_PIXELS * min(image.size):
            raise decode.BadImage(f"{name} is {image.width}x{image.height}, which is too narrow to resize its shorter "
                                  f"side to {resize}")
        if self.style == "torchvision":
            return _torchvision_crops(decode.to_rgb(image, name), height, resize, ten_crop)
        if self.style == "crop" or ten_crop:
            found = crops.evaluation_crop(data, name, height, resize, ten_crop)
            return found if ten_crop else found[None]
        image = decode.to_rgb(image, name)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)[None]

    def describe(self) -> dict[str, Any]:
        """All of it as JSON, for the metadata of what is exported."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        height, width = self.size
        how = f"shorter side to {self.resize}, centre {width}x{height}" if self.resize else f"{width}x{height}"
        numbers = (", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"{how}{', grey' * (len(self.mean) == 1)}, mean {next(numbers)}, std {next(numbers)}"


def _torchvision_crops(image: Image.Image, size: int, resize: int, ten_crop: bool) -> np.ndarray:
    """`Resize(resize)` (the longer side is rounded down), then `CenterCrop(size)` (rounded to even) or `TenCrop(size)`,
    whose last five are cut out of the mirrored image."""
    width, height = image.size
    if width <= height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    bottom, right = height - size, width - size
    corners = [(round(bottom / 2), round(right / 2))]
    if ten_crop:
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), *corners]
    sides = (pixels, pixels[:, ::-1]) if ten_crop else (pixels,)
    return np.stack([side[y:y + size, x:x + size] for side in sides for y, x in corners])
