"""Transforms of training images by name, on the device, inside the jitted step: pure functions of a batch and keys.

A batch has `image` `(N, H, W, C)` float32 and `label` `(N, classes)` float32, the shares of the classes. Each image
has a key of its own, of its place in the batch of all devices, so that what happens to it does not depend on the number
of devices; but its partner in mixup and CutMix is of the same device. Those of PIXELS take pixels in [0, 1], before
they are normalised; the others take normalised ones, where 0 is the mean colour.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.config import import_function, is_of, nearest
from cnnjax.errors import UserError

Image = jax.Array


# Of one image

def colour_jitter(image: Image, key: jax.Array, *, brightness: float = 0.4, contrast: float = 0.4,
                  saturation: float = 0.4) -> Image:
    """Brightness, contrast and saturation, in this order, times a factor of `[max(0, 1 - x), 1 + x]` each (Howard 2013,
    section 2.2)."""
    factors = [jax.random.uniform(k, (), minval=max(0.0, 1 - x), maxval=1 + x)
               for k, x in zip(jax.random.split(key, 3), (brightness, contrast, saturation), strict=True)]
    image = jnp.clip(image * factors[0], 0, 1)
    image = _blend(_grey(image).mean(), image, factors[1])
    return _blend(_grey(image), image, factors[2])


def random_resized_crop(image: Image, key: jax.Array, *, scale: Sequence[float] = (0.08, 1.0),
                        ratio: Sequence[float] = (0.75, 4 / 3)) -> Image:
    """A region of a share `scale` of the image and of a width over height in `ratio`, resized to the image's size
    (Szegedy et al. 2014, section 6)."""
    height, width, _ = image.shape
    keys = jax.random.split(key, 3)
    area = jax.random.uniform(keys[0], (), minval=scale[0], maxval=scale[1])
    shape = jnp.exp(jax.random.uniform(keys[1], (), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
    sides = jnp.minimum(jnp.sqrt(area / jnp.stack([shape, 1 / shape])), 1) * jnp.array([height, width])
    corner = jax.random.uniform(keys[2], (2,)) * (jnp.array([height, width]) - sides)
    zoom = jnp.array([height, width]) / sides
    return jax.image.scale_and_translate(image, image.shape, (0, 1), zoom, -corner * zoom, "linear")


def cutout(image: Image, key: jax.Array, *, size: int = 16) -> Image:
    """A square of `size` pixels, its middle anywhere in the image, becomes 0, the mean colour (DeVries and Taylor
    2017)."""
    middle = jax.random.uniform(key, (2,)) * jnp.array(image.shape[:2])
    return jnp.where(_inside(image, middle - size / 2, middle + size / 2), 0, image)


def random_erasing(image: Image, key: jax.Array, *, probability: float = 0.5, scale: Sequence[float] = (0.02, 0.33),
                   ratio: Sequence[float] = (0.3, 3.3)) -> Image:
    """With a `probability`, a rectangle of a share `scale` of the image becomes noise of deviation 1 (Zhong et al.
    2017)."""
    keys = jax.random.split(key, 5)
    area = jax.random.uniform(keys[0], (), minval=scale[0], maxval=scale[1])
    shape = jnp.exp(jax.random.uniform(keys[1], (), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
    size = jnp.array(image.shape[:2])
    sides = jnp.minimum(jnp.sqrt(area * jnp.stack([shape, 1 / shape])), 1) * size
    corner = jax.random.uniform(keys[2], (2,)) * (size - sides)
    erased = jnp.where(_inside(image, corner, corner + sides), jax.random.normal(keys[3], image.shape), image)
    return jnp.where(jax.random.uniform(keys[4]) < probability, erased, image)


def rand_augment(image: Image, key: jax.Array, *, count: int = 2, magnitude: float = 0.3) -> Image:
    """`count` operations in turn, each drawn from OPERATIONS, at `magnitude` in [0, 1] of their greatest strength
    (Cubuk et al. 2020)."""
    for k in jax.random.split(key, count):
        which, sign = jax.random.split(k)
        strength = magnitude * jnp.where(jax.random.bernoulli(sign), 1.0, -1.0)
        image = jax.lax.switch(jax.random.randint(which, (), 0, len(OPERATIONS)),
                               [partial(operation, strength=strength) for operation in OPERATIONS.values()], image)
    return jnp.clip(image, 0, 1)


OPERATIONS: dict[str, Callable[..., Image]] = {
    "identity": lambda image, strength: image,
    "auto_contrast": lambda image, strength: _stretch(image),
    "brightness": lambda image, strength: image * (1 + 0.9 * strength),
    "contrast": lambda image, strength: _blend(_grey(image).mean(), image, 1 + 0.9 * strength),
    "colour": lambda image, strength: _blend(_grey(image), image, 1 + 0.9 * strength),
    "posterize": lambda image, strength: jnp.floor(image * 255 / 2 ** jnp.round(4 * abs(strength))) *
    2 ** jnp.round(4 * abs(strength)) / 255,
    "solarize": lambda image, strength: jnp.where(image >= 1 - abs(strength), 1 - image, image),
    "rotate": lambda image, strength: _affine(image, _rotation(math.pi / 6 * strength)),
    "shear_x": lambda image, strength: _affine(image, jnp.array([[1, 0], [0, 1]]) + jnp.array(
        [[0, 0], [0.3, 0]]) * strength),
    "shear_y": lambda image, strength: _affine(image, jnp.array([[1, 0], [0, 1]]) + jnp.array(
        [[0, 0.3], [0, 0]]) * strength),
    "translate_x": lambda image, strength: _affine(image, jnp.eye(2), jnp.array([0, image.shape[1] / 3]) * strength),
    "translate_y": lambda image, strength: _affine(image, jnp.eye(2), jnp.array([image.shape[0] / 3, 0]) * strength),
}
"""Of RandAugment, but equalize and sharpness: pixels in [0, 1] and a signed strength in [-1, 1] to pixels."""


def _blend(base: jax.Array, image: Image, factor: jax.Array) -> Image:
    return jnp.clip(base + factor * (image - base), 0, 1)


def _grey(image: Image) -> Image:
    """(H, W, 1): luma of ITU-R BT.601; an image of another number of channels by their mean."""
    weights = jnp.array([0.299, 0.587, 0.114]) if image.shape[-1] == 3 else jnp.full(
        image.shape[-1], 1 / image.shape[-1])
    return (image * weights).sum(-1, keepdims=True)


def _stretch(image: Image) -> Image:
    low, high = image.min((0, 1)), image.max((0, 1))
    return jnp.where(high > low, (image - low) / jnp.maximum(high - low, 1e-6), image)


def _rotation(angle: jax.Array) -> jax.Array:
    return jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])


def _affine(image: Image, matrix: jax.Array, shift: Any = 0.0) -> Image:
    """The image read at `matrix @ (place - middle) + middle + shift`, bilinearly; grey where that lies outside."""
    size = jnp.array(image.shape[:2])
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape[:2]), indexing="ij"))       # (2, H, W)
    middle = ((size - 1) / 2)[:, None, None]
    places = jnp.tensordot(matrix, grid - middle, 1) + middle + jnp.broadcast_to(shift, (2,))[:, None, None]
    return jnp.stack([jax.scipy.ndimage.map_coordinates(image[..., c], list(places), 1, cval=0.5)
                      for c in range(image.shape[-1])], -1)


def _inside(image: Image, low: jax.Array, high: jax.Array) -> jax.Array:
    """Which pixels' middles lie between two corners (y, x): (H, W, 1)."""
    y, x = (jnp.arange(n) + 0.5 for n in image.shape[:2])
    rows, columns = (y >= low[0]) & (y < high[0]), (x >= low[1]) & (x < high[1])
    return (rows[:, None] & columns)[..., None]


# Of a batch

def mixup(image: jax.Array, label: jax.Array, keys: jax.Array, *, alpha: float = 0.2) -> tuple[jax.Array, jax.Array]:
    """Each image, and its label, is a weighted mean with its partner's, the weight of Beta(alpha, alpha) (Zhang et al.
    2018, eq. 1)."""
    weight = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)
    return (_mean(image, image[::-1], weight), _mean(label, label[::-1], weight))


def cutmix(image: jax.Array, label: jax.Array, keys: jax.Array, *, alpha: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """In each image a rectangle is its partner's, and the label is mixed by the areas; the share that stays is of
    Beta(alpha, alpha) (Yun et al. 2019, section 3.1)."""
    size = jnp.array(image.shape[1:3])

    def outside(image: Image, key: jax.Array) -> jax.Array:
        share, middle = jax.random.split(key)
        half = size * jnp.sqrt(1 - jax.random.beta(share, alpha, alpha)) / 2
        middle = jax.random.uniform(middle, (2,)) * size
        return ~_inside(image, middle - half, middle + half)

    stays = jax.vmap(outside)(image, keys)
    return jnp.where(stays, image, image[::-1]), _mean(label, label[::-1], stays.mean((1, 2, 3)))


def _mean(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    weight = weight.reshape(-1, *(1,) * (a.ndim - 1))
    return weight * a + (1 - weight) * b


# By name

PIXELS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (colour_jitter, random_resized_crop, rand_augment)}
NORMALISED: dict[str, Callable[..., Any]] = {f.__name__: f for f in (cutout, random_erasing)}
BATCH: dict[str, Callable[..., Any]] = {f.__name__: f for f in (mixup, cutmix)}

KNOWN = {"pixels": PIXELS, "normalised": NORMALISED, "batch": BATCH}
"""The transforms by what they take."""


def find(name: str, field: str = "transforms") -> tuple[str, Callable[..., Any]]:
    """What the transform `name` takes, a key of KNOWN, and its function.

    "package.module:function" names one outside of the library: `(image, key, *, fields)` of an image with pixels in
    [0, 1], or `(image, label, keys, *, fields)` of a normalised batch. Raises UserError naming `field`.
    """
    for takes, functions in KNOWN.items():
        if name in functions:
            return takes, functions[name]
    if ":" not in name:
        known = [name for functions in KNOWN.values() for name in functions]
        raise UserError(f"config field {field!r}: found {name!r}, expected one of {', '.join(known)}, or "
                        f"package.module:function{nearest(name, known)}")
    function = import_function(field, name)
    arguments = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if len(arguments) not in (2, 3):
        raise UserError(f"config field {field!r}: found {name!r}, which takes "
                        f"({', '.join(p.name for p in arguments)}), expected (image, key) or (image, label, keys)")
    return "pixels" if len(arguments) == 2 else "batch", function


def apply(transforms: Sequence[Mapping[str, Any]], takes: Collection[str], image: jax.Array, label: jax.Array,
          key: jax.Array, first: int | jax.Array = 0) -> tuple[jax.Array, jax.Array]:
    """Those of `transforms`, each `{"name": ..., **its fields}`, that take one of `takes`, one after the other.

    The first image is number `first` of the batch of all devices.
    """
    for i, transform in enumerate(transforms):
        own = {field: value for field, value in transform.items() if field != "name"}
        taken, function = find(transform["name"])
        if taken not in takes:
            continue
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, i)))(first + jnp.arange(len(image)))
        if taken == "batch":
            image, label = function(image, label, keys, **own)
        else:
            image = jax.vmap(partial(function, **own))(image, keys)
    return image, label


def check(transforms: Sequence[Any], field: str) -> None:
    """Raises UserError naming `field` for a transform that there is not, and for fields that it has not or that are of
    another type than its defaults."""
    for i, transform in enumerate(transforms):
        if not isinstance(transform, Mapping) or not isinstance(transform.get("name"), str):
            raise UserError(f"config field {field!r}: found {transform!r}, expected {{'name': ..., fields}}, such as "
                            "({'name': 'cutout', 'size': 16},)")
        name = transform["name"]
        function = find(name, field)[1]
        defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()
                    if p.kind is p.KEYWORD_ONLY}
        for own, value in transform.items():
            if own == "name":
                continue
            if own not in defaults:
                raise UserError(f"config field '{field}[{i}].{own}': {name} has no such field{nearest(own, defaults)}")
            wanted = defaults[own]
            pair = isinstance(value, tuple | list) and len(value) == 2 and all(is_of(v, float) for v in value)
            if not (pair and 0 < value[0] <= value[1] if isinstance(wanted, tuple) else
                    is_of(value, type(wanted)) and (isinstance(value, str) or value >= 0)):
                raise UserError(f"config field '{field}[{i}].{own}': found {value!r}, expected "
                                f"{'a pair, the lower first,' if isinstance(wanted, tuple) else type(wanted).__name__} "
                                f"like {wanted!r}")
