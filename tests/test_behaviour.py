"""Oracles: bounds and versions as the docstrings of `behaviour` and `moves` state them; histories made by git."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import behaviour
import numpy as np
import pytest
from behaviour import ROOT, commit_of, jobs, newest_commit
from moves import Outcome, compare, verdict

from benchmark.errors import CheckError, MissingError
from benchmark.report.cells import PRETRAINING
from benchmark.report.code import VersionedClass

TEXT = "Mixture.base = @MoCo\nPretraining.method = @Mixture\nexperiment.evaluations = (@one_percent/KNN,)\n"
KNOWN = {
    "Mixture": VersionedClass("1.0", ("Container",), "baselines/mixmask.py"),
    "MoCo": VersionedClass("1.0", ("Siamese",), "baselines/moco.py"),
    "SimCLR": VersionedClass("1.0", ("Siamese",), "baselines/simclr.py"),
    "KNN": VersionedClass("1.0", (), "benchmark/evals/knn.py"),
}
METRICS = {"knn": {"top1": 0.9, "details": {"k=1": 0.8, "seconds_to_90": 3.0}, "choices": {"k": 20}, "version": 1}}
OLD = Outcome(
    record={
        "config": {"text": TEXT},
        "method": {"name": "mixmask_moco"},
        "encoder": {"name": "vit"},
        "training": {"digest": "a"},
        "metrics": METRICS,
    },
    floors={"random init": METRICS},
    losses=[6.0, 5.0],
    encoder={"weight": np.array([[0.0, -10.0]]), "bias": np.array([0.0, 1.0]), "bn.running_mean": np.zeros(1)},
    predictions={"knn": np.array([[1, 2], [3, 4]], np.int16)},
)


def moved(**changes: object) -> Outcome:
    return replace(OLD, **changes)


def other_training(weight: float = 0.0, loss: float = 0.0, bias: float = 0.0, mean: float = 0.0) -> Outcome:
    record = OLD.record | {"training": {"digest": "b"}, "metrics": {}}
    encoder = {
        "weight": np.array([[0.0, weight - 10.0]]),
        "bias": np.array([bias, 1.0]),
        "bn.running_mean": np.array([mean]),
    }
    return moved(record=record, encoder=encoder, losses=[6.0, 5.0 + loss])


def other_score(**scores: float) -> Outcome:
    return moved(record=OLD.record | {"metrics": {"knn": METRICS["knn"] | scores}})


def passes(new: Outcome, **raised: str) -> bool:
    try:
        verdict(compare(OLD, new, KNOWN), {}, raised, KNOWN)
    except CheckError:
        return False
    return True


def test_equal_numbers_need_nothing_whatever_the_versions_and_the_clock() -> None:
    seconds = {"knn": METRICS["knn"] | {"version": "2.0", "details": {"k=1": 0.8, "seconds_to_90": 4.0}}}
    assert compare(OLD, moved(record=OLD.record | {"metrics": seconds}), KNOWN) == []


@pytest.mark.parametrize(
    ("new", "name", "minor_is_enough"),
    [
        (other_training(), "Mixture", True),
        (other_training(weight=0.9e-3, loss=4.9e-5), "MoCo", True),  # bounds: 1e-4 of 10 and 1e-5 of 5
        (other_training(bias=9.0), "MoCo", True),
        (other_training(weight=1.1e-3), "MoCo", False),
        (other_training(mean=1.1e-3), "MoCo", False),
        (other_training(loss=5.1e-5), PRETRAINING, False),
        (other_training(weight=float("nan")), "MoCo", False),
        (replace(other_training(), predictions={"knn": np.array([[9, 2], [3, 4]])}), "MoCo", False),
        (replace(other_training(), predictions={}), "MoCo", False),
        (replace(other_training(), losses=[6.0]), "MoCo", False),
        (replace(other_training(), losses=[6.0, None]), "MoCo", False),
        (other_score(top1=0.9009), "KNN", True),
        (other_score(top1=0.9011), PRETRAINING, False),
        (moved(predictions={"knn": np.array([[1, 9], [3, 4]])}), "KNN", True),
        (moved(predictions={"knn": np.array([[9, 2], [3, 4]])}), "KNN", False),
        (moved(floors={"random init": other_score(top1=0.5).record["metrics"]}), "KNN", False),
        (moved(floors={}), "KNN", False),
        (moved(predictions={}), "KNN", False),
    ],
)
def test_a_move_needs_the_version_of_its_size_and_part(new: Outcome, name: str, minor_is_enough: bool) -> None:
    assert not passes(new)
    assert not passes(new, SimCLR="2.0")
    assert passes(new, **{name: "1.1"}) == minor_is_enough
    assert passes(new, **{name: "2.0"})


def test_scores_of_an_encoder_that_moved_are_left_out_and_its_floors_are_not() -> None:
    new = replace(other_training(weight=1.0), floors={"random init": {"knn": METRICS["knn"] | {"top1": 0.1}}})
    assert [move.part for move in compare(OLD, new, KNOWN)] == [
        "pretraining of mixmask_moco on vit",
        "KNN of the floor 'random init'",
    ]


def test_no_version_explains_a_command_that_fails() -> None:
    assert not passes(Outcome(failure="error: no such thing"), pretraining="9.0", KNN="9.0")


def test_the_message_names_what_moved_by_how_much_and_what_to_raise() -> None:
    with pytest.raises(CheckError) as raised:
        verdict(compare(OLD, other_training(weight=1.0), KNOWN), {}, {}, KNOWN)
    for part in ("mixmask_moco", "1.0e-01", "Major of Mixture or MoCo or pretraining", "baselines/moco.py"):
        assert part in str(raised.value)


def test_every_method_and_evaluation_is_compared() -> None:
    labels = {label for label, *_ in jobs(ROOT, Path("weights"))}
    assert labels >= {path.stem for path in (ROOT / "gin").glob("*.gin")}
    assert labels >= {"KNN", "KNNProjection", "FineTune", "one_percent.SemiProbe", "simclr_resnet18"}


def test_the_published_side_runs_once_and_refused_gin_files_give_way_to_the_trees_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    def fake(*sides: tuple[str, Path, Path, list[behaviour.Job]]) -> None:
        for side, _, out, plan in sides:
            for label, *_ in plan:
                ran.append((side, label))
                (out / label / "run").mkdir(parents=True)
                (out / f"{label}.code").write_text("2" if (side, label) == ("now", "moco") else "0")
                record = {"division": "open", "checkpoint": None, "predictions": None, "side": side}
                (out / label / "run" / "encoder.safetensors").touch()
                (out / label / "run" / "record.json").write_text(json.dumps(record))

    monkeypatch.setattr(behaviour, "run", fake)
    for name, published in (("first", {"published"}), ("second", set())):
        ran.clear()
        old, new = behaviour.outcomes(ROOT, "0" * 40, tmp_path / "cache", tmp_path / name)
        assert {side for side, _ in ran} == {"now", "now, by its own gin files"} | published
        assert {label: outcome.record["side"] for label, outcome in old.items()} == dict.fromkeys(old, "published")
        others = {label: outcome.record["side"] for label, outcome in new.items() if outcome.record["side"] != "now"}
        assert others == {"moco": "now, by its own gin files"}


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, message: str = "x") -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def publish(root: Path, created: str, commit: str | None, dirty: bool = False) -> None:
    (root / "results").mkdir(exist_ok=True)
    record = {"created_utc": created, "code": {"commit": commit, "dirty": dirty}}
    (root / "results" / f"{created}.json").write_text(json.dumps(record))


@pytest.fixture
def history(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path)
    return tmp_path


def test_the_commit_is_the_newest_clean_one_that_head_descends_from(history: Path) -> None:
    first, second = commit(history), commit(history)
    git(history, "checkout", "-q", "-b", "other", first)
    aside = commit(history, "aside")
    git(history, "checkout", "-q", "main")
    publish(history, "2020", first)
    publish(history, "2021", second)
    publish(history, "2022", first, dirty=True)
    publish(history, "2023", aside)
    publish(history, "2024", None)
    assert newest_commit(history) == second


def test_a_history_that_lacks_the_commit_is_refused_with_the_remedy(history: Path, tmp_path: Path) -> None:
    publish(history, "2020", commit(history))
    commit(history)
    git(history, "clone", "-q", "--depth", "1", history.as_uri(), "shallow")
    with pytest.raises(MissingError, match="git fetch --unshallow"):
        newest_commit(history / "shallow")
    with pytest.raises(MissingError, match="git fetch --unshallow"):
        commit_of("0" * 40, history / "shallow")


def test_no_history_and_no_record_are_refused(history: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(MissingError, match="--against"):
        newest_commit(history)
    with pytest.raises(MissingError, match="git clone"):
        newest_commit(tmp_path_factory.mktemp("bare"))
