"""What a table shows: its lines, and for each line its scores, its cost and how its runs ended."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmark.report.cells import Cell, Setting
from benchmark.report.fields import Metrics
from benchmark.report.record import Record, pretrained
from benchmark.report.statistics import Comparison, Summary

LEADING = {  # headings of the evaluations that come first; the first one present ranks
    "linear": "linear",
    "knn": "kNN",
    "semi_probe_1": "1 % labels",
    "semi_probe_10": "10 % labels",
    "finetune": "fine-tuned",
    "semi_finetune_1": "fine-tuned on 1 %",
    "semi_finetune_10": "fine-tuned on 10 %",
    "multilabel": "mAP",
    "seg_linear": "linear mIoU",
    "dense_knn": "kNN mIoU",
    "detect": "AP",
}
ABBREVIATIONS = (" Eq.", " et al.")  # that do not end a sentence
Ranking = Comparison[tuple[str, str]]  # of cells by their entry


class Column(NamedTuple):
    """One version of an evaluation; versions never share a column."""

    evaluation: str
    version: int

    @property
    def name(self) -> str:
        return LEADING.get(self.evaluation, self.evaluation)

    @property
    def heading(self) -> str:
        return f"{self.name} v{self.version}"

    @property
    def measure(self) -> str:
        """What a caption says behind the heading: that it is top-1, but for a heading that is a measure itself."""
        return "" if self.evaluation in ("multilabel", "detect") or self.is_dense else " top-1"

    @property
    def is_dense(self) -> bool:
        """Whether it scores masks; a kNN with an unusual bank has the size of the bank in its name."""
        return self.evaluation.startswith(("seg_linear", "dense_knn"))


@dataclass(frozen=True)
class Value:
    """The score of a line in a column over seeds, whether it is the best or tied with it, and warnings.

    `macro_f1` is the mean over the runs. `is_uneven` says that the top-1 spreads so much more than others in the column
    that ties are less certain.
    """

    summary: Summary
    macro_f1: float
    standing: Literal["best", "tied", ""]
    flags: tuple[str, ...]
    is_uneven: bool


@dataclass(frozen=True)
class Cost:
    """Means over the runs of a line, and the highest peak memory, None where no run knows it.

    `epochs` are images seen, by a teacher too, over those to pretrain on.
    """

    images: float
    epochs: float
    flops: float
    device_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Line:
    """A method or a floor: its name, the range of its rank, a value per column, its cost, and how its runs ended.

    A `is_reference` line learnt from labels; it is compared with by eye, never ranked.
    """

    cell: Cell
    name: str
    is_floor: bool
    is_reference: bool
    rank: tuple[int, int] | None
    values: tuple[Value | None, ...]
    cost: Cost
    endings: dict[str, int]
    stale: tuple[str, ...]

    @property
    def place(self) -> str:
        """The rank in words: 2, or 2-4 for a range of ranks, or nothing for a line that is not ranked."""
        if self.rank is None:
            return ""
        first, last = self.rank
        return str(first) if first == last else f"{first}-{last}"

    @property
    def is_beside(self) -> bool:
        """Whether it stands beside the methods, in italics: a floor or a reference."""
        return self.is_floor or self.is_reference

    @property
    def rate_factor(self) -> float | None:
        """The learning rate that its trials chose, as a multiple of the recipe's; None where none was chosen."""
        tuning = self.cell.runs[0]["tuning"]
        return tuning["factor"] if tuning else None

    @property
    def deviations(self) -> list[str]:
        """How its runs differ from the paper, each sentence once."""
        return list(dict.fromkeys(text for run in self.cell.runs for text in _sentences(run["method"]["deviations"])))


@dataclass(frozen=True)
class Section:
    """One table: the lines of one setting, and the trials that chose their learning rates.

    `earlier` lines are not ranked: those that newer runs have replaced and, beside lines of today's code, those that
    code of an earlier Major version made. `versioned` are the evaluations that have several versions on the page.
    `texts` has the configurations that trained the encoders on the page, by the digest of their weights.
    """

    setting: Setting
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    earlier: tuple[Line, ...]
    ranking: Ranking | None
    missing_floors: tuple[str, ...]
    trials: tuple[Record, ...]
    versioned: frozenset[str]
    texts: Mapping[str, str]

    def heading(self, column: Column) -> str:
        """Return the name of an evaluation, with its version only where the page has several."""
        return column.heading if column.evaluation in self.versioned else column.name

    def text_of(self, line: Line) -> str:
        """Return the configuration that trained the encoders of a line, also where they were evaluated again."""
        run = line.cell.runs[0]
        own, digest = run["config"]["text"], run["training"]["digest"]
        return own if pretrained(run) or digest is None else self.texts.get(digest, own)

    @property
    def runs(self) -> list[Record]:
        """The runs of the methods or, where a table has none, of the references."""
        of_methods = [run for line in self.lines if not line.is_beside for run in line.cell.runs]
        return of_methods or [run for line in self.lines if line.is_reference for run in line.cell.runs]


def columns_of(records: Iterable[Record]) -> list[Column]:
    """Return the evaluations present: leading ones first, then by name; the newest version of each first."""
    present = {Column(name, result["version"]) for record in records for name, result in record["metrics"].items()}
    leading = list(LEADING)

    def order(column: Column) -> tuple[int, str, int]:
        place = leading.index(column.evaluation) if column.evaluation in LEADING else len(leading)
        return place, column.evaluation, -column.version

    return sorted(present, key=order)


def result(run: Record, column: Column) -> Metrics | None:
    """Return the metrics of a run in a column."""
    metrics = run["metrics"].get(column.evaluation)
    return metrics if metrics and metrics["version"] == column.version else None


def ranking_score(metrics: Metrics) -> float:
    """Return the number that ranks: mean IoU of masks, mean average precision where there is one, else top-1."""
    return metrics.get("mean_iou", metrics.get("mean_average_precision", metrics["top1"]))


def _sentences(deviations: Sequence[str]) -> list[str]:
    """Return the sentences of deviations; early records split some after an abbreviation, which is mended here."""
    sentences: list[str] = []
    for text in deviations:
        name, colon, rest = text.partition(": ")
        if sentences and colon and sentences[-1].startswith(f"{name}: ") and sentences[-1].endswith(ABBREVIATIONS):
            sentences[-1] += f" {rest}"
        else:
            sentences.append(text)
    return sentences
