"""The input path: batched views beside the loader of another library, and their share of a training step."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmark.experiment.stage import Stage
from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import interleave, take_turns, timed
from benchmark.timing.workloads import Race, as_shipped, open_races, shipped_trainings
from benchmark.training.loop import Training

PROTOCOL = "gin/protocol/cifar10_resnet18.gin"
STEPS = 20  # batches a turn of a race


def measure(files: Sequence[Path], rounds: int) -> Measurement:
    """Run the races, then time the views and the whole step of every shipped method."""
    measurement = Measurement("inputs", rounds)
    for race, stage in open_races(files):
        _race(measurement, race, stage, rounds)
    _compare_with_steps(measurement, rounds)
    return measurement


def _race(measurement: Measurement, race: Race, stage: Stage, rounds: int) -> None:
    training = stage.training(math.inf)
    peers = race.build_peers(stage, STEPS)
    ours = timed(partial(make_views, training, STEPS))
    times = take_turns({"ours": ours} | {peer.name: as_shipped(peer) for peer, _ in peers}, rounds)
    libraries = {"ours": ""} | {peer.name: peer.library for peer, _ in peers}
    views = STEPS * training.data.batch_size * len(training.views)
    title = f"{race.name}: views of {stage.dataset.size} px"
    measurement.add(
        title,
        f"{views:,} views a turn, in batches of {training.data.batch_size} images.",
        ["", "library", "views/s", "ours is faster by"],
        [
            [name, libraries[name], cell(times.rate(name, views)), cell(times.faster("ours", name), ".2f")]
            for name in times.seconds
        ],
    )
    measurement.keep(title, times, dict.fromkeys(times.seconds, views), libraries=libraries, precision="float32")


def _compare_with_steps(measurement: Measurement, rounds: int) -> None:
    title = f"Indexing and views in a step, {Path(PROTOCOL).stem}"
    rows = []
    for name, training in shipped_trainings(PROTOCOL).items():
        times = interleave({"views": partial(make_views, training, 1), "step": partial(training.advance, 1)}, rounds)
        cells = [cell(values, ".2f") for values in (times.rate("views", 1), times.rate("step", 1))]
        rows.append([f"`{name}`", *cells, cell(times.ratio("views", "step", 100), ".2f")])
        measurement.keep(f"{title}: {name}", times, {"views": 1, "step": 1}, precision=training.precision)
    heads = ["method", "batches of views/s", "steps/s", "share, %"]
    measurement.add(title, "Steps of the protocol's batch.", heads, rows)


def make_views(training: Training, steps: int) -> None:
    """Make the views of some steps, and wait for them."""
    for step in range(steps):
        training.batch(step)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
