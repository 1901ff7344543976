"""The harness names no method; that layers know only what they may is checked by `lint-imports`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEMS = {path.stem for folder in ("baselines/*.py", "gin/*.gin") for path in ROOT.glob(folder)} - {"__init__"}
ENGLISH = {"can"}


def pattern(stem: str) -> re.Pattern[str]:
    """Match a method's name in any case, its words joined by anything; a short one only as a word of its own.

    A name that is an English word counts in capitals, or where it names the method's files.
    """
    if stem in ENGLISH:
        return re.compile(rf"\b{stem.upper()}\b|baselines.{stem}\b|\b{stem}\.gin")
    words = stem.replace("_", r"[\W_]?")
    return re.compile(words if len(stem) > 5 else rf"(?<![a-z]){words}(?![a-z])", re.IGNORECASE)


def test_the_harness_names_no_method() -> None:
    """Oracle: the stems of the methods' files, in code, comments and docstrings; two files name methods by intent."""
    exceptions = {ROOT / "benchmark/nets/layouts.py", ROOT / "benchmark/__init__.py"}
    for path in set(ROOT.glob("benchmark/**/*.py")) - exceptions:
        assert not {stem for stem in STEMS if pattern(stem).search(path.read_text())}, path


def test_names_are_found_in_any_spelling() -> None:
    """Oracle: spellings by hand; the pattern itself must not pass everything."""
    for text in ("import simclr", "SimCLR's loss", "class SimCLRLoss", "simclr_loss"):
        assert pattern("simclr").search(text)
    for text in ("Barlow Twins", "barlow-twins", "BarlowTwins"):
        assert pattern("barlow_twins").search(text)
    assert pattern("mae").search("an MAE decoder")
    assert not pattern("mae").search("a maelstrom")
