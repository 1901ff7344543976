"""Kill commands at random moments, repeat them until they end, and compare with commands that nobody disturbed.

    python tests/kills.py    20 configurations x 20 points of SIGKILL: runs, evaluations and suites

Prints how many digests, scores or logs differ, temporaries that stay, and records that are missing or too many. All
moments follow from the seed and from the time that the undisturbed command takes.

A command costs seconds to import torch, so this process imports everything once, with one thread, and forks a child
for each attempt. The child calls the main function of the command, and is then really killed. Suites fork their runs
in the same way.
"""

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # before torch is imported: a fork has one thread
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # so that pyarrow starts none
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402
from tiny import SMALL, command  # noqa: E402

from benchmark.boards import jobs  # noqa: E402
from benchmark.errors import STOPS  # noqa: E402
from benchmark.report import record as records  # noqa: E402
from benchmark.report.audit import audit  # noqa: E402
from benchmark.runtime.ending import leave  # noqa: E402

RUN, EVALUATE, SUITE = (f"benchmark.{name}" for name in ("run", "evaluate", "suite"))
STEPS = 12
MOST_KILLS = 3  # of one point
MOST_ATTEMPTS = 10
PATIENCE = 120.0  # seconds that an attempt may take
TIMES = ("images_per_second", "train_seconds")  # fields of a log that no two runs share
EACH_STEP = ("--checkpoint-seconds", "0")
DATA = ("Images.name=tiny", "Images.source=folder:{}")
SMALL_NET = tuple(part for setting in SMALL[:3] for part in ("--set", setting))
ALL = ("--gin", "gin/protocol/digits_vit_micro.gin", "--gin", "gin/presets/all.gin", *SMALL_NET)
FROZEN = "(@KNN, @LinearSGD, @ten_percent/SemiProbe, @Retrieval)"
SHORT = {
    "LinearSGD.epochs": 2,
    "LinearSGD.rates": (0.1,),
    "ten_percent/SemiProbe.fraction": 0.1,
    "ten_percent/SemiProbe.draws": 1,
    "FineTune.epochs": 2,
    "FineTune.select_epochs": 1,
    "ten_percent/SemiFineTune.steps": 5,
}


@dataclass(frozen=True)
class Case:
    """A command: its module, and its arguments for a folder of its own; `before` makes what it needs, once."""

    name: str
    module: str
    arguments: Callable[[Path, Path], Sequence[str]]
    before: Callable[[Path], Sequence[str]] | None = None


def evaluated(evaluations: str) -> list[str]:
    """Return the arguments that ask for evaluations, made short; settings of others would be refused."""
    names = [name for name in SHORT if f"@{name.rpartition('.')[0]}" in re.split("[(), ]+", evaluations)]
    settings = [f"experiment.evaluations={evaluations}", *(f"{name}={SHORT[name]!r}" for name in names)]
    return [part for setting in settings for part in ("--set", setting)]


def case_of_run(name: str, *more: str, gin: str | None = None) -> Case:
    """Return the run of a shipped method."""

    def arguments(folder: Path, shared: Path) -> list[str]:
        places = ["--publish", str(folder / "results" / "board"), *data(shared)]
        return command(folder / "runs", STEPS, *places, *EACH_STEP, *more, gin=f"gin/{gin or name}.gin")

    return Case(name, RUN, arguments)


def data(shared: Path) -> list[str]:
    """Return the arguments that name the images of `images`."""
    return [part for setting in DATA for part in ("--set", setting.format(shared / "images"))]


def images(folder: Path) -> None:
    """Write 96 random images of 4 classes, a third of them for the test."""
    rng = random.Random(0)
    for number in range(96):
        place = folder / ("test" if number % 3 == 0 else "train") / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (16, 16), rng.randbytes(768)).save(place / f"{number}.png")


def case_of_evaluation(name: str, evaluations: str, *more: str) -> Case:
    """Return the evaluation of the encoder of a finished run."""

    def arguments(folder: Path, shared: Path) -> list[str]:
        (run,) = shared.glob("runs/simclr-*")
        places = ["--out", str(folder / "runs"), "--publish", str(folder / "results" / "board")]
        return ["--run", str(run), *more, *data(shared), *evaluated(evaluations), *places]

    return Case(name, EVALUATE, arguments, before=lambda shared: command(shared / "runs", STEPS, *data(shared)))


def case_of_suite(name: str, *more: str, **plan: object) -> Case:
    """Return a suite of tiny runs, one after another."""

    def arguments(folder: Path, shared: Path) -> list[str]:
        settings = (*SMALL, f"Budget.amount={32 * STEPS}", *(part.format(shared / "images") for part in DATA))
        values = {"protocols": ("digits_vit_micro",), "seeds": (0,), "settings": settings} | plan
        lines = [f"suite.{key} = {value!r}\n" for key, value in values.items()]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "board.gin").write_text("".join(lines))
        places = ["--out", str(folder / "runs"), "--results", str(folder / "results")]
        return ["--gin", str(folder / "board.gin"), *places, "--jobs", "1", *more]

    return Case(name, SUITE, arguments)


CASES = (
    *map(case_of_run, ("simclr", "moco", "moco_v3", "byol", "simsiam", "barlow_twins", "mae", "mrcl_bt", "macrl")),
    *map(case_of_run, ("mimco", "mixmask_simclr", "erase_moco", "supervised_reference")),
    case_of_run("frozen evaluations", *evaluated(FROZEN), gin="byol"),
    case_of_run("curve", "--set", "experiment.curve_points=4", "--set", "experiment.keep_encoders=True", gin="simclr"),
    case_of_run("trial", "--set", "experiment.is_trial=True", gin="simclr"),
    case_of_evaluation("evaluate: frozen", FROZEN),
    case_of_evaluation("evaluate: fine-tuned", "(@KNN, @FineTune, @ten_percent/SemiFineTune)", *ALL),
    case_of_suite("suite: two runs", methods=("simclr", "mae")),
    case_of_suite("suite: tuned", "--tune", methods=("simclr",), chosen_by="@KNN", trial_share=0.5),
)


class Forked:
    """A child that calls the main function of a command; as much of `subprocess.Popen` as a suite needs."""

    stdout = stderr = None
    seconds = 0.0  # of the processor, once it has ended

    def __init__(self, module: str, arguments: Sequence[str], prepare: Callable[[], None]) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                for number in STOPS:
                    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
                prepare()
                leave(importlib.import_module(module).main(arguments))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """Return the exit code, minus a signal's number where it ended by one; None while the child is at work."""
        if self.code is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code, self.seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return self.code

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end, or some seconds, and return the exit code as `poll` does."""
        deadline = time.monotonic() + (PATIENCE if seconds is None else seconds)
        while self.poll() is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(0.002, left))
        return self.code

    def spend(self, seconds: float) -> int | None:
        """Wait until the child has used so much of a processor, or ended, and return its code as `poll` does."""
        deadline = time.monotonic() + PATIENCE
        while self.poll() is None and time.monotonic() < deadline:
            try:
                left = seconds - time.clock_gettime((~self.pid << 3) | 2)  # CPU clock of a process, <linux/time.h>
            except OSError:  # it is ending
                left = 0.002
            if left <= 0:
                break
            time.sleep(min(0.002, left))
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def forked_job(command: Sequence[str], slot: Mapping[str, str], output: object) -> Forked:
    """Start the run of a suite as `jobs._start` does, by a fork."""

    def prepare() -> None:
        os.environ.update(slot)
        jobs._die_with_parent()

    return Forked(command[2], command[3:], prepare)


class Attempts:
    """Starts attempts of one case in one folder; `modules` gets the names of all that they import."""

    def __init__(self, case: Case, folder: Path, shared: Path) -> None:
        self.folder, self.case = folder, case
        self.arguments = case.arguments(folder, shared)

    def start(self, hook: Callable[[], None] = lambda: None) -> Forked:
        self.folder.mkdir(parents=True, exist_ok=True)

        def prepare() -> None:
            os.setpgid(0, 0)
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.environ["XDG_CACHE_HOME"] = str(self.folder / "cache")
            jobs._start = forked_job  # type: ignore[assignment]
            hook()

        return Forked(self.case.module, self.arguments, prepare)


def preload(folder: Path, attempt: Attempts) -> None:
    """Import here all that an attempt imports, so that later children need not."""
    names = folder / "modules.txt"

    def at_end() -> None:
        leave_ = globals()["leave"]

        def noted(code: int) -> None:
            names.write_text("\n".join(sys.modules))
            leave_(code)

        globals()["leave"] = noted

    if attempt.start(at_end).wait() != 0:
        raise SystemExit(f"{attempt.case.name} fails undisturbed:\n{(attempt.folder / 'log.txt').read_text()[-2000:]}")
    for name in names.read_text().splitlines():
        if name not in sys.modules and not name.startswith("__"):
            try:
                importlib.import_module(name)
            except Exception:  # a module that only works where it was imported from
                continue
            if len(list(Path("/proc/self/task").iterdir())) > 1:
                raise SystemExit(f"{name} has started a thread: a fork would lack it")


@dataclass
class State:
    """What a command has left: results by what they are of, log lines by folder, and the names of all other files."""

    results: Counter[tuple[object, ...]] = field(default_factory=Counter)
    contents: dict[tuple[object, ...], object] = field(default_factory=dict)
    logs: dict[str, list[object]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> "State":
        state = cls()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if ".claim" in path.suffixes:  # of a process that was killed: it stays until the same is claimed again
                continue
            place = path.relative_to(folder)
            state.names.add(masked(place.as_posix()))
            if path.name == "metrics.jsonl":
                state.logs[place.parent.as_posix()] = lines_of(path)
            elif path.suffix == ".json":
                state._add(place, records.read(path))
        if (folder / "results").is_dir():
            state.problems = audit(folder / "results")
        return state

    def _add(self, place: Path, record: records.Record) -> None:
        name = (place.parent.as_posix(), record["method"]["name"], record["seed"], record["config"]["key"])
        self.results[name] += 1
        metrics = {each: records.timeless(result) for each, result in record["metrics"].items()}
        files = [record["checkpoint"], record["predictions"], record["teacher"], len(record["floors"])]
        self.contents[name] = record["status"], record["training"], metrics, files


def masked(name: str) -> str:
    """Return a name without what differs between equal runs: the id of a record, and steps of checkpoints."""
    name = re.sub(r"-[0-9a-f]{8}\.json$", "-ID.json", name)
    return re.sub(r"step-\d{8}-[0-9a-f]{16}\.pt$", "step.pt", name)


def lines_of(path: Path) -> list[object]:
    """Return the lines of a log without times."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def compare(whole: State, state: State) -> dict[str, list[str]]:
    """Return what differs between two states, by kind."""
    differing = [str(name) for name, content in whole.contents.items() if state.contents.get(name, content) != content]
    differing += [name for name, lines in whole.logs.items() if state.logs.get(name) != lines]
    counts = [f"{count} of {name}" for name, count in state.results.items() if count != whole.results[name]]
    counts += [f"no {name}" for name in whole.results if name not in state.results]
    strays = sorted(state.names - whole.names) + [f"lost {name}" for name in sorted(whole.names - state.names)]
    return {"mismatches": differing, "records": counts, "temporaries": strays, "problems": state.problems}


def before_of(case: Case) -> Callable[[Path, Path], Sequence[str]]:
    """Return the arguments of the run that a case needs."""
    return lambda folder, shared: case.before(shared) if case.before else ()


def gone(group: int) -> bool:
    """Wait until no process of a group is left; return whether that happened."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.005)
    return False


def killed(case: Case, whole: State, seconds: float, folder: Path, shared: Path, rng: random.Random) -> Counter[str]:
    """Kill a command at random moments, repeat it until it ends, compare, and return the counts of what was found.

    Moments are seconds of the processor, whatever else the machine does; those of a suite, which waits for its runs,
    are on the clock.
    """
    found: Counter[str] = Counter()
    attempts = Attempts(case, folder, shared)
    groups: list[int] = []
    moments: list[float] = []
    code: int | None = None
    while code != 0 and len(groups) < MOST_ATTEMPTS:
        is_killed = not moments or (len(moments) < MOST_KILLS and rng.random() < 0.5)
        moment, whole_group = rng.uniform(0, seconds), rng.random() < 0.5
        begin, child = time.monotonic(), attempts.start()
        groups.append(child.pid)
        if is_killed and (child.wait if case.module == SUITE else child.spend)(moment) is None:
            try:
                (os.killpg if whole_group else os.kill)(child.pid, signal.SIGKILL)
            except ProcessLookupError:  # the child has not yet made its group
                child.kill()
            moments.append(round(moment, 3))
        code = child.wait()
        if code == 0 and not moments:  # it ended before its moment: begin again
            seconds = min(seconds, time.monotonic() - begin if case.module == SUITE else child.seconds)
            code = None
            found["processes left"] += sum(not gone(group) for group in groups)
            groups.clear()
            shutil.rmtree(folder)
            attempts = Attempts(case, folder, shared)
        elif code not in (0, -signal.SIGKILL):
            found["other codes"] += 1
            print(f"  {case.name}: code {code} {moments}\n{(folder / 'log.txt').read_text()[-800:]}", flush=True)
    found["kills"] = len(moments)
    found["never ended"] += code != 0
    found["processes left"] += sum(not gone(group) for group in groups)
    for kind, sentences in compare(whole, State.of(folder)).items():
        found[kind] += len(sentences)
        for sentence in sentences[:3]:
            print(f"  {case.name}, killed after {moments} of {seconds:.2f} s: {kind}: {sentence}", flush=True)
    return found


def kill_all(cases: Sequence[Case], points: int, seed: int, folder: Path, start: int = 0) -> Counter[str]:
    """Kill each case at some points, print a line for each case and the sum, and return the sum."""
    total: Counter[str] = Counter()
    for case in cases:
        base = folder / re.sub(r"\W+", "_", case.name)
        shared = base / "shared"
        images(shared / "images")
        if case.before:
            preload(folder, Attempts(Case("before", RUN, before_of(case)), base / "before", shared))
        preload(folder, Attempts(case, base / "first", shared))
        begin = time.monotonic()
        undisturbed = Attempts(case, base / "whole", shared).start()
        assert undisturbed.wait() == 0
        seconds = time.monotonic() - begin if case.module == SUITE else undisturbed.seconds
        whole = State.of(base / "whole")
        found: Counter[str] = Counter()
        for kind, sentences in compare(whole, State.of(base / "first")).items():
            assert not sentences, f"{case.name}: two undisturbed commands differ in {kind}: {sentences[:3]}"
        for point in range(start, start + points):
            rng = random.Random(f"{seed} {case.name} {point}")
            found += Counter({"points": 1}) + killed(case, whole, seconds, base / str(point), shared, rng)
            shutil.rmtree(base / str(point), ignore_errors=True)
        print(f"{case.name} ({seconds:.1f} s): {described(found)}", flush=True)
        total += found
        shutil.rmtree(base)
    return total


def described(found: Counter[str]) -> str:
    """Return counts in words; those of what should not be are named where they are 0."""
    kinds = ("points", "kills", "mismatches", "temporaries", "records", "problems")
    rest = [kind for kind in found if kind not in kinds and found[kind]]
    return ", ".join(f"{found[kind]} {kind}" for kind in (*kinds, *rest))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of all moments (0)")
    parser.add_argument("--points", type=int, default=20, metavar="N", help="of each configuration (20)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="the first point (0)")
    parser.add_argument("--only", default="", metavar="TEXT", help="configurations whose name has this")
    options = parser.parse_args()
    os.chdir(ROOT)
    begin = time.monotonic()
    for name in (RUN, "benchmark.experiment.run", EVALUATE, "benchmark.experiment.evaluate", SUITE):
        importlib.import_module(name)
    cases = [case for case in CASES if options.only in case.name]
    with tempfile.TemporaryDirectory() as folder:
        total = kill_all(cases, options.points, options.seed, Path(folder), options.start)
    print(f"{len(cases)} configurations: {described(total)}, in {(time.monotonic() - begin) / 60:.0f} minutes")
    return int(any(total[kind] for kind in total if kind not in ("points", "kills")))


if __name__ == "__main__":
    sys.exit(main())
