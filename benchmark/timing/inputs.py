"""The input path: batched views beside the loader of another library, and their share of a training step."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import Rounds, interleave, spread, take_turns, timed
from benchmark.timing.workloads import as_shipped, race, shipped_trainings
from benchmark.training.loop import Training

PROTOCOL = "gin/protocol/cifar10_resnet18.gin"
STEPS = 20  # batches a turn of a race


def measure(files: Sequence[Path], rounds: int) -> Measurement:
    """Run the races, then time the views and the whole step of every shipped method."""
    found = Measurement("inputs", rounds)
    for file in files:
        _race(found, file, rounds)
    _shares(found, rounds)
    return found


def _race(found: Measurement, file: Path, rounds: int) -> None:
    made, stage = race(file)
    training = stage.training(math.inf)
    peers = {peer.name: peer for peer in made.entrants(stage, STEPS)}
    ours = timed(partial(make_views, training, STEPS))
    times = take_turns({"ours": ours} | {name: as_shipped(peer) for name, peer in peers.items()}, rounds)
    views = STEPS * training.data.batch_size * training.method.n_views
    libraries = {"ours": ""} | {name: peer.library for name, peer in peers.items()}
    title = f"{made.name}: views of {stage.dataset.size} px"
    found.add(
        title,
        f"{views:,} views a turn, in batches of {training.data.batch_size} images.",
        ["", "library", "views/s", "ours is faster by"],
        [
            [name, libraries[name], cell(times.rate(name, views)), cell(times.faster("ours", name), ".2f")]
            for name in times.seconds
        ],
    )
    found.keep(title, times, dict.fromkeys(times.seconds, views), libraries=libraries, precision="float32")


def _shares(found: Measurement, rounds: int) -> None:
    title = f"Indexing and views in a step, {Path(PROTOCOL).stem}"
    rows = []
    for name, training in shipped_trainings(PROTOCOL).items():
        times = interleave({"views": partial(make_views, training, 1), "step": partial(training.advance, 1)}, rounds)
        part_of = share(times, "views", "step")
        rows.append([f"`{name}`", *(cell(times.rate(part, 1), ".2f") for part in times.seconds), cell(part_of, ".2f")])
        found.keep(f"{title}: {name}", times, {"views": 1, "step": 1}, precision=training.precision)
    found.add(title, "Steps of the protocol's batch.", ["method", "batches of views/s", "steps/s", "share, %"], rows)


def share(times: Rounds, part: str, whole: str) -> tuple[float, float, float]:
    """Return the percentage that a candidate takes of another's seconds: over the rounds, as `spread` does."""
    return spread([100 * a / b for a, b in zip(times.seconds[part], times.seconds[whole], strict=True)])


def make_views(training: Training, steps: int) -> None:
    """Make the views of some steps, and wait for them."""
    for step in range(steps):
        training.batch(step)
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
