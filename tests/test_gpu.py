"""The facts that a GPU has to prove: with `pytest -m gpu` on a GPU, and as far as possible on a processor."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import TinyMethod, training
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.errors import BenchmarkError, ConfigError
from benchmark.method import Step, Views
from benchmark.randomness import Draws
from benchmark.runtime.transfer import packed, send
from benchmark.speed import main
from benchmark.timing import facts, gpu
from benchmark.timing.gpu import Plan, Workload
from benchmark.timing.training import Turn
from benchmark.training import energy
from benchmark.training.budget import Budget
from benchmark.training.optim import LARS
from benchmark.views import randaugment
from benchmark.views.colour import normalise
from benchmark.views.randaugment import OPERATIONS, rand_augment
from benchmark.views.recipes import ViewLimits, blur_solarize

CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))
PLAN = Plan(CUDA)
METHODS = {workload.name: workload for workload in PLAN.methods}
ON_CPU = [name for name in METHODS if "(ViT)" in name or name == "moco (ResNet)"]
TINY = ("ViT.width=32", "ViT.depth=1", "ViT.heads=2", "Pretraining.batch_size=32")

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.gpu(needs_gpu(test))


# On a GPU


@on_gpu
@pytest.mark.parametrize("name", METHODS)
def test_every_method_steps_on_a_gpu(name: str, tmp_path: Path) -> None:
    """Oracle: the loss in float32, and torch's own alarm for whatever makes the host wait."""
    try:
        run = METHODS[name].stage(CUDA, tmp_path).scratch(0)
    except ConfigError:
        pytest.skip("this method needs patches")
    for held, figure in (facts.half_precision(run), facts.free_of_waits(run)):
        assert held, figure


def compiles(folder: Path, files: tuple[str, ...], *settings: str) -> facts.Outcome:
    workload = Workload("", files, (*settings, "Pretraining.precision=float32"))
    eager, compiled = (workload.stage(CUDA, folder, f"Pretraining.compiled={way}") for way in (False, True))
    return facts.compiles(eager.scratch(0), compiled.scratch(0))


def frees(fact: Callable[..., facts.Outcome], folder: Path) -> facts.Outcome:
    budget = Budget(kind="samples", amount=8 * 32)
    return fact(partial(PLAN.with_teacher.stage, CUDA, budget=budget), folder)


def keeps_seconds(folder: Path) -> facts.Outcome:
    budget = Budget(kind="device_seconds", amount=PLAN.seconds)
    return facts.keeps_seconds(PLAN.repeated[0].stage(CUDA, folder, budget=budget))


RESNET = ("gin/simclr.gin", "gin/protocol/cifar10_resnet18.gin")
FACTS: dict[str, Callable[[Path], facts.Outcome]] = {
    **{f"same bits {run.name}": partial(facts.same_bits, partial(run.short_run, CUDA)) for run in PLAN.repeated},
    **{f"resumes {run.name}": partial(facts.resumes, partial(run.short_run, CUDA)) for run in PLAN.repeated},
    "compiles ResNet": lambda folder: compiles(folder, RESNET, "Pretraining.batch_size=64"),
    "compiles ViT": lambda folder: compiles(folder, ("gin/mae.gin",), *gpu.SMALL),
    "streams": lambda folder: facts.streams(CUDA),
    "meters": lambda folder: facts.meters(CUDA, partial(gpu.work, PLAN)),
    "keeps seconds": keeps_seconds,
    "frees teacher": partial(frees, facts.frees_teacher),
    "frees calibration": partial(frees, facts.frees_calibration),
}


@on_gpu
@pytest.mark.parametrize("fact", FACTS)
def test_facts_hold_on_a_gpu(fact: str, tmp_path: Path) -> None:
    """Oracle: the same run undisturbed, the eager step, resident batches, joules, the budget within 3 %, and the
    allocator's count of bytes."""
    held, figure = FACTS[fact](tmp_path)
    if held is None:
        pytest.skip(figure)
    assert held, figure


@on_gpu
@pytest.mark.parametrize("pinned", [True, False])
def test_tensors_arrive_on_a_gpu(pinned: bool) -> None:
    """Oracle: the tensors that were sent, after others took their places in pinned memory."""
    for _ in range(50):
        sent = several()
        arrived = packed(CUDA, sent, pinned=pinned)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(arrived, sent, strict=True))


# On a processor


def tiny_plan() -> Plan:
    refusing = Workload("mae", ("gin/mae.gin", "gin/protocol/digits_resnet18.gin"), TINY[-1:])  # refuses its encoder
    simclr, mae, mimco = (Workload(name, (f"gin/{name}.gin",), TINY) for name in ("simclr", "mae", "mimco"))
    return Plan(
        CPU,
        methods=(simclr, refusing),
        repeated=(mae,),
        with_teacher=mimco,
        seconds=0.2,
        timed=(simclr,),
        turn=Turn(steps=1, repeats=1, side=64, images=1),
    )


@pytest.mark.slow
def test_the_whole_of_the_command_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: each fact holds, but for seconds, which a busy processor may miss, and joules, for which it has no meter.

    In the table there are three ways of a step, of which each number is one; a page and a line of JSON are written.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(gpu, "measure", partial(gpu.examine, tiny_plan()))
    assert main(["gpu", "--rounds", "1", "--out", str(tmp_path)]) in (0, 1)
    (page,) = (path.read_text() for path in tmp_path.glob("gpu-*.md"))
    facts = dict(line.strip("| ").split(" | ")[:2] for line in page.splitlines() if line.count("|") == 4)
    del facts["a budget of 0.2 seconds is kept"], facts["fact"], facts[":--"]
    assert facts.pop("the meter of energy moves") == "not seen"
    assert set(facts.values()) == {"held"}, page
    assert len(facts) == 8
    for way in ("repeatable kernels", "any kernels", "any kernels, compiled"):
        assert f"| {way} | " in page
    assert torch.are_deterministic_algorithms_enabled()


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: exit code 3 and one sentence."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu"]) == 3
    assert "error: There is no CUDA device here" in capsys.readouterr().err


class Watch(TorchDispatchMode):
    """Notes operations for which the host would wait if the meta device were a GPU.

    These are copies to the device, other than those of `send`, and tensors that are made there from numbers of the
    host. torch itself raises an error where values are read or devices mixed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[str] = set()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = call(*args, **kwargs)
        inputs, outputs = (
            {t.device.type for t in tree_leaves(tree) if isinstance(t, Tensor)} for tree in ((args, kwargs), result)
        )
        copied = "cpu" in inputs and not kwargs.get("non_blocking")
        if "meta" in outputs and (copied or call is torch.ops.aten.lift_fresh.default):
            self.waits.add(str(call))
        return result


def waits(act: Callable[[], object]) -> set[str]:
    with Watch() as watch:
        act()
    return watch.waits


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the meta device stand in for a GPU: there is no autocast for it."""
    autocast = torch.autocast

    def on_cpu(device: str, *args: Any, **kwargs: Any) -> torch.autocast:
        return autocast("cpu" if device == "meta" else device, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", on_cpu)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_CPU)
def test_no_step_makes_the_host_wait(name: str, tmp_path: Path, meta: None) -> None:
    """Oracle: the operations of a step that begins an epoch.

    Fused AdamW refuses the meta device; the step of LARS takes its place.
    """
    run = METHODS[name].stage(META, tmp_path).scratch(0)
    run.optimiser = LARS(base_rate=0.1, weight_decay=0.1).build(run.method.param_groups(), 32)
    assert waits(run._take) == set()


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="torch 2.11 makes tensors of numbers unseen")
def test_waits_are_noticed(meta: None) -> None:
    """Oracle: numbers made tensors of the device, a copy to it, and a copy by `send`."""
    images, numbers = torch.empty(2, 3, 4, 4, device="meta"), torch.zeros(3)
    acts: list[Callable[[], object]] = [
        lambda: normalise(images, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        lambda: numbers.to("meta"),
        lambda: images[0, 0, 0, 0].copy_(numbers[0]),
        lambda: send("meta", numbers),
        lambda: normalise(images, *send("meta", numbers, numbers)),
    ]
    assert [bool(waits(act)) for act in acts] == [True, True, True, False, False]


def test_views_and_augmentations_make_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the operations of views that are jittered, grey, blurred and solarized, and of RandAugment, but for one
    of torchvision's, which makes its kernel of numbers."""
    usual = {name: operation for name, operation in OPERATIONS.items() if name != "SharpnessIncreasing"}
    monkeypatch.setattr(randaugment, "OPERATIONS", usual)
    images, rows = torch.empty(64, 3, 16, 16, device="meta"), Draws(0, 0, 64).rows
    for view in blur_solarize(ViewLimits()):
        assert waits(partial(view, images.to(torch.uint8), 16, rows)) == set()
    assert waits(partial(rand_augment, images, 9.0, (0.5, 0.5, 0.5), rows)) == set()


def test_a_stop_leaves_what_was_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the two facts before the stop, in the page, in the output and each on a line as soon as it is known."""

    def stop(*_: object) -> facts.Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(facts, "same_bits", stop)
    monkeypatch.setattr(gpu, "measure", partial(gpu.examine, tiny_plan()))
    assert main(["gpu", "--rounds", "1", "--out", str(tmp_path)]) == 130
    printed = capsys.readouterr().out
    assert printed.count("\nheld: ") + printed.startswith("held: ") == 2
    (page,) = (path.read_text() for path in tmp_path.glob("gpu-*.md"))
    assert page.count("| held |") == printed.count("| held |") == 2


def several() -> tuple[Tensor, ...]:
    """Return tensors of various types and shapes, of which one is empty and one is not contiguous."""
    return (
        torch.randn(5, 3),
        torch.rand(7) < 0.5,
        torch.randint(0, 9, (3,)),
        torch.zeros(0, 4),
        torch.randn(4, 6)[:, 1],
        torch.tensor(2.5, dtype=torch.float64),
    )


def test_tensors_travel_together() -> None:
    """Oracle: the tensors that were sent, in one buffer; on a processor they are not even copied."""
    sent = several()
    arrived = packed(CPU, sent, pinned=False)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(arrived, sent, strict=True))
    assert len({tensor.untyped_storage().data_ptr() for tensor in arrived}) == 1
    assert all(a is b for a, b in zip(send(CPU, *sent), sent, strict=True))


class Coarse(TinyMethod):
    """Has a loss that depends on the precision."""

    def forward(self, views: Views, draws: Draws) -> Step:
        step = super().forward(views, draws)
        return Step(step.loss + torch.is_autocast_enabled("cpu"), step.logs)


def test_facts_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what each of them is about is broken: precision, seeds, checkpoints, pixels, and gradients."""
    seeds = iter(range(10))

    def another(folder: Path) -> Any:
        return training(folder, steps=facts.STEPS, seed=next(seeds))

    assert facts.half_precision(training(tmp_path / "a", Coarse))[0] is False
    for fact in (facts.same_bits, facts.resumes):
        folder = tmp_path / fact.__name__
        folder.mkdir()
        assert fact(another, folder)[0] is False
    assert facts.compiles(training(tmp_path / "d"), training(tmp_path / "d", seed=1))[0] is False
    assert facts.compiles(training(tmp_path / "d"), training(tmp_path / "d"))[0] is True
    begin = facts.Streamed.begin
    monkeypatch.setattr(facts.Streamed, "begin", lambda images, ids: lambda: torch.zeros_like(begin(images, ids)()))
    assert facts.streams(CPU) == (False, "0 of 30 batches")


def test_memory_that_stays_is_counted(tmp_path: Path) -> None:
    """Oracle: 4 MiB that somebody keeps, beside a network that may stay."""
    stage = SimpleNamespace(device=CPU, dataset=SimpleNamespace(pretrain_on=lambda device: None))
    kept: list[Tensor] = []

    def build(stage: Any) -> torch.nn.Module:
        return torch.nn.Linear(1024, 2048, bias=False)

    def leak(stage: Any) -> torch.nn.Module:
        kept.append(torch.zeros(2**20))
        return build(stage)

    assert facts._left(lambda folder: stage, tmp_path, leak) == (False, "4.00 MiB")
    assert facts._left(lambda folder: stage, tmp_path, build) == (True, "0.00 MiB")


def test_the_meter_is_read_around_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: readings by hand."""
    readings = iter([1.0, 3.5, 4.0, 4.0])
    monkeypatch.setattr(energy, "meter", lambda device: next(readings))
    assert facts.meters(CUDA, lambda: None) == (True, "2.5 J")
    assert facts.meters(CUDA, lambda: None) == (False, "0.0 J")


def test_a_fact_that_breaks_down_is_reported() -> None:
    """Oracle: the error with its line in the project, what is missing, and the names of the methods that failed."""

    def broken() -> facts.Outcome:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")

    held, figure = gpu._attempt(broken)
    assert held is False
    assert figure.startswith("RuntimeError at test_gpu.py:")
    assert figure.endswith("called a synchronizing CUDA operation")
    assert gpu._combine({"a": (True, "fine"), "b": (held, "bad")}) == (False, "b: bad")
    assert gpu._combine({"a": (True, "0.1%"), "b": (True, "0.2%")})[1].endswith("at most 0.2%")
    measurement = gpu.Measurement("gpu", 1)
    measurement.measured["facts"] = {"x": {"held": False}, "y": {"held": None}, "z": {"held": True}}
    with pytest.raises(BenchmarkError, match=r"does not keep what runs rely on: x\. The"):
        gpu.require(measurement)


def test_the_watch_over_waits_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: torch's mode before the watched steps, and after an error in them."""
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", calls.append)

    def advance(steps: int) -> None:
        calls.append(steps)
        if steps == facts.WATCHED:
            raise RuntimeError

    with contextlib.suppress(RuntimeError):
        facts.free_of_waits(SimpleNamespace(device=CUDA, advance=advance))
    assert calls == [facts.UNWATCHED, "error", facts.WATCHED, "default"]
