"""What a GPU has to prove before boards are made on it, and how fast it is: the first command to give on a new one."""

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
from benchmark.runtime import progress
from benchmark.timing import facts
from benchmark.timing.costs import shipped_methods
from benchmark.timing.facts import Outcome
from benchmark.timing.inputs import make_views
from benchmark.timing.measurement import Measurement, cell
from benchmark.timing.rounds import take_turns, timed
from benchmark.timing.training import PRODUCT, TURNS, Turn, peaks
from benchmark.timing.workloads import open_stage
from benchmark.training.budget import Budget
from benchmark.training.loop import Training

BUSY = 20  # turns of matrix products while the meter of energy is watched: half a second
SMALL = ("ViT.width=32", "ViT.depth=2", "ViT.heads=2", "Pretraining.batch_size=32")


@dataclass(frozen=True)
class Workload:
    """An experiment on random images: the files and settings of its configuration."""

    name: str
    files: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def stage(self, device: torch.device, out: Path, *settings: str, budget: Budget | None = None) -> Stage:
        """Open it on a device, with more settings and, where one is given, another budget than an endless one."""
        config = configuration.load(self.files, (*self.settings, *settings))
        stage = replace(open_stage(config, configuration.build(config)), device=device, out=out)
        return _with_budget(stage, budget) if budget else stage

    def short_run(self, device: torch.device, out: Path) -> Training:
        """Build a run of some steps that writes to a folder."""
        stage = self.stage(device, out)
        stage = _with_budget(stage, Budget(kind="samples", amount=facts.STEPS * stage.pretraining.batch_size))
        stage.folder.mkdir(parents=True, exist_ok=True)
        return stage.training(math.inf)


def _with_budget(stage: Stage, budget: Budget) -> Stage:
    return replace(stage, experiment=replace(stage.experiment, budget=lambda: budget))


def _every_method() -> tuple[Workload, ...]:
    """Return all shipped methods on a small transformer and, where they take one, on a convolutional network."""
    resnet = "gin/protocol/digits_resnet18.gin"
    small = [Workload(f"{path.stem} (ViT)", (str(path),), SMALL) for path in shipped_methods()]
    return (*small, *(Workload(f"{path.stem} (ResNet)", (str(path), resnet), SMALL[-1:]) for path in shipped_methods()))


def _listed(part: str) -> tuple[Workload, ...]:
    """Return the workloads that `gin/gpu.toml` lists for a part: the harness itself names no method."""
    entries = tomllib.loads((shipped_folder() / "gpu.toml").read_text(encoding="utf-8"))[part]
    return tuple(Workload(entry["name"], tuple(entry["files"]), tuple(entry["settings"])) for entry in entries)


VERDICTS = {True: "held", False: "**failed**", None: "not seen"}
TURN = replace(TURNS["cuda"], steps=10)


@dataclass(frozen=True)
class Plan:
    """What is checked, and on which device."""

    device: torch.device
    methods: tuple[Workload, ...] = field(default_factory=_every_method)
    repeated: tuple[Workload, ...] = field(default_factory=partial(_listed, "repeated"))
    with_teacher: Workload = field(default_factory=lambda: _listed("with_teacher")[0])
    seconds: float = 20.0
    timed: tuple[Workload, ...] = field(default_factory=partial(_listed, "timed"))
    turn: Turn = TURN


def measure(measurement: Measurement) -> None:
    """Prove and time the GPU. Raises MissingError where there is none."""
    if not torch.cuda.is_available():
        raise MissingError(
            "There is no CUDA device here, and `gpu` measures nothing else. Give the command on a machine with a GPU; "
            "`python -m benchmark.speed training` measures a processor."
        )
    examine(Plan(torch.device("cuda")), measurement)


def examine(plan: Plan, measurement: Measurement) -> None:
    """Check each fact, then time the workloads; what fails is reported, and the rest goes on.

    Where it is stopped, the measurement has what was found until then.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    outcomes: dict[str, Outcome] = {}
    try:
        for name, outcome in _outcomes(plan, measurement):
            outcomes[name] = outcome
            progress.announce(f"{VERDICTS[outcome[0]]}: {name}: {outcome[1]}")
    finally:
        set_deterministic(deterministic)
        measurement.add(
            "Facts",
            "What a GPU has to prove before boards are made on it.",
            ["fact", "", "figure"],
            [[name, VERDICTS[held], figure] for name, (held, figure) in outcomes.items()],
        )
        measurement.text.insert(0, measurement.text.pop())  # the facts come first
        measurement.measured["facts"] = {
            name: {"held": held, "figure": figure} for name, (held, figure) in outcomes.items()
        }


def _outcomes(plan: Plan, measurement: Measurement) -> Iterator[tuple[str, Outcome]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _check_facts(plan, Path(folder))
    for workload in plan.timed:
        compared = _attempt(_time_step, measurement, plan, workload, measurement.rounds)
        yield f"compiled equals eager: {workload.name}", compared
        torch.compiler.reset()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()


def require(measurement: Measurement) -> None:
    """Raise BenchmarkError where a fact did not hold."""
    failed = [name for name, fact in measurement.measured["facts"].items() if fact["held"] is False]
    if failed:
        raise BenchmarkError(f"This GPU does not keep what runs rely on: {'; '.join(failed)}. The figures are above.")


def _check_facts(plan: Plan, folder: Path) -> Iterator[tuple[str, Outcome]]:
    device = plan.device
    halves, waits = {}, {}
    for workload in plan.methods:
        try:
            training = workload.stage(device, folder).scratch(0)
        except ConfigError:  # a method that needs patches, on a network without
            continue
        halves[workload.name] = _attempt(facts.half_precision, training)
        waits[workload.name] = _attempt(facts.free_of_waits, training)
    yield "a step in bfloat16 is close to one in float32", _combine(halves)
    yield f"the host waits for nothing in {facts.WATCHED} steps", _combine(waits)
    for workload in plan.repeated:
        build = partial(workload.short_run, device)
        out = folder / workload.name
        yield f"the same seed gives the same bits: {workload.name}", _attempt(facts.same_bits, build, out / "a")
        yield f"resumed equals uninterrupted: {workload.name}", _attempt(facts.resumes, build, out / "b")
    yield "streamed images equal resident ones", _attempt(facts.streams, device)
    yield "the meter of energy moves", _attempt(facts.meters, device, partial(work, plan))
    stage = partial(plan.with_teacher.stage, device, budget=Budget(kind="samples", amount=8 * 32))
    yield "a teacher leaves no memory to its student", _attempt(facts.frees_teacher, stage, folder)
    yield "a calibration leaves no memory to its run", _attempt(facts.frees_calibration, stage, folder)
    budget = Budget(kind="device_seconds", amount=plan.seconds)
    calibrated = plan.repeated[0].stage(device, folder / "seconds", budget=budget)
    yield f"a budget of {plan.seconds:g} seconds is kept", _attempt(facts.keeps_seconds, calibrated)


def _attempt(fact: Callable[..., Outcome], *arguments: object) -> Outcome:
    """Return the outcome of a fact; an error is one too, with the line of the project that it came from."""
    try:
        return fact(*arguments)
    except Interrupted:
        raise
    except MissingError as problem:
        return None, str(problem)
    except Exception as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        last = [frame for frame in frames if "site-packages" not in frame.filename][-1]
        message = str(problem).partition("\n")[0]
        return False, f"{type(problem).__name__} at {Path(last.filename).name}:{last.lineno}: {message}"


def _combine(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Return whether a fact held of all workloads, with the largest figure; else the figures of those that failed."""
    failed = [f"{name}: {figure}" for name, (held, figure) in outcomes.items() if not held]
    largest = max((figure for _, figure in outcomes.values()), default="")
    return not failed, "; ".join(failed) or f"{len(outcomes)} methods and encoders, at most {largest}"


def _time_step(measurement: Measurement, plan: Plan, workload: Workload, rounds: int) -> Outcome:
    """Time a workload's step in three ways; return how its compiled step compares with its eager one."""
    stage = workload.stage(plan.device, Path())
    eager, compiling = stage.training(math.inf), workload.stage(plan.device, Path(), "Pretraining.compiled=True")
    ways = {"repeatable kernels": (True, eager), "any kernels": (False, eager)}
    compile_seconds = math.nan

    def compare() -> Outcome:
        nonlocal compile_seconds
        set_deterministic(False)
        compiled = compiling.training(math.inf)
        compiled.advance(0)  # compiles
        compile_seconds = compiled.ledger.compile_seconds
        ways["any kernels, compiled"] = (False, compiled)
        return facts.compiles(eager, compiled)

    outcome = _attempt(compare)
    memory = {name: _memory(*way) for name, way in ways.items()}
    turn = plan.turn
    candidates = {PRODUCT: timed(peaks(turn, plan.device, getattr(torch, eager.precision))[PRODUCT])}
    for name, way in ways.items():
        candidates[name] = partial(_advance, *way, turn.steps)
        candidates[f"input, {name}"] = timed(partial(_make_input, *way, turn.steps))
    times = take_turns(candidates, rounds)
    flops = {PRODUCT: float(turn.peaks[PRODUCT])} | dict.fromkeys(ways, float(turn.steps * eager.flops_per_step))
    batch = eager.data.batch_size
    measurement.add(
        workload.name,
        f"Batches of {batch} images, {eager.precision}, {eager.flops_per_step / 1e9:,.1f} GFLOPs a step. The {PRODUCT} "
        f"reaches {cell(times.rate(PRODUCT, flops[PRODUCT] / 1e12), ',.3g')} TFLOP/s. Compilation took "
        f"{compile_seconds:.0f} s. Memory is that of a step and the state.",
        ["", "images/s", f"% of the {PRODUCT}", "input alone, % of a step", "memory, GiB"],
        [
            [
                name,
                cell(times.rate(name, turn.steps * batch), ",.0f"),
                cell(times.percent_of_peak(name, PRODUCT, flops), ".1f"),
                cell(times.ratio(f"input, {name}", name, 100), ".1f"),
                f"{memory[name] / 2**30:.2f}",
            ]
            for name in ways
        ],
    )
    measurement.keep(workload.name, times, flops, precision=eager.precision, batch_size=batch, memory_bytes=memory)
    return outcome


def _advance(deterministic: bool, training: Training, steps: int) -> float:
    set_deterministic(deterministic)
    return training.advance(steps)


def _make_input(deterministic: bool, training: Training, steps: int) -> None:
    set_deterministic(deterministic)
    make_views(training, steps)


def _memory(deterministic: bool, training: Training) -> int:
    """Return the bytes of a run's state and, on a GPU, the most that a step takes beside it."""
    _advance(deterministic, training, facts.UNWATCHED)
    slots = [value for slot in training.optimiser.inner.state.values() for value in slot.values()]
    state = (*training.method.parameters(), *training.method.buffers(), *slots)
    state_bytes = sum(tensor.nbytes for tensor in state if isinstance(tensor, Tensor))
    if training.device.type != "cuda":
        return state_bytes
    torch.cuda.reset_peak_memory_stats(training.device)
    before = facts.tensor_bytes(training.device)
    _advance(deterministic, training, 1)
    return state_bytes + int(torch.cuda.max_memory_allocated(training.device)) - before


def work(plan: Plan) -> None:
    """Keep the device busy for longer than its meter takes to move."""
    multiply = peaks(plan.turn, plan.device, torch.bfloat16)[PRODUCT]
    for _ in range(BUSY):
        multiply()
