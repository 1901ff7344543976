"""Accuracy against budget: does the method that leads at a small budget still lead at a large one?

Each score is that of a run whose learning rate schedule ends at the budget, never one from the middle of a longer run.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from benchmark.report.section import Line, Section
from benchmark.report.statistics import Summary
from benchmark.report.text import Block, amount, data_of, spread, terms

BUDGET_PARAMETERS = ("Budget.", "experiment.budget_share")  # bindings that set how much is spent
LEAST_BUDGETS = 3  # that a method needs for a line
CAPTION = """\
{heading} as mean ± half width, after whole schedules that end at the budget. Methods that are ranked at {least} budgets
or more, with one configuration at each; the best at the largest budget comes first."""


def scaling_tables(board: Sequence[Section]) -> Iterator[Block]:
    """Yield a table for each group of sections that differ only in the amount of their budget."""
    for sections in of_other_budgets(section for section in board if section.setting.budget):
        if sections[0].columns:
            yield from _block(sections)


def of_other_budgets(board: Iterable[Section]) -> list[list[Section]]:
    """Group sections that differ only in the amount of their budget and rank alike; the smallest budget first."""
    groups: dict[tuple[object, ...], list[Section]] = defaultdict(list)
    for section in board:
        groups[(*section.setting._replace(amount=0.0), section.columns[:1])].append(section)
    return [sorted(sections, key=lambda section: section.setting.amount) for sections in groups.values()]


def _block(sections: Sequence[Section]) -> Iterator[Block]:
    scores = [_scores(section) for section in sections]
    names = {name for name in set().union(*scores) if sum(name in by_name for by_name in scores) >= LEAST_BUDGETS}
    if not names:
        return
    columns = [
        (section.setting, by_name)
        for section, by_name in zip(sections, scores, strict=True)
        if not names.isdisjoint(by_name)
    ]

    def order(name: str) -> tuple[list[float], str]:
        return [-by_name[name].mean if name in by_name else 0.0 for _, by_name in reversed(columns)], name

    setting, column = sections[0].setting, sections[0].columns[0]
    yield Block(
        title=", ".join([data_of(setting), setting.encoder, "accuracy against budget", *terms(setting)]),
        caption=CAPTION.format(heading=sections[0].heading(column), least=LEAST_BUDGETS),
        headings=("method", *(amount(setting) for setting, _ in columns)),
        lines=tuple(
            (name, *(spread(by_name[name]) if name in by_name else "" for _, by_name in columns))
            for name in sorted(names, key=order)
        ),
    )


def _scores(section: Section) -> dict[str, Summary]:
    """Return the scores of the ranking evaluation by method, without methods that have several configurations."""
    summaries: dict[str, list[Summary]] = defaultdict(list)
    for line in section.lines:
        value = line.values[0]
        if line.rank is not None and value is not None:
            summaries[name_without_budget(line)].append(value.summary)
    return {name: of_method[0] for name, of_method in summaries.items() if len(of_method) == 1}


def name_without_budget(line: Line) -> str:
    """Return the method and what a sweep varied beside the budget."""
    varied = [binding for binding in line.cell.runs[0]["config"]["varied"] if not binding.startswith(BUDGET_PARAMETERS)]
    return f"{line.cell.method} ({', '.join(varied)})" if varied else line.cell.method
