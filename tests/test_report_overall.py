"""Methods over several data sets: ranks, gaps and duels by hand, and the width of the intervals by simulation."""

import random

import pytest
from report_records import heads, run, tuning

from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render
from benchmark.report.overall import standings
from benchmark.report.record import Record, seal


def grid(
    dataset: str, means: dict[str, float], noise: float = 0.002, seeds: int = 3, division: str = "closed"
) -> list[Record]:
    """Runs of each method on a data set around its mean, the noise alike for no two methods."""
    generator = random.Random(dataset)
    records = []
    for name, mean in means.items():
        draws = [generator.gauss(0, noise) for _ in range(seeds)]
        centre = sum(draws) / seeds
        for seed, draw in enumerate(draws):
            where = {"dataset__name": dataset, "dataset__fingerprint": dataset.encode().hex()}
            rate = tuning(1.0, "0" * 16, recipe=name.encode().hex().ljust(64, "0")) if division == "tuned" else None
            records.append(run(name, seed, mean + draw - centre, division=division, tuning=rate, **where))
    return records


def test_ranks_gaps_and_duels_by_hand() -> None:
    """Oracle: two data sets: ranks 1, 2, 3 and 2, 1, 3; gaps of 0 and 2, 5 and 0, 30 and 22 points; equal
    scores share ranks 1 and 2, and tie in every duel."""
    records = [*grid("a", {"x": 0.90, "yy": 0.85, "zzz": 0.60}), *grid("b", {"x": 0.80, "yy": 0.82, "zzz": 0.60})]
    methods = standings(sections(records))
    assert [(method.name, method.mean_rank) for method in methods] == [("x", 1.5), ("yy", 1.5), ("zzz", 3.0)]
    assert [method.mean_gap for method in methods] == pytest.approx([1.0, 2.5, 26.0])
    assert methods[0].wins == {"yy": (1, 0, 1), "zzz": (2, 0, 0)}
    assert methods[2].wins == {"x": (0, 0, 2), "yy": (0, 0, 2)}
    assert methods[2].rank_interval == (3.0, 3.0)
    equal = [*grid("a", {"x": 0.9, "yy": 0.9}, noise=0.0), *grid("b", {"x": 0.5, "yy": 0.5}, noise=0.0)]
    methods = standings(sections(equal))
    assert [method.mean_rank for method in methods] == [1.5, 1.5]
    assert methods[0].wins == {"yy": (0, 2, 0)}


def test_only_methods_on_every_data_set_are_compared() -> None:
    """Oracle: the method that one data set lacks is left out; a single method has nobody to meet."""
    records = [*grid("a", {"x": 0.9, "yy": 0.8, "zzz": 0.7}), *grid("b", {"x": 0.9, "yy": 0.8})]
    assert [method.name for method in standings(sections(records))] == ["x", "yy"]
    assert standings(sections([*grid("a", {"x": 0.9}), *grid("b", {"x": 0.8})])) == []


def test_one_seed_has_no_interval() -> None:
    """Oracle: a method with a single seed on one data set says nothing of spread."""
    records = [*grid("a", {"x": 0.9, "yy": 0.8}), *grid("b", {"x": 0.9, "yy": 0.8}, seeds=1)]
    assert all(method.gap_interval is None for method in standings(sections(records)))
    several = [record for name in "ab" for record in grid(name, {"x": 0.9, "yy": 0.8})]
    one = [record for name in "ab" for record in grid(name, {"new": 0.1}, seeds=1)]
    first = standings(sections([*several, *one]))[0]
    assert first.wins == {"new": (0, 2, 0), "yy": (2, 0, 0)}, "one seed wins and loses no duel"


@pytest.mark.slow
def test_intervals_of_the_gap_cover() -> None:
    """Oracle: the true mean gap of 5 points over two data sets, in about 95 % of 100 simulated boards of five seeds."""
    covered = 0
    for trial in range(100):
        records = []
        for place in "ab":
            generator = random.Random(f"{place}{trial}")
            where = {"dataset__name": place, "dataset__fingerprint": place.encode().hex()}
            for name, mean in (("x", 0.9), ("yy", 0.85)):
                records += [run(name, seed, mean + generator.gauss(0, 0.005), **where) for seed in range(5)]
        (interval,) = (method.gap_interval for method in standings(sections(records)) if method.name == "yy")
        assert interval is not None
        covered += interval[0] <= 5.0 <= interval[1]
    assert covered >= 86


def test_the_page_shows_it_for_boards_of_several_data_sets() -> None:
    """Oracle: a table with ranks and duels after the tables of the board; none for one data set."""
    one = grid("a", {"x": 0.90, "yy": 0.85})
    assert "### Over" not in render(one)
    page = render([*one, *grid("b", {"x": 0.80, "yy": 0.70})])
    assert "### Over 2 data sets, float32, closed division" in page
    assert "| method | mean rank | mean gap (points) | x | yy |" in page
    assert "| x | 1.00 (1.00 to 1.00) | 0.00 (0.00 to 0.00) |  | 2-0-0 |" in page


def test_encoders_pretrained_on_other_data_are_left_out() -> None:
    """Oracle: two data sets of their own beside one to which the encoders of the first were taken."""
    means = {"x": 0.90, "yy": 0.85}
    origin = {"name": "a", "fingerprint": "a", "size": 16, "images": 9}
    taken = [seal({**record, "pretrained_on": origin}) for record in grid("c", means)]
    assert "### Over" not in render([*grid("a", means), *taken])
    assert "### Over 2 data sets" in render([*grid("a", means), *grid("b", means), *taken])


def test_each_division_of_a_board_has_its_own() -> None:
    """Oracle: the headings by hand, where every data set has a table of each division; the tuned one leads."""
    means = {"x": 0.90, "yy": 0.85}
    records = [*grid("a", means), *grid("b", means), *grid("a", means, division="tuned")]
    records += grid("b", means, division="tuned")
    assert heads(render(records), "### Over") == [
        "### Over 2 data sets, float32, tuned division",
        "### Over 2 data sets, float32, closed division",
    ]
