"""The workers of a board: what is asked of a cluster, the command of each, and what signals and failures do to it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import SMALL

from benchmark import suite
from benchmark.boards import cluster
from benchmark.boards.cluster import Cluster, Worker
from benchmark.config import load as configuration
from benchmark.errors import ConfigError

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def board(tmp_path: Path) -> list[str]:
    """Write a suite, and return the arguments that leave it to workers."""
    settings = (*SMALL, "Budget.amount=96", "KNN.k=3")
    plan = {"methods": ("simclr",), "protocols": ("digits_vit_micro",), "seeds": (0,), "settings": settings}
    (tmp_path / "small.gin").write_text("\n".join(f"suite.{name} = {value!r}" for name, value in plan.items()))
    places = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    return ["--gin", str(tmp_path / "small.gin"), *places, "--cluster"]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: Patch) -> None:
    """Put a command srun on the path, which is how submitit knows Slurm."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("fake_slurm")
def test_a_dry_run_shows_the_script(board: list[str], tmp_path: Path, capsys: Capture) -> None:
    """Oracle: by hand, the lines for each value of the example; nothing is queued or written."""
    pytest.importorskip("submitit")
    example = str(ROOT / "gin" / "cluster" / "example.gin")
    assert suite.main([*board, "slurm", "--workers", "3", "--cluster-gin", example, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 workers: unknown, as the board has no record yet. Evaluations come on top." in lines
    for line in (
        "#SBATCH --array=0-2%3",
        "#SBATCH --time=240",
        "#SBATCH --signal=USR2@180",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=32GB",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=mygroup",
        "#SBATCH --qos=normal",
        "#SBATCH --constraint=a100",
        "#SBATCH --mail-type=FAIL",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "module load cuda",
    ):
        assert line in lines, line
    assert not list(tmp_path.rglob("*.pkl"))


def test_what_cannot_be_queued_is_refused(
    board: list[str], tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Oracle: exit code and message of each: no submitit, GPUs of several kinds, a misspelt value, a short job, options
    without a cluster."""
    seconds = [*board, "slurm", "--workers", "2"]
    text = (tmp_path / "small.gin").read_text()
    (tmp_path / "small.gin").write_text(text.replace("samples", "device_seconds"))
    assert suite.main(seconds) == 2
    assert "name it by cluster.constraint" in capsys.readouterr().err
    (tmp_path / "small.gin").write_text(text)
    for line, message in (("cluster.minute = 60", "Did you mean minutes"), ("cluster.minutes = 5", "Give 13 or more")):
        (tmp_path / "site.gin").write_text(line)
        assert suite.main([*board, "slurm", "--cluster-gin", str(tmp_path / "site.gin")]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--workers 3: each has a GPU of its own, and this machine has 2"):
        Cluster().here(3, 2)
    assert Cluster().here(2, 5).gpus == 2
    for options in (["--workers", "2"], ["--cluster-gin", "x.gin"], ["--cluster", "local", "--workers", "0"]):
        with pytest.raises(SystemExit, match="2"):
            suite.main([*board[:-1], *options])
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert suite.main([*board, "local"]) == 3
    assert "pip install 'ssl-benchmark[slurm]'" in capsys.readouterr().err


def test_the_example_is_documented_and_read() -> None:
    """Oracle: a comment at each value, and the fields of the class, each bound."""
    path = ROOT / "gin" / "cluster" / "example.gin"
    bindings = [line for line in path.read_text().splitlines() if line.startswith("cluster.")]
    assert all("  # " in line for line in bindings)
    assert {line.split(" ")[0].removeprefix("cluster.") for line in bindings} == set(Cluster.__dataclass_fields__)
    example = configuration.build(configuration.load([str(path)], root="cluster", defaults={}))
    plain = {"minutes": 240, "warning_seconds": 180, "gpus": 1, "cores": 8}
    assert example.parameters("b", 2)["name"] == "b"
    assert {name: getattr(Cluster(), name) for name in plain} == plain == {n: getattr(example, n) for n in plain}


def test_a_worker_gives_the_plain_command() -> None:
    """Oracle: the options by hand, read again by the parser: without those of the cluster, and all others kept."""
    arguments = ["--gin", "a.gin", "--out", "o", "--results", "r", "--only", "x", "--seeds", "1", "2", "--tune"]
    arguments += ["--time-limit", "60", "--track", "wandb", "--allow-imports"]
    options = suite._parser().parse_args([*arguments, "--cluster", "slurm", "--workers", "4", "--cluster-gin", "c.gin"])
    command = suite._command(options, gpus=2)
    assert command[:3] == [sys.executable, "-m", "benchmark.suite"]
    assert suite._parser().parse_args(command[3:]) == suite._parser().parse_args([*arguments, "--jobs", "2"])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_workers_of_this_machine_make_a_board(board: list[str], tmp_path: Path, capsys: Capture) -> None:
    """Oracle: the record, though the command returned before; then nothing is missing, and nothing is queued."""
    pytest.importorskip("submitit")
    assert suite.main([*board, "local"]) == 0
    printed = capsys.readouterr().out
    assert not list((tmp_path / "results").glob("small/*.json"))
    (line,) = (line for line in printed.splitlines() if line.startswith("job "))
    log = Path(line.partition(": ")[2])
    deadline = time.monotonic() + 200
    while not (log.is_file() and "Exiting after successful completion" in log.read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.5)
    assert len(list((tmp_path / "results").glob("small/*-simclr-*.json"))) == 1
    assert suite.main([*board, "local"]) == 0
    assert "job " not in capsys.readouterr().out


JOB = """
import sys, types
from types import SimpleNamespace
submitit = types.ModuleType("submitit")
submitit.JobEnvironment = lambda: SimpleNamespace(cluster=sys.argv[1], paths=SimpleNamespace(stdout="the.log"))
sys.modules["submitit"] = submitit
import signal
from benchmark.boards import cluster
signal.signal(signal.SIGUSR2, lambda *_: print("again", flush=True) or sys.exit(9))
cluster._is_running = lambda: sys.argv[2] == "running"
cluster.Worker([sys.executable, "-c", sys.argv[3]], 0, 60.0)(0)
"""
SAVES = """
import os, signal, sys, time
def stop(*_):
    print("saved", flush=True)
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
print("at work", os.getpgid(0) == os.getpid(), flush=True)
time.sleep(60)
"""


def worker(environment: str, state: str, code: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", JOB, environment, state, code]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)


STOPPED = [("slurm", "running", 9, ["again"]), ("slurm", "cancelled", 75, []), ("local", "running", 75, [])]


def test_a_bare_sigterm_reaches_the_command(tmp_path: Path) -> None:
    """Oracle: the command saves its state; a job of Slurm is put back unless it was cancelled, others end."""
    for environment, state, code, more in STOPPED:
        process = worker(environment, state, SAVES)
        assert process.stdout is not None
        assert process.stdout.readline() == "at work True\n"
        process.send_signal(signal.SIGTERM)
        printed = process.stdout.read().splitlines()
        assert process.wait(60) == code
        ends = [] if more else ["This job ends with 75. Its log is the.log."]
        assert printed == ["saved", *more, *ends]


def test_a_command_that_was_killed_begins_again(tmp_path: Path) -> None:
    """Oracle: a command that is killed twice and then succeeds, one that is always killed, and one that fails."""
    for kills, code, begins in ((2, 0, 3), (9, 1, 3)):
        count = tmp_path / f"count-{kills}"
        text = f"import os; from pathlib import Path; path = Path({str(count)!r}); file = path.open('a');"
        text += f"file.write('x'); file.close(); len(path.read_text()) > {kills} or os.kill(os.getpid(), 9)"
        process = worker("slurm", "running", text)
        assert process.wait(60) == code
        assert len(count.read_text()) == begins
    process = worker("slurm", "running", "raise SystemExit(4)")
    assert process.communicate(timeout=60)[0] == "This job ends with 4. Its log is the.log.\n"
    assert process.returncode == 4


def test_a_failed_run_names_the_log(monkeypatch: Patch) -> None:
    """Oracle: the last sentence of the complaint, in a job and outside of one."""
    run = SimpleNamespace(label="a/seed 0")
    assert "log" not in suite._complaint([run], [], Path("runs"))  # type: ignore[list-item]
    monkeypatch.setenv("SSL_BENCHMARK_LOG", "/x/1_0_log.out")
    text = suite._complaint([run], [], Path("runs"))  # type: ignore[list-item]
    assert text.endswith("\n  a/seed 0\nThe log is /x/1_0_log.out.")


def test_the_state_of_a_job_is_asked_of_slurm(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: what a squeue of the test prints; where it says nothing the job goes on."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for state, goes_on in (("RUNNING", True), ("CANCELLED", False), ("COMPLETING", False), ("", True)):
        (tmp_path / "squeue").write_text(f'#!/bin/sh\n[ "$4" = 7 ] && echo "{state}"\n')
        (tmp_path / "squeue").chmod(0o755)
        assert cluster._is_running() == goes_on
    assert replace(Cluster(), memory_gb=1.5).parameters("b", 1)["mem_gb"] == 1.5


def test_checkpoint_waits_for_the_command() -> None:
    """Oracle: a command that takes a second to save its state has ended when the job may begin again."""
    pytest.importorskip("submitit")
    text = SAVES.replace("os._exit", "time.sleep(1) or os._exit")
    child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    job = Worker(["x"], 0, 60.0)
    job.pid = child.pid
    again = job.checkpoint(3)
    assert cluster._has_ended(child.pid)
    assert child.wait() == 75
    assert again.function == Worker(["x"], 0, 60.0)
    assert again.args == (3,)
