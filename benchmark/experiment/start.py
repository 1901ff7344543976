"""The weights from which pretraining continues: those that timm publishes, a file, or a run of this benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from timm.models import get_pretrained_cfg, list_pretrained

from benchmark.errors import ConfigError, MissingError, suggest
from benchmark.experiment.trained import TrainedEncoder
from benchmark.nets import pretrained
from benchmark.nets.encoders import Encoder, Statistics
from benchmark.nets.timm_net import Timm
from benchmark.report import fields
from benchmark.report.record import Record
from benchmark.runtime import progress
from benchmark.storage import digest
from benchmark.storage.files import sha256_of

TIMM = "timm:"
RUN = "run"  # the layout of the weights of a run, and the default


@dataclass(frozen=True)
class Start:
    """Trained weights: their `name` in tables, what identifies them, and the layout in which they are read.

    `statistics` are the mean and deviation of the inputs that they expect, None for those of their layout.
    """

    name: str
    digest: str
    layout: str
    statistics: Statistics | None
    source: str
    contents: Mapping[str, Any]

    @classmethod
    def find(cls, init: str, layout: str) -> Self:
        """Return the weights that `experiment.init` names: `timm:NAME`, the folder of a run, or a file in a layout.

        Raises ConfigError where there are none, MissingError where timm cannot fetch them.
        """
        if layout != RUN and (init.startswith(TIMM) or Path(init).is_dir()):
            raise ConfigError(
                f"experiment.init_layout = {layout!r} is for a file of weights, which experiment.init = {init!r} is "
                f"not. Leave init_layout out: the layout of a run, and of what timm publishes, is known."
            )
        if init.startswith(TIMM):
            return cls._of_timm(init.removeprefix(TIMM))
        if not Path(init).exists():
            raise ConfigError(
                f"experiment.init = {init!r}: there is no such file or folder. Give the folder of a run, a file of "
                f"weights with experiment.init_layout, or 'timm:NAME' for weights that timm publishes."
            )
        if not Path(init).is_dir():
            return cls(
                name=Path(init).stem,
                digest=sha256_of(Path(init)),
                layout=layout,
                statistics=None,
                source=init,
                contents=pretrained.read(init),
            )
        trained = TrainedEncoder.of_run(Path(init))
        assert trained.run is not None
        assert trained.weights is not None
        return cls(
            name=trained.run["method"]["name"],
            digest=sha256_of(trained.weights),
            layout=trained.layout,
            statistics=statistics_of(trained.run, trained.run["dataset"]),
            source=str(trained.weights),
            contents=pretrained.read(str(trained.weights)),
        )

    @classmethod
    def _of_timm(cls, name: str) -> Self:
        published = get_pretrained_cfg(name)
        if published is None:
            raise ConfigError(
                f"experiment.init = 'timm:{name}': timm publishes no such weights.{suggest(name, list_pretrained())} "
                f"timm.list_pretrained('vit*') in Python lists names."
            )
        try:
            with progress.doing(f"fetching {name}"):
                network = Timm(published.input_size[-1], name=name, pretrained=True)
        except MissingError as problem:
            raise MissingError(
                f"experiment.init = 'timm:{name}': these weights cannot be fetched: {problem.__cause__} Run once with "
                f"a connection, or name a file of weights."
            ) from problem
        weights = network.net.state_dict()
        return cls(name, digest.digest(weights), "timm", network.statistics, f"timm's {name}", weights)

    def load(self, encoder: Encoder) -> str | None:
        """Load the weights into an encoder, and return how positions were interpolated, None where they were not.

        Statistics that the configuration sets for the encoder come first.
        """
        encoder.statistics = encoder.statistics or self.statistics or pretrained.statistics(self.layout, encoder)
        return pretrained.fit(encoder, self.contents, self.source, self.layout, interpolated=True)

    def described(self, positions: str | None) -> fields.Start:
        """Return the part of a record that says where pretraining began."""
        return {"name": self.name, "digest": self.digest, "layout": self.layout, "positions": positions}


def statistics_of(run: Record, default: fields.Dataset | None = None) -> Statistics | None:
    """Return the mean and deviation of the inputs that a run states, or those of a data set where it states none."""
    stated = run["encoder"].get("inputs", default)
    if stated is None:
        return None
    (r, g, b), (r_std, g_std, b_std) = stated["mean"], stated["std"]
    return (r, g, b), (r_std, g_std, b_std)
