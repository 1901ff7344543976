"""Projection and prediction heads."""

from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.losses import in_full_precision


class Head(nn.Sequential):
    """Layers that run in float32 whatever the autocast.

    Early in training the pooled features of a batch are nearly equal. A bfloat16 layer would round off the small
    differences that the batch norm after it scales up.
    """

    def forward(self, features: Tensor) -> Tensor:
        return in_full_precision(super().forward, features)


def mlp(
    inputs: int,
    hidden: int,
    outputs: int,
    *,
    layers: int,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
    bias: bool = False,
) -> Head:
    """Build `layers` linear layers with (batch norm and) ReLU between them.

    `bias` is that of the last layer; a hidden layer has one only where no batch norm follows. `last_batch_norm`
    standardises the output, without scale and shift.
    """
    if layers < 1:
        raise ConfigError(f"A head of {layers} layers has no output; use at least 1.")
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts.append(nn.Linear(inputs, hidden, bias=not batch_norm))
        parts += [nn.BatchNorm1d(hidden)] if batch_norm else []
        parts.append(nn.ReLU(inplace=True))
        inputs = hidden
    parts.append(nn.Linear(inputs, outputs, bias=bias))
    if last_batch_norm:
        parts.append(nn.BatchNorm1d(outputs, affine=False))
    return Head(*parts)
