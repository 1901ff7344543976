"""What is timed: experiments on random images, under a budget that does not end."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmark.config import load as configuration
from benchmark.config.load import Config
from benchmark.data.dataset import Outline, Split
from benchmark.data.images import Images
from benchmark.errors import ConfigError
from benchmark.experiment.environment import use_device
from benchmark.experiment.setup import Experiment
from benchmark.experiment.stage import Stage
from benchmark.timing.costs import CLASSES, shipped_methods
from benchmark.training.budget import Budget
from benchmark.training.loop import Training

BATCHES = 8  # of different images
STEPS = 10_000  # of a run, more than are ever measured


@dataclass(frozen=True, kw_only=True)
class Noise(Images):
    """`n` random images of `CLASSES` classes, which need no source."""

    n: int

    def outline(self) -> Outline:
        shape = (self.n, 3, self.size, self.size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        labels, classes = torch.arange(self.n) % CLASSES, tuple(map(str, range(CLASSES)))
        return Outline(self.name, classes, self.size, pixels, Split(pixels, labels), Split(pixels[:0], labels[:0]))


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
