"""A table beside the ranking ones, as plain text that every format can print, and any table as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Title, a paragraph that says how to read it, and a table; `alignment` has "l" or "r" for each column."""

    title: str
    caption: str
    alignment: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def markdown(headings: Sequence[str], alignment: str, lines: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already; `alignment` has "l" or "r" for each column."""
    ruler = [{"l": ":--", "r": "--:"}[side] for side in alignment]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ruler, *lines])
