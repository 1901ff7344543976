"""The training loop: what a run is a function of, and that no interruption shows in it."""

import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyEncoder, TinyMethod, training
from torch import Tensor

from benchmark.data.resident import Resident
from benchmark.errors import BenchmarkError, ConfigError, Interrupted, MissingError
from benchmark.experiment.setup import Pretraining
from benchmark.method import Method, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws
from benchmark.storage import checkpoint
from benchmark.storage.claim import Claim, Lost
from benchmark.training import loop
from benchmark.training.compiler import require_compiler
from benchmark.training.loop import Outcome, Training
from benchmark.views.recipes import View, ViewLimits

LONG = 200  # steps, at which a window has 2


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the logged windows, read by the letter of JSON: no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(folder: Path) -> list[dict[str, Any]]:
    times = ("images_per_second", "train_seconds")
    return [{name: value for name, value in line.items() if name not in times} for line in lines(folder)]


def interrupted(run: Training, at: int, number: int = signal.SIGTERM) -> None:
    """Run until `at` steps are taken, then send this process a signal."""
    after_step = run.method.after_step

    def send(progress: float) -> None:
        after_step(progress)
        if run.step == at - 1:
            os.kill(os.getpid(), number)

    run.method.after_step = send  # type: ignore[method-assign]
    with pytest.raises(
        Interrupted, match=rf"after step {at} of {run.steps}; the state is saved. The same command goes on"
    ):
        run.run(resume=False)


def same(a: Outcome, b: Outcome) -> bool:
    return (a.digest, a.loss, a.logs, a.health, a.status) == (b.digest, b.loss, b.logs, b.health, b.status)


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """Oracle: the same seed twice gives the same digest, losses and lines; another seed gives others."""
    runs = [training(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    a, b, other = (run.run(resume=False) for run in runs)
    assert same(a, b)
    assert without_times(tmp_path / "0") == without_times(tmp_path / "1")
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert a.digest != other.digest
    assert not torch.equal(runs[0].losses, runs[2].losses)


def test_a_run_can_be_the_beginning_of_a_longer_one(tmp_path: Path) -> None:
    """Oracle: the losses of the first 6 of 12 steps, whose rate depends on the progress; 6 whole steps have others."""
    long, whole = (training(tmp_path / str(steps), steps=steps) for steps in (12, 6))
    begun = training(tmp_path / "begun", steps=6, schedule_steps=12)
    for run in (long, whole, begun):
        run.run(resume=False)
    assert torch.equal(begun.losses, long.losses[:6])
    assert not torch.equal(begun.losses, whole.losses)


def test_the_loss_falls(tmp_path: Path) -> None:
    """Oracle: training trains: the last window's loss is below half of the first."""
    training(tmp_path, steps=100).run(resume=False)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_interrupted_and_resumed_is_undisturbed(tmp_path: Path, number: int) -> None:
    """Oracle: the digest, losses and lines of the run that nobody interrupted; the handlers of before are back."""
    if signal.getsignal(number) is signal.SIG_IGN:  # where pytest runs in the background
        signal.signal(number, signal.SIG_DFL)
    handler = signal.getsignal(number)
    whole = training(tmp_path / "whole").run(resume=False)
    interrupted(training(tmp_path / "cut"), 5, number)
    assert signal.getsignal(number) is handler
    again = training(tmp_path / "cut")
    assert same(again.run(resume=True), whole)
    assert again.ledger.resumes == 1
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("long")
    return training(folder, steps=LONG).run(resume=False), folder


@pytest.mark.slow
@pytest.mark.parametrize("at", [7, 8, LONG])
def test_every_window_is_logged_once(tmp_path: Path, long: tuple[Outcome, Path], at: int) -> None:
    """Oracle: the lines of the undisturbed run, wherever in a window of 2 steps, or at the end, the signal fell."""
    whole, folder = long
    interrupted(training(tmp_path, steps=LONG), at)
    assert same(training(tmp_path, steps=LONG).run(resume=True), whole)
    assert without_times(tmp_path) == without_times(folder)
    assert [line["step"] for line in lines(folder)] == list(range(2, LONG + 1, 2))


def test_a_killed_run_resumes_from_any_checkpoint(tmp_path: Path) -> None:
    """Oracle: the undisturbed run; the kill lost the newest file, logged on, and cut the last line short."""
    whole = training(tmp_path / "whole").run(resume=False)
    training(tmp_path / "cut", checkpoint_seconds=0.0).run(resume=False)
    newest, *older = sorted((tmp_path / "cut" / "checkpoints").iterdir(), reverse=True)
    assert len(older) == 1
    newest.write_bytes(newest.read_bytes()[:1000])
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 13, "lo')
    again = training(tmp_path / "cut")
    assert same(again.run(resume=True), whole)
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    assert again.ledger.images == 12 * 16


def test_a_damaged_checkpoint_is_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a warning on stderr; without any sound file an error, not a restart."""
    training(tmp_path, checkpoint_seconds=0.0).run(resume=False)
    newest, older = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    newest.write_bytes(b"")
    training(tmp_path)._restore()
    assert f"warning: {newest.name} is damaged" in capsys.readouterr().err
    older.write_bytes(b"")
    with pytest.raises(BenchmarkError, match="--fresh"):
        training(tmp_path).run(resume=True)


def moments(state: dict[str, Any]) -> dict[str, Any]:
    """Return the moments of the first tensor in a checkpoint."""
    first: dict[str, Any] = state["optimiser"]["state"][0]
    return first


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no step": lambda state: state.pop("step"),
    "step as text": lambda state: state.update(step="5"),
    "step as a fraction": lambda state: state.update(step=5.0),
    "an earlier step": lambda state: state.update(step=4),
    "a step below 0": lambda state: state.update(step=-5),
    "a step after the last": lambda state: state.update(step=13),
    "no weights": lambda state: state.pop("method"),
    "a weight too many": lambda state: state["method"].update(more=torch.ones(2)),
    "a weight too few": lambda state: state["method"].popitem(),
    "weights in half precision": lambda state: state["method"].update(
        {name: value.half() for name, value in state["method"].items() if value.is_floating_point()}
    ),
    "losses of a longer run": lambda state: state.update(losses=torch.ones(13)),
    "one loss": lambda state: state.update(losses=torch.ones(1)),
    "losses as text": lambda state: state.update(losses="low"),
    "no optimiser": lambda state: state.pop("optimiser"),
    "no moments": lambda state: state["optimiser"].update(state={}),
    "no moments of one tensor": lambda state: moments(state).clear(),
    "a moment too few": lambda state: moments(state).popitem(),
    "a moment of another shape": lambda state: moments(state).update(exp_avg=torch.ones(2)),
    "a moment as a number": lambda state: moments(state).update(exp_avg=0.5),
    "groups of another method": lambda state: state["optimiser"]["param_groups"].pop(),
    "no ledger": lambda state: state.pop("ledger"),
    "a ledger with more": lambda state: state["ledger"].update(coins=3),
    "seconds as text": lambda state: state["ledger"].update(train_seconds="long"),
    "logs as a list": lambda state: state.update(logs=[1.0]),
    "a log as text": lambda state: state["logs"].update(spread="wide"),
    "a curve as text": lambda state: state.update(curve="steep"),
}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A run that came to its end, and the folder of one that was interrupted after step 5."""
    folder = tmp_path_factory.mktemp("cut")
    interrupted(training(folder / "cut", checkpoint_seconds=0.0), 5)
    return training(folder / "whole").run(resume=False), folder / "cut"


@pytest.mark.parametrize("kind", CHANGES)
def test_a_checkpoint_that_the_run_could_not_write_is_skipped(
    tmp_path: Path, cut: tuple[Outcome, Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the undisturbed run, from the file before; a warning that names the file. Names fit the contents."""
    whole, folder = cut
    shutil.copytree(folder, tmp_path / "cut")
    before, newest = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    state = torch.load(newest, weights_only=True)
    CHANGES[kind](state)
    newest.unlink()
    torch.save(state, bad := newest.with_name("bad"))
    named = bad.rename(newest.with_name(f"step-00000005-{hashlib.sha256(bad.read_bytes()).hexdigest()[:16]}.pt"))
    if state.get("step") == 13:
        named.rename(named.with_name(named.name.replace("00000005", "00000013")))
    again = training(tmp_path / "cut")
    assert same(again.run(resume=True), whole)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning: step-000000")
    assert warning.endswith("and is skipped.")
    assert before.name not in warning


def test_a_run_that_lost_its_claim_logs_and_saves_nothing_more(tmp_path: Path) -> None:
    """Oracle: by hand: the claim goes in step 10, at the end of a window of 2; the lines before stay."""
    with Claim(tmp_path / "claimed").acquire() as held:
        run = training(tmp_path / "run", steps=LONG)
        run.method.after_step = lambda _: held.path.unlink() if run.step == 9 else None  # type: ignore[method-assign]
        with pytest.raises(Lost):
            run.run(resume=False)
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 4, 6, 8]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_lost_checkpoints_are_no_restart(tmp_path: Path) -> None:
    """Oracle: 12 steps were logged and checkpoints were written: an error that says so.

    A run that logged nothing begins, and so does one that ended before its first checkpoint, or while it wrote it.
    """
    training(tmp_path / "new").run(resume=True)
    for name in ("broken", "writing"):
        begun = training(tmp_path / name)
        (begun.folder / "metrics.jsonl").write_text('{"step": 4}\n')
        if name == "writing":
            (begun.folder / "checkpoints").mkdir()
            (begun.folder / "checkpoints" / ".step-00000004-0123456789abcdef.pt.0123.partial").write_bytes(b"half")
        assert begun.run(resume=True).status == "ok"
    training(tmp_path / "lost").run(resume=False)
    for path in (tmp_path / "lost" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(BenchmarkError, match=r"has logged 12 steps but has no checkpoint.*--fresh"):
        training(tmp_path / "lost").run(resume=True)


def test_a_damaged_log_is_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the lines of the undisturbed run, and a warning that counts the damaged one."""
    training(tmp_path / "whole").run(resume=False)
    interrupted(training(tmp_path / "cut"), 6)
    log = tmp_path / "cut" / "metrics.jsonl"
    log.write_bytes(b"\xff\xfe\n" + log.read_bytes())
    training(tmp_path / "cut").run(resume=True)
    assert "warning: 1 damaged lines of" in capsys.readouterr().err
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")


def test_slow_writes_come_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand, on a clock of which a step takes 1 s and a write 0.1 s: 2 % of the time is a write each 5 s.

    Without the bound every step would be followed by a write.
    """
    clock, writes = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    run = training(tmp_path, steps=11, checkpoint_seconds=0.5)
    advance = run.advance

    def advanced(*arguments: Any) -> float:
        clock[0] += 1.0
        return advance(*arguments)

    def written() -> Path:
        clock[0] += 0.1
        writes.append(run.step)
        return tmp_path

    monkeypatch.setattr(run, "advance", advanced)
    monkeypatch.setattr(run, "save", written)
    run.run(resume=False)
    assert writes == [1, 7, 11]  # the first by the interval asked for, the next 5 s after it, the last at the end


def test_checkpoints_load_safely(tmp_path: Path) -> None:
    """Oracle: torch's loader with weights_only=True, which executes nothing; the state is complete by name."""
    path = training(tmp_path).run(resume=False).checkpoint
    state = torch.load(path, weights_only=True)
    assert set(state) == {"method", "optimiser", "step", "losses", "logs", "key", "ledger", "curve"}


class Breaking(TinyMethod):
    """Returns a loss that is not finite in one step of the twelve."""

    value = math.nan

    def after_step(self, progress: float) -> None:
        self.taken = round(progress * 12) + 1

    def forward(self, views: Views, draws: Draws) -> Step:
        step = super().forward(views, draws)
        broken = getattr(self, "taken", 0) == 4
        return Step(step.loss * self.value, {"broken": step.loss.detach() * self.value}) if broken else step


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_diverges_stops(tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: it ends within the window, without a loss, and what is logged and handed on has finite numbers only."""
    monkeypatch.setattr(Breaking, "value", value)
    monkeypatch.setattr(loop, "points_of", lambda *_: [5, 12])
    run = training(tmp_path, Breaking, points=2, probe=Counting())
    outcome = run.run(resume=False)
    assert (outcome.status, outcome.loss, outcome.logs) == ("diverged", None, {})
    assert outcome.health.collapsed
    assert outcome.curve == {}
    assert run.step == 5
    assert [line["loss"] is None for line in lines(tmp_path)] == [False] * 4 + [True]


def test_a_diverged_run_does_not_go_on(tmp_path: Path) -> None:
    """Oracle: a diverged run killed before its record was written ends as it did before."""
    outcome = training(tmp_path, Breaking).run(resume=False)
    assert same(training(tmp_path, Breaking).run(resume=True), outcome)


def test_a_collapsed_run_is_healthy_otherwise(tmp_path: Path) -> None:
    """Oracle: an encoder whose weights are zero: the run ends well and its health says collapsed."""
    run = training(tmp_path)
    for parameter in run.method.encoder.parameters():
        parameter.data.zero_()
        parameter.requires_grad_(False)
    outcome = run.run(resume=False)
    assert outcome.status == "ok"
    assert outcome.health.collapsed


def test_measuring_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the digest of the run that measures health at the end alone instead of at every step."""
    seldom = training(tmp_path / "seldom").run(resume=False)
    monkeypatch.setattr(loop, "WINDOW", 1)
    often = training(tmp_path / "often").run(resume=False)
    assert often.digest == seldom.digest
    counts = [sum("effective_rank" in line for line in lines(tmp_path / name)) for name in ("often", "seldom")]
    assert counts == [12, 1]


class Counting:
    """A probe that passes images through the encoder; its accuracy is a function of the weights."""

    bank, queries = 3, 1000

    def __call__(self, encoder: Encoder) -> float:
        encoder.eval()
        images = torch.full((4, 3, 8, 8), 0.5)
        return int(1000 * float(encoder(images).pooled.detach().sigmoid().mean())) / 1000


def test_a_curve_is_measured_at_shares_and_changes_nothing(tmp_path: Path) -> None:
    """Oracle: the run without points: its digest, loss and health; points of 200 steps by hand, each logged and kept.

    A window has 2 steps, and the third point of four quarters of 202 steps lies inside one.
    """
    kept: list[int] = []
    plain = training(tmp_path / "plain", steps=202).run(resume=False)
    run = training(
        tmp_path / "curve", steps=202, points=4, probe=Counting(), keep=lambda encoder, step: kept.append(step)
    )
    outcome = run.run(resume=False)
    assert same(outcome, plain)
    assert (plain.curve, kept) == ({}, [51, 101, 152, 202])
    logged = {line["step"]: line for line in lines(tmp_path / "curve")}
    assert {step: line["knn"] for step, line in logged.items() if "knn" in line} == outcome.curve
    assert list(outcome.curve) == kept
    assert len(set(outcome.curve.values())) > 1
    error = math.sqrt(outcome.curve[51] * (1 - outcome.curve[51]) / 1000)
    assert logged[51]["knn_standard_error"] == pytest.approx(error)
    assert sorted(logged) == sorted({*range(2, 203, 2), *kept})


@pytest.mark.slow
def test_a_curve_survives_an_interruption(tmp_path: Path) -> None:
    """Oracle: the curve and lines of the run that nobody interrupted: at a point, after it, and at the end.

    The window after the point is cut short by it and by the signal.
    """
    settings = {"steps": 202, "points": 4, "probe": Counting()}
    whole = training(tmp_path / "whole", **settings).run(resume=False)
    for at in (51, 52, 202):
        interrupted(training(tmp_path / str(at), **settings), at)
        again = training(tmp_path / str(at), **settings).run(resume=True)
        assert (again.curve, again.digest) == (whole.curve, whole.digest)
        assert without_times(tmp_path / str(at)) == without_times(tmp_path / "whole")


def test_a_killed_run_measures_lost_points_again(tmp_path: Path) -> None:
    """Oracle: the undisturbed run; the kill lost the newest checkpoint, so that a logged point is newer than the state.

    A checkpoint of code without curves can be resumed.
    """
    settings = {"steps": 100, "points": 2, "probe": Counting()}
    whole = training(tmp_path / "whole", **settings).run(resume=False)
    training(tmp_path / "cut", **settings, checkpoint_seconds=0.0).run(resume=False)
    newest = max((tmp_path / "cut" / "checkpoints").iterdir())
    newest.write_bytes(b"")
    assert training(tmp_path / "cut", **settings).run(resume=True).curve == whole.curve
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")
    early = training(tmp_path / "early", **settings)
    state = {name: value for name, value in torch.load(whole.checkpoint).items() if name != "curve"}
    checkpoint.save(state, 100, tmp_path / "early" / "checkpoints")
    assert early.run(resume=True).curve == {}


def test_a_curve_is_not_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a second a step by a clock that else moves for the probe alone: 12 s, 12 steps and their FLOPs."""
    now = 0.0

    def take(run: Training) -> None:
        nonlocal now
        now += 1.0
        take_step(run)

    class Slow(Counting):
        def __call__(self, encoder: Encoder) -> float:
            nonlocal now
            now += 1000.0
            return super().__call__(encoder)

    take_step = Training._take
    monkeypatch.setattr(Training, "_take", take)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    run = training(tmp_path, points=4, probe=Slow(), most_seconds=12.0)
    outcome = run.run(resume=False)
    assert (outcome.status, list(outcome.curve), now) == ("ok", [3, 6, 9, 12], 4012.0)
    assert (run.ledger.train_seconds, run.ledger.images, run.ledger.flops) == (12.0, 12 * 16, 12 * 7)


def test_ledger_is_charged_for_every_step(tmp_path: Path) -> None:
    """Oracle: 12 steps of 16 images, 2 views and 7 FLOPs, also over an interruption."""
    interrupted(training(tmp_path), 5)
    run = training(tmp_path)
    run.run(resume=True)
    assert (run.ledger.images, run.ledger.views, run.ledger.flops) == (12 * 16, 12 * 32, 12 * 7)
    assert run.ledger.train_seconds == lines(tmp_path)[-1]["train_seconds"] > 0


def compile_by(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """Let torch.compile trace as ever and hand the graphs to `backend`."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def test_compiling_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the digest of the eager run, names of the state among it: the backend `eager` runs the same kernels.

    Also over an interruption, and from either run's checkpoint.
    """
    compile_by(monkeypatch, "eager")
    eager = training(tmp_path / "eager").run(resume=False)
    assert same(training(tmp_path / "compiled", compiled=True).run(resume=False), eager)
    interrupted(training(tmp_path / "cut", compiled=True), 5)
    assert same(training(tmp_path / "cut", compiled=True).run(resume=True), eager)
    interrupted(training(tmp_path / "changed", compiled=True), 5)
    assert same(training(tmp_path / "changed").run(resume=True), eager)


def test_graphs_are_compiled_once_and_off_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: 5 s a graph, 1 s a pass and 0.25 s a batch, by a clock that else stands still: a step is charged its pass
    and its wait alone.

    No later step compiles, although each has draws of its own; a resumed run compiles anew and adds to the seconds.
    """
    now, graphs = 0.0, 0

    def compiler(graph: torch.fx.GraphModule, _: object) -> Any:
        nonlocal now, graphs
        now, graphs = now + 5.0, graphs + 1
        return graph.forward

    def slow(run: Training) -> Step:
        nonlocal now
        now += 1.0
        return differentiate(run)

    def late(data: Resident, step: int) -> tuple[Tensor, Tensor]:
        nonlocal now
        now += 0.25
        return batch(data, step)

    differentiate, batch = Training.differentiate, Resident.batch
    monkeypatch.setattr(Training, "differentiate", slow)
    monkeypatch.setattr(Resident, "batch", late)
    compile_by(monkeypatch, compiler)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    run = training(tmp_path, compiled=True)
    interrupted(run, 5)
    assert graphs > 0
    assert (run.ledger.compile_seconds, run.ledger.train_seconds) == (5.0 * graphs, 6.25)
    assert run.ledger.data_wait_seconds == 1.25
    torch._dynamo.reset()
    again = training(tmp_path, compiled=True)
    again.run(resume=True)
    assert (again.ledger.compile_seconds, again.ledger.train_seconds) == (5.0 * graphs, 15.0)
    assert again.ledger.data_wait_seconds == 3.0


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: without a search path no compiler is found; an eager run needs none."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "c++-of-no-one")
    monkeypatch.delenv("CC", raising=False)
    training(tmp_path)
    with pytest.raises(MissingError, match=r"needs a C\+\+ compiler on a CPU device, and c\+\+-of-no-one is not found"):
        training(tmp_path, compiled=True)
    with pytest.raises(MissingError, match=r"needs a C compiler on a CUDA device, and gcc or clang is not found"):
        require_compiler(torch.device("cuda"))


class Recording(Method):
    """Writes down what the loop calls, with which progress, and whether gradients and weights are where they belong."""

    n_views = 1
    calls: list[Any]

    def __init__(self, encoder: TinyEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        Recording.calls = []

    def forward(self, views: Views, draws: Draws) -> Step:
        weight = self.encoder.net[0].weight
        self.calls.append(("forward", len(views), weight.grad is None, self.training, float(self.progress)))
        self.before = weight.detach().clone()
        return Step(self.encoder(views[0]).pooled.square().mean(), carry={"keys": views[0]})

    def after_backward(self, step: Step) -> None:
        weight = self.encoder.net[0].weight
        self.calls.append(("backward", "keys" in step.carry, weight.grad is not None, torch.equal(weight, self.before)))

    def after_step(self, progress: float) -> None:
        self.calls.append(("step", progress, torch.equal(self.encoder.net[0].weight, self.before)))


def test_hooks_come_in_the_order_of_the_contract(tmp_path: Path) -> None:
    """Oracle: the contract: forward in train mode at t / T, backward, hook, optimiser, hook with t / T of the step.

    The weights stay where they are in the first step only, whose rate is 0.
    """
    training(tmp_path, Recording, steps=4).run(resume=False)
    assert Recording.calls == [
        call
        for t in range(4)
        for call in (("forward", 1, True, True, t / 4), ("backward", True, True, True), ("step", t / 4, t == 0))
    ]


class Constant(View):
    """Draws nothing: shows what one view of one step is given."""

    seen: list[tuple[float, ...]]

    def __call__(self, images: torch.Tensor, size: int, draw: Any) -> torch.Tensor:
        self.seen.append(tuple(draw("crop", 1).flatten().tolist()))
        return images.float() / 255


def test_every_view_and_step_draws_anew(tmp_path: Path) -> None:
    """Oracle: 12 steps of 2 views make 24 different draws, the same in a second run."""
    Constant.seen = []
    for name in "ab":
        training(tmp_path / name, views=(Constant(crop_scale=(1.0, 1.0)),) * 2).run(resume=False)
    assert len(set(Constant.seen)) == 24
    assert Constant.seen[:24] == Constant.seen[24:]


def test_recipe_must_fit_the_method() -> None:
    """Oracle: a method of two views and a recipe of one: refused with both numbers."""
    view = View(crop_scale=(1.0, 1.0))
    stage = Pretraining(
        name="x",
        method=TinyMethod,
        views=lambda limits: (view,),
        optimiser=None,  # type: ignore[arg-type]
        batch_size=2,
        precision="float32",
    )
    method = TinyMethod(TinyEncoder())
    with pytest.raises(ConfigError, match=r"TinyMethod takes 2 view\(s\), but Pretraining.views makes 1"):
        stage.recipe(ViewLimits(), method)
    method.n_views, method.takes_more_views = 2, True
    with pytest.raises(ConfigError, match=r"takes 2 or more view\(s\), but Pretraining.views makes 1"):
        stage.recipe(ViewLimits(), method)
    method.n_views = 1
    assert stage.recipe(ViewLimits(), method) == (view,)
    assert len(replace(stage, views=lambda limits: (view,) * 3).recipe(ViewLimits(), method)) == 3
    method.takes_more_views = False
    with pytest.raises(ConfigError, match=r"takes 1 view\(s\), but Pretraining.views makes 3"):
        replace(stage, views=lambda limits: (view,) * 3).recipe(ViewLimits(), method)
