"""The training step and the evaluation over all devices. The only module that uses `pmap`.

The state is replicated and unstacked (`in_axes=None`): no leading device axis, no `x[0]`. One device is the same code.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnnjax.training import population
from cnnjax.training.optimizers import Optimizer
from cnnjax.training.state import State, merge, stream
from cnnjax.training.task import Loss, Variables

AXIS = "data"
"""The mapped axis: the devices of all hosts."""

LossFn = Callable[..., Loss]
"""`Task.loss`."""

GetBatch = Callable[..., Any]
"""`Task.get_batch`."""


def gradients(loss_fn: LossFn, state: State, batch: Any, key: jax.Array, accumulate: int = 1,
              axis_name: str | None = None) -> tuple[Any, Any, dict[str, jax.Array]]:
    """`(grads, model_state, metrics)` of a device's batch, means over its `accumulate` equal parts, which are computed
    one after the other: only one of them has its activations in memory.

    Batch norm normalises each part by itself, as if each had been a device's.
    """
    def part(model_state: Any, key: jax.Array, batch: Any) -> tuple[Any, tuple[Any, dict[str, jax.Array]]]:
        def loss_of(params: Any) -> Loss:
            variables = {"params": merge(params, state.frozen), **model_state}
            with contextlib.nullcontext() if axis_name is None else nn.intercept_methods(
                    partial(_dropout_of_all_devices, axis_name)):
                return loss_fn(variables, batch, key, state.hyper, axis_name)
        (loss, (model_state, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return model_state, (grads, {"loss": loss, **metrics})

    if accumulate == 1:
        model_state, (grads, metrics) = part(state.model_state, key, batch)
        return grads, model_state, metrics

    def add(carry: tuple[Any, Any], inputs: tuple[jax.Array, Any]) -> tuple[tuple[Any, Any], None]:
        model_state, total = carry
        model_state, new = part(model_state, *inputs)
        return (model_state, jax.tree.map(jnp.add, total, new)), None

    inputs = jax.random.split(key, accumulate), shard(batch, accumulate)
    _, shapes = jax.eval_shape(part, state.model_state, key, jax.tree.map(lambda x: x[0], inputs[1]))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), shapes)
    # Unrolled on the CPU, where convolutions are slow inside a loop.
    unroll = jax.default_backend() == "cpu"
    (model_state, total), _ = lax.scan(add, (state.model_state, zeros), inputs, unroll=unroll)
    grads, metrics = jax.tree.map(lambda x: x / accumulate, total)
    return grads, model_state, metrics


def _dropout_of_all_devices(axis_name: str, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Dropout as on one device: every device has the same key, draws for the rows of all, and takes those of its own.

    What is dropped of an example then depends on its place in the global minibatch, not on the number of devices, but
    where `optimizer.accumulate` shares a device's rows out.
    """
    devices = lax.axis_size(axis_name)
    if devices == 1 or not isinstance(context.module, nn.Dropout) or context.method_name != "__call__":
        return call(*args, **kwargs)
    x, *others = args
    dropped = call(jnp.tile(x, (devices, *(1,) * (x.ndim - 1))), *others, **kwargs)
    return lax.dynamic_slice_in_dim(dropped, lax.axis_index(axis_name) * len(x), len(x))


def train_step(loss_fn: LossFn, optimizer: Optimizer, ema_decay: float, state: State, batch: Any,
               accumulate: int = 1) -> tuple[State, dict[str, jax.Array]]:
    """One step of one device, inside the mapped axis: gradients, statistics and metrics are means over the devices."""
    # The same on all devices: what is drawn for an example is keyed by its index in the global minibatch.
    key = jax.random.fold_in(jax.random.fold_in(stream(jax.random.key(state.seed), "dropout"), state.step), 0)
    grads, model_state, metrics = lax.pmean(gradients(loss_fn, state, batch, key, accumulate, AXIS), AXIS)

    updates, opt_state = optimizer(state.hyper).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params),
                "update_norm": optax.tree.norm(updates)}
    ema = state.ema
    if ema_decay:
        ema = optax.incremental_update(params, ema, 1 - ema_decay)
    return dataclasses.replace(state, step=state.step + 1, params=params, model_state=model_state,
                               opt_state=opt_state, ema=ema), metrics


def train_dispatch(loss_fn: LossFn, optimizer: Optimizer, get_batch: GetBatch, length: int, *, on_device: bool,
                   ema_decay: float = 0.0, accumulate: int = 1, members: int = 0,
                   ) -> Callable[[State, Any, int], tuple[State, dict[str, jax.Array]]]:
    """Up to `length` steps in one call: `(state, data, count) -> (state, metrics)`, each metric of shape `(length,)`
    of which the first `count` are filled.

    With `members` the state is that of a population: all of its leaves have that leading axis, and a metric is given
    as the mean over the members ("loss") and of each ("loss/0", ...). The state is donated. `data` is replicated and
    the same for each step when `on_device`; else each leaf has leading axes `(length, devices)` and step i of a device
    takes its slice.

    The steps are one program with a loop in it: Python is called once for all of them, and their memory is taken once.
    `count` is an argument of the program, so that one program serves whichever rows, evaluations and checkpoints end a
    dispatch early.
    """
    def step(state: State, data: Any) -> tuple[State, dict[str, jax.Array]]:
        def one(state: State) -> tuple[State, dict[str, jax.Array]]:
            batch = get_batch(data, jax.random.key(state.seed), state.step, lax.axis_index(AXIS), lax.axis_size(AXIS))
            return train_step(loss_fn, optimizer, ema_decay, state, batch, accumulate)
        if not members:
            return one(state)
        state, metrics = jax.vmap(one)(state)
        return state, population.named(metrics)

    def loop(state: State, arrays: Any, batches: Any, count: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        def data(i: Any) -> Any:
            return arrays if on_device else jax.tree.map(
                lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), batches)

        def body(i: jax.Array, carry: tuple[State, dict[str, jax.Array]]) -> tuple[State, dict[str, jax.Array]]:
            state, filled = carry
            state, metrics = step(state, data(i))
            return state, {key: filled[key].at[i].set(value) for key, value in metrics.items()}

        shapes = jax.eval_shape(lambda: step(state, data(0))[1])
        return lax.fori_loop(0, count, body, (state, {k: jnp.zeros(length, v.dtype) for k, v in shapes.items()}))

    looped = jax.pmap(loop, axis_name=AXIS, in_axes=(None, None, 1, None), out_axes=(None, None), donate_argnums=0)
    if on_device:
        nothing = jnp.zeros((length, jax.local_device_count()), bool)       # pmap needs an argument that is mapped
        return lambda state, data, count: looped(state, data, nothing, np.int32(count))
    return lambda state, data, count: looped(state, None, data, np.int32(count))


def evaluation(metrics_fn: Callable[[Variables, Any], dict[str, jax.Array]]) -> Callable[..., dict[str, jax.Array]]:
    """Sums of `metrics_fn(variables, batch)` over all batches of all devices, as a function `(variables, batches)`.

    `batches` gives batches whose leaves have the leading axis `(devices,)`. A padded batch carries a mask, so
    that whatever the batch and the device count each example is counted exactly once.
    """
    # Each program takes the sums of the one before: independent programs would wait for each other's devices on a CPU,
    # whose threads are fewer than the programs in flight.
    @partial(jax.pmap, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)
    def add(variables: Variables, batch: Any, totals: dict[str, jax.Array]) -> dict[str, jax.Array]:
        sums = lax.psum(metrics_fn(variables, batch), AXIS)
        return jax.tree.map(jnp.add, totals, sums)

    def evaluate(variables: Variables, batches: Iterable[Any]) -> dict[str, jax.Array]:
        totals = None
        for batch in batches:
            if totals is None:
                one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
                shapes = jax.eval_shape(metrics_fn, variables, one)
                totals = replicate(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
            totals = add(variables, batch, totals)
        assert totals is not None, "there is nothing to evaluate on"
        return totals
    return evaluate


def each_device(function: Callable[[Variables, Any], Any]) -> Callable[[Variables, Any], Any]:
    """`function(variables, batch)` on every device: the leaves of the batch and of the result have the leading axis
    `(devices,)`."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0))


def batch_of_each_device(get_batch: GetBatch) -> Callable[[State, Any], Any]:
    """What every device trains on at a step, `(state, data) -> batch`, by itself: leaves `(devices, ...)`."""
    @partial(jax.pmap, axis_name=AXIS, in_axes=(None, None, 0))
    def batch(state: State, data: Any, _: Any) -> Any:
        return get_batch(data, jax.random.key(state.seed), state.step, lax.axis_index(AXIS), lax.axis_size(AXIS))
    nothing = np.zeros(jax.local_device_count())                            # pmap needs an argument that is mapped
    return lambda state, data: batch(state, data, nothing)


@partial(jax.pmap, axis_name=AXIS, out_axes=None)
def _any(flag: jax.Array) -> jax.Array:
    return lax.pmax(flag, AXIS)


def vote(flag: bool) -> jax.Array:
    """Whether any process raised its flag: the same for all, once the devices have come so far. All must call it."""
    return _any(jnp.full(jax.local_device_count(), flag, jnp.int32))


def shard(batch: Any, devices: int) -> Any:
    """`(N, ...)` leaves as `(devices, N / devices, ...)`."""
    return jax.tree.map(lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), batch)


def local_share(batch: Any) -> Any:
    """What the devices of this process take of a batch: `(N, ...)` leaves as `(local devices, N / devices, ...)`."""
    local = jax.local_device_count()
    first = jax.process_index() * local
    return jax.tree.map(lambda x: x[first:first + local], shard(batch, jax.device_count()))


def replicate(tree: Any) -> Any:
    """The tree on every local device, as `pmap` takes a replicated argument, so that no call copies it again."""
    return _put(tree, jax.sharding.PartitionSpec())


def place(tree: Any) -> Any:
    """Leaves whose first axis is shared out evenly, such as `(devices, ...)`, on their devices, so that no call copies
    them again."""
    return _put(tree, jax.sharding.PartitionSpec(AXIS))


def _put(tree: Any, spec: jax.sharding.PartitionSpec) -> Any:
    mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
    return jax.device_put(jax.tree.map(jnp.asarray, tree), jax.sharding.NamedSharding(mesh, spec))
