"""The plan of a board and its runs: what is made, what is skipped, what a failure, a deadline and a kill leave."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_records import make, trial
from tiny import SMALL

from benchmark import PRETRAINING_VERSION
from benchmark.boards import jobs
from benchmark.boards.inventory import take
from benchmark.boards.launcher import Launcher
from benchmark.boards.plan import Suite, _build
from benchmark.boards.planned import Planned
from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.evaluate import main as evaluate_one
from benchmark.report.audit import audit
from benchmark.report.cells import load
from benchmark.report.record import Record, write
from benchmark.report.tuning import FACTORS, FIRST_SHARE, Contest
from benchmark.run import main as run_one
from benchmark.runtime import progress
from benchmark.suite import main
from benchmark.training.budget import Budget
from benchmark.training.loop import Training

ROOT = Path(__file__).parents[1]
SETTINGS = (*SMALL, "Budget.amount=96", "KNN.k=3")
Written = Callable[..., list[str]]
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.usefixtures("one_thread")


def suite(**changes: object) -> Suite:
    plan = {"methods": ("simclr", "byol"), "protocols": ("digits_vit_micro",), "seeds": (0, 1), "settings": SETTINGS}
    return Suite(**(plan | changes))  # type: ignore[arg-type]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a suite's file, and return the arguments that carry it out in a folder of its own."""

    def write(**changes: object) -> list[str]:
        plan = {"methods": ("simclr",), "protocols": ("digits_vit_micro",), "seeds": (0,), "settings": SETTINGS}
        lines = [f"suite.{name} = {value!r}" for name, value in (plan | changes).items()]
        (tmp_path / "small.gin").write_text("\n".join(lines) + "\n")
        folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
        return ["--gin", str(tmp_path / "small.gin"), *folders, "--jobs", "1"]

    return write


@pytest.fixture
def in_process(monkeypatch: Patch) -> None:
    """Have suites make their runs in this process, which takes less time and can be patched."""

    def process(arguments: list[str], **_: object) -> SimpleNamespace:
        code = (evaluate_one if arguments[2] == "benchmark.evaluate" else run_one)(arguments[3:])
        return ended(code)

    start_by(process, monkeypatch)


def start_by(popen: Callable[..., SimpleNamespace], monkeypatch: Patch) -> None:
    """Have suites start their runs by a function."""
    stub = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr("benchmark.boards.jobs.subprocess", stub)


def ended(code: int) -> SimpleNamespace:
    """Return a process that has ended."""
    return SimpleNamespace(poll=lambda: code, wait=lambda: code, stdout=None, stderr=None)


def set_changed(changed: Callable[[Record], tuple[str, ...]], monkeypatch: Patch) -> None:
    """Decide by a function which records are of changed code."""
    for module in ("experiment.run", "boards.launcher"):
        monkeypatch.setattr(f"benchmark.{module}.changed", changed)


def launcher(folder: Path, runs: Iterable[Planned] = ()) -> Launcher:
    return Launcher("small", list(runs), folder / "runs", folder / "results")


def runs(folder: Path) -> list[Record]:
    return [record for record in load(folder / "results") if record["division"] != "floor"]


def test_plan_is_a_product_with_seeds_outermost() -> None:
    """Oracle: the labels by hand, the same at every call; each text has its seed and its point."""
    sweep = {"AdamW.betas": ((0.9, 0.9), (0.9, 0.99)), "KNN.temperature": (0.5,)}
    plan = list(suite(sweep=sweep).runs())
    points = [f"AdamW.betas = (0.9, {beta})/KNN.temperature = 0.5" for beta in (0.9, 0.99)]
    cells = product((0, 1), ("simclr", "byol"), points)
    assert [run.label for run in plan] == [f"digits_vit_micro/{m}/{point}/seed {seed}" for seed, m, point in cells]
    assert plan == list(suite(sweep=sweep).runs())
    assert "experiment.seed = 1" in plan[-1].config.text
    assert "AdamW.betas = (0.9, 0.99)" in plan[-1].config.text
    assert plan[0].entry.point == ("AdamW.betas = (0.9, 0.9)", "KNN.temperature = 0.5")


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"seeds": ()}, "suite.seeds = .*at least one"),
    ({"methods": ("byol", "byol")}, "suite.methods = .*each once"),
    ({"sweep": {"ViT.depth": ()}}, "gives ViT.depth no value"),
    ({"seeds": (0, 1000)}, "is the seed of trials"),
    ({"methods": ("bylo",)}, "Did you mean"),
    ({"examined_by": "trained", "examined_seeds": (2,)}, "suite.examined_seeds names 2"),
    ({"examined_by": "trained"}, "suite.examined_by and suite.examined_seeds go together"),
    ({"protocols": ("digits_vit_mirco",)}, "Did you mean"),
    ({"sweep": {"ViT.dpeth": (1,)}}, "Did you mean depth"),
    ({"sweep": {"PixelDecoder.heads": (4, 7)}, "methods": ("mae",)}, "mae/PixelDecoder.heads = 7/.*multiple of"),
    ({"methods": ("mimco",), "settings": ("MoCoV3.momentum = 1.5",)}, "mimco/.*MoCoV3.momentum = 1.5"),
    ({"sweep": {"MAE.mask_ratio": (0.5, 1.0)}, "methods": ("mae",)}, "mask_ratio = 1.0/.*no visible"),
    ({"methods": ("byol", "mae"), "protocols": ("digits_resnet18",), "settings": ()}, "digits_resnet18/mae/.*a ViT"),
    ({"methods": ("byol", "simclr"), "sweep": {"SimCLR.temperature": (1.0,)}}, "digits_vit_micro/byol/SimCLR.temp"),
]


def test_a_plan_that_cannot_run_is_refused(written: Written, tmp_path: Path, capsys: Capture) -> None:
    """Oracle: exit code 2 and a message that names the line or the nearest name, before anything is run."""
    for changes, message in REFUSED:
        assert main(written(**changes)) == 2, changes
        printed = capsys.readouterr().err
        assert re.search(message, printed, re.DOTALL), printed
    assert not (tmp_path / "runs").exists()


def test_a_long_plan_is_not_silent(written: Written, monkeypatch: Patch, capsys: Capture) -> None:
    """Oracle: a line of progress, where these follow each other at once; standard output has the plan alone."""
    monkeypatch.setattr("benchmark.runtime.progress.INTERVAL", 0.001)
    assert main([*written(), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "planning the runs (" in err
    assert "planning" not in out


def test_weights_are_not_fetched_for_a_plan(written: Written, monkeypatch: Patch, capsys: Capture) -> None:
    """Oracle: a plan of an encoder with weights from elsewhere, where anything that builds one fails."""
    monkeypatch.setattr("benchmark.nets.timm_net.create_model", None)
    settings = ("experiment.encoder = @Timm", "Timm.name = 'resnet10t.c3_in1k'", "Timm.pretrained = True")
    assert main([*written(settings=settings), "--dry-run"]) == 0
    assert "1 missing" in capsys.readouterr().out


def test_points_that_only_spend_otherwise_build_a_method_once() -> None:
    """Oracle: the builds, counted: one for six points of rate and share, two for two temperatures."""
    for sweep, builds in (
        ({"experiment.rate_factor": (0.5, 1.0, 2.0), "experiment.budget_share": (0.25, 1.0)}, 1),
        ({"SimCLR.temperature": (0.1, 0.2)}, 2),
    ):
        _build.cache_clear()
        runs = list(suite(methods=("simclr",), seeds=(0,), sweep=sweep).runs())
        assert len(runs) == math.prod(map(len, sweep.values()))
        assert _build.cache_info().misses == builds


@pytest.mark.slow
def test_shipped_suites_are_plans() -> None:
    """Oracle: every configuration of every shipped suite loads with its first seed; the head shows the command; as many
    runs as listed."""
    listed = {board.name: board.runs for board in take(Path("nowhere"), Path("nowhere")).boards}
    for path in ROOT.glob("gin/suites/*.gin"):
        planner: Suite = configuration.build(configuration.load([str(path)], root="suite", defaults={}))
        first = planner.of_seeds(planner.seeds[:1])
        labels = [run.label for run in first.located(path.parent, allow_imports=False).runs()]
        assert len(labels) == len(set(labels))
        assert len(labels) * len(planner.seeds) == listed.pop(path.stem) > 1
        assert f"python -m benchmark.suite --gin gin/suites/{path.name}" in path.read_text()
    assert not listed


@pytest.mark.usefixtures("in_process")
def test_a_board_is_made_once(written: Written, tmp_path: Path, capfd: Capture) -> None:
    """Oracle: exit code 1 and the label of the run that cannot be built, a record for each other point, then none more;
    the table names the points; a dry run says what is there."""
    arguments = written(sweep={"Pretraining.batch_size": (2000, 32, 16)})
    assert main([*arguments, "--dry-run"]) == 0
    assert "small: 3 runs, 3 missing\n" in capfd.readouterr().out
    for missing in (3, 1):
        assert main(arguments) == 1
        printed = capfd.readouterr()
        assert f"{missing} missing" in printed.out
        assert f"== 1 of {missing}: digits_vit_micro/simclr/Pretraining.batch_size = 2000/seed 0" in printed.out
        assert "Pretraining.batch_size = 2000" in printed.err.split("1 runs failed")[1]
        assert r"simclr (Pretraining.batch\_size = 16)" in printed.out
        points = [(run["board"], run["config"]["varied"]) for run in runs(tmp_path)]
        assert sorted(points) == [("small", [f"Pretraining.batch_size = {size}"]) for size in (16, 32)]
    assert main([*arguments, "--dry-run", "--only", "*16*"]) == 0
    printed = capfd.readouterr()
    assert "done     digits_vit_micro/simclr/Pretraining.batch_size = 16/seed 0\nsmall: 1 runs" in printed.out


def test_nothing_selected_is_refused(written: Written, tmp_path: Path, capsys: Capture) -> None:
    """Oracle: exit code 2 and the labels, or the seeds, there are; also for a tuned board, whose trials have no seed
    of the suite's."""
    assert main([*written(), "--only", "byol"]) == 2
    assert "No run of small is left by --only. It has:\n  digits_vit_micro/simclr" in capsys.readouterr().err
    arguments = written(seeds=(3, 4), chosen_by="@KNN")
    for tune in ([], ["--tune"]):
        for seeds in (["7"], ["3", "7"], ["1000"]):
            assert main([*arguments, *tune, "--seeds", *seeds]) == 2
            assert f"--seeds {seeds[-1]}: the suite has 3, 4." in capsys.readouterr().err
        assert main([*arguments, *tune, "--seeds", "4", "--dry-run"]) == 0
        assert "seed 3" not in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_tuned_board_chooses_rates_first(
    written: Written, tmp_path: Path, capfd: Capture, monkeypatch: Patch
) -> None:
    """Oracle: three trials on the hold-out, then the run at the recipe's rate, as 143 images tell no rate from another;
    it names them, and then nothing is left.
    Trials by code that has changed since are refused.

    Runs are made in this process by the commands of the plan; another rate, and a trial on top of trials, is refused.
    """
    plan = suite(methods=("simclr",), seeds=(0,), settings=(*SETTINGS[:-2], "Budget.amount=1024"), chosen_by="@KNN")
    board = launcher(tmp_path).planned(plan, tuned=True)
    assert [run.label.rpartition("/")[2] for run in board.runs] == [
        f"rate_factor = {factor}" for factor in (0.5, 1.0, 2.0)
    ]
    for run in board.missing():
        assert run_one(run.command(board.out, board.folder)[3:]) == 0
    board = board.planned(plan, tuned=True)
    (tuned,) = board.missing()
    assert tuned.label == "digits_vit_micro/simclr/tuned/seed 0"
    command = tuned.command(board.out, board.folder)[3:]
    capfd.readouterr()
    assert run_one([*command, "--set", "experiment.rate_factor = 3.0"]) == 2
    assert "the trials in" in capfd.readouterr().err
    assert run_one([*command, "--set", "experiment.is_trial = True"]) == 2
    assert "does not follow from other trials" in capfd.readouterr().err
    with monkeypatch.context() as later:
        later.setattr("benchmark.experiment.run.changed", lambda record: ("method",))
        assert run_one(command) == 1
        assert "There are: none" in capfd.readouterr().err
    with monkeypatch.context() as short:
        short.setattr(Contest, "is_tied", True)
        assert run_one([*command, "--out", str(tmp_path / "tied"), "--publish", str(tmp_path / "nowhere")]) == 0
        assert "warning: all trials of simclr have the same score" in capfd.readouterr().err
    assert run_one(command) == 0
    assert "the same score" not in capfd.readouterr().err
    assert board.planned(plan, tuned=True).missing() == []
    assert audit(tmp_path / "results") == []
    trials = {record["id"]: record for record in runs(tmp_path) if record["division"] == "trial"}
    (record,) = (record for record in runs(tmp_path) if record["division"] == "tuned")
    assert set(record["tuning"]["trials"]) == set(trials)
    assert {record["tuning"]["factor"], record["tuning"]["share"]} == {1.0, 0.25}
    assert {trial["budget"]["steps"] for trial in trials.values()} == {8}
    assert {trial["tuning"]["share"] for trial in trials.values()} == {0.25}
    assert {trial["dataset"]["sizes"]["test"] for trial in trials.values()} == {143}
    assert len(board.planned(plan, tuned=False).missing()) == 1


def test_rates_beyond_the_best_are_tried(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: by hand: a rate that is clearly better at the edge asks for one beyond it; then the run follows."""
    set_changed(lambda record: (), monkeypatch)
    plan = suite(methods=("simclr",), seeds=(0,), settings=SETTINGS[:-1], chosen_by="@KNN", trial_share=0.5)
    board = launcher(tmp_path)
    scores = {0.5: 0.3, 1.0: 0.5, 2.0: 0.7, 4.0: 0.6}
    for factors in ((0.5, 1.0, 2.0), (4.0,)):
        missing = board.planned(plan, tuned=True).missing()
        assert [run.label.rpartition(" ")[2] for run in missing] == [str(each) for each in factors]
        assert all("\nexperiment.budget_share = 0.5\n" in run.config.text for run in missing)
        for run, each in zip(missing, factors, strict=True):
            write(trial(each, scores[each], share=0.5, config__text=run.config.text), board.folder)
    (tuned,) = board.planned(plan, tuned=True).missing()
    assert "\nexperiment.rate_factor = 2.0\n" in tuned.config.text
    for share in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"trial_share = {share}: give a part"):
            suite(trial_share=share)


def test_trials_of_two_rules_on_one_share_make_a_contest(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: by hand: of five trials by the first rule one is lost and made again by the new rule, whose run is the
    same; the five choose by the new rule, so that nothing is waited for that no command would make."""
    set_changed(lambda record: (), monkeypatch)
    plan = suite(methods=("simclr",), seeds=(0,), settings=SETTINGS[:-1], chosen_by="@KNN", trial_share=FIRST_SHARE)
    board = launcher(tmp_path)
    texts = {each: run.config.text for run, each in zip(plan.trials(), FACTORS, strict=True)}
    texts[0.25] = texts[0.5].replace("experiment.rate_factor = 0.5\n", "experiment.rate_factor = 0.25\n")
    for each, text in texts.items():
        write(trial(each, 0.5 + each / 100, config__text=text), board.folder)
    (lost,) = board.planned(plan, tuned=True).missing()
    assert "\nexperiment.rate_factor = 4.0\n" in lost.config.text
    late = {"config__text": lost.config.text, "created_utc": "2026-03-01T12:00:00Z"}
    write(trial(4.0, 0.51, share=FIRST_SHARE, **late), board.folder)
    (tuned,) = board.planned(plan, tuned=True).missing()
    assert "\nexperiment.rate_factor = 1.0\n" in tuned.config.text


def test_trials_choose_while_their_code_is_the_same(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: what is missing of a board whose three trials have the plan's texts, before and after the code changed;
    trials of a suite that chooses by another evaluation are others."""
    shared = {"methods": ("simclr",), "seeds": (0,), "settings": SETTINGS[:-1]}
    plan = suite(**shared, chosen_by="@KNN")
    board = launcher(tmp_path)
    for run, each in zip(plan.trials(), FACTORS, strict=True):
        write(trial(each, 0.5, share=0.25, config__text=run.config.text), board.folder)
    set_changed(lambda record: (), monkeypatch)
    assert [run.division for run in board.planned(plan, tuned=True).missing()] == ["tuned"]
    by_another = suite(**shared, chosen_by="@Linear")
    assert [run.division for run in board.planned(by_another, tuned=True).missing()] == ["trial"] * 3
    monkeypatch.setattr("benchmark.experiment.run.changed", lambda record: ("method",))
    assert [run.division for run in board.planned(plan, tuned=True).missing()] == ["trial"] * 3


def test_states_follow_from_records(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: by hand, for several records of a run; nothing follows from a trial that missed its budget."""

    older = {"pretraining": "0.1"}
    set_changed(lambda record: ("pretraining",) * (record["code"]["versions"] == older), monkeypatch)
    old, missed = {"code__versions": older}, {"status": "budget_miss"}
    ways = [
        ("missing", []),
        ("done", [{"status": "diverged"}]),
        ("stale", [old, old | missed]),
        ("missed", [old, missed, {"status": "overtime"}]),
        ("done", [old, {}]),
        ("done", [missed, {}]),
        ("failed", [old, {"status": "failed", "metrics": {}}]),
        ("done", [{"status": "failed", "metrics": {}}, {}]),
    ]
    plan = suite(methods=("simclr",), seeds=tuple(range(len(ways))), chosen_by="@KNN")
    board = launcher(tmp_path).planned(plan, tuned=False)
    for run, (_, records) in zip(board.runs, ways, strict=True):
        for day, changes in enumerate(records, 1):
            write(make(config__text=run.config.text, created_utc=f"2026-01-0{day}T00:00:00Z", **changes), board.folder)
    assert board.states() == [state for state, _ in ways]
    assert board.missing() == [board.runs[0], *board.runs[2:4], board.runs[6]]
    for run, each in zip(plan.trials(), FACTORS, strict=True):
        status = "ok" if each < 2 else "overtime"
        write(trial(each, 0.5, share=0.25, config__text=run.config.text, status=status), board.folder)
    assert board.planned(plan, tuned=True).states() == ["done", "done", "missed"]


def test_a_finished_run_of_other_code_is_made_again(tmp_path: Path, monkeypatch: Patch, capfd: Capture) -> None:
    """Oracle: what the first run left, byte for byte, beside its successor, which is resumed after a stop."""
    board = launcher(tmp_path, suite(methods=("simclr",), seeds=(0,)).runs())
    command = board.runs[0].command(board.out, board.folder)[3:]
    assert run_one(command) == 0
    (folder,) = board.out.glob("simclr-*")
    (unpublished,) = load(folder)
    (first,) = runs(tmp_path)
    ids = (unpublished["id"], first["id"])
    set_changed(lambda record: ("method",) * (record["id"] in ids), monkeypatch)
    assert board.states() == ["stale"]
    left = contents(folder)
    take = Training._take

    def stopped(training: Training) -> None:
        take(training)
        if training.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_take", stopped)
        assert run_one(command) == 75
    aside = folder.with_name(f"{folder.name}-{ids[0][:8]}")
    assert f"changed since (method): it is made again, and {aside} keeps" in capfd.readouterr().out
    assert run_one(command) == 0
    assert board.states() == ["done"]
    (second,) = (record for record in runs(tmp_path) if record["id"] != first["id"])
    assert second["cost"]["resumes"] == 1
    assert second["training"] == first["training"]
    assert contents(aside) == left
    assert run_one(command) == 0
    assert "This run is finished" in capfd.readouterr().out
    assert len(runs(tmp_path)) == 2


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("in_process")
def test_a_missed_budget_is_tried_again(written: Written, tmp_path: Path, capfd: Capture, monkeypatch: Patch) -> None:
    """Oracle: the announcements and exit codes by hand; the verdict on a budget is a stub."""
    arguments = written()
    with monkeypatch.context() as busy:
        busy.setattr(Budget, "verdict", lambda self, seconds: "budget_miss")
        for times in (1, 2):
            assert main(arguments) == 1
            printed = capfd.readouterr()
            assert printed.out.count("\n== ") == 1
            assert "1 runs took more or less than their budget" in printed.err
            assert f"Remove {tmp_path / 'runs' / 'calibrations'} and give the same command" in printed.err
            assert "runs failed" not in printed.err
            assert len(runs(tmp_path)) == times
    assert main([*arguments, "--dry-run"]) == 0
    assert "missed   digits_vit_micro/simclr/seed 0\nsmall: 1 runs, 1 missing" in capfd.readouterr().out
    assert main(arguments) == 0
    assert len(runs(tmp_path)) == 3
    monkeypatch.setattr("benchmark.report.code._pretraining", lambda root: "2.0")
    assert main([*arguments, "--dry-run"]) == 0
    assert "stale    digits_vit_micro/simclr/seed 0\n" in capfd.readouterr().out
    monkeypatch.setattr(Launcher, "carry_out", lambda *_: [])
    assert main(arguments) == 0
    assert f"stale (pretraining {PRETRAINING_VERSION}, now 2.0)" in capfd.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_a_failed_trial_is_tried_once(written: Written, tmp_path: Path, capfd: Capture, monkeypatch: Patch) -> None:
    """Oracle: the announcements of the one trial that is missing, and that cannot be built, and the failures."""
    settings = (*SETTINGS, "Pretraining.batch_size=2000")
    plan = suite(methods=("simclr",), seeds=(0,), settings=settings, chosen_by="@KNN")
    for run, each in zip(list(plan.trials())[1:], FACTORS[1:], strict=True):
        write(trial(each, 0.5, share=0.25, config__text=run.config.text), tmp_path / "results" / "small")
    set_changed(lambda record: (), monkeypatch)
    assert main([*written(settings=settings, chosen_by="@KNN"), "--tune"]) == 1
    printed = capfd.readouterr()
    assert printed.out.count("\n== ") == 1
    assert "1 runs failed" in printed.err


@pytest.mark.usefixtures("in_process")
def test_trained_encoders_of_a_seed_are_evaluated(written: Written, tmp_path: Path, capfd: Capture) -> None:
    """Oracle: the labels in their order by hand; a record of the run's weights by the preset at the suite's settings,
    none of the other seed's; then nothing is missing."""
    (tmp_path / "few.gin").write_text("experiment.evaluations = (@KNN, @Retrieval)\n")
    few = os.path.relpath(tmp_path / "few", "gin/presets")  # the shipped presets take minutes
    methods = ("simclr", "mrcl_simclr")
    arguments = written(seeds=(0, 1), examined_by=few, examined_seeds=(0,), methods=methods)
    assert main([*arguments, "--dry-run"]) == 0
    assert f"4 missing\nEncoders of seed 0 are evaluated by gin/presets/{few}.gin" in capfd.readouterr().out
    assert main([*arguments, "--only", "*seed 0*"]) == 0
    announced = [line for line in capfd.readouterr().out.splitlines() if line.startswith("== ")]
    labels = [f"digits_vit_micro/{method}/seed 0{end}" for end in ("", f"/{few}") for method in methods]
    assert [line.partition(": ")[2] for line in announced] == labels
    assert main(arguments) == 0
    records = {(run["division"], run["method"]["name"], run["seed"]): run for run in runs(tmp_path)}
    assert len(runs(tmp_path)) == len(records) == 6
    for method in methods:
        evaluation = records["open", method, 0]
        assert evaluation["checkpoint"] == records["closed", method, 0]["checkpoint"]
        assert set(evaluation["metrics"]) == {"knn", "retrieval"}
        assert "\nKNN.k = 3\n" in evaluation["config"]["text"]
        assert ("closed", method, 1) in records
    capfd.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    printed = capfd.readouterr().out
    assert "small: 6 runs, 0 missing\n" in printed
    assert "are evaluated by" not in printed


def test_an_evaluation_of_another_encoder_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: the message, where a macro gives the runs patches that the protocol's file does not have."""
    set_changed(lambda record: (), monkeypatch)
    plan = suite(methods=("simclr",), seeds=(0,), settings=("PATCH = 2",), examined_by="frozen", examined_seeds=(0,))
    board = launcher(tmp_path)
    (run,) = board.planned(plan, tuned=False).runs
    write(make(config__text=run.config.text), board.folder)
    with pytest.raises(ConfigError, match=r"seed 0 has another encoder than gin/protocol/digits_vit_micro\.gin"):
        board.planned(plan, tuned=False)


def test_a_sweep_of_what_trials_set_is_refused() -> None:
    """Oracle: the binding and the way out; without --tune the sweep is a ladder."""
    ladder = suite(sweep={"experiment.budget_share": (0.25, 1.0)})
    assert len(list(ladder.runs())) == 8
    with pytest.raises(ConfigError, match=r"varies experiment\.budget_share.*without --tune"):
        list(ladder.trials())
    with pytest.raises(ConfigError, match=r"settings bind experiment\.is_trial.*without --tune"):
        list(suite(settings=(*SETTINGS, "experiment.is_trial = True")).trials())


@pytest.mark.usefixtures("in_process")
def test_a_study_of_rates_is_made_of_trials(written: Written, tmp_path: Path, capfd: Capture) -> None:
    """Oracle: a record of each factor, of the division `trial` and scored on a hold-out of train; then none is
    missing."""
    arguments = written(
        settings=(*SETTINGS, "experiment.is_trial = True", "experiment.evaluations = (@KNN,)"),
        sweep={"experiment.rate_factor": (0.5, 2.0)},
    )
    assert main(arguments) == 0
    assert {(run["division"], run["tuning"]["factor"], run["dataset"]["sizes"]["test"]) for run in runs(tmp_path)} == {
        ("trial", 0.5, 143),
        ("trial", 2.0, 143),
    }
    capfd.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert "small: 2 runs, 0 missing" in capfd.readouterr().out


@pytest.mark.slow
def test_runs_at_once_are_equal_to_those_one_by_one(
    written: Written, request: pytest.FixtureRequest, tmp_path: Path, capfd: Capture
) -> None:
    """Oracle: digests and scores of two runs that two processes make at once, and of the same runs one by one."""
    arguments = written(sweep={"Budget.amount": (96, 128)})
    assert main([*arguments[:-1], "2"]) == 0
    printed = capfd.readouterr().out
    assert "2 runs at once, 1 thread a run" in printed
    for amount in (96, 128):
        assert f"\ndigits_vit_micro/simclr/Budget.amount = {amount}/seed 0: simclr on digits, seed 0:" in printed
    request.getfixturevalue("in_process")
    whole = tmp_path / "whole"
    assert main([*arguments, "--out", str(whole / "runs"), "--results", str(whole / "results")]) == 0
    ends = [
        {run["cost"]["images"]: (run["config"], run["training"], run["metrics"]) for run in runs(place)}
        for place in (tmp_path, whole)
    ]
    assert set(ends[0]) == {96, 128}
    assert ends[0] == ends[1]
    assert {run["environment"]["threads"] for run in runs(tmp_path)} == {1}
    assert {run["environment"].get("runs_on_device") for run in runs(tmp_path)} == {2}
    assert {run["environment"].get("runs_on_device") for run in runs(whole)} == {None}


STARTED = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1], "w").close() or sys.exit())
print(flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems send no signal to a run whose suite is killed")
def test_a_suite_that_is_killed_stops_its_runs(tmp_path: Path) -> None:
    """Oracle: what a process that the suite has started does on SIGTERM. The suite is a fork, which imports nothing."""
    killed = os.fork()
    if not killed:
        try:
            child = jobs._start([sys.executable, "-c", STARTED, str(tmp_path / "stopped")], {}, subprocess.PIPE)
            child.stdout.readline()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


HOLDER = """
import sys
from pathlib import Path
from benchmark.storage.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_commands_share_a_board(written: Written, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """Oracle: the announcements by hand: another process makes the first of two runs, and ends after the second."""
    plan = launcher(tmp_path, suite(methods=("simclr",)).runs())
    first, second = plan.runs
    path = plan._claim(first).path
    holder = [sys.executable, "-c", HOLDER, str(path.with_name(path.name[1:].removesuffix(".claim")))]
    other = subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    waiting = progress.doing

    def waited(message: str) -> AbstractContextManager[None]:
        if "which makes" in message:
            write(make(config__text=first.config.text), plan.folder)
            other.communicate()
        return waiting(message)

    started = []

    def process(command: list[str], **_: object) -> SimpleNamespace:
        started.append(command)
        write(make(config__text=second.config.text), plan.folder)
        return ended(0)

    set_changed(lambda record: (), monkeypatch)
    monkeypatch.setattr(progress, "doing", waited)
    start_by(process, monkeypatch)
    assert main(written(seeds=(0, 1))) == 0
    assert started == [second.command(plan.out, plan.folder)]
    printed = capsys.readouterr().out
    assert f"== 2 of 2: {second.label}\nwaiting for another process, which makes {first.label}\n" in printed
    assert printed.count("\n== ") == 1


def test_what_another_process_failed_at_is_not_tried_again(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: a record that came after the command was given, of a run that is missing nevertheless: nothing starts."""
    set_changed(lambda record: (), monkeypatch)
    board = launcher(tmp_path, suite(methods=("simclr",), seeds=(0,)).runs())
    missed = make(status="budget_miss", config__text=board.runs[0].config.text)
    write(missed, board.folder)
    started = []
    start_by(lambda *_, **__: started.append(0) or ended(0), monkeypatch)
    assert board.carry_out(lambda: launcher(tmp_path), None) == board.runs
    assert started == []
    board.known = frozenset([missed["id"]])
    assert board.carry_out(lambda: launcher(tmp_path), None) == []
    assert len(started) == 1
    board.known = frozenset()
    done = make(config__text=board.runs[0].config.text)
    monkeypatch.setattr(Launcher, "missing", lambda self: write(done, self.folder) and self.runs)
    assert board.carry_out(lambda: launcher(tmp_path), None) == []
    assert len(started) == 1


def test_a_run_that_is_stopped_stops_the_board(tmp_path: Path, monkeypatch: Patch) -> None:
    """Oracle: the first of four runs ends by a signal, with a state to resume or without one: no other is begun."""
    for code in (75, 130, -signal.SIGINT, -signal.SIGTERM):
        started = []
        start_by(lambda *_, code=code, started=started, **__: started.append(0) or ended(code), monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            launcher(tmp_path, suite().runs()).carry_out(lambda: launcher(tmp_path), None)
        assert started == [0]


def test_waiting_ends_at_the_time_limit(written: Written, tmp_path: Path, capfd: Capture) -> None:
    """Oracle: the code of a stop, while another process makes the only run; nothing is started."""
    arguments = written()
    (run,) = suite(methods=("simclr",), seeds=(0,)).runs()
    begin = time.monotonic()
    with launcher(tmp_path)._claim(run).acquire():
        assert main([*arguments, "--time-limit", "1"]) == 75
    assert time.monotonic() - begin < 50
    printed = capfd.readouterr()
    assert f"waiting for another process, which makes {run.label}\n" in printed.out
    assert "Stopped with 1 runs missing." in printed.err
    assert "\n== " not in printed.out


SECONDS = ("Budget.kind='device_seconds'", "Budget.amount=60.0")
LADDER = {"experiment.budget_share": (0.0625, 0.25, 1.0)}


ESTIMATES: list[tuple[dict[str, object], list[tuple[str, int, float]], float | None]] = [
    ({}, [], None),
    ({}, [("simclr", 32, 2.0), ("simclr", 32, 8.0), ("simclr", 96, 9.0)], 4 * 96 * 3 / 32),
    ({}, [("simclr", 96, 12.0), ("simclr", 96, 14.0), ("byol", 96, 24.0)], 2 * 13 + 2 * 24),
    ({"sweep": LADDER}, [("simclr", 6, 1.0), ("byol", 6, 2.0)], 2 * (1 + 2) * (1 + 4 + 16)),
    ({"settings": (*SETTINGS, *SECONDS), "sweep": LADDER}, [], 4 * 60 * 1.3125),
    ({"settings": (*SETTINGS, *SECONDS), "chosen_by": "@KNN"}, [], 2 * 3 * 60 / 4),
    ({"settings": (*SETTINGS, "Budget.kind='flops'", "Budget.amount=3e9")}, [("simclr", 0, 5.0)], 4 * 15),
    ({"settings": ("experiment.budget=None",)}, [("simclr", 96, 12.0)], None),
]


def test_estimate_is_what_budgets_cost(tmp_path: Path) -> None:
    """Oracle: by hand, from images and seconds of records that are none of the plan's; each spent 1e9 FLOPs, and a
    floor nothing. Of a ladder the smallest rung was measured: 1 s and 2 s of 6 images, of 96 the whole."""
    for place, (changes, measured, expected) in enumerate(ESTIMATES):
        board = launcher(tmp_path / str(place)).planned(suite(**changes), tuned="chosen_by" in changes)
        for seed, (method, images, seconds) in enumerate(measured):
            cost = {"cost__images": images, "cost__train_seconds": seconds, "cost__flops": 1e9}
            write(make(method__name=method, seed=seed, **cost), board.folder)
        free = {"cost__images": 0, "cost__flops": 0.0, "cost__train_seconds": 0.0}
        write(make(division="floor", budget=None, **free), board.folder)
        assert board.estimate() == (expected if expected is None else pytest.approx(expected)), changes


def test_a_board_is_cut_short_at_the_time_limit(written: Written, tmp_path: Path, capfd: Capture) -> None:
    """Oracle: code 75 and no run; argparse's code for a limit below zero."""
    assert main([*written(), "--time-limit", "0"]) == 75
    assert "Stopped with 1 runs missing. The same command goes on" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
    with pytest.raises(SystemExit, match="2"):
        main(["--gin", "gin/suites/digits.gin", "--time-limit", "-1"])
    assert "--time-limit -1: give the seconds" in capfd.readouterr().err
