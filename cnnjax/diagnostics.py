"""Why depth hurts: responses and gradients of each layer, gradient correlation, and what one block is worth.

The loss surface has a module of its own, `cnnjax.landscape`.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.models.layers import BatchNorm
from cnnjax.models.resnet import Block, subsample_and_pad
from cnnjax.training import step as steps
from cnnjax.training.checkpoints import leaves

IMAGES_AT_ONCE = 25
"""Of a device: a CPU is fastest where the activations fit its cache."""


def layer_probe(images: Any, labels: np.ndarray,
                loss: Callable[..., Any]) -> Callable[[nn.Module, Mapping[str, Any]], dict[str, Any]]:
    """A function of network and variables that gives, for one fixed batch of normalised `images` (N, H, W, C), the row

    `gradient_norm`: the norm of the gradient of `loss(module, variables, batch, key)` at each convolution's kernel, in
    the order of the layers, and
    `response_std`: the standard deviation of each layer's output after batch normalisation and before ReLU and
    addition (He et al. 2015, section 4.2 and figure 7).
    """
    batch, key = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}, jax.random.key(0)

    @partial(jax.jit, static_argnums=0)
    def measure(module: nn.Module, variables: Mapping[str, Any]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        if getattr(module, "bn_axis_name", None) is not None:       # one device, no mapped axis
            module = module.clone(bn_axis_name=None)
        params, others = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads = jax.grad(lambda p: loss(module, {"params": p, **others}, batch, key)[0])(params)
        _, captured = module.apply(
            variables, batch["image"], train=True, rngs={"dropout": key},
            capture_intermediates=lambda m, _: isinstance(m, BatchNorm), mutable=["intermediates", *others])
        norms = {name: jnp.linalg.norm(g) for name, g in leaves(grads).items() if g.ndim == 4}
        stds = {name: jnp.std(y) for name, y in leaves(captured["intermediates"]).items()}
        return norms, stds

    def probe(module: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
        norms, stds = jax.device_get(measure(module, variables))
        return {"split": "layers", "gradient_norm": _in_order(norms), "response_std": _in_order(stds)}
    return probe


def mean_loss_and_error(module: nn.Module, inputs: Any, labels: Any) -> Callable[..., tuple[float, float]]:
    """`evaluate(variables, keep=None) -> (mean cross-entropy, share of wrong answers)`, batch norm in evaluation mode.

    `inputs` `(N, H, W, C)` are normalised, and computed in batches that are shared out to all devices. `keep`, a bool
    for each of `block_names`, replaces the others by their shortcuts as `block_removal` says.
    """
    count, batch = len(labels), IMAGES_AT_ONCE * jax.local_device_count()
    missing = -count % batch                                # the last batch is filled with images of no label
    images = np.concatenate([inputs, np.zeros((missing, *np.shape(inputs)[1:]), np.float32)])
    answers = np.concatenate([labels, np.full(missing, -1)])
    batches = [steps.place((images[i:i + batch], answers[i:i + batch])) for i in range(0, len(images), batch)]

    @jax.jit
    def sums(variables: Any, x: jax.Array, y: jax.Array, keep: Any) -> jax.Array:
        names = block_names(variables)

        def replace(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if keep is None or not isinstance(context.module, Block):
                return out
            shortcut = args[0]
            if shortcut.shape != out.shape:
                shortcut = subsample_and_pad(shortcut, context.module.stride, out.shape[-1])
            return jnp.where(keep[names.index(context.module.name)], out, shortcut)

        with nn.intercept_methods(replace):
            logits = module.apply(variables, x, train=False)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(y, 0)[:, None], 1)[:, 0]
        return jnp.stack([jnp.where(y < 0, 0, losses).sum(), jnp.sum((logits.argmax(-1) != y) & (y >= 0))])

    def evaluate(variables: Any, keep: Any = None) -> tuple[float, float]:
        variables, keep = steps.replicate((variables, keep))
        total = np.zeros(2)
        for x, y in batches:
            total += np.asarray(sums(variables, x, y, keep))
        return float(total[0] / count), float(total[1] / count)
    return evaluate


def block_names(variables: Mapping[str, Any]) -> list[str]:
    """The blocks of a plain or residual network, from input to output."""
    return sorted((name for name in variables["params"] if "_block" in name), key=_natural)


def block_removal(module: nn.Module, variables: Mapping[str, Any], inputs: Any, labels: Any) -> dict[str, Any]:
    """Error with each block removed in turn (Veit, Wilber and Belongie 2016, section 4.1, figure 3).

    A removed block is replaced by its shortcut: the identity, or where the shape changes the subsampled and padded
    input of option A. In a plain network, which has no shortcuts, the same is put in the block's place. `inputs` as of
    `mean_loss_and_error`. Gives `block` (names), `error` (shares, one a block) and `whole`, the error with all blocks.
    """
    evaluate, names = mean_loss_and_error(module, inputs, labels), block_names(variables)
    keep = ~np.eye(len(names), dtype=bool)
    return {"block": names, "error": [evaluate(variables, row)[1] for row in keep],
            "whole": evaluate(variables, np.ones(len(names), bool))[1], "images": len(labels)}


def gradient_correlation(module: nn.Module, variables: Mapping[str, Any], inputs: Any, labels: Any, *,
                         share: float = 0.1) -> list[float]:
    """Correlation of gradients at nearby inputs, a value for the image and for each block's output, in [-1, 1].

    Each of `inputs` `(N, H, W, C)` is paired with itself moved by `share` of the way to the next one. The gradient of
    the right class's logit with respect to the image, or to a block's output, is taken at both, and the cosine of the
    two is averaged over the N pairs: 1 where the network is linear, 0 where its gradients are white noise ("shattered",
    Balduzzi et al. 2017, section 2). Batch norm uses the statistics of the 2N inputs, so that an untrained network can
    be measured too.
    """
    inputs = jnp.asarray(inputs)
    both = jnp.concatenate([inputs, inputs + share * (jnp.roll(inputs, -1, 0) - inputs)])
    labels = jnp.tile(jnp.asarray(labels), 2)
    names, state = block_names(variables), [name for name in variables if name != "params"]

    def score(moves: Mapping[str, Any], variables: Any) -> tuple[jax.Array, Mapping[str, Any]]:
        outputs = {}

        def add(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if isinstance(context.module, Block):
                name = context.module.name
                outputs[name] = out
                out = out + moves.get(name, 0)
            return out

        with nn.intercept_methods(add):
            logits, _ = module.apply(variables, both + moves.get("image", 0), train=True, mutable=state)
        return jnp.take_along_axis(logits, labels[:, None], 1).sum(), outputs

    @jax.jit
    def measured(variables: Any) -> list[jax.Array]:
        _, shapes = jax.eval_shape(score, {}, variables)
        moves = {"image": jnp.zeros_like(both), **{n: jnp.zeros(s.shape, s.dtype) for n, s in shapes.items()}}
        gradients, _ = jax.grad(score, has_aux=True)(moves, variables)

        def cosine(gradient: jax.Array) -> jax.Array:
            a, b = jnp.split(gradient.reshape(len(gradient), -1), 2)
            scale = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
            return jnp.mean((a * b).sum(1) / jnp.maximum(scale, 1e-30))
        return [cosine(gradients[name]) for name in ("image", *names)]

    return [float(value) for value in measured(variables)]


def _in_order(by_name: dict[str, Any]) -> list[float]:
    """Values of the layers from input to output; projections of shortcuts, which are not on the path counted, left
    out."""
    return [float(by_name[name]) for name in sorted(by_name, key=_natural) if "shortcut" not in name]


def _natural(name: str) -> list[Any]:
    """A key that sorts numbers in names by value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
