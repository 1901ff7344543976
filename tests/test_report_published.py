"""Published results: every row of the project's file, refusals, which rows stand beside a table, and in each format."""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import timm
import torch
from report_records import floor, heads, metrics, run

from benchmark.errors import BenchmarkError
from benchmark.report.code import changed
from benchmark.report.formats import as_json, comma_separated, latex
from benchmark.report.leaderboard import sections
from benchmark.report.markdown import render
from benchmark.report.published import METRICS, PARAMETERS, PROTOCOLS, Result, _parameters, load, select
from benchmark.report.record import seal, write
from benchmark.tables import main

SHIPPED = Path(__file__).parents[1] / "results" / "published.csv"
HEADING = ",".join(field.name for field in fields(Result))
LINE = "digits,Alpha,ViT-S/16,800,linear,100 epochs,top1,91.5,arXiv:0000.00000 Table 1,"
ALPHA = Result(
    "digits", "Alpha", "ViT-S/16", "800", "linear", "100 epochs", "top1", 91.5, "arXiv:0000.00000 Table 1", ""
)
SIZE = {"encoder__name": "vit_small", "encoder__parameters": 21_600_000}
BOARD = [run("ours", seed, 0.9 + seed / 1000, **SIZE) for seed in range(2)]


def written(folder: Path, *lines: str) -> Path:
    path = folder / "published.csv"
    path.write_text("\n".join([HEADING, *lines, ""]), encoding="utf-8")
    return path


def test_every_row_of_the_file() -> None:
    """Oracle: ranges, known names, a source that can be found, and the counts of the file when it was checked."""
    results = load(SHIPPED)
    assert len(results) == 775
    assert sum(bool(result.doubt) for result in results) == 46
    source = r"(quoted in )?github\.com/[\w.-]+/[\w.-]+|arXiv:\d{4}\.\d{5}\b|pythonawesome\.com"
    for result in results:
        assert 0 < result.value < 100, result
        assert (result.protocol in PROTOCOLS, result.metric in METRICS) == (True, True), result
        assert re.match(source, result.source), result
        assert re.fullmatch("[a-z0-9_]+", result.dataset), result
    cifar = {(result.metric, result.method): result.value for result in results if "CIFAR-10)" in result.source}
    assert all(cifar["top1", method] <= value for (metric, method), value in cifar.items() if metric == "top5")
    assert Counter(result.dataset for result in results)["cifar10"] == 167


def test_rows_that_are_refused(tmp_path: Path) -> None:
    """Oracle: file and line, the column and the value, for one fault each; the heading that is expected."""
    for line, *words in (
        (LINE.replace("linear", "online"), ":2: protocol: expected one of linear, ", "got 'online'"),
        (LINE.replace("top1", "accuracy"), ":2: metric: expected one of top1"),
        (LINE.replace("91.5", "101"), ":2: value: ", "'101'"),
        (LINE.replace("91.5", "nan"), ":2: value: "),
        (LINE.replace("91.5", "about 90"), ":2: value: "),
        (LINE.replace("arXiv:0000.00000 Table 1", " "), ":2: source is empty"),
        (LINE.replace("Alpha", ""), ":2: method is empty"),
        (LINE.replace("800", "many"), ":2: epochs: "),
        (LINE + ",more", ":2: ", "expected 10 values"),
        (f"{LINE}\n{LINE}", ":3: the row of line 2 again"),
    ):
        with pytest.raises(BenchmarkError, match=r"published\.csv:") as refused:
            load(written(tmp_path, line))
        assert all(word in str(refused.value) for word in words), refused.value
    for text in ("method,value\n", ""):
        (tmp_path / "published.csv").write_text(text)
        with pytest.raises(BenchmarkError, match=f"expected the heading {HEADING}"):
            load(tmp_path / "published.csv")
    assert load(tmp_path / "nowhere.csv") == []


def test_what_does_not_stand_beside_a_table() -> None:
    """Oracle: the row that fits, with one field changed."""
    assert select(sections(BOARD), [ALPHA]) == [ALPHA]
    for field, value in (
        ("dataset", "cifar10"),
        ("backbone", "ResNet-34"),
        ("backbone", "ViT-B/16"),
        ("backbone", "ViT-Ti"),
        ("backbone", "ViT (encoder 12)"),
        ("backbone", ""),
        ("protocol", "knn"),
        ("protocol", "detection"),
        ("metric", "top5"),
        ("epochs", "20 of 800"),
        ("epochs", "0"),
        ("doubt", "read off a curve"),
    ):
        assert select(sections(BOARD), [replace(ALPHA, **{field: value})]) == [], field
    origin = {"name": "a", "fingerprint": "a", "size": 16, "images": 9}
    assert select(sections([seal({**record, "pretrained_on": origin}) for record in BOARD]), [ALPHA]) == []


def test_a_floor_looks_like_no_victory() -> None:
    """Oracle: by hand: a value below random weights is left out, one above stays."""
    records = [floor(0, 0.92), *(run("ours", seed, 0.95, floors=[floor(0, 0.92)["id"]], **SIZE) for seed in range(2))]
    assert select(sections(records), [ALPHA]) == []
    assert select(sections(records), [replace(ALPHA, value=92.5)]) == [replace(ALPHA, value=92.5)]


def test_sizes_of_published_encoders() -> None:
    """Oracle: the parameters that timm counts, on the meta device, within 2 %."""
    names = {
        "resnet-18": "resnet18",
        "resnet-34": "resnet34",
        "resnet-50": "resnet50",
        "vit-ti": "vit_tiny_patch16_224",
        "vit-s": "vit_small_patch16_224",
        "vit-b": "vit_base_patch16_224",
        "vit-l": "vit_large_patch16_224",
        "vit-h": "vit_huge_patch14_224",
        "swin-b": "swin_base_patch4_window7_224",
        "swin-l": "swin_large_patch4_window7_224",
    }
    assert names.keys() == PARAMETERS.keys()
    with torch.device("meta"):
        for name, architecture in names.items():
            net = timm.create_model(architecture, num_classes=0)
            assert PARAMETERS[name] == pytest.approx(sum(each.numel() for each in net.parameters()), rel=0.02), name
    for result in load(SHIPPED):  # every family of the file is known, but for encoders of unusual depth
        assert _parameters(result.backbone) or re.match(r"ViT \(|$", result.backbone), result


def test_the_rows_chosen_are_the_highest_and_sorted_by_method() -> None:
    """Oracle: one value for each method, encoder and protocol, in any order of the rows."""
    rows = [replace(ALPHA, method="beta"), replace(ALPHA, value=92.0), ALPHA, replace(ALPHA, protocol="online_linear")]
    rows += [replace(ALPHA, method="Gamma", epochs=epochs) for epochs in ("800", "")]
    for order in (rows, rows[::-1]):
        chosen = select(sections(BOARD), order)
        assert [(result.method, result.protocol, result.value) for result in chosen] == [
            ("Alpha", "linear", 92.0),
            ("Alpha", "online_linear", 91.5),
            ("beta", "linear", 91.5),
            ("Gamma", "linear", 91.5),
        ]
        assert chosen[-1].epochs == ""


def test_the_ranking_evaluation_decides() -> None:
    """Oracle: a board without a linear probe shows what was published of kNN."""
    board = [run("ours", 0, 0.0, metrics={"knn": metrics(0.5)}, **SIZE)]
    knn = replace(ALPHA, protocol="online_knn")
    assert select(sections(board), [ALPHA, knn]) == [knn]
    assert select(sections([run("ours", 0, 0.0, metrics={})]), [ALPHA, knn]) == []


def test_the_page_shows_a_block_after_the_tables_of_the_data_set() -> None:
    """Oracle: one block behind two tables and before the next data set; without results the page is as it was."""
    records = [
        *BOARD,
        run("ours", 0, 0.9, budget__amount=4e12, **SIZE),
        run("ours", 0, 0.9, dataset__name="other", dataset__fingerprint="0ddc0ffee0", **SIZE),
    ]
    page = render(records, [ALPHA])
    *tables, block, other = heads(page)[:4]
    assert [head.split(", ")[0] for head in (*tables, other)] == ["### digits", "### digits", "### other"]
    assert block == "### digits, published elsewhere (not ranked: other budgets, other code)"
    assert "| Alpha | ViT-S/16 | 800 | linear: 100 epochs | 91.5 | arXiv:0000.00000 Table 1 |" in page
    assert page[: page.index(block)] + page[page.index(other) :] == render(records)
    assert "published" not in render(records, [replace(ALPHA, dataset="cifar10")])


def test_csv_json_and_latex_show_it_unranked() -> None:
    """Oracle: the last entry by hand; LaTeX has a table of its own; both text forms say the same."""
    entries = json.loads(as_json(BOARD, [ALPHA]))
    last = entries[-1]
    assert (last["division"], last["method"], last["mean"], last["epochs"]) == ("published", "Alpha", 0.915, "800")
    assert (last["rank_first"], last["rank_last"], last["standing"], last["seeds"]) == (None, None, None, None)
    assert last["source"] == ALPHA.source
    assert entries[:-1] == json.loads(as_json(BOARD))
    rows = list(csv.DictReader(io.StringIO(comma_separated(BOARD, [ALPHA]))))
    assert rows == [
        {name: "" if value is None else str(value) for name, value in entry.items() if name != "deviations"}
        for entry in entries
    ]
    text = latex(BOARD, [replace(ALPHA, method=r"\input{x}")])
    assert text.startswith(latex(BOARD))
    assert (
        r"\textbackslash{}input\{x\} & ViT-S/16 & 800 & linear: 100 epochs & 91.5 & arXiv:0000.00000 Table 1 \\" in text
    )


def test_hostile_texts_are_inert() -> None:
    """Oracle: the lines and bars of the page with plain text."""
    plain, hostile = (
        render(BOARD, [replace(ALPHA, method=f"a{text}", source=f"b{text}")]) for text in ("", "|`<b>\n# x")
    )
    bars = [[line.count("|") - line.count("\\|") for line in page.splitlines()] for page in (plain, hostile)]
    assert bars[0] == bars[1]
    assert "<b>" not in hostile


def test_the_command_reads_the_file_beside_the_boards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the page of the function; a bad file is exit code 1 with its line."""
    for record in BOARD:
        write(record, tmp_path / "small")
    written(tmp_path, LINE)
    assert main(["--results", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render(BOARD, [ALPHA], changed)
    written(tmp_path, LINE.replace("91.5", "-1"))
    assert main(["--results", str(tmp_path)]) == 1
    assert "published.csv:2: value" in capsys.readouterr().err
