"""How many runs a suite makes at once, this one among them: it says so to each in the environment."""

import os

ALL = "SSL_BENCHMARK_JOBS"
ON_DEVICE = "SSL_BENCHMARK_JOBS_ON_DEVICE"


def at_once() -> int:
    """Return how many runs the suite makes at once that started this process; 1 without a suite."""
    return int(os.environ.get(ALL, "1"))


def on_device() -> int:
    """Return how many of them share the device of this one: its GPU, or the processor where there is none."""
    return int(os.environ.get(ON_DEVICE, "1"))
