"""The FLOPs of one training step, counted without running it.

The step runs on the meta device, which has shapes and no memory, with attention in plain matrix products, because a
fused kernel's backward is counted with its recomputation. A multiply-add counts as two FLOPs. Element-wise work,
normalisation, the optimiser and the momentum update are not counted.
"""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.method import Draws, Method
from benchmark.nets.attention import set_fused


def count_step(build: Callable[[], Method], batch_size: int, image_size: int) -> int:
    """Count forward and backward of one step of the method that `build` makes, for the whole batch."""
    with torch.device("meta"):
        method = build()
    return count(method, batch_size, image_size, torch.device("meta"))


def count(method: Method, batch_size: int, image_size: int, device: torch.device) -> int:
    """Count one step of `method` where it is; on a real device this runs it, and leaves its gradients."""
    set_fused(method, False)
    method.train()
    views = [
        torch.empty(batch_size, 3, image_size, image_size, device=device).fill_(0.5) for _ in range(method.n_views)
    ]
    with FlopCounterMode(display=False) as counter:
        step = method(views, Draws(0, 0, batch_size, device))
        step.loss.backward()
        method.after_backward(step)
    return int(counter.get_total_flops())
