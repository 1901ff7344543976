"""A board on a real Slurm, which this file starts in a folder of its own: `pytest -m slurm`, as root, takes minutes.

Debian has what it needs: `apt-get install slurm-wlm munge`, and `pip install -e '.[slurm]'`.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import SMALL

from benchmark.report.cells import load, of_run
from benchmark.report.record import Record
from benchmark.storage.claim import Claim, Holder

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not shutil.which("slurmctld") or os.geteuid() != 0, reason="needs slurmctld, and to be root"),
]

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=tiny Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
RUNS = 6
ROOT = Path(__file__).parents[1]


class Slurm:
    """A Slurm of one node in a folder, with the environment of its commands. It has no accounting, as some sites."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o700)
        (folder / "munge" / "key").write_bytes(os.urandom(128))
        (folder / "munge" / "key").chmod(0o600)
        (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=self.host))
        munge = [
            f"--{part}={folder}/munge/{part}" for part in ("socket", "key-file", "pid-file", "log-file", "seed-file")
        ]
        (folder / "munge" / "key").rename(folder / "munge" / "key-file")
        self.daemons = {"munged": self.start("munged", "--foreground", "--force", *munge)}
        self.daemons["slurmctld"] = self.start("slurmctld", "-D")
        self.daemons["slurmd"] = self.start("slurmd", "-D", "-N", self.host)
        until(lambda: "idle" in self.ask("sinfo", "--noheader"), "the node is not idle", 60)

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def restart(self) -> None:
        self.daemons["slurmctld"].terminate()
        self.daemons["slurmctld"].wait(60)
        self.daemons["slurmctld"] = self.start("slurmctld", "-D")

    def close(self) -> None:
        self.ask("scancel", "--user", "root")
        for _ in range(60):
            if not self.ask("squeue", "--noheader").strip():
                break
            time.sleep(1)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            daemon.wait(60)


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the path of a socket has to be short
    cluster = Slurm(folder)
    yield cluster
    cluster.close()
    shutil.rmtree(folder)


def until(holds: Callable[[], object], otherwise: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)


def holders(folder: Path, pattern: str) -> list[Holder]:
    """Return the processes of this machine that are at work and hold claims whose names match."""
    paths = [path.with_name(path.name[1:].removesuffix(".claim")) for path in folder.glob(f".{pattern}.claim")]
    known = [holder for path in paths if (holder := Claim(path).holder())]
    return [holder for holder in known if holder.lives(time.time())]


def records(folder: Path) -> dict[tuple[str, int], Record]:
    made = [record for record in load(folder) if record["division"] != "floor"] if folder.is_dir() else []
    by_run = {(record["method"]["name"], record["seed"]): record for record in made}
    assert len(by_run) == len(made), "a run was made twice"
    return by_run


def test_a_board_outlives_what_clusters_do(slurm: Slurm, tmp_path: Path) -> None:
    """Oracle: the records of the same board made here: equal weights and scores, one record of each run, after a
    kill -9 of a suite and of a run, a USR2, a bare SIGTERM and a restart of the controller, without a manual step."""
    pytest.importorskip("submitit")
    settings = (*SMALL, "Budget.amount=8000", "KNN.k=3", "experiment.curve_points=0")
    plan = {"methods": ("simclr", "byol"), "protocols": ("digits_vit_micro",), "seeds": (0, 1, 2), "settings": settings}
    (tmp_path / "small.gin").write_text("\n".join(f"suite.{name} = {value!r}" for name, value in plan.items()))
    site = {"minutes": 30, "warning_seconds": 60, "gpus": 0, "cores": 1, "partition": "tiny"}
    (tmp_path / "site.gin").write_text("\n".join(f"cluster.{name} = {value!r}" for name, value in site.items()))
    suite = [sys.executable, "-m", "benchmark.suite", "--gin", str(tmp_path / "small.gin")]

    def places(name: str) -> list[str]:
        return ["--out", str(tmp_path / name / "runs"), "--results", str(tmp_path / name / "results")]

    out, board = tmp_path / "slurm" / "runs", tmp_path / "slurm" / "results" / "small"
    cluster = ["--cluster", "slurm", "--workers", "2", "--cluster-gin", str(tmp_path / "site.gin")]
    printed = slurm.ask(*suite, *places("slurm"), *cluster)
    jobs = re.findall(r"job (\d+_\d): (.*)", printed)
    assert len(jobs) == 2, printed
    log = {number: Path(path) for number, path in jobs}
    (first, second) = log

    def said(text: str) -> Callable[[], bool]:
        return lambda: any(text in path.read_text() for path in log.values() if path.exists())

    for pattern, sentence in (("[0-9a-f]" * 16, "was ended by SIGKILL"), ("*-s?-*", "")):
        until(lambda pattern=pattern: len(holders(out, pattern)) == 2, "no two runs are at work")  # type: ignore[misc]
        (holder, *_) = holders(out, pattern)
        assert holder.log in map(str, log.values())
        os.kill(holder.pid, signal.SIGKILL)
        until(said(sentence), "the worker noticed nothing")
    slurm.restart()
    until(lambda: len(holders(out, "*-s?-*")) == 2, "no two runs are at work again")
    slurm.ask("scancel", "--signal=USR2", first)
    slurm.ask("scancel", "--signal=TERM", second)
    until(lambda: all("Requeued job" in path.read_text() for path in log.values()), "the jobs were not put back")
    assert len(records(board)) < RUNS

    local = [*suite, *places("local"), "--jobs", "1"]
    assert subprocess.run(local, env=slurm.environment, check=False).returncode == 0
    until(lambda: not slurm.ask("squeue", "--noheader").strip(), "the jobs do not end", 900)
    made, expected = records(board), records(tmp_path / "local" / "results" / "small")
    assert len(made) == len(expected) == RUNS
    for run, record in expected.items():
        for part in ("config", "training", "checkpoint", "metrics"):
            assert made[run][part] == record[part], (run, part)
    assert all(len(of_run(folder.parent)) == 1 for folder in out.glob("*/config.gin"))
    assert not list(out.glob(".*.claim"))
    assert all(path.read_text().rstrip().endswith("Exiting after successful completion") for path in log.values())
