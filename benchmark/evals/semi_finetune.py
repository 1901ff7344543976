"""Fine-tuning on a few labels: 1 % or 10 % of train, on several draws."""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Positive, Share
from benchmark.data.subsets import holdout, labelled
from benchmark.evals.features import Bank, Ranking, at_edge
from benchmark.evals.supervised import Classifier, SupervisedSettings, Trainer
from benchmark.randomness import derive

FACTORS = (1.0, 0.1, 10.0)
HELD = 0.2  # of draw 0
GRID = [(trunk, head) for trunk in FACTORS for head in FACTORS]  # of equally good pairs the first is taken


@dataclass(frozen=True)
class TwoRates(SupervisedSettings):
    """SGD with momentum at a rate of the encoder's and one of the head's, crops and flips, whatever the batch size.

    (Caron et al. 2020, arXiv:2006.09882, authors' code.)
    """

    rate: float
    head_rate: float

    def peak(self, batch_size: int) -> float:
        return self.rate

    def optimiser(self, classifier: Classifier) -> torch.optim.Optimizer:
        trunk = [parameter for parameter in classifier.encoder.parameters() if parameter.requires_grad]
        head = list(classifier.head.parameters())
        groups = [{"params": trunk, "scale": 1.0}, {"params": head, "scale": self.head_rate / self.rate}]
        return torch.optim.SGD(groups, momentum=0.9, fused=True)


@gin.register
@dataclass(frozen=True, kw_only=True)
class SemiFineTune:
    """Train the encoder with a linear head on a class-balanced `fraction` of the train labels, for `steps` steps.

    The rates of encoder and head are chosen on draw 0 of the labels, among `trunk_rate` and `head_rate` and a tenth and
    ten times of each: a fifth of the labels of each class, at least one, but not the only one, is held out from it.
    Where every class has a single label, the middle pair is taken and the row is flagged. Scores are means over draws
    1 to `draws`; the last step counts.
    """

    fraction: Share
    draws: Count
    trunk_rate: Positive
    head_rate: Positive
    steps: Count
    batch_size: Count = 256

    version = "1.0"

    @property
    def name(self) -> str:
        """`semi_finetune_1` for 1 %."""
        return f"semi_finetune_{100 * self.fraction:g}"

    def __call__(self, bank: Bank) -> Ranking | None:
        """Choose both rates on draw 0, train on each other draw, rank the test images; None for raw pixels."""
        network = bank.network
        if network is None:
            return None
        trainer = Trainer(self.name, self, bank, network)

        def ranked(part: str, factors: tuple[float, float], draw: int, rows: Tensor, asked: Tensor | None) -> Tensor:
            rates = TwoRates(factors[0] * self.trunk_rate, factors[1] * self.head_rate)
            size, seed = min(self.batch_size, len(rows)), derive(self.name, draw)
            trained = trainer.train(part, rates, rows, asked, steps=self.steps, batch_size=size, seed=seed)
            return trained.classes[-1]

        rows = labelled(bank.labels, bank.dataset, self.fraction, 0)
        fit, held = holdout(bank.labels[rows], bank.dataset, HELD)
        asked = rows[held]
        hits = {GRID[0]: 0}
        for factors in GRID if len(asked) else ():
            found = ranked(f"rates {factors}", factors, 0, rows[fit], asked)
            hits[factors] = int((found[:, 0] == bank.labels[asked]).sum())
        best = max(hits, key=lambda factors: hits[factors])
        flags = [] if best == GRID[0] else [at_edge("pair of learning rates")]
        if not len(asked):
            flags.append("one label a class, so the learning rates are the middle ones by rule")
        classes = []
        for draw in range(1, self.draws + 1):
            rows = labelled(bank.labels, bank.dataset, self.fraction, draw)
            classes.append(ranked(f"draw {draw}", best, draw, rows, None))
        trainer.discard()
        choices: dict[str, str | float | int] = {
            "feature": trainer.feature,
            "fraction": self.fraction,
            "draws": self.draws,
            "trunk_rate": best[0] * self.trunk_rate,
            "head_rate": best[1] * self.head_rate,
        }
        return Ranking(torch.stack(classes), choices, tuple(flags))
