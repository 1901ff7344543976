"""The meter of energy, on a stand-in for the GPU's library."""

import sys
from types import SimpleNamespace

import pytest
import torch

from benchmark.training import energy

GPU = torch.device("cuda")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A library with one GPU that has taken 5,250 mJ."""
    pynvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-1a2b": "handle"}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption={"handle": 5250}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1a2b"))
    return pynvml


def test_joules_are_those_of_the_device(library: SimpleNamespace) -> None:
    """Oracle: millijoules of the handle of this GPU by hand; a processor has no meter."""
    assert energy.meter(GPU) == 5.25
    assert energy.meter(torch.device("cpu")) is None


def test_a_shared_gpu_has_no_meter(library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: None, as the joules of a GPU are those of all runs on it."""
    monkeypatch.setenv("SSL_BENCHMARK_JOBS_ON_DEVICE", "2")
    assert energy.meter(GPU) is None


def test_without_a_meter_nothing_is_lost(library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: None for a GPU without the counter and without the package, and for a difference with either."""

    def refuse(handle: str) -> int:
        raise RuntimeError("Not Supported")

    library.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert energy.meter(GPU) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.meter(GPU) is None
    assert (energy.between(None, 2.0), energy.between(2.0, None), energy.between(1.0, 3.5)) == (None, None, 2.5)
