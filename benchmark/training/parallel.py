"""One method on several ranks: networks see a part of the batch, and the rest of the method sees all of it.

Each rank passes its rows through the encoders and decoders, and their outputs are gathered. Everything else, such as
heads, losses, queues and mixtures, runs on the whole batch on every rank, with the same numbers. So a method is written
for one device and needs no line for several: its loss is that of the whole batch, whatever crosses images in it, and
its gradients are exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmark.errors import BenchmarkError, ConfigError
from benchmark.method import Method
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, Features, Fill
from benchmark.nets.split_norm import SplitBatchNorm2d
from benchmark.runtime import ranks


class Division:
    """The encoders and decoders of a method, whose passes are divided among the ranks; nothing for one rank.

    Raises ConfigError for a batch, or for split batch norms, that do not divide, and for networks that draw random
    numbers of their own.
    """

    def __init__(self, method: Method, batch_size: int) -> None:
        size = ranks.size()
        if batch_size % size:
            raise ConfigError(
                f"Pretraining.batch_size = {batch_size} does not divide among {size} processes; give a multiple of "
                f"{size}."
            )
        kinds = (Encoder, PixelDecoder)
        self._networks = [each for each in method.modules() if isinstance(each, kinds)] if size > 1 else []
        inside = [module for network in self._networks for module in network.modules()]
        for module in inside:
            _require_no_draws(module)
        self._norms = list(dict.fromkeys(module for module in inside if isinstance(module, SplitBatchNorm2d)))
        if uneven := [norm.splits for norm in self._norms if norm.splits % size]:
            raise ConfigError(
                f"The {uneven[0]} parts of split batch norm do not divide among {size} processes; choose splits that "
                f"are a multiple of {size}."
            )
        every = (parameter for network in self._networks for parameter in network.parameters())
        self._parameters = list(dict.fromkeys(parameter for parameter in every if parameter.requires_grad))

    @contextmanager
    def of_a_pass(self) -> Iterator[None]:
        """Divide the batches that the method passes through its networks inside."""
        size = ranks.size()
        for network in self._networks:
            divided = _decoding(network) if isinstance(network, PixelDecoder) else _encoding(network)
            vars(network)["forward"] = divided  # of the instance, in the place of that of its class
        for norm in self._norms:  # rank r has every `size`-th row, and so every `size`-th part
            norm.splits //= size
        try:
            yield
        finally:
            for network in self._networks:
                del vars(network)["forward"]
            for norm in self._norms:
                norm.splits *= size

    def sum_gradients(self) -> None:
        """Add up the gradients of the ranks, each of which are those of its own rows."""
        ranks.sum_([parameter.grad for parameter in self._parameters if parameter.grad is not None])


def _require_no_draws(module: nn.Module) -> None:
    probability = module.p if isinstance(module, nn.Dropout) else getattr(module, "drop_prob", 0)
    if probability:
        raise ConfigError(
            f"The network has a {type(module).__name__} that drops at random ({probability}), and ranks would drop "
            f"alike. Use one process, or a network without it."
        )


def _encoding(encoder: Encoder) -> Callable[..., Features]:
    forward = encoder.forward
    norms = [module for module in encoder.modules() if isinstance(module, SplitBatchNorm2d)]

    def encode(
        view: Tensor, visible: Tensor | None = None, fill: Fill | None = None, paths: Tensor | None = None
    ) -> Features:
        if visible is not None:
            visible = ranks.divide(visible)
        if fill is not None:
            fill = ranks.divide(fill[0]), ranks.shared(fill[1])
        if paths is not None:
            paths = ranks.divide(paths)
        with SyncedNorms():
            part = forward(ranks.divide(view), visible, fill, paths)
        if norms and norms[0].training:  # each has averaged over its own parts
            statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
            ranks.sum_(statistics)
            torch._foreach_div_(statistics, ranks.size())
        return _each(part, ranks.whole)

    return encode


def _decoding(decoder: PixelDecoder) -> Callable[[Features], Tensor]:
    forward = decoder.forward

    def decode(features: Features) -> Tensor:
        with SyncedNorms():
            return ranks.whole(forward(_each(features, ranks.divide)))

    return decode


def _each(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    named = {name: change(value) for name, value in vars(features).items() if value is not None}
    return replace(features, **named)


class SyncedNorms(TorchFunctionMode):
    """Inside, batch norms in train mode normalise by the statistics of all ranks' rows."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        function = _batch_norm if func is F.batch_norm else func
        return function(*args, **(kwargs or {}))


def _batch_norm(
    rows: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm over the rows of all ranks, which have equally many; statistics are float32 or wider."""
    if not training:
        return F.batch_norm(rows, running_mean, running_var, weight, bias, False, momentum, eps)
    values = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    axes = [0, *range(2, rows.ndim)]
    shape = [1, -1, *[1] * (rows.ndim - 2)]
    var, mean = torch.var_mean(values, axes, correction=0)
    vars_, means = ranks.stacked(torch.stack([var, mean])).unbind(1)
    mean = means.mean(0)
    var = vars_.mean(0) + (means - mean).square().mean(0)
    normed = (values - mean.view(shape)) * (var + eps).rsqrt().view(shape)
    if weight is not None:
        normed = normed * weight.view(shape)
    if bias is not None:
        normed = normed + bias.view(shape)
    if running_mean is not None and running_var is not None:
        count = ranks.size() * rows.numel() // rows.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return normed.to(rows.dtype)


def require_alike(method: Method, step: int) -> None:
    """Raise BenchmarkError where the parameters and buffers of the ranks are no longer the same bits."""
    if ranks.size() == 1:
        return
    flat = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in method.state_dict().values()]
    sums = ranks.all_words(torch.stack([bits.sum() for bits in flat]).tolist())
    if apart := [rank for rank, each in enumerate(sums) if each != sums[0]]:
        raise BenchmarkError(
            f"After step {step} the weights of rank {apart[0]} are not those of rank 0. All ranks need the same "
            f"hardware, libraries and code; a method must not draw from torch's own generator apart from `draws`."
        )
