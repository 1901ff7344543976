"""Figures of a finished run: what is looked at (scene), what is drawn (figures) and how it is laid out (layout)."""

from benchmark.errors import MissingError

try:
    import matplotlib  # noqa: F401
except ImportError as problem:
    raise MissingError(
        f"Figures are drawn by matplotlib, which cannot be imported: {problem}. pip install 'ssl-benchmark[plots]'"
    ) from problem
