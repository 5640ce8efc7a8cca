"""Losses that the detectors share: smooth L1, softmax and binary cross-entropy, means over a mask."""

import jax
import jax.numpy as jnp
import optax
from jax import lax


def smooth_l1(x: jax.Array, beta: float = 1.0) -> jax.Array:
    """Fast R-CNN, eq. 3: `x^2 / (2 beta)` where |x| < beta, `|x| - beta / 2` beyond; beta is 1 / sigma^2."""
    size = jnp.abs(x)
    return jnp.where(size < beta, 0.5 * jnp.square(x) / beta, size - 0.5 * beta)


def total_count(count: jax.Array, axis_name: str | None) -> jax.Array:
    """What a loss is divided by for `count` positives of a device: their mean over the devices of `axis_name`, at
    least one in all.

    The mean of the devices' losses is then the loss of the whole minibatch on one.
    """
    if axis_name is None:
        return jnp.maximum(count, 1)
    return jnp.maximum(lax.psum(count, axis_name), 1) / lax.axis_size(axis_name)


def masked_mean(values: jax.Array, mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """The mean of the values in the mask; exactly 0 when there is none, with zero gradients."""
    return jnp.where(mask, values, 0).sum() / total_count(mask.sum(), axis_name)


def class_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Softmax cross-entropy, `(..., K), (...), (...) -> ()`, the mean over the rows in the mask."""
    return masked_mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(mask, labels, 0)), mask,
                       axis_name)


def objectness_loss(logits: jax.Array, positive: jax.Array, mask: jax.Array,
                    axis_name: str | None = None) -> jax.Array:
    """Binary cross-entropy of logits, `(...), (...), (...) -> ()`, the mean over the rows in the mask."""
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype)), mask, axis_name)


def box_loss(deltas: jax.Array, targets: jax.Array, positive: jax.Array, count: jax.Array, beta: float) -> jax.Array:
    """Smooth L1 over the four deltas of positive rows, `(..., 4), (..., 4), (...) -> ()`, divided by `count`.

    The released codes divide by the number of all sampled rows, so that the balance with the class loss does not
    depend on how many are positive.
    """
    rows = smooth_l1(deltas - targets, beta).sum(-1)
    return jnp.where(positive, rows, 0).sum() / jnp.maximum(count, 1)
