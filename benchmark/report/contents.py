"""What a board shows, in order: the ranking tables, and beside them what is not ranked."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmark.report import published
from benchmark.report.leaderboard import Section
from benchmark.report.published import Result
from benchmark.report.scaling import ladders
from benchmark.report.text import Block
from benchmark.report.time_to_target import targets
from benchmark.report.tuning import trials


def contents(board: Sequence[Section], results: Sequence[Result]) -> Iterator[Section | Block]:
    """Yield the tables of one board and the blocks that belong to them."""
    for _, of_dataset in groupby(board, key=lambda section: section.setting.dataset):
        alike = list(of_dataset)
        for section in alike:
            yield section
            yield from trials(section)
            yield from targets(section)
        yield from published.beside(alike, results)
    yield from ladders(board)
