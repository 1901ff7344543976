"""The subject of figures: a finished run, the images that are shown and their features."""

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmark.config import load as configuration
from benchmark.data.subsets import hashed_order
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.evals import harness
from benchmark.evals.features import Bank
from benchmark.evals.knn import KNN
from benchmark.experiment.stage import Stage
from benchmark.experiment.trained import TrainedEncoder
from benchmark.method import Method
from benchmark.nets import pretrained
from benchmark.nets.encoders import Encoder
from benchmark.report.record import Record
from benchmark.storage import checkpoint
from benchmark.views.colour import normalise

FEWEST = 5  # test images; the features of fewer say nothing
COLUMNS = 10  # images side by side


class LeftOut(Exception):  # noqa: N818, no error: the other figures are drawn
    """A figure cannot be drawn for this run; the message says why."""


@dataclass(frozen=True)
class Scene:
    """A finished run, rebuilt from its record and weights, and the images that its figures show."""

    run: Path
    record: Record
    stage: Stage
    encoder: Encoder

    @classmethod
    def of(cls, run: Path, allow_imports: bool) -> "Scene":
        """Rebuild the run in a folder."""
        trained = TrainedEncoder.of_run(run)
        record = trained.run
        assert record is not None
        if record["status"] == "diverged":
            raise ConfigError(f"The run in {run} diverged: its weights show nothing. Draw another run.")
        config = configuration.load((), (), allow_imports=allow_imports, stored=record["config"]["text"])
        stage = Stage.open(config, run.parent)
        encoder = stage.encoder()
        pretrained.load(encoder, str(trained.weights), trained.layout)
        return cls(run, record, stage, encoder.to(stage.device).eval())

    @cached_property
    def labels(self) -> Tensor:
        """The labels of the test images."""
        data = self.stage.dataset
        if data.test.labels is None or data.train.labels is None or len(data.classes) < 2:
            raise LeftOut(f"it needs train and test images of several classes, and {data.name} has none")
        if data.is_multilabel:
            raise LeftOut(f"it needs one label an image, and images of {data.name} may have several")
        return data.test.labels

    @cached_property
    def shown(self) -> tuple[Tensor, list[str]]:
        """Images to show, uint8 `(n, 3, size, size)`, and their classes; of the test split where each image has one."""
        data = self.stage.dataset
        if data.test.labels is None or data.is_multilabel:
            ids = spread(torch.zeros(len(data.pretrain), dtype=torch.int64), data.name, COLUMNS)
            return data.pretrain[ids], [""] * len(ids)
        ids = spread(data.test.labels, data.name, COLUMNS)
        return data.test.images[ids], [data.classes[label] for label in data.test.labels[ids].tolist()]

    @cached_property
    def bank(self) -> Bank:
        """The features of all images, as evaluations get them."""
        if len(self.labels) < FEWEST:
            raise LeftOut(f"it needs {FEWEST} test images, and {self.stage.dataset.name} has {len(self.labels)}")
        keeper, limits = _BankKeeper(), self.stage.experiment.limits()
        harness.evaluate_encoder(self.encoder, self.stage.dataset, (keeper,), self.stage.device, limits=limits)
        return keeper.banks[0]

    @cached_property
    def feature(self) -> str:
        """The feature with which nearest neighbours do best on the hold-out."""
        return str(KNN()(self.bank).choices["feature"])

    def method(self) -> Method:
        """Return the method as it was when the run ended, with its heads and decoders."""
        folder = self.run / "checkpoints"
        method, _ = self.stage.method()
        key = self.stage.checkpoint_key
        try:
            warnings = checkpoint.restore(folder, key, lambda state: method.load_state_dict(state["method"]))
        except BenchmarkError as problem:
            raise LeftOut(f"no checkpoint in {folder} is whole, of this run and of this code") from problem
        if warnings is None:
            raise LeftOut(f"no checkpoint is left in {folder}")
        return method.to(self.stage.device).eval()

    def prepared(self, images: Tensor) -> Tensor:
        """Return uint8 images as the encoder sees them."""
        return normalise(images.to(self.stage.device).float() / 255, *self.stage.statistics)

    def title(self, what: str) -> str:
        """Return a title that names the run."""
        record = self.record
        return (
            f"{what} (illustration): {record['method']['name']} on {record['dataset']['name']}, "
            f"{record['encoder']['name']}, seed {record['seed']}"
        )

    def caption(self, text: str) -> str:
        """Return a caption that ends with how the images were chosen."""
        data = self.stage.dataset
        labelled = data.test.labels is not None and not data.is_multilabel
        return f"{text} Test labels choose the images, each class in turn.".lstrip() if labelled else text


class _BankKeeper:
    """An evaluation that scores nothing and keeps the features."""

    name, version = "pictures", "1.0"

    def __init__(self) -> None:
        self.banks: list[Bank] = []

    def __call__(self, bank: Bank) -> None:
        self.banks.append(bank)


def spread(labels: Tensor, name: str, count: int) -> Tensor:
    """Return the ids of up to `count` images: from each class in turn the next one in its hashed order."""
    turns = itertools.zip_longest(*hashed_order(labels, name, "pictures"))
    return torch.stack([image for turn in turns for image in turn if image is not None][:count])
