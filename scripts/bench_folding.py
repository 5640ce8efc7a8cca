"""What folding batch norm into the convolutions would bring inference: the network as it is, and without its norms.

    python scripts/bench_folding.py NETWORK BATCH HEIGHT WIDTH

A folded norm is the sum of a bias: the second program is that, on kernels of the same shapes. Both run in turn on one
device; medians and their ratio are printed.
"""

import sys
import time
from statistics import median
from typing import Any

import flax.linen as nn
import jax

from cnnjax import models
from cnnjax.models.layers import BatchNorm

ROUNDS = 15


def without_norm(call: Any, arguments: Any, fields: Any, context: nn.module.InterceptorContext) -> Any:
    """In place of a module's call: a batch norm adds its bias and does nothing else."""
    if isinstance(context.module, BatchNorm):
        return (arguments[0] + context.module.variables["params"]["bias"]).astype(arguments[0].dtype)
    return call(*arguments, **fields)


def main() -> None:
    """The command line."""
    name, (batch, height, width) = sys.argv[1], map(int, sys.argv[2:])
    module = models.create(name, 10)
    x = jax.random.normal(jax.random.key(0), (batch, height, width, 3))
    variables = jax.jit(module.init)(jax.random.key(1), x[:1])

    def folded(variables: Any, x: jax.Array) -> jax.Array:
        with nn.intercept_methods(without_norm):
            return module.apply(variables, x)

    programs = {"batch norm": jax.jit(module.apply), "folded": jax.jit(folded)}
    seconds: dict[str, list[float]] = {what: [] for what in programs}
    for i in range(ROUNDS + 1):
        for what, program in programs.items():
            began = time.perf_counter()
            program(variables, x).block_until_ready()
            if i:                                       # the first call compiles
                seconds[what].append(time.perf_counter() - began)
    middle = {what: median(times) for what, times in seconds.items()}
    print(name, x.shape, *(f"{what} {1e3 * s:.1f} ms" for what, s in middle.items()),
          f"ratio {middle['batch norm'] / middle['folded']:.3f}")


if __name__ == "__main__":
    main()
