"""Facts that a device has to prove, each a function of a run or a device, so that tests can try it on a processor.

Each returns whether the fact held, None where it could not be seen, and the figure behind it.
"""

import contextlib
import copy
import gc
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.resident import Resident
from benchmark.data.streaming import Prefetched, Streamed
from benchmark.experiment.stage import Stage
from benchmark.experiment.teacher import teach
from benchmark.training import calibration, energy
from benchmark.training.loop import Training

LOSS_TOLERANCE = 0.02  # relative, of losses in bfloat16
LEAST_COSINE = 0.99  # of two gradients in bfloat16 that should be the same
SLACK = 2**20  # bytes that a stage may leave: allocators round
STEPS = 6  # of a run that is made twice
UNWATCHED, WATCHED = 2, 10  # steps that load kernels, and those in which the host must not wait

Outcome = tuple[bool | None, str]
"""Whether a fact held, and the figure."""


def half_precision(training: Training) -> Outcome:
    """Compare the loss of one step in bfloat16 with that in float32."""
    losses = []
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    for precision in precisions:
        run = copy.copy(training)
        run.precision = precision
        losses.append(float(run.differentiate().loss.detach()))
        training.method.zero_grad()
    difference = _difference(*losses)
    return difference <= LOSS_TOLERANCE, f"{difference:.3%}"


def _difference(expected: float, loss: float) -> float:
    """Return the relative difference of two losses, absolute below 1; NaN or infinite where one is not finite."""
    return abs(loss - expected) / max(abs(expected), 1.0)


def free_of_waits(training: Training) -> Outcome:
    """Take steps in which torch raises an error for whatever makes the host wait for the GPU."""
    training.advance(UNWATCHED)
    with contextlib.ExitStack() as stack:
        if training.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
        training.advance(WATCHED)
    return True, "0 waits"


def same_bits(build: Callable[[Path], Training], folder: Path) -> Outcome:
    """Make a run twice, and compare the digests of all that it leaves."""
    first, second = (build(folder / name).run(resume=False).digest for name in ("first", "second"))
    return first == second, f"{first[:8]}, {second[:8]}"


def resumes(build: Callable[[Path], Training], folder: Path) -> Outcome:
    """Make a run, and once more in two parts with a checkpoint between them."""
    whole = build(folder / "whole").run(resume=False).digest
    part = build(folder / "parts")
    part.advance(STEPS // 2)
    part.save()
    rest = build(folder / "parts")
    resumed = rest.run(resume=True).digest
    return whole == resumed and rest.ledger.resumes == 1, f"{whole[:8]}, {resumed[:8]}"


def streams(device: torch.device) -> Outcome:
    """Compare all batches of two epochs that are decoded ahead of their use with those that lie on the device."""
    pixels = torch.randint(0, 256, (1000, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def read(ids: list[int], place: np.ndarray) -> None:
        place[:] = pixels[ids].numpy()

    resident = Resident(pixels, 64, 0, device)
    streamed = Prefetched(Streamed(len(pixels), 24, read), 64, 0, device)
    steps = range(2 * resident.steps_per_epoch)
    equal = sum(
        all(torch.equal(a, b) for a, b in zip(resident.batch(step), streamed.batch(step), strict=True))
        for step in steps
    )
    return equal == len(steps), f"{equal} of {len(steps)} batches"


def meters(device: torch.device, work: Callable[[], object]) -> Outcome:
    """Read the meter before and after some work; None where there is no meter."""
    before = energy.meter(device)
    work()
    joules = energy.between(before, energy.meter(device))
    if joules is None:
        return None, "no meter: `pip install nvidia-ml-py`, on a GPU from Volta on"
    return joules > 0, f"{joules:.1f} J"


def keeps_seconds(stage: Stage) -> Outcome:
    """Calibrate and make a run whose budget is in seconds, and compare its seconds with the budget."""
    training = stage.training(math.inf)
    stage.folder.mkdir(parents=True)
    training.run(resume=False)
    seconds = training.ledger.train_seconds
    return stage.budget.verdict(seconds) == "ok", f"{seconds:.2f} s, {training.steps:,} steps"


def frees_teacher(build: Callable[[Path], Stage], folder: Path) -> Outcome:
    """Train a teacher, and see that nothing but its network stays."""

    def act(stage: Stage) -> nn.Module | None:
        with contextlib.redirect_stdout(io.StringIO()):
            teacher = teach(stage, fresh=True, checkpoint_seconds=math.inf)
        return teacher.method if teacher else None

    return _left(build, folder / "teacher", act)


def frees_calibration(build: Callable[[Path], Stage], folder: Path) -> Outcome:
    """Calibrate a step, and see that nothing stays."""

    def act(stage: Stage) -> None:
        calibration.stored(stage.out / "calibration.json", partial(stage.scratch, 0), 0.0)

    return _left(build, folder / "calibration", act)


def _left(build: Callable[[Path], Stage], folder: Path, act: Callable[[Stage], nn.Module | None]) -> Outcome:
    """Count the bytes that stay when something is done a second time: the first time libraries take workspaces."""
    act(build(folder / "first"))
    stage = build(folder / "second")
    stage.dataset.pretrain_on(stage.device)
    gc.collect()
    before = tensor_bytes(stage.device)
    kept = act(stage)
    tensors = [*kept.parameters(), *kept.buffers()] if kept else []
    left = tensor_bytes(stage.device) - before - sum(tensor.nbytes for tensor in tensors)
    return left <= SLACK, f"{left / 2**20:.2f} MiB"


def tensor_bytes(device: torch.device) -> int:
    """Return the bytes of all tensors on a device; on the host views count as tensors."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    tensors = [item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter)]
    return sum(tensor.nbytes for tensor in tensors if tensor.device == device)  # those on meta hold nothing


def compiles(eager: Training, compiled: Training) -> Outcome:
    """Compare the loss of a step of two runs that begin alike, and the direction of its gradient."""
    losses, gradients = [], []
    for training in (eager, compiled):
        losses.append(float(training.differentiate().loss.detach()))
        parameters = training.method.parameters()
        gradients.append(torch.cat([p.grad.double().flatten() for p in parameters if p.grad is not None]))
        training.method.zero_grad()
    difference, cosine = _difference(*losses), float(F.cosine_similarity(gradients[0], gradients[1], dim=0))
    held = difference <= LOSS_TOLERANCE and cosine >= LEAST_COSINE
    return held, f"loss {difference:.3%} apart, cosine of gradients {cosine:.5f}"
