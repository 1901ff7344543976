"""The linear probe on a few labels: 1 % or 10 % of train, on several draws."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Location, Share
from benchmark.data.subsets import labelled
from benchmark.errors import ConfigError, MissingError
from benchmark.evals.features import Bank, Choices, Ranking, best_classes
from benchmark.evals.linear import EDGE, GRID, ITERATIONS, STRONGER, UNTUNED, WEAKER, Regression, Standard, fit
from benchmark.runtime import progress
from benchmark.runtime.threads import Item, Result, side_by_side

FOLDS = 5
SMALL = 2**24  # numbers in the largest tensor of a fit that has one thread: 64 MiB
TOLERANCE = 1e-4  # of the fits of the cross validation, of which only the held-out loss is used


@gin.register
@dataclass(frozen=True, kw_only=True)
class SemiProbe:
    """The probe of `Linear` on a class-balanced `fraction` of the train labels, averaged over `draws` of them.

    L2 strength and feature are those of the lowest cross entropy in a cross validation within each draw, on features
    standardised over the draw: with few labels this is far less noisy than accuracy. The i-th labelled image of a
    class is validated in fold i modulo 5. The only image of a class is never validated, since no fit would know the
    class. If every class has one label, the first feature and a fixed strength are used and the row is flagged.

    `list_file` is a file of train ids, one a line and counted from 0, to be used as the only draw, such as an official
    subset; the record has its digest.
    """

    fraction: Share
    draws: Count
    list_file: Location | None = None

    version = "1.2"

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
        choices: Choices = {"fraction": self.fraction, "draws": self.draws}
        if self.list_file is not None:
            choices["list"] = hashlib.sha256(_content(self.list_file)).hexdigest()[:16]
        subsets = [self._ids(bank, draw) for draw in range(self.draws)]
        widest = max(rows.shape[1] for rows in bank.train.values())
        numbers = max(map(len, subsets)) * max(FOLDS * bank.classes, widest)

        def search(candidate: tuple[int, str]) -> tuple[float, float]:
            draw, name = candidate
            return choose(bank.train[name][subsets[draw]], bank.labels[subsets[draw]], bank.classes)

        def refit(draw: int) -> tuple[str, float, bool, Tensor]:
            chosen = min(bank.train, key=lambda name: searches[draw, name][0])
            strength, ids = searches[draw, chosen][1], subsets[draw]
            probe = fit(bank.train[chosen][ids], bank.labels[ids], bank.classes, strength)
            return chosen, strength, probe.converged, best_classes(probe.scores(bank.test[chosen]))

        candidates = list(product(range(self.draws), bank.train))
        searches = dict(zip(candidates, _results(search, candidates, "search", numbers), strict=True))
        for draw, (chosen, strength, converged, ranked) in enumerate(
            _results(refit, range(self.draws), "fit", numbers)
        ):
            labels = bank.labels[subsets[draw]]
            rankings.append(ranked)
            choices |= {f"feature_{draw}": chosen, f"strength_{draw}": strength}
            if folds(labels) < 2:
                flags.append(f"draw {draw}: one label a class, so the L2 strength is {UNTUNED} by rule")
            elif strength in (STRONGER[0], WEAKER[-1]):
                flags.append(f"draw {draw}: {EDGE}")
            if not converged:
                flags.append(f"draw {draw}: the fit ended at its limit of {ITERATIONS} iterations")
        return Ranking(torch.stack(rankings), choices, tuple(flags))

    def _ids(self, bank: Bank, draw: int) -> Tensor:
        if self.list_file is None:
            return labelled(bank.labels, bank.dataset, self.fraction, draw)
        try:
            ids = torch.tensor([int(line) for line in _content(self.list_file).split()])
        except ValueError as error:
            raise ConfigError(f"{self.list_file} needs one train id a line: {error}.") from error
        if not len(ids) or len(ids.unique()) < len(ids) or ids.min() < 0 or ids.max() >= len(bank.labels):
            raise ConfigError(
                f"{self.list_file} needs train ids from 0 to {len(bank.labels) - 1}, each once; it has {len(ids)} "
                f"ids, {len(ids.unique())} different."
            )
        return ids


def _results(task: Callable[[Item], Result], items: Sequence[Item], what: str, numbers: int) -> list[Result]:
    """Return what a task returns for each item; `numbers` are in its largest tensor.

    Small tasks have one thread each, so that several are done at once and no number depends on how many threads there
    are; large ones, which keep all threads busy, are done one after the other.
    """
    available = torch.get_num_threads()
    threads = 1 if numbers <= SMALL else available
    results = side_by_side(task, items, min(len(items), available // threads), threads)
    return [next(results) for _ in progress.each(items, what)]


def _content(list_file: str) -> bytes:
    try:
        return Path(list_file).read_bytes()
    except OSError as error:
        raise MissingError(f"SemiProbe.list_file {list_file} cannot be read: {error}.") from error


def folds(labels: Tensor) -> int:
    """Return the number of folds: the number of labels of the largest class, at most `FOLDS`."""
    return min(FOLDS, int(labels.bincount().max()))


def held_out(labels: Tensor) -> Tensor:
    """Return as bool `(n, folds)` which samples are validated in which folds."""
    order, counts = labels.argsort(stable=True), labels.bincount()
    starts = counts.cumsum(0) - counts
    places = torch.empty_like(labels).scatter_(0, order, torch.arange(len(labels)) - starts[labels[order]])
    return (places % FOLDS)[:, None].eq(torch.arange(folds(labels))) & (counts[labels] > 1)[:, None]


def choose(features: Tensor, labels: Tensor, classes: int) -> tuple[float, float]:
    """Return the lowest mean cross entropy in a cross validation on `(n, dim)` features, and the strength that has it.

    The search goes from strong to weak with warm starts, until the loss rises. If it rises at once, stronger values
    are tried too.
    """
    if folds(labels) < 2:
        return 0.0, UNTUNED
    regression = _Folds(Standard.of(features).apply(features), labels, classes, held_out(labels))
    losses = regression.held_losses(GRID + WEAKER)
    if losses[GRID[0]] == min(losses.values()):
        losses |= regression.held_losses(STRONGER)
    strength = _lowest(losses)
    return losses[strength], strength


def _lowest(losses: dict[float, float]) -> float:
    return min(losses, key=lambda strength: (losses[strength], -strength))  # of equals the stronger


class _Folds(Regression):
    """The regressions of all folds at once: `held` `(n, folds)` marks the samples that a fold is not fitted on."""

    def __init__(self, inputs: Tensor, labels: Tensor, classes: int, held: Tensor) -> None:
        super().__init__(inputs, labels, classes)
        self.outputs = held.shape[1] * classes
        self.targets = self.targets.T.contiguous()
        self.held, self.shares = held, (~held).float() / (~held).sum(0)

    def held_losses(self, strengths: tuple[float, ...]) -> dict[float, float]:
        """Return the mean cross entropy of the held-out samples by strength, until one is not the best so far."""
        losses: dict[float, float] = {}
        start = None
        for strength in progress.each(strengths, "strength"):
            start, _ = self.minimise(strength, start, TOLERANCE)
            losses[strength] = float(-self._log_probabilities(start[:-1], start[-1])[1][self.held].double().mean())
            if strength != _lowest(losses):
                break
        return losses

    def bends(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Take all classes as alike: on few labels float32 ends short of the optimum, how far is up to the variables.

        The choices of version 1 were made in these.
        """
        return torch.full((self.outputs,), float(self.classes)), torch.eye(self.outputs)

    def _log_probabilities(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log probabilities of all classes, `(n, folds, classes)`, and of the labels, `(n, folds)`."""
        logits = torch.addmm(bias, self.inputs, weight).view(*self.held.shape, self.classes)
        logs = logits - logits.logsumexp(2, keepdim=True)  # several times as fast as log_softmax for few classes
        right = self.labels[:, None, None].expand(*self.held.shape, 1)
        return logs, logs.gather(2, right).squeeze(2)

    def _gradient(self, solution: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of the folds' mean cross entropies and its gradients in weight and bias."""
        logs, right = self._log_probabilities(solution[:-1], solution[-1])
        excess = logs.exp_().sub_(self.targets[:, None]).mul_(self.shares[:, :, None]).flatten(1)
        return -(right * self.shares).sum(), self.inputs.T @ excess, excess.sum(0)
