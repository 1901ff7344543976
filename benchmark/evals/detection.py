"""What evaluations by boxes share: train images with boxes, what is found in test images, and the score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from benchmark.data.boxes import Objects
from benchmark.data.dataset import Dataset
from benchmark.data.pixels import Pixels
from benchmark.data.subsets import holdout
from benchmark.evals import pictures
from benchmark.evals.average_precision import THRESHOLDS, Detections, Matches, average_precision, matches
from benchmark.evals.evaluation import Evaluation, Results, check, results_of
from benchmark.evals.features import Choices, Network
from benchmark.evals.scoring import Score, Sealed, middle, resamples
from benchmark.runtime import progress

RESAMPLES = 1000  # of the bootstrap over images; our choice: a second for 50 images, minutes for COCO's 5,000
AT_ONCE = 20  # resamples computed together
CONFIDENT = 0.5  # our choice: the score from which a detection counts for precision and recall alone

Found = list[Detections]
"""What is found in each image of a split, in its order."""


@dataclass(frozen=True)
class BoxBank:
    """Everything an evaluation by boxes may see: the encoder, all images, the objects of train, none of test.

    `objects` are those of each train image. `fit` and `held` are disjoint ids of train images. `dataset` is the name by
    which images are drawn.
    """

    network: Network
    objects: Sequence[Objects]
    test_sizes: Sequence[tuple[int, int]]
    fit: Tensor
    held: Tensor
    classes: int
    dataset: str

    def held_score(self, found: Found) -> float:
        """Return the average precision of what is found in the held-out images."""
        truth = [self.objects[index] for index in self.held.tolist()]
        return mean_precision(precisions(matches(found, truth, self.classes), torch.ones(1, len(truth)).double()))


@dataclass(frozen=True)
class Detected:
    """The result of an evaluation by boxes before it is scored: what each trial found in the test images."""

    trials: tuple[Found, ...]
    choices: Choices
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BoxScore(Score):
    """Fractions of `n` test images, means over trials.

    `mean_average_precision` is COCO's AP: the mean over the classes that are there and over IoUs from 0.5 to 0.95.
    `interval` is its 95 % interval over images. `details` have the AP at 0.5 (`ap50`) and 0.75, that of each class, and
    that of each of several trials. The others count detections with a score of at least 0.5, at an IoU of 0.5: `top1`
    is the share of the objects that are found, `draws` that of each trial, `balanced_accuracy` its mean over classes.
    """

    mean_average_precision: float
    interval: list[float]


class SealedBoxes(Sealed):
    """Test boxes."""

    def __init__(self, objects: Sequence[Objects], classes: Sequence[str]) -> None:
        super().__init__("boxes")
        self._objects, self._classes = objects, classes

    def score(self, evaluation: str, result: Detected) -> tuple[BoxScore, Tensor]:
        """Score a result and return its `rows_of`; raises BenchmarkError for a second one of one evaluation."""
        self._read_for(evaluation)
        return scored(result.trials, self._objects, self._classes), rows_of(result.trials)

    def picture(self, images: Pixels, dataset: str, result: Detected) -> Image:
        """Return what the first trial of a scored result found in a few test images, beside what is there."""
        ids = pictures.shown(len(self._objects), dataset)
        found = result.trials[0]
        return pictures.of_boxes(images, ids, [self._objects[i] for i in ids], [found[i] for i in ids])


def precisions(of_classes: Sequence[Matches], weights: Tensor) -> Tensor:
    """Return the average precisions `(resamples, classes, thresholds)`, NaN for a class without objects."""
    return torch.stack([average_precision(each, weights) for each in of_classes], dim=1)


def mean_precision(each: Tensor) -> float:
    """Return the mean of average precisions over the classes that have objects; 0 without any."""
    return float(each.nanmean().nan_to_num())


def scored(trials: Sequence[Found], truth: Sequence[Objects], classes: Sequence[str]) -> BoxScore:
    """Return the score of what trials found in images with these objects."""
    of_trials = [matches(found, truth, len(classes)) for found in trials]
    n = len(truth)
    whole = torch.cat([precisions(each, torch.ones(1, n).double()) for each in of_trials])
    details = {"ap50": mean_precision(whole[:, :, 0]), "ap75": mean_precision(whole[:, :, THRESHOLDS.index(0.75)])}
    there = [name for name, each in zip(classes, whole[0, :, 0], strict=True) if not each.isnan()]
    details |= {f"ap {name}": mean_precision(whole[:, classes.index(name)]) for name in there}
    if len(trials) > 1:
        details |= {f"trial {place}": mean_precision(each) for place, each in enumerate(whole)}
    details["objects"] = float(sum(int((~each.crowd).sum()) for each in truth))
    counts = torch.stack([_counts(each) for each in of_trials])
    right, actual, predicted = counts.unbind(1)
    draws = (right.sum(1) / actual.sum(1).clamp(min=1)).tolist()
    return BoxScore(
        top1=math.fsum(draws) / len(draws),
        macro_f1=float((2 * right / (actual + predicted)).nanmean(1).nan_to_num().mean()),
        balanced_accuracy=float((right / actual).nanmean(1).nan_to_num().mean()),
        n=n,
        draws=draws if len(trials) > 1 else [],
        details=details,
        mean_average_precision=mean_precision(whole),
        interval=interval(of_trials, n),
    )


def _counts(of_classes: Sequence[Matches]) -> Tensor:
    """Return the objects of each class that are found, that there are, and the detections that are judged.

    They are float64 `(3, classes)`, at an IoU of 0.5 and of detections with a score of at least 0.5.
    """
    rows = []
    for each in of_classes:
        is_confident = each.scores >= CONFIDENT
        judged = is_confident & ~each.is_ignored[0]
        rows.append([int((is_confident & each.is_right[0]).sum()), int(each.objects.sum()), int(judged.sum())])
    return torch.tensor(rows, dtype=torch.float64).T


def interval(of_trials: Sequence[Sequence[Matches]], n: int) -> list[float]:
    """Return the 95 % percentile interval of the mean AP of trials, by a bootstrap over `n` images."""
    means = []
    for part in progress.each(resamples(RESAMPLES, n).split(AT_ONCE), "resamples"):
        each = torch.stack([precisions(of_classes, part) for of_classes in of_trials])
        means.append(each.nanmean((0, 2, 3)).nan_to_num())
    return middle(torch.cat(means))


def rows_of(trials: Sequence[Found]) -> Tensor:
    """Return what trials found as rows, float32 `(n, 8)`: trial, image, class, score, left, top, right, bottom."""
    rows = [torch.zeros(0, 8)]
    for trial, found in enumerate(trials):
        for image, each in enumerate(found):
            start = torch.tensor([trial, image]).expand(len(each.labels), 2)
            rows.append(torch.cat([start, each.labels[:, None], each.scores[:, None], each.boxes], dim=1).float())
    return torch.cat(rows)


def evaluate_boxes(network: Network, dataset: Dataset, evaluations: Sequence[Evaluation]) -> Results:
    """Score detectors that are trained on an encoder; test boxes are read after all choices."""
    if not evaluations:
        return Results({}, {})
    check(dataset, evaluations)
    assert dataset.train.boxes is not None
    assert dataset.test.boxes is not None
    with progress.doing("boxes"):
        train, test = list(dataset.train.boxes), list(dataset.test.boxes)
    fit, held = holdout(torch.zeros(len(train), dtype=torch.int64), dataset.name)
    sizes = [each.size for each in test]
    bank = BoxBank(network, train, sizes, fit, held, len(dataset.classes), dataset.name)
    return results_of(evaluations, bank, SealedBoxes(test, dataset.classes), dataset)
