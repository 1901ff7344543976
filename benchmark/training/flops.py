"""The FLOPs of one training step, counted without running it.

The step runs on the meta device, which has shapes and no memory, with attention as plain matrix products, because for
the backward pass of a fused kernel torch also counts what it recomputes. A multiply-add counts as two FLOPs, by the
formulas of `torch.utils.flop_counter`. Element-wise work, normalisation, the optimiser, the momentum update and
operators without a formula in torch, such as matrix decompositions, are not counted.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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


class FlopCounter(TorchDispatchMode):
    """Adds up the FLOPs of the operators that have a formula, in `total`.

    It does so in a fraction of the time of torch's `FlopCounterMode`, which sums for each module too. On the meta
    device torch computes many outputs in Python, some from dozens of operators; those in `OUTLINES` have a short way.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, operator: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        outline = None if named else OUTLINES.get(operator)
        is_on_meta = outline and all(each.is_meta for each in arguments if isinstance(each, Tensor))
        outputs = outline(*arguments) if outline and is_on_meta else None
        if outputs is None:
            if _is_composed(operator):  # of tensors made in inference mode; autograd takes others apart before
                with self:
                    return operator.decompose(*arguments, **(named or {}))
            outputs = operator(*arguments, **(named or {}))
        if formula := flop_registry.get(operator.overloadpacket):
            self.total += formula(*arguments, **(named or {}), out_val=outputs)
        return outputs


@cache
def _is_composed(operator: Any) -> bool:
    return bool(operator.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def _alike(*arguments: Any) -> Tensor | None:
    """Return the outline of what has shape, type and strides of each of the tensors that it is computed from."""
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    shape, dtype = tensors[0].shape, tensors[0].dtype
    if not dtype.is_floating_point or any(isinstance(each, complex) for each in arguments):
        return None
    if any(each != dtype for each in arguments if isinstance(each, torch.dtype)):
        return None
    outline = torch.empty(shape, dtype=dtype, device="meta")
    looks = {(each.shape, each.dtype, each.stride()) for each in tensors}
    return outline if looks == {(shape, dtype, outline.stride())} else None


def _clamp(inputs: Tensor, *bounds: Any) -> Tensor | None:
    return None if all(each is None for each in bounds) else _alike(inputs, *bounds)


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> Tensor | None:
    fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0] and bias.shape == right.shape[1:]
    return left.new_empty(left.shape[0], right.shape[1]) if fits and left.dtype == right.dtype == bias.dtype else None


def _layer_norm(inputs: Tensor, shape: Sequence[int], *arguments: Any) -> tuple[Tensor, ...] | None:
    sides = [inputs.shape[inputs.ndim - len(shape) :], *(each.shape for each in arguments[:2] if each is not None)]
    if not inputs.is_floating_point() or any(list(each) != list(shape) for each in sides):
        return None
    rows = inputs.shape[: inputs.ndim - len(shape)] + (1,) * len(shape)
    return torch.empty(inputs.shape, dtype=inputs.dtype, device="meta"), *inputs.new_empty(2, *rows)


def _batch_norm(inputs: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    in_training = arguments[4]
    return torch.empty_like(inputs), *inputs.new_empty(2, inputs.shape[1] if in_training else 0)


def _layer_norm_backward(_: Tensor, inputs: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else torch.empty_like(each) for each in (inputs, *arguments[3:5]))


def _batch_norm_backward(_: Tensor, inputs: Tensor, *__: object) -> tuple[Tensor, ...]:
    return torch.empty_like(inputs), *inputs.new_empty(2, inputs.shape[1])


ATEN = torch.ops.aten
OUTLINES: dict[Any, Callable[..., Tensor | tuple[Tensor | None, ...] | None]] = {
    ATEN.native_layer_norm.default: _layer_norm,
    ATEN.native_layer_norm_backward.default: _layer_norm_backward,
    ATEN.native_batch_norm.default: _batch_norm,
    ATEN.native_batch_norm_backward.default: _batch_norm_backward,
    ATEN.addmm.default: _addmm,
    ATEN.clamp.default: _clamp,
    **dict.fromkeys(
        (
            *(ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor),
            *(ATEN.gelu.default, ATEN.gelu_backward.default, ATEN.threshold_backward.default),
            *(ATEN._softmax_backward_data.default, ATEN._log_softmax_backward_data.default),
        ),
        _alike,
    ),
}
"""Outputs on the meta device, by the shapes of the inputs alone; None for other cases, and for what torch refuses."""


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
    with FlopCounter() as counter:
        step = method(views, Draws(0, 0, batch_size, device))
        _check(step, type(method).__name__)
        step.loss.backward()
        method.after_backward(step)
        method.after_step(0.0)
    return int(counter.total)


def count_forward(encoder: Encoder, image_size: int) -> int:
    """Count the pass of one image through an encoder on the meta device, in eval mode."""
    set_fused(encoder.eval(), False)
    with FlopCounter() as counter, torch.no_grad():
        encoder(torch.empty(1, 3, image_size, image_size, device="meta"))
    return int(counter.total)


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
