"""Augmentation of annotated images, as pure functions of a random generator and a sample.

A sample is a dict of `image` (H, W, 3) uint8, `boxes` (G, 4) in its pixels, and any other arrays of a row for each box,
such as `classes`. A row goes with its box. `chain` makes one function of several, as a config names them: those of SSD
(Liu et al. 2016, sections 2.2 and 3.6), of YOLO (Redmon et al. 2016, section 2.2), or others.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, get_args

import cv2
import numpy as np

from cnnjax.config import import_function, is_of, nearest
from cnnjax.data.canvases import flip_boxes
from cnnjax.errors import UserError

Sample = dict[str, np.ndarray]

Transform = Callable[[np.random.Generator, Sample], Sample]

Range = tuple[float, float]


# Colours

def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Pixels in [0, 255] times the factor, held there; as all colour functions, float32 to float32."""
    return np.clip(image * np.float32(factor), 0, 255)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Differences from the mean of the grey image times the factor."""
    return _blend(image, _grey(image).mean(dtype=np.float64), factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Differences from the grey image times the factor."""
    return _blend(image, _grey(image)[..., None], factor)


def adjust_hsv(image: np.ndarray, turn: float = 0.0, saturation: float = 1.0, value: float = 1.0) -> np.ndarray:
    """In HSV: the hue turned by a share of the circle, saturation and value multiplied."""
    h, s, v = np.moveaxis(cv2.cvtColor(image / np.float32(255), cv2.COLOR_RGB2HSV), -1, 0)
    hsv = np.stack([(h + 360 * turn) % 360, np.clip(s * saturation, 0, 1), np.clip(v * value, 0, 1)], -1)
    return np.clip(cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB), 0, 1) * 255


def _grey(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.2989, 0.587, 0.114], np.float32)         # ITU-R 601-2, rounded as torchvision's


def _blend(image: np.ndarray, other: Any, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * other, 0, 255).astype(np.float32)


def photometric_distort(rng: np.random.Generator, sample: Sample, *, brightness: Range = (0.875, 1.125),
                        contrast: Range = (0.5, 1.5), saturation: Range = (0.5, 1.5), hue: Range = (-0.05, 0.05),
                        probability: float = 0.5) -> Sample:
    """Brightness, contrast, saturation, hue and the order of the channels, each changed with the probability.

    Contrast comes before saturation and hue, or after them, at even chance: torchvision's RandomPhotometricDistort.
    """
    image = sample["image"].astype(np.float32)
    chosen = {name: rng.uniform(*interval) if rng.random() < probability else None for name, interval in
              (("brightness", brightness), ("contrast", contrast), ("saturation", saturation), ("hue", hue))}
    contrast_first, permuted = rng.random() < 0.5, rng.random() < probability
    steps: list[tuple[str, Callable[..., np.ndarray]]] = [
        ("brightness", adjust_brightness), ("contrast", adjust_contrast), ("saturation", adjust_saturation),
        ("hue", adjust_hsv)]
    if not contrast_first:
        steps.append(steps.pop(1))
    for name, adjust in steps:
        factor = chosen[name]
        if factor is not None:
            image = adjust(image, factor)
    if permuted:
        image = image[..., rng.permutation(3)]
    return sample | {"image": image.round().astype(np.uint8)}


def exposure_saturation(rng: np.random.Generator, sample: Sample, *, factor: float = 1.5) -> Sample:
    """Value and saturation, in HSV, each multiplied or divided by a number from 1 to the factor."""
    saturation, value = (rng.uniform(1, factor) ** rng.choice((-1, 1)) for _ in range(2))
    image = adjust_hsv(sample["image"].astype(np.float32), 0.0, saturation, value)
    return sample | {"image": image.round().astype(np.uint8)}


# Geometry

def flip(rng: np.random.Generator, sample: Sample, *, probability: float = 0.5) -> Sample:
    """Mirrored left to right with the probability."""
    if rng.random() >= probability:
        return sample
    image = sample["image"]
    return sample | {"image": np.ascontiguousarray(image[:, ::-1]),
                     "boxes": flip_boxes(sample["boxes"], image.shape[1]).astype(np.float32)}


def zoom_out(rng: np.random.Generator, sample: Sample, *, side_range: Range = (1.0, 4.0), probability: float = 0.5,
             fill: tuple[int, int, int] = (123, 117, 104)) -> Sample:
    """With the probability the image at a random place of a canvas of the colour `fill`, whose sides are as many times
    longer as drawn from `side_range`: torchvision's RandomZoomOut."""
    if rng.random() >= probability:
        return sample
    height, width = sample["image"].shape[:2]
    ratio = max(1.0, rng.uniform(*side_range))
    high, wide = int(height * ratio), int(width * ratio)
    top, left = int((high - height) * rng.random()), int((wide - width) * rng.random())
    canvas = np.empty((high, wide, 3), np.uint8)
    canvas[:] = fill
    canvas[top:top + height, left:left + width] = sample["image"]
    return sample | {"image": canvas, "boxes": sample["boxes"] + np.array([left, top, left, top], np.float32)}


def iou_crop(rng: np.random.Generator, sample: Sample, *, scale: Range = (0.3, 1.0), aspect: Range = (0.5, 2.0),
             ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), trials: int = 40) -> Sample:
    """A crop that has an IoU with some box of at least what is drawn from `ious`, where 1 stands for no crop.

    Width and height are shares of the image's drawn from `scale`, their quotient lies in `aspect`. After `trials` crops
    in vain another IoU is drawn. Boxes whose centre is outside are dropped, others clipped. An image without boxes is
    left alone. torchvision's RandomIoUCrop, with SanitizeBoundingBoxes.
    """
    height, width = sample["image"].shape[:2]
    boxes = sample["boxes"]
    if not len(boxes):
        return sample
    for _ in range(50):             # of seven options one is no crop: 50 in vain have a probability of 5e-4
        least = rng.choice(ious)
        if least >= 1:
            return sample
        for _ in range(trials):
            shares = rng.uniform(*scale, 2)
            wide, high = int(width * shares[0]), int(height * shares[1])
            if not (wide and high and aspect[0] <= wide / high <= aspect[1]):
                continue
            left, top = (int(room * place) for room, place in zip((width - wide, height - high), rng.random(2),
                                                                  strict=True))
            window = np.array([left, top, left + wide, top + high], np.float32)
            inside = _centred_in(boxes, window)
            if inside.any() and _ious(boxes[inside], window).max() >= least:
                return _crop(sample, window)
    return sample


def scale_translate(rng: np.random.Generator, sample: Sample, *, amount: float = 0.2) -> Sample:
    """Each side of the image moved in or out by up to that share of it, which scales and shifts what is between.

    Beyond the image its outermost pixels are repeated, as in Darknet. Boxes whose centre is outside are dropped, others
    clipped.
    """
    height, width = sample["image"].shape[:2]
    low, high = rng.uniform(-amount, amount, (2, 2)) * (width, height)
    left, top = low.astype(int)
    right, bottom = (np.array([width, height]) - high.astype(int)).clip((left + 1, top + 1))
    return _crop(sample, np.array([left, top, right, bottom], np.float32))


def _centred_in(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    centres = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    return ((centres > window[:2]) & (centres < window[2:])).all(1)


def _ious(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The IoU of each box with the window."""
    overlap = np.clip(np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2]), 0, None).prod(1)
    return overlap / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (window[2:] - window[:2]).prod() - overlap)


def _crop(sample: Sample, window: np.ndarray) -> Sample:
    """The part of the image in a window (x1, y1, x2, y2) of whole pixels, which may reach beyond it, and the boxes
    whose centre is there, clipped."""
    image, boxes = sample["image"], sample["boxes"]
    left, top, right, bottom = window.astype(int)
    height, width = image.shape[:2]
    y, x = np.arange(top, bottom).clip(0, height - 1), np.arange(left, right).clip(0, width - 1)
    kept = _centred_in(boxes, window)
    limits = np.clip(window, 0, np.array([width, height, width, height], np.float32))
    clipped = np.clip(boxes, np.tile(limits[:2], 2), np.tile(limits[2:], 2)) - np.tile(window[:2], 2)
    cropped = sample | {"image": image[y[:, None], x], "boxes": clipped.astype(np.float32)}
    return {name: value if name == "image" else value[kept] for name, value in cropped.items()}


# By name

TRANSFORMS: dict[str, Callable[..., Sample]] = {
    function.__name__: function for function in
    (exposure_saturation, flip, iou_crop, photometric_distort, scale_translate, zoom_out)}

SSD: tuple[Mapping[str, Any], ...] = ({"name": "photometric_distort"}, {"name": "zoom_out"}, {"name": "iou_crop"})
YOLO: tuple[Mapping[str, Any], ...] = ({"name": "scale_translate"}, {"name": "exposure_saturation"})
"""The papers' augmentation, but for the flip, which a data set may forbid (`data.flip`)."""


def chain(transforms: Sequence[Mapping[str, Any]], group: str = "transforms") -> Transform:
    """One transform of several, each `{"name": ..., **settings}`, in their order; `group` is their field of the config.

    "package.module:function" names one outside of the library, `(rng, sample, *, settings)`. Raises UserError for an
    unknown name, and for a setting that a transform has not or of another type than it has.
    """
    functions = []
    for i, given in enumerate(transforms):
        field, settings = f"{group}[{i}]", dict(given)
        name = settings.pop("name", None)
        if name not in TRANSFORMS and ":" not in str(name):
            raise UserError(f"config field '{field}.name': found {name!r}, expected one of {', '.join(TRANSFORMS)}, or "
                            f"package.module:function{nearest(str(name), TRANSFORMS)}")
        function = TRANSFORMS[name] if name in TRANSFORMS else import_function(f"{field}.name", str(name))
        known = {setting: parameter for setting, parameter in inspect.signature(function).parameters.items()
                 if parameter.kind == parameter.KEYWORD_ONLY}
        for setting, value in settings.items():
            if setting not in known:
                raise UserError(f"config has no field '{field}.{setting}'; {name} has {', '.join(known)}"
                                f"{nearest(setting, known)}")
            if not _is_of(value, known[setting].annotation):
                raise UserError(f"config field '{field}.{setting}': found {value!r}, expected one like "
                                f"{known[setting].default!r}")
        functions.append(partial(function, **settings))
    return lambda rng, sample: reduce(lambda sample, function: function(rng, sample), functions, sample)


def _is_of(value: Any, annotation: Any) -> bool:
    """Whether a value has the type that a setting is annotated with: a number, or a tuple of a length or of any. Any
    value has where there is no annotation."""
    if annotation is inspect.Parameter.empty:
        return True
    kinds = get_args(annotation)
    if not kinds:
        return is_of(value, annotation)
    many = kinds[-1] is ...
    return (isinstance(value, tuple | list) and (many or len(value) == len(kinds))
            and all(is_of(item, kinds[0]) for item in value))
