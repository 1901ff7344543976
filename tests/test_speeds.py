"""The measurements of speed: what is timed, how often, and that the candidates do the same work."""

import pytest
import torch

from benchmark.speed import main
from benchmark.speeds import evaluation
from benchmark.speeds.evaluation import Size, bank, ours_knn, published_knn
from benchmark.speeds.rounds import Rounds, interleave

SMALL = Size(300, 40, 16, 5)


def test_candidates_take_turns() -> None:
    """Oracle: the order by hand: one round to warm up, then each round begins with the next."""
    calls: list[str] = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 2)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_ratios_are_taken_within_a_round() -> None:
    """Oracle: numbers by hand: the medians of the seconds would say 2."""
    times = Rounds({"a": [1.0, 10.0, 2.0], "b": [3.0, 40.0, 4.0]})
    assert times.faster("a", than="b") == (3.0, 2.0, 4.0)
    assert times.typical("a") == (2.0, 1.0, 10.0)


def test_both_votes_agree() -> None:
    """Oracle: the published formula, on features where no two votes are equal."""
    features = bank(SMALL)
    assert torch.equal(ours_knn(features)[:, 0], published_knn(features)[:, 0])
    assert len(features.fit) + len(features.held) == len(features.labels) == 300
    assert features.test["x"].shape == (40, 16)


def test_the_command_prints_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a line for each candidate with median and range, and the agreement of the votes."""
    monkeypatch.setattr(evaluation, "KNN_SIZE", SMALL)
    monkeypatch.setattr(evaluation, "LINEAR_SIZE", SMALL)
    assert main(["evaluation", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "equal top-1 on 100.00 % of the queries" in printed
    assert "ours is 1.00 (1.00 to 1.00) times as fast" in printed
    assert "published formula" in printed
    assert "linear probe with its search: 300 images" in printed
    torch.use_deterministic_algorithms(False)
