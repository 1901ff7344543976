"""What a record says of a method, and the sentences under a printed row."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from report_records import run
from tiny import TinyEncoder

from benchmark.experiment import describe

FILES = {
    "base_of_mine": "from tiny import TinyMethod\nclass Base(TinyMethod):\n    pass\n",
    "loss_of_mine": "def loss(x):\n    return x\n",
    "stranger": "class Other:\n    pass\n",
    "own_of_mine": "import loss_of_mine\nfrom base_of_mine import Base\nclass Own(Base):\n    pass\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a method that extends one file and imports another, beside a third that it does not know."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_method_is_known_by_all_that_it_runs(folder: Path) -> None:
    """Oracle: the files by name; a change of any of them changes the hash, a change of a file that is none does not."""
    importlib.import_module("stranger")
    method = importlib.import_module("own_of_mine").Own(TinyEncoder())
    description = describe.method("own", method)
    assert set(description["files"]) >= {"own_of_mine.py", "base_of_mine.py", "loss_of_mine.py"}
    assert "stranger.py" not in description["files"]
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text + "more = 1\n")
        assert (describe.method("own", method)["module_sha256"] == description["module_sha256"]) == (name == "stranger")
        (folder / f"{name}.py").write_text(text)


@pytest.mark.parametrize(
    ("tested", "changes", "is_named"), [(12, {}, True), (199, {}, True), (200, {}, False), (12, {"metrics": {}}, False)]
)
def test_few_test_images_are_named(
    tested: int, changes: dict[str, Any], is_named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: 25 points for 12 images, 7 for 199; nothing from 200 images up, nor without scores."""
    sizes = {"pretrain": 100, "train": 100, "test": tested}
    describe.finish(run("alpha", 0, 0.5, dataset__sizes=sizes, **changes), [], tmp_path, None)
    points = {12: 25, 199: 7, 200: 7}[tested]
    sentence = (
        f"There are {tested} test images: the 95 % interval (Wilson) around an accuracy of 50 % is ± {points} points"
    )
    assert (sentence in capsys.readouterr().out) == is_named
