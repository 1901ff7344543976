"""Parts of pages: numbers as tables print them, Markdown tables, and generated parts of hand-written pages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.errors import ConfigError
from benchmark.report.cells import Setting
from benchmark.report.statistics import Summary

TERA = 1e12
WORDS = ("method", "encoder", "protocol", "source", "notes")  # headings of columns that are aligned to the left


def amount(setting: Setting) -> str:
    """Return the budget of a setting in the unit of its kind."""
    if setting.budget == "flops":
        unit, divisor = flops_unit([setting.amount])
        return f"{_short(setting.amount / divisor)} {unit}"
    if setting.budget:
        return f"{_short(setting.amount)} {'images' if setting.budget == 'samples' else 'device seconds'}"
    return "unknown budgets"


def _short(number: float) -> str:
    """Return a number with at most two decimals."""
    return f"{number:,.2f}".removesuffix("0").removesuffix(".0")


def terms(setting: Setting) -> list[str]:
    """Return the precision and the division of a setting for a title."""
    return [part for part in (setting.precision, f"{setting.division} division") if part]


def data_of(setting: Setting) -> str:
    """Return the name of a setting's data, and on which its encoders were pretrained where that is other data."""
    if not setting.origin:
        return setting.dataset
    version = f" ({setting.origin_fingerprint[:8]})" if setting.origin == setting.dataset else ""
    return f"{setting.dataset}, pretrained on {setting.origin}{version}"


def flops_unit(amounts: Iterable[float]) -> tuple[str, float]:
    """Return the unit in which the largest amount is at least 1, and its size in FLOPs."""
    largest = max(amounts)
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", TERA)):
        if largest >= size:
            return f"{prefix}FLOPs", size
    return "GFLOPs", 1e9


def percent(fraction: float | None) -> str:
    """Return a fraction in % with two decimals, nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.2f}"


def spread(summary: Summary) -> str:
    """Return mean ± half width in %, or the mean of a single seed."""
    if summary.half_width is None:
        return f"{percent(summary.mean)} (1 seed)"
    return f"{percent(summary.mean)} ± {percent(summary.half_width)}"


def printable(text: str) -> str:
    """Replace control characters, line ends and marks of writing direction by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


@dataclass(frozen=True)
class Block:
    """A table that is not ranked: its title, a caption that says how to read it, and its cells as plain text."""

    title: str
    caption: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def alignment(headings: Iterable[str]) -> str:
    """Return "l" for each column of words and "r" for each column of numbers."""
    return "".join("l" if heading in WORDS else "r" for heading in headings)


def markdown(headings: Sequence[str], alignment: str, lines: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are already Markdown; `alignment` has "l" or "r" for each column.

    Cells are not padded: tabulate's padding depends on its version, and the same records must give the same bytes.
    """
    ruler = [{"l": ":--", "r": "--:"}[side] for side in alignment]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ruler, *lines])


def marks(name: str, command: str) -> tuple[str, str]:
    """Return the two lines between which a command writes its text."""
    return f"<!-- {name}: written by {command} -->", f"<!-- end of {name} -->"


def inserted(page: str, name: str, command: str, text: str) -> str:
    """Return the page with the text between its marks.

    Raises:
        ConfigError: the page does not have both marks, in order.
    """
    begin, end = marks(name, command)
    before, _, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not closing:
        raise ConfigError(f"The page has no place for the {name}: expected the lines {begin} and {end}.")
    return f"{before}{begin}\n{text}\n{end}{after}"
