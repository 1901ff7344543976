"""Published results beside a board: other budgets and other code, so they are never ranked with its runs.

They are in `published.csv` in the folder of the boards, a row for each value with its source.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.report.section import Section
from benchmark.report.text import Block

FILE = "published.csv"
PROTOCOLS: Mapping[str, str | None] = {  # protocol of a published result: the nearest evaluation of a record
    "linear": "linear",
    "online_linear": "linear",
    "knn": "knn",
    "online_knn": "knn",
    "finetune": "finetune",
    "semi_finetune_1": "semi_finetune_1",
    "semi_finetune_10": "semi_finetune_10",
    "semi_1": None,
    "semi_10": None,
    "supervised": None,
    "detection": None,
    "segmentation": None,
}
PARAMETERS = {  # of the encoders in published results, without their last layer
    "resnet-18": 11.2e6,
    "resnet-34": 21.3e6,
    "resnet-50": 23.5e6,
    "vit-ti": 5.5e6,
    "vit-s": 21.7e6,
    "vit-b": 85.8e6,
    "vit-l": 303e6,
    "vit-h": 631e6,
    "swin-b": 86.7e6,
    "swin-l": 195e6,
}
MOST_RATIO = 2  # of two encoders' parameters that stand beside each other
METRICS = ("top1", "top5", "box_ap", "box_ap50", "box_ap75", "mask_ap", "miou")
EPOCHS = re.compile(r"(\d+( of \d+|-\d+)?)?")
CAPTION = """\
Top-1 in % by the protocols nearest to the ranking evaluation, on the same data set, with encoders of the same family
that have at least half and at most twice the parameters: the highest value of each method, encoder and protocol after a
complete pretraining schedule. Values below a floor of the tables above are left out."""


@dataclass(frozen=True, order=True)
class Result:
    """One published value, in % or points of average precision.

    Attributes:
        epochs: of pretraining; "20 of 1000" inside a longer schedule, "300-800" a range, empty if not stated.
        protocol: one of `PROTOCOLS`.
        setting: how the source describes the protocol, empty where that adds nothing.
        doubt: why the value is unreliable, empty if nothing speaks against it.
    """

    dataset: str
    method: str
    backbone: str
    epochs: str
    protocol: str
    setting: str
    metric: str
    value: float
    source: str
    doubt: str


def load(path: Path) -> list[Result]:
    """Read published results; a file that does not exist has none. Raises BenchmarkError with file and line."""
    if not path.is_file():
        return []
    names = [field.name for field in fields(Result)]
    lines: dict[Result, int] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            heading = next(rows, None)
            if heading != names:
                raise BenchmarkError(
                    f"{path}:1: expected the heading {','.join(names)}, got {','.join(heading or [])}."
                )
            for row in rows:
                where = f"{path}:{rows.line_num}"
                result = _result(dict(zip(names, row, strict=True)), where)
                if result in lines:
                    raise BenchmarkError(f"{where}: the row of line {lines[result]} again. Remove one.")
                lines[result] = rows.line_num
        except (csv.Error, ValueError) as error:
            raise BenchmarkError(f"{path}:{rows.line_num}: expected {len(names)} values: {error}.") from None
    return list(lines)


def select(sections: Sequence[Section], results: Sequence[Result]) -> list[Result]:
    """Return the results that belong beside the tables of one data set, sorted by method.

    A result below a floor says that its protocol or budget is another one, and would make the floor look like a method.
    """
    beside = [section for section in sections if section.columns]
    best: dict[tuple[str, str, str], Result] = {}
    for result in sorted(results, key=lambda result: (-result.value, result)):
        complete = " of " not in result.epochs and result.epochs != "0"
        comparable = result.metric == "top1" and any(_belongs(result, section) for section in beside)
        if comparable and complete and not result.doubt:
            best.setdefault((result.method, result.backbone, result.protocol), result)
    return sorted(best.values(), key=lambda result: (result.method.casefold(), result))


def _belongs(result: Result, section: Section) -> bool:
    """Return whether a result is of the task, family and size of a table's encoder, and above its floors.

    Beside encoders that were pretrained on other data stands none.
    """
    same_task = (result.dataset, PROTOCOLS[result.protocol]) == (section.setting.dataset, section.columns[0].evaluation)
    encoder, parameters = section.runs[0]["encoder"], _parameters(result.backbone)
    same_family = _family(result.backbone) == _family(encoder["name"])
    if section.setting.origin or not (same_task and same_family and parameters):
        return False
    floors = [line.values[0].summary.mean for line in section.lines if line.is_floor and line.values[0]]
    ratio = max(parameters / encoder["parameters"], encoder["parameters"] / parameters)
    return ratio <= MOST_RATIO and result.value >= 100 * max(floors, default=0.0)


def _parameters(backbone: str) -> float | None:
    """Return the size of a published encoder by the beginning of its name; None where that is not known."""
    name = re.match(r"[a-z]+-(\d+|[a-z]+)(?![a-z0-9])", backbone.lower())
    return PARAMETERS.get(name[0]) if name else None


def published_table(sections: Sequence[Section], results: Sequence[Result]) -> Iterator[Block]:
    """Yield the table of published results of one data set, nothing where there are none."""
    lines = tuple(
        (
            result.method,
            result.backbone,
            result.epochs,
            f"{result.protocol.replace('_', ' ')}: {result.setting}".removesuffix(": "),
            f"{result.value:g}",
            result.source,
        )
        for result in select(sections, results)
    )
    if lines:
        title = f"{sections[0].setting.dataset}, published elsewhere (not ranked: other budgets, other code)"
        yield Block(title, CAPTION, ("method", "encoder", "epochs", "protocol", "top-1", "source"), lines)


def _result(row: Mapping[str, str], where: str) -> Result:
    """Return the result of a row, or raise BenchmarkError where a value is not plausible."""
    for name in ("dataset", "method", "source"):
        if not row[name].strip():
            raise BenchmarkError(f"{where}: {name} is empty. Every value needs a {name}.")
    for name, choices in (("protocol", tuple(PROTOCOLS)), ("metric", METRICS)):
        if row[name] not in choices:
            raise BenchmarkError(f"{where}: {name}: expected one of {', '.join(choices)}, got {row[name]!r}.")
    if not EPOCHS.fullmatch(row["epochs"]):
        raise BenchmarkError(
            f"{where}: epochs: expected '800', '20 of 800', '300-800' or nothing, got {row['epochs']!r}."
        )
    try:
        value = float(row["value"])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise BenchmarkError(f"{where}: value: expected a number from 0 to 100, got {row['value']!r}.")
    return Result(**{name: text for name, text in row.items() if name != "value"}, value=value)


def _family(encoder: str) -> str:
    """Return the letters that the name of an encoder starts with: "vit" of "vit_micro" and of "ViT-B/16"."""
    return "".join(takewhile(str.isalpha, encoder.lower()))
