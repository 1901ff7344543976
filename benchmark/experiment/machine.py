"""What runs need of a machine: for `python -m benchmark.doctor`, each check is a function that says what it found.

Checks import what they need when they are called, so that --help is instant, and a package that is missing or broken
hides no other check.
"""

import math
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmark.errors import MissingError, first_line

Finding = tuple[Literal["ok", "note", "FAULT"], str]
"""How sound it is, and the figure: for a fault also what to do. A note is no fault, and may explain one."""

PACKAGE = Path(__file__).parents[1]
REINSTALL = "Install what fits, in a checkout: pip install -e . -c constraints.txt"
LEAST_FREE = 1.0  # GiB; our choice: runs of a small board take some hundred MB
WAIT = 60.0  # seconds for another process to try a lock
SECONDS = 10.0  # of training
FEWEST = 10  # steps of training, whatever they take: its loss falls in these
TRY_LOCK = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; "
TRY_LOCK += "from benchmark.storage.files import is_held; print(is_held(Path(sys.argv[2])))"


def versions() -> Finding:
    """Compare the versions of Python and of each package with what the project takes, and the packages one another."""
    from importlib import metadata

    from packaging.requirements import Requirement

    def required(lines: Iterable[str]) -> list[Requirement]:
        wanted = map(Requirement, lines)
        return [each for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]

    demands, wrong = {"the project": required(_needs())}, []
    known = {"python": platform.python_version()}
    for name in [each.name for each in demands["the project"] if each.name not in known]:
        try:
            known[name] = metadata.version(name)
            demands[f"{name} {known[name]}"] = required(metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
    for by, wanted in demands.items():
        for each in wanted:
            version = known.get(each.name.lower())
            if version and not each.specifier.contains(version, prereleases=True):
                wrong.append(f"{by} takes {each.name}{each.specifier}, and {version} is there")
    if wrong:
        return "FAULT", f"{'; '.join(wrong)}. {REINSTALL}"
    return "ok", ", ".join(f"{name} {version}" for name, version in known.items())


def _needs() -> list[str]:
    """Return the versions of Python and packages that the project takes: of the checkout, else as installed."""
    import tomllib
    from importlib import metadata

    if (PACKAGE / "_gin").is_dir():
        lines, python = metadata.requires("ssl-benchmark") or [], metadata.metadata("ssl-benchmark")["Requires-Python"]
    else:
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines, python = project["dependencies"], project["requires-python"]
    return [f"python{python}", *lines]


def imports() -> Finding:
    """Import the packages whose compiled parts have to match each other."""
    try:
        for name in ("torch", "torchvision", "timm"):
            import_module(name)
    except Exception as error:
        return "FAULT", f"import {name}: {type(error).__name__}: {first_line(error)}. {REINSTALL}"
    return "ok", "torch, torchvision and timm work together"


def checkout() -> Finding:
    """Describe the code as a record does."""
    from benchmark.report.code import code, versions

    source = code(versions())
    if source["commit"] is None:
        return "note", f"ssl-benchmark {source['version']}, no checkout of git: records name no commit"
    figure = f"ssl-benchmark {source['version']}, commit {source['commit'][:12]}"
    return ("note", f"{figure} with changes, which records say") if source["dirty"] else ("ok", figure)


def processor() -> Finding:
    """Describe the processor, and say what keeps its cores busy."""
    import torch

    from benchmark.experiment import environment

    environment.use_device()
    precision = environment.native_precision()
    figure = (
        f"{platform.platform()}, {environment.processor()} ({' '.join(environment.processor_flags())}), "
        f"{environment.usable_cores()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; runs "
        f"train in {precision}"
    )
    slow = list(environment.speed_warnings(precision))
    return "note" if slow else "ok", "; ".join([figure, *slow])


def gpu() -> Finding:
    """Multiply on each GPU, or say why there is none."""
    import torch

    from benchmark.experiment.environment import driver, use_device

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        works = torch.cuda.is_available()
    version = driver()
    if not works and version and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        reason = str(caught[-1].message).partition("\n")[0] if caught else f"made for CUDA {torch.version.cuda}"
        return "FAULT", (
            f"driver {version} is there, but torch {torch.__version__} uses no GPU: {reason}. Install torch for a CUDA "
            f"that the driver takes, or hide the GPU on purpose: CUDA_VISIBLE_DEVICES=-1"
        )
    if not works:
        return "note", "none is used: runs train on the processor"
    use_device()
    names = []
    for index in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(index)
        ones = torch.ones(256, 256, device=f"cuda:{index}")
        if float((ones @ ones).mean()) != 256:
            return "FAULT", f"{known.name}, number {index}, multiplies wrongly. Do not train on it."
        free, whole = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        names.append(f"{known.name} ({free:.0f} of {whole:.0f} GiB free)")
    cudnn = torch.backends.cudnn.version()
    return "ok", f"{', '.join(names)}; driver {version}, CUDA {torch.version.cuda}, cuDNN {cudnn}"


def compiler() -> Finding:
    """Look for what torch.compile needs, which is no fault to lack."""
    from benchmark.experiment.environment import use_device
    from benchmark.training.compiler import require_compiler

    try:
        require_compiler(use_device())
    except MissingError as missing:
        return "note", str(missing)
    return "ok", "there is one for Pretraining.compiled = True"


def disk(folder: Path, elsewhere: str) -> Finding:
    """Compare the space of a folder's file system with the least that runs need."""
    from benchmark.storage.files import existing

    free = shutil.disk_usage(existing(folder)).free / 2**30
    if free < LEAST_FREE:
        return "FAULT", f"{free:.2f} GiB free, of {LEAST_FREE:g} that are needed. Make room, or {elsewhere}."
    return "ok", f"{free:,.1f} GiB free"


def cache() -> Finding:
    """Write to where decoded images are kept, and see how much room there is."""
    from benchmark.data.cache import MOST_BYTES, folder
    from benchmark.storage.files import atomic_write, existing

    elsewhere, place = "set XDG_CACHE_HOME to another folder", folder()
    try:
        with TemporaryDirectory(dir=existing(place)) as inside, atomic_write(Path(inside, "file")) as file:
            file.write_bytes(b"content")
        taken = sum(file.stat().st_size for file in place.glob("*"))
    except OSError as error:
        return "FAULT", f"{place} cannot be written to: {error.strerror or error}. Repair it, or {elsewhere}."
    level, free = disk(place, elsewhere)
    return level, f"{place} holds {taken / 2**30:.1f} of at most {MOST_BYTES / 2**30:g} GiB; {free}"


def lock(out: Path) -> Finding:
    """Hold a claim on the file system of the runs while another process tries to take it, and again without."""
    from benchmark.storage import files

    files.check_folders(out)
    with TemporaryDirectory(dir=files.existing(out)) as folder:
        command = [sys.executable, "-c", TRY_LOCK, str(PACKAGE.parent), str(Path(folder, "run"))]

        def held() -> bool:
            return subprocess.run(command, capture_output=True, check=True, timeout=WAIT).stdout.strip() == b"True"

        with files.exclusive(Path(folder, "run")):
            excludes = held()
        if excludes and not held():
            return "ok", "a claim of a file keeps out another process, and is free afterwards"
    what = "stays when its holder is gone" if excludes else "keeps nobody out, so that two runs may write to one folder"
    return "FAULT", f"a claim of a file in --out {what}. Give an --out on a local disk."


def digits() -> Finding:
    """Read the images that scikit-learn ships, with which each first run is made."""
    from benchmark.data.images import Images

    data = Images(name="digits", source="sklearn:digits", size=16).outline()
    return "ok", f"{len(data.train.images):,} images of train, {len(data.test.images):,} of test"


def data_sets(sources: Mapping[str, str]) -> Finding:
    """Look for the data sets of the hub and those that users bring, by name, in their folder; nothing is fetched."""
    from benchmark.data.images import ROOT_VARIABLE

    root = os.environ.get(ROOT_VARIABLE)
    if root is not None and not Path(root).is_dir():
        return "FAULT", f"${ROOT_VARIABLE} is no folder. Set it to the folder of the data sets, or unset it."
    sound, damaged, absent = [], [], []
    for name, source in sources.items():
        if not source.startswith(("hub:", "local:")):
            continue
        if root is None or not Path(root, name).is_dir():
            absent += [name] if source.startswith("hub:") else []
            continue
        try:
            sound.append(f"{name} ({', '.join(_splits(Path(root, name), source.split(':')[2:]))})")
        except Exception as error:
            damaged.append(f"{name} is damaged: {first_line(error)}. Restore it, or remove its folder to fetch it anew")
    parts = [*damaged, *sound, *([f"not here, fetched from the hub when asked: {', '.join(absent)}"] if absent else [])]
    return "FAULT" if damaged else "ok", "; ".join(parts)


def _splits(folder: Path, configuration: list[str]) -> Iterator[str]:
    """Yield each split of a local copy. Raises an error for files that cannot be read or are not all there."""
    import pyarrow.parquet

    from benchmark.data.sources import local_copy
    from benchmark.data.splits import check_shards, is_pointer, parquet_below

    splits, files = local_copy(folder, "".join(configuration)), list(parquet_below(folder))
    if not splits:
        raise OSError("there is neither a Parquet file nor an image")
    check_shards(files)
    for file in files:
        if is_pointer(file):
            raise OSError(f"{file.name} is a pointer of Git LFS: git lfs pull fetches it")
        try:
            pyarrow.parquet.read_metadata(file)
        except (OSError, ValueError) as error:
            raise OSError(f"{file.name}: {error}") from error
    for name, load in splits.items():
        if not files and not load().rows and not any((folder / name).glob("*.json")):  # of COCO's annotations
            raise OSError(f"the split {name} has no image")
        yield name


def training(files: list[str]) -> Finding:
    """Train for some seconds, and see that the loss is finite and falls."""
    from benchmark.config import load as configuration
    from benchmark.experiment.stage import Stage
    from benchmark.training.budget import Budget

    stage = Stage.open(configuration.load(files), Path())
    scratch, batch = stage.scratch(0), stage.pretraining.batch_size
    scratch.advance(1)
    steps = max(FEWEST, round(SECONDS / scratch.advance(2) * 2))
    budget = Budget(kind="samples", amount=steps * batch)
    run = replace(stage, experiment=replace(stage.experiment, budget=lambda: budget)).training(math.inf)
    while run.step < steps and run.ledger.train_seconds < 2 * SECONDS:  # others may begin to use the cores
        run.advance(min(FEWEST, steps - run.step))
    losses = run.losses[: run.step]
    first, last = float(losses[:5].mean()), float(losses[-5:].mean())
    speed = run.step * batch / run.ledger.train_seconds
    figure = (
        f"{speed:,.0f} images/s on {stage.device} in {run.precision}, {run.step} steps, loss {first:.2f} to {last:.2f}"
    )
    if last < first and losses.isfinite().all():
        return "ok", figure
    return "FAULT", f"{figure}: it does not fall, or is not finite. Compare with OMP_NUM_THREADS=1 and another torch."
