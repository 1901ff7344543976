"""Colours and shapes of methods and classes, the same on the page of results, in its plots and in figures.

Ten colours that readers with any of the three kinds of colour blindness can tell apart, with a contrast of at least 3
to the background: one set for light pages, one for dark pages. Each colour has a shape, so none must be told by colour.
"""

from collections.abc import Iterable
from typing import NamedTuple

COLOURS = ("#10588b", "#ff4700", "#07964a", "#653d4b", "#979381", "#1e1c2f", "#71a129", "#7174f8", "#491a8b", "#b674a8")
ON_DARK = ("#607fdb", "#df4c37", "#17b76c", "#996b99", "#efdcb7", "#e9ffff", "#a6ca30", "#9ec5ff", "#8b4af8", "#e19fb8")
MARKERS = "osD^vP*X<>"  # by their names in matplotlib


class Style(NamedTuple):
    """The place of a method's colour in `COLOURS` and of its shape in `MARKERS`."""

    colour: int
    marker: int


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name: the first ten differ in colour and shape, a hundred in one of both."""
    distinct = list(dict.fromkeys(names))
    count = len(COLOURS)
    return {name: Style(i % count, (i + i // count) % count) for i, name in enumerate(distinct)}
