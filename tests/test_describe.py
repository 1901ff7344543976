"""What a record says of a method: the files that it runs, and their hash."""

import importlib
import sys
from pathlib import Path

import pytest
from tiny import TinyEncoder

from benchmark import describe

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
    found = describe.method("own", method)
    assert set(found["files"]) >= {"own_of_mine.py", "base_of_mine.py", "loss_of_mine.py"}
    assert "stranger.py" not in found["files"]
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text + "more = 1\n")
        assert (describe.method("own", method)["module_sha256"] == found["module_sha256"]) == (name == "stranger")
        (folder / f"{name}.py").write_text(text)
