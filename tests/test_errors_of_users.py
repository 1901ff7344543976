"""Errors of user code: reported by file and line, from the first import to the last step."""

from pathlib import Path

import pytest
from tiny import command

from benchmark.errors import is_user_code
from benchmark.report.cells import load
from benchmark.run import main

pytestmark = pytest.mark.usefixtures("one_thread")

METHOD = """
import gin
import torch
from benchmark.method import Method, Step
@gin.register
class NAME(Method):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
    def forward(self, views, draws):
        a, b = (self.encoder(view).pooled for view in views)
        pass
        return Step((a - b).square().mean())
    def after_step(self, progress):
        pass
"""
ONLY_REAL = "if a.device.type != 'meta': "

CASES = {  # a line of the method, what takes its place, and what is answered
    "module": (2, "import torhc", "LINE 2, in <module>: ModuleNotFoundError: No module named 'torhc'"),
    "syntax": (6, "class NAME(Method:", "LINE 6, in <module>: SyntaxError: "),
    "nothing_set": (9, "        pass", "NAME has no encoder: have __init__ set self.encoder = encoder."),
    "building": (9, "        encoder.wdith", "LINE 9, in __init__: AttributeError: 'ViT' object has no attribute"),
    "no_encoder": (7, "    def __init__(self):", "LINE 7, in __init__: TypeError: NAME.__init__() takes 1 positional"),
    "no_draws": (10, "    def forward(self, views):", "LINE 10, in forward: TypeError: NAME.forward() takes 2 posit"),
    "no_forward": (10, "    def froward(self, views, draws):", "LINE 5, in NAME: TypeError: Can't instantiate abst"),
    "shapes": (12, "        a @ b[:5]", "LINE 12, in forward: RuntimeError: a and b must have same reduction dim"),
    "value": (12, "        a.sum().item()", "LINE 12, in forward: Tensor.item() cannot be called on meta tensors. It"),
    "hook": (15, "        self.target", "LINE 15, in after_step: AttributeError: 'NAME' object has no attribute 'targ"),
    "step": (12, f"        {ONLY_REAL}unknown()", "Step 1 of NAME failed: LINE 12, in forward: NameError: name 'unkno"),
    "memory": (12, f"        {ONLY_REAL}torch.empty(2**60)", "does not hold a step of 32 images"),
}


def arguments_of(case: str, folder: Path, again: str = "") -> list[str]:
    """Return the command that runs the method of a case, which lies beside its gin file."""
    number, line, _ = CASES[case]
    lines = METHOD.splitlines()
    lines[number - 1] = line
    (folder / f"case_{case}{again}.py").write_text("\n".join(lines).replace("NAME", f"Case_{case}{again}"))
    file = folder / "toy.gin"
    file.write_text(
        f"import case_{case}{again}\nPretraining.name = 'toy'\nPretraining.method = @Case_{case}{again}\n"
        "Pretraining.views = @symmetric_blur\n"
    )
    return command(folder / "runs", 2, "--allow-imports", "--publish", str(folder / "board"), gin=str(file))


@pytest.mark.parametrize("case", CASES)
def test_a_line_of_a_method_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: file, line, function and message, without a traceback; a run that had begun shows as failed."""
    assert main(arguments_of(case, tmp_path)) in (1, 2)
    answer = CASES[case][2].replace("NAME", f"Case_{case}")
    printed = capsys.readouterr().err
    assert answer.replace("LINE", f"{tmp_path / f'case_{case}.py'}, line") in printed
    assert "Traceback" not in printed
    begun, board = case in ("step", "memory"), tmp_path / "board"
    assert [record["status"] for record in (load(board) if begun else [])] == ["failed"] * begun
    assert board.exists() == begun


def test_the_traceback_can_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the variable that the message names, and torch's error as the cause."""
    arguments = arguments_of("shapes", tmp_path, "_again")
    assert main(arguments) == 1
    assert "SSL_BENCHMARK_TRACEBACK=1" in capsys.readouterr().err
    monkeypatch.setenv("SSL_BENCHMARK_TRACEBACK", "1")
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "direct cause of the following exception" in printed


def test_which_files_are_user_code() -> None:
    """Oracle: the folder of each: the baselines are user code; this package and installed packages are not."""
    import torch.nn

    import baselines.simclr
    import benchmark.method

    files = (__file__, baselines.simclr.__file__, benchmark.method.__file__, torch.nn.__file__, pytest.__file__)
    assert [is_user_code(file) for file in files] == [True, True, False, False, False]
    assert not is_user_code("<string>")
