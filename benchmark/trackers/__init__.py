"""Trackers, which show the numbers of runs to people: asked for by `--track`, off the clock, and no part of a run."""

from importlib.util import find_spec

from benchmark.errors import MissingError

TRACKERS = ("tensorboard", "wandb", "trackio")  # each the name of a package, an extra and a module here


def require(tracker: str | None) -> None:
    """Raise MissingError unless the package of a tracker is installed."""
    if tracker and find_spec(tracker) is None:
        raise MissingError(f"--track {tracker} needs {tracker}: pip install 'ssl-benchmark[{tracker}]'.")
