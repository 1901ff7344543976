"""Time to target: how long an evaluation that trains takes until it is nearly as good as the best method of its table.

The target is fixed by a rule, so that nobody picks it afterwards. It is measured on the hold-out, because test images
are ranked only once, after the last epoch.
"""

import math
from collections.abc import Iterator
from statistics import fmean

from benchmark.report.fields import Metrics
from benchmark.report.section import Column, Line, Section, result
from benchmark.report.text import Block, data_of, percent

SHARE = 0.95  # of the best final accuracy
CAPTION = """\
Training until the hold-out accuracy is {target} %, {share:.0f} % of the best method's final accuracy: means over seeds,
and the ratio of epochs to the fewest. Seconds are proportional to epochs and compare only on the same hardware."""


def time_to_target(section: Section) -> Iterator[Block]:
    """Yield a table for each evaluation in which at least two methods have curves."""
    for column in section.columns:
        by_name = {line.name: results for line in section.lines if (results := _results(line, column))}
        if len(by_name) > 1:
            yield _block(section, column, by_name)


def _results(line: Line, column: Column) -> list[Metrics]:
    """Return the results of a method's runs in a column; none unless every run has a curve."""
    results = [metrics for run in line.cell.runs if (metrics := result(run, column)) and metrics["curve"]]
    return results if len(results) == len(line.cell.runs) and not line.is_beside else []


def _block(section: Section, column: Column, by_name: dict[str, list[Metrics]]) -> Block:
    finals = {name: fmean(each["curve"][-1] for each in results) for name, results in by_name.items()}
    target = SHARE * max(finals.values())
    epochs = {name: fmean(_first_epoch(each, target) for each in results) for name, results in by_name.items()}
    fewest = min(epochs.values())
    return Block(
        title=f"{data_of(section.setting)}, {section.setting.encoder}, {section.heading(column)}: time to target",
        caption=CAPTION.format(target=percent(target), share=100 * SHARE),
        headings=("method", "final hold-out", "epochs", "seconds", "ratio", "seeds"),
        lines=tuple(
            (
                name,
                percent(finals[name]),
                _number(epochs[name]) or "not reached",
                _number(epochs[name] * fmean(map(_seconds_per_epoch, by_name[name]))),
                _number(epochs[name] / fewest, 2),
                str(len(by_name[name])),
            )
            for name in sorted(by_name, key=lambda name: (epochs[name], name))
        ),
    )


def _first_epoch(metrics: Metrics, target: float) -> float:
    """Return the first epoch, from 1, that reaches the target; infinity where none does."""
    return next((epoch for epoch, top1 in enumerate(metrics["curve"], 1) if top1 >= target), math.inf)


def _seconds_per_epoch(metrics: Metrics) -> float:
    """Return NaN where the evaluation did not record the time."""
    details = metrics["details"]
    return details.get("seconds_to_99", math.nan) / details.get("epochs_to_99", math.nan)


def _number(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else ""
