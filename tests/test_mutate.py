"""The mistakes that `python tests/mutate.py` plants."""

import ast
from pathlib import Path

import mutate
import pytest

TOY = '''"""A toy — its text has letters of several bytes."""


@decorator
def loss(a: list[1], b=True):
    """Docstring 1."""
    x = "é" + a.detach() * 3  # a comment
    if not x < 1:
        raise ValueError(f"{x} is above {1 - 0}", 2)
    with torch.no_grad():
        x[0] = f(a, b, dim=-1)
    x += 0.5 if a and b else c
    return g(
        a == b,
    )


class Net:
    size: int = 7

    def forward(self):
        self.reset()
'''
EXPECTED = {
    ("True", "False"),
    ("'é' + a.detach() * 3", "'é' - a.detach() * 3"),
    ("a.detach() * 3", "a.detach() / 3"),
    ("a.detach()", "a"),
    ("3", "6"),
    ("not x < 1", "x < 1"),
    ("x < 1", "x <= 1"),
    ("1", "2"),
    ("torch.no_grad()", "torch.enable_grad()"),
    ("x[0] = f(a, b, dim=-1)", "pass"),
    ("x[0]", "x[1]"),
    ("f(a, b, dim=-1)", "f(b, a, dim=-1)"),
    ("f(a, b, dim=-1)", "f(a, b)"),
    ("-1", "1"),
    ("x += 0.5 if a and b else c", "x -= 0.5 if a and b else c"),
    ("x += 0.5 if a and b else c", "pass"),
    ("a and b", "not (a and b)"),
    ("a and b", "a or b"),
    ("0.5", "1.0"),
    ("a == b", "a != b"),
    ("7", "14"),
    ("self.reset()", "pass"),
}


def test_mistakes_of_a_toy() -> None:
    """Oracle: a list by hand: no annotation, docstring or error's message; what is negated twice is there once."""
    changes = [(mutant.before, mutant.after) for mutant in mutate.mutants(TOY)]
    assert set(changes) == EXPECTED
    assert sorted(changes) == sorted([*EXPECTED, ("1", "2")])  # 1 in the condition and in dim=-1


SHOWN = ("losses.py", "method.py", "mixmask.py")
"""Files whose mutants each run of the tests makes; `pytest -m long` makes all."""


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=() if file.name in SHOWN else pytest.mark.long) for file in mutate.subjects([])],
    ids=str,
)
def test_each_mutant_of_a_module_has_one_mistake(file: Path) -> None:
    """Oracle: the lines around the mistake; whatever is decorated, or has two statements, yields mutants."""
    text = (mutate.ROOT / file).read_text()
    mutants = list(mutate.mutants(text))
    for mutant in mutants:
        compile(mutant.text, str(file), "exec")
        before, after = text.splitlines(), mutant.text.splitlines()
        assert before[: mutant.line - 1] == after[: mutant.line - 1]
        assert before[mutant.end :] == after[len(after) - len(before) + mutant.end :] != after
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            statements = [part for part in ast.walk(node) if isinstance(part, ast.Assign | ast.Return)]
            if node.decorator_list or len(statements) > 1:
                assert node.name in {mutant.definition for mutant in mutants}


def test_tests_follow_from_paths() -> None:
    """Oracle: the convention of names; methods that import what was changed, or the module where none imports that."""
    assert mutate.stages(Path("benchmark/nets/queue.py"), "KeyQueue") == [
        [Path("tests/test_nets_queue.py")],
        [Path("tests/test_moby.py"), Path("tests/test_moco.py")],
    ]
    assert mutate.stages(Path("baselines/simclr.py"), "SimCLR")[0] == [Path("tests/test_simclr.py")]
    (losses,) = {path for path in mutate.subjects([]) if "def nt_xent(" in (mutate.ROOT / path).read_text()}
    own, users = mutate.stages(losses, "nt_xent")
    assert own == [Path(f"tests/test_{losses.name}")]
    assert users == [Path("tests/test_simclr.py")]
    assert len(mutate.stages(losses, "_average")[1]) > 5
    assert Path("tests/test_evals_finetune.py") in mutate.stages(Path("benchmark/evals/supervised.py"), None)[0]
