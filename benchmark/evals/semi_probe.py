"""The linear probe on a few labels: 1 % or 10 % of train, on several draws."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Location, Share
from benchmark.data.subsets import labelled
from benchmark.errors import ConfigError, MissingError
from benchmark.evals.features import Bank, Ranking, best_classes
from benchmark.evals.linear import EDGE, GRID, ITERATIONS, STRONGER, UNTUNED, WEAKER, Regression, Standard, fit
from benchmark.runtime import progress

FOLDS = 5
TOLERANCE = 1e-4  # of the fits of the cross validation, of which only the held-out loss is looked at


@gin.register
@dataclass(frozen=True, kw_only=True)
class SemiProbe:
    """The probe of `Linear` on a class-balanced `fraction` of the train labels, averaged over `draws` of them.

    L2 strength and feature are those of the lowest cross entropy in a cross validation within each draw, on features
    standardised over it: with few labels it is far less noisy than hits are. The i-th labelled sample of a class is
    validated in fold i modulo 5, so a class with fewer labels is missing from the validation of some folds; the only
    sample of a class never is, since no fit could know the class. Where every class has one label, the first feature
    and a fixed strength are used and the row is flagged.

    `list_file` names a file of train ids, one a line and counted from 0, that stands for the one draw, such as an
    official subset; the record has its digest.
    """

    fraction: Share
    draws: Count
    list_file: Location | None = None

    version = "1.0"

    def __post_init__(self) -> None:
        if self.list_file is not None and self.draws > 1:
            raise ConfigError(f"SemiProbe.list_file is one draw; set SemiProbe.draws to 1 instead of {self.draws}.")

    @property
    def name(self) -> str:
        """`semi_probe_1` for 1 %."""
        return f"semi_probe_{100 * self.fraction:g}"

    def __call__(self, bank: Bank) -> Ranking:
        """Choose strength and feature within each draw, fit on all of it, rank the classes of the test images."""
        rankings, flags = [], []
        choices: dict[str, str | float | int] = {"fraction": self.fraction, "draws": self.draws}
        if self.list_file is not None:
            choices["list"] = hashlib.sha256(self._list()).hexdigest()[:16]
        for draw in progress.each(range(self.draws), "draw"):
            ids = self._ids(bank, draw)
            labels = bank.labels[ids]
            names = progress.each(bank.train, "feature")
            found = {name: choose(bank.train[name][ids], labels, bank.classes) for name in names}
            chosen = min(found, key=lambda name: found[name].loss)
            strength = found[chosen].strength
            probe = fit(bank.train[chosen][ids], labels, bank.classes, strength)
            rankings.append(best_classes(probe.scores(bank.test[chosen])))
            choices |= {f"feature_{draw}": chosen, f"strength_{draw}": strength}
            if folds(labels) < 2:
                flags.append(f"draw {draw}: one label a class, so the L2 strength is {UNTUNED} by rule")
            elif strength in (STRONGER[0], WEAKER[-1]):
                flags.append(f"draw {draw}: {EDGE}")
            if not probe.converged:
                flags.append(f"draw {draw}: the fit ended at its limit of {ITERATIONS} iterations")
        return Ranking(torch.stack(rankings), choices, tuple(flags))

    def _list(self) -> bytes:
        try:
            return Path(str(self.list_file)).read_bytes()
        except OSError as error:
            raise MissingError(f"SemiProbe.list_file {self.list_file} cannot be read: {error}.") from error

    def _ids(self, bank: Bank, draw: int) -> Tensor:
        if self.list_file is None:
            return labelled(bank.labels, bank.dataset, self.fraction, draw)
        try:
            ids = torch.tensor([int(line) for line in self._list().split()])
        except ValueError as error:
            raise ConfigError(f"{self.list_file} needs one train id a line: {error}.") from error
        if not len(ids) or len(ids.unique()) < len(ids) or ids.min() < 0 or ids.max() >= len(bank.labels):
            raise ConfigError(
                f"{self.list_file} needs train ids from 0 to {len(bank.labels) - 1}, each once; it has {len(ids)} "
                f"ids, {len(ids.unique())} different."
            )
        return ids


@dataclass(frozen=True)
class Choice:
    """The best strength, and the mean cross entropy of the held-out samples at it."""

    loss: float
    strength: float


def folds(labels: Tensor) -> int:
    """Return the number of folds: the number of labels of the largest class, at most `FOLDS`."""
    return min(FOLDS, int(labels.bincount().max()))


def held_out(labels: Tensor) -> Tensor:
    """Return which samples `(n,)` are validated in which folds `(n, folds)`."""
    order, counts = labels.argsort(stable=True), labels.bincount()
    starts = counts.cumsum(0) - counts
    places = torch.empty_like(labels).scatter_(0, order, torch.arange(len(labels)) - starts[labels[order]])
    return (places % FOLDS)[:, None].eq(torch.arange(folds(labels))) & (counts[labels] > 1)[:, None]


def choose(features: Tensor, labels: Tensor, classes: int) -> Choice:
    """Choose the strength for `(n, dim)` labelled features by cross validation.

    From strong to weak with warm starts, until the held-out loss rises; from stronger ones yet if it does at once.
    """
    if folds(labels) < 2:
        return Choice(0.0, UNTUNED)
    regression = _Folds(Standard.of(features).apply(features), labels, classes, held_out(labels))
    losses = regression.held_losses(GRID + WEAKER)
    if losses[GRID[0]] == min(losses.values()):
        losses |= regression.held_losses(STRONGER)
    strength = min(losses, key=lambda strength: (losses[strength], -strength))
    return Choice(losses[strength], strength)


class _Folds(Regression):
    """The regressions of all folds at once: `held` `(n, folds)` says which samples a fold is not fitted on."""

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int, held: Tensor) -> None:
        super().__init__(inputs, labels, classes)
        self.outputs = held.shape[1] * classes
        self.held, self.shares = held, (~held).float() / (~held).sum(0)

    def held_losses(self, strengths: tuple[float, ...]) -> dict[float, float]:
        """Return the mean cross entropy of the held-out samples by strength, up to the first that is no better."""
        losses: dict[float, float] = {}
        start = None
        for strength in progress.each(strengths, "strength"):
            start, _ = self.minimise(strength, start, TOLERANCE)
            losses[strength] = float(-self._log_right(start[:-1], start[-1])[1][self.held].double().mean())
            if strength != min(losses, key=lambda tried: (losses[tried], -tried)):
                break
        return losses

    def _log_right(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log probabilities `(n, folds, classes)`, and those of the right classes `(n, folds)`."""
        logits = torch.addmm(bias, self.inputs, weight).view(*self.held.shape, self.classes)
        found = logits - logits.logsumexp(2, keepdim=True)  # several times as fast as log_softmax of few classes
        right = self.labels[:, None, None].expand(*self.held.shape, 1)
        return found, found.gather(2, right).squeeze(2)

    def _gradient(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of the folds' mean cross entropies and its slopes in weight and bias."""
        found, right = self._log_right(weight, bias)
        excess = found.exp_().sub_(self.targets[:, None]).mul_(self.shares[:, :, None]).flatten(1)
        return -(right * self.shares).sum(), self.inputs.T @ excess, excess.sum(0)
