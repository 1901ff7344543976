"""Compare the numbers of this tree with those of the code that made the newest published record.

Both run the same short commands: each method for three steps, and each evaluation on one encoder. Where numbers moved,
a version (Major.Minor) must be raised: the Minor if predictions stay the same, else the Major. Only public commands
and the files that they write are used, so that the code can be rearranged at will. Both sides read the gin files of the
published code, because values that gin files bind tell runs apart by themselves. Precision is float32, on one thread.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from moves import Outcome, compare, verdict  # noqa: E402

from benchmark.errors import BenchmarkError, ConfigError, MissingError, reported  # noqa: E402
from benchmark.report.code import classes, versions  # noqa: E402

SHARED = "simclr"  # both sides evaluate the encoder of this method, as the published code trains it
PROJECTED = "KNNProjection"  # needs a projector, which only a run has
RUN = ("Budget.kind = 'samples'", "Pretraining.precision = 'float32'", "experiment.curve_points = 0")
THREE_STEPS = (*RUN, "Budget.amount = 192", "Pretraining.batch_size = 64")
TWO_STEPS = (*RUN, "Budget.amount = 32", "Pretraining.batch_size = 16")
SHORT = {
    "LinearSGD": ("epochs = 5", "rates = (0.013, 0.17)"),
    "FineTune": ("epochs = 2", "select_epochs = 1", "curve = True"),
    "SemiFineTune": ("steps = 5", "draws = 2"),
}
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "gin-config", "safetensors")
DRIVER = """
import contextlib, importlib, json, os, sys, time, traceback
sys.path.insert(0, os.getcwd())
side, folder, jobs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for number, (label, command, arguments) in enumerate(jobs, 1):
    begin, out = time.monotonic(), os.path.join(folder, label)
    os.makedirs(out)
    with open(out + ".log", "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            code = importlib.import_module("benchmark." + command).main([*arguments, "--out", out])
        except (Exception, SystemExit):
            traceback.print_exc()
            code = 1
    with open(out + ".code", "w") as file:
        file.write(str(code))
    print(f"{side} {number}/{len(jobs)} {label}: exit code {code}, {time.monotonic() - begin:.1f} s", flush=True)
"""
Job = tuple[str, str, list[str]]  # a label, the command (run or evaluate) and its arguments


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = argparse.ArgumentParser(
        prog="python tests/behaviour.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 equal or its version raised, 3 cannot be compared, 4 moved without a raised version",
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl-benchmark" / "behaviour"
    command.add_argument("--against", metavar="COMMIT", help="compare with this commit, not with the newest record's")
    command.add_argument(
        "--cache", type=Path, default=cache, metavar="DIR", help="keeps the published side (%(default)s)"
    )
    given = command.parse_args(arguments)
    commit = commit_of(given.against, ROOT) if given.against else newest_commit(ROOT)
    print(f"Comparing with {commit}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        before = unpack(commit, Path(place, "before"))
        old, new = outcomes(before, commit, given.cache, Path(place))
        known = classes(ROOT)
        moves = [move for label in new for move in compare(old[label], new[label], known)]
        print(verdict(moves, versions(before), versions(ROOT), known))
    return 0


def git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, None where it fails."""
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def commit_of(name: str, root: Path) -> str:
    """Return the full name of a commit."""
    if commit := git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
        return commit.strip()
    raise MissingError(f"Commit {name} is not in this clone. If the clone is shallow: git fetch --unshallow")


def newest_commit(root: Path) -> str:
    """Return the commit of the newest record whose commit HEAD descends from; clean checkouts come first."""
    shallow = git(root, "rev-parse", "--is-shallow-repository")
    if shallow is None:
        raise MissingError(f"{root} has no git history, and so not the published code. Use a clone: git clone ...")
    records = [json.loads(path.read_text()) for path in (root / "results").rglob("*.json")]
    known: list[tuple[bool, str, str]] = [
        (not r["code"]["dirty"], r["created_utc"], r["code"]["commit"]) for r in records if r["code"]["commit"]
    ]
    for commit in dict.fromkeys(commit for *_, commit in sorted(known, reverse=True)):
        if git(root, "merge-base", "--is-ancestor", commit, "HEAD") is not None:
            return commit
        if shallow.strip() == "true":
            raise MissingError(f"Commit {commit} of the newest record is not here. Run: git fetch --unshallow")
    raise MissingError("No record in results/ names a commit that HEAD descends from. Name one: --against COMMIT")


def unpack(commit: str, place: Path) -> Path:
    """Write the files of a commit to a folder."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(place, filter="data")
    return place


def copy_with_gin_of(before: Path, place: Path) -> Path:
    """Copy this tree, without what git ignores, and with the gin files of the published code in place of its own."""
    for name in (git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or "").split("\0")[:-1]:
        if (ROOT / name).is_file() and not name.startswith(("gin/", "results/")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    shutil.copytree(before / "gin", place / "gin")
    return place


def outcomes(before: Path, commit: str, cache: Path, place: Path) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """Run both sides and return what came of each job, by label; the cache keeps that of the published code.

    Where this tree refuses the gin files of the published code, for a name that is another now, it reads its own.
    """
    key = hashlib.sha256(json.dumps([commit, environment(), jobs(before, Path()), DRIVER]).encode()).hexdigest()[:12]
    kept = cache / f"{commit[:12]}-{key}"
    old, new, own = kept if kept.is_dir() else place / "old", place / "new", place / "own"
    plan, now = jobs(before, old / "shared.safetensors"), copy_with_gin_of(before, place / "now")
    labels, today = {label for label, *_ in plan}, {label for label, *_ in jobs(ROOT, Path())}
    for label in sorted(labels ^ today):
        print(f"not compared, as it is {'new' if label in today else 'gone'}: {label}", flush=True)
    expected: dict[str, Outcome] = {}
    for command in ("run", "evaluate"):
        theirs = [job for job in plan if job[1] == command]
        ours = [job for job in theirs if job[0] in today]
        run(("published", before, old, [] if old == kept else theirs), ("now", now, new, ours))
        refused = [job for job in ours if (new / f"{job[0]}.code").read_text() == str(ConfigError.exit_code)]
        run(("now, by its own gin files", ROOT, own, refused))
        expected |= {label: read(old / label) for label, *_ in theirs}
        if failed := [f"{label}: {outcome.failure}" for label, outcome in expected.items() if outcome.failure]:
            raise MissingError(f"The published code does not run here. {'; '.join(failed)}")
        if command == "run" and old != kept:
            shutil.copyfile(next((old / SHARED).glob("*/encoder.safetensors")), old / "shared.safetensors")
    if old != kept:
        partial = kept.with_suffix(f".{os.getpid()}")
        shutil.copytree(old, partial, ignore=shutil.ignore_patterns("checkpoints", "features"))
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(kept)
    return expected, {label: read((own if (own / label).is_dir() else new) / label) for label in sorted(labels & today)}


def environment() -> list[str]:
    """Return what numbers depend on beside the code."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else [platform.processor()]
    described = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    chosen = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(("ATEN_", "DNNL_", "MKL_", "ONEDNN_")))
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    return [platform.python_version(), platform.platform(), *versions, *described, *chosen]


def jobs(tree: Path, weights: Path) -> list[Job]:
    """Return the runs of each method and one of a convolutional network, then the evaluations on the same weights."""

    def pretrain(label: str, method: str, protocol: str, settings: Sequence[str], evaluations: str) -> Job:
        bound = [*settings, f"experiment.evaluations = ({evaluations})"]
        files = ["--gin", f"gin/protocol/{protocol}.gin", "--gin", f"gin/{method}.gin"]
        return label, "run", [*files, *(f"--set={setting}" for setting in bound)]

    def evaluate(name: str) -> Job:
        short = [f"{name}.{setting}" for setting in SHORT.get(name.rpartition("/")[2], ())]
        bound = [f"experiment.evaluations = (@{name},)", *short]
        subject = ["--weights", str(weights), "--layout", "run", "--gin", "gin/protocol/digits_vit_micro.gin"]
        return name.replace("/", "."), "evaluate", [*subject, *(f"--set={setting}" for setting in bound)]

    methods = sorted(path.stem for path in (tree / "gin").glob("*.gin"))
    preset = re.sub("#.*", "", (tree / "gin/presets/all.gin").read_text())
    return [
        *(pretrain(method, method, "digits_vit_micro", THREE_STEPS, "@KNN,") for method in methods),
        pretrain(PROJECTED, SHARED, "digits_vit_micro", THREE_STEPS, f"@{PROJECTED},"),
        pretrain(f"{SHARED}_resnet18", SHARED, "digits_resnet18", TWO_STEPS, ""),
        *(evaluate(name) for name in re.findall(r"@([\w/]+)", preset) if name != PROJECTED),
    ]


def run(*sides: tuple[str, Path, Path, list[Job]]) -> None:
    """Do the jobs of all sides at once: each has a name, a tree, a folder for results, and a process of one thread."""
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, side, str(out), json.dumps(plan)], cwd=tree, env=os.environ | fixed
        )
        for side, tree, out, plan in sides
        if plan
    ]
    try:
        if any(process.wait() for process in processes):
            raise BenchmarkError("A process ended before its jobs were done; what it says stands above.")
    finally:
        for process in processes:
            process.kill()


def read(folder: Path) -> Outcome:
    """Read what a command wrote."""
    files = {path: json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    records = {path: record for path, record in files.items() if "division" in record}
    floors = {r["method"]["name"]: r["metrics"] for r in records.values() if r["division"] == "floor"}
    path, record = next(((p, r) for p, r in records.items() if r["division"] != "floor"), (folder, None))
    if record is None:
        return Outcome(failure=(folder.with_name(folder.name + ".log").read_text().splitlines() or ["no message"])[-1])
    losses = path.with_name("metrics.jsonl")

    def tensors(entry: str) -> dict[str, np.ndarray]:
        file = path.with_name((record[entry] or {"file": "none"})["file"])
        return load_file(file) if file.is_file() else {}

    lines = losses.read_text().splitlines() if losses.is_file() else []
    return Outcome(
        record, floors, [json.loads(x)["loss"] for x in lines], tensors("checkpoint"), tensors("predictions")
    )


if __name__ == "__main__":
    sys.exit(main())
