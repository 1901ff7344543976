"""The curve that learning rates and momenta share."""

import math


def half_cosine(done: float, total: float = 1.0) -> float:
    """Return the fall from 1 at `done` = 0 to 0 at `done` = `total`: (1 + cos(pi * done / total)) / 2."""
    return 0.5 * (1 + math.cos(math.pi * done / total))
