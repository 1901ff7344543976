"""Digests of tensors: two states are the same if and only if theirs are."""

import hashlib
from typing import Any

import torch
from torch import Tensor


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def flatten(state: Any, name: str = "") -> dict[str, Tensor]:
    """Return every tensor and number of a nested state as named tensors, for `digest`."""
    if isinstance(state, Tensor):
        return {name: state}
    if isinstance(state, bool | int | float):
        return {name: torch.tensor(state, dtype=torch.float64)}
    if isinstance(state, dict):
        parts = [flatten(value, f"{name}.{key}") for key, value in state.items()]
    elif isinstance(state, list | tuple):
        parts = [flatten(value, f"{name}.{i}") for i, value in enumerate(state)]
    else:
        return {}
    return {key: value for part in parts for key, value in part.items()}
