"""Activation checkpointing: the insides of an encoder's blocks are computed again for the backward pass, not kept."""

from functools import partial
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from benchmark.errors import ConfigError
from benchmark.method import Method
from benchmark.nets.encoders import Encoder

SETTING = "Pretraining.checkpoint_activations = True"


def recompute_blocks(method: Method) -> None:
    """Keep of each block of the method's encoders only its input until the backward pass (Chen et al. 2016).

    Source: arXiv:1604.06174, by `torch.utils.checkpoint`. Losses and gradients stay the same bits. Raises ConfigError
    as `blocks_of`.
    """
    for block in blocks_of(method):
        vars(block)["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
        block.recomputed = True  # for a pass that drops branches


def blocks_of(method: Method) -> list[Any]:
    """Return the blocks of the method's encoders: the parts of what timm calls `blocks`, as in ViT and Swin.

    Raises ConfigError for an encoder without blocks, or with batch norms in them: a second pass would move their
    running statistics twice.
    """
    found: list[Any] = []
    for encoder in (module for module in method.modules() if isinstance(module, Encoder)):
        blocks = [block for name, part in encoder.named_modules() if _holds_blocks(name) for block in part.children()]
        if not blocks:
            raise ConfigError(f"{SETTING}: {encoder.name} has no blocks that can be computed again. {_INSTEAD}")
        if any(isinstance(module, _BatchNorm) for block in blocks for module in block.modules()):
            raise ConfigError(
                f"{SETTING}: the blocks of {encoder.name} have batch norms, whose running statistics a second pass "
                f"would move twice. {_INSTEAD}"
            )
        found += blocks
    return found


_INSTEAD = "Take a ViT or a Swin, or leave it at False."


def _holds_blocks(name: str) -> bool:
    return name.rpartition(".")[2] == "blocks"
