"""Trained networks that come with the package: weights as safetensors, and a model card as JSON beside each.

`scripts/make_trained.py` makes both from a finished run.
"""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn

from cnnjax import models
from cnnjax.config import nearest
from cnnjax.errors import UserError
from cnnjax.interop import from_torch

FOLDER = Path(__file__).parent

DATA_SETS = ("cifar10",)
"""What the networks were trained on, as the command line names their weights."""


def names() -> list[str]:
    """The networks that `load` knows, such as "resnet56"."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load(name: str) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Module, variables (float32) and model card of a trained network.

    The card says what is needed to use it (`classes`, `image_shape`, and `mean` and `std` of pixels in [0, 1]) and
    where it comes from (`data`, `recipe`, `commit`, errors). Raises UserError for an unknown name.
    """
    if name not in names():
        raise UserError(f"no trained weights of {name!r} come with the package{nearest(name, names())}; there are "
                        f"{', '.join(names())}")
    card = json.loads((FOLDER / f"{name}.json").read_text())
    module = models.create(card["network"], len(card["classes"]))
    return module, from_torch(card["network"], FOLDER / f"{name}.safetensors"), card
