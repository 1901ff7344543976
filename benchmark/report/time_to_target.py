"""Time to target: how long an evaluation that trains takes until it is nearly as good as the best method of its table.

The target is fixed by rule, so that nobody picks it after the fact, and is looked for on the hold-out: test images are
ranked once, after the last epoch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.report.fields import Metrics
from benchmark.report.leaderboard import Column, Line, Section, result
from benchmark.report.text import Block, percent

SHARE = 0.95  # of the best final accuracy
CAPTION = """\
Training until the hold-out accuracy is {target} %, {share:.0f} % of what the best method ends with: means over seeds,
and the ratio of epochs to the fewest. Seconds are in proportion to epochs and compare on one kind of hardware alone."""


@dataclass(frozen=True)
class _Climber:
    """A method and the results of its runs, which all have a curve."""

    name: str
    results: tuple[Metrics, ...]

    @property
    def final(self) -> float:
        return fmean(found["curve"][-1] for found in self.results)

    def epochs(self, target: float) -> float:
        """Return the mean first epoch, from 1, at the target; infinity where a run does not reach it."""
        return fmean(
            next((epoch for epoch, top1 in enumerate(found["curve"], 1) if top1 >= target), math.inf)
            for found in self.results
        )

    @property
    def pace(self) -> float:
        """The mean seconds of an epoch; not a number where an evaluation did not note them."""
        return fmean(
            found["details"].get("seconds_to_99", math.nan) / found["details"].get("epochs_to_99", math.nan)
            for found in self.results
        )


def targets(section: Section) -> Iterator[Block]:
    """Yield a table for each evaluation of which at least two methods have curves."""
    for column in section.columns:
        climbers = [_Climber(line.name, found) for line in section.lines if (found := _results(line, column))]
        if len(climbers) > 1:
            yield _block(section, column, climbers)


def _results(line: Line, column: Column) -> tuple[Metrics, ...]:
    """Return the results of a method's runs in a column, none unless every run has a curve."""
    found = tuple(known for run in line.cell.runs if (known := result(run, column)) and known["curve"])
    return found if len(found) == len(line.cell.runs) and not line.is_floor else ()


def _block(section: Section, column: Column, climbers: Sequence[_Climber]) -> Block:
    target = SHARE * max(climber.final for climber in climbers)
    epochs = {climber.name: climber.epochs(target) for climber in climbers}
    fewest = min(epochs.values())
    return Block(
        title=f"{section.setting.dataset}, {section.setting.encoder}, {column.heading}: time to target",
        caption=CAPTION.format(target=percent(target), share=100 * SHARE),
        alignment="lrrrrr",
        headings=("method", "final hold-out", "epochs", "seconds", "ratio", "seeds"),
        lines=tuple(
            (
                climber.name,
                percent(climber.final),
                _number(epochs[climber.name]) or "not reached",
                _number(epochs[climber.name] * climber.pace),
                _number(epochs[climber.name] / fewest, 2),
                str(len(climber.results)),
            )
            for climber in sorted(climbers, key=lambda climber: (epochs[climber.name], climber.name))
        ),
    )


def _number(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else ""
