"""The command around the inventory: tables, JSON, what it says where nothing is, and what it imports."""

import json
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from report_records import make, metrics

from benchmark.boards.inventory import take
from benchmark.list import COMMANDS, main
from benchmark.report.record import write
from benchmark.storage.claim import Claim

ROOT = Path(__file__).parents[1]


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one line by hand for a kind, and a heading with the command for each."""
    folder = tmp_path / "alpha-digits-s0-01234567"
    folder.mkdir()
    (folder / "config.gin").touch()
    write(make(metrics={"linear": metrics(0.801)}), folder)
    assert main(["--out", str(tmp_path), "--results", str(tmp_path / "none")]) == 0
    printed = capsys.readouterr().out
    assert all(f"{kind}: {command}\n" in printed for kind, command in COMMANDS.items())
    lines = [line.split() for line in printed.splitlines()]
    assert [str(folder), "alpha", "digits", "0", "closed", "ok", "linear", "v1", "80.10"] in lines
    assert ["gin/protocol/digits_vit_micro.gin", "digits", "vit_micro", "8e+12", "flops"] in lines
    assert ["gin/suites/mrcl_mask_ratio.gin", "10", "0", "0", "0"] in [line[1:] for line in lines]
    assert "FineTune, one_percent/SemiFineTune, ten_percent/SemiFineTune  " in printed


def test_json_is_the_inventory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the inventory itself."""
    assert main(["--json", "--out", str(tmp_path), "--results", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(asdict(take(tmp_path, tmp_path))))


def test_gin_files_that_are_no_method_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 2 and the reason, of a file that is missing and of a protocol."""
    for file, reason in (("none.gin", "there is no file"), ("gin/protocol/digits.gin", "binds no Pretraining.name")):
        assert main(["--gin", file, "--out", str(tmp_path), "--results", str(tmp_path)]) == 2
        assert reason in capsys.readouterr().err


def test_watch_shows_who_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: by hand: a run that this process claims, in a job with a log, until it is given up; a failure of the
    board that no success followed; all of it shown twice before Ctrl-C."""
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.gin").write_text("experiment.seed = 3\nPretraining.name = 'alpha'\n")
    write(make(status="failed", board="mine"), tmp_path / "results" / "mine")
    monkeypatch.setenv("SSL_BENCHMARK_LOG", "/x/the.log")
    claim = Claim(tmp_path / "runs" / "a").acquire()
    shown = []

    def look(seconds: float) -> None:
        shown.append(capsys.readouterr().out)
        claim.release()
        if len(shown) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("benchmark.list.time.sleep", look)
    assert main(["--watch", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]) == 0
    first, second = ([line.split() for line in text.splitlines()] for text in shown)
    run = [str(tmp_path / "runs" / "a"), "alpha", "3"]
    (at_work,) = (line for line in first if line[:3] == run)
    assert [*at_work[3:5], at_work[6]] == ["running", socket.gethostname(), "/x/the.log"]
    assert 0 <= int(at_work[5]) < 60
    assert [*run, "unfinished"] in second
    assert ["mine", "0", "0", "0", "1"] in second
    assert "methods: " not in shown[0]


def test_nothing_yet_names_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the command that makes a run."""
    assert main(["--out", str(tmp_path / "none"), "--results", str(tmp_path / "none")]) == 0
    assert "No runs found. Start with: python -m benchmark.run --gin" in capsys.readouterr().out


def test_a_damaged_record_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the file of a board or of a run in the message, and nothing printed as if it were an answer."""
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "bad.json").write_text("{}")
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.gin").touch()
    (tmp_path / "runs" / "a" / "x-y-s0-1-2.json").write_text("{}")
    for options, name in ((["--results", "."], "bad"), (["--results", "none", "--out", "runs"], "x-y-s0-1-2")):
        assert main([str(tmp_path / option) if option[0] != "-" else option for option in options]) == 1
        caught = capsys.readouterr()
        assert f"{name}.json is not a valid record" in caught.err
        assert caught.out == ""


def test_commands_that_read_import_no_torch(tmp_path: Path) -> None:
    """Oracle: the modules loaded by a fresh interpreter that ran the list and the tables in an empty folder."""
    heavy = "{'torch', 'torchvision', 'timm', 'datasets', 'sklearn', 'baselines'} & set(sys.modules)"
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmark import list, tables; "
    program += f"sys.exit(list.main([]) or tables.main(['--results', '.']) or str({heavy} or ''))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr.strip() == ""
    assert "gin/protocol/digits_vit_micro.gin" in done.stdout
    assert (tmp_path / "README.md").exists()
