"""Projection and prediction heads."""

from torch import Tensor, nn
from torch.nn import functional as F

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
    gelu: bool = False,
) -> Head:
    """Build `layers` linear layers with (batch norm and) ReLU, or `gelu`, between them.

    `bias` is that of the last layer; a hidden layer has one only where no batch norm follows. `last_batch_norm`
    standardises the output, without scale and shift.
    """
    if layers < 1:
        raise ConfigError(f"A head of {layers} layers has no output; use at least 1.")
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts.append(nn.Linear(inputs, hidden, bias=not batch_norm))
        parts += [nn.BatchNorm1d(hidden)] if batch_norm else []
        parts.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
        inputs = hidden
    parts.append(nn.Linear(inputs, outputs, bias=bias))
    if last_batch_norm:
        parts.append(nn.BatchNorm1d(outputs, affine=False))
    return Head(*parts)


class Prototypes(nn.Linear):
    """Cosines `(batch, outputs)` of features with directions that are learnt.

    It is a linear layer without bias by weight norm, with gains fixed at 1, on normalised features (Caron et al. 2021,
    arXiv:2104.14294, authors' code).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def prototype_head(inputs: int, hidden: int, bottleneck: int, outputs: int) -> Head:
    """Build three linear layers with biases and GELU between them, and prototypes (Caron et al. 2021, authors' code).

    Weights of the three are normal with a deviation of 0.02, biases 0.
    """
    first, second, third = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, bottleneck)
    for layer in (first, second, third):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return Head(first, nn.GELU(), second, nn.GELU(), third, Prototypes(bottleneck, outputs))
