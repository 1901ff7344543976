"""The folder of records: the same ones whatever the files' places, and cells that mix nothing incomparable."""

import os
import re
import shutil
from pathlib import Path

import pytest
from report_records import EXAMPLE, floor, make, run, tuning

from benchmark.errors import BenchmarkError, MissingError
from benchmark.report.cells import group, hardware, load
from benchmark.report.record import Record, write
from benchmark.report.text import data_of


def test_load_ignores_places_and_copies(tmp_path: Path) -> None:
    """Oracle: the records written, in the order of their ids."""
    records = [run(name, seed, 0.5) for name in ("alpha", "beta") for seed in range(3)]
    for index, record in enumerate(records):
        path = write(record, tmp_path / f"board{index % 2}")
    shutil.copy(path, tmp_path)
    (tmp_path / "README.md").write_text("not a record")
    assert load(tmp_path) == sorted(records, key=lambda record: record["id"])


def test_load_names_the_bad_file(tmp_path: Path) -> None:
    """Oracle: the file that was spoilt or renamed."""
    path = write(make(), tmp_path)
    renamed = path.rename(tmp_path / "best.json")
    with pytest.raises(BenchmarkError, match=rf"best\.json was renamed: expected the name {re.escape(path.name)}"):
        load(tmp_path)
    renamed.write_text("{}")
    with pytest.raises(BenchmarkError, match=r"best\.json is not a valid record"):
        load(tmp_path)
    renamed.write_text("{")
    with pytest.raises(BenchmarkError, match=r"best\.json cannot be read"):
        load(tmp_path)
    renamed.unlink()
    os.mkfifo(renamed)
    with pytest.raises(BenchmarkError, match=r"best\.json is named like a record and is no file"):
        load(tmp_path)
    with pytest.raises(MissingError, match="nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert load(tmp_path / "empty") == []


def test_newest_run_of_a_seed_counts() -> None:
    """Oracle: the dates; the order of the records has no influence."""
    days = [run("alpha", 0, 0.5, created_utc=f"2026-01-0{day}T00:00:00Z") for day in (1, 3, 2)]
    other = run("alpha", 1, 0.6)
    for records in ([*days, other], [other, *reversed(days)]):
        (cell,) = group(records)
        assert cell.runs == (days[1], other)
        assert cell.superseded == (days[0], days[2])


def test_a_run_that_is_published_again_is_one_run() -> None:
    """Oracle: one date, and so one run: the record with files counts, whatever the ids; neither is replaced."""
    for digit in "0123":
        files = {"encoder": {"file": "encoders/a", "sha256": digit * 64, "bytes": 1}}
        bare, whole = run("alpha", 0, 0.5), run("alpha", 0, 0.5, published=files)
        (cell,) = group([bare, whole])
        assert cell.runs == (whole,)
        assert cell.superseded == ()


def test_a_run_that_is_done_counts_before_a_newer_one_that_is_not() -> None:
    """Oracle: by hand, as a board takes the seed for done; of runs that all broke down the newest counts."""
    done = run("alpha", 0, 0.5, created_utc="2026-01-02T00:00:00Z", status="diverged")
    for status in ("failed", "budget_miss", "overtime"):
        days = [run("alpha", 0, 0.5, created_utc=f"2026-01-0{day}T00:00:00Z", status=status) for day in (1, 3, 4)]
        (cell,) = group(days)
        assert (cell.runs, cell.superseded) == ((days[2],), (days[0], days[1]))
        for records in ([*days, done], [done, *days]):
            (cell,) = group(records)
            assert (cell.runs, cell.superseded) == ((done,), tuple(days))


def test_newest_trials_of_a_method_count() -> None:
    """Oracle: the dates; a method that was tuned twice has one cell, also while seeds are missing."""

    def tuned(seed: int, day: int, factor: float, trials: str) -> Record:
        key, day_of = f"{factor:g}".encode().hex().ljust(8, "0"), f"2026-01-0{day}T00:00:00Z"
        chosen = tuning(factor, trials)
        return make(division="tuned", tuning=chosen, seed=seed, config__key=key, created_utc=day_of)

    first = [tuned(seed, 1, 0.25, "a" * 16) for seed in (0, 1, 2)]
    for factor in (0.25, 4.0):
        again = [tuned(seed, 2, factor, "b" * 16) for seed in (0, 1)]
        for records in ([*first, *again], [*again, *first]):
            (cell,) = group(records)
            assert cell.runs == tuple(again)
            assert sorted(cell.superseded, key=str) == sorted(first, key=str)
            assert cell.key == again[0]["config"]["key"]


def test_newest_code_of_a_method_counts() -> None:
    """Oracle: the scores by hand; three seeds by code of an earlier Major version, of which two were made again, in
    whatever order they come. Another commit, a dirty checkout or a new Minor version is no other code."""

    def at(seed: int, top1: float, day: int, dirty: bool = False, **versions: str) -> Record:
        code = {"code__dirty": dirty, "code__versions": EXAMPLE["code"]["versions"] | versions}
        return run("alpha", seed, top1, created_utc=f"2026-01-0{day}T00:00:00Z", **code)

    old = [at(seed, 0.9, 1) for seed in (0, 1, 2)]
    for part in ("pretraining", "KNN", "Alpha"):
        new = [at(seed, 0.1, 2, dirty=bool(seed), **{part: f"2.{seed}"}) for seed in (0, 1)]
        for records in ([*old, *new], [*new, *old]):
            (cell,) = group(records)
            assert cell.runs == tuple(new)
            assert sorted(cell.superseded, key=str) == sorted(old, key=str)
        minor = at(3, 0.1, 3, **{part: "1.7"})
        assert group([*old, minor])[0].runs == (*old, minor)


def test_cells_mix_nothing_incomparable() -> None:
    """Oracle: one difference in what makes results comparable makes two cells; a seed alone makes one."""
    assert len(group([make(), make(seed=1)])) == 1
    for field, value in (
        ("board", None),
        ("board", "large"),
        ("dataset__name", "cifar10"),
        ("dataset__fingerprint", "00"),
        ("encoder__name", "resnet18"),
        ("encoder__patch", None),
        ("encoder__stem", "conv3x3"),
        ("encoder__image_size", 32),
        ("budget__amount", 4e12),
        ("budget__kind", "samples"),
        ("division", "open"),
        ("environment__precision", "bfloat16"),
        ("method__name", "beta"),
        ("config__key", "ffffffffffff"),
        ("pretrained_on", {"name": "a", "fingerprint": "0", "size": 16, "images": 9}),
    ):
        cells = group([make(), make(seed=1, **{field: value})])
        assert len(cells) == 2, field
        assert cells == sorted(cells, key=lambda cell: (cell.setting, cell.entry))


def test_data_of_pretraining_with_one_name_are_told_apart_by_content() -> None:
    """Oracle: their fingerprints; a title shows one where the name is that of the table's data."""
    origins = [{"name": name, "fingerprint": mark, "size": 16, "images": 9} for name in "ab" for mark in ("1f", "2f")]
    cells = group(make(dataset__name="a", pretrained_on=origin) for origin in origins)
    assert [data_of(cell.setting) for cell in cells] == [
        "a, pretrained on a (1f)",
        "a, pretrained on a (2f)",
        "a, pretrained on b",
        "a, pretrained on b",
    ]


def test_hardware_separates_time_budgets_alone() -> None:
    """Oracle: FLOPs are the same everywhere, seconds are not."""
    here, there = {"environment__gpu": "H100"}, {"environment__gpu": "H200", "cost__devices": 2, "seed": 1}
    assert len(group([make(**here), make(**there)])) == 1
    assert len(group([make(budget__kind="device_seconds", **change) for change in (here, there)])) == 2
    assert hardware(make(**there)) == "2 x H200"
    assert hardware(make()) == "Example CPU, 1 thread"
    assert hardware(make(environment__threads=8)) == "Example CPU, 8 threads"


def test_floors_form_cells_too() -> None:
    """Oracle: a floor has neither budget nor hardware."""
    (cell,) = group([floor(1, 0.3), floor(0, 0.2)])
    assert [record["seed"] for record in cell.runs] == [0, 1]
    assert (cell.setting.budget, cell.setting.amount, cell.setting.hardware) == ("", 0, "")


def test_raw_pixels_are_one_line_whatever_the_encoder() -> None:
    """Oracle: they pass no encoder, and so its name, patch and stem tell none apart; random weights do."""
    other = {"encoder__name": "resnet18", "encoder__patch": None, "encoder__stem": "stem3x3"}
    for name, lines in (("raw pixels", 1), ("random init", 2)):
        floors = [make(method__name=name, division="floor", **changes) for changes in ({}, other)]
        assert len(group(floors)) == lines
