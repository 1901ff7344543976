"""What a board shows, in order: the ranking tables, and between them the tables that are not ranked."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmark.report.leaderboard import Section
from benchmark.report.published import Result, published_table
from benchmark.report.scaling import scaling_tables
from benchmark.report.text import Block
from benchmark.report.time_to_target import time_to_target
from benchmark.report.tuning import trials_table


def contents(board: Sequence[Section], results: Sequence[Result]) -> Iterator[Section | Block]:
    """Yield the ranking tables of one board, each followed by the blocks that belong to it."""
    for _, of_dataset in groupby(board, key=lambda section: section.setting.dataset):
        alike = list(of_dataset)
        for section in alike:
            yield section
            yield from trials_table(section)
            yield from time_to_target(section)
        yield from published_table(alike, results)
    yield from scaling_tables(board)
