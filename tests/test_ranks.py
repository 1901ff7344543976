"""One run on several processes: the gradients of every method are those of one process, and so is what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import PLANTED, main, steps
from tiny import command

from benchmark.errors import ConfigError
from benchmark.run import main as run_one
from benchmark.runtime import ranks, sharing
from benchmark.suite import main as suite

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in ROOT.glob("gin/*.gin") if not path.stem.startswith("report_"))
CASES = [
    *("moco/resnet_micro", "simclr/resnet_micro", "mimco/vit_micro", "macrl/vit_micro", "mixmask_byol/vit_micro"),
    "moby/swin_micro",
]
"""A queue and split batch norm, a joint forward, a teacher and a mask token, a decoder, mixtures of images, and dropped
branches with clipped gradients."""
BY_MISTAKE = {
    "gather_without_gradient": "simclr/resnet_micro",
    "mean_in_place_of_sum": "simclr/resnet_micro",
    "batch_norm_of_own_rows": "simclr/resnet_micro",
    "statistics_without_gradient": "simclr/resnet_micro",
    "all_parts_of_split_batch_norm": "moco/resnet_micro",
    "mask_token_of_own_rows": "mimco/vit_micro",
    "rows_in_blocks": "mixmask_byol/vit_micro",
}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
BAND = 1e-12  # of the largest gradient, loss or weight of the method


def torchrun_arguments(processes: int, *arguments: str) -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *arguments]


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, *torchrun_arguments(processes, *arguments)]
    return subprocess.run(started, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def on_ranks(processes: int, cases: list[str], out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return what each case leaves on several processes."""
    ended = torchrun(processes, "tests/ranks.py", str(out), *cases)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return torch.load(out)


def deviation(case: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of gradients, of losses or of weights, each relative to the largest of its kind."""
    assert case.keys() == other.keys()
    worst = 0.0
    for kind in ("gradient", "losses", "state"):
        names = [name for name in case if name.startswith(kind) and case[name].is_floating_point()]
        largest = max(float(case[name].abs().max()) for name in names)
        worst = max(worst, *(float((case[name] - other[name]).abs().max()) / largest for name in names))
    return worst


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    planted = [f"{case}/{mistake}" for mistake, case in BY_MISTAKE.items()]
    return on_ranks(2, [*CASES, *planted], tmp_path_factory.mktemp("ranks") / "two.pt")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case: str, two: dict[str, dict[str, torch.Tensor]]) -> None:
    """Oracle: the same steps in this process, in float64."""
    assert deviation(steps(*case.split("/")), two[case]) < BAND
    assert two[case]["alike"]


@pytest.mark.slow
def test_ranks_encode_an_encoder_together(two: dict[str, dict[str, torch.Tensor]]) -> None:
    """Oracle: the features by one process, of 5 batches and a rest; rank 1 has every second one, from its own on."""
    left = two["features"]
    assert torch.equal(left["together"], left["alone"])
    assert left["batches"].tolist() == [3, 3]


@pytest.mark.slow
def test_ranks_that_drift_apart_are_noticed(two: dict[str, dict[str, torch.Tensor]]) -> None:
    """Oracle: the planted mistakes that leave each rank a gradient or statistics of its own."""
    apart = {name for name, case in BY_MISTAKE.items() if not two[f"{case}/{name}"]["alike"]}
    assert apart == {"all_parts_of_split_batch_norm", "batch_norm_of_own_rows", "mask_token_of_own_rows"}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_leaves_the_band(mistake: str, two: dict[str, dict[str, torch.Tensor]]) -> None:
    """Oracle: the same steps without it, which are in the band."""
    case = BY_MISTAKE[mistake]
    assert deviation(two[case], two[f"{case}/{mistake}"]) > 1e6 * BAND


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 4])
def test_every_method_trains_on_several_processes_as_on_one(processes: int, tmp_path: Path) -> None:
    """Oracle: the same steps in this process, in float64; a decoder of patches is refused with a ResNet."""
    alone, cases = {}, [f"{method}/{encoder}" for method in METHODS for encoder in ("vit_micro", "resnet_micro")]
    for case in cases:
        try:
            alone[case] = steps(*case.split("/"))
        except ConfigError:
            assert case.endswith("resnet_micro")
    together = on_ranks(processes, list(alone), tmp_path / "together.pt")
    found = {case: deviation(alone[case], together[case]) for case in alone}
    print(*(f"{processes} processes, {case}: {value:.1e}" for case, value in found.items()), sep="\n")
    assert {case.split("/")[0] for case in found} == set(METHODS)
    assert max(found.values()) < BAND


CURVE = ("--set", "experiment.curve_points=8")


def record(out: Path, method: str) -> dict[str, Any]:
    (path,) = out.glob(f"{method}*/*.json")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


@pytest.mark.long
def test_a_run_on_two_processes(tmp_path: Path) -> None:
    """Oracle: the same run on one process: loss within 1e-5, kNN within half a point, its curve within two; a second
    command repeats nothing."""
    small = command(tmp_path / "two", 10, "--set", "Pretraining.precision='float32'", *CURVE, gin="gin/mimco.gin")
    ended = torchrun(2, "-m", "benchmark.run", *small)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("record: ") == 1
    two = record(tmp_path / "two", "mimco")
    assert run_one([*small, "--out", str(tmp_path / "one")]) == 0
    one = record(tmp_path / "one", "mimco")
    assert two["training"]["loss"] == pytest.approx(one["training"]["loss"], rel=1e-5)
    assert abs(two["metrics"]["knn"]["top1"] - one["metrics"]["knn"]["top1"]) <= 0.005
    (point,), (alone,) = (each["training"]["curve"]["points"] for each in (two, one))
    assert point["step"] == alone["step"] > 0
    assert abs(point["knn"] - alone["knn"]) <= 0.02  # of 289 images
    assert two["cost"]["devices"] == two["environment"]["processes"] == 2
    assert one["cost"]["devices"] == 1
    for part in ("images", "views", "flops", "teacher_flops"):
        assert two["cost"][part] == one["cost"][part], part
    again = torchrun(2, "-m", "benchmark.run", *small)  # a finished run ends on all ranks
    assert again.returncode == 0, again.stderr[-3000:]
    assert "is not repeated" in again.stdout


@pytest.mark.long
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """Oracle: the same run on two processes that was not stopped."""
    for place in ("whole", "stopped"):
        arguments = command(tmp_path / place, 400, "--checkpoint-seconds", "0.5", *CURVE, gin="gin/simclr.gin")
        if place == "stopped":
            started = subprocess.Popen(
                [sys.executable, *torchrun_arguments(2, "-m", "benchmark.run", *arguments)],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            while not list((tmp_path / place).glob("simclr*/checkpoints/*.pt")):
                assert started.poll() is None
                time.sleep(0.1)
            started.send_signal(signal.SIGTERM)
            assert "Stopped by SIGTERM after step" in started.communicate(timeout=60)[0]
        ended = torchrun(2, "-m", "benchmark.run", *arguments)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert ("goes on from step" in ended.stdout) == (place == "stopped")
    whole, stopped = (record(tmp_path / place, "simclr") for place in ("whole", "stopped"))
    assert stopped["training"]["digest"] == whole["training"]["digest"]
    assert stopped["cost"]["resumes"] == 1


def test_one_process_is_a_run_of_one_rank() -> None:
    """Oracle: what the functions say of a process that torchrun did not start."""
    rows = torch.arange(6.0).view(3, 2)
    for function in (ranks.rows, ranks.whole, ranks.divide, ranks.shared):
        assert function(rows) is rows
    assert ranks.told("word") == "word"
    assert ranks.all_words("word") == ["word"]
    assert (ranks.rank(), ranks.size(), sharing.processes(), sharing.rank()) == (0, 1, 1, 0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("started")
def test_other_commands_refuse_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: two processes would do the same twice."""
    assert suite(["--gin", "gin/suites/digits.gin"]) == 2
    assert "torchrun started 2 processes, and benchmark.suite is done by one" in capsys.readouterr().err
    assert run_one([*command(tmp_path, 1), "--dry-run"]) == 2
    assert "--dry-run is done by one" in capsys.readouterr().err


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--set", "Budget.kind='device_seconds'", "--set", "Budget.amount=5"), "is not calibrated on 2 processes"),
        (("--set", "Pretraining.compiled=True"), "a graph cannot hold what 2 processes tell each other"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    settings: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the sentence, before the processes meet."""
    assert run_one([*command(tmp_path, 1), *settings]) == 2
    assert message in capsys.readouterr().err


def test_what_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: 16 images and 8 parts on 3 processes, by the sentence of each."""
    monkeypatch.setattr(ranks._group, "size", 3)
    with pytest.raises(ConfigError, match="batch_size = 16 does not divide among 3 processes"):
        steps("simclr", "vit_micro")
    monkeypatch.setattr("ranks.BATCH", 24)
    with pytest.raises(ConfigError, match="parts of split batch norm do not divide among 3 processes"):
        steps("moco", "resnet_micro")


def test_the_script_writes_what_a_case_leaves(tmp_path: Path) -> None:
    """Oracle: the same steps, called directly."""
    main(str(tmp_path / "one.pt"), "mae/vit_micro")
    assert deviation(torch.load(tmp_path / "one.pt")["mae/vit_micro"], steps("mae", "vit_micro")) == 0
