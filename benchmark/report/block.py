"""A table beside the ranking ones, as plain text that every format can print."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """Title, a paragraph that says how to read it, and a table; `alignment` has "l" or "r" for each column."""

    title: str
    caption: str
    alignment: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
