"""Fine-tuning on a few labels: 1 % or 10 % of train, on several draws."""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, Positive, Share
from benchmark.data.subsets import holdout, labelled
from benchmark.evals.features import Bank, Choices, Ranking, at_edge
from benchmark.evals.supervised import Classifier, SupervisedSettings, Trained, Trainer
from benchmark.randomness import derive

FACTORS = (1.0, 0.1, 10.0)
GRID = [(trunk, head) for trunk in FACTORS for head in FACTORS]  # of equally good pairs the first is chosen
HELD = 0.2  # fraction of draw 0 that is held out


@dataclass(frozen=True)
class TwoRates(SupervisedSettings):
    """SGD with momentum, crops and flips; the learning rates of encoder and head do not depend on the batch size.

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

    The learning rates of encoder and head are 0.1, 1 or 10 times `trunk_rate` and `head_rate`. The pair is chosen on
    draw 0 of the labels, of which a fifth of each class is held out: at least one, but not the only one. If every
    class has a single label, the middle pair is used and the row is flagged. Scores are those after the last step,
    averaged over draws 1 to `draws`.
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
        if bank.network is None:
            return None
        trainer = Trainer(self.name, self, bank, bank.network)

        def train(part: str, factors: tuple[float, float], draw: int, rows: Tensor, queries: Tensor | None) -> Trained:
            rates = TwoRates(factors[0] * self.trunk_rate, factors[1] * self.head_rate)
            size, seed = min(self.batch_size, len(rows)), derive(self.name, draw)
            return trainer.train(part, rates, rows, queries, steps=self.steps, batch_size=size, seed=seed)

        zero, *others = (labelled(bank.labels, bank.dataset, self.fraction, draw) for draw in range(self.draws + 1))
        fit, held = (zero[ids] for ids in holdout(bank.labels[zero], bank.dataset, HELD))
        best = trainer.choose(GRID, lambda factors: train(f"rates {factors}", factors, 0, fit, held), held)
        flags = [] if best == GRID[0] else [at_edge("pair of learning rates")]
        if not len(held):
            flags.append("one label a class, so the learning rates are the middle ones by rule")
        classes = [train(f"draw {draw}", best, draw, rows, None).classes[-1] for draw, rows in enumerate(others, 1)]
        trainer.saved.discard()
        choices: Choices = {
            "feature": trainer.feature,
            "fraction": self.fraction,
            "draws": self.draws,
            "trunk_rate": best[0] * self.trunk_rate,
            "head_rate": best[1] * self.head_rate,
        }
        return Ranking(torch.stack(classes), choices, tuple(flags))
