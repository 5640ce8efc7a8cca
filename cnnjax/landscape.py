"""The loss surface around a trained network: Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of
Neural Nets" (2018).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def random_direction(params: Any, key: jax.Array) -> Any:
    """A Gaussian direction in the space of the parameters, normalised filter by filter (section 4).

    Each filter of a kernel, the slice of its last axis, gets the norm that this filter has in `params`. Biases and
    the parameters of norms, which are of one axis, get zero: no direction.
    """
    leaves, structure = jax.tree.flatten(params)

    def direction(leaf: jax.Array, key: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        noise, axes = jax.random.normal(key, leaf.shape, leaf.dtype), tuple(range(leaf.ndim - 1))
        lengths = [jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (leaf, noise)]
        return noise * lengths[0] / jnp.maximum(lengths[1], 1e-30)

    return jax.tree.unflatten(structure, [direction(leaf, k) for leaf, k in
                                          zip(leaves, jax.random.split(key, len(leaves)), strict=True)])


def surface(loss: Callable[[Any], float], params: Any, directions: Sequence[Any], *, points: int = 15,
            reach: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """`loss(params + a * directions[0] + b * directions[1])` on a square of points.

    `points` values of a and of b go from `-reach` to `reach`. Gives these values `(points,)` and the losses
    `(points, points)`, rows by b and columns by a; a loss may be infinite or NaN far from the middle.
    """
    move = jax.jit(lambda a, b: jax.tree.map(lambda p, d, e: p + a * d + b * e, params, *directions))
    steps = np.linspace(-reach, reach, points)
    return steps, np.array([[loss(move(a, b)) for a in steps] for b in steps])
