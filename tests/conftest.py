"""One thread for all tests: their tensors are tiny, and on a busy machine two threads wait for each other.

They keep decoded images apart from the user's.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmark.runtime.collector import uncollected

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the commands that tests start
LONGEST = (
    *("test_run", "test_boards_launcher", "test_own_views", "test_plots", "test_timing", "test_flops"),
    *("test_experiment_teacher", "test_experiment_start", "test_experiment_export", "test_storage_files", "test_ranks"),
    *("test_experiment_evaluate", "test_experiment_session", "test_outside_files", "test_battery", "test_gin_files"),
)
"""The files that take longest. They come first, so that no process waits in the end for another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {stem: place for place, stem in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


IMPORTS = ExitStack()
IMPORTS.enter_context(uncollected())


def pytest_collection_finish() -> None:
    """Leave what all files of tests have imported out of all later collections."""
    IMPORTS.close()


def pytest_unconfigure() -> None:
    """Do so also where no test was collected, as in the process that hands them out."""
    IMPORTS.close()


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def no_other_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read no other data and leave nothing in the user's cache."""
    import datasets

    monkeypatch.delenv("SSL_BENCHMARK_DATA", raising=False)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of a file of tests, which share the floors in it."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run from the root on one thread, as by a command; leave torch as it was."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(Path(__file__).parents[1])
    yield
    torch.use_deterministic_algorithms(False)
