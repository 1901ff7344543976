"""The step: images a second of every method, against what the device can do, and beside other libraries."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmark.speeds.measurement import Measurement, cell
from benchmark.speeds.rounds import Rounds, interleave, spread, take_turns
from benchmark.speeds.subjects import as_shipped, race, shipped_trainings

PROTOCOLS = ("gin/protocol/cifar10_vit_tiny.gin", "gin/protocol/cifar10_resnet18.gin")
STEPS = 3  # a turn of a race
SIDE = 2048  # of the matrices whose product is the peak
IMAGES, CHANNELS, PIXELS = 64, 128, 32  # of the 3x3 convolution that is the peak
REPEATS = 8  # of either, a turn
PEAKS = {
    "matrix product": REPEATS * 2 * SIDE**3,
    "convolution": REPEATS * 2 * 9 * CHANNELS**2 * IMAGES * PIXELS**2,
}
"""FLOPs of a turn."""


def measure(files: Sequence[Path], rounds: int) -> Measurement:
    """Run the races, then time a step of every shipped method under each protocol."""
    found = Measurement("training", rounds, "bfloat16")
    for file in files:
        _race(found, file, rounds)
    for protocol in PROTOCOLS:
        _methods(found, protocol, rounds)
    return found


def peaks(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Return what a turn of each entry of `PEAKS` does, on random numbers."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    images = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS, device=device).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)

    def repeat(operation: Callable[[], object]) -> None:
        for _ in range(REPEATS):
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
    candidates: dict[str, Callable[[], object]] = {**peaks(first.device, dtype)}
    candidates |= {name: partial(training.advance, 1) for name, training in trainings.items()}
    times = interleave(candidates, rounds)
    flops = PEAKS | {name: training.flops_per_step for name, training in trainings.items()}
    title = f"A step of each method, {Path(protocol).stem}"
    rates = ", ".join(f"{peak} {cell(times.rate(peak, work / 1e9))} GFLOP/s" for peak, work in PEAKS.items())
    found.add(
        title,
        f"Batches of {first.data.batch_size} images, {first.precision}. The device reaches: {rates}.",
        ["method", "images/s", "GFLOP/s", *(f"% of the {peak}" for peak in PEAKS)],
        [
            [
                f"`{name}`",
                cell(times.rate(name, training.data.batch_size), ",.1f"),
                cell(times.rate(name, training.flops_per_step / 1e9)),
                *(cell(shares(times, flops, name, peak), ".1f") for peak in PEAKS),
            ]
            for name, training in trainings.items()
        ],
    )
    found.keep(title, times, flops)


def _race(found: Measurement, file: Path, rounds: int) -> None:
    made, session = race(file)
    training = session.training(math.inf)
    peers = {peer.name: peer for peer in made.entrants(session, STEPS)}
    times = take_turns(
        {"ours": lambda: training.advance(STEPS)} | {name: as_shipped(peer) for name, peer in peers.items()}, rounds
    )
    images = STEPS * training.data.batch_size
    libraries = {"ours": training.precision} | {name: peer.library for name, peer in peers.items()}
    found.add(
        made.name,
        f"{STEPS} steps of {training.data.batch_size} images a turn, {training.flops_per_step / 1e9:,.1f} GFLOPs a "
        f"step in ours and, counted, in its peers.",
        ["", "library or precision", "images/s", "ours is faster by"],
        [
            [name, libraries[name], cell(times.rate(name, images), ",.1f"), cell(times.faster("ours", name), ".2f")]
            for name in times.seconds
        ],
    )
    found.keep(made.name, times, dict.fromkeys(times.seconds, images), libraries=libraries)
