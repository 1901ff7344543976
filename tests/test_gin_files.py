"""The shipped gin files: what each kind may bind, that every pair of them loads, and that methods share everything."""

import importlib
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from benchmark import config, registry
from benchmark.errors import ConfigError
from benchmark.experiment import Experiment
from benchmark.statements import Binding, Include, Source, Statement, parse
from benchmark.training.flops import count_step

GIN = Path(__file__).parents[1] / "gin"
METHODS = sorted(GIN.glob("*.gin"))
PROTOCOLS = sorted(GIN.glob("protocol/*.gin"))
STAGE = {"Pretraining.name", "Pretraining.method", "Pretraining.views"}


def statements(path: Path) -> list[Statement]:
    return list(parse(path.read_text(), Source(path.name, path)))


def bindings(path: Path) -> list[Binding]:
    return [statement for statement in statements(path) if isinstance(statement, Binding)]


def binds(path: Path, name: str) -> bool:
    return any(binding.binds(name) for binding in bindings(path))


DATA = [path for path in PROTOCOLS if binds(path, "experiment.data")]
ENCODERS = [path for path in PROTOCOLS if binds(path, "experiment.encoder")]
PAIRS = [path for path in PROTOCOLS if not bindings(path)]


def names(path: Path) -> set[str]:
    return {str(binding) for binding in bindings(path)}


def origin(name: str) -> str:
    """Return the module that registers a configurable, by its complete selector."""
    return registry.find(name).rpartition(".")[0]


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


for module in sorted(GIN.parent.glob("baselines/*.py")):
    importlib.import_module(f"baselines.{module.stem}")


def test_there_are_files_of_every_kind() -> None:
    """Oracle: the parametrised tests below would pass on an empty folder."""
    assert METHODS
    assert DATA
    assert ENCODERS
    assert PAIRS


@pytest.mark.parametrize("path", METHODS, ids=ids(METHODS))
def test_method_files_bind_the_method_only(path: Path) -> None:
    """Oracle: the rule: classes of `baselines`, three parameters of the stage, and whatever belongs to a teacher."""
    for binding in bindings(path):
        allowed = binding.scope.startswith("teacher") or str(binding) in STAGE
        assert allowed or (binding.parameter and origin(binding.name).startswith("baselines.")), binding.line.where


@pytest.mark.parametrize("path", METHODS, ids=ids(METHODS))
def test_method_files_are_named_and_short(path: Path) -> None:
    """Oracle: the rules: tables call the method as its file is called; at most 40 lines."""
    (name,) = [binding.value for binding in bindings(path) if str(binding) == "Pretraining.name"]
    assert name == path.stem
    assert len(path.read_text().splitlines()) <= 40
    assert path.stem in path.read_text().split("import")[0], "the head shows the command that runs the file"


@pytest.mark.parametrize("path", PROTOCOLS, ids=ids(PROTOCOLS))
def test_protocol_files_bind_no_method(path: Path) -> None:
    """Oracle: the rule: macros and configurables of the harness, and none of what a method file says."""
    for binding in bindings(path):
        assert str(binding) not in STAGE, binding.line.where
        assert not binding.parameter or not origin(binding.name).startswith("baselines."), binding.line.where


def test_methods_and_protocols_are_disjoint() -> None:
    """Oracle: no name is bound by both kinds, so their order on the command line does not matter."""
    methods = set().union(*map(names, METHODS))
    assert methods.isdisjoint(set().union(*map(names, PROTOCOLS)))


@pytest.mark.parametrize("kind", [DATA, ENCODERS], ids=["data", "encoders"])
def test_protocols_of_a_kind_bind_the_same_names(kind: list[Path]) -> None:
    """Oracle: exchanging one for another leaves nothing behind; an encoder's own parameters are its own."""

    def shared(path: Path) -> set[str]:
        own = ("ViT.", "ResNet.") if kind is ENCODERS else ()
        return {name for name in names(path) if not name.startswith(own)}

    assert {frozenset(shared(path)) for path in kind} == {frozenset(shared(kind[0]))}


def test_every_pair_of_data_and_encoder_has_a_file() -> None:
    """Oracle: the product of both, each pair being two includes."""
    assert set(ids(PAIRS)) == {f"{data}_{encoder}" for data, encoder in product(ids(DATA), ids(ENCODERS))}
    for path in PAIRS:
        included = [statement.file for statement in statements(path) if isinstance(statement, Include)]
        data, encoder = (Path(file).stem for file in included)
        assert path.stem == f"{data}_{encoder}"


@pytest.mark.parametrize("path", METHODS + PROTOCOLS, ids=ids(METHODS + PROTOCOLS))
def test_every_number_names_its_source(path: Path) -> None:
    """Oracle: a line with a number as its value, or in it, ends with a comment."""
    text = path.read_text().splitlines()
    for binding in bindings(path):
        value = re.sub(r"'[^']*'", "", text[binding.line.number - 1].partition("=")[2].partition("#")[0])
        comment = text[binding.line.number - 1].partition("#")[2]
        if re.search(r"(?<![\w.])[\d.]+", value):
            assert len(comment.strip()) >= 5, f"{binding.line.where}: {binding} has no source"


def test_gin_is_no_package() -> None:
    """Oracle: an `__init__.py` would make the folder shadow the package gin-config."""
    assert not list(GIN.rglob("__init__.py"))


def resolved(method: Path, *protocols: Path) -> dict[str, Any]:
    return config.load([str(method), *map(str, protocols)]).tree["params"]


@pytest.mark.parametrize("protocol", [None, *DATA, *ENCODERS, *PAIRS], ids=lambda path: path.stem if path else "none")
def test_methods_share_everything_else(protocol: Path | None) -> None:
    """Oracle: each pair loads, and what is resolved is equal for all methods but the three lines of their files."""
    shared = []
    for method in METHODS:
        parameters = resolved(method, *([protocol] if protocol else []))
        for name in ("method", "views", "name"):
            parameters["pretraining"]["params"].pop(name)
        shared.append(parameters)
    assert all(parameters == shared[0] for parameters in shared)


def test_order_of_files_does_not_matter() -> None:
    """Oracle: the canonical text of both orders."""
    files = [str(METHODS[0]), str(PAIRS[0])]
    assert config.load(files).text == config.load(files[::-1]).text


@pytest.mark.parametrize("method", METHODS, ids=ids(METHODS))
@pytest.mark.parametrize("encoder", ["vit_small", "resnet18"])
def test_full_size_networks_build(method: Path, encoder: str) -> None:
    """Oracle: a step of 8 images on the meta device costs FLOPs; only a method that drops patches refuses a CNN."""
    experiment: Experiment = config.build(config.load([str(method), f"gin/protocol/cifar10_{encoder}.gin"]))
    stage = experiment.pretraining()
    flops, refusal = 0, ""
    try:
        flops = count_step(lambda: stage.method(experiment.encoder(32)), 8, 32)
    except ConfigError as error:
        refusal = str(error)
    if encoder == "resnet18" and refusal:
        assert "Use a ViT" in refusal
    else:
        assert flops > 1e9, refusal
