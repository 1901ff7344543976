"""The method that is checked: built, shown random views, and trained for a few steps."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmark.errors import CheckError
from benchmark.experiment.stage import Stage
from benchmark.method import Container, Labelled, Method, Step
from benchmark.randomness import Draws
from benchmark.storage.digest import digest, flatten
from benchmark.training.optim import Optimiser

BATCH, STEPS = 8, 3
TINY = ("ViT.width=32", "ViT.depth=1", "ViT.heads=2")
"""Settings of the default encoder, so that a check takes a second."""


class NotApplicable(Exception):  # noqa: N818, no error: the check says nothing of this method
    """The method has not what a check is about."""


def require(holds: bool, message: str) -> None:
    """Raise CheckError with a message unless something holds."""
    if not holds:
        raise CheckError(message)


@dataclass(frozen=True)
class Subject:
    """A method as its gin files describe it."""

    stage: Stage

    def build(self) -> Method:
        """Return the method at its start, in train mode."""
        method = self.stage.method()[0].train()
        if isinstance(method, Labelled):
            method.labels = torch.zeros(BATCH, dtype=torch.int64)  # equal, since some checks reorder the images
        return method

    def of_seed(self, seed: int) -> "Subject":
        """Return the same method with another seed."""
        return Subject(replace(self.stage, experiment=replace(self.stage.experiment, seed=seed)))

    def views(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return random views of the sides that the recipe makes."""
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(BATCH, 3, side, side, generator=generator).to(dtype) for side in self.stage.sides]

    def step(self, method: Method, dtype: torch.dtype = torch.float32) -> Step:
        """Pass the first views through a method."""
        step: Step = method(self.views(dtype=dtype), Draws(0, 0, BATCH))
        return step

    def optimiser(self, method: Method) -> Optimiser:
        """Build the optimiser of a method."""
        return self.stage.pretraining.optimiser().build(method.param_groups(), BATCH)

    def backward(self, method: Method, t: int) -> None:
        """Do what comes before the optimiser's step t."""
        method.set_progress(t / STEPS)
        step = method(self.views(seed=t), Draws(self.stage.experiment.seed, t, BATCH))
        step.loss.backward()
        method.after_backward(step)

    def train(self, method: Method, optimiser: Optimiser, start: int = 0, stop: int = STEPS) -> None:
        """Take the steps from `start` to `stop` as the loop does."""
        for t in range(start, stop):
            self.backward(method, t)
            optimiser.step(progress(t))
            method.after_step(t / STEPS)


def progress(t: int) -> float:
    """Return where the schedule is in step t: not t / STEPS, since warm-up starts at a rate of 0."""
    return (t + 1) / (STEPS + 1)


def base_of(method: Method) -> Method:
    """Return the base of a container, any other method itself."""
    return method.base if isinstance(method, Container) else method


def identity(method: Method, optimiser: Optimiser) -> str:
    """Return the digest of the whole state."""
    return digest(flatten({"method": method.state_dict(), "optimiser": optimiser.inner.state_dict()}))


def weights_of(module: nn.Module) -> Tensor:
    """Return all parameters in one row of float64."""
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


def statistics_of(method: Method) -> set[str]:
    """Return the names of the buffers that a batch norm writes in its forward."""
    return {
        f"{name}.{buffer}"
        for name, part in method.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        for buffer, _ in part.named_buffers()
    }


def attributes_of(method: Method) -> dict[str, str]:
    """Return every attribute of every module, but for what the state dict holds."""
    held = {"_parameters", "_buffers", "_modules"}
    return {
        f"{name}.{key}": repr(value)
        for name, part in method.named_modules()
        for key, value in vars(part).items()
        if key not in held
    }
