"""The boards as LaTeX, CSV and JSON: the numbers of the page, bytes that depend on the records alone, inert names."""

import csv
import io
import json
import random
from pathlib import Path

import pytest
from report_records import floor, make, metrics, run

from benchmark.report.code import changed
from benchmark.report.formats import FORMATS, as_json, comma_separated, latex
from benchmark.report.record import Record, write
from benchmark.tables import main

FLOOR = floor(0, 0.3)


def board() -> list[Record]:
    """Two methods that are told apart, by three seeds each, and a floor."""
    better = [run("beta_2", seed, 0.92 + seed / 1000, 0.81, floors=[FLOOR["id"]]) for seed in range(3)]
    return [FLOOR, *better, *(run("alpha", seed, 0.90 + seed / 1000, 0.80) for seed in range(3))]


def test_latex_by_hand() -> None:
    """Oracle: means 92.1 and 90.1, t(0.975, 2) = 4.303 times 0.1 / sqrt(3) = 0.25; a column of notes, with what became
    of runs, where there are any, and as many cells in each row."""
    lines = latex(board()).splitlines()
    cells = "25,600 & 19.7 & 2.00 & 1.5 & 1.00 & 3"
    assert lines[:2] == [
        "% digits, vit_micro, 2 TFLOPs, about 90 seconds of one Example CPU core, float32, closed division",
        r"\begin{tabular}{rlrrrrrrrr}",
    ]
    assert r" & method & linear & kNN & images & epochs & TFLOPs & min. & GiB & seeds \\" in lines
    assert rf"1 & beta\_2 & \textbf{{92.10 $\pm$ 0.25}} & \textbf{{81.00 $\pm$ 0.00}} & {cells} \\" in lines
    assert rf"2 & alpha & 90.10 $\pm$ 0.25 & 80.00 $\pm$ 0.00 & {cells} \\" in lines
    assert r" & random init & 30.00 (1 seed) & 50.00 (1 seed) &  &  &  &  &  & 1 \\" in lines
    ended = [run("gamma", seed, 0.1, status="diverged", training__collapsed=seed < 1) for seed in range(2)]
    text = latex([*board(), *ended], changed=lambda record: ["method_1"] if record["method"]["name"] == "alpha" else [])
    rows = {row[1].strip(): row for line in text.splitlines() if len(row := line.removesuffix(r" \\").split("&")) > 2}
    assert r"\begin{tabular}{rlrrrrrrrrl}" in text
    assert {len(row) for row in rows.values()} == {11}
    notes = {r"beta\_2": "", "gamma": "1 collapsed, 2 diverged", "random init": ""}  # alpha is stale
    assert {name: row[-1].strip() for name, row in rows.items()} == {"method": "notes"} | notes


def test_what_broke_down_is_listed_everywhere() -> None:
    """Oracle: a method whose runs both failed: one line without evaluation and mean, and what became of them."""
    failed = [run("gamma", seed, 0.0, status="failed", metrics={}) for seed in range(2)]
    entries = [entry for entry in json.loads(as_json([*board(), *failed])) if entry["method"] == "gamma"]
    assert [(entry["evaluation"], entry["mean"], entry["seeds"], entry["endings"]) for entry in entries] == [
        (None, None, 0, "2 failed")
    ]
    rows = list(csv.DictReader(io.StringIO(comma_separated([*board(), *failed]))))
    assert [row["endings"] for row in rows if row["method"] == "gamma"] == ["2 failed"]


def test_csv_and_json_say_the_same() -> None:
    """Oracle: an entry for each of three lines and two evaluations; numbers by hand."""
    entries = json.loads(as_json(board()))
    assert [(entry["method"], entry["evaluation"]) for entry in entries] == [
        (method, evaluation) for method in ("beta_2", "alpha", "random init") for evaluation in ("linear", "knn")
    ]
    first = entries[0]
    assert first["mean"] == pytest.approx(0.921)
    assert first["std"] == pytest.approx(0.001)
    assert (first["rank_first"], first["rank_last"], first["standing"], first["seeds"]) == (1, 1, "best", 3)
    assert (first["flops"], first["device_seconds"], first["budget"], first["amount"]) == (2e12, 90.0, "flops", 2e12)
    assert entries[-1]["is_floor"]
    assert entries[-1]["rank_first"] is None
    rows = list(csv.DictReader(io.StringIO(comma_separated(board()))))
    assert len(rows) == len(entries)
    for row, entry in zip(rows, entries, strict=True):
        assert entry.pop("deviations") == []
        assert row == {name: "" if value is None else str(value) for name, value in entry.items()}


def test_programs_find_f1_warnings_and_deviations() -> None:
    """Oracle: means and texts by hand; deviations in JSON alone, where each is a text of its own."""
    records = [
        run(
            "alpha",
            seed,
            0.5,
            metrics={"linear": metrics(0.5, macro_f1=f1, flags=["edge", f"draw {seed}: few"])},
            method__deviations=["A: B.", "A: C; d."],
        )
        for seed, f1 in enumerate((0.2, 0.4))
    ]
    (entry,) = json.loads(as_json(records))
    assert entry["macro_f1"] == pytest.approx(0.3)
    assert entry["flags"] == "edge; draws 0, 1: few"
    assert entry["deviations"] == ["A: B.", "A: C; d."]
    (row,) = csv.DictReader(io.StringIO(comma_separated(records)))
    assert (row["macro_f1"], row["flags"]) == (str(entry["macro_f1"]), entry["flags"])
    assert "deviations" not in row


def test_bytes_do_not_depend_on_order() -> None:
    """Oracle: the text of the records in their first order; without records there is no table."""
    for render in FORMATS.values():
        records, text = board(), render(board())
        for seed in range(5):
            random.Random(seed).shuffle(records)
            assert render(records) == text
        assert "linear" not in render([])


@pytest.mark.parametrize("name", [r"\input{x} & 50% $a_b$ #1 ~^|<>", "=1+1", "x" * 1_000_000, "a\nb\u202e"])
def test_hostile_names_are_inert(name: str) -> None:
    """Oracle: the structure with a plain name: rows, cells and columns."""
    plain, hostile = (
        make(method__name=text, dataset__name=text, encoder__name=text, metrics={"linear": metrics(0.5)})
        for text in ("plain", name)
    )
    tables = [latex([record]) for record in (plain, hostile)]
    assert len(tables[0].splitlines()) == len(tables[1].splitlines())
    counts = [[line.replace(r"\&", "").count("&") for line in text.splitlines()[1:]] for text in tables]
    assert counts[0] == counts[1]
    assert r"\input" not in tables[1].split("\n", 1)[1]
    assert "\u202e" not in tables[1]
    (row,) = csv.DictReader(io.StringIO(comma_separated([hostile]))) if len(name) < 1000 else [{"method": name}]
    assert row["method"] in (name, f"'{name}")
    assert not row["method"].startswith("=")
    assert json.loads(as_json([hostile]))[0]["method"] == name


def test_the_command_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the text of the function, and the folder as it was."""
    for record in board():
        write(record, tmp_path / "small")
    before = sorted(tmp_path.rglob("*"))
    for form, render in FORMATS.items():
        assert main(["--results", str(tmp_path), "--format", form]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(text := render(board(), changed=changed))
        assert printed == text or form == "latex"  # the plots follow, see test_page_pgfplots
    assert sorted(tmp_path.rglob("*")) == before
