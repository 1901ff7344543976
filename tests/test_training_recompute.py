"""Activation checkpointing: less is kept for the backward pass, and nothing else changes."""

import math
from pathlib import Path

import pytest
import torch
from test_experiment_session import stage
from tiny import TinyEncoder, TinyMethod
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.nets.swin import Swin
from benchmark.nets.timm_net import Timm
from benchmark.randomness import Draws
from benchmark.training.loop import Training
from benchmark.training.recompute import recompute_blocks

ON = "Pretraining.checkpoint_activations=True"
SETTINGS = ("ViT.depth=4", "Pretraining.precision=float32")


def kept(training: Training) -> int:
    """Return the bytes that the forward pass of a step keeps for the backward pass, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in training.method.parameters()}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address returns
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        training.method(training.batch(0), Draws(0, 0, training.data.batch_size))
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    "file", ["gin/simclr.gin", "gin/mae.gin", pytest.param("gin/moby.gin", marks=pytest.mark.long)]
)
def test_the_same_bits_and_flops_in_less_memory(file: str, tmp_path: Path) -> None:
    """Oracle: the steps without it. A block's insides are over ten times its input; heads and decoders are kept."""
    trainings = [stage(tmp_path, *SETTINGS, *more, gin=file).training(math.inf) for more in ((), (ON,))]
    assert trainings[0].flops_per_step == trainings[1].flops_per_step
    before, after = map(kept, trainings)
    assert after < (0.75 if "mae" in file else 0.2) * before  # the decoder of MAE is kept
    for training in trainings:
        training.advance(2)
    states = [training.method.state_dict() for training in trainings]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_blocks_of_a_swin_are_found() -> None:
    """Oracle: its definition, two stages of 2 and 4 blocks, whose first bits do not move."""
    swin = Swin(32, name="swin", width=16, depths=(1, 2), heads=(2, 4), window=4, patch=8, split=2)
    method, view = TinyMethod(swin), torch.rand(2, 3, 32, 32)
    before = method.encoder(view).pooled
    recompute_blocks(method)
    assert sum("forward" in vars(part) for part in swin.modules()) == 3
    assert torch.equal(before, swin(view).pooled)


def test_batch_norms_are_refused() -> None:
    for encoder, words in ((TinyEncoder(), "has no blocks"), (Timm(32, name="levit_128s"), "have batch norms")):
        with pytest.raises(ConfigError, match=words):
            recompute_blocks(TinyMethod(encoder))
