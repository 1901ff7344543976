"""What every method owes the harness. Each gin/*.gin and baselines/*.py is found by itself: a new method needs no line.

`pytest -k simclr` runs the checks of one method, on a tiny encoder and small random views. The checks are those of
`python -m benchmark.battery`.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from baselines.mixmask import Mixture
from benchmark.battery import main
from benchmark.checks.checks import CHECKS, compiled_equals_eager, order_of_the_batch_is_irrelevant
from benchmark.checks.imports import allowed, imports
from benchmark.checks.subject import TINY, NotApplicable, Subject
from benchmark.config import load as configuration
from benchmark.experiment.stage import Stage
from benchmark.method import Container, Method
from benchmark.nets.encoders import Encoder

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {path.stem: path for path in sorted((ROOT / "gin").glob("*.gin"))}
METHODS = {path.stem: path for path in sorted((ROOT / "baselines").glob("*.py")) if path.stem != "__init__"}
ON_SWIN = ("simmim", "moby", "mimco_swin")
"""Experiments that are also tried on a Swin, which needs a mask token or no mask."""
SUBJECTS = [*EXPERIMENTS, *(f"{stem} on a Swin" for stem in ON_SWIN)]
VARIANTS = {f"mixmask_{base}" for base in ("byol", "moco", "simsiam", "unmix_moco")} | {
    "erase_moco",
    "mrcl_bt",
    "mrcl_byol",
    "report_mae",
    "report_simclr",
    "unmix_moco",
}
"""Experiments whose classes others have too."""
TINY_SWIN = ("Swin.width=16",)

FORWARDS = {
    "SimCLR": 1,
    "BarlowTwins": 2,
    "VICReg": 2,
    "SimSiam": 2,
    "BYOL": 4,
    "DINO": 3,
    "IBOT": 3,
    "MSN": 3,
    "MoCo": 2,
    "MoCoV3": 4,
    "MAE": 1,
    "MimCo": 2,
    "MoBY": 4,
    "SimMIM": 1,
    "SupervisedReference": 1,
}
"""Encoder forwards per step by class, the momentum copy's among them; SimCLR joins its views, DINO and iBOT those of
one size, MSN its small ones, and MoCo is asymmetric."""
FORWARDS_ADDED: dict[str, Callable[[Container], int]] = {
    "MRCL": lambda _: 0,
    "MACRL": lambda _: 0,
    "CAN": lambda _: 0,
    "Mixture": lambda mixture: len(mixture.mixers),
}
"""What a container adds to its base."""
COMPILED = {"macrl", "mae", "mixmask_simclr"}
"""Kinds of step: a masked query with a momentum copy, a queue and a decoder; one view; a joint forward and mixtures."""
TRACED: set[type] = set()
"""Classes of this project and of the methods that an experiment before has traced."""
LIBRARIES = ("torch", "gin", "timm")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in SUBJECTS]
)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """One experiment on the digits; gin's state is global, so it lives until the next one is opened."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    stem, _, encoder = request.param.partition(" on a ")
    files = [EXPERIMENTS[stem], *([ROOT / "gin/protocol/digits_swin_micro.gin"] if encoder else [])]
    config = configuration.load(list(map(str, files)), TINY_SWIN if encoder else TINY)
    yield Subject(Stage.open(config, Path()))
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "compiled_equals_eager"])
def test_check(name: str, subject: Subject) -> None:
    """Oracle: that of the check."""
    try:
        if CHECKS[name] is order_of_the_batch_is_irrelevant:
            order_of_the_batch_is_irrelevant(subject, paired=isinstance(subject.build(), Mixture))
        else:
            CHECKS[name](subject)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def stated_forwards(method: Method) -> int | None:
    """Look up the encoder forwards of a step; None where a class is unknown."""
    name = type(method).__name__
    if not isinstance(method, Container):
        return FORWARDS.get(name)
    own = stated_forwards(method.base)
    added = FORWARDS_ADDED.get(name)
    return None if own is None or added is None else own + added(method)


def test_encoder_forwards_are_as_few_as_stated(subject: Subject) -> None:
    """Oracle: the tables above, for the classes that they know."""
    method = subject.build()
    expected = stated_forwards(method)
    if expected is None:
        pytest.skip(f"the forwards of {type(method).__name__} are not stated")
    forwards: list[nn.Module] = []
    hook = register_module_forward_hook(lambda part, *_: forwards.append(part) if isinstance(part, Encoder) else None)
    subject.step(method)
    hook.remove()
    assert len(forwards) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Dynamo does not know how to trace")
@pytest.mark.parametrize("subject", sorted(COMPILED), indirect=True)
def test_compiled_method_equals_eager(subject: Subject) -> None:
    """Oracle: the eager loss and its gradient, traced forward and backward, of one experiment of each kind of step."""
    compiled_equals_eager(subject, "aot_eager")


@pytest.mark.long
@pytest.mark.filterwarnings("error:Dynamo does not know how to trace")
@pytest.mark.parametrize("subject", [stem for stem in SUBJECTS if stem not in COMPILED], indirect=True)
def test_every_compiled_method_equals_eager(subject: Subject) -> None:
    """Oracle: the eager loss, traced forward alone, where an experiment has a class that none before had."""
    method = subject.build()
    classes = {type(part) for part in [*method.modules(), *getattr(method, "mixers", ())]}
    if classes <= TRACED:
        pytest.skip("all of its classes are traced in other experiments")
    TRACED.update(classes)
    compiled_equals_eager(subject, "eager")


@pytest.mark.parametrize("stem", METHODS)
def test_method_is_one_small_file(stem: str) -> None:
    """Oracle: the rules: 180 lines, imports of the layers below and of at most one other method, one gin file."""
    path = METHODS[stem]
    assert len(path.read_text().splitlines()) <= 180
    others = [name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names]
    siblings = {name for name in others if name.startswith("baselines.")}
    assert len(siblings) <= 1
    foreign = [n for n in others if n not in siblings and not allowed(n) and n.split(".")[0] not in LIBRARIES]
    assert not foreign, f"{path.name} imports {foreign}"
    assert any(f"import baselines.{stem}\n" in gin.read_text() for gin in EXPERIMENTS.values())


MODULE = """
import gin
import torch
from benchmark.method import Method, Step
from benchmark.data import images

@gin.register
class Faulty(Method):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, views, draws):
        self.seen = len(views) + torch.rand(1).item()
        return Step(self.encoder(views[0]).pooled.square().mean())
"""


def test_the_command_checks_a_method_outside_the_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: by hand: a line for each check, the faults that are planted, and exit code 4; then a sound method."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(CHECKS, "compiled_equals_eager", lambda subject: None)  # tracing takes seconds
    (tmp_path / "faulty_method.py").write_text(MODULE)
    file = tmp_path / "faulty.gin"
    file.write_text(
        "import faulty_method\nPretraining.name = 'faulty'\nPretraining.method = @Faulty\n"
        "Pretraining.views = @always_jitter\n"
    )
    assert main([str(file)]) == 4
    printed = capsys.readouterr()
    lines = dict(re.findall(r"^(?:FAILED|ok|-)  +([^:\n]+)(?:: (.*))?$", printed.out, re.MULTILINE))
    assert list(lines) == [name.replace("_", " ") for name in CHECKS]
    for name, words in {
        "a step keeps the contract": "the docstring of Faulty has no sentence 'Differs from the paper",
        "forward is pure": "forward writes .seen",
        "every view matters": "view 1 does not matter",
        "files import what they may": "faulty_method.py imports benchmark.data",
    }.items():
        assert words in lines[name]
    assert "checks of faulty failed" in printed.err
    assert main(["gin/vicreg.gin", "--set", "VICReg.covariance=2.0"]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_a_check_in_which_a_method_fails_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the line of the misspelt attribute follows the name of the check."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("benchmark.checks.checks.CHECKS", {"every_view_matters": CHECKS["every_view_matters"]})
    (tmp_path / "misspelt_method.py").write_text(MODULE.replace("Faulty", "Misspelt").replace("views[0])", "view[0])"))
    file = tmp_path / "misspelt.gin"
    file.write_text(
        "import misspelt_method\nPretraining.name = 'misspelt'\nPretraining.method = @Misspelt\n"
        "Pretraining.views = @always_jitter\n"
    )
    assert main([str(file)]) == 4
    (line,) = re.findall(r"^FAILED.*", capsys.readouterr().out, re.MULTILINE)
    assert line.startswith(f"FAILED  every view matters: {tmp_path / 'misspelt_method.py'}, line ")
