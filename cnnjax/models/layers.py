"""Layers that the networks share: convolution, batch normalisation and initialisation.

Model files say *what* a layer is; how it is computed best on a platform is decided here and in `cnnjax.ops`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.ops.conv import conv_general_dilated

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / (k^2 c_in)): He et al. 2015, "Delving Deep into Rectifiers", eq. 10. Not truncated, as there."""


def conv(filters: int, kernel: int, stride: int = 1, *, padding: int | None = None, use_bias: bool = False,
         **fields: Any) -> nn.Conv:
    """A square convolution that pads `(kernel - 1) // 2` on every side unless told otherwise, as Caffe and PyTorch do.

    (XLA's "SAME" pads only right and below at stride 2 on an even size: another network.)
    """
    pad = (kernel - 1) // 2 if padding is None else padding
    fields.setdefault("kernel_init", he_normal)
    fields.setdefault("conv_general_dilated", conv_general_dilated)
    return nn.Conv(filters, (kernel, kernel), (stride, stride), padding=((pad, pad), (pad, pad)), use_bias=use_bias,
                   **fields)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015, algorithm 1).

    `(..., C) -> (..., C)` in the dtype of the input; statistics and parameters are float32. The running variance is the
    unbiased one, as the paper (algorithm 2, step 10) and PyTorch have it. With `axis_name` the statistics are
    those of the batch over all devices of that mapped axis, otherwise of each device alone.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable[..., Any] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        axis_name = axis_name or self.axis_name
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            axes = tuple(range(x.ndim - 1))
            x32 = x.astype(jnp.float32)
            mean, square = x32.mean(axes), jnp.square(x32).mean(axes)
            count = x.size // channels
            if axis_name is not None and not self.is_initializing():
                mean, square = jax.lax.pmean((mean, square), axis_name)
                count *= jax.lax.axis_size(axis_name)
            var = jnp.maximum(square - jnp.square(mean), 0)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var * (count / max(count - 1, 1))

        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (bias - mean * factor)).astype(x.dtype)


# What holds for every layer of a network that is called within

@contextlib.contextmanager
def frozen_norm() -> Iterator[None]:
    """Batch norm normalises by its running statistics, and keeps them, in training too."""
    with _calls(BatchNorm, train=False):
        yield


@contextlib.contextmanager
def synchronised_norm(axis_name: str) -> Iterator[None]:
    """Batch norm takes its statistics over all devices of the mapped axis."""
    with _calls(BatchNorm, axis_name=axis_name):
        yield


@contextlib.contextmanager
def as_at_test() -> Iterator[None]:
    """A network called with `train=True` has its running statistics and no dropout: for a loss on held-out images."""
    def keep(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        dropped = isinstance(context.module, nn.Dropout) and context.method_name == "__call__"
        return args[0] if dropped else call(*args, **kwargs)
    with frozen_norm(), nn.intercept_methods(keep):
        yield


def _calls(kind: type[nn.Module], **changed: Any) -> Any:
    """The layers of a kind are called with other keyword arguments."""
    def change(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        own = isinstance(context.module, kind) and context.method_name == "__call__"
        return call(*args, **(kwargs | changed if own else kwargs))
    return nn.intercept_methods(change)
