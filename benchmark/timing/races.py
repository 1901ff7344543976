"""Races: steps or views of an experiment of ours beside other libraries, which take turns at equal work.

The harness names no library and no method: a race is a gin file that binds an experiment of ours and its peers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import gin
import torch
from torch import Tensor

from benchmark.annotations import Fraction
from benchmark.config import load as configuration
from benchmark.errors import BenchmarkError
from benchmark.experiment.setup import Experiment
from benchmark.experiment.stage import Stage
from benchmark.timing.inputs import make_views
from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import take_turns, timed
from benchmark.timing.workloads import open_stage
from benchmark.training.flops import count_step

STEPS = {"cpu": 3, "cuda": 20}  # a turn of steps
BATCHES = 20  # a turn of views
COUNTED = 8  # images of the step whose FLOPs are compared


class Peer(Protocol):
    """Another library at the same work."""

    name: str
    library: str  # with its version

    def flops(self, batch_size: int) -> int | None:
        """Count the FLOPs of a training step as it is configured; None for one that trains nothing."""

    def __call__(self) -> float:
        """Take a turn and return its seconds, without those of its start."""


@gin.register("race")
@dataclass(frozen=True, kw_only=True)
class Race:
    """An experiment of ours and its peers, at equal work: FLOPs of a step that differ by `tolerance` at most.

    A peer is built as `peer(images, batch_size, steps)` with uint8 images `(n, 3, height, width)` on the host; a turn
    is `steps` batches, whose steps it takes, or of which it makes only the views.
    """

    name: str
    ours: Callable[[], Experiment]
    peers: tuple[Callable[[Tensor, int, int], Peer], ...]
    of: Literal["steps", "views"] = "steps"
    tolerance: Fraction = 1e-3

    def build_peers(self, stage: Stage, steps: int) -> list[tuple[Peer, float | None]]:
        """Build the peers, each with the FLOPs of its step in those of ours, None for one that trains nothing.

        Raises BenchmarkError for one whose step costs other FLOPs than ours.
        """
        peers = [build(stage.dataset.pretrain[:], stage.pretraining.batch_size, steps) for build in self.peers]
        expected = count_step(lambda: stage.method()[0], COUNTED, stage.sides)
        shares = []
        for peer in peers:
            flops = peer.flops(COUNTED)
            shares.append(None if flops is None else flops / expected)
            if flops is not None and abs(flops / expected - 1) > self.tolerance:
                raise BenchmarkError(
                    f"{peer.name} spends {flops:,} FLOPs on {COUNTED} images and ours {expected:,}; a race is at equal "
                    f"FLOPs, within {self.tolerance:.2%}. Give both the same architecture."
                )
        return list(zip(peers, shares, strict=True))


def measure(files: Sequence[Path], rounds: int) -> Measurement:
    """Run races one after the other, since gin has one configuration. One that is refused is so before the first."""
    for file in files:
        race, stage = open_race(file)
        race.build_peers(stage, steps=1)
    measurement = Measurement("races", rounds)
    for file in files:
        _race(measurement, *open_race(file), rounds)
    return measurement


def open_race(file: Path) -> tuple[Race, Stage]:
    """Read a race, and open our side of it. Executes what the file imports."""
    config = configuration.load([str(file)], allow_imports=True, root="race")
    race: Race = configuration.build(config)
    return race, open_stage(config, race.ours())


def _race(measurement: Measurement, race: Race, stage: Stage, rounds: int) -> None:
    training = stage.training(math.inf)
    is_views = race.of == "views"
    steps = BATCHES if is_views else STEPS[training.device.type]
    peers = race.build_peers(stage, steps)
    ours = timed(partial(make_views, training, steps)) if is_views else partial(training.advance, steps)
    times = take_turns({"ours": ours} | {peer.name: as_shipped(peer) for peer, _ in peers}, rounds)
    libraries = {"ours": "" if is_views else training.precision} | {peer.name: peer.library for peer, _ in peers}
    flops = {"ours": None if is_views else 1.0} | {peer.name: share for peer, share in peers}
    images = steps * training.data.batch_size
    work = images * len(training.views) if is_views else images
    cost = "" if is_views else f", {training.flops_per_step / 1e9:,.1f} GFLOPs a step of ours"
    measurement.add(
        race.name,
        f"{steps} {'batches' if is_views else 'steps'} of {training.data.batch_size} images a turn{cost}.",
        ["", "library or precision", "FLOPs, ours = 1", f"{'views' if is_views else 'images'}/s", "ours is faster by"],
        [
            [
                name,
                libraries[name],
                "" if flops[name] is None else f"{flops[name]:.3f}",
                cell(times.rate(name, work), ",.0f" if is_views else ",.1f"),
                cell(times.faster("ours", name), ".2f"),
            ]
            for name in times.seconds
        ],
    )
    measurement.keep(race.name, times, dict.fromkeys(times.seconds, work), libraries=libraries, flops=flops)


def as_shipped(peer: Peer) -> Callable[[], float]:
    """Return the turn of a peer, which may use kernels that do not repeat their bits; ours may not."""

    def turn() -> float:
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        try:
            return peer()
        finally:
            torch.use_deterministic_algorithms(deterministic)

    return turn
