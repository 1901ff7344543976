"""The measurements of speed: what is timed, how often, and that the candidates do the same work."""

from pathlib import Path

import pytest
import torch

from benchmark import config
from benchmark.errors import CheckError, ConfigError
from benchmark.session import Session
from benchmark.speed import main
from benchmark.speeds import costs, evaluation
from benchmark.speeds.evaluation import Size, bank, ours_knn, published_knn
from benchmark.speeds.rounds import Rounds, interleave

pytestmark = pytest.mark.usefixtures("one_thread")

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


def test_costs_are_what_runs_are_charged(tmp_path: Path) -> None:
    """Oracle: the price of a session's step; with a teacher, a budget spent on both stages, to a step of each."""
    for name in ("simclr", "mae"):
        session = Session.open(config.load([f"gin/{name}.gin"]), tmp_path)
        expected = session.price.flops / session.price.images
        assert costs.flops_per_image(f"gin/{name}.gin", "gin/protocol/digits_vit_micro.gin") == expected
    whole = ("Budget.kind=flops", "Budget.amount=1e15")
    session = Session.open(config.load(["gin/mimco.gin"], whole), tmp_path)
    assert session.teacher is not None
    images = session.steps * session.price.images + session.teacher.steps * session.teacher.price.images
    found = costs.flops_per_image("gin/mimco.gin", "gin/protocol/digits_vit_micro.gin")
    assert found == pytest.approx(1e15 / images, rel=1e-3)


def test_the_table_is_sorted_and_says_what_cannot_be(tmp_path: Path) -> None:
    """Oracle: the cheapest first, and no number for a method that needs patches on a network without them."""
    protocols = ("gin/protocol/digits_vit_micro.gin", "gin/protocol/digits_resnet18.gin")
    lines = costs.table([Path("gin/byol.gin"), Path("gin/mae.gin"), Path("gin/simclr.gin")], protocols).splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == ["mae", "simclr", "byol"]
    assert lines[2].endswith("| n/a | n/a |")
    value = costs.flops_per_image("gin/byol.gin", protocols[1])
    assert value is not None
    assert lines[4].endswith(f"| {value / 1e9:.3f} | {1e16 / value:,.0f} |")


def test_a_stale_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the page after it was written, after a number was changed, and without its marks."""
    monkeypatch.setattr(costs, "shipped_folder", lambda: tmp_path)
    monkeypatch.setattr(costs, "PROTOCOLS", ("gin/protocol/digits_vit_micro.gin",))
    (tmp_path / "simclr.gin").write_bytes(Path("gin/simclr.gin").read_bytes())
    page = tmp_path / "page.md"
    page.write_text(f"above\n{costs.BEGIN}\nold\n{costs.END}\nbelow\n")
    costs.update(page, check=False)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "| `simclr` |" in text
    costs.update(page, check=True)
    page.write_text(text.replace("| `simclr` | ", "| `simclr` | 9"))
    with pytest.raises(CheckError, match=r"is stale. Run `python -m benchmark.speed costs`"):
        costs.update(page, check=True)
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="no place for the table"):
        costs.update(page, check=True)
