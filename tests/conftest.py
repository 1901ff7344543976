"""One thread for all tests: their tensors are tiny, and on a busy machine two threads wait for each other."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the commands that tests start


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run from the root on one thread, as by a command; leave torch as it was."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(Path(__file__).parents[1])
    yield
    torch.use_deterministic_algorithms(False)
