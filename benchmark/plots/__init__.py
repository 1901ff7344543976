"""Figures of a finished run: its images and features (scene), what is drawn (figures), and its layout (layout)."""

from benchmark.errors import MissingError

try:
    import matplotlib  # noqa: F401
except ImportError as problem:
    raise MissingError(
        f"Figures are drawn by matplotlib, which cannot be imported: {problem}. pip install 'ssl-benchmark[plots]'"
    ) from problem
