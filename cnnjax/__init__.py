"""The classic convolutional networks, LeNet-5 to Faster R-CNN, as their papers have them, in JAX and Flax."""

from pathlib import Path

__version__ = "0.1.0"

# The studies and their configs are cnnjax.experiments and cnnjax.configs: a wheel has them in this folder, a checkout
# beside it.
if not (Path(__file__).parent / "experiments").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
