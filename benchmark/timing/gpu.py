"""What a GPU has to prove before boards are made on it, and how fast it is: the first command to give on a new one.

Each fact is a function of a device, so that it can be tried on a processor too, as far as there is something to try.
"""

import math
import tempfile
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmark.config import load as configuration
from benchmark.config.parse import shipped_folder
from benchmark.errors import BenchmarkError, ConfigError, Interrupted, MissingError
from benchmark.experiment.environment import set_deterministic
from benchmark.experiment.stage import Stage
from benchmark.timing.costs import shipped_methods
from benchmark.timing.facts import (
    STEPS,
    UNWATCHED,
    WATCHED,
    Outcome,
    compiles,
    count_bytes,
    free_of_waits,
    frees_calibration,
    frees_teacher,
    half_precision,
    held,
    keeps_seconds,
    meters,
    resumes,
    same_bits,
    streams,
)
from benchmark.timing.inputs import make_views, share
from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import take_turns, timed
from benchmark.timing.training import TURNS, Turn, peaks, shares
from benchmark.timing.workloads import stage as opened
from benchmark.training.budget import Budget
from benchmark.training.loop import Training

BUSY = 20  # turns of matrix products while the meter of energy is watched: half a second
SMALL = ("ViT.width=32", "ViT.depth=2", "ViT.heads=2", "Pretraining.batch_size=32")


@dataclass(frozen=True)
class Fact:
    """What was looked at, whether it held (None where it could not be seen), and the figure behind it."""

    name: str
    held: bool | None
    figure: str


@dataclass(frozen=True)
class Workload:
    """An experiment on random images: the files and settings of its configuration."""

    name: str
    files: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def stage(self, device: torch.device, out: Path, *settings: str, budget: Budget | None = None) -> Stage:
        """Open it on a device, with more settings and, where one is given, another budget than an endless one."""
        loaded = configuration.load(self.files, (*self.settings, *settings))
        made = opened(loaded, configuration.build(loaded))
        if budget:
            made = replace(made, experiment=replace(made.experiment, budget=lambda: budget))
        return replace(made, device=device, out=out)


def _every_method() -> tuple[Workload, ...]:
    """Return all shipped methods on a small transformer and, where they take one, on a convolutional network."""
    small = [Workload(f"{path.stem} (ViT)", (str(path),), SMALL) for path in shipped_methods()]
    files = [(path, "gin/protocol/digits_resnet18.gin") for path in shipped_methods()]
    return (*small, *(Workload(f"{path.stem} (ResNet)", (str(path), other), SMALL[-1:]) for path, other in files))


def _listed(part: str) -> tuple[Workload, ...]:
    """Return the subjects that `gin/gpu.toml` lists for a part: the harness itself names no method."""
    entries = tomllib.loads((shipped_folder() / "gpu.toml").read_text(encoding="utf-8"))[part]
    return tuple(Workload(entry["name"], tuple(entry["files"]), tuple(entry["settings"])) for entry in entries)


TURN = replace(TURNS["cuda"], steps=10)


@dataclass(frozen=True)
class Plan:
    """What is looked at, and on which device: the defaults take less than four minutes of a GPU of a data centre."""

    device: torch.device
    methods: tuple[Workload, ...] = field(default_factory=_every_method)
    repeated: tuple[Workload, ...] = field(default_factory=partial(_listed, "repeated"))
    taught: Workload = field(default_factory=lambda: _listed("taught")[0])
    seconds: float = 20.0
    timed: tuple[Workload, ...] = field(default_factory=partial(_listed, "timed"))
    turn: Turn = TURN


def measure(rounds: int) -> Measurement:
    """Prove and time the GPU. Raises MissingError where there is none."""
    if not torch.cuda.is_available():
        raise MissingError(
            "There is no CUDA device here, and `gpu` measures nothing else. Give the command on a machine with a GPU; "
            "`python -m benchmark.speed training` measures a processor."
        )
    return examine(Plan(torch.device("cuda")), rounds)


def examine(plan: Plan, rounds: int) -> Measurement:
    """Look at each fact, then time the subjects; what fails is told, and the rest goes on."""
    found, tables = Measurement("gpu", rounds), Measurement("gpu", rounds)
    deterministic = torch.are_deterministic_algorithms_enabled()
    with tempfile.TemporaryDirectory() as folder:
        facts = list(_facts(plan, Path(folder)))
    for workload in plan.timed:
        compared = _tried(partial(_timed, tables, plan, workload, rounds))
        facts.append(Fact(f"compiled equals eager: {workload.name}", *compared))
        torch.compiler.reset()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
    set_deterministic(deterministic)
    found.add(
        "Facts",
        "What a GPU has to prove before boards are made on it.",
        ["fact", "", "figure"],
        [[fact.name, {True: "held", False: "**failed**", None: "not seen"}[fact.held], fact.figure] for fact in facts],
    )
    found.text += tables.text
    found.measured |= tables.measured
    found.measured["facts"] = {fact.name: {"held": fact.held, "figure": fact.figure} for fact in facts}
    return found


def require(found: Measurement) -> None:
    """Raise BenchmarkError where a fact did not hold."""
    failed = [name for name, fact in found.measured["facts"].items() if fact["held"] is False]
    if failed:
        raise BenchmarkError(f"This GPU does not keep what runs rely on: {'; '.join(failed)}. The figures are above.")


def _facts(plan: Plan, folder: Path) -> Iterator[Fact]:
    device = plan.device
    halves, waits = {}, {}
    for workload in plan.methods:
        try:
            training = workload.stage(device, folder).scratch(0)
        except ConfigError:  # a method that needs patches, on a network without
            continue
        halves[workload.name] = _tried(partial(half_precision, training))
        waits[workload.name] = _tried(partial(free_of_waits, training))
    yield Fact("a step in bfloat16 is close to one in float32", *_together(halves))
    yield Fact(f"the host waits for nothing in {WATCHED} steps", *_together(waits))
    for workload in plan.repeated:
        build = partial(short_run, workload, device)
        same = _tried(partial(same_bits, build, folder / workload.name / "same"))
        yield Fact(f"the same seed gives the same bits: {workload.name}", *same)
        resumed = _tried(partial(resumes, build, folder / workload.name / "resumed"))
        yield Fact(f"resumed equals uninterrupted: {workload.name}", *resumed)
    yield Fact("streamed images equal resident ones", *_tried(partial(streams, device)))
    busy = partial(work, plan)
    yield Fact("the meter of energy moves", *_tried(partial(meters, device, busy)))
    taught = partial(plan.taught.stage, device, budget=Budget(kind="samples", amount=8 * 32))
    yield Fact("a teacher leaves no memory to its student", *_tried(partial(frees_teacher, taught, folder)))
    yield Fact("a calibration leaves no memory to its run", *_tried(partial(frees_calibration, taught, folder)))
    budget = Budget(kind="device_seconds", amount=plan.seconds)
    timed = plan.repeated[0].stage(device, folder / "seconds", budget=budget)
    yield Fact(f"a budget of {plan.seconds:g} seconds is kept", *_tried(partial(keeps_seconds, timed)))


def _tried(act: Callable[[], Outcome]) -> Outcome:
    """Return how something ended; an error is told with the line of the project that it came from."""
    try:
        return act()
    except Interrupted:
        raise
    except MissingError as problem:
        return None, str(problem)
    except Exception as problem:
        own = [frame for frame in traceback.extract_tb(problem.__traceback__) if "site-packages" not in frame.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        return False, f"{type(problem).__name__} at {place}: {str(problem).splitlines()[0] if str(problem) else ''}"


def _together(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Return whether a fact held of all subjects, with the largest figure; else the figures of those that failed."""
    failed = [f"{name}: {figure}" for name, (held, figure) in outcomes.items() if not held]
    largest = max((figure for _, figure in outcomes.values()), default="")
    return not failed, "; ".join(failed) or f"{len(outcomes)} methods and encoders, at most {largest}"


def short_run(workload: Workload, device: torch.device, out: Path) -> Training:
    """Build a run of some steps that writes to a folder."""
    stage = workload.stage(device, out)
    budget = Budget(kind="samples", amount=STEPS * stage.pretraining.batch_size)
    stage = replace(stage, experiment=replace(stage.experiment, budget=lambda: budget))
    stage.folder.mkdir(parents=True, exist_ok=True)
    return stage.training(math.inf)


def _timed(found: Measurement, plan: Plan, workload: Workload, rounds: int) -> Outcome:
    """Time a workload's step in three ways; return how its compiled step compares with its eager one."""
    stage = workload.stage(plan.device, Path())
    eager, compiling = stage.training(math.inf), workload.stage(plan.device, Path(), "Pretraining.compiled=True")
    ways = {"repeatable kernels": (True, eager), "any kernels": (False, eager)}
    seconds = [math.nan]

    def compare() -> Outcome:
        set_deterministic(False)
        compiled = compiling.training(math.inf)
        compiled.advance(0)  # compiles
        seconds[0] = compiled.ledger.compile_seconds
        ways["any kernels, compiled"] = (False, compiled)
        return compiles(eager, compiled)

    outcome = _tried(compare)
    memory = {name: _footprint(*way) for name, way in ways.items()}
    turn, dtype = plan.turn, torch.bfloat16 if eager.precision == "bfloat16" else torch.float32
    product = "matrix product"
    candidates = {product: timed(peaks(turn, plan.device, dtype)[product])}
    for name, way in ways.items():
        candidates[name] = partial(_advance, *way, turn.steps)
        candidates[f"input, {name}"] = timed(partial(_make_input, *way, turn.steps))
    times = take_turns(candidates, rounds)
    work = {product: float(turn.peaks[product])} | dict.fromkeys(ways, float(turn.steps * eager.flops_per_step))
    best = cell(times.rate(product, work[product] / 1e12), ",.3g")
    batch = eager.data.batch_size
    found.add(
        workload.name,
        f"Batches of {batch} images, {eager.precision}, {eager.flops_per_step / 1e9:,.1f} GFLOPs a step. The matrix "
        f"product reaches {best} TFLOP/s. Compilation took {seconds[0]:.0f} s. Memory is that of a step and the state.",
        ["", "images/s", f"% of the {product}", "input alone, % of a step", "memory, GiB"],
        [
            [
                name,
                cell(times.rate(name, turn.steps * batch), ",.0f"),
                cell(shares(times, work, name, product), ".1f"),
                cell(share(times, f"input, {name}", name), ".1f"),
                f"{memory[name] / 2**30:.2f}",
            ]
            for name in ways
        ],
    )
    found.keep(workload.name, times, work, precision=eager.precision, batch_size=batch, memory_bytes=memory)
    return outcome


def _advance(deterministic: bool, training: Training, steps: int) -> float:
    set_deterministic(deterministic)
    return training.advance(steps)


def _make_input(deterministic: bool, training: Training, steps: int) -> None:
    set_deterministic(deterministic)
    make_views(training, steps)


def _footprint(deterministic: bool, training: Training) -> int:
    """Return the bytes of a run's state and, on a GPU, the most that a step takes beside it."""
    _advance(deterministic, training, UNWATCHED)
    state = [*training.method.parameters(), *training.method.buffers()]
    slots = [value for slot in training.optimiser.inner.state.values() for value in slot.values()]
    own = sum(count_bytes(tensor) for tensor in (*state, *slots) if isinstance(tensor, Tensor))
    if training.device.type != "cuda":
        return own
    torch.cuda.reset_peak_memory_stats(training.device)
    before = held(training.device)
    _advance(deterministic, training, 1)
    return own + int(torch.cuda.max_memory_allocated(training.device)) - before


def work(plan: Plan) -> None:
    """Keep the device busy for longer than its meter takes to move."""
    multiply = peaks(plan.turn, plan.device, torch.bfloat16)["matrix product"]
    for _ in range(BUSY):
        multiply()
