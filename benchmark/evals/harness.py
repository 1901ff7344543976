"""One harness for every encoder: the same hold-out, the same features, the same rules, one look at the test labels."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.data.sources import Dataset
from benchmark.data.subsets import holdout
from benchmark.errors import ConfigError
from benchmark.evals.features import Bank, Ranking, extract, raw_pixels
from benchmark.evals.scoring import SealedLabels
from benchmark.nets.encoders import Encoder
from benchmark.report.record import Metrics, Predictions
from benchmark.views.colour import normalise


class Evaluation(Protocol):
    """From features to a ranking of classes per test image. `version` changes with anything that changes numbers."""

    name: str
    version: int

    def __call__(self, bank: Bank) -> Ranking:
        """Make every choice on the hold-out and rank the classes of the test images."""
        ...


@dataclass(frozen=True)
class Results:
    """The scores of one encoder by evaluation, and the predicted classes behind them."""

    metrics: dict[str, Metrics]
    rankings: dict[str, Tensor]

    def save(self, path: Path) -> Predictions | None:
        """Write the rankings, `(n_test, up to 5)` int16 per evaluation, for paired tests; None where there are none."""
        if not self.rankings:
            return None
        save_file({name: classes.to(torch.int16).contiguous() for name, classes in self.rankings.items()}, path)
        return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def evaluate_encoder(
    encoder: Encoder, dataset: Dataset, evaluations: Sequence[Evaluation], device: torch.device
) -> Results:
    """Score a frozen encoder on features that are extracted once."""

    def features(images: Tensor) -> dict[str, Tensor]:
        return extract(encoder, images, lambda batch: normalise(batch, dataset.mean, dataset.std), device)

    return _evaluate(features, dataset, evaluations)


def evaluate_pixels(dataset: Dataset, evaluations: Sequence[Evaluation]) -> Results:
    """Score raw pixels by the same rules: what an encoder has to beat."""
    return _evaluate(raw_pixels, dataset, evaluations)


def check(dataset: Dataset, evaluations: Sequence[Evaluation]) -> None:
    """Refuse evaluations that the data set cannot serve or that share a name, before anything is trained."""
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) < len(names):
        raise ConfigError(f"experiment.evaluations has {', '.join(names)}: each evaluation may stand there once.")
    if evaluations and (dataset.train.labels is None or dataset.test.labels is None):
        missing = "train" if dataset.train.labels is None else "test"
        raise ConfigError(
            f"{', '.join(names)} need labels, but the {missing} split of {dataset.name} has "
            f"none. Name the column (Images.label, Images.test), or pretrain only with "
            f"--set 'experiment.evaluations = ()'."
        )
    if evaluations and len(dataset.classes) < 2:
        raise ConfigError(
            f"{dataset.name} has {len(dataset.classes)} class, {', '.join(dataset.classes)}: there is nothing to tell "
            f"apart. Check that each class has a folder of its own, or pretrain only with "
            f"--set 'experiment.evaluations = ()'."
        )


def _evaluate(
    features: Callable[[Tensor], dict[str, Tensor]], dataset: Dataset, evaluations: Sequence[Evaluation]
) -> Results:
    if not evaluations:
        return Results({}, {})
    check(dataset, evaluations)
    labels, test_labels = dataset.train.labels, dataset.test.labels
    assert labels is not None
    assert test_labels is not None
    fit, held = holdout(labels, dataset.name)
    classes = len(dataset.classes)
    bank = Bank(features(dataset.train.images), features(dataset.test.images), labels, fit, held, classes)
    sealed = SealedLabels(test_labels, classes)
    metrics: dict[str, Metrics] = {}
    rankings = {}
    for evaluation in evaluations:
        ranking = evaluation(bank)
        score = asdict(sealed.score(evaluation.name, ranking))
        metrics[evaluation.name] = {
            **score,  # type: ignore[typeddict-item]
            "version": evaluation.version,
            "choices": dict(ranking.choices),
            "flags": list(ranking.flags),
        }
        rankings[evaluation.name] = ranking.classes
    return Results(metrics, rankings)
