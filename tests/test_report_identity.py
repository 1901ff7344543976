"""What makes two runs the same: a configuration without defaults, places and seed, for records of both schemas."""

from collections import defaultdict
from pathlib import Path

import pytest

from benchmark.boards.launcher import Launcher
from benchmark.boards.plan import Suite
from benchmark.config import load as configuration
from benchmark.config import registry
from benchmark.report.cells import key_of, load, tuning_key
from benchmark.report.identity import canonical, digest, without_paths
from benchmark.report.record import Record

ROOT = Path(__file__).parents[1]
TEXT = """\
import baselines.alpha

Alpha.base = @few/Inner
KNN.k = 3
few/Inner.label = '@Other'
few/Inner.width = 64
experiment.evaluations = (@KNN,)
experiment.pretraining = @Alpha
experiment.rate_factor = 2.0

# equal to their defaults
Alpha.net = @Net
Other.x = 1

# the seed, and where things lie
Images.source = 'folder:/home/me/photos'
experiment.seed = 3
"""


@pytest.fixture(scope="module")
def published() -> list[Record]:
    return [record for record in load(ROOT / "results") if record["schema"] == 1]


def test_a_text_says_what_counts() -> None:
    """Oracle: the sections by hand; a part is what a parameter's value refers to, through defaults too."""
    text = canonical(TEXT.replace("Other.x = 1", "Net.x = 1") + "Net.depth = 2\n")
    assert "Net.x" in text.lines
    part = {"experiment.pretraining", "Alpha.base", "few/Inner.label", "few/Inner.width"}
    assert set(text.part(["experiment.pretraining"])) == part
    assert set(text.identity) == part | {"KNN.k", "experiment.evaluations", "experiment.rate_factor"}
    identity = digest(text.identity, "data")
    assert digest(canonical(TEXT.replace("seed = 3", "seed = 4")).identity, "data") == identity
    assert digest(canonical(TEXT.replace("width = 64", "width = 65")).identity, "data") != identity
    assert digest(text.identity, "other data") != identity
    same = TEXT.replace("KNN.k = 3", "KNN.k = 4").replace("factor = 2.0", "factor = 4.0")
    assert tuning_key(TEXT) == tuning_key(same)
    assert tuning_key(TEXT) != tuning_key(TEXT.replace("width = 64", "width = 65"))


def test_absolute_paths_are_cut() -> None:
    """Oracle: the last part of a path by hand; relative ones and names of the hub stay."""
    for path, left in {
        "folder:/home/me/photos": "folder:photos",
        "folder:~/photos/": "folder:photos",
        "parquet:C:\\\\data\\\\photos": "parquet:photos",
        "/home/me/encoder.safetensors": "encoder.safetensors",
        "folder:photos/mine": "folder:photos/mine",
        "": "",
        "hub:owner/name": "hub:owner/name",
    }.items():
        for quote in "'\"":
            text = f"Images.source = {quote}{{}}{quote}\nViT.name = 'a'\n"
            assert without_paths(text.format(path)) == text.format(left)


@pytest.mark.slow
def test_early_records_have_the_keys_of_today(published: list[Record]) -> None:
    """Oracle: the configuration of each read again by the code of now, whose defaults are those of then, and the old
    keys, which tell apart exactly the same runs."""
    keys = defaultdict(set)
    texts = {record["config"]["text"]: record for record in published}
    for text, record in texts.items():
        again = configuration.loads(text)
        assert again.canonical.identity == canonical(text).identity
        assert configuration.loads(again.text).text == again.text
        if record["division"] in ("closed", "tuned", "trial"):
            assert again.key(record["dataset"]["fingerprint"]) == key_of(record)
    for record in published:
        keys[record["division"] == "floor", key_of(record)].add(record["config"]["key"])
    assert len(published) > 200
    assert all(len(old) == 1 for old in keys.values())


def planned(name: str, folder: Path) -> Launcher:
    suite: Suite = configuration.build(configuration.load([f"gin/suites/{name}.gin"], root="suite", defaults={}))
    return Launcher(name, [], folder, ROOT / "results").planned(suite, tuned=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "cifar10_cpu"])
def test_a_new_option_disturbs_no_board(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: as many trials, runs and evaluations are done with a new defaulted field in the data and in an evaluation
    as without."""
    monkeypatch.setattr("benchmark.boards.plan._build", lambda *arguments: None)  # which the suite's own test does
    before = planned(name, tmp_path)
    parameters_of = registry.parameters

    def more(selector: str) -> dict[str, registry.Parameter]:
        new = {"option": registry.Parameter(int, 7)}
        return parameters_of(selector) | (new if selector.rpartition(".")[2] in ("Images", "KNN") else {})

    monkeypatch.setattr(registry, "parameters", more)
    after = planned(name, tmp_path)
    assert "KNN.option = 7" in after.runs[-1].config.text
    assert after.states() == before.states()
    assert after.states().count("done") > 50
