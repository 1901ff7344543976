"""The FLOPs of one training step, counted without running it.

The step runs on the meta device, which has shapes and no memory, with attention as plain matrix products, because for
the backward pass of a fused kernel torch also counts what it recomputes. A multiply-add counts as two FLOPs.
Element-wise work, normalisation, the optimiser, the momentum update and operators without a formula in torch, such as
matrix decompositions, are not counted.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.errors import BenchmarkError, MethodError, first_line, method_errors, place
from benchmark.method import Labelled, Method, Step
from benchmark.nets.attention import set_fused
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws
from benchmark.runtime import progress

LAST = 0.999  # progress at which a method that changes during a run has changed
RESERVED = (
    "step",
    "loss",
    "rate",
    "images_per_second",
    "train_seconds",
    "feature_std",
    "effective_rank",
    "knn",
    "knn_standard_error",
)


@progress.doing("counting the FLOPs of a step")
def count_step(build: Callable[[], Method], batch_size: int, sides: int | Sequence[int]) -> int:
    """Count forward and backward of one step of the method that `build` returns, for the whole batch.

    `sides` are those of the views in pixels, or the one that all of them have.
    Raises BenchmarkError for a method that breaks the contract, needs values, raises an error, or whose last step does
    not cost the same as its first.
    """
    meta = torch.device("meta")
    with meta:
        method = build()
    name = type(method).__name__
    with method_errors(f"A step of {name} cannot be priced", type(method)):
        try:
            first = count(method, batch_size, sides, meta)
            method.after_step(LAST)
            method.set_progress(LAST)
            last = count(method, batch_size, sides, meta)
        except (NotImplementedError, RuntimeError) as problem:
            if "meta" not in str(problem).lower():
                raise
            reason = ": ".join(filter(None, [place(problem, type(method)), first_line(problem).rstrip(".")]))
            raise MethodError(
                f"A step of {name} cannot be priced: {reason}. It runs on the meta device, where tensors have shapes "
                f"and no values: use no .item(), no branch on values, and no operator without a kernel for meta "
                f"tensors, and make tensors on the device of the views."
            ) from problem
    if first != last:
        raise BenchmarkError(
            f"A step of {name} costs {first:,} FLOPs at the beginning of a run and {last:,} at its end. The number of "
            f"steps is planned before the first: let all of them cost the same."
        )
    return first


def count(method: Method, batch_size: int, sides: int | Sequence[int], device: torch.device) -> int:
    """Count one step of `method` on `device`; on a real device this runs it and leaves its gradients."""
    set_fused(method, False)
    method.train()
    sides = [sides] * method.n_views if isinstance(sides, int) else sides
    views = [torch.empty(batch_size, 3, side, side, device=device).fill_(0.5) for side in sides]
    if isinstance(method, Labelled):
        method.labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    with FlopCounterMode(display=False) as counter:
        step = method(views, Draws(0, 0, batch_size, device))
        _check(step, type(method).__name__)
        step.loss.backward()
        method.after_backward(step)
        method.after_step(0.0)
    return int(counter.get_total_flops())


def count_forward(encoder: Encoder, image_size: int) -> int:
    """Count the pass of one image through an encoder on the meta device, in eval mode."""
    set_fused(encoder.eval(), False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.empty(1, 3, image_size, image_size, device="meta"))
    return int(counter.get_total_flops())


def _check(step: Step, name: str) -> None:
    """Raise BenchmarkError for a step that breaks the contract."""
    if not isinstance(step, Step):
        raise BenchmarkError(f"{name}.forward must return a Step, got {type(step).__name__}.")
    loss = step.loss
    if not isinstance(loss, Tensor):
        raise BenchmarkError(f"{name}: Step.loss must be a tensor, got {type(loss).__name__}.")
    if loss.shape != () or loss.dtype != torch.float32 or not loss.requires_grad:
        raise BenchmarkError(
            f"{name}: Step.loss must be a float32 scalar with a gradient, got {str(loss.dtype).removeprefix('torch.')} "
            f"of shape {tuple(loss.shape)}{'' if loss.requires_grad else ' without one'}."
        )
    for log, value in step.logs.items():
        if log in RESERVED:
            raise BenchmarkError(f"{name}: Step.logs names {log!r}, which the loop logs itself. Choose another name.")
        if not isinstance(value, Tensor) or value.shape != () or value.requires_grad:
            raise BenchmarkError(f"{name}: Step.logs[{log!r}] must be a detached tensor of one number.")
    for part, value in step.carry.items():
        if not isinstance(value, Tensor) or value.requires_grad:
            raise BenchmarkError(f"{name}: Step.carry[{part!r}] must be a detached tensor.")
