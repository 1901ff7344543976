"""What those who start a process say to it in its environment.

A suite says how many runs it makes at once, this one among them; torchrun, how many processes make this run.
"""

import os

from benchmark.errors import ConfigError

ALL = "SSL_BENCHMARK_JOBS"
ON_DEVICE = "SSL_BENCHMARK_JOBS_ON_DEVICE"


def at_once() -> int:
    """Return how many runs the suite makes at once that started this process; 1 without a suite."""
    return int(os.environ.get(ALL, "1"))


def on_device() -> int:
    """Return how many of them share the device of this one: its GPU, or the processor where there is none."""
    return int(os.environ.get(ON_DEVICE, "1"))


def processes() -> int:
    """Return how many processes torchrun started, this one among them; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def require_one_process(what: str) -> None:
    """Raise ConfigError if torchrun started several processes, each of which would do the same."""
    if processes() > 1:
        raise ConfigError(
            f"torchrun started {processes()} processes, and {what} is done by one: give the command without torchrun."
        )
