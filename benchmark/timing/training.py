"""The step: images a second of every method, against what the device can do, and beside other libraries."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import Rounds, interleave, spread, take_turns
from benchmark.timing.workloads import as_shipped, race, shipped_trainings

PROTOCOLS = ("gin/protocol/cifar10_vit_tiny.gin", "gin/protocol/cifar10_resnet18.gin")
CHANNELS, PIXELS = 128, 32  # of the 3x3 convolution that is a peak


@dataclass(frozen=True)
class Turn:
    """What a candidate does in a turn: enough to fill the device, and to take longer than it takes to start.

    `side` is that of the square matrices whose product is a peak, `images` the batch of the convolution that is the
    other, `repeats` the number of either, `steps` those of a method and `raced` those of a race.
    """

    steps: int
    raced: int
    repeats: int
    side: int
    images: int

    @property
    def peaks(self) -> dict[str, int]:
        """The FLOPs of a turn of each peak."""
        return {
            "matrix product": self.repeats * 2 * self.side**3,
            "convolution": self.repeats * 2 * 9 * CHANNELS**2 * self.images * PIXELS**2,
        }


TURNS = {
    "cpu": Turn(steps=1, raced=3, repeats=8, side=2048, images=64),
    "cuda": Turn(steps=20, raced=20, repeats=16, side=8192, images=2048),
}


def measure(files: Sequence[Path], rounds: int) -> Measurement:
    """Run the races, then time a step of every shipped method under each protocol."""
    found = Measurement("training", rounds)
    for file in files:
        _race(found, file, rounds)
    for protocol in PROTOCOLS:
        _methods(found, protocol, rounds)
    return found


def peaks(turn: Turn, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Return what a turn of each peak does, on random numbers."""
    a, b = (torch.randn(turn.side, turn.side, device=device).to(dtype) for _ in range(2))
    images = torch.randn(turn.images, CHANNELS, PIXELS, PIXELS, device=device).to(
        dtype, memory_format=torch.channels_last
    )
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)

    def repeat(operation: Callable[[], object]) -> None:
        for _ in range(turn.repeats):
            operation()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return {
        "matrix product": lambda: repeat(lambda: a @ b),
        "convolution": lambda: repeat(lambda: F.conv2d(images, kernel, padding=1)),
    }


def shares(times: Rounds, flops: Mapping[str, float], name: str, peak: str) -> tuple[float, float, float]:
    """Return the percentage of a peak's FLOPs a second that a candidate reaches: over the rounds, as `spread` does."""
    pairs = zip(times.seconds[name], times.seconds[peak], strict=True)
    return spread([100 * (flops[name] / own) / (flops[peak] / best) for own, best in pairs])


def _methods(found: Measurement, protocol: str, rounds: int) -> None:
    trainings = shipped_trainings(protocol)
    first = next(iter(trainings.values()))
    dtype = torch.bfloat16 if first.precision == "bfloat16" else torch.float32
    turn = TURNS[first.device.type]
    candidates: dict[str, Callable[[], object]] = {**peaks(turn, first.device, dtype)}
    candidates |= {name: partial(training.advance, turn.steps) for name, training in trainings.items()}
    times = interleave(candidates, rounds)
    flops = turn.peaks | {name: turn.steps * training.flops_per_step for name, training in trainings.items()}
    title = f"A step of each method, {Path(protocol).stem}"
    rates = ", ".join(f"{peak} {cell(times.rate(peak, work / 1e9))} GFLOP/s" for peak, work in turn.peaks.items())
    found.add(
        title,
        f"Batches of {first.data.batch_size} images, {first.precision}. The device reaches: {rates}.",
        ["method", "images/s", "GFLOP/s", *(f"% of the {peak}" for peak in turn.peaks)],
        [
            [
                f"`{name}`",
                cell(times.rate(name, turn.steps * training.data.batch_size), ",.1f"),
                cell(times.rate(name, flops[name] / 1e9)),
                *(cell(shares(times, flops, name, peak), ".1f") for peak in turn.peaks),
            ]
            for name, training in trainings.items()
        ],
    )
    found.keep(title, times, flops, precision=first.precision)


def _race(found: Measurement, file: Path, rounds: int) -> None:
    made, stage = race(file)
    training = stage.training(math.inf)
    steps = TURNS[training.device.type].raced
    peers = {peer.name: peer for peer in made.entrants(stage, steps)}
    times = take_turns(
        {"ours": lambda: training.advance(steps)} | {name: as_shipped(peer) for name, peer in peers.items()}, rounds
    )
    images = steps * training.data.batch_size
    libraries = {"ours": training.precision} | {name: peer.library for name, peer in peers.items()}
    found.add(
        made.name,
        f"{steps} steps of {training.data.batch_size} images a turn, {training.flops_per_step / 1e9:,.1f} GFLOPs a "
        f"step in ours and, counted, in its peers.",
        ["", "library or precision", "images/s", "ours is faster by"],
        [
            [name, libraries[name], cell(times.rate(name, images), ",.1f"), cell(times.faster("ours", name), ".2f")]
            for name in times.seconds
        ],
    )
    found.keep(made.name, times, dict.fromkeys(times.seconds, images), libraries=libraries)
