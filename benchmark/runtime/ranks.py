"""The processes of one run, started by torchrun: who they are, and what they tell each other.

A process alone is a run of one rank: every function then returns what it was given. Tensors are exchanged over NCCL
between GPUs and over gloo otherwise; words between the hosts always go over gloo, so that no GPU is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.runtime import sharing

PATIENCE = timedelta(days=30)  # ranks wait for rank 0 while it measures or writes; torchrun ends them if it fails


@dataclass
class _Group:
    """The ranks of this run, and the group over which their hosts talk."""

    rank: int = 0
    size: int = 1
    words: Any = None


_group = _Group()


def rank() -> int:
    """Return the number of this process, from 0; the rank 0 alone measures, prints and writes."""
    return _group.rank


def size() -> int:
    """Return how many processes train together."""
    return _group.size


def join(device: torch.device) -> None:
    """Meet the other processes that torchrun started; without torchrun nothing happens."""
    if sharing.processes() == 1 or _group.size > 1:
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    words = dist.new_group(backend="gloo", timeout=PATIENCE)
    _group.rank, _group.size, _group.words = dist.get_rank(), dist.get_world_size(), words


def part() -> None:
    """Leave the other processes, once training is over; what is left is done by rank 0 alone."""
    if _group.size > 1:
        dist.barrier(_group.words)
        dist.destroy_process_group()
        _group.rank, _group.size, _group.words = 0, 1, None


def told(word: Any) -> Any:
    """Return the word of rank 0 on all ranks."""
    if _group.size == 1:
        return word
    words = [word]
    dist.broadcast_object_list(words, src=0, group=_group.words)
    return words[0]


def all_words(word: Any) -> list[Any]:
    """Return the words of all ranks, on all ranks."""
    if _group.size == 1:
        return [word]
    words: list[Any] = [None] * _group.size
    dist.all_gather_object(words, word, group=_group.words)
    return words


def rows(tensor: Tensor) -> Tensor:
    """Return the rows of a batch that are this rank's: every `size`-th, from its own number on."""
    return tensor if _group.size == 1 else tensor[_group.rank :: _group.size]


def whole(tensor: Tensor) -> Tensor:
    """Return the batch whose rows the ranks have; the gradient of a row goes to the rank that has it.

    Every rank computes the same loss from the batch, so no gradient has to be summed.
    """
    return tensor if _group.size == 1 else _Whole.apply(tensor)


def divide(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a batch that every rank has; the gradient of the batch is that of all ranks' rows."""
    return tensor if _group.size == 1 else _Divide.apply(tensor)


def shared(tensor: Tensor) -> Tensor:
    """Return a tensor that every rank has and uses for its own rows: the gradients of the ranks are summed."""
    return tensor if _group.size == 1 else _Shared.apply(tensor)


def stacked(tensor: Tensor) -> Tensor:
    """Return the tensors of all ranks, `(size, ...)`, for use on each rank's own rows; gradients are summed."""
    return tensor[None] if _group.size == 1 else _Stacked.apply(tensor)


def sum_(tensors: list[Tensor]) -> None:
    """Replace tensors by their sums over the ranks, in place."""
    if _group.size == 1 or not tensors:
        return
    for dtype in {tensor.dtype for tensor in tensors}:
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in alike])
        for tensor, summed in zip(alike, parts, strict=True):
            tensor.copy_(summed.view_as(tensor))


def collected(part: Tensor, shares: Sequence[Tensor]) -> Tensor:
    """Return on rank 0 the rows of all ranks, which have those numbers, on the host; on another rank its own rows."""
    if _group.size == 1:
        return part
    if _group.rank > 0:
        dist.send(part, 0, group=_group.words)
        return part
    whole = part.new_empty(sum(map(len, shares)), *part.shape[1:])
    whole[shares[0]] = part
    for sender, share in enumerate(shares[1:], 1):
        rows = part.new_empty(len(share), *part.shape[1:])
        dist.recv(rows, sender, group=_group.words)
        whole[share] = rows
    return whole


def _gathered(tensor: Tensor) -> Tensor:
    """Return the tensors of all ranks, `(size, ...)`. They travel as bytes: gloo does not know every type."""
    sent = tensor.detach().contiguous()
    received = sent.new_empty(_group.size, *sent.shape)
    if sent.numel():
        flat = sent.reshape(-1).view(torch.uint8)
        dist.all_gather(list(received.view(_group.size, -1).view(torch.uint8).unbind()), flat)
    return received


def _interleaved(parts: Tensor) -> Tensor:
    """Turn `(size, rows, ...)` into the batch of which rank r has the rows r, r + size, ..."""
    return parts.transpose(0, 1).reshape(-1, *parts.shape[2:])


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _interleaved(_gathered(tensor))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return rows(gradient).contiguous()


class _Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return rows(tensor).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _interleaved(_gathered(gradient))


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _gathered(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)[_group.rank]


def _summed(gradient: Tensor) -> Tensor:
    gradient = gradient.contiguous().clone()
    dist.all_reduce(gradient)
    return gradient
