"""What boards show, whatever the format: their tables in order, and the cells of a ranking table."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import median

from benchmark.report.leaderboard import Column, Line, Section, Value
from benchmark.report.orders import other_rules
from benchmark.report.published import Result, published_table
from benchmark.report.record import Record
from benchmark.report.scaling import scaling_tables
from benchmark.report.text import Block, amount, flops_unit, terms
from benchmark.report.time_to_target import time_to_target
from benchmark.report.tuning import trials_table

UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))


def contents(board: Sequence[Section], results: Sequence[Result]) -> Iterator[Section | Block]:
    """Yield the ranking tables of one board, each followed by the blocks that belong to it."""
    for _, of_dataset in groupby(board, key=lambda section: section.setting.dataset):
        alike = list(of_dataset)
        for section in alike:
            yield section
            yield from trials_table(section)
            yield from time_to_target(section)
        yield from other_rules(alike)
        yield from published_table(alike, results)
    yield from scaling_tables(board)


def title(section: Section) -> str:
    """Return what the lines of a table share, in a few words."""
    setting = section.setting
    times = [f"about {typical_time(section.runs)}"] if setting.budget in ("flops", "samples") else []
    return ", ".join([setting.dataset, setting.encoder, amount(setting), *times, *terms(setting)])


def typical_time(runs: Sequence[Record]) -> str:
    """Return the median device time of the runs on the commonest hardware, a core or a GPU."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        gpu, cost = run["environment"]["gpu"], run["cost"]
        count = cost["devices"] if gpu else run["environment"]["threads"]
        seconds[gpu or f"{run['environment']['processor']} core"].append(cost["train_seconds"] * count)
    kind = min(seconds, key=lambda kind: (-len(seconds[kind]), kind))
    time = median(seconds[kind])
    unit, size = next((unit, size) for unit, size in UNITS if time >= 2 * size or size == 1)
    return f"{float(f'{time / size:.2g}'):g} {unit} of one {kind}"


def table(
    section: Section,
    name: Callable[[Line], str],
    value: Callable[[Line, Column, Value | None], str],
    shown: Sequence[Line] | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and lines of a section; `name` and `value` mark up names of lines and scores.

    `shown` are the lines, by default those of the section.
    """
    unit, divisor = flops_unit(run["cost"]["flops"] for run in section.runs)
    is_tuned = section.setting.division == "tuned"
    headings = ["rank", "method", *["LR x"] * is_tuned, *map(section.heading, section.columns)]
    headings += ["images", "epochs", unit, "device minutes", "peak GiB", "seeds", "notes"]
    lines = []
    for line in section.lines if shown is None else shown:
        factor = "" if line.rate_factor is None else f"{line.rate_factor:g}"
        scores = [value(line, *score) for score in zip(section.columns, line.values, strict=True)]
        start = [line.place, name(line), *[factor] * is_tuned]
        lines.append([*start, *scores, *_costs(line, divisor), str(len(line.cell.runs)), _notes(line)])
    return headings, lines


def _notes(line: Line) -> str:
    """Return which runs of a line did not end well, and what has changed in the code since."""
    stale = [f"stale ({', '.join(line.stale)})"] if line.stale else []
    return ", ".join([*(f"{count} {status}" for status, count in line.endings.items()), *stale])


def _costs(line: Line, divisor: float) -> list[str]:
    """Return images, epochs, FLOPs in units of the divisor, device minutes and peak GiB, empty for a floor."""
    cost = line.cost
    if line.is_floor:
        return [""] * 5
    return [
        f"{cost.images:,.0f}",
        f"{cost.epochs:,.1f}",
        f"{cost.flops / divisor:.2f}",
        f"{cost.device_seconds / 60:,.1f}",
        "n/a" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**30:.2f}",
    ]
