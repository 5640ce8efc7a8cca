"""Why depth hurts: what reaches each layer, forwards and backwards (He et al. 2015, section 4.2 and figure 7)."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.models.layers import BatchNorm
from cnnjax.training.checkpoints import leaves
from cnnjax.training.state import State


def layer_probe(images: Any, labels: np.ndarray,
                loss_function: Callable[[nn.Module], Any]) -> Callable[[nn.Module, State], dict[str, Any]]:
    """A function of network and state that gives, for one fixed batch of normalised `images` (N, H, W, C), the row

    `gradient_norm`: the norm of the loss's gradient at each convolution's kernel, in the order of the layers, and
    `response_std`: the standard deviation of each layer's output after batch normalisation and before ReLU and
    addition.
    """
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}

    def measure(module: nn.Module, state: State) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        if getattr(module, "bn_axis_name", None) is not None:       # one device, no mapped axis
            module = module.clone(bn_axis_name=None)
        key = jax.random.key(0)
        loss_fn = loss_function(module)
        grads = jax.grad(lambda p: loss_fn(p, state.model_state, batch, key, state.hyper)[0])(state.params)
        _, captured = module.apply(
            {"params": state.params, **state.model_state}, batch["image"], train=True, rngs={"dropout": key},
            capture_intermediates=lambda m, _: isinstance(m, BatchNorm), mutable=["intermediates", *state.model_state])
        norms = {name: jnp.linalg.norm(g) for name, g in leaves(grads).items() if g.ndim == 4}
        stds = {name: jnp.std(y) for name, y in leaves(captured["intermediates"]).items()}
        return norms, stds

    def probe(module: nn.Module, state: State) -> dict[str, Any]:
        norms, stds = jax.device_get(measured(module)(state))
        return {"split": "layers", "gradient_norm": _in_order(norms), "response_std": _in_order(stds)}

    compiled: dict[nn.Module, Any] = {}

    def measured(module: nn.Module) -> Any:
        if module not in compiled:
            compiled[module] = jax.jit(lambda state: measure(module, state))
        return compiled[module]
    return probe


def _in_order(by_name: dict[str, Any]) -> list[float]:
    """Values of the layers from input to output; projections of shortcuts, which are not on the path counted, left
    out."""
    def natural(name: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return [float(by_name[name]) for name in sorted(by_name, key=natural) if "shortcut" not in name]
