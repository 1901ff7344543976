"""The measurements of speed: what is timed, how often, and that the candidates do the same work."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.config import load as configuration
from benchmark.errors import CheckError, ConfigError
from benchmark.experiment.environment import native_precision
from benchmark.experiment.stage import Stage
from benchmark.report import cells
from benchmark.report.text import marks
from benchmark.speed import main
from benchmark.timing import costs, evaluation, inputs, masking, races, training, workloads
from benchmark.timing.measurement import cell, page_name
from benchmark.timing.rounds import Rounds, interleave, take_turns
from benchmark.training.flops import count_step

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = "gin/protocol/digits_vit_micro.gin"


def smallest(folder: Path) -> str:
    """Write a protocol of one block and batches of 16 on the digits, and return its path."""
    file = folder / "smallest.gin"
    file.write_text(f"include '{DIGITS}'\nViT.depth = 1\nPretraining.batch_size = 16\n")
    return str(file)


def test_candidates_take_turns() -> None:
    """Oracle: the order by hand: one round to warm up, then each round begins with the next. The seconds are those of
    a clock by hand, or those that candidates return, the warm-up left out."""
    calls: list[str] = []
    times = interleave({name: partial(calls.append, name) for name in "abc"}, 2)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 2, "b": 2, "c": 2}
    ticks = iter(range(0, 100, 3))
    assert interleave({"a": lambda: None}, 1, lambda: float(next(ticks))).seconds == {"a": [3.0]}
    seconds = iter([9.0, 2.0, 4.0, 8.0])
    times = take_turns({"a": lambda: next(seconds)}, 3)
    assert times.seconds == {"a": [2.0, 4.0, 8.0]}
    assert cell(times.rate("a", 16.0), ".1f") == "4.0 (2.0 to 8.0)"


def test_ratios_are_taken_within_a_round() -> None:
    """Oracle: numbers by hand: the medians of the seconds would say 2; of the peak 10 FLOPs a second of 40, then 5 of
    10, at the medians it would be 7.5 of 25."""
    times = Rounds({"a": [1.0, 10.0, 2.0], "b": [3.0, 40.0, 4.0]})
    assert times.faster("a", than="b") == (3.0, 2.0, 4.0)
    assert times.typical("a") == (2.0, 1.0, 10.0)
    times = Rounds({"step": [1.0, 2.0], "peak": [0.5, 2.0]})
    assert times.percent_of_peak("step", "peak", {"step": 10, "peak": 20}) == (37.5, 25.0, 50.0)
    assert times.ratio("peak", "step", 100) == (75.0, 50.0, 100.0)


def test_the_command_prints_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a line for each candidate with median and range; the published formula votes as ours does, on features
    where no two votes are equal."""
    for name, size in {"KEYS": 300, "QUERIES": 40, "WIDTH": 16}.items():
        monkeypatch.setattr(evaluation, name, size)
    monkeypatch.setattr("benchmark.evals.linear.GRID", (10.0, 1.0, 0.1))
    monkeypatch.setattr("benchmark.evals.linear.WEAKER", ())  # which take long
    assert main(["evaluation", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "equal top-1 on 100.00 % of the queries" in printed
    assert "ours is 1.00 (1.00 to 1.00) times as fast" in printed
    assert "published formula" in printed
    assert "linear probe with its search: 300 images" in printed
    features = evaluation.bank(classes=5)
    assert len(features.fit) + len(features.held) == len(features.labels) == 300
    assert features.test["x"].shape == (40, 16)


def test_the_page_on_scale_has_the_counted_costs(tmp_path: Path) -> None:
    """Oracle: `flops_per_image`, and hours of 100 epochs of 1,281,167 images at 10^14 FLOPs a second; every method."""
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
    lines = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert sorted(lines) == sorted(path.stem for path in costs.shipped_methods())
    for encoder, column in (("resnet50", 0), ("vit_small", 2)):
        protocol = tmp_path / f"{encoder}.gin"
        protocol.write_text(f"include 'gin/protocol/imagenet1k.gin'\ninclude 'gin/protocol/{encoder}.gin'\n")
        for name in ("simclr", "mae"):
            flops = costs.flops_per_image(f"gin/{name}.gin", str(protocol))
            hours = flops and flops * 100 * 1_281_167 / 1e14 / 3600
            expected = ["n/a", "n/a"] if flops is None else [f"{flops / 1e9:.1f}", f"{hours:.1f}"]
            assert lines[name].split(" | ")[column : column + 2] == expected


def test_costs_are_what_runs_are_charged(tmp_path: Path) -> None:
    """Oracle: the price of a stage's step; with a teacher, a budget spent on both stages, to a step of each."""
    protocol = smallest(tmp_path)
    for name in ("simclr", "mae"):
        price = Stage.open(configuration.load([f"gin/{name}.gin", protocol]), tmp_path).price
        expected = price.flops / price.images
        assert costs.flops_per_image(f"gin/{name}.gin", protocol) == expected
    budget = ["Budget.kind=flops", "Budget.amount=1e14"]
    stage = Stage.open(configuration.load(["gin/mimco.gin", protocol], budget), tmp_path)
    assert stage.teacher is not None
    images = stage.steps * stage.price.images + stage.teacher.steps * stage.teacher.price.images
    assert costs.flops_per_image("gin/mimco.gin", protocol) == pytest.approx(1e14 / images, rel=1e-3)


def test_the_table_is_sorted_and_says_what_cannot_be() -> None:
    """Oracle: by hand, of planted costs: the cheapest first, GFLOPs, images for 10^16 FLOPs, and no number for a method
    that needs patches on a network without them."""
    assert costs.flops_per_image("gin/mae.gin", "gin/protocol/digits_resnet18.gin") is None
    planted = {"byol": (3e9, 4e9), "mae": (1e9, None), "simclr": (2.5e9, 1e9)}
    lines = costs.table(planted, "ab").splitlines()
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "| `mae` | 1.000 | 10,000,000 | n/a | n/a |",
        "| `simclr` | 2.500 | 4,000,000 | 1.000 | 10,000,000 |",
        "| `byol` | 3.000 | 3,333,333 | 4.000 | 2,500,000 |",
    ]


def test_a_stale_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the page after it was written, after a number was changed, without its marks, and no page."""
    monkeypatch.setattr(costs, "counted", lambda methods: {"simclr": (1e9, 1e9)})
    page = tmp_path / "page.md"
    begin, end = marks("costs", "python -m benchmark.speed costs")
    page.write_text("\n".join(["above", begin, "old", end, "below\n"]))
    costs.update(page, check=False)
    text = page.read_text()
    assert re.fullmatch(r"above\n<!--.*\| `simclr` \|.*-->\nbelow\n", text, re.DOTALL)
    costs.update(page, check=True)
    page.write_text(text.replace("| `simclr` | ", "| `simclr` | 9"))
    with pytest.raises(CheckError, match=r"is stale. Run `python -m benchmark.speed costs`"):
        costs.update(page, check=True)
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="no place for the costs"):
        costs.update(page, check=True)
    with pytest.raises(ConfigError, match=r"There is no page .*elsewhere\.md"):
        costs.update(tmp_path / "elsewhere.md", check=True)


PEER = """
import gin
import torch

@gin.register
class {name}:
    library = "by hand 1.0"

    def __init__(self, images, batch_size, steps, *, name: str, count: int):
        self.name, self.count, self.shape = name, count, (tuple(images.shape), batch_size, steps)

    def flops(self, batch_size):
        return self.count if self.count else None

    def __call__(self):
        assert not torch.are_deterministic_algorithms_enabled(), "as shipped"
        assert self.shape == ((256, 3, 16, 16), 32, {steps}), self.shape
        return 4.0
"""

RACE = """
include 'simclr.gin'
include 'protocol/digits_vit_micro.gin'
import {module}
race.name = 'a race'
race.ours = @experiment
race.peers = (@{name},)
race.of = '{of}'
{name}.name = 'by hand'
{name}.count = {count}
Pretraining.batch_size = 32
ViT.depth = 1
"""


def race(folder: Path, name: str, *, steps: int = 3, count: int = 0, of: str = "steps") -> Path:
    """Write a race against a peer that takes 4 s a turn and says it costs `count` FLOPs."""
    (folder / f"{name.lower()}.py").write_text(PEER.format(name=name, steps=steps))
    file = folder / f"{name.lower()}.gin"
    file.write_text(RACE.format(module=name.lower(), name=name, count=count, of=of))
    return file


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One method on the digits in place of all on CIFAR-10."""
    monkeypatch.setattr(workloads, "shipped_methods", lambda: [Path("gin/simclr.gin")])
    monkeypatch.setattr(masking, "PROTOCOL", DIGITS)
    monkeypatch.setattr(inputs, "PROTOCOL", smallest(tmp_path))
    monkeypatch.setattr(training, "PROTOCOLS", (smallest(tmp_path),))
    monkeypatch.setattr(masking, "SIZE", 16)
    monkeypatch.setattr(masking, "BATCH", 4)
    monkeypatch.setitem(training.TURNS, "cpu", training.Turn(steps=2, repeats=1, side=64, images=1))


def test_inputs_are_measured(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a line for the method."""
    assert main(["inputs", "--rounds", "2"]) == 0
    assert "| `simclr` | " in capsys.readouterr().out


def test_views_are_raced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a peer of 4 s a turn makes 20 batches of 32 images in two views: 320 views a second."""
    file = race(tmp_path, "PeerOfViews", steps=20, of="views")
    assert main(["races", "--race", str(file), "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    for row in ("| by hand | by hand 1.0 |  | 320 (320 to 320) |", "| ours |  |  | "):
        assert row in printed
    assert torch.are_deterministic_algorithms_enabled(), "for ours"


def flops_of_simclr(images: int) -> int:
    """Return the FLOPs of a step with one block on the digits."""
    config = configuration.load(["gin/simclr.gin", DIGITS], ["ViT.depth=1"])
    stage = workloads.open_stage(config, configuration.build(config))
    return count_step(lambda: stage.method()[0], images, 16)


def test_steps_are_raced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a peer of 4 s a turn takes 3 steps of 32 images: 24 images a second; its seconds are kept."""
    file = race(tmp_path, "PeerOfSteps", count=flops_of_simclr(races.COUNTED))
    assert main(["races", "--race", str(file), "--rounds", "2", "--out", str(tmp_path / "speed")]) == 0
    assert "| by hand | by hand 1.0 | 1.000 | 24.0 (24.0 to 24.0) |" in capsys.readouterr().out
    kept = json.loads((tmp_path / "speed" / "races.jsonl").read_text())
    assert kept["measured"]["a race"]["seconds"]["by hand"] == [4.0, 4.0]


def test_training_is_measured(small: None, tmp_path: Path) -> None:
    """Oracle: a line is kept for each run, and one page for the machine. The work of a turn is that of two steps, of
    one product of 64 x 64 matrices, and of one convolution."""
    out = tmp_path / "speed"
    for rounds in "21":
        assert main(["training", "--rounds", rounds, "--out", str(out)]) == 0
    (page,) = out.glob("*.md")
    assert "% of the convolution" in page.read_text()
    first, _ = (json.loads(line) for line in (out / "training.jsonl").read_text().splitlines())
    (methods,) = first["measured"].values()
    work = {
        "simclr": 2 * flops_of_simclr(16),
        "matrix product": 2 * 64**3,
        "convolution": 2 * 9 * 128**2 * 32**2,
    }
    assert (methods["work"], methods["seconds"].keys()) == (work, work.keys())
    assert first["environment"]["threads"] == 1
    assert (methods["precision"], "precision" in first["environment"]) == (native_precision(), False)
    assert cells.load(out) == [], "measurements of speed are no records of runs"


def test_options_belong_to_their_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: what would be ignored is refused: a race of training, a folder for costs, a check of seconds; and so are
    races without a file."""
    refused = {
        "races and --race belong together": (["training", "--race", "x.gin"], ["races"]),
        "--out: ": (["costs", "--out", "x"],),
        "--check: ": (["training", "--check"],),
    }
    for message, several in refused.items():
        for arguments in several:
            with pytest.raises(SystemExit, match="2"):
                main(arguments)
            assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ({"processor": "AMD EPYC", "processor_flags": ["avx2", "avx512_bf16"]}, "part-amd-epyc-with-avx512-bf16.md"),
        ({"processor": "Intel(R) Xeon(R) Processor", "processor_flags": []}, "part-intel-xeon-processor.md"),
        ({"processor": "arm", "processor_flags": ["bf16"], "gpu": "NVIDIA H200"}, "part-nvidia-h200.md"),
    ],
)
def test_each_kind_of_device_has_a_page(machine: dict[str, Any], name: str) -> None:
    """Oracle: the names by hand."""
    assert page_name("part", {"gpu": None} | machine) == name


def test_a_race_is_at_equal_flops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a peer that says it costs 1,000 FLOPs, or 0.4 % more than ours, is refused, with both numbers; the second
    is taken where the race allows for 0.5 %."""
    assert main(["races", "--race", str(race(tmp_path, "CheapPeer", count=1000))]) == 1
    assert "by hand spends 1,000 FLOPs on 8 images and ours " in capsys.readouterr().err
    file = race(tmp_path, "DearPeer", count=round(1.004 * flops_of_simclr(races.COUNTED)))
    assert main(["races", "--race", str(file)]) == 1
    file.write_text(file.read_text() + "race.tolerance = 0.005\n")
    assert main(["races", "--race", str(file), "--rounds", "1"]) == 0
    assert "| by hand | by hand 1.0 | 1.004 | 24.0 (24.0 to 24.0) |" in capsys.readouterr().out


def test_a_race_is_refused_before_the_first_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: a binding that nothing reads, or a peer of other FLOPs, in the second file; no turn is taken."""
    first, second = race(tmp_path, "FirstPeer"), race(tmp_path, "SecondPeer")
    dear = race(tmp_path, "OtherPeer", count=1000)
    second.write_text(second.read_text() + "other/SecondPeer.name = 'nobody'\n")
    monkeypatch.setattr(races, "take_turns", None)
    assert main(["races", "--race", str(first), "--race", str(second)]) == 2
    assert "SecondPeer is not used in the scope 'other'" in capsys.readouterr().err
    assert main(["races", "--race", str(first), "--race", str(dear)]) == 1
    assert "spends 1,000 FLOPs" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"is a race.* python -m benchmark\.speed races --race"):
        configuration.load([str(first)], allow_imports=True)


def test_masking_is_measured_by_time_and_by_flops(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: 17 / 5 tokens = 3.4, but for the embedding of all patches (less) and for attention (more)."""
    assert main(["masking", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert float(printed.partition("cheaper by ")[2].split()[0].rstrip(".")) == pytest.approx(3.4, abs=0.1)
    assert "| 75% masked | " in printed


@pytest.mark.parametrize(
    "name",
    [
        "lightly_simclr",
        pytest.param("lightly_mae_float32", marks=pytest.mark.long),
        pytest.param("lightly_simclr_float32", marks=pytest.mark.long),
        "lightly_views",
        pytest.param("stable_simclr_float32", marks=pytest.mark.long),
        pytest.param("stable_mae", marks=pytest.mark.long),
    ],
)
def test_races_are_at_equal_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: our count of FLOPs on the meta device, theirs of a real step; and the precision of the file's name."""
    library = {"lightly": "lightly", "stable": "stable_pretraining"}[name.partition("_")[0]]
    pytest.importorskip(library, reason="lightly is in '.[test]', and docs/reference.md says how to get the other")
    monkeypatch.setattr(races, "COUNTED", 2)  # images, of full networks
    race, stage = races.open_race(Path(f"results/speed/{name}.gin"))
    peers = race.build_peers(stage, 2)
    assert peers
    assert all((share is None) == (name == "lightly_views") for _, share in peers)
    precision = "float32" if name.endswith("float32") else native_precision()
    assert stage.pretraining.precision == precision
