"""What is timed: experiments on random images, and races of an experiment against other libraries.

The harness names no library and no method: a race is a gin file that binds an experiment of ours and its peers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import gin
import torch
from torch import Tensor

from benchmark.annotations import Fraction
from benchmark.config import load as configuration
from benchmark.config.load import Config
from benchmark.data.dataset import Outline, Split
from benchmark.data.images import Images
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.experiment.environment import use_device
from benchmark.experiment.setup import Experiment
from benchmark.experiment.stage import Stage
from benchmark.timing.costs import CLASSES, shipped_methods
from benchmark.training.budget import Budget
from benchmark.training.flops import count_step
from benchmark.training.loop import Training

BATCHES = 8  # of different images
STEPS = 10_000  # of a run, more than are ever measured
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
    is `steps` batches.
    """

    name: str
    ours: Callable[[], Experiment]
    peers: tuple[Callable[[Tensor, int, int], Peer], ...]
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


@dataclass(frozen=True, kw_only=True)
class Noise(Images):
    """`n` random images of `CLASSES` classes, which need no source."""

    n: int

    def outline(self) -> Outline:
        shape = (self.n, 3, self.size, self.size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        labels, classes = torch.arange(self.n) % CLASSES, tuple(map(str, range(CLASSES)))
        return Outline(self.name, classes, self.size, pixels, Split(pixels, labels), Split(pixels[:0], labels[:0]))


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


def open_races(files: Sequence[Path]) -> Iterator[tuple[Race, Stage]]:
    """Open one race after the other, since gin has one configuration; a file that is refused is so before the first."""
    for file in files:
        open_race(file)
    yield from map(open_race, files)


def open_race(file: Path) -> tuple[Race, Stage]:
    """Read a race, and open our side of it. Executes what the file imports."""
    config = configuration.load([str(file)], allow_imports=True, root="race")
    race: Race = configuration.build(config)
    return race, open_stage(config, race.ours())


def open_stage(config: Config, experiment: Experiment) -> Stage:
    """Open an experiment on random images of its data's size and on a budget that does not end."""
    if experiment.pretraining is None:
        raise ConfigError("experiment.pretraining is None: there is nothing to time. Give the file of a method.")
    data, batch = experiment.data(), experiment.pretraining().batch_size
    images = Noise(name=data.name, source="random", size=data.size, n=BATCHES * batch)
    endless = Budget(kind="samples", amount=STEPS * batch)
    return Stage(config, replace(experiment, budget=lambda: endless), images, use_device(), Path())


def shipped_trainings(protocol: str) -> dict[str, Training]:
    """Build a run of each shipped method under a protocol's file, without those that refuse its encoder."""
    trainings = {}
    for path in shipped_methods():
        config = configuration.load((str(path), protocol))
        try:
            trainings[path.stem] = open_stage(config, configuration.build(config)).training(math.inf)
        except ConfigError:
            continue
    return trainings
