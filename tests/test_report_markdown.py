"""Tables: what a page says, inert names, bytes that depend on the records alone; and the command around them."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
from report_records import floor, make, metrics, run, tuning

from benchmark.report.code import changed
from benchmark.report.contents import typical_time
from benchmark.report.formats import as_json
from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render, row, summary
from benchmark.report.record import Record, write
from benchmark.report.text import marks
from benchmark.tables import main

FLOORS = [floor(0, 0.3), floor(1, 0.32)]


def board() -> list[Record]:
    """Two methods tied by kNN, not by linear; one collapsed, one not ranked; a flag, a deviation, an older run."""
    floors = [record["id"] for record in FLOORS]
    flagged = {"linear": metrics(0.101, flags=["l2 at the edge of its grid"]), "knn": metrics(0.1)}
    return [
        *FLOORS,
        *(run("alpha", seed, 0.9 + seed / 1000, 0.80 + seed / 1000, floors=floors) for seed in range(3)),
        *(run("beta_2", seed, 0.92 + seed / 1000, 0.80 - seed / 1000) for seed in range(3)),
        run("alpha", 0, 0.99, created_utc="2025-12-31T12:00:00Z"),
        *(run("gamma", seed, 0.1, 0.1, training__collapsed=seed < 2, status="diverged") for seed in range(2)),
        run("gamma", 2, 0.1, metrics=flagged, method__deviations=["No crop."], cost__peak_memory_bytes=None),
        run("delta", 0, 0.99, 0.99, cost__flops=5e11),
        run("delta", 1, 0.99, 0.99, status="budget_miss", cost__flops=1e12),
    ]


def test_random_weights_stand_above_raw_pixels() -> None:
    """Oracle: their places, whichever came first."""
    pixels = run("raw pixels", 0, 0.9, division="floor", board=None, budget=None)
    page = render([pixels, FLOORS[0], run("alpha", 0, 0.9, floors=[pixels["id"], FLOORS[0]["id"]])])
    assert page.index("*random init*") < page.index("*raw pixels*")


def test_lines_of_one_seed_are_as_sure_as_the_test_images() -> None:
    """Oracle: Wilson's interval by scipy: 350 right of 500 are from 65.84 % on, the wider half of two lines; all right
    are from 99.24 % on, and not without any doubt. Not for a floor, nor for a mean average precision, which is no mean
    over images."""

    def said(*records: Record) -> list[str]:
        return re.findall(r"interval in (.*) is at most ± (.*) points", render(list(records)))

    beta = run("beta", 0, 0.7)
    for alpha in ([run("alpha", 0, 0.9)], [run("alpha", 0, 0.5), run("alpha", 1, 0.5)]):
        assert said(*alpha, beta) == [("linear", "4.16")]
    assert said(run("alpha", 0, 1.0)) == [("linear", "0.76")]
    assert said(FLOORS[0], *(run("alpha", seed, 0.9, floors=[FLOORS[0]["id"]]) for seed in (0, 1))) == []
    assert said(make(metrics={"multilabel": metrics(0.5, mean_average_precision=0.7)})) == []
    assert said(make(metrics={})) == []


def test_the_page_of_a_board() -> None:
    """Oracle: by hand; the same page of the records in any order."""
    records, page = board(), render(board())
    lines = page.splitlines()
    for line in (
        "### digits, vit\\_micro, 2 TFLOPs, about 90 seconds of one Example CPU core, float32, closed division",
        "| rank | method | linear | kNN | images | epochs | TFLOPs | device minutes | peak GiB | seeds | notes |",
        "| 1 | beta\\_2 | **92.10 ± 0.25** | <u>79.90 ± 0.25</u> | 25,600 | 19.7 | 2.00 | 1.5 | 1.00 | 3 |  |",
        "| 2 | alpha | 90.10 ± 0.25 | **80.10 ± 0.25** | 25,600 | 19.7 | 2.00 | 1.5 | 1.00 | 3 |  |",
        "| 3 | [gamma](#differences-gamma) | 10.03 ± 0.14 <sup>1</sup> | 10.00 ± 0.00 | 25,600 | 19.7 | 2.00 | 1.5 "
        "| 1.00 | 3 | 2 collapsed, 2 diverged |",
        "|  | delta | 99.00 ± 0.00 | 99.00 ± 0.00 | 25,600 | 19.7 | 0.75 | 1.5 | 1.00 | 2 | 1 budget miss |",
        "|  | *random init* | *31.00 ± 12.71* | *50.00 ± 0.00* |  |  |  |  |  | 2 |  |",
        "1. linear: l2 at the edge of its grid",
        "- No crop.",
    ):
        assert line in lines, line
    assert "16 px, patch 4, 345,678 parameters" in page
    assert "10 classes, 500 test images, fingerprint feedc0de." in page
    assert any(line.endswith(f": {board()[8]['id']}.") for line in lines)
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert render(records) == page


def test_what_learnt_from_labels_stands_beside_the_methods() -> None:
    """Oracle: the page without it, but for its line: in italics before the floors, with its cost and no rank."""
    best = [run("labels", seed, 0.99, 0.99, method__supervised=True) for seed in range(3)]
    lines, before = render([*board(), *best]).splitlines(), render(board()).splitlines()
    (line,) = set(lines) - set(before)
    assert line == "|  | *labels* | *99.00 ± 0.00* | *99.00 ± 0.00* | 25,600 | 19.7 | 2.00 | 1.5 | 1.00 | 3 |  |"
    assert lines[lines.index(line) + 1].startswith("|  | *random init*")


def test_no_records() -> None:
    """Oracle: the commands that make records and tables; floors alone rank nothing."""
    assert "python -m benchmark.run --gin gin/<method>.gin --publish" in render([])
    assert render(FLOORS) == render([])


def test_hostile_names_are_inert() -> None:
    """Oracle: the structure of a page with a plain name: as many lines, and as many unescaped bars in each."""
    evil = "<script>alert(1)</script>|`x`\n# [a](b) \u202e$x$ &lt;"
    names = ("method__name", "dataset__name", "encoder__name", "environment__processor", "board")
    pages = []
    for name in ("plain", evil):
        scores = {"linear": metrics(0.5, flags=[name]), name: metrics(0.4)}
        record = make(metrics=scores, method__deviations=[f"{name}!"], floors=[name], **dict.fromkeys(names, name))
        pages.append(render([record]))
        printed = row(record, [])
        assert len(printed.splitlines()) == 3
        assert "\u202e" not in printed
    plain, hostile = pages
    body = hostile[hostile.index("\n## ") :]
    assert "<script" not in body
    assert "\u202e" not in body
    assert body.count("`") == body.count("\\`") > 0
    bars = [[line.count("|") - line.count("\\|") for line in page.splitlines()] for page in pages]
    assert bars[0] == bars[1]
    assert [line[:3] for line in plain.splitlines() if line[:1] == "#"] == [
        line[:3] for line in hostile.splitlines() if line[:1] == "#"
    ]


def test_best_is_bold_and_ties_are_underlined() -> None:
    """Oracle: differences far above and far below the spread over seeds."""
    spread = (0.0, 0.01, -0.01)
    names = {"best": 0.9, "close": 0.899, "far": 0.1}
    records = [
        run(name, seed, mean + spread[(seed + shift) % 3])
        for shift, (name, mean) in enumerate(names.items())
        for seed in range(3)
    ]
    lines = {line.split(" | ")[1]: line for line in render(records).splitlines() if line.startswith("| ")}
    assert lines["best"].startswith("| 1-2 | best | **90.00 ± 2.48** |")
    assert lines["close"].startswith("| 1-2 | close | <u>89.90 ± 2.48</u> |")
    assert lines["far"].startswith("| 3 | far | 10.00 ± 2.48 |")


def test_versions_never_share_a_column() -> None:
    """Oracle: a column for each version; the newest ranks, and what lacks it is not ranked."""
    old, new = (
        make(metrics={"linear": metrics(0.9 - version / 10, version=version)}, seed=version) for version in (1, 2)
    )
    newer = make(metrics={"linear": metrics(0.5, version=2)}, method__name="beta")
    page = render([old, new, newer])
    assert "| rank | method | linear v2 | linear v1 |" in page
    assert "| 1 | beta | 50.00 (1 seed) |  |" in page
    assert "|  | alpha | 70.00 (1 seed) | 80.00 (1 seed) |" in page


def test_precisions_never_share_a_table() -> None:
    """Oracle: two tables, each with its one seed; processors share one, which names both."""
    other = {"environment__precision": "bfloat16", "seed": 1}
    page = render([make(), make(**other)])
    for precision in ("float32", "bfloat16"):
        shared = "### digits, vit\\_micro, 2 TFLOPs, about 90 seconds of one Example CPU core"
        assert f"{shared}, {precision}, closed division\n" in page
    assert page.count("| alpha | 90.00 (1 seed) |") == 2
    both = render([make(), make(environment__processor="Another CPU", seed=1)])
    assert both.count("\n### ") == 1
    assert "Hardware: Another CPU, 1 thread; Example CPU, 1 thread." in both
    reference = run("labels", 0, 0.99, method__supervised=True, environment__processor="Another CPU")
    assert "Hardware: Another CPU, 1 thread; Example CPU, 1 thread." in render([*board(), reference])


def test_remarks_on_the_choice_of_runs() -> None:
    """Oracle: the seeds in common, and the floor that no record holds."""
    records = [run("alpha", seed, 0.9, floors=["0" * 16]) for seed in range(4)] + [run("beta", s, 0.8) for s in (1, 3)]
    page = render(records)
    adjusted = (
        "Methods have different seeds: ranks, the order of lines, and what is bold or underlined follow means that "
        "are adjusted for that. Scores are the plain means. Spreads over two seeds cannot be checked: the test "
    )
    assert adjusted in page
    assert f"Floors named but not found: {'0' * 16}." in page
    assert "may have any rank." not in page.split("### ")[1]
    page = render([*records, run("new", 1, 0.99)])
    assert f"A method that has fewer than two seeds in common with those compared may have any rank. {adjusted}" in page
    fewer = [
        run("alpha", 0, 0.9),
        run("alpha", 1, 0.9),
        *(run(name, s, 0.8) for name in ("beta", "new") for s in range(3)),
    ]
    assert adjusted in render(fewer)
    assert adjusted not in render([record for record in records if record["seed"] in (1, 3)])
    for line in ("| 1-3 | new | 99.00 (1 seed) |", "| 1-2 | alpha | **90.00 ± ", "| 2-3 | beta | 80.00 ± "):
        assert line in page


def test_uneven_spreads_are_named_below_the_table() -> None:
    """Oracle: four methods whose kNN moves alike over seeds and one whose does not, and one sentence of kNN alone."""
    apart = {"e_1": (0.60, 0.80, 0.70)}
    records = [
        run(name, seed, 0.9 + (index + seed) % 3 / 1000, apart.get(name, (0.7, 0.71, 0.72))[seed])
        for index, name in enumerate(("a", "b", "c", "d", "e_1"))
        for seed in range(3)
    ]
    page = render(records)
    assert "\n\nkNN: the spread of e\\_1 is over twice the median one, so ties are less certain than 5 %.\n" in page
    assert "the spread of" not in render([record for record in records if record["method"]["name"] != "e_1"])


def test_table_without_any_evaluation() -> None:
    """Oracle: failed runs are listed and counted, not ranked."""
    page = render([run("alpha", seed, 0.0, status="failed", metrics={}) for seed in range(2)])
    assert "| rank | method | images |" in page
    assert "| 2 | 2 failed |" in page


def test_budget_in_the_heading() -> None:
    """Oracle: the amount in the unit of its kind."""
    for kind, amount, text in (
        ("samples", 5_000_000, "5,000,000 images"),
        ("device_seconds", 3600.0, "3,600 device seconds"),
        ("device_seconds", 3.75, "3.75 device seconds"),
        ("flops", 2.5e15, "2.5 PFLOPs"),
        ("flops", 5e8, "0.5 GFLOPs"),
    ):
        text += "" if kind == "device_seconds" else ", about 90 seconds of one Example CPU core"
        page = render([make(budget__kind=kind, budget__amount=amount, division="open")])
        assert f"### digits, vit\\_micro, {text}, float32, open division\n" in page


def test_what_a_board_lacks_stands_above_it() -> None:
    """Oracle: the sentence below the heading of its board, and of no other."""
    records = [make(board=board, division="open") for board in ("large", "small")]
    page = render(records, missing={"small": ("1 of the 2 runs are made.", "make rest")})
    assert "## small\n\n1 of the 2 runs are made. The rest: `make rest`\n" in page
    assert page.count("The rest:") == 1


def test_time_in_the_heading() -> None:
    """Oracle: by hand: the median of wall time times threads, or GPUs, on the commonest hardware; two digits."""

    def heading(*runs: tuple[str | None, int, float]) -> str | None:
        records = [
            make(seed=seed, environment__gpu=gpu, environment__threads=count, cost__train_seconds=seconds)
            for seed, (gpu, count, seconds) in enumerate(runs)
        ]
        return typical_time([*sections(records)[0].runs])

    assert heading((None, 1, 400.0), (None, 2, 300.0), (None, 4, 160.0)) == "10 minutes of one Example CPU core"
    assert heading((None, 1, 119.0)) == "120 seconds of one Example CPU core"
    assert heading((None, 1, 120.0)) == "2 minutes of one Example CPU core"
    assert heading((None, 1, 1.5)) == "1.5 seconds of one Example CPU core"
    assert heading((None, 1, 9000.0)) == "2.5 hours of one Example CPU core"
    assert heading(("H100", 1, 200.0), ("H100", 8, 190.0), (None, 1, 9000.0)) == "3.2 minutes of one H100"
    shared = {"environment__gpu": "H100", "environment__runs_on_device": 3}
    assert typical_time([make(seed=0, **shared)]) is None
    assert typical_time([make(seed=0, **shared), make(seed=1, cost__train_seconds=90.0)]) is not None
    page = render([make(**shared, division="open")])
    assert "about" not in next(line for line in page.splitlines() if line.startswith("### digits"))
    assert "| time on a GPU with 3 runs or more |" in page
    assert "### digits, vit\\_micro, unknown budgets, float32" in render([make(budget=None, division="open")])


def test_a_smoke_set_is_named_once_and_off_the_front_page() -> None:
    """Oracle: the other data set leads, though it cost less; the sentence once, above two boards of the digits."""
    digits = [record for board in ("small", "large") for record in compared(1e15, board=board)]
    other = compared(1e12, board="other", dataset__name="photos", dataset__fingerprint="0ddc0ffee0")
    assert summary([*digits, *other]).startswith("photos, ")
    assert summary(digits).startswith("digits, ")
    assert render([*digits, *other]).count("The digits are a smoke set") == 1
    assert "smoke set" not in render(other)


def test_earlier_versions_are_folded_away() -> None:
    """Oracle: by hand: a line of older code beside one of today's is neither ranked nor in the table; replaced runs
    have a line each generation; a board of older code alone keeps its table."""
    old = [run("alpha", seed, 0.9 + seed / 100) for seed in range(2)]
    twice = [run("beta", 0, 0.5, created_utc=f"2026-01-0{day}T00:00:00Z") for day in (1, 2, 3)]

    def of_alpha(record: Record) -> list[str]:
        return ["Alpha 1.0, now 2.0"] if record["method"]["name"] == "alpha" else []

    table, folded = render([*old, *twice], changed=of_alpha).split("<details>")
    assert "| alpha |" not in table
    assert "| 1 | beta | 50.00 (1 seed) |" in table
    assert folded.startswith("\n<summary>Earlier versions: 3 lines</summary>\n\n| rank | method |")
    assert "|  | alpha (2026-01-31) | 90.50 ± 6.35 | 50.00 ± 0.00 |" in folded
    assert "| stale (Alpha 1.0, now 2.0) |" in folded
    assert all(f"|  | beta (2026-01-0{day}) | 50.00 (1 seed) |" in folded for day in (1, 2))
    assert all(record["id"] in folded for record in twice[:2])
    assert twice[2]["id"] not in folded
    entries = [line for line in as_json([*old, *twice], (), of_alpha).splitlines() if '"method": "alpha"' in line]
    assert len(entries) == 2
    labels = run("labels", 0, 0.9, method__supervised=True)
    assert "<details>" not in render([*old, labels], changed=of_alpha)
    assert "| *labels* | *90.00 (1 seed)* |" in render([labels])
    page = render(old, changed=of_alpha)
    assert "<details>" not in page
    assert "| 1 | alpha | " in page


def test_row_of_a_finished_run() -> None:
    """Oracle: the lines by hand; numbers are printed as they were formatted."""
    lines = row(make(metrics={"knn": metrics(0.7), "linear": metrics(0.801)}), FLOORS[:1]).splitlines()
    assert " ".join(lines[0].split()) == "method linear v1 kNN v1 linear v1 macro-F1 images TFLOPs seconds"
    assert lines[2].split() == ["alpha", "80.10", "70.00", "79.10", "25,600", "2.000", "90.0"]
    assert lines[3].split() == ["random", "init", "30.00", "50.00", "29.00", "25,600", "2.000", "90.0"]
    assert len(row(make(metrics={}), []).splitlines()) == 3


def test_warnings_of_several_draws_are_one_footnote() -> None:
    """Oracle: the footnotes by hand: draws of all seeds together, other warnings as they are, each once."""
    flagged = [
        run("alpha", seed, 0.5, metrics={"linear": metrics(0.5, flags=["edge", f"draw {seed}: few", "draw 1: odd"])})
        for seed in range(2)
    ]
    notes = [line for line in render(flagged).splitlines() if line[:2] in ("1.", "2.", "3.", "4.")]
    assert notes == ["1. linear: edge", "2. linear: draws 0, 1: few", "3. linear: draw 1: odd"]
    forged = f"draw {'9' * 5000}: odd"
    assert f"linear: {forged}" in render([run("alpha", 0, 0.5, metrics={"linear": metrics(0.5, flags=[forged])})])


def test_deviations_that_were_cut_are_whole_again() -> None:
    """Oracle: the sentences by hand; what another class says, or follows a whole sentence, stays by itself."""
    cut = ["A: Eq.", "A: 16 lacks a sign, as in Doe et al.", "A: 2022.", "A: No crop.", "B: As Doe et al.", "C: None."]
    page = render([run("alpha", seed, 0.9, method__deviations=cut) for seed in range(2)])
    assert "| [alpha](#differences-alpha) |" in page
    sentences = page[page.index('<a id="differences-alpha">') :].strip().splitlines()[2:]
    assert sentences == [
        "- A: Eq. 16 lacks a sign, as in Doe et al. 2022.",
        "- A: No crop.",
        "- B: As Doe et al.",
        "- C: None.",
    ]


def compared(flops: float, **changes: Any) -> list[Record]:
    """Two methods of two seeds each, at this cost."""
    scores = [("beta", 0.6), ("alpha", 0.7)]
    return [
        run(name, seed, top1 + seed / 100, **{"cost__flops": flops, "budget__amount": flops} | changes)
        for name, top1 in scores
        for seed in range(2)
    ]


def test_summary_is_the_comparison_of_most_flops() -> None:
    """Oracle: the last rung of the larger board, of it the tuned table, best first, without notes and costs."""
    ladder = [record for flops in (1e12, 1e13) for record in compared(flops, board="large")]
    tuned = compared(9.9e12, board="large", division="tuned", tuning=tuning(2.0, "0" * 16), budget__amount=1e13)
    text = summary([*compared(2e12, board="small"), *ladder, *tuned])
    assert text.startswith(
        "digits, vit\\_micro, 10 TFLOPs, about 90 seconds of one Example CPU core, float32, tuned division:"
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| rank | method | linear | kNN | seeds |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["alpha", "beta"]
    assert lines[2].startswith("| 1 | alpha | **70.50 ± ")
    assert summary([]) == "There are no records yet."


def test_summary_is_the_comparison_of_most_methods_at_equal_flops() -> None:
    """Oracle: by hand: three methods over seeds before two whose last step ended nearer to the budget, and before four
    of which two have one seed."""
    budget = {"budget__amount": 1e12}
    two, three = compared(9.99e11, board="first", **budget), compared(9.98e11, board="second", **budget)
    three += [run("gamma", seed, 0.65, cost__flops=9.98e11, board="second", **budget) for seed in range(2)]
    two += [run(name, 0, 0.65, cost__flops=1e12, board="first", **budget) for name in ("delta", "epsilon")]
    lines = [line.split(" | ")[1] for line in summary([*two, *three]).splitlines() if line.startswith("|")]
    assert lines[2:] == ["alpha", "gamma", "beta"]
    unfinished = {"second": ("1 of <7> runs.", "the command"), "first": ("2 runs.", "the command")}
    spreads = "Spreads over two seeds cannot be checked: the test takes them to be like the others."
    assert summary([*two, *three], missing=unfinished).endswith(f"\n\n1 of &lt;7&gt; runs. {spreads}")


def test_summary_is_tuned_on_each_hardware() -> None:
    """Oracle: the division by hand, where a budget in seconds has tables of two devices and fixed rates cost more."""
    records = []
    for gpu in ("H100", "H200"):
        timed = {"budget__kind": "device_seconds", "budget__amount": 60.0, "environment__gpu": gpu}
        records += [*compared(2e12, **timed), *compared(1e12, division="tuned", tuning=tuning(2.0, "0" * 16), **timed)]
    assert summary(records).startswith("digits, vit\\_micro, 60 device seconds, float32, tuned division:")


def test_what_compares_nothing_does_not_take_the_front_page() -> None:
    """Oracle: one method of more FLOPs, and two of one seed each, beside a comparison; alone they lead all the same."""
    small = compared(1e12, board="small")
    for names in (("alpha", "alpha"), ("alpha", "beta")):
        pairs = enumerate(names) if names[0] == names[1] else ((0, name) for name in names)
        larger = [run(name, seed, 0.5, board="large", cost__flops=1e15) for seed, name in pairs]
        assert summary([*larger, *small]).startswith(
            "digits, vit\\_micro, 1 TFLOPs, about 90 seconds of one Example CPU core, float32, closed division:"
        )
        assert summary([*larger, *small[:1]]).startswith(
            "digits, vit\\_micro, 2 TFLOPs, about 90 seconds of one Example CPU core, float32, closed division:"
        )


def test_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit codes 0 and 4, the message that names the stale file and the command that mends it; the summary
    between the marks of the page beside the records, where there are any."""
    results, page = tmp_path / "results", tmp_path / "README.md"
    options = ["--results", str(results)]
    for record in board():
        write(record, results / "small")
    assert main([*options, "--check"]) == 4
    assert not (results / "README.md").exists()
    page.write_text("mine\n")
    assert main(options) == 0
    assert (results / "README.md").read_bytes() == render(board(), changed=changed).encode()
    assert page.read_text() == "mine\n"
    assert main([*options, "--check"]) == 0
    page.write_text("mine\n" + "\n".join(marks("board", "python -m benchmark.tables")) + "\n")
    assert main([*options, "--check"]) == 4
    assert main(options) == 0
    assert summary(board(), changed) in page.read_text()
    assert main([*options, "--check"]) == 0
    write(run("omega", 0, 0.4), results / "small")
    capsys.readouterr()
    assert main([*options, "--check"]) == 4
    said = capsys.readouterr().err
    assert "are stale. Run `python -m benchmark.tables" in said
    assert all(str(path) in said for path in (results / "README.md", results / "index.html", page))


def test_command_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit codes: 3 for a missing folder, 1 for a spoilt record, 2 for an unknown or shortened option."""
    assert main(["--results", str(tmp_path / "nowhere")]) == 3
    (tmp_path / "bad.json").write_text("{}")
    assert main(["--results", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "bad.json is not a valid record" in said
    assert "remove it and give the command of the run" in said
    with pytest.raises(SystemExit, match="2"):
        main(["--res", str(tmp_path)])
