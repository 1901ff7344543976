"""Imports without the garbage collector."""

import gc
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from benchmark.config.load import load
from benchmark.runtime.collector import uncollected

MANY = 10_000


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The beginnings of collections, as Python reports them, before torch is imported."""
    monkeypatch.delitem(sys.modules, "torch")
    phases: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        phases.append(phase)

    gc.callbacks.append(note)
    yield phases
    gc.callbacks.remove(note)
    gc.unfreeze()


def test_nothing_is_collected_within_and_what_is_there_stays_out(collections: list[str]) -> None:
    """Oracle: Python's own reports of collections, and its count of the objects that it leaves out."""
    made = [[number] for number in range(MANY)]
    assert collections
    with uncollected():
        gc.unfreeze()
        collections.clear()
        made += [[number] for number in range(MANY)]
        assert not collections
    assert gc.isenabled()
    assert gc.get_freeze_count() >= 2 * MANY


def test_an_import_that_fails_freezes_nothing(collections: list[str]) -> None:
    gc.unfreeze()
    with suppress(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_collector_that_is_off_stays_off(collections: list[str]) -> None:
    gc.disable()
    try:
        gc.unfreeze()
        with uncollected():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_session_that_has_torch_keeps_no_garbage() -> None:
    assert torch.__name__ in sys.modules
    gc.unfreeze()
    load(["gin/simclr.gin"])
    assert gc.get_freeze_count() == 0
