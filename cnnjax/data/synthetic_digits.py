"""The embedded detection set: scikit-learn's 8x8 digits scattered, scaled and overlapped on textured canvases.

It needs no file and no network: every image is a function of (seed, split, index).
"""

import cv2
import numpy as np

from cnnjax.data.detection_sets import DetectionSet, Objects

CLASSES = tuple("0123456789")
SIDES = (16, 48)            # longer side of a digit in pixels
MOST = 6                    # digits on an image
OVERLAP = 0.25              # the share of either digit's box that another may cover


def generate(split: str, count: int, size: int, seed: int) -> DetectionSet:
    """`count` images of `size`x`size` with 1 to 6 digits of 16 to 48 pixels, boxes tight around the ink.

    Train and test draw from disjoint digit images: every fourth one of the 1,797 is a test digit.
    """
    from sklearn.datasets import load_digits  # slow to import, and nothing else here needs it

    digits = load_digits()
    test_digit = np.arange(len(digits.target)) % 4 == 3
    source = np.flatnonzero(test_digit == (split == "test"))
    made = [_draw(digits.images, digits.target, source, size, np.random.default_rng([seed, split == "test", i]))
            for i in range(count)]
    images = [image for image, _ in made]
    return DetectionSet(tuple(f"{split}-{i:05d}" for i in range(count)), np.full((count, 2), size),
                        tuple(objects for _, objects in made), images.__getitem__)


def _draw(images: np.ndarray, targets: np.ndarray, source: np.ndarray, size: int,
          rng: np.random.Generator) -> tuple[np.ndarray, Objects]:
    canvas = _texture(size, rng)
    rows: list[tuple[np.ndarray, int, bool, bool]] = []
    for _ in range(rng.integers(1, MOST + 1)):
        index = rng.choice(source)
        ink = _tight(images[index] / 16)
        side = rng.uniform(*SIDES)
        height, width = (max(2, round(n * side / max(ink.shape))) for n in ink.shape)
        mask = cv2.resize(ink, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]    # (h, w, 1)
        for _ in range(50):         # a place where it covers little of the others, or none
            y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
            box = np.array([x, y, x + width, y + height], np.float32)
            if all(_covered(box, other) <= OVERLAP for other, *_ in rows):
                break
        else:
            continue
        place = canvas[y:y + height, x:x + width]
        bright = place.mean() < 128
        colour = rng.uniform(170, 255, 3) if bright else rng.uniform(0, 85, 3)
        canvas[y:y + height, x:x + width] = (1 - mask) * place + mask * colour
        rows.append((box, int(targets[index]), False, False))
    return canvas.round().clip(0, 255).astype(np.uint8), Objects.of(rows)


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise of four octaves around a random colour: (size, size, 3)."""
    canvas = np.full((size, size, 3), rng.uniform(50, 205, 3))
    for octave in range(2, 6):
        noise = rng.normal(0, 40 / octave, (2**octave, 2**octave, 3))
        canvas += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return canvas + rng.normal(0, 4, canvas.shape)


def _tight(image: np.ndarray) -> np.ndarray:
    inked = image > 0.2
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return image[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _covered(a: np.ndarray, b: np.ndarray) -> float:
    """The greater share of either box that the other covers."""
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()))
