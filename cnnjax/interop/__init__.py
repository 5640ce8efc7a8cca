"""Weights from PyTorch and back, with PyTorch neither needed nor its pickles run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import detection
from cnnjax.interop.detectors import detector_from_torch, detector_to_torch
from cnnjax.interop.files import read_state, write_safetensors
from cnnjax.interop.weights import network_from_torch, network_to_torch
from cnnjax.interop.weights import torch_fields as network_fields

__all__ = ["detector_from_torch", "from_torch", "network_from_torch", "read_state", "to_torch", "torch_fields",
           "write_safetensors"]


def from_torch(name: str, source: Mapping[str, Any] | str | Path, **fields: Any) -> dict[str, Any]:
    """The variables of a network or a detector from a PyTorch state dict or its file: those of `network_from_torch` or
    `detector_from_torch`."""
    read = detector_from_torch if name in detection.names() else network_from_torch
    return read(name, source, **fields)[1]


def to_torch(name: str, variables: Mapping[str, Any], **fields: Any) -> dict[str, np.ndarray]:
    """The PyTorch state dict, as numpy arrays by key, of the variables of a network or a detector: the inverse of
    `from_torch`."""
    write = detector_to_torch if name in detection.names() else network_to_torch
    return write(name, dict(variables), **fields)


def torch_fields(name: str) -> dict[str, Any]:
    """The fields that make `create(name, **fields)` what torchvision means by that name: those of
    `weights.torch_fields`; none of a detector, since `fasterrcnn_resnet50_fpn` and the like are torchvision's own."""
    return {} if name in detection.names() else network_fields(name)
