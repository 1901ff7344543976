"""Copies from the host to a device that do not make the host wait."""

import math

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes; no number is larger


def send(device: torch.device | str, *tensors: Tensor) -> list[Tensor]:
    """Return tensors of the host on `device`.

    For a GPU they are copied together from pinned memory. A copy from ordinary memory would make the host wait until
    the GPU has finished all work queued before.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return packed(device, tensors, pinned=True)
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


def packed(device: torch.device, tensors: tuple[Tensor, ...], *, pinned: bool) -> list[Tensor]:
    """Copy tensors side by side into one buffer, and return views of the same buffer on `device`."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    slots = [math.ceil(size / ALIGNMENT) * ALIGNMENT for size in sizes]
    buffer = torch.empty(sum(slots), dtype=torch.uint8, pin_memory=pinned)
    for view, tensor in zip(_views(buffer, slots, sizes, tensors), tensors, strict=True):
        view.copy_(tensor)
    # torch reuses the pinned memory for another buffer only after this copy has ended, and the host does not wait
    return _views(buffer.to(device, non_blocking=True), slots, sizes, tensors)


def _views(buffer: Tensor, slots: list[int], sizes: list[int], like: tuple[Tensor, ...]) -> list[Tensor]:
    """Split a buffer of bytes into slots, and view each with the type and shape of its tensor."""
    parts = zip(buffer.split(slots), sizes, like, strict=True)
    return [part[:size].view(tensor.dtype).view(tensor.shape) for part, size, tensor in parts]
