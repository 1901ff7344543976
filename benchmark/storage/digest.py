"""Digests of tensors: two states are equal if and only if their digests are."""

import hashlib
from typing import Any

import torch
from torch import Tensor


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes and bytes, in the order of the names."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def flatten(state: Any, name: str = "") -> dict[str, Tensor]:
    """Return every tensor and number of a nested state as named tensors, for `digest`."""
    if isinstance(state, Tensor):
        return {name: state}
    if isinstance(state, bool | int | float):
        return {name: torch.tensor(state, dtype=torch.float64)}
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = dict(enumerate(state)).items()
    else:
        return {}
    return {path: tensor for key, value in items for path, tensor in flatten(value, f"{name}.{key}").items()}


def kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Return the types and shapes of named tensors."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
