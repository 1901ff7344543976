"""The trained encoder that is evaluated, and the configuration for it; without torch, so that refusals are quick."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmark.config import load as configuration
from benchmark.config.load import Config
from benchmark.errors import ConfigError
from benchmark.report.cells import of_run
from benchmark.report.record import Record
from benchmark.storage.files import sha256_of

NO_PRETRAINING = (
    "experiment.pretraining = None",
    "experiment.budget = None",
    "experiment.teacher = None",
    "experiment.init = None",
)


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder to evaluate: its name in tables, the file and layout of its weights, and the run that trained it.

    Without weights its configuration decides them, as where timm fetches them. Without a name it has that of its run,
    its file or its architecture.
    """

    name: str | None = None
    weights: Path | None = None
    layout: str = "run"
    run: Record | None = None

    def __post_init__(self) -> None:
        if self.weights and not self.weights.is_file():
            raise ConfigError(
                f"--weights {self.weights}: there is no such file. Give the weights of an encoder, a .safetensors, .pt "
                f"or .pth file."
            )

    @classmethod
    def of_run(cls, folder: Path, name: str | None = None) -> Self:
        """Return the encoder in the folder of a finished run."""
        records = of_run(folder)
        if not records:
            raise ConfigError(
                f"{folder} is not the folder of a finished run: it has no record. Give a folder that benchmark.run "
                f"wrote, such as runs/<method>-<data>-s0-<key>, or finish the run: its command goes on."
            )
        run = records[-1]
        if run["division"] == "trial":
            raise ConfigError(
                f"{folder} has a trial, which is scored on a hold-out of train alone. Give the folder of a run."
            )
        checkpoint = run["checkpoint"]
        if checkpoint is None:
            raise ConfigError(f"The run in {folder} exported no encoder.")
        weights = folder / checkpoint["file"]
        if not weights.is_file() or sha256_of(weights) != checkpoint["sha256"]:
            raise ConfigError(f"{weights} is missing or not the file that the run wrote. Run it again with --fresh.")
        return cls(name, weights, "run", run)

    def title(self, encoder: str) -> str:
        """Return its name in tables; `encoder` is the name of the architecture."""
        if self.run:
            return self.name or self.run["method"]["name"]
        return self.name or (f"{self.layout}: {self.weights.stem}" if self.weights else encoder)


def configure(trained: TrainedEncoder, files: Sequence[str], settings: Sequence[str], *, allow_imports: bool) -> Config:
    """Return the configuration of the run, then files and settings over it, without any pretraining.

    On images with masks or boxes, the encoder of a run is built for the size on which it was trained.
    """
    stored = trained.run["config"]["text"] if trained.run else ""

    def load(*more: str) -> Config:
        given = (*NO_PRETRAINING, *more, *settings)
        return configuration.load(files, given, allow_imports=allow_imports, stored=stored)

    config = load()
    data = config.tree["params"]["data"]["params"]
    trained_size = trained.run["encoder"]["image_size"] if trained.run else None
    if (data.get("mask") or data.get("boxes")) is None or trained_size in (None, data["size"]):
        return config
    return load(f"experiment.encoder_size = {trained_size}")
