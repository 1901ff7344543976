"""Methods beside those that they build on: by how many points they differ, with an interval.

Which methods these are follows from the configurations of the runs, so that a new method needs no entry here.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.report.cells import files_outside, versions_of
from benchmark.report.code import with_bases
from benchmark.report.identity import canonical, references
from benchmark.report.record import Record
from benchmark.report.section import Column, Line, Section, ranking_score, result
from benchmark.report.statistics import Z95, half_width_by_images, summarise

METHOD = "Pretraining.method"
Correct = Callable[[Record, str], Collection[Any] | None]
"""Returns for each test image whether an evaluation of a run got it right, None where no predictions are published."""


@dataclass(frozen=True)
class Difference:
    """How far a line is above another one in the ranking evaluation, in points, with its 95 % interval.

    `seeds` counts those that both have, `basis` says what the interval is made of.
    """

    line: str
    base: str
    points: float
    low: float
    high: float
    seeds: int
    basis: str

    def __str__(self) -> str:
        side = "below" if self.points < 0 else "above"
        low, high = (-self.high, -self.low) if side == "below" else (self.low, self.high)
        return (
            f"{self.line} is {abs(self.points):.1f} points {side} {self.base} "
            f"(95 % interval {low:.1f} to {high:.1f}, {self.basis})"
        )


def unpublished(record: Record, evaluation: str) -> None:
    """Say of every run that it has no published predictions."""


def differences(section: Section, correct: Correct = unpublished) -> Iterator[Difference]:
    """Yield the ranked lines of a table beside their bases, in the order of the table.

    Of several lines of a base, the one with the same varied bindings is taken; none where that is not one line.
    A line of which a run lacks the ranking evaluation is not ranked, and has no difference.
    """
    ranked = [line for line in section.lines if line.rank is not None]
    for line in ranked:
        for name in dict.fromkeys(base.cell.method for base in ranked if _builds_on(section, line, base)):
            of_base = [base for base in ranked if base.cell.method == name]
            alike = [base for base in of_base if base.cell.varied == line.cell.varied] or of_base
            if len(alike) == 1 and (difference := _difference(line, alike[0], section.columns[0], correct)):
                yield difference


def introduction(section: Section, lines: Sequence[Difference]) -> str:
    """Return what stands above the differences of a table."""
    intervals = "from the differences by seed"
    if any(each.seeds == 1 for each in lines):
        intervals += "; with one seed from the test images alone, which leaves out the spread over seeds"
    heading = section.heading(section.columns[0])
    return f"Methods beside those that they build on ({heading}). Each interval stands alone, and is {intervals}."


def _builds_on(section: Section, line: Line, base: Line) -> bool:
    """Return whether a method has another one as its teacher, contains or extends its class, or has all its parts.

    The parts are then fewer than its own. A method outside this project is not imported here: its record names the
    classes that it extends or contains, and those of a teacher, so that with one nothing is known.
    """
    lines, lines_of_base = (canonical(section.text_of(each)).lines for each in (line, base))
    (kind, parts), (kind_of_base, parts_of_base) = _parts(lines), _parts(lines_of_base)
    if not (kind and kind_of_base) or line.cell.method == base.cell.method:
        return False
    teachers = [lines.get(f"{name}.name") for name in references(lines, ["experiment.teacher"])]
    has_its_parts = bool(parts_of_base) and parts_of_base < parts
    run = line.cell.runs[0]
    of_outside = versions_of(run).keys() if files_outside(run) and not teachers else ()
    extends = kind.rpartition(".")[2] != kind_of_base and kind_of_base in (*with_bases(kind), *of_outside)
    return kind_of_base in parts or has_its_parts or extends or repr(base.cell.method) in teachers


def _parts(lines: Mapping[str, str]) -> tuple[str, set[str]]:
    """Return the class of a method, and what the configuration gives it as parts; "" where nothing was pretrained."""
    names = {name.rpartition("/")[2] for name in references(lines, [METHOD])}
    kind = lines.get(METHOD, "").removeprefix("@").rpartition("/")[2]
    return kind, names - {kind}


def _difference(line: Line, base: Line, column: Column, correct: Correct) -> Difference | None:
    """Compare over the seeds that both lines have or, where that is one, over the test images; None without any.

    A mean average precision is no mean over test images, so that one seed says nothing of its error.
    """
    runs, of_base = ({run["seed"]: run for run in each.cell.runs} for each in (line, base))
    pairs = [(runs[seed], of_base[seed]) for seed in sorted(runs.keys() & of_base.keys())]
    if not pairs:
        return None
    results = [(result(run, column), result(other, column)) for run, other in pairs]
    gaps = [ranking_score(metrics) - ranking_score(of_other) for metrics, of_other in results if metrics and of_other]
    summary = summarise(gaps)
    if summary.half_width is None and not column.measure:
        return None
    if summary.half_width is None:
        half_width, basis = _by_images(*pairs[0], column, correct)
    else:
        half_width, basis = summary.half_width, f"{len(pairs)} seeds paired"
    low, high = summary.mean - half_width, summary.mean + half_width
    return Difference(line.name, base.name, 100 * summary.mean, 100 * low, 100 * high, len(pairs), basis)


def _by_images(run: Record, base: Record, column: Column, correct: Correct) -> tuple[float, str]:
    """Return the wider half of the interval of a difference over the test images, and what it is made of.

    Of n images, b are right in the run alone and c in the base alone. Where these are known, the interval is that of
    pairs (Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37: 479-488), which holds for few
    images and where b or c is 0:

        p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)), with p = (b + 1) / (n + 2) and q = (c + 1) / (n + 2)
    """
    metrics, of_base = result(run, column), result(base, column)
    assert metrics
    assert of_base
    rights = [correct(each, column.evaluation) for each in (run, base)]
    n = metrics["n"]
    if rights[0] is not None and rights[1] is not None and len(rights[0]) == len(rights[1]) == n:
        pairs = Counter((bool(first), bool(second)) for first, second in zip(*rights, strict=True))
        b, c = pairs[True, False], pairs[False, True]
        p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
        half_width = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
        return half_width + abs((b - c) / n - (p - q)), "1 seed, paired by test images"
    accuracies = ((each["top1"], each["n"]) for each in (metrics, of_base))
    return half_width_by_images(*accuracies), "1 seed, test images not paired"
