"""Batch norm over parts of a batch, which stands in for several devices on one."""

import torch
from torch import Tensor, nn

from benchmark.errors import ConfigError


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of `splits` interleaved parts: sample n belongs to part n % splits.

    Without it a query and its key share batch statistics on one device, by which they recognise each other (He et al.
    2020, arXiv:1911.05722, section 3.3). Running statistics are the mean over the parts; in eval mode and in its
    state it is an ordinary batch norm.
    """

    def __init__(self, features: int, splits: int, eps: float, momentum: float | None) -> None:
        super().__init__(features, eps=eps, momentum=momentum)
        self.splits = splits

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        batch, channels, height, width = images.shape
        if batch % self.splits:
            raise ConfigError(
                f"A batch of {batch} does not divide into the {self.splits} parts of split batch norm; choose a "
                f"multiple of {self.splits} for Pretraining.batch_size, or other splits."
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, var = self.running_mean.repeat(self.splits), self.running_var.repeat(self.splits)
        parts = images.reshape(batch // self.splits, self.splits * channels, height, width)
        weight, bias = self.weight.repeat(self.splits), self.bias.repeat(self.splits)
        # torch's own function, since that of torch.nn.functional takes the statistics of all ranks of a run
        normed = torch.batch_norm(
            parts, weight, bias, mean, var, True, self.momentum or 0.0, self.eps, torch.backends.cudnn.enabled
        )
        self.running_mean.copy_(mean.view(self.splits, channels).mean(0))
        self.running_var.copy_(var.view(self.splits, channels).mean(0))
        self.num_batches_tracked += 1
        return normed.view(batch, channels, height, width)


def split_batch_norms(module: nn.Module, splits: int) -> bool:
    """Replace every 2-d batch norm in `module` by a split one; return whether there was any."""
    replaced = False
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            split = SplitBatchNorm2d(child.num_features, splits, child.eps, child.momentum)
            split.load_state_dict(child.state_dict())
            setattr(module, name, split)
            replaced = True
        else:
            replaced = split_batch_norms(child, splits) or replaced
    return replaced
