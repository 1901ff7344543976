"""The step: images a second of every method, against what the device can do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import interleave
from benchmark.timing.workloads import shipped_trainings

PROTOCOLS = ("gin/protocol/cifar10_vit_tiny.gin", "gin/protocol/cifar10_resnet18.gin")
PRODUCT, CONVOLUTION = "matrix product", "convolution"  # the peaks that steps are compared with
CHANNELS, PIXELS = 128, 32  # of the 3x3 convolution


@dataclass(frozen=True)
class Turn:
    """What a candidate does in a turn: enough to fill the device, and to take longer than it takes to start."""

    steps: int  # of a method
    repeats: int  # of each peak
    side: int  # of the square matrices that are multiplied
    images: int  # that are convolved

    @property
    def peaks(self) -> dict[str, int]:
        """The FLOPs of a turn of each peak."""
        return {
            PRODUCT: self.repeats * 2 * self.side**3,
            CONVOLUTION: self.repeats * 2 * 9 * CHANNELS**2 * self.images * PIXELS**2,
        }


TURNS = {
    "cpu": Turn(steps=1, repeats=8, side=2048, images=64),
    "cuda": Turn(steps=20, repeats=16, side=8192, images=2048),
}


def measure(rounds: int) -> Measurement:
    """Time a step of every shipped method under each protocol."""
    measurement = Measurement("training", rounds)
    for protocol in PROTOCOLS:
        _time_methods(measurement, protocol, rounds)
    return measurement


def peaks(turn: Turn, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Return what a turn of each peak does, on random numbers."""
    a, b = torch.randn(2, turn.side, turn.side, device=device, dtype=dtype)
    shapes = (turn.images, CHANNELS, PIXELS, PIXELS), (CHANNELS, CHANNELS, 3, 3)
    images, kernel = (
        torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last) for shape in shapes
    )

    def repeat(operation: Callable[[], object]) -> None:
        for _ in range(turn.repeats):
            operation()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return {
        PRODUCT: lambda: repeat(lambda: a @ b),
        CONVOLUTION: lambda: repeat(lambda: F.conv2d(images, kernel, padding=1)),
    }


def _time_methods(measurement: Measurement, protocol: str, rounds: int) -> None:
    trainings = shipped_trainings(protocol)
    first = next(iter(trainings.values()))
    turn = TURNS[first.device.type]
    candidates: dict[str, Callable[[], object]] = {**peaks(turn, first.device, getattr(torch, first.precision))}
    candidates |= {name: partial(training.advance, turn.steps) for name, training in trainings.items()}
    times = interleave(candidates, rounds)
    flops = turn.peaks | {name: turn.steps * training.flops_per_step for name, training in trainings.items()}
    title = f"A step of each method, {Path(protocol).stem}"
    rates = ", ".join(f"{peak} {cell(times.rate(peak, work / 1e9))} GFLOP/s" for peak, work in turn.peaks.items())
    measurement.add(
        title,
        f"Batches of {first.data.batch_size} images, {first.precision}. The device reaches: {rates}.",
        ["method", "images/s", "GFLOP/s", *(f"% of the {peak}" for peak in turn.peaks)],
        [
            [
                f"`{name}`",
                cell(times.rate(name, turn.steps * training.data.batch_size), ",.1f"),
                cell(times.rate(name, flops[name] / 1e9)),
                *(cell(times.percent_of_peak(name, peak, flops), ".1f") for peak in turn.peaks),
            ]
            for name, training in trainings.items()
        ],
    )
    measurement.keep(title, times, flops, precision=first.precision)
