"""Intermediate features of a network by name, with their gradients, for Grad-CAM and diagnostics."""

import flax.linen as nn
import jax


def sow_feature(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """`x` itself; or `x` plus what `variables["perturbations"][name]` holds, where the caller passes that collection.

    The gradient with respect to that term, at zero, is the gradient with respect to the stage's output: what Grad-CAM
    wants. While parameters are made nothing is recorded, so that variables hold parameters and statistics alone.
    """
    return x if module.is_initializing() else module.perturb(name, x)
