"""The input path: how fast views are made, and their share of a training step."""

from functools import partial
from pathlib import Path

import torch

from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import interleave
from benchmark.timing.workloads import shipped_trainings
from benchmark.training.loop import Training

PROTOCOL = "gin/protocol/cifar10_resnet18.gin"


def measure(rounds: int) -> Measurement:
    """Time the views and the whole step of every shipped method."""
    measurement = Measurement("inputs", rounds)
    title = f"Indexing and views in a step, {Path(PROTOCOL).stem}"
    rows = []
    for name, training in shipped_trainings(PROTOCOL).items():
        times = interleave({"views": partial(make_views, training, 1), "step": partial(training.advance, 1)}, rounds)
        cells = [cell(values, ".2f") for values in (times.rate("views", 1), times.rate("step", 1))]
        rows.append([f"`{name}`", *cells, cell(times.ratio("views", "step", 100), ".2f")])
        measurement.keep(f"{title}: {name}", times, {"views": 1, "step": 1}, precision=training.precision)
    heads = ["method", "batches of views/s", "steps/s", "share, %"]
    measurement.add(title, "Steps of the protocol's batch.", heads, rows)
    return measurement


def make_views(training: Training, steps: int) -> None:
    """Make the views of some steps, and wait for them."""
    for step in range(steps):
        training.batch(step)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
