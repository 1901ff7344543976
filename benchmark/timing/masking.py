"""What dropping tokens saves: an encoder forward and backward with a quarter of its tokens, and with all."""

import time
from functools import partial

import torch

from benchmark.config import load as configuration
from benchmark.experiment.setup import Experiment
from benchmark.experiment.trained import NO_PRETRAINING
from benchmark.nets.attention import choose_attention, set_fused
from benchmark.nets.encoders import Encoder
from benchmark.nets.masking import visible_tokens
from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import interleave
from benchmark.training.flops import FlopCounter

PROTOCOL = "gin/protocol/cifar10_vit_tiny.gin"
SIZE = 32  # px
BATCH = 128
RATIO = 0.75


def measure(rounds: int) -> Measurement:
    """Time both in float32 by the CPU's time, which other processes disturb least."""
    experiment: Experiment = configuration.build(configuration.load((PROTOCOL,), NO_PRETRAINING))
    encoder = experiment.encoder(SIZE).train()
    tokens, _ = encoder.patch_grid()
    ratios = {"all tokens": 0.0, f"{RATIO:.0%} masked": RATIO}
    with torch.device("meta"):
        flops = {name: _count(experiment.encoder(SIZE), ratio, tokens) for name, ratio in ratios.items()}
    choose_attention(encoder, torch.device("cpu"), "float32")
    candidates = {name: partial(_pass, encoder, ratio, tokens) for name, ratio in ratios.items()}
    times = interleave(candidates, rounds, time.process_time)
    whole, masked = ratios
    measurement = Measurement("masking", rounds)
    title = f"{encoder.name}, {tokens} tokens, {BATCH} images forward and backward"
    measurement.add(
        title,
        f"CPU seconds. By counted FLOPs the masked pass is cheaper by {flops[whole] / flops[masked]:.2f}.",
        ["", "images per CPU second", "cheaper by"],
        [[name, cell(times.rate(name, BATCH), ",.1f"), cell(times.faster(name, whole), ".2f")] for name in ratios],
    )
    measurement.keep(title, times, flops, precision="float32")
    return measurement


def _pass(encoder: Encoder, ratio: float, tokens: int, device: str = "cpu") -> None:
    encoder.zero_grad()
    images = torch.full((BATCH, 3, SIZE, SIZE), 0.5, device=device)
    encoder(images, visible_tokens(torch.rand(BATCH, tokens, device=device), ratio)).pooled.square().mean().backward()


def _count(encoder: Encoder, ratio: float, tokens: int) -> float:
    set_fused(encoder, False)
    with FlopCounter() as counter:
        _pass(encoder, ratio, tokens, "meta")
    return float(counter.total)
