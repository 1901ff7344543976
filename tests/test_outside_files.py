"""Files of users, outside the tree: a protocol that binds what a run does not read, and methods in a suite."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import SMALL

from benchmark.boards import plan
from benchmark.config import load as configuration
from benchmark.config.parse import shipped_folder
from benchmark.config.registry import _REGISTRY
from benchmark.errors import ConfigError
from benchmark.evaluate import main as evaluate_one
from benchmark.report.cells import load as records_in
from benchmark.run import main as run_one
from benchmark.suite import main

MODULE = """
import gin
from baselines.simclr import SimCLR

@gin.register
class {name}(SimCLR):
    pass
"""
FILE = """
import {module}
Pretraining.name = '{called}'
Pretraining.method = @{name}
Pretraining.views = @strong_colour
{name}.temperature = 0.2
{name}.projector_layers = 2
{name}.projector_hidden = 16
{name}.projector_width = 8
"""


def protocol(folder: Path, more: str = "") -> str:
    """Write a user's copy of a shipped protocol, and return its path."""
    shipped = (shipped_folder() / "protocol" / "vit_micro.gin").read_text()
    (folder / "my_vit.gin").write_text(f"{shipped}{more}\n")
    return str(folder / "my_vit.gin")


def test_a_users_protocol_may_bind_what_a_run_does_not_read(tmp_path: Path) -> None:
    """Oracle: a copy of a shipped protocol gives the shipped one's text, and one note that names what is not read."""
    loaded = configuration.load(["gin/simclr.gin", protocol(tmp_path)])
    assert loaded.text == configuration.load(["gin/simclr.gin", "gin/protocol/vit_micro.gin"]).text
    (note,) = (note for note in loaded.notes if "does not read" in note)
    assert "my_vit.gin binds 10 values that this run does not read: PixelDecoder.width, Pix" in note
    assert "ten_percent/SemiFineTune.head_rate" in note
    read = configuration.load(["gin/mae.gin", protocol(tmp_path)]).notes
    assert not any("PixelDecoder" in note for note in read)


@pytest.mark.parametrize(
    ("more", "others", "settings", "message"),
    [
        ("", (), ("PixelDecoder.width=64",), "^--set .*so PixelDecoder.width has no effect.$"),
        ("Pretraining.name = 'own'", (), (), "PixelDecoder.width has no effect.*Only a protocol may bind what nothing"),
        ("", ("plain.gin",), (), "plain.gin:1: .*PixelDecoder.depth has no effect.*Only a protocol may"),
        ("ViT.wdith = 3", (), (), "my_vit.gin:30: .*Did you mean width"),
        ("HAED_WIDTH = 3", (), (), r"%HAED_WIDTH. Did you mean HEAD_WIDTH\?\n.*= 3$"),
        ("", ("gin/protocol/resnet18.gin",), (), "my_vit.gin:3: .* and something that is read"),
    ],
)
def test_nothing_else_may(
    more: str, others: tuple[str, ...], settings: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """Oracle: settings, a file with a method, other files, misspelt names, and a protocol that is wholly overridden."""
    (tmp_path / "plain.gin").write_text("PixelDecoder.depth = 2\n")
    files = [str(tmp_path / file) if file == "plain.gin" else file for file in others]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        configuration.load(["gin/simclr.gin", protocol(tmp_path, more), *files], settings)


def method(folder: Path, *, module: str = "own_method", name: str = "OwnMethod", called: str = "own") -> None:
    """Write a method's two files."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(MODULE.format(name=name))
    (folder / f"{module}.gin").write_text(FILE.format(module=module, name=name, called=called))


@pytest.fixture
def suite(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Write a suite of `changes` in a folder of its own and carry it out here, each call as a new process.

    What it registered is forgotten at the end.
    """
    known = {selector for selector, _ in _REGISTRY.items()}

    def process(arguments: list[str], **_: object) -> SimpleNamespace:
        code = (evaluate_one if arguments[2] == "benchmark.evaluate" else run_one)(arguments[3:])
        return SimpleNamespace(poll=lambda: code, wait=lambda: code)

    monkeypatch.setattr("benchmark.boards.jobs.subprocess", SimpleNamespace(Popen=process))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def carried_out(*options: str, **changes: object) -> tuple[int, str]:
        settings = (*SMALL, "Budget.amount=64", "KNN.k=3")
        shared = {"protocols": ("digits_vit_micro",), "seeds": (0,), "settings": settings}
        lines = [f"suite.{name} = {value!r}" for name, value in (shared | changes).items()]
        (tmp_path / "board.gin").write_text("\n".join(lines) + "\n")
        plan._build.cache_clear()
        plan._method.cache_clear()
        folders = ("--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--jobs", "1")
        code = main(["--gin", str(tmp_path / "board.gin"), *folders, *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield carried_out
    for selector in {selector for selector, _ in _REGISTRY.items()} - known:
        if selector.startswith("own_"):
            _REGISTRY.pop(selector)


def made(printed: str) -> list[str]:
    return re.findall(r"^== .*: (.*)$", printed, re.MULTILINE)


def test_a_method_outside_the_tree_is_on_the_board(tmp_path: Path, suite: Callable[..., tuple[int, str]]) -> None:
    """Oracle: the announcements by hand: both runs and an evaluation by the user's files, nothing, then, of a method
    whose file has changed, what is its alone; a table with both; the records, which have no path.
    """
    method(tmp_path / "methods")
    (tmp_path / "mine.gin").write_text("include 'gin/protocol/digits.gin'\ninclude 'gin/protocol/vit_micro.gin'\n")
    (tmp_path / "preset.gin").write_text("experiment.evaluations = (@KNN,)\nKNN.k = 5\nPixelDecoder.width = 64\n")
    board = {
        "methods": ("simclr", "methods/own_method.gin"),
        "protocols": (str(tmp_path / "mine.gin"),),
        "examined_by": "preset.gin",
        "examined_seeds": (0,),
    }
    code, printed = suite(**board)
    assert code == 2
    assert re.search(r"own_method.gin:2: .* own_method is not part .* add --allow-imports", printed), printed
    assert not (tmp_path / "runs").exists()

    code, printed = suite("--allow-imports", **board)
    assert code == 0, printed
    mine = ["mine/own/seed 0", "mine/own/seed 0/preset"]
    assert made(printed) == ["mine/simclr/seed 0", mine[0], "mine/simclr/seed 0/preset", mine[1]]
    assert re.search(r"^\|.* (own|\[own\]\S*) .*\|$", printed, re.MULTILINE)
    assert made(suite("--allow-imports", **board)[1]) == []

    module = tmp_path / "methods" / "own_method.py"
    module.write_text(f"{module.read_text()}\n# changed\n")
    _, printed = suite("--allow-imports", "--dry-run", **board)
    assert f"stale    {mine[0]}\n" in printed
    assert "done     mine/simclr/seed 0\n" in printed
    assert made(suite("--allow-imports", **board)[1]) == mine
    assert made(suite("--allow-imports", **board)[1]) == []
    text = "".join(path.read_text() for path in (tmp_path / "results").rglob("*.json"))
    assert str(tmp_path) not in text


@pytest.mark.long
def test_rates_are_chosen_by_trials_of_the_same_file(tmp_path: Path, suite: Callable[..., tuple[int, str]]) -> None:
    """Oracle: three trials and the run that follows, nothing, and all four again after the file has changed."""
    method(tmp_path / "methods", module="own_tuned", name="OwnTuned", called="own")
    arguments = ("--tune", "--allow-imports")
    board = {"methods": ("methods/own_tuned.gin",), "chosen_by": "@KNN", "settings": (*SMALL, "Budget.amount=512")}
    code, printed = suite(*arguments, **board)
    assert (code, len(made(printed))) == (0, 4), printed
    assert made(suite(*arguments, **board)[1]) == []
    module = tmp_path / "methods" / "own_tuned.py"
    module.write_text(f"{module.read_text()}\n# changed\n")
    code, printed = suite(*arguments, **board)
    assert (code, len(made(printed))) == (0, 4), printed
    tuned = [record for record in records_in(tmp_path / "results") if record["division"] == "tuned"]
    trials = {record["id"]: record["method"] for record in records_in(tmp_path / "results")}
    assert len(tuned) == 2
    for record in tuned:
        assert {trials[name]["module_sha256"] for name in record["tuning"]["trials"]} == {
            record["method"]["module_sha256"]
        }


@pytest.mark.parametrize(
    ("files", "methods", "message"),
    [
        ([], ("none.gin",), "there is no file 'none.gin'"),
        ([{"called": "moco"}], ("a/own_method.gin",), "Pretraining.name = 'moco' is that of gin/moco.gin"),
        ([{}, {"module": "own_2", "name": "Own2"}], ("a/own_method.gin", "b/own_2.gin"), "two files of the name own"),
        ([{"module": "own_3", "name": "MoCo"}], ("a/own_3.gin",), "own_3.gin:2: .*another MoCo in baselines/moco.py"),
        (
            [{"module": "own_5", "name": "Own5"}, {"module": "own_5", "name": "Own5b", "called": "other"}],
            ("a/own_5.gin", "b/own_5.gin"),
            "b/own_5.gin:2: own_5 is the module .*a/own_5.py, and not the one beside this file",
        ),
        ([], ("board.gin",), "no method: it binds no Pretraining.name"),
    ],
)
def test_names_that_mean_two_things_are_refused(
    files: list[dict[str, str]],
    methods: tuple[str, ...],
    message: str,
    tmp_path: Path,
    suite: Callable[..., tuple[int, str]],
) -> None:
    """Oracle: exit code 2 and the file, the name and what has it too."""
    for folder, names in zip("ab", files, strict=False):
        method(tmp_path / folder, **names)
    code, printed = suite("--allow-imports", methods=methods)
    assert code == 2
    assert re.search(message, printed, re.DOTALL), printed


def test_a_shipped_file_may_be_named_by_its_path(suite: Callable[..., tuple[int, str]]) -> None:
    """Oracle: the label of the stem, and the refusal of a method that is named in both ways."""
    assert "missing  digits_vit_micro/simclr/seed 0\n" in suite("--dry-run", methods=("gin/simclr.gin",))[1]
    assert "each once" in suite("--dry-run", methods=("gin/simclr.gin", "simclr"))[1]
