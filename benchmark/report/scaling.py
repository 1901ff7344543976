"""Accuracy against budget: does a method that leads at a small budget still lead at a large one?

Each value is of a run whose schedule ends at its budget; the accuracy in the middle of a longer run is another thing.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from benchmark.report.cells import Setting
from benchmark.report.leaderboard import Line, Section
from benchmark.report.statistics import Summary
from benchmark.report.text import Block, amount, spread

BUDGETS = ("Budget.", "experiment.budget_share")  # bindings that say how much is spent
RUNGS = 3  # budgets from which on a method has a line
CAPTION = """\
{heading} as mean ± half width, after whole schedules that end at the budget. Methods that are ranked at {rungs} budgets
or more, with one configuration at each; the best at the largest budget first."""


def ladders(board: Sequence[Section]) -> Iterator[Block]:
    """Yield a table for each group of tables on a board that differ in the amount of the budget alone."""
    groups: dict[tuple[object, ...], list[Section]] = defaultdict(list)
    for section in board:
        if section.columns and section.setting.budget:
            groups[(*section.setting._replace(amount=0.0), section.columns[0])].append(section)
    for sections in groups.values():
        if block := _ladder(sections):
            yield block


def _ladder(sections: Sequence[Section]) -> Block | None:
    by_amount = sorted(sections, key=lambda section: section.setting.amount)
    scores = [_scores(section) for section in by_amount]
    names = {name for name in set().union(*scores) if sum(name in rung for rung in scores) >= RUNGS}
    if not names:
        return None
    shown = [(section.setting, rung) for section, rung in zip(by_amount, scores, strict=True) if names & set(rung)]

    def order(name: str) -> tuple[list[float], str]:
        return [-rung[name].mean if name in rung else 0.0 for _, rung in reversed(shown)], name

    setting, column = sections[0].setting, sections[0].columns[0]
    return Block(
        title=f"{setting.dataset}, {setting.encoder}, accuracy against budget{_terms(setting)}",
        caption=CAPTION.format(heading=column.heading, rungs=RUNGS),
        alignment="l" + "r" * len(shown),
        headings=("method", *(amount(setting) for setting, _ in shown)),
        lines=tuple(
            (name, *(spread(rung[name]) if name in rung else "" for _, rung in shown))
            for name in sorted(names, key=order)
        ),
    )


def _scores(section: Section) -> dict[str, Summary]:
    """Return the ranking column by method, without methods that are there in several configurations."""
    found: dict[str, list[Summary]] = defaultdict(list)
    for line in section.lines:
        value = line.values[0]
        if line.rank is not None and value is not None:
            found[_name(line)].append(value.summary)
    return {name: summaries[0] for name, summaries in found.items() if len(summaries) == 1}


def _name(line: Line) -> str:
    """Return the method and what was varied beside the budget, which is how a sweep makes a ladder."""
    varied = [binding for binding in line.cell.runs[0]["config"]["varied"] if not binding.startswith(BUDGETS)]
    return f"{line.cell.method} ({', '.join(varied)})" if varied else line.cell.method


def _terms(setting: Setting) -> str:
    division = "" if setting.division == "closed" else f"{setting.division} division"
    return "".join(f", {part}" for part in (setting.precision, division) if part)
