"""Methods beside those that they build on: which these are, and intervals by scipy's paired t test and by hand."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from report_records import metrics, run, tuning
from scipy.stats import binomtest, ttest_rel

from benchmark.report import predictions
from benchmark.report.bases import differences
from benchmark.report.cells import load
from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render, summary
from benchmark.report.record import Record, seal

RESULTS = Path(__file__).parents[1] / "results"


def configured(name: str, seed: int, top1: float, *lines: str, **changes: object) -> Record:
    """A run of a method whose class has its name, with further lines of its configuration."""
    text = "\n".join([f"Pretraining.method = @{name}", f"Pretraining.name = '{name.lower()}'", *lines, ""])
    return run(name.lower(), seed, top1, **{"config__text": text, **changes})


def pairs(records: list[Record]) -> set[tuple[str, str]]:
    return {(each.line, each.base) for section in sections(records) for each in differences(section)}


def test_bases_of_the_published_boards() -> None:
    """Oracle: the methods' papers: each method's base, MIM beside what adds it to contrast, and MimCo's teacher."""
    expected = {
        *((f"mrcl_{short}", base) for short, base in (("bt", "barlow_twins"), ("byol", "byol"), ("simclr", "simclr"))),
        *((f"mrcl_{short}", "mae") for short in ("bt", "byol", "simclr")),
        *((f"mixmask_{base}", base) for base in ("moco", "simclr", "byol", "simsiam")),
        *((name, "moco") for name in ("macrl", "unmix_moco", "erase_moco", "mixmask_unmix_moco")),
        *(("mixmask_unmix_moco", part) for part in ("mixmask_moco", "unmix_moco")),
        ("macrl", "mae"),
        *(("can", part) for part in ("mae", "simclr")),
        ("mimco", "moco_v3"),
    }
    assert pairs(load(RESULTS / "digits")) == expected
    names = {"mrcl_simclr", "mixmask_moco", "macrl", "simclr", "moco", "mae"}
    assert pairs(load(RESULTS / "cifar10_cpu")) == {pair for pair in expected if names.issuperset(pair)}


def test_encoders_that_were_evaluated_again_have_the_bases_of_their_runs() -> None:
    """Oracle: the pair of the runs; without the runs on the page nothing tells what trained the encoders."""
    outer, inner = configured("Outer", 0, 0.7, "Outer.base = @Inner"), configured("Inner", 0, 0.6)
    runs, again = [], []
    for number, record in enumerate((outer, inner)):
        changes: dict[str, object] = {"training": record["training"] | {"digest": str(number) * 64}}
        runs.append(seal({**record, **changes}))
        config = record["config"] | {"text": "experiment.seed = 0\nexperiment.pretraining = None\n"}
        again.append(seal({**record, **changes, "config": config, "division": "open", "board": "elsewhere"}))
    with_pairs = [each.setting.board for each in sections([*runs, *again]) if list(differences(each))]
    assert with_pairs == ["elsewhere", "small"]
    assert pairs(again) == set()


def test_the_leading_table_has_its_differences_but_at_the_top_of_the_page() -> None:
    """Oracle: the sentence by hand, below the whole table alone."""
    scores = {"Outer": (0.7, 0.71, 0.7), "Inner": (0.6, 0.6, 0.6)}
    records = [
        configured(name, seed, score, "Outer.base = @Inner" * (name == "Outer"))
        for name, by_seed in scores.items()
        for seed, score in enumerate(by_seed)
    ]
    sentence = "\n\n- outer is 10.3 points above inner (95 % interval 8.9 to 11.8, 3 seeds paired)"
    assert sentence in summary(records)
    assert "points above" not in summary(records, most=2)


def test_a_mean_average_precision_is_no_mean_over_images() -> None:
    """Oracle: with a seed each, top-1 has an interval over test images and a mean average precision has none; with two
    seeds it is compared by itself, not by the top-1 beside it."""

    def record(name: str, seed: int, precision: float) -> Record:
        result = {"multilabel": metrics(0.5, mean_average_precision=precision)}
        text = "Outer.base = @Inner" if name == "Outer" else ""
        return configured(name, seed, 0.5, text, metrics=result)

    records = [record("Outer", 0, 0.7), record("Inner", 0, 0.6), record("Outer", 1, 0.72), record("Inner", 1, 0.6)]
    assert pairs([configured("Outer", 0, 0.7, "Outer.base = @Inner"), configured("Inner", 0, 0.6)]) == {
        ("outer", "inner")
    }
    assert pairs(records[:2]) == set()
    (section,) = sections(records)
    (difference,) = differences(section)
    assert difference.points == pytest.approx(11)


def test_a_base_is_on_the_board() -> None:
    """Oracle: by hand: parts of parts count; equal parts, a class that is a part of neither, and references do not."""
    inner = ("Outer.base = @scope/Middle", "scope/Middle.head = @Head")
    records = [
        configured("Outer", 0, 0.9, *inner),
        configured("Middle", 0, 0.8, "Middle.head = @Head"),
        configured("Same", 0, 0.7, "Same.base = @Middle", "Middle.head = @Head"),
        configured("Alone", 0, 0.6),
        configured("Part", 0, 0.5, "Part.head = @Head"),
        configured("Head", 0, 0.4, method__supervised=True),
    ]
    assert pairs(records) == {(name, base) for name in ("outer", "same") for base in ("middle", "part")}
    assert pairs(records[:1]) == pairs([run("alpha", 0, 0.5), run("beta", 0, 0.4)]) == set()


def test_a_method_that_extends_another_is_beside_it() -> None:
    """Oracle: iBOT's class extends DINO's. The record of a method outside this project, which has a hash of its files,
    names the classes that it extends; one inside, of which the source is here, is not asked."""
    assert pairs([configured("IBOT", 0, 0.9), configured("DINO", 0, 0.8)]) == {("ibot", "dino")}
    simclr = configured("SimCLR", 0, 0.7)
    versions = {"SimCLR": "1.0", "Mine": "1.0"}
    mine = configured("Mine", 0, 0.8, code__versions=versions, method__module_sha256="0" * 64)
    more = configured("More", 0, 0.9, code__versions=versions | {"More": "1.0"}, method__module_sha256="1" * 64)
    assert pairs([simclr, mine, more]) == {("mine", "simclr"), ("more", "simclr"), ("more", "mine")}
    assert pairs([simclr, configured("Mine", 0, 0.8, code__versions=versions)]) == set()
    alike = configured("mine.SimCLR", 0, 0.9, code__versions={"SimCLR": "1.0"}, method__module_sha256="2" * 64)
    assert pairs([simclr, alike]) == set()
    with_teacher = {"code__versions": versions, "method__module_sha256": "0" * 64}
    taught = configured(
        "Mine", 0, 0.8, "experiment.teacher = @t/Pretraining", "t/Pretraining.name = 'x'", **with_teacher
    )
    assert pairs([simclr, taught]) == set()


def test_the_line_of_a_sweep_meets_its_own_point() -> None:
    """Oracle: by hand: the base at the same value, the only base of another sweep, and none where two could be."""
    outer, middle = partial(configured, "Outer", 0, 0.9), partial(configured, "Middle", 0, 0.8)
    points = [("aa" * 8, ["x = 1"]), ("bb" * 8, ["x = 2"])]
    swept = [outer("Outer.base = @Middle", config__key=key, config__varied=varied) for key, varied in points]
    bases = [middle(config__key=key, config__varied=varied) for key, varied in points]
    assert pairs([*swept, *bases]) == {(f"outer (x = {value})", f"middle (x = {value})") for value in (1, 2)}
    assert pairs([*swept, bases[0]]) == {(f"outer (x = {value})", "middle (x = 1)") for value in (1, 2)}
    assert pairs([outer("Outer.base = @Middle"), *bases]) == set()


def test_intervals_over_seeds_are_scipys() -> None:
    """Oracle: the confidence interval of scipy's paired t test, over the seeds that both have; the words by hand."""
    scores, of_base = [0.91, 0.94, 0.92], [0.90, 0.90, 0.91]
    records = [configured("Outer", seed, top1, "Outer.base = @Middle") for seed, top1 in enumerate(scores)]
    records += [configured("Middle", seed, top1) for seed, top1 in enumerate([*of_base, 0.2])]
    (section,) = sections(records)
    (difference,) = differences(section)
    interval = ttest_rel(scores, of_base).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert difference.points == pytest.approx(2.0)
    assert str(difference) == "outer is 2.0 points above middle (95 % interval -2.3 to 6.3, 3 seeds paired)"
    page = render(records)
    assert "(linear). Each interval stands alone, and is from the differences by seed.\n\n- outer is 2.0 " in page
    low = [configured("Outer", seed, top1 - 0.06, "Outer.base = @Middle") for seed, top1 in enumerate(scores)]
    assert "- outer is 4.0 points below middle (95 % interval -0.3 to 8.3, 3 seeds" in render([*low, *records[3:]])


def test_one_seed_is_compared_by_the_test_images(tmp_path: Path) -> None:
    """Oracle: of 500 images 60 are right in the run alone and 20 in the base alone: the interval of the mean of the
    differences 1, 0 and -1 and of one more of either sign, by numpy; without a file Newcombe's of Wilson's by scipy."""
    labels = np.arange(500) % 10
    wrong = (labels + 1) % 10
    right = {"outer": np.arange(500) < 460, "middle": (np.arange(500) < 400) | (np.arange(500) >= 480)}
    records = []
    for name, *more in (("Outer", "Outer.base = @Middle"), ("Middle",)):
        content, _ = predictions.pack(labels, {"linear": np.where(right[name.lower()], labels, wrong)})
        file = tmp_path / "small" / "predictions" / f"{name.lower()}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        stated = {"file": f"predictions/{file.name}", "sha256": "0" * 64, "bytes": len(content)}
        top1 = float(right[name.lower()].mean())
        records.append(configured(name, 0, top1, *more, published={"predictions": stated}))
    (section,) = sections(records)
    (paired,) = differences(section, partial(predictions.correct, tmp_path))
    gaps = right["outer"].astype(float) - right["middle"]
    more = np.append(gaps, [1, -1])
    low = more.mean() - 1.959964 * more.std() / np.sqrt(502)
    assert (paired.points, paired.low) == pytest.approx((8.0, 100 * low))
    (unpaired,) = differences(section)
    first, second = (binomtest(k, 500).proportion_ci(method="wilson") for k in (460, 420))
    half = max(np.hypot(0.92 - first.low, second.high - 0.84), np.hypot(first.high - 0.92, 0.84 - second.low))
    low = 0.08 - half
    assert (unpaired.points, unpaired.low) == pytest.approx((8.0, 100 * low))
    assert "1 seed, paired by test images" in str(paired)
    assert "1 seed, test images not paired" in str(unpaired)
    page = render(records, correct=partial(predictions.correct, tmp_path))
    assert f"- {paired}" in page
    assert "with one seed from the test images alone, which leaves out the spread over seeds" in page


def test_runs_without_a_common_seed_say_nothing() -> None:
    """Oracle: no sentence, also in the tuned division."""
    for more in ({}, {"division": "tuned", "tuning": tuning(1.0, "0" * 16)}):
        records = [configured("Outer", 0, 0.9, "Outer.base = @Middle", **more), configured("Middle", 1, 0.8, **more)]
        assert pairs(records) == set()
