"""The layers of a network with their shapes, parameters and multiply-adds, read from the traced network.

The network is traced, not run, and the trace is followed from the image to the logits: sizes, kernels, strides,
parameters, multiply-adds and receptive fields are those of the program that would run, so that no table can disagree
with its code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from cnnjax.models import create, image_shape


@dataclass
class Layer:
    """One layer and the elementwise work that follows it."""

    name: str                               # path of its module, such as "stage1_block1/conv1"; its kind if it has none
    kind: str                               # conv, fully connected, max pool, average pool, global average, add, concat
    output: tuple[int, ...]                 # (H, W, C) or (C,)
    inputs: tuple[int, ...]                 # the layers it reads, by place in the list; -1 is the image
    receptive_field: int | None             # side in pixels of the image that one output depends on; None: it varies
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    groups: int = 1
    activation: str = ""
    norm: str = ""                          # BN or LRN
    parameters: int = 0
    macs: int = 0                           # multiply-adds for one image: connections with a weight; biases not counted


@dataclass
class Summary:
    """A network's layers in the order they run in evaluation."""

    name: str
    image: tuple[int, int, int]
    layers: list[Layer] = field(default_factory=list)
    training_parameters: int = 0            # of parts that only training runs: GoogLeNet's auxiliary heads

    @property
    def parameters(self) -> int:
        """All parameters, those that only training uses included; running statistics are none."""
        return sum(layer.parameters for layer in self.layers) + self.training_parameters

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and fully connected layers for one image."""
        return sum(layer.macs for layer in self.layers)


IMAGE, NOTHING = -1, -2                     # in place of a layer: the image, and what does not depend on it


class _Value(NamedTuple):
    """What is known of one array in the trace.

    `layer` made it; neighbours in it are `jump` pixels of the image apart and each depends on `reach` of them; a
    flattened map's sum depends on `spread` more. `leaves` are the parameters that it is made of, if it is made of
    parameters alone.
    """

    layer: int = NOTHING
    reach: int = 1
    jump: int = 1
    spread: int = 0
    leaves: frozenset[str] = frozenset()


def summarise(name: str, num_classes: int | None = None, image: tuple[int, int, int] | None = None,
              **fields: Any) -> Summary:
    """The layers of `create(name, num_classes, **fields)` on images of `(H, W, C)`.

    By default the paper's image and 1000 classes, or 10 on images of 32x32. Nothing is computed but shapes. Raises
    UserError as `create` does.
    """
    image = image or image_shape(name, fields.get("stem"))
    classes = num_classes or (10 if image[0] <= 32 else 1000)
    return summarise_module(name, create(name, classes, **fields), image)


def summarise_module(name: str, module: nn.Module, image: tuple[int, int, int]) -> Summary:
    """The layers of any module that maps `(1, H, W, C)` to logits; `name` is its title."""
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), jnp.zeros((1, *image)))
    return summarise_call(name, module, module.apply, variables, image)


def summarise_call(name: str, module: nn.Module, call: Callable[[Any, jax.Array], Any], variables: Any,
                   image: tuple[int, int, int]) -> Summary:
    """The layers that `call(variables, images)` runs of a module, whatever it gives; `variables` may be shapes."""
    x = jnp.zeros((1, *image))
    closed = jax.make_jaxpr(call)(variables, x)
    paths = ["/".join(path) for path in flatten_dict(variables)]
    sizes = {path: leaf.size for path, leaf in zip(paths, flatten_dict(variables).values(), strict=True)}
    reader = _Reader(Summary(name, image), sizes, type(module).__name__)
    order = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    inputs = [_Value(leaves=frozenset([path])) for path in order] + [_Value(layer=IMAGE)]
    reader.read(closed, inputs, "")
    unused = {path for path in paths if path.startswith("params/")} - reader.seen
    reader.summary.training_parameters = sum(sizes[path] for path in unused)
    return reader.summary


class _Reader:
    """Follows a trace from its inputs, collecting layers."""

    def __init__(self, summary: Summary, sizes: dict[str, int], root: str):
        self.summary, self.sizes, self.root = summary, sizes, root
        self.seen: set[str] = set()         # parameters that some layer has been charged with

    def read(self, closed: ClosedJaxpr, inputs: list[_Value], scope: str) -> list[_Value]:
        jaxpr = closed.jaxpr
        values: dict[Var, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {var: _Value() for var in jaxpr.constvars}
        for eqn in jaxpr.eqns:
            ins = [_Value() if isinstance(var, Literal) else values[var] for var in eqn.invars]
            within = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            inner = next((value for value in eqn.params.values() if isinstance(value, ClosedJaxpr | Jaxpr)), None)
            if eqn.primitive.name == "cond":        # another program for each platform: the last is the definition
                inner, ins = eqn.params["branches"][-1], ins[1:]
            if inner is not None and eqn.primitive.name not in ("reduce_window", "scatter", "scatter-add", "while"):
                inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])
                outs = self.read(inner, ins, within)
                if eqn.params.get("name") == "leaky_relu" and outs[0].layer >= 0:
                    self.summary.layers[outs[0].layer].activation = "leaky ReLU"
            else:
                outs = [self.follow(eqn, ins, within)] * len(eqn.outvars)
            values |= zip(eqn.outvars, outs, strict=True)
        return [_Value() if isinstance(var, Literal) else values[var] for var in jaxpr.outvars]

    def follow(self, eqn: Any, ins: list[_Value], scope: str) -> _Value:
        """The value that one operation makes; a new layer if the operation is one."""
        on_image = [value for value in ins if value.layer != NOTHING]
        leaves: frozenset[str] = frozenset().union(*(value.leaves for value in ins))
        if not on_image:
            return _Value(leaves=leaves)
        x = max(on_image, key=lambda value: value.layer)                        # the latest
        x = x._replace(reach=max(value.reach for value in on_image), jump=max(value.jump for value in on_image))
        kind, params, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
        before = eqn.invars[ins.index(on_image[0])].aval.shape
        several = len({value.layer for value in on_image}) > 1

        if kind == "conv_general_dilated":
            taps = tuple(eqn.invars[1].aval.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:])
            weights = self.weights(ins[1], math.prod(eqn.invars[1].aval.shape))
            x = self.windowed(x, "conv", scope, shape, taps, params["window_strides"], params["rhs_dilation"][0],
                              groups=params["feature_group_count"], macs=weights * shape[1] * shape[2])
        elif kind == "dot_general" and len(on_image) == 1:
            other = next(i for i, value in enumerate(ins) if value.layer == NOTHING)
            macs = self.weights(ins[other], math.prod(eqn.invars[other].aval.shape))
            x = self.new(x._replace(reach=x.reach + x.spread, spread=0), "fully connected", scope, shape, macs=macs)
        elif kind in ("reduce_window_max", "reduce_window_sum"):
            taps, strides = params["window_dimensions"][1:3], params["window_strides"][1:3]
            x = self.windowed(x, "max pool" if kind.endswith("max") else "average pool", scope, shape, taps, strides)
        elif kind == "reduce_sum" and len(before) == 4 and params["axes"] == (1, 2) and before[1] * before[2] > 1:
            x = self.new(x._replace(reach=x.reach + (before[1] - 1) * x.jump), "global average", scope, shape)
        elif kind in ("add", "add_any") and several:
            x = self.new(x, "add", scope, shape, [value.layer for value in on_image])
        elif kind == "concatenate" and several:
            x = self.new(x, "concat", scope, shape, [value.layer for value in on_image])
        elif kind == "slice" and params["strides"] is not None:
            x = x._replace(jump=x.jump * max(params["strides"]))
        elif kind == "reshape" and len(before) == 4 and len(shape) == 2:
            x = x._replace(spread=(before[1] - 1) * x.jump)

        layer = self.summary.layers[x.layer] if x.layer != IMAGE else None
        if layer is not None:
            fresh = leaves - self.seen
            self.seen |= fresh
            layer.parameters += sum(self.sizes[leaf] for leaf in fresh if leaf.startswith("params/"))
            layer.norm = "BN" if any(leaf.startswith("batch_stats/") for leaf in leaves) else layer.norm
            layer.norm = "LRN" if kind == "pow" else layer.norm
            if kind == "max" and any(isinstance(var, Literal) for var in eqn.invars):
                layer.activation = "ReLU"
            layer.activation = {"tanh": "tanh", "logistic": "sigmoid"}.get(kind, layer.activation)
        return x._replace(leaves=frozenset())

    def weights(self, value: _Value, size: int) -> int:
        """The numbers that a kernel is made of: LeNet's connection table has fewer than the dense kernel it fills."""
        return sum(self.sizes[leaf] for leaf in value.leaves) or size

    def windowed(self, x: _Value, kind: str, scope: str, shape: tuple[int, ...], taps: tuple[int, ...],
                 strides: tuple[int, ...], dilation: int = 1, **fields: Any) -> _Value:
        x = x._replace(reach=x.reach + (taps[0] - 1) * dilation * x.jump, jump=x.jump * strides[0])
        return self.new(x, kind, scope, shape, kernel=tuple(taps), stride=tuple(strides), **fields)

    def new(self, x: _Value, kind: str, scope: str, shape: tuple[int, ...], inputs: list[int] | None = None,
            **fields: Any) -> _Value:
        parts = [part for part in scope.split("/")
                 if part and part.split(".")[0] != self.root and not part.endswith(")")]
        name = "/".join(part for part, before in zip(parts, ["", *parts], strict=False) if part != before)
        self.summary.layers.append(Layer(name or kind, kind, tuple(shape[1:]),
                                         tuple(inputs if inputs is not None else [x.layer]), x.reach, **fields))
        return x._replace(layer=len(self.summary.layers) - 1)
