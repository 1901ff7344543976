"""The shipped gin files: what each kind may bind, that every pair of them loads, and that methods share everything."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from benchmark.config import load as configuration
from benchmark.config import registry
from benchmark.config.parse import Binding, Include, Source, Statement, parse
from benchmark.errors import ConfigError
from benchmark.experiment.setup import Experiment
from benchmark.method import ParamGroup
from benchmark.nets.decoder import PixelDecoder
from benchmark.randomness import derive
from benchmark.report import record as records
from benchmark.run import main
from benchmark.training.budget import Price

GIN = Path(__file__).parents[1] / "gin"
REPORTS = sorted(GIN.glob("report_*.gin"))
METHODS = sorted(set(GIN.glob("*.gin")) - set(REPORTS))
PAPERS = sorted(GIN.glob("paper/*.gin"))
PROTOCOLS = sorted(GIN.glob("protocol/*.gin"))
OVERLAYS = [*REPORTS, *PAPERS]
TRAINED = (GIN / "report_mae.gin", GIN / "paper/moco_v3.gin")
"""Overlays that each run of the tests trains: one that masks, and one with a part that is frozen."""
PRESETS = sorted(GIN.glob("presets/*.gin"))
STAGE = {"Pretraining.name", "Pretraining.method", "Pretraining.views"}
TEACHER = {"experiment.teacher", "experiment.teacher_share"}


def statements(path: Path) -> list[Statement]:
    return list(parse(path.read_text(), Source(path.name, path)))


def bindings(path: Path) -> list[Binding]:
    return [statement for statement in statements(path) if isinstance(statement, Binding)]


def binds(path: Path, name: str) -> bool:
    return any(binding.binds(name) for binding in bindings(path))


DENSE = [path for path in PROTOCOLS if binds(path, "Images.mask")]
BOXES = [path for path in PROTOCOLS if binds(path, "Images.boxes")]
DATA = [path for path in PROTOCOLS if binds(path, "experiment.data") and path not in [*DENSE, *BOXES]]
ENCODERS = [path for path in PROTOCOLS if binds(path, "experiment.encoder")]
PAIRS = [path for path in PROTOCOLS if not bindings(path)]


def names(path: Path) -> set[str]:
    return {str(binding) for binding in bindings(path)}


def origin(name: str) -> str:
    """Return the module that registers a configurable, by its complete selector."""
    return registry.find(name).rpartition(".")[0]


for module in sorted(GIN.parent.glob("baselines/*.py")):
    importlib.import_module(f"baselines.{module.stem}")


def experiment_of(files: Sequence[str], settings: Sequence[str] = ()) -> Experiment:
    experiment: Experiment = configuration.build(configuration.load(files, settings))
    return experiment


def test_there_are_files_of_every_kind() -> None:
    """Oracle: the loops below would pass on an empty folder; an `__init__.py` would shadow the package gin-config."""
    assert all((METHODS, REPORTS, PAPERS, DATA, DENSE, BOXES, ENCODERS, PAIRS))
    assert not list(GIN.rglob("__init__.py"))


def test_methods_and_protocols_bind_what_is_theirs() -> None:
    """Oracle: the rules: a method binds classes of `baselines`, three parameters of the stage, and whatever belongs to
    a teacher; a protocol binds macros and configurables of the harness. No name is bound by both, so their order on
    the command line does not matter."""
    for binding in (binding for path in METHODS for binding in bindings(path)):
        allowed = binding.scope.startswith("teacher") or str(binding) in STAGE | TEACHER
        assert allowed or (binding.parameter and origin(binding.name).startswith("baselines.")), binding.line.where
    for binding in (binding for path in PROTOCOLS for binding in bindings(path)):
        assert str(binding) not in STAGE, binding.line.where
        assert not binding.parameter or not origin(binding.name).startswith("baselines."), binding.line.where
    assert set().union(*map(names, METHODS)).isdisjoint(set().union(*map(names, PROTOCOLS)))


def test_files_of_methods_are_named_and_short() -> None:
    """Oracle: the rules: tables call the method as its file is called; at most 40 lines; a command in the head."""
    for path in [*METHODS, *REPORTS]:
        (name,) = [binding.value for binding in bindings(path) if str(binding) == "Pretraining.name"]
        assert name == path.stem
        assert len(path.read_text().splitlines()) <= 40, path
        assert path.stem in path.read_text().split("import")[0], path


def test_protocols_of_a_kind_bind_the_same_names() -> None:
    """Oracle: exchanging one for another leaves nothing behind; an encoder's own parameters are its own.

    So are, of data, the splits and the crops of the original: those left behind are refused.
    """
    kept = ("Images.test", "Images.pretrain", "Images.cropped_from")
    encoders = ("ViT.", "ViTTuning.", "Swin.", "ResNet.", "ConvNetTuning.")
    for kind, own in ((DATA, kept), (DENSE, ()), (BOXES, ()), (ENCODERS, encoders)):
        assert len({frozenset(name for name in names(path) if not name.startswith(own)) for path in kind}) == 1


def test_every_pair_of_data_and_encoder_has_a_file() -> None:
    """Oracle: the product of the data and encoders that are paired at all, the small ones, each being two includes."""
    pairs = {}
    for path in PAIRS:
        data, encoder = (Path(statement.file).stem for statement in statements(path) if isinstance(statement, Include))
        pairs[path.stem] = data, encoder
    assert all(name == f"{data}_{encoder}" for name, (data, encoder) in pairs.items())
    data, encoders = (set(kind) for kind in zip(*pairs.values(), strict=True))
    assert set(pairs.values()) == set(product(data, encoders))
    assert {"digits", "cifar10", "cifar100", "imagenette96"} <= data <= {path.stem for path in DATA}
    assert (
        {"resnet18", "swin_micro", "vit_micro", "vit_tiny", "vit_small"} <= encoders <= {path.stem for path in ENCODERS}
    )


def numbers(method: Path) -> dict[str, int | float]:
    """Return the numbers that a method's run depends on, by the bindings that set them."""
    lines = (line.partition(" = ") for line in configuration.load([str(method)]).text.splitlines())
    values = {name: ast.literal_eval(value) for name, _, value in lines if re.fullmatch(r"-?\d[\d.e+-]*", value)}
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def build_all(method: Path, setting: str) -> None:
    """Build all that a run of the method builds before its data are read and it trains."""
    experiment = experiment_of([str(method)], (setting,))
    experiment.data()
    experiment.budget().plan(Price(images=100, flops=10**10))
    for evaluation in experiment.evaluations:
        evaluation()
    teacher = experiment.encoder(16)
    for factory in filter(None, (experiment.teacher, experiment.pretraining)):
        stage = factory()
        built = stage.method(
            experiment.encoder(16), *([teacher] if stage.needs_teacher else []), *([10] if stage.needs_labels else [])
        )
        stage.recipe(experiment.limits(), built)
        stage.optimiser().build(built.param_groups(), stage.batch_size)


def test_no_number_may_be_negative() -> None:
    """Oracle: the sign; with -1 for any number of any method a run is refused before it trains, and its message names
    it. What several methods have is tried with the last of them."""
    settings = {name: (value, method) for method in METHODS for name, value in numbers(method).items()}
    for name, (value, method) in settings.items():
        with pytest.raises(ConfigError, match=rf"\b{name.rpartition('.')[2]}"):
            build_all(method, f"{name} = {type(value)(-1)}")


def test_evaluations_have_ranges() -> None:
    """Oracle: the documented ranges; the message names the binding."""
    for setting in (
        "KNN.temperature = 0.0",
        "KNNProjection.k = 0",
        "one_percent/SemiProbe.fraction = 0.0",
        "one_percent/SemiProbe.fraction = 1.5",
        "one_percent/SemiProbe.draws = 0",
        "one_percent/SemiFineTune.fraction = 1.5",
        "one_percent/SemiFineTune.trunk_rate = 0.0",
        "one_percent/SemiFineTune.head_rate = -1.0",
        "one_percent/SemiFineTune.steps = 0",
        "one_percent/SemiFineTune.batch_size = 0",
    ):
        name = setting.partition(" = ")[0]
        evaluations = f"experiment.evaluations = (@{name.rpartition('.')[0]},)"
        with pytest.raises(ConfigError, match=rf"{name} expected (int|float) (above|of at least)"):
            configuration.load([str(GIN / "simclr.gin")], (evaluations, setting))


def test_methods_share_everything_else() -> None:
    """Oracle: each pair loads; but for a stage's own three lines and a teacher, all methods resolve to the same.

    Protocols of a kind bind the same names: one of each kind is tried with every method, the others with two.
    """
    first = (DATA[0], ENCODERS[0], PAIRS[0])
    for protocol in (None, *DATA, *ENCODERS, *PAIRS):
        shared = []
        for method in METHODS if protocol in (None, *first) else (METHODS[0], GIN / "mimco.gin"):
            files = [str(method), *([str(protocol)] if protocol else [])]
            parameters = configuration.load(files).tree["params"]
            for name in ("method", "views", "name"):
                parameters["pretraining"]["params"].pop(name)
            for name in TEACHER:
                parameters.pop(name.removeprefix("experiment."))
            shared.append(parameters)
        assert all(parameters == shared[0] for parameters in shared), protocol


def command(path: Path) -> list[str]:
    """Return the gin files of the command for ImageNet-100 in the head of an overlay, the overlay itself last."""
    heads = re.findall(r"python -m benchmark.run((?: +--gin \S+)+)", path.read_text().replace("\\\n#", ""))
    (files,) = (
        files for head in heads if "gin/protocol/imagenet100.gin" in (files := head.replace("--gin", "").split())
    )
    assert files[-1] == str(path.relative_to(GIN.parent))
    return files


def test_overlays_of_papers_are_short_and_say_what_they_are() -> None:
    """Oracle: the rules: at most 40 lines; paper, published accuracy, differences and command in the head; no views.

    The budget is the epochs that head and comment name, of the 1,281,167 images of ImageNet's training set.
    """
    for path in PAPERS:
        text = path.read_text()
        head = text[: text.index("\n" + bindings(path)[0].line.text)]
        assert len(text.splitlines()) <= 40
        assert re.search(r"arXiv:\d{4}\.\d{5}", head)
        assert re.search(r"\d\d\.\d % ", head)
        assert "Not as published: " in head
        assert f"gin/{path.stem}.gin" in command(path)[0]
        assert names(path) >= {"Pretraining.batch_size", "Budget.kind", "Budget.amount"}
        assert names(path).isdisjoint(STAGE)
        (amount,) = (binding for binding in bindings(path) if str(binding) == "Budget.amount")
        epochs, remainder = divmod(amount.value, 1_281_167)
        assert remainder == 0
        assert f"# stated: {epochs} epochs of" in amount.line.text
        assert re.search(rf"after {epochs}\s+(# )?epochs", text)
        for binding in bindings(path):
            if binding.parameter == "warmup" and binding.value:
                (warm,) = re.findall(rf"(\d+) epochs, of {epochs}$", binding.line.text)
                assert binding.value == pytest.approx(int(warm) / epochs, abs=1e-6)


COUNTS = {"resnet50": 23_508_032, "swin_tiny": 27_519_354, "vit_base": 85_798_656, "vit_small": 21_665_664}
"""Parameters of the encoders as published: 23.5, 28.3 with 0.8 of a classifier, 85.8 and 21.7 million; a ViT's with 197
fixed positions."""


def test_overlays_build_at_full_size() -> None:
    """Oracle: for the command in the head, the canonical text, which is all that runs, has each value they bind; then
    published parameter counts, on the meta device; the optimiser holds each trained parameter once.

    He et al. 2022 (arXiv:2111.06377) have a decoder of 26.0 million parameters.
    """
    for path in OVERLAYS:
        files = command(path)
        loaded = configuration.load(files)
        for binding in bindings(path):
            value = repr(float(binding.value)) if str(binding) == "Budget.amount" else repr(binding.value)
            assert f"{binding} = {value}" in loaded.text.splitlines(), binding.line.where
        (encoder,) = (Path(file).stem for file in files if Path(file).stem in COUNTS)
        experiment: Experiment = configuration.build(loaded)
        stage = experiment.pretraining()
        with torch.device("meta"):
            method = stage.method(experiment.encoder(224))
        assert sum(p.numel() for p in method.encoder.parameters()) == COUNTS[encoder]
        groups = stage.optimiser().build(method.param_groups(), stage.batch_size).inner.param_groups
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad), path
        for part in method.modules():
            if isinstance(part, PixelDecoder) and path in PAPERS:
                trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
                assert trained == pytest.approx(26.0e6, rel=1e-3)


def test_published_rates() -> None:
    """Oracle: the peak rates by hand: 0.3 * 4096 / 256 = 4.8 and 0.03; of the weights and of biases and gains."""
    for stem, peaks in {"simclr": (4.8, 4.8), "moco": (0.03, 0.03), "barlow_twins": (1.6, 0.0384)}.items():
        (path,) = (path for path in PAPERS if path.stem == stem)
        stage = experiment_of(command(path)).pretraining()
        weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        groups = stage.optimiser().build([ParamGroup([weight, bias])], stage.batch_size).inner.param_groups
        assert [group["peak"] for group in groups] == pytest.approx(peaks)
    for stem, rate in {"report_simclr": 1e-3, "report_mae": 1e-4}.items():
        (path,) = (path for path in REPORTS if path.stem == stem)
        stage = experiment_of([str(path)]).pretraining()
        (group,) = stage.optimiser().build([ParamGroup([weight])], stage.batch_size).inner.param_groups
        assert (group["peak"], group["weight_decay"]) == (pytest.approx(rate), 0.0)


SMALLER = {"batch_size": 16, "amount": 32, "depth": 1, "evaluations": (), "local_resolution": 0.5} | dict.fromkeys(
    ("projector_width", "projector_hidden", "head_hidden", "queue_size", "bottleneck", "prototypes"), 32
)
"""What makes a run small, by the names of parameters: 2 steps of 16 images, of 16 px in patches of 4."""


def smaller(node: dict[str, Any]) -> Iterator[str]:
    """Yield the settings that make what a resolved configuration refers to small."""
    for name, value in node["params"].items():
        if name in SMALLER:
            yield f"{node['@']}.{name}={SMALLER[name]}"
        elif isinstance(value, dict):
            yield from smaller(value)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path in TRAINED else pytest.mark.long) for path in OVERLAYS],
)
def test_overlays_train_on_the_digits(path: Path, tmp_path: Path) -> None:
    """Oracle: two real steps move each trained weight matrix of the encoder, and nothing that is frozen."""
    files = [file for file in command(path) if not file.startswith("gin/protocol/")]
    settings = [*smaller(configuration.load(files).tree), "Budget.kind=samples"]
    options = [part for file in files for part in ("--gin", file)] + [part for s in settings for part in ("--set", s)]
    assert main([*options, "--out", str(tmp_path)]) == 0
    experiment = experiment_of(files, settings)
    torch.manual_seed(derive(0, "encoder"))
    encoder = experiment.encoder(16)
    (file,) = tmp_path.glob("*/encoder.safetensors")
    trained = load_file(file)
    for name, before in encoder.net.named_parameters():
        if not before.requires_grad:
            assert torch.equal(trained[name], before), name
        elif before.ndim > 1:
            assert not torch.equal(trained[name], before), name
    assert encoder.net.patch_embed.proj.weight.requires_grad == (path.stem != "moco_v3")


@pytest.mark.long
@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_reports_run_at_full_size(path: Path, tmp_path: Path) -> None:
    """Oracle: 20 steps of the command in the head, on files shaped like ImageNet-100, end in a record with accuracies.

    `pytest -m long tests/test_gin_files.py`, tens of minutes on 2 cores.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1)):
        for c in range(100):
            folder = tmp_path / "images" / split / f"class{c:03}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (375, 500, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    files = [part for file in command(path) for part in ("--gin", file)]
    settings = (f"Images.source=folder:{tmp_path / 'images'}", "Budget.amount=640", "experiment.evaluations=(@KNN,)")
    options = [part for setting in settings for part in ("--set", setting)]
    out = tmp_path / "runs"
    arguments = [sys.executable, "-m", "benchmark.run", *files, *options, "--out", str(out)]
    subprocess.run(arguments, cwd=GIN.parent, check=True)
    (record,) = (records.read(file) for file in out.glob("*/*-s0-*.json") if file.parent.name != "floors")
    assert (record["status"], record["budget"]["steps"], record["dataset"]["size"]) == ("ok", 20, 224)
    assert record["metrics"]
