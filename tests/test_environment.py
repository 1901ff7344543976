"""What a record says of the machine."""

import json

import pytest
import torch
from report_records import EXAMPLE

from benchmark import environment
from benchmark.report.record import seal, validate


def test_description_is_valid_in_a_record() -> None:
    """Oracle: the schema of records, on the types that JSON keeps."""
    found = environment.environment(torch.device("cpu"), "float32")
    record = seal(EXAMPLE | {"environment": found})
    assert validate(record) == []
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == torch.get_num_threads()
    assert found["gpu"] is None


def test_threads_follow_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: with OMP_NUM_THREADS torch's own choice stays, without it every allowed core is used."""
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        environment.use_device()
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(environment, "_cores", lambda: 2)
        environment.use_device()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
