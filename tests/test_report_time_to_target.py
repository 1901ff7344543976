"""Time to target: epochs, seconds and ratios by hand, which methods have a line, and the place on the page."""

from report_records import heads, metrics, run

from benchmark.report.formats import latex
from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render
from benchmark.report.record import Record
from benchmark.report.time_to_target import time_to_target

SLOW = (0.2, 0.4, 0.6, 0.76, 0.8)
FAST = (0.5, 0.77, 0.77, 0.77, 0.77)


def tuned(method: str, *curves: tuple[float, ...], pace: float = 2.0) -> list[Record]:
    """Runs that were fine-tuned with these hold-out accuracies, at `pace` seconds an epoch."""
    details = {"epochs_to_99": 4.0, "seconds_to_99": 4 * pace}
    return [
        run(
            method,
            seed,
            0.5,
            metrics={"linear": metrics(0.5), "finetune": metrics(0.7, curve=list(curve), details=details)},
        )
        for seed, curve in enumerate(curves)
    ]


def lines(*records: Record) -> dict[str, list[str]]:
    """The lines of the only table, by method."""
    (section,) = sections(records)
    (block,) = time_to_target(section)
    return {name: rest for name, *rest in block.lines}


def test_the_table_by_hand() -> None:
    """Oracle: 95 % of 0.8 is 0.76: the fourth epoch of one and the second of the other, at 2 and 3 seconds each."""
    (section,) = sections([*tuned("alpha", SLOW), *tuned("beta", FAST, pace=3.0)])
    (block,) = time_to_target(section)
    assert block.title == "digits, vit_micro, fine-tuned: time to target"
    assert block.caption.startswith("Training until the hold-out accuracy is 76.00 %, 95 % of")
    assert block.lines == (
        ("beta", "77.00", "2.0", "6.0", "1.00", "1"),
        ("alpha", "80.00", "4.0", "8.0", "2.00", "1"),
    )


def test_means_over_seeds() -> None:
    """Oracle: the target is 0.95 * 0.9 = 0.855: epochs 3 and 2, at 2 seconds each. One seed of two below the target is
    no epochs, seconds or ratio, and the last line; nobody gets there where the best mean is beyond one of its own."""
    by_method = lines(*tuned("alpha", (0.1, 0.8, 0.9), (0.1, 0.86, 0.9)), *tuned("beta", FAST))
    assert by_method["alpha"] == ["90.00", "2.5", "5.0", "1.00", "2"]
    by_method = lines(*tuned("alpha", SLOW), *tuned("beta", FAST, (0.1, 0.2, 0.75)))
    assert list(by_method) == ["alpha", "beta"]
    assert by_method["beta"] == ["76.00", "not reached", "", "", "2"]
    by_method = lines(*tuned("alpha", (0.9,), (0.1,)), *tuned("beta", (0.2,)))
    assert by_method == {"alpha": ["50.00", "not reached", "", "", "2"], "beta": ["20.00", "not reached", "", "", "1"]}


def test_seconds_that_were_not_noted_stay_empty() -> None:
    """Oracle: a curve without details."""
    bare = [run("beta", 0, 0.5, metrics={"linear": metrics(0.5), "finetune": metrics(0.7, curve=list(FAST))})]
    assert lines(*tuned("alpha", SLOW), *bare)["beta"] == ["77.00", "2.0", "", "1.00", "1"]


def test_one_method_alone_has_no_table() -> None:
    """Oracle: the other is not there, has no curve, or not in every run."""
    for other in ([], tuned("beta", ()), tuned("beta", FAST, ())):
        (section,) = sections([*tuned("alpha", SLOW), *other])
        assert list(time_to_target(section)) == []


def test_floors_have_no_line() -> None:
    """Oracle: a floor with the best curve of all neither has a line nor sets the target."""
    scores = tuned("random init", (0.99,))[0]["metrics"]
    below = run("random init", 0, 0.3, division="floor", board=None, budget=None, metrics=scores)
    named = [run("alpha", 0, 0.5, metrics=tuned("alpha", SLOW)[0]["metrics"], floors=[below["id"]])]
    (section,) = sections([below, *named, *tuned("beta", FAST)])
    assert any(line.is_floor for line in section.lines)
    (block,) = time_to_target(section)
    assert [line[0] for line in block.lines] == ["beta", "alpha"]


def test_the_page_shows_it_below_its_table() -> None:
    """Oracle: the headings in order, and the line in LaTeX."""
    records = [*tuned("alpha", SLOW), *tuned("beta", FAST)]
    assert heads(render(records)) == [
        "### digits, vit\\_micro, 2 TFLOPs, about 90 seconds of one Example CPU core, float32, closed division",
        "### digits, vit\\_micro, fine-tuned: time to target",
    ]
    assert "| beta | 77.00 | 2.0 | 4.0 | 1.00 | 1 |" in render(records)
    assert r"beta & 77.00 & 2.0 & 4.0 & 1.00 & 1 \\" in latex(records)
