"""Images of several shapes and a ResNet-50's weights, which a test and the maker of golden files both make."""

from pathlib import Path

import numpy as np
from known import known_state
from PIL import Image

SHAPES = {"wide": (500, 375), "tall": (375, 500), "square": (256, 256), "exact": (224, 224), "small": (97, 61),
          "odd": (341, 259), "strip": (1200, 180), "grey": (320, 240), "alpha": (300, 301), "palette": (260, 400)}
"""Width and height by name; the last three are saved in that mode."""


def photographs(folder: Path, suffix: str = ".png") -> list[Path]:
    """Writes smooth coloured images with noise, one a shape, and gives their paths. A JPEG has neither alpha nor
    palette."""
    paths = []
    for seed, (name, (width, height)) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(-4, 4, (3, 3))]
        pixels = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        if name == "grey":
            image = image.convert("L")
        if name == "alpha" and suffix == ".png":
            image.putalpha(Image.fromarray((255 * x).astype(np.uint8)))
        if name == "palette" and suffix == ".png":
            image = image.quantize(64)
        paths.append(folder / f"{name}{suffix}")
        image.save(paths[-1])
    return paths


def resnet50_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random weights for these keys and shapes, whose last layer spreads small differences between images.

    Its bias is 0: the maker of golden files stores the one that takes away what all images have in common.
    """
    state = known_state(shapes)
    for key, value in state.items():
        if key.endswith("bn3.weight"):
            state[key] = value * np.float32(0.3)        # of each block's last batch norm: else activations explode
    state["fc.weight"] = state["fc.weight"] * np.float32(8)
    state["fc.bias"] = np.zeros_like(state["fc.bias"])
    return state
