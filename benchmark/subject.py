"""Whose encoder is evaluated, and by which configuration; found without torch, so that refusals are quick."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmark import config as configuration
from benchmark.config import Config
from benchmark.errors import ConfigError
from benchmark.report import record as records
from benchmark.report.record import Method, Record
from benchmark.report.store import made_by

if TYPE_CHECKING:
    from benchmark.nets.encoders import Encoder

NO_PRETRAINING = ("experiment.pretraining = None", "experiment.budget = None", "experiment.teacher = None")


@dataclass(frozen=True)
class Subject:
    """Whose encoder is evaluated: its name in tables, its weights, how they are laid out, and the run they are of.

    Without weights the encoder is as its configuration builds it, for instance with the weights that timm fetches.
    Without a name it is called after its run, its file or its architecture.
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
        """Find the encoder of a finished run in its folder."""
        found = [records.read(path) for path in folder.glob("*-s*-*-*.json")]
        if not found:
            raise ConfigError(
                f"{folder} is not the folder of a finished run: it has no record. Give a folder that benchmark.run "
                f"wrote, such as runs/<method>-<data>-s0-<key>, or finish the run with --resume."
            )
        run = max(found, key=lambda record: record["created_utc"])
        if run["division"] == "trial":
            raise ConfigError(
                f"{folder} has a trial, which is scored on a hold-out of train alone. Give the folder of a run."
            )
        checkpoint = run["checkpoint"]
        if checkpoint is None:
            raise ConfigError(f"The run in {folder} exported no encoder.")
        weights = folder / checkpoint["file"]
        if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != checkpoint["sha256"]:
            raise ConfigError(f"{weights} is missing or not the file that the run wrote. Run it again with --resume.")
        return cls(name, weights, "run", run)

    def named(self, encoder: "Encoder") -> Method:
        """Return what the record says of the method."""
        if self.run:
            known = self.run["method"]
            return {**known, "module_sha256": made_by(self.run), "name": self.name or known["name"]}
        name = self.name or (f"{self.layout}: {self.weights.stem}" if self.weights else encoder.name)
        return {"name": name, "files": [], "module_sha256": None, "deviations": []}


def configure(subject: Subject, files: Sequence[str], settings: Sequence[str], *, allow_imports: bool) -> Config:
    """Return the configuration of the evaluation: that of the run, or of the files, without any pretraining."""
    stored = subject.run["config"]["text"] if subject.run else ""
    return configuration.load(files, (*NO_PRETRAINING, *settings), allow_imports=allow_imports, stored=stored)
