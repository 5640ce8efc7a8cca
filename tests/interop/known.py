"""Weights and images that a test and the maker of golden files both make, by numpy alone."""

import zlib

import numpy as np

FIELDS = {
    "alexnet": ("alexnet", {"filters": (8, 16, 24, 16, 16), "hidden": 24}),
    "vgg11": ("vgg11", {"width": 4, "hidden": 24}),
    "vgg11_bn": ("vgg11_bn", {"width": 4, "hidden": 24}),
    "googlenet": ("googlenet", {}),
    "resnet18": ("resnet18", {"blocks": (2, 1, 1, 1)}),
    "resnet50": ("resnet50", {"blocks": (1, 1, 1, 1)}),
    "resnet20": ("resnet20", {}),
    "resnet20_b": ("resnet20", {"blocks": (1, 1, 1), "shortcut": "B"}),
}
"""By case: our network and the fields that make it the golden one."""

_SIDES = {"alexnet": 95, "vgg11": 64, "vgg11_bn": 64, "googlenet": 64}


def known_images(case: str) -> np.ndarray:
    """Four images, `(4, H, W, 3)` float32, N(0, 1)."""
    side = _SIDES.get(case, 32)
    return np.random.default_rng(side).normal(size=(4, side, side, 3)).astype(np.float32)


def known_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A PyTorch state dict for these keys and shapes: each array is drawn by a generator seeded with its key.

    A key or shape that is not PyTorch's gives other numbers, so that other logits tell.
    """
    state = {}
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        if key.endswith("num_batches_tracked"):
            state[key] = np.zeros(shape, np.int64)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            state[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:
            state[key] = rng.normal(0, 0.1, shape).astype(np.float32)
        else:
            state[key] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
    return state
