"""What opens at a score: the runs of a line, seed by seed, and all that their records say of how they were made."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from benchmark.page.plot import joules
from benchmark.report.cells import hardware, tuning_of, versions_of
from benchmark.report.contents import title
from benchmark.report.identity import canonical
from benchmark.report.record import Record, pretrained
from benchmark.report.section import Column, Line, Section, columns_of, ranking_score, result
from benchmark.report.text import percent
from benchmark.report.tuning import factor, score

CURVE = (220, 64)  # pixels
MOST_CLASSES = 20  # of which all counts are shown
LARGEST = 10  # counts shown of more classes
Confused = Callable[[Record, str], Counter[tuple[int, int]] | None]
"""Counts the test images of a run by their class and the class that an evaluation predicts; None where unknown."""


@dataclass(frozen=True)
class Seed:
    """One run: its scores by column, how it ended, and whether its command can repeat it."""

    record: Record
    scores: tuple[str, ...]
    status: str
    is_repeatable: bool


@dataclass(frozen=True)
class Curve:
    """Accuracy during pretraining: a path for each run, and the ends of the axis."""

    paths: tuple[str, ...]
    low: str
    high: str


@dataclass(frozen=True)
class Confusion:
    """Test images by their class (`rows`) and the class predicted, of several runs together.

    Of many classes there are only the `largest` confusions: class, class predicted, images, and their share in %.
    """

    heading: str
    runs: int
    rows: tuple[tuple[int, ...], ...]
    largest: tuple[tuple[int, int, int, str], ...]


@dataclass(frozen=True)
class Panel:
    """The records of a line; `bindings` are those in which it differs from others of its table."""

    key: str
    table: str
    line: Line
    headings: tuple[str, ...]
    seeds: tuple[Seed, ...]
    bindings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    curve: Curve | None
    confusion: Confusion | None
    trials: tuple[tuple[str, Record], ...]


def key_of(line: Line) -> str:
    """Return the name of a panel in links: the first run of the line; floors of several tables share one by count."""
    first = line.cell.runs[0]["id"][:8]
    return f"{first}-{len(line.cell.runs)}" if line.is_floor else first


def shared_bindings(section: Section) -> dict[str, str]:
    """Return the bindings that all methods of a table have, but for those that equal their default."""
    lines = [_identity(line) for line in section.lines if not line.is_floor]
    return reduce(lambda shared, line: dict(shared.items() & line.items()), lines)


def panel(
    section: Section, line: Line, shared: Mapping[str, str], by_id: Mapping[str, Record], confused: Confused
) -> Panel:
    """Return the panel of a line of a section."""
    runs = line.cell.runs
    columns = columns_of(runs)
    differing = {} if line.is_floor else dict(sorted(_identity(line).items() - shared.items()))
    tuning = tuning_of(runs[0])
    trials = [by_id[identity] for identity in tuning["trials"] if identity in by_id] if tuning else []
    flagged = zip(section.columns, line.values, strict=True)
    return Panel(
        key=key_of(line),
        table=title(section),
        line=line,
        headings=tuple(map(section.heading, columns)),
        seeds=tuple(
            Seed(
                record=run,
                scores=tuple(
                    percent(metrics and ranking_score(metrics)) for metrics in (result(run, each) for each in columns)
                ),
                status=", ".join(_endings(run)),
                is_repeatable=pretrained(run) and run["training"]["digest"] is not None,
            )
            for run in runs
        ),
        bindings=tuple(f"{name} = {value}" for name, value in differing.items()),
        facts=tuple((name, text) for name, text in _facts(line) if text),
        warnings=tuple(
            f"{section.heading(column)}: {flag}" for column, value in flagged if value for flag in value.flags
        ),
        curve=_curve(runs),
        confusion=_confusion(section, columns, runs, confused),
        trials=tuple((f"{factor(trial):g} times: {percent(score(trial))}", trial) for trial in trials),
    )


def linked(panels: Iterable[Panel]) -> set[str]:
    """Return the ids of all records to which panels link."""
    ids: set[str] = set()
    for each in panels:
        ids |= {seed.record["id"] for seed in each.seeds} | {trial["id"] for _, trial in each.trials}
        ids |= {run["id"] for run in each.line.cell.superseded}
    return ids


def _identity(line: Line) -> dict[str, str]:
    return canonical(line.cell.runs[0]["config"]["text"]).identity


def _endings(run: Record) -> list[str]:
    collapsed = ["collapsed"] if run["training"]["collapsed"] else []
    return [*([run["status"].replace("_", " ")] if run["status"] != "ok" else []), *collapsed]


def _facts(line: Line) -> list[tuple[str, str]]:
    """Return where and by which code and libraries the runs were made, each value once, and what they cost."""
    runs = line.cell.runs
    energy = joules(line)

    def each(texts: Iterable[str | None]) -> str:
        return "; ".join(dict.fromkeys(filter(None, texts)))

    return [
        ("commit", each(_commit(run) for run in runs)),
        ("versions", each(_versions(run) for run in runs)),
        ("hardware", each(hardware(run) for run in runs)),
        ("libraries", each("Python {python}, torch {torch}".format(**run["environment"]) for run in runs)),
        ("made", each(run["created_utc"][:10] for run in runs)),
        ("energy", f"{energy / 1000:,.1f} kJ" if energy else ""),
        ("learning rate", "" if line.rate_factor is None else f"{line.rate_factor:g} times the recipe's"),
        ("stale", ", ".join(line.stale)),
        ("to measure it again", "each run of this table measures its floors: repeat one" if line.is_floor else ""),
    ]


def _commit(run: Record) -> str:
    code = run["code"]
    changes = " with changes" if code["dirty"] else ""
    return f"{code['commit']}{changes}" if code["commit"] else f"version {code['version']}"


def _versions(run: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions_of(run).items() if version != "1.0")


def _curve(runs: Sequence[Record]) -> Curve | None:
    """Return the paths of kNN accuracy over the steps of a run; None where no run has a curve."""
    curves = [[(point["step"], point["knn"]) for point in run["training"]["curve"]["points"]]
              for run in runs if "curve" in run["training"]]  # fmt: skip
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    values = [knn for curve in curves for _, knn in curve]
    low, high, last = min(values), max(values), max(curve[-1][0] for curve in curves)
    width, height = CURVE

    def place(step: int, knn: float) -> str:
        return f"{round(width * step / max(last, 1))} {round(height * (1 - (knn - low) / max(high - low, 1e-9)))}"

    return Curve(
        tuple("M" + "L".join(place(*point) for point in curve) for curve in curves), percent(low), percent(high)
    )


def _confusion(
    section: Section, columns: Sequence[Column], runs: Sequence[Record], confused: Confused
) -> Confusion | None:
    """Return the confusions of the first evaluation of which predictions are published."""
    for column in columns:
        counted = [counts for run in runs if (counts := confused(run, column.evaluation)) is not None]
        if counted:
            break
    else:
        return None
    counts, classes = sum(counted, Counter[tuple[int, int]]()), range(runs[0]["dataset"]["classes"])
    if len(classes) <= MOST_CLASSES:
        rows = tuple(tuple(counts[label, predicted] for predicted in classes) for label in classes)
        return Confusion(section.heading(column), len(counted), rows, ())
    images: Counter[int] = Counter()
    for (label, _), count in counts.items():
        images[label] += count
    wrong = sorted((-count, label, predicted) for (label, predicted), count in counts.items() if label != predicted)
    largest = tuple(
        (label, predicted, -count, percent(-count / images[label])) for count, label, predicted in wrong[:LARGEST]
    )
    return Confusion(section.heading(column), len(counted), (), largest)
