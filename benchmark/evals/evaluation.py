"""What an evaluation is, which data it fits, and what is kept of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from benchmark.data.dataset import Dataset, Outline
from benchmark.errors import ConfigError, method_errors
from benchmark.evals.linear import Linear
from benchmark.nets.encoders import Encoder
from benchmark.report.cells import major
from benchmark.report.fields import Metrics, Predictions
from benchmark.runtime import progress
from benchmark.storage import claim, tensors
from benchmark.storage.files import atomic_write, sha256_of

FITTING = {  # what images have, in words, and the evaluations that are made for them
    "boxes": ("have boxes", "@Detect,"),
    "dense": ("have masks", "@DenseKNN, @SegLinear"),
    "multilabel": ("may have several labels", "@MultiLabel,"),
    "": ("have one label", "@KNN, @Linear"),
}


class Evaluation(Protocol):
    """Ranks the classes of each test image.

    `version` is Major.Minor: raise Major when numbers change, Minor when only their rounding does. One that scores
    images with several labels says so by `multilabel = True`, one that scores masks by `dense = True`, one that scores
    boxes by `boxes = True`; any other needs one label an image. One that scores outputs of a projector has
    `needs_projector = True`.
    """

    name: str
    version: str

    def __call__(self, bank: Any) -> Any:
        """Make every choice on the hold-out of a `Bank`, then return the `Ranking` of the classes of the test images.

        A dense evaluation has a `DenseBank` and returns a `Segmentation`, one of boxes has a `BoxBank` and returns a
        `Detected`. Return None if the encoder lacks what is evaluated, such as a projector.
        """
        ...


@dataclass(frozen=True)
class Results:
    """The scores of one encoder and what it predicted, by evaluation.

    `rankings` are the best classes, int16 `(n_test, up to 5)` or `(draws, n_test, up to 5)`, for masks the tallies
    `(n_test, 3, classes)` of `dense.tallied`, or for boxes the rows of `detection.rows_of`. `pictures` show what was
    predicted beside the truth.
    """

    metrics: dict[str, Metrics]
    rankings: dict[str, Tensor]
    pictures: dict[str, Image] = field(default_factory=dict)

    def save(self, path: Path) -> Predictions | None:
        """Write the rankings for paired tests, if there are any, and the pictures beside them."""
        if not self.rankings:
            return None
        tensors.write(path, self.rankings)
        for name, picture in self.pictures.items():
            with atomic_write(path.with_name(f"{path.stem}-{name}.png")) as partial:
                picture.quantize().save(
                    partial, "PNG", optimize=True
                )  # 256 colours are enough, and a third of the bytes
        return {"file": path.name, "sha256": sha256_of(path)}


def kind_of(evaluation: Evaluation) -> str:
    """Return the key in `FITTING` of the data that an evaluation is made for."""
    return next((kind for kind in FITTING if kind and getattr(evaluation, kind, False)), "")


def check(dataset: Outline, evaluations: Sequence[Evaluation]) -> None:
    """Raise ConfigError for evaluations that share a name or for which the data set has no labels or classes."""
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) < len(names):
        raise ConfigError(f"experiment.evaluations has {', '.join(names)}: each evaluation may stand there once.")
    if not evaluations:
        return
    regions = {"boxes": dataset.train.boxes is not None, "dense": dataset.train.masks is not None}
    data = next((kind for kind, there in regions.items() if there), "multilabel" if dataset.is_multilabel else "")
    kinds = {type(each).__name__: kind_of(each) for each in evaluations}
    missing = next((name for name in ("train", "test") if getattr(dataset, name).labels is None), None)
    if missing and not any(regions.values()) and not {*kinds.values()} & regions.keys():
        raise ConfigError(
            f"{', '.join(names)} need labels, but the {missing} split of {dataset.name} has "
            f"none. Name the column (Images.label, Images.test), or pretrain only with "
            f"--set 'experiment.evaluations = ()'."
        )
    if unfit := [name for name, kind in kinds.items() if kind != data]:
        have, fitting = FITTING[data]
        raise ConfigError(
            f"Images of {dataset.name} {have}, for which {', '.join(unfit)} is not made. Name what is, such as "
            f"--set 'experiment.evaluations = ({fitting})'."
        )
    if data in regions:
        if dataset.test.masks is None and dataset.test.boxes is None:
            what = "boxes" if data == "boxes" else "masks"
            raise ConfigError(
                f"{', '.join(names)} need {what} of test images, but Images.test is None. Name the split."
            )
        return
    if len(dataset.classes) < 2:
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


@contextmanager
def asked(evaluation: Evaluation) -> Iterator[None]:
    """Show that an evaluation is at work, and say which one where it fails; nothing is begun without the claim."""
    claim.check()
    with progress.doing(evaluation.name), method_errors(f"The evaluation {evaluation.name} failed", type(evaluation)):
        yield


def results_of(evaluations: Sequence[Evaluation], bank: Any, sealed: Any, dataset: Dataset) -> Results:
    """Return what evaluations by masks or by boxes give: `sealed` are those of test, read after all choices."""
    metrics: dict[str, Metrics] = {}
    rankings, shown = {}, {}
    for evaluation in evaluations:
        with asked(evaluation):
            result = evaluation(bank)
            score, rankings[evaluation.name] = sealed.score(evaluation.name, result)
        metrics[evaluation.name] = metrics_of(evaluation, score, result)
        shown[evaluation.name] = sealed.picture(dataset.test.images, dataset.name, result)
    return Results(metrics, rankings, shown)


def metrics_of(evaluation: Evaluation, score: Any, result: Any) -> Metrics:
    """Return what a record says of an evaluation, by its score, a dataclass, and what it returned."""
    scores = asdict(score)
    if scores.get("mean_average_precision", 0) is None:
        del scores["mean_average_precision"]
    return {
        **scores,  # type: ignore[typeddict-item]
        "version": major(evaluation.version),
        "curve": list(getattr(result, "curve", ())),
        "choices": dict(result.choices),
        "flags": list(result.flags),
    }
