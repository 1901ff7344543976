"""An easy set of images of 8 px and encoders for the tests of the evaluations that train the encoder."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import TinyEncoder
from torch import Tensor

from benchmark.data.subsets import holdout
from benchmark.evals import saved
from benchmark.evals.evaluation import Evaluation
from benchmark.evals.features import Bank, Network, Ranking
from benchmark.evals.finetune import FineTune
from benchmark.evals.semi_finetune import SemiFineTune
from benchmark.evals.supervised import _Run
from benchmark.nets.encoders import Encoder, ViT
from benchmark.storage.digest import digest
from benchmark.views.recipes import ViewLimits

WHOLE = ViewLimits(crop_scale=(0.9, 1.0), flip=False)
SHORT = FineTune(epochs=3, select_epochs=1, batch_size=16, curve=True)
TENTH = SemiFineTune(fraction=0.1, draws=2, trunk_rate=0.01, head_rate=0.1, steps=4, batch_size=8)


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(8, name="vit", width=16, depth=2, heads=2, patch=2)


def convnet() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder()


def split(n: int, seed: int, *, noise: int = 100, signal: int = 120) -> tuple[Tensor, Tensor]:
    """Images in 4 classes, each brighter in one of four pairs of rows, under noise; and their labels."""
    labels = torch.arange(n) % 4
    images = torch.randint(0, noise, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += signal
    return images, labels


def stop_at(monkeypatch: pytest.MonkeyPatch, *places: int) -> list[int]:
    """Interrupt at these steps of all that are taken, with a state saved at each; the list grows by one a step."""
    taken, take = list[int](), _Run.take

    def stopping(run: _Run) -> None:
        taken.append(run.step)
        if len(taken) in places:
            raise KeyboardInterrupt
        take(run)

    monkeypatch.setattr(saved, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(_Run, "take", stopping)
    return taken


class Toy:
    """A bank around an encoder, and the copies of it."""

    def __init__(
        self,
        encoder: Encoder,
        folder: Path | None = None,
        *,
        train: int = 120,
        limits: ViewLimits = WHOLE,
        fingerprint: str = "toy",
    ) -> None:
        self.encoder, self.copies = encoder, list[Encoder]()
        images, labels = split(train, 0)
        self.asked, self.answers = split(40, 1)
        features = torch.zeros(train, encoder.width)
        name = "pooled" if encoder.n_tokens is None else "mean"
        fit, held = holdout(labels, "toy")
        network = Network(
            copy=self._copy,
            train=images,
            test=self.asked,
            fingerprint=fingerprint,
            mean=(0.4, 0.4, 0.4),
            std=(0.2, 0.2, 0.2),
            limits=limits,
            device=torch.device("cpu"),
            folder=folder,
        )
        self.bank = Bank({name: features}, {}, labels, fit, held, 4, "toy", lambda number: {}, network=network)

    def _copy(self) -> Encoder:
        self.copies.append(copy.deepcopy(self.encoder))
        return self.copies[-1]

    def digest(self) -> str:
        """The weights of the copy that was trained last."""
        return digest(self.copies[-1].state_dict())


def ranked(toy: Toy, evaluation: Evaluation) -> Ranking:
    ranking = evaluation(toy.bank)
    assert ranking is not None
    return ranking
