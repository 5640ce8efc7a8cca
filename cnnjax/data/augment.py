"""Shuffling, cropping and flipping on the device, inside the jitted step, as pure functions of keys.

The order of the images is an endless stream of epochs, each a fresh permutation of the training split. Step `s` with
batches of `B` takes the positions `s*B ... s*B + B-1` of that stream: a batch may straddle two epochs, and every image
comes up equally often. A position's image is computed directly, from (key, position), without ever making the
permutation: nothing is stored, and a resumed run goes on exactly where it stopped.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

ROUNDS = 32


@partial(jax.jit, static_argnames="n")
def stream_indices(key: jax.Array, positions: jax.Array, n: int) -> jax.Array:
    """The images at `positions` (uint32, any shape) of the endless shuffled stream over `n` images: int32, same shape.

    Positions e*n ... e*n + n-1 hold each of the n images once, in an order that depends on `key` and e alone. The
    bijection is the swap-or-not shuffle (Hoang, Morris and Rogaway 2012): in each round x may change places with its
    partner K - x mod n, as a hash of the pair decides. It works for any n, without the walks of a Feistel network.
    """
    size = jnp.uint32(n)
    epoch, x = positions // size, positions % size
    words = _words(key, epoch.reshape(-1))
    salts = jnp.arange(1, ROUNDS + 1, dtype=jnp.uint32).reshape(-1, *(1,) * x.ndim) * jnp.uint32(0x9E3779B9)
    sums = _mix(words[:, 0].reshape(x.shape) + salts) % size          # K of each round and position: (ROUNDS, ...)
    secrets = _mix(words[:, 1].reshape(x.shape) ^ salts)

    def swap_or_not(r: jax.Array, x: jax.Array) -> jax.Array:
        partner = sums[r] - x
        partner = jnp.where(sums[r] < x, partner + size, partner)           # modulo n: unsigned numbers wrapped around
        return jnp.where(_mix(jnp.maximum(x, partner) ^ secrets[r]) >> 31 == 1, partner, x)

    # unrolled in part: a loop's turn costs a GPU microseconds, 32 copies cost the compiler seconds
    return jax.lax.fori_loop(0, ROUNDS, swap_or_not, x, unroll=8).astype(jnp.int32)


def _words(key: jax.Array, counts: jax.Array) -> jax.Array:
    """Two random words for each of `counts` (N,) by `fold_in`: uint32 (N, 2).

    The folded keys are their own random bits and serve for nothing else, which spares the compiler a second hash.
    """
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, counts))[:, :2]


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that changes about half of the bits for a change of one (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def batch_indices(key: jax.Array, step: int | jax.Array, batch_size: int, n: int, *, shard: int | jax.Array = 0,
                  shards: int = 1) -> jax.Array:
    """The images of the batch of `step`, or of the `shard`-th of `shards` equal parts: int32 (batch_size // shards,).

    `batch_size` is that of all shards together, so the batch does not depend on how many devices share it. Steps are
    counted in uint32 positions: the stream begins anew after 2**32 images.
    """
    part = batch_size // shards
    start = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(batch_size) + jnp.asarray(shard).astype(jnp.uint32) * part
    return stream_indices(key, start + jnp.arange(part, dtype=jnp.uint32), n)


def get_batch(arrays: dict[str, Any], key: jax.Array, step: int | jax.Array, batch_size: int, *,
              shard: int | jax.Array = 0, shards: int = 1) -> dict[str, jax.Array]:
    """The batch of `step` from arrays that the device keeps whole, of any names, rows first.

    Costs the gather of the rows and some integer operations an image. See `batch_indices` for shards.
    """
    n = len(arrays["label"])
    rows = batch_indices(key, step, batch_size, n, shard=shard, shards=shards)
    return {name: array[rows] for name, array in arrays.items()}


def pad_crop(images: jax.Array, key: jax.Array, pad: int = 4, *, first: int | jax.Array = 0) -> jax.Array:
    """Each image (N, H, W, C) padded with `pad` zeros on every side and cropped to its size at a random place.

    He et al. 2016, section 4.2, with pad 4. Zeros are the mean colour when the images are normalised already, as there.
    Each image has a key of its own, by `fold_in` of its place in the batch of all devices, beginning at `first`
    here: crops do not depend on the number of devices.
    """
    n, height, width, _ = images.shape
    corners = (_words(key, first + jnp.arange(n)) % (2 * pad + 1)).astype(jnp.int32) - pad           # (N, 2)
    rows = corners[:, :1] + jnp.arange(height)                                                       # (N, H)
    columns = corners[:, 1:] + jnp.arange(width)                                                     # (N, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    crops = images[jnp.arange(n)[:, None, None], jnp.clip(rows, 0, height - 1)[:, :, None],
                   jnp.clip(columns, 0, width - 1)[:, None, :]]
    return jnp.where(inside[..., None], crops, jnp.zeros((), images.dtype))


def flip(images: jax.Array, key: jax.Array, *, first: int | jax.Array = 0) -> jax.Array:
    """Each image (N, H, W, C) mirrored left to right with probability one half. `first` as in `pad_crop`."""
    coins = _words(key, first + jnp.arange(len(images)))[:, 0] >> 31
    return jnp.where(coins[:, None, None, None] == 1, images[:, :, ::-1], images)


def normalise(images: ArrayLike, mean: ArrayLike, std: ArrayLike, dtype: Any = jnp.float32) -> jax.Array:
    """uint8 (..., C) to (images / 255 - mean) / std of each channel, computed in float32 and given in `dtype`."""
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (jnp.asarray(images, jnp.float32) * (1 / (255 * std)) - mean / std).astype(dtype)
