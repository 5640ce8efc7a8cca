"""A trained classifier as a file for other programs: StableHLO, ONNX, a PyTorch state dict, safetensors.

Each file is read again by what it is for and compared with the network on random images before it is kept. All take
images `(N, H, W, C)` that are normalised already (PyTorch's network takes `(N, C, H, W)`); how, is in its metadata.
Detectors are in `export_detector`.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError, one_line
from cnnjax.interop import torch_pickle
from cnnjax.interop.files import write_safetensors
from cnnjax.interop.weights import network_from_torch, state_dict

FORMATS = {"stablehlo": ".bin", "onnx": ".onnx", "torch": ".pth", "safetensors": ".safetensors"}
"""And the suffix by which each is read."""

TOLERANCE = 1e-4
"""Of the greatest difference in logits, in units of the greatest logit where that is over 1."""

PLATFORMS = ("cpu", "cuda", "tpu")

Run = Callable[[np.ndarray], np.ndarray]
"""Images `(N, H, W, C)` to logits `(N, classes)`."""


def export(format: str, path: Path, name: str, module: nn.Module, variables: Any, image_shape: tuple[int, ...],
           metadata: Mapping[str, Any], *, overwrite: bool = False) -> float:
    """Writes the network `name` of `cnnjax.models` to `path` in one of `FORMATS`; gives the greatest difference found.

    `metadata` (JSON) goes into the file; beside StableHLO, which has no place for it, into `PATH.json`. Raises
    UserError for a network that the format cannot hold, for a file whose answers differ by more than `TOLERANCE`, and
    where a file is there already, unless `overwrite`. Nothing is left at `path` then.
    """
    write, read = _WRITERS[format]
    module = module.clone(dtype=jnp.float32)
    expected = jax.jit(lambda x: module.apply(variables, x, train=False))
    text = json.dumps(dict(metadata), indent=1, allow_nan=False)
    return keep(format, path, text, lambda part: write(part, name, module, variables, image_shape, text),
                lambda part: _difference(read(part, name), expected, image_shape),
                f"the {name} of that format is another network, such as in its strides or pooling", overwrite)


def keep(format: str, path: Path, metadata: str, write: Callable[[Path], object], difference: Callable[[Path], float],
         cause: str, overwrite: bool) -> float:
    """Writes a file at `path`, or nothing where its `difference` from the network is over `TOLERANCE`; gives that.

    `metadata` is written beside StableHLO. Raises UserError, which ends with `cause`, for the difference, and for a
    file that is there already unless `overwrite`.
    """
    beside = [path.with_name(path.name + ".json")] if format == "stablehlo" else []
    for place in (path, *beside):
        if place.exists() and not overwrite:
            raise UserError(f"{place} is there already; choose another file, or give --overwrite")
    with _temporary(path, FORMATS[format]) as part:
        write(part)
        worst = difference(part)
        if not worst <= TOLERANCE:
            raise UserError(f"--format {format}: read again, the file gives other answers than the network (they "
                            f"differ by {worst:.2g} of their size, expected at most {TOLERANCE:g}); {cause}")
        os.replace(part, path)
    for place in beside:
        place.write_text(metadata + "\n")
    return worst


@contextlib.contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    """A file beside `path`, gone at the end if it is still there."""
    handle, part = tempfile.mkstemp(suffix, f".{path.stem}-", path.parent)
    os.close(handle)
    os.chmod(part, 0o644)
    try:
        yield Path(part)
    finally:
        Path(part).unlink(missing_ok=True)


def _difference(run: Run, expected: Callable[[np.ndarray], Any], image_shape: tuple[int, ...]) -> float:
    """The greatest difference of logits on batches of two sizes of images drawn from N(0, 1)."""
    worst = 0.0
    for count in (1, 3):
        images = np.random.default_rng(count).normal(size=(count, *image_shape)).astype(np.float32)
        right, found = np.asarray(expected(images)), np.asarray(run(images))
        if right.shape != found.shape or not np.isfinite(found).all():
            return float("inf")
        worst = max(worst, float(np.abs(found - right).max() / max(1.0, np.abs(right).max())))
    return worst


def _symbolic(image_shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The shape of images (H, W, C) in a batch of any size."""
    return tuple(jax.export.symbolic_shape("batch, " + ", ".join(map(str, image_shape))))


def _write_stablehlo(path: Path, name: str, module: nn.Module, variables: Any, image_shape: tuple[int, ...],
                     metadata: str) -> None:
    """One program with the weights in it, for any batch size and all of `PLATFORMS`."""
    program = jax.jit(lambda images: module.apply(variables, images, train=False))
    shape = jax.ShapeDtypeStruct(_symbolic(image_shape), jnp.float32)
    exported = jax.export.export(program, platforms=PLATFORMS)(shape)
    path.write_bytes(exported.serialize())


def _read_stablehlo(path: Path, name: str) -> Run:
    return jax.export.deserialize(bytearray(path.read_bytes())).call


def _write_onnx(path: Path, name: str, module: nn.Module, variables: Any, image_shape: tuple[int, ...],
                metadata: str) -> None:
    """One graph with the weights in it, for any batch size."""
    jax2onnx, onnx, _ = _onnx()

    def logits(images: jax.Array) -> jax.Array:
        with _pooling_by_name():
            return module.apply(variables, images, train=False)

    try:
        with contextlib.redirect_stdout(io.StringIO()):     # on which jax2onnx tells of every convolution
            model = jax2onnx.to_onnx(logits, [("batch", *image_shape)], model_name=name, input_names=["images"],
                                     output_names=["logits"])
    except Exception as error:          # whatever it makes of an operation that it has no form for
        raise UserError(f"--format onnx: jax2onnx cannot convert {name} ({type(error).__name__}: "
                        f"{one_line(error)[:200]}); use stablehlo") from error
    model.metadata_props.add(key="cnnjax", value=metadata)
    onnx.save(model, path)


@contextlib.contextmanager
def _pooling_by_name() -> Iterator[None]:
    """Flax's pooling as the networks call it, over what jax2onnx puts in its place while it traces: that takes its
    arguments by name only, and no padding in pixels."""
    def over(theirs: Callable[..., jax.Array], outside: float) -> Callable[..., jax.Array]:
        def pool(x: jax.Array, window_shape: Any, strides: Any = None, padding: Any = "VALID") -> jax.Array:
            if not isinstance(padding, str):
                x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=outside)
                padding = "VALID"
            return theirs(x, window_shape=window_shape, strides=strides, padding=padding)
        return pool

    theirs = nn.max_pool, nn.avg_pool
    nn.max_pool, nn.avg_pool = over(nn.max_pool, -jnp.inf), over(nn.avg_pool, 0)
    try:
        yield
    finally:
        nn.max_pool, nn.avg_pool = theirs


def _read_onnx(path: Path, name: str) -> Run:
    session = _onnx()[2].InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return session.run(None, {"images": images})[0]
        except Exception as error:      # an operation of shapes or values that do not fit
            raise UserError(f"--format onnx: onnxruntime cannot run what jax2onnx made of {name} ("
                            f"{one_line(error)[:200]}); use stablehlo") from error
    return run


def _onnx() -> Any:
    """jax2onnx, onnx and onnxruntime. Raises UserError where one is not installed."""
    for name in ("jax2onnx", "onnx_ir"):                # they warn of operations that are not in these networks
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return [importlib.import_module(name) for name in ("jax2onnx", "onnx", "onnxruntime")]
    except ImportError as error:
        raise UserError(f"--format onnx: {error.name or error} is not installed; pip install 'cnnjax[onnx]'") from None


def _write_torch(path: Path, name: str, module: nn.Module, variables: Any, image_shape: tuple[int, ...],
                 metadata: str) -> None:
    torch_pickle.save(path, state_dict(module, variables), metadata)


def _write_safetensors(path: Path, name: str, module: nn.Module, variables: Any, image_shape: tuple[int, ...],
                       metadata: str) -> None:
    write_safetensors(path, state_dict(module, variables), {"format": "pt", "cnnjax": metadata})


def _read_weights(path: Path, name: str) -> Run:
    """As PyTorch's own network of that name would take the weights."""
    try:
        module, variables = network_from_torch(name, path)
    except UserError as error:
        told = one_line(error).replace(f"{path}: ", "")
        raise UserError(f"PyTorch's {name} cannot hold this network: {told}") from None
    return jax.jit(lambda images: module.apply(variables, images, train=False))


_WRITERS: dict[str, tuple[Callable[..., None], Callable[[Path, str], Run]]] = {
    "stablehlo": (_write_stablehlo, _read_stablehlo),
    "onnx": (_write_onnx, _read_onnx),
    "torch": (_write_torch, _read_weights),
    "safetensors": (_write_safetensors, _read_weights),
}
