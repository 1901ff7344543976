"""The peak of memory is that of training, not of what came before it."""

import sys

import numpy as np
import pytest
import torch

from benchmark.experiment.environment import keep_freed_memory
from benchmark.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have the peak of the whole process alone")
def test_what_was_held_before_does_not_count() -> None:
    """Oracle: 256 MiB that glibc keeps when they are freed, before the peak is reset, and 128 MiB after it."""
    keep_freed_memory()
    reset_peak(CPU)
    start = peak_bytes(CPU)
    blocks = [np.ones(MIB, dtype=np.uint8) for _ in range(256)]
    assert peak_bytes(CPU) - start >= 0.75 * 256 * MIB  # some of them fill what malloc_trim could not return
    del blocks
    reset_peak(CPU)
    start = peak_bytes(CPU)
    block = np.ones(128 * MIB, dtype=np.uint8)  # too large for pages that were freed and kept
    assert 0.9 * 128 * MIB <= peak_bytes(CPU) - start <= 1.1 * 128 * MIB
    del block
