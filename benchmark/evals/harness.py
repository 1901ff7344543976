"""One harness for every encoder: the same hold-out, features and rules, and one look at the test labels."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.data.dataset import Dataset
from benchmark.data.pixels import Pixels
from benchmark.data.subsets import holdout
from benchmark.evals import dense, detection
from benchmark.evals.cache import FeatureCache
from benchmark.evals.evaluation import Evaluation, Results, asked, check, metrics_of
from benchmark.evals.extraction import Encode, dismiss, encoding, in_pixels
from benchmark.evals.features import Bank, Network, Ranking, finite
from benchmark.evals.scoring import SealedLabels
from benchmark.nets.attention import choose_attention
from benchmark.nets.encoders import Encoder
from benchmark.report.fields import Metrics
from benchmark.runtime import progress
from benchmark.storage.digest import digest
from benchmark.views.colour import normalise
from benchmark.views.recipes import ViewLimits

FEATURES_VERSION = 2  # changes with anything that changes features


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

        results = dense.evaluate_masks(encode, dataset, evaluations, device, folder, diverged)
        encoder.train(was_training)
        return results
    network = Network(
        copy=lambda: copy.deepcopy(encoder),
        train=dataset.train.images,
        test=dataset.test.images,
        fingerprint=dataset.fingerprint,
        mean=mean,
        std=std,
        limits=limits,
        device=device,
        folder=folder,
    )
    if dataset.has_boxes:
        return detection.evaluate_boxes(network, dataset, evaluations)
    stored = None
    if cache is not None:
        weights = digest(encoder.state_dict() | (projector.state_dict(prefix="projector.") if projector else {}))
        stored = FeatureCache(cache, (weights, repr(encoder), mean, std, FEATURES_VERSION, torch.__version__))
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
        return dense.evaluate_masks(dense.colours, dataset, evaluations, torch.device("cpu"))

    return _evaluate(in_pixels(dataset, limits), dataset, evaluations)


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
        with asked(evaluation):
            ranking: Ranking | None = evaluation(bank)
        if ranking is None:
            continue
        metrics[evaluation.name] = metrics_of(evaluation, sealed.score(evaluation.name, ranking), ranking)
        rankings[evaluation.name] = ranking.classes.to(torch.int16)
    return Results(metrics, rankings)
