"""The classic convolutional networks, LeNet-5 to Faster R-CNN, as their papers have them, in JAX and Flax."""

__version__ = "0.1.0"
