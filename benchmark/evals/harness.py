"""One harness for every encoder: the same hold-out, features and rules, and one look at the test labels."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from benchmark.data.dataset import Dataset, Outline
from benchmark.data.pixels import Pixels
from benchmark.data.subsets import holdout
from benchmark.errors import ConfigError, method_errors
from benchmark.evals import dense
from benchmark.evals.cache import FeatureCache
from benchmark.evals.extraction import Encode, dismiss, encoding, in_pixels
from benchmark.evals.features import Bank, Network, Ranking, finite
from benchmark.evals.linear import Linear
from benchmark.evals.scoring import Score, SealedLabels
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.report.cells import major
from benchmark.report.fields import Metrics, Predictions
from benchmark.runtime import progress
from benchmark.storage import claim, tensors
from benchmark.storage.digest import digest
from benchmark.storage.files import sha256_of
from benchmark.views.colour import normalise
from benchmark.views.recipes import ViewLimits

FEATURES_VERSION = 2  # changes with anything that changes features


class Evaluation(Protocol):
    """Ranks the classes of each test image.

    `version` is Major.Minor: raise Major when numbers change, Minor when only their rounding does. One that scores
    images with several labels says so by `multilabel = True`, one that scores masks by `dense = True`; any other needs
    one label an image.
    """

    name: str
    version: str

    def __call__(self, bank: Any) -> Any:
        """Make every choice on the hold-out of a `Bank`, then return the `Ranking` of the classes of the test images.

        A dense evaluation has a `DenseBank` and returns a `Segmentation`. Return None if the encoder lacks what is
        evaluated, such as a projector.
        """
        ...


@dataclass(frozen=True)
class Results:
    """The scores of one encoder and what it predicted, by evaluation.

    `rankings` are the best classes, int16 `(n_test, up to 5)` or `(draws, n_test, up to 5)`, or for masks the tallies
    `(n_test, 3, classes)` of `dense.tallied`.
    """

    metrics: dict[str, Metrics]
    rankings: dict[str, Tensor]

    def save(self, path: Path) -> Predictions | None:
        """Write the rankings for paired tests, if there are any."""
        if not self.rankings:
            return None
        tensors.write(path, self.rankings)
        return {"file": path.name, "sha256": sha256_of(path)}


def evaluate_encoder(
    encoder: Encoder,
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    device: torch.device,
    *,
    limits: ViewLimits,
    projector: nn.Module | None = None,
    cache: Path | None = None,
    folder: Path | None = None,
    diverged: bool = False,
    divided: bool = False,
) -> Results:
    """Score an encoder on features that are extracted once; `limits` hold for random views of train images.

    Images are normalised by the statistics that the encoder states, or by those of the data. With
    a `cache` folder, features of whole images are stored there and read again. Evaluations that train the encoder work
    on copies and save their state in `folder`. With `divided` the other ranks of the run, which `follow`, extract their
    part of the features; the rest is done by this one.

    Raises BenchmarkError for features that are not finite. If the encoder's run `diverged`, such a row counts as 0
    instead, so that the run is scored and recorded.
    """
    mean, std = encoder.statistics or (dataset.mean, dataset.std)
    choose_attention(encoder, device, "float32")  # for every encoder alike, since the last bits decide weak probes

    if dataset.has_masks:
        was_training = encoder.training
        encoder.eval()

        def encode(images: Tensor) -> Tensor:
            return encoder.maps(normalise(images.float() / 255, mean, std))

        results = _evaluate_masks(encode, dataset, evaluations, device, folder, diverged)
        encoder.train(was_training)
        return results
    stored = None
    if cache is not None:
        weights = digest(encoder.state_dict() | (projector.state_dict(prefix="projector.") if projector else {}))
        stored = FeatureCache(cache, (weights, repr(encoder), mean, std, FEATURES_VERSION, torch.__version__))
    network = Network(
        copy=lambda: copy.deepcopy(encoder),
        train=dataset.train.images,
        test=dataset.test.images,
        mean=mean,
        std=std,
        limits=limits,
        device=device,
        folder=folder,
    )
    features = encoding(encoder, dataset, device, limits=limits, projector=projector, divided=divided)
    results = _evaluate(features, dataset, evaluations, stored, network, diverged)
    if divided:
        dismiss()
    return results


def evaluate_pixels(dataset: Dataset, evaluations: Sequence[Evaluation], *, limits: ViewLimits) -> Results:
    """Score raw pixels in [0, 1], as the feature `pixels`, by the same rules: the floor for encoders.

    With masks, the cells of a map are squares of pixels.
    """
    if dataset.has_masks:
        return _evaluate_masks(dense.colours, dataset, evaluations, torch.device("cpu"))

    return _evaluate(in_pixels(dataset, limits), dataset, evaluations)


def check(dataset: Outline, evaluations: Sequence[Evaluation]) -> None:
    """Raise ConfigError for evaluations that share a name or for which the data set has no labels or classes."""
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) < len(names):
        raise ConfigError(f"experiment.evaluations has {', '.join(names)}: each evaluation may stand there once.")
    unfit = [type(each).__name__ for each in evaluations if getattr(each, "dense", False) != dataset.has_masks]
    if unfit:
        have, fitting = (
            ("have masks", "@DenseKNN, @SegLinear") if dataset.has_masks else ("have no masks", "@KNN, @Linear")
        )
        raise ConfigError(
            f"Images of {dataset.name} {have}, for which {', '.join(unfit)} is not made. Name what is, such as "
            f"--set 'experiment.evaluations = ({fitting})'."
        )
    if dataset.has_masks:
        if evaluations and dataset.test.masks is None:
            raise ConfigError(f"{', '.join(names)} need masks of test images, but Images.test is None. Name the split.")
        return
    if evaluations and (dataset.train.labels is None or dataset.test.labels is None):
        missing = "train" if dataset.train.labels is None else "test"
        raise ConfigError(
            f"{', '.join(names)} need labels, but the {missing} split of {dataset.name} has "
            f"none. Name the column (Images.label, Images.test), or pretrain only with "
            f"--set 'experiment.evaluations = ()'."
        )
    unfit = [type(each).__name__ for each in evaluations if getattr(each, "multilabel", False) != dataset.is_multilabel]
    if unfit:
        has, fitting = (
            ("may have several labels", "@MultiLabel,")
            if dataset.is_multilabel
            else ("have one label", "@KNN, @Linear")
        )
        raise ConfigError(
            f"Images of {dataset.name} {has}, for which {', '.join(unfit)} is not made. Name what is, such as "
            f"--set 'experiment.evaluations = ({fitting})'."
        )
    if evaluations and len(dataset.classes) < 2:
        raise ConfigError(
            f"{dataset.name} has {len(dataset.classes)} class, {', '.join(dataset.classes)}: there is nothing to tell "
            f"apart. Check that each class has a folder of its own, or pretrain only with "
            f"--set 'experiment.evaluations = ()'."
        )


def check_layers(build: Callable[[], Encoder], evaluations: Sequence[Evaluation]) -> None:
    """Raise ConfigError where `Linear.layers` asks for more than the encoder can give, which is built if it asks."""
    deepest = max((max(each.layers) for each in evaluations if isinstance(each, Linear)), default=1)
    if deepest > 1:
        encoder = build().eval()
        encoder.last(torch.zeros(1, 3, encoder.image_size, encoder.image_size), deepest)


def _evaluate(
    features: Encode,
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    cache: FeatureCache | None = None,
    network: Network | None = None,
    diverged: bool = False,
) -> Results:
    if not evaluations:
        return Results({}, {})
    check(dataset, evaluations)
    labels, test_labels = dataset.train.labels, dataset.test.labels
    assert labels is not None
    assert test_labels is not None
    fit, held = holdout(labels, dataset.name)

    def whole(split: Literal["train", "test"], images: Pixels, labels: Tensor, layers: int) -> dict[str, Tensor]:
        @progress.doing("features")
        def make() -> dict[str, Tensor]:
            return features(split, None, layers)

        stored = replace(cache, origin=(*cache.origin, layers)) if cache and layers > 1 else cache
        return finite(stored.get(images, labels, make) if stored else make(), f"{split} images", diverged=diverged)

    def both(layers: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        train = whole("train", dataset.train.images, labels, layers)
        return train, whole("test", dataset.test.images, test_labels, layers)

    def views(number: int) -> dict[str, Tensor]:
        return finite(features("train", number, 1), "random views of train images", diverged=diverged)

    train, test = both(1)
    projected = (train.pop("projection"), test.pop("projection")) if "projection" in train else None
    bank = Bank(
        train,
        test,
        labels,
        fit,
        held,
        len(dataset.classes),
        dataset.name,
        views,
        layers=both if network else None,
        projected=projected,
        network=network,
    )
    sealed = SealedLabels(test_labels, bank.classes)
    metrics: dict[str, Metrics] = {}
    rankings = {}
    for evaluation in evaluations:
        claim.check()
        context = method_errors(f"The evaluation {evaluation.name} failed", type(evaluation))
        with progress.doing(evaluation.name), context:
            ranking: Ranking | None = evaluation(bank)
        if ranking is None:
            continue
        metrics[evaluation.name] = _metrics(evaluation, sealed.score(evaluation.name, ranking), ranking)
        rankings[evaluation.name] = ranking.classes.to(torch.int16)
    return Results(metrics, rankings)


def _evaluate_masks(
    encode: dense.Encode,
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    device: torch.device,
    folder: Path | None = None,
    diverged: bool = False,
) -> Results:
    """Score maps on masks: maps are extracted once for all evaluations, and test masks are read after all choices."""
    if not evaluations:
        return Results({}, {})
    check(dataset, evaluations)
    masks, test_masks = dataset.train.masks, dataset.test.masks
    assert masks is not None
    assert test_masks is not None
    with progress.doing("maps"):
        train, test = (
            dense.extract_maps(encode, split.images, device, folder, diverged=diverged)
            for split in (dataset.train, dataset.test)
        )
        rows, columns = train.shape[2:]
        shares = dense.shares_of(masks, rows, columns, len(dataset.classes), folder)
    fit, held = holdout(torch.zeros(len(masks), dtype=torch.int64), dataset.name)
    bank = dense.DenseBank(train, shares, masks, fit, held, len(dataset.classes), dataset.name, device)
    sealed = dense.SealedMasks(test, test_masks, dataset.classes)
    metrics: dict[str, Metrics] = {}
    tallies = {}
    for evaluation in evaluations:
        claim.check()
        context = method_errors(f"The evaluation {evaluation.name} failed", type(evaluation))
        with progress.doing(evaluation.name), context:
            result: dense.Segmentation = evaluation(bank)
            score, tallies[evaluation.name] = sealed.score(evaluation.name, result)
        metrics[evaluation.name] = _metrics(evaluation, score, result)
    return Results(metrics, tallies)


def _metrics(evaluation: Evaluation, score: Score | dense.DenseScore, result: Ranking | dense.Segmentation) -> Metrics:
    """Return what a record says of an evaluation."""
    scores = asdict(score)
    if scores.get("mean_average_precision", 0) is None:
        del scores["mean_average_precision"]
    return {
        **scores,  # type: ignore[typeddict-item]
        "version": major(evaluation.version),
        "curve": list(result.curve) if isinstance(result, Ranking) else [],
        "choices": dict(result.choices),
        "flags": list(result.flags),
    }
