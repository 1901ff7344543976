"""Names of lines: the method, what was varied, and what else tells two lines of a table apart."""

from collections.abc import Sequence

from benchmark.report.cells import Cell, by_age
from benchmark.report.identity import canonical

MOST_BINDINGS = 3  # in the name of a line


def names(cells: Sequence[Cell]) -> list[str]:
    """Return the names of lines: the method, what was varied, and what else differs where that is not unique."""
    texts = []
    for cell in cells:
        others = [other for other in cells if (other.method, other.varied) == (cell.method, cell.varied)]
        details = ", ".join(filter(None, [cell.varied, _differences(cell, others) if len(others) > 1 else ""]))
        texts.append(f"{cell.method} ({details})" if details else cell.method)
    return texts


def dated(cell: Cell) -> str:
    """Return the name of an earlier line: the method, what was varied, and the day of its newest run."""
    day = by_age(cell.runs)[-1]["created_utc"][:10]
    return f"{cell.method} ({', '.join(filter(None, [cell.varied, day]))})"


def _differences(cell: Cell, others: Sequence[Cell]) -> str:
    """Return the bindings in which a configuration differs from others, or its key where these say too little."""
    texts = [canonical(other.runs[0]["config"]["text"]) for other in others]
    counting = sorted(set().union(*(text.counting for text in texts)))
    differing = [name for name in counting if len({text.lines.get(name) for text in texts}) > 1]
    bindings = [[f"{name} = {text.lines[name]}" for name in differing if name in text.lines] for text in texts]
    of_cell = bindings[others.index(cell)]
    is_clear = bindings.count(of_cell) == 1 and len(differing) <= MOST_BINDINGS
    return ", ".join(of_cell) if is_clear else cell.key[:8]
