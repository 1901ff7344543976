"""The hub: what happens where it cannot be reached."""

import socket
from collections.abc import Iterator
from contextlib import closing

import datasets
import pytest
from huggingface_hub import constants

from benchmark.runtime import hub


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what other tests and machines set: no proxy, and a hub that may be asked."""
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening


def test_a_hub_that_cannot_be_reached_is_not_asked(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: a port on which nobody listens any more: a note, and both libraries use only their cache; said once."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    server.close()
    hub.only_cached_if_unreachable()
    assert "note: 127.0.0.1 cannot be reached" in capsys.readouterr().err
    assert constants.HF_HUB_OFFLINE
    assert datasets.config.HF_HUB_OFFLINE
    hub.only_cached_if_unreachable()
    assert capsys.readouterr().err == ""


def test_a_hub_that_answers_is_asked(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: a port that is listened on; and, behind a proxy, any address."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    hub.only_cached_if_unreachable()
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub.only_cached_if_unreachable()
    assert not constants.HF_HUB_OFFLINE
    assert capsys.readouterr().err == ""
