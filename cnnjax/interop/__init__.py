"""Weights from PyTorch and back, with PyTorch neither needed nor its pickles run."""

from cnnjax.interop.files import read_state, write_safetensors
from cnnjax.interop.weights import from_torch, network_from_torch, to_torch, torch_fields

__all__ = ["from_torch", "network_from_torch", "read_state", "to_torch", "torch_fields", "write_safetensors"]
