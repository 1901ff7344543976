"""Several runs at once: how many, with what of the machine, in which order, and what stops or slows them."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_boards_launcher import SETTINGS, Capture, Patch, suite
from test_runtime_progress import Terminal

from benchmark.boards import jobs
from benchmark.boards.jobs import described, slots
from benchmark.boards.launcher import Launcher
from benchmark.boards.plan import Suite
from benchmark.errors import ConfigError
from benchmark.runtime import progress
from benchmark.runtime.progress import Relay
from benchmark.suite import main

GIB = 2**30

pytestmark = pytest.mark.usefixtures("one_thread")


def machine(monkeypatch: Patch, *, gpus: int = 0, cores: int = 8, gib: int = 64) -> None:
    """Have this machine be another one."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(jobs, "usable_cores", lambda: cores)
    sizes = {"SC_PHYS_PAGES": gib * GIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(jobs.os, "sysconf", sizes.__getitem__)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


COUNTS: list[tuple[dict[str, int], int | None, bool, int, str]] = [
    ({}, None, False, 8, "8 runs at once, 1 thread a run"),
    ({"gib": 7}, None, False, 3, "3 runs at once, 1 thread a run"),
    ({"gib": 1}, None, False, 1, "1 run at a time, 8 threads a run"),
    ({"cores": 1}, None, False, 1, "1 run at a time, 1 thread a run"),
    ({}, None, True, 1, "1 run at a time, 8 threads a run"),
    ({}, 1, False, 1, "1 run at a time, 8 threads a run"),
    ({}, 3, True, 3, "3 runs at once, 1 thread a run"),
    ({"gib": 1}, 12, False, 12, "12 runs at once, 1 thread a run"),
    ({"gpus": 1}, None, True, 1, "1 run at a time, 8 threads a run"),
    ({"gpus": 4}, None, True, 4, "4 runs at once, each on a GPU of its own, 2 threads a run"),
    ({"gpus": 4}, 3, False, 3, "3 runs at once, each on a GPU of its own, 2 threads a run"),
    ({"gpus": 4, "cores": 2}, None, False, 4, "4 runs at once, each on a GPU of its own, 1 thread a run"),
    ({"gpus": 4}, 1, False, 1, "1 run at a time, 8 threads a run"),
    ({"gpus": 1}, 3, False, 3, "3 runs at once on 1 GPU, 2 threads a run"),
    ({"gpus": 2}, 5, False, 5, "5 runs at once on 2 GPUs, 1 thread a run"),
]


def test_a_machine_has_room_for_as_many_runs(monkeypatch: Patch) -> None:
    """Oracle: by hand; a single slot leaves the environment of its run as it is."""
    for size, asked, is_timed, count, words in COUNTS:
        machine(monkeypatch, **size)
        shares = slots(asked, is_timed=is_timed)
        assert len(shares) == count, (size, asked)
        assert described(shares) == words, (size, asked)
        assert (shares == ({},)) == (count == 1)
        assert {share.get("SSL_BENCHMARK_JOBS") for share in shares} == {str(count) if count > 1 else None}
        if not size.get("gpus"):
            on_device = {share.get("SSL_BENCHMARK_JOBS_ON_DEVICE") for share in shares}
            assert on_device == {str(count) if count > 1 else None}


def test_each_run_has_a_gpu(monkeypatch: Patch) -> None:
    """Oracle: the numbers of the GPUs that the command itself may use, and threads that the user asks for."""
    machine(monkeypatch, gpus=3)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in slots(None, is_timed=False)] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f6b,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    shares = slots(2, is_timed=False)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["5", "GPU-8f6b"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"6"}
    assert {share["SSL_BENCHMARK_JOBS_ON_DEVICE"] for share in shares} == {"1"}
    shares = slots(5, is_timed=False)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["5", "GPU-8f6b", "7", "5", "GPU-8f6b"]
    assert [share["SSL_BENCHMARK_JOBS_ON_DEVICE"] for share in shares] == ["2", "2", "1", "2", "2"]
    with pytest.raises(ConfigError, match=r"--jobs 4: with a budget in seconds each run takes a GPU .* machine has 3"):
        slots(4, is_timed=True)


def test_numbers_of_jobs_that_make_no_sense_are_refused(monkeypatch: Patch, capsys: Capture) -> None:
    """Oracle: exit code 2 and a message that names the value."""
    for value, message in (
        ("0", "--jobs 0: give the number"),
        ("-2", "--jobs -2: give"),
        ("x", "invalid int value: 'x'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["--gin", "gin/suites/digits.gin", "--jobs", value])
        assert message in capsys.readouterr().err
    machine(monkeypatch, gpus=1)
    assert main(["--gin", "gin/suites/cifar10_gpu_seconds.gin", "--jobs", "2", "--dry-run"]) == 2
    assert "each run takes a GPU of its own, and this machine has 1. Runs with a budget in" in capsys.readouterr().err


class Process:
    """A process of a machine that ends with a code when it has been looked at often enough, or when it is stopped."""

    stdout = stderr = None

    def __init__(self, machine: "Machine", name: str, looks: int, code: int) -> None:
        self.machine, self.name, self.looks, self.code = machine, name, looks, code

    def poll(self) -> int | None:
        self.looks -= 1
        if self.looks > 0:
            return None
        if self in self.machine.at_work:
            self.machine.ended(self)
        return self.code

    def wait(self) -> int:
        if self in self.machine.at_work:
            self.machine.ended(self)
        return self.code

    def send_signal(self, number: int) -> None:
        self.machine.log.append(f"{signal.Signals(number).name} {self.name}")
        self.code = 75

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Machine:
    """Starts processes that do nothing, and keeps a log; `looks` and `codes` are those of runs other than (1, 0).

    A run is named by its method and seed; the load beside it is "load".
    """

    def __init__(self, monkeypatch: Patch, looks: dict[str, int] | None = None, **codes: int) -> None:
        self.log: list[str] = []
        self.at_work: list[Process] = []
        self.environments: list[dict[str, str]] = []
        self.commands: list[list[str]] = []
        self.looks, self.codes = looks or {}, codes
        monkeypatch.setattr(jobs, "POLL", 0.0)
        stub = SimpleNamespace(Popen=self.start, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
        monkeypatch.setattr(jobs, "subprocess", stub)

    def start(self, command: list[str], env: dict[str, str], **_: Any) -> Process:
        name = f"{Path(command[4]).stem}_{command[command.index('--seed') + 1]}"
        name = "load" if "Budget.amount = 1e9" in command else name
        process = Process(self, name, self.looks.get(name, 1), self.codes.get(name, 0))
        self.commands.append(command)
        self.environments.append(env)
        self.at_work.append(process)
        self.log.append(f"{name} of {len(self.at_work)}")
        return process

    def ended(self, process: Process) -> None:
        self.at_work.remove(process)
        self.log.append(f"end of {process.name}")


def board(folder: Path, plan: Suite, count: int = 2, *, shared: dict[str, str] | None = None) -> Launcher:
    share = {"SSL_BENCHMARK_JOBS": str(count), "OMP_NUM_THREADS": "1"} if shared is None else shared
    return Launcher("small", list(plan.runs()), folder / "runs", folder / "results", slots=(share,) * count)


def test_as_many_runs_as_slots_are_made_at_once(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: by hand, in the order of the plan, where the first run lasts longest; one that fails stops no other."""
    machine = Machine(monkeypatch, {"simclr_0": 3}, byol_0=1)
    runs = board(tmp_path, suite())
    assert [run.label for run in runs.carry_out(lambda: board(tmp_path, suite()), None)] == [
        "digits_vit_micro/byol/seed 0"
    ]
    started = [line for line in machine.log if not line.startswith("end")]
    assert started == ["simclr_0 of 1", "byol_0 of 2", "simclr_1 of 2", "byol_1 of 2"]
    assert (
        machine.log.index("end of byol_0") < machine.log.index("simclr_1 of 2") < machine.log.index("end of simclr_0")
    )
    assert {(env["OMP_NUM_THREADS"], env["SSL_BENCHMARK_JOBS"]) for env in machine.environments} == {("1", "2")}
    for run in runs.runs:
        with runs._claim(run).acquire(0):
            pass


def test_what_follows_from_a_run_waits_for_no_other(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: the log by hand; once the short run ends, the plan has one more, which begins beside the long one."""
    machine = Machine(monkeypatch, {"simclr_0": 9})
    whole = board(tmp_path, suite(seeds=(0,)))

    def planned() -> Launcher:
        return board(tmp_path, suite() if "end of byol_0" in machine.log else suite(seeds=(0,)))

    assert whole.carry_out(planned, None) == []
    assert machine.log[:4] == ["simclr_0 of 1", "byol_0 of 2", "end of byol_0", "simclr_1 of 2"]
    assert machine.log.index("byol_1 of 2") < machine.log.index("end of simclr_0")
    assert len(machine.commands) == 4


def test_trials_that_end_late_put_no_method_last(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: the runs seed by seed, though the last trial of byol ends after all of simclr's."""
    machine = Machine(monkeypatch, {"byol_1000": 3, "simclr_0": 5})
    plan = suite(chosen_by="@KNN")

    def planned() -> Launcher:
        chosen = [name for name in plan.methods if machine.log.count(f"end of {name}_1000") == 3]
        tuned = [replace(run, division="tuned") for run in plan.runs() if run.entry.method in chosen]
        return replace(board(tmp_path, plan), runs=[*plan.trials(), *tuned])

    assert planned().carry_out(planned, None) == []
    started = [line.partition(" ")[0] for line in machine.log if not line.startswith("end")]
    assert sorted(started[:6]) == ["byol_1000"] * 3 + ["simclr_1000"] * 3
    assert started[6:] == ["simclr_0", "byol_0", "simclr_1", "byol_1"]


def test_a_teacher_is_waited_for_only_where_nothing_else_is_left(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: two runs of a sweep share the teacher of their seed, so that simclr begins before the second."""
    sweep = {"KNN.temperature": (0.1, 0.2)}
    machine = Machine(monkeypatch, {"mimco_0": 3, "simclr_0": 3})
    plan = suite(methods=("mimco", "simclr"), seeds=(0,), sweep=sweep)
    teachers = [run.teacher for run in plan.runs()]
    assert teachers[0] == teachers[1] is not None
    assert teachers[2:] == [None, None]
    assert next(suite(methods=("mimco",), seeds=(1,)).runs()).teacher != teachers[0]
    board(tmp_path, plan).carry_out(lambda: board(tmp_path, plan), None)
    started = [line.partition(" ")[0] for line in machine.log if not line.startswith("end")]
    assert started == ["mimco_0", "simclr_0", "mimco_0", "simclr_0"]
    machine.log.clear()
    plan = suite(methods=("mimco",), seeds=(0,), sweep=sweep)
    board(tmp_path, plan).carry_out(lambda: board(tmp_path, plan), None)
    assert machine.log[:2] == ["mimco_0 of 1", "mimco_0 of 2"]


STOPS: list[tuple[dict[str, int], float | None]] = [
    ({"simclr_0": 75}, None),
    ({"simclr_0": -15}, None),
    ({}, 0.3),
    ({}, None),
]


def test_a_stop_stops_all_runs(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: each run that is at work is asked to save its state, and no other begins: where one of them was stopped,
    at the deadline, and on Ctrl-C."""
    for place, (codes, seconds) in enumerate(STOPS):
        looks = {"byol_0": 10**9} if codes else {"simclr_0": 10**9, "byol_0": 10**9}
        machine = Machine(monkeypatch, looks, **codes)
        runs = board(tmp_path / str(place), suite())
        deadline = seconds and time.monotonic() + seconds
        with monkeypatch.context() as patch:
            if not codes and not seconds:
                patch.setattr(jobs.time, "sleep", interrupted)
            with pytest.raises(KeyboardInterrupt):
                runs.carry_out(lambda: pytest.fail("planned again"), deadline)
        asked = [line for line in machine.log if line.startswith("SIG")]
        assert asked == (["SIGTERM byol_0"] if codes else ["SIGTERM simclr_0", "SIGTERM byol_0"])
        assert machine.at_work == []
        assert len(machine.commands) == 2
        with runs._claim(runs.runs[1]).acquire(0):
            pass


def interrupted(_: float) -> None:
    raise KeyboardInterrupt


TIMED = (*SETTINGS, "Budget.kind='device_seconds'", "Budget.amount=60.0")
OWN = {"CUDA_VISIBLE_DEVICES": "0"}


def test_a_budget_in_seconds_is_spent_under_the_same_load(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: the log by hand: beside the last run, a training without end or record takes the place of another.

    There is none for another budget, on GPUs, or with one slot.
    """
    machine = Machine(monkeypatch, {"simclr_0": 2, "byol_0": 4, "load": 10**9})
    plan = suite(seeds=(0,), settings=TIMED, sweep={"Budget.amount": (60.0,)})
    board(tmp_path, plan).carry_out(lambda: board(tmp_path, plan), None)
    begun = ["simclr_0 of 1", "byol_0 of 2", "end of simclr_0", "load of 2"]
    assert machine.log == [*begun, "end of byol_0", "SIGKILL load", "end of load"]
    (load,) = (command for command in machine.commands if "Budget.amount = 1e9" in command)
    assert load.index("Budget.amount = 1e9") > load.index("Budget.amount = 60.0")
    assert {"Budget.kind = 'samples'", "experiment.is_trial = True"} < set(load)
    assert str(tmp_path / "runs") not in load
    assert str(tmp_path / "results" / "small") not in load
    for settings, count, shared in ((SETTINGS, 2, None), (TIMED, 2, OWN), (TIMED, 1, {})):
        plan = suite(seeds=(0,), settings=settings)
        machine = Machine(monkeypatch, {"byol_0": 4})
        board(tmp_path, plan, count, shared=shared).carry_out(lambda plan=plan: board(tmp_path, plan), None)
        assert len(machine.commands) == 2


PRINTED = r"""
import sys
print("simclr on digits")
print("pretraining 25% of the budget, step 1 of 4 (1 min 15 s)", file=sys.stderr)
print("warning: slow (2 s) ahead", file=sys.stderr)
print(" 10% of a download\r 20% of a download", file=sys.stderr)
print()
"""


def relayed(name: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", PRINTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    relay = Relay(process, name)
    assert process.wait() == 0
    relay.close()


def test_lines_have_the_name_of_their_run(monkeypatch: Patch, capsys: Capture) -> None:
    """Oracle: by hand; on a terminal the line of progress goes when the run ends, all others stay."""
    relayed("byol/seed 0")
    printed = capsys.readouterr()
    assert printed.out == "byol/seed 0: simclr on digits\n"
    lines = [
        "pretraining 25% of the budget, step 1 of 4 (1 min 15 s)",
        "warning: slow (2 s) ahead",
        " 20% of a download",
    ]
    assert printed.err == "".join(f"byol/seed 0: {line}\n" for line in lines)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    relayed("byol/seed 0")
    assert "byol/seed 0: pretraining 25% of the budget, step 1 of 4 (1 min 15 s)" in terminal.getvalue()
    assert "byol/seed 0: pretraining 25% of the budget, step 1 of 4 (1 min 15 s)\n" not in terminal.getvalue()
    assert "byol/seed 0: warning: slow (2 s) ahead\n" in terminal.getvalue()


def test_every_line_of_progress_is_known(monkeypatch: Patch, capsys: Capture) -> None:
    """Oracle: what `progress` prints of activities of any length."""
    with progress.doing("evaluating mae"):
        for seconds in (0.2, 65, 7510):
            monkeypatch.setattr(progress._activities[0], "begun", time.monotonic() - seconds)
            progress._print_activities()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(progress.LINE.search(line.encode()) for line in lines)


def test_a_run_that_was_killed_is_tried_once_more(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: the log by hand; a run that is killed each time has failed, and stops no other."""
    machine = Machine(monkeypatch, {"simclr_0": 3}, simclr_0=-signal.SIGKILL, byol_0=-signal.SIGSEGV)
    plan = suite(seeds=(0,))
    failed = board(tmp_path, plan).carry_out(lambda: board(tmp_path, plan), None)
    assert [run.label for run in failed] == ["digits_vit_micro/byol/seed 0", "digits_vit_micro/simclr/seed 0"]
    started = [line.partition(" ")[0] for line in machine.log if not line.startswith("end")]
    assert started == ["simclr_0", "byol_0", "simclr_0"]
