"""The probe on few labels: subsets, cross validation within them, and the probe of `Linear` on each."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from banks import bank_of, mixture
from sklearn.linear_model import LogisticRegression

from benchmark.data.subsets import labelled
from benchmark.errors import ConfigError, MissingError
from benchmark.evals import linear, semi_probe
from benchmark.evals.features import Bank, best_classes
from benchmark.evals.linear import EDGE, GRID, STRONGER, WEAKER, Standard, span
from benchmark.evals.semi_finetune import SemiFineTune
from benchmark.evals.semi_probe import SemiProbe, choose, held_out


def example(n: int = 1000, dim: int = 12, spread: float = 2.0) -> Bank:
    features, labels = mixture(n, dim, 4, spread)
    return bank_of({"x": features}, labels, {"x": mixture(50, dim, 4, spread, seed=1)[0]}, 4)


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Fit by hand on one thread, as the probe fits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_number_depends_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one thread, bit by bit; fits of few numbers have one thread each, those of many have all."""
    features, labels = mixture(1000, 24, 4, 3.0)
    test = mixture(50, 24, 4, 3.0, seed=1)[0]
    bank = bank_of({"x": features, "half": features[:, :12]}, labels, {"x": test, "half": test[:, :12]}, 4)
    threads: list[int] = []

    def note(kind: type, name: str) -> None:
        function = getattr(kind, name)

        def noted(*arguments: Any) -> Any:
            threads.append(torch.get_num_threads())
            return function(*arguments)

        monkeypatch.setattr(kind, name, noted)

    note(linear.Regression, "minimise")
    note(linear.Probe, "scores")
    rankings = []
    for available in (1, 3):
        torch.set_num_threads(available)
        rankings.append(SemiProbe(fraction=0.1, draws=2)(bank))
        assert set(threads) == {1}
        assert torch.get_num_threads() == available
    assert rankings[0].choices == rankings[1].choices
    assert torch.equal(rankings[0].classes, rankings[1].classes)
    for small, expected in ((100 * 24, 1), (100 * 24 - 1, 3)):  # 100 labels, whose features are wider than 5 x 4 scores
        threads.clear()
        monkeypatch.setattr(semi_probe, "SMALL", small)
        SemiProbe(fraction=0.1, draws=2)(bank)
        assert set(threads) == {expected}


@pytest.mark.parametrize("dim", [12, 300])
def test_each_draw_is_the_linear_probe_on_its_subset(dim: int) -> None:
    """Oracle: `linear.fit` by hand on the subset of each draw with the strength that was chosen in it."""
    bank = example(dim=dim, spread=2.0 if dim == 12 else 6.0)
    ranking = SemiProbe(fraction=0.1, draws=3)(bank)
    assert ranking.classes.shape == (3, 50, 4)
    for draw in range(3):
        ids = labelled(bank.labels, "toy", 0.1, draw)
        strength = float(ranking.choices[f"strength_{draw}"])
        assert strength == choose(bank.train["x"][ids], bank.labels[ids], 4)[1]
        probe = linear.fit(bank.train["x"][ids], bank.labels[ids], 4, strength)
        assert torch.equal(ranking.classes[draw], best_classes(probe.scores(bank.test["x"])))
    assert not torch.equal(ranking.classes[0], ranking.classes[1])


@pytest.mark.parametrize(("n", "dim"), [(60, 12), (60, 200), (23, 12)])
def test_strength_is_that_of_the_lowest_held_out_loss(n: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: scikit-learn's logistic regression fitted without each fold, over the whole grid; 23 are unbalanced."""
    features, labels = mixture(n, dim, 4, spread=1.5 if dim == 12 else 5.0)
    inputs, places = Standard.of(features).apply(features).double().numpy(), torch.arange(n) // 4
    losses = {}
    for strength in STRONGER + GRID:
        log_right = []
        for fold in range(5):
            held = (places % 5 == fold).numpy()
            probe = LogisticRegression(C=1 / (strength * (~held).sum()), tol=1e-8, max_iter=5000)
            probe.fit(inputs[~held], labels[~held])
            log_right.append(probe.predict_log_proba(inputs[held])[np.arange(held.sum()), labels[held]])
        losses[strength] = -np.concatenate(log_right).mean()
    best = min(losses, key=lambda strength: losses[strength])
    assert choose(features, labels, 4)[1] == best
    monkeypatch.setattr(semi_probe, "TOLERANCE", 1e-6)
    # a warm start leaves few wide images a little short in float32: measured 0.03 % with AVX-512, 0.18 % with AVX2
    assert choose(features, labels, 4)[0] == pytest.approx(losses[best], rel=1e-3 if dim == 12 else 3e-3)
    alone = semi_probe._Folds(Standard.of(features).apply(features), labels, 4, held_out(labels)).held_losses((best,))
    assert alone[best] == pytest.approx(losses[best], rel=1e-3)


@pytest.mark.parametrize(("n", "dim", "rank"), [(20, 50, 20), (26, 50, 50), (80, 50, 50)])
def test_few_rows_have_few_coordinates(n: int, dim: int, rank: int) -> None:
    """Oracle: coordinates and basis give the rows back, and lengths stay; one coordinate a row where rows are few."""
    inputs = mixture(n, dim, 4)[0]
    coordinates, basis = span(inputs)
    assert coordinates.shape == (n, rank)
    if basis is None:
        assert torch.equal(coordinates, inputs)
        return
    torch.testing.assert_close(coordinates @ basis.T, inputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank), rtol=0, atol=1e-5)


def test_folds_are_places_within_classes() -> None:
    """Oracle: the folds by hand: class 0 has seven samples, class 1 two, class 2 one, which is never held out."""
    labels = torch.tensor([0, 1, 0, 0, 2, 0, 1, 0, 0, 0])
    folds = [0, 0, 1, 2, None, 3, 1, 4, 0, 1]
    expected = [[fold == place for fold in range(5)] for place in folds]
    assert held_out(labels).tolist() == expected
    assert held_out(torch.tensor([3, 5, 3, 5])).tolist() == [[True, False], [True, False], [False, True], [False, True]]


def test_nothing_but_the_subset_is_looked_at(tmp_path: Path) -> None:
    """Oracle: other features, and labels, for the rest of train and other test images change no choice.

    Labels change where a list stands for the draw, which they would change too.
    """
    bank = example()
    ranking = SemiProbe(fraction=0.1, draws=1)(bank)
    ids = labelled(bank.labels, "toy", 0.1, 0)
    rest = torch.ones(1000, dtype=torch.bool)
    rest[ids] = False
    poisoned = bank.train["x"].clone()
    poisoned[rest] = 99.0
    changed = dataclasses.replace(bank, train={"x": poisoned})
    assert SemiProbe(fraction=0.1, draws=1)(changed).choices == ranking.choices
    assert torch.equal(SemiProbe(fraction=0.1, draws=1)(changed).classes, ranking.classes)
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(map(str, ids.tolist())))
    listed = SemiProbe(fraction=0.1, draws=1, list_file=str(file))
    relabelled = dataclasses.replace(changed, labels=bank.labels.where(~rest, 3))
    assert listed(relabelled).choices == listed(bank).choices
    assert torch.equal(listed(relabelled).classes, listed(bank).classes)
    other = dataclasses.replace(bank, test={"x": -bank.test["x"]})
    assert SemiProbe(fraction=0.1, draws=1)(other).choices == ranking.choices


def test_one_label_a_class_has_a_fixed_strength_and_a_flag() -> None:
    """Oracle: the rule by hand, at 1 % of 25 samples a class; with two labels there is a choice again."""
    bank = example(100)
    ranking = SemiProbe(fraction=0.01, draws=2)(bank)
    assert ranking.choices["strength_1"] == semi_probe.UNTUNED
    assert ranking.flags == tuple(
        f"draw {draw}: one label a class, so the L2 strength is 0.1 by rule" for draw in range(2)
    )
    probe = linear.fit(
        *(part[labelled(bank.labels, "toy", 0.01, 1)] for part in (bank.train["x"], bank.labels)), 4, 0.1
    )
    assert torch.equal(ranking.classes[1], best_classes(probe.scores(bank.test["x"])))
    assert "by rule" not in " ".join(SemiProbe(fraction=0.08, draws=1)(bank).flags)


def test_edge_and_unfinished_fits_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: without a signal nothing beats the strongest value; three iterations end no fit."""
    bank = example()
    assert SemiProbe(fraction=0.1, draws=1)(bank).flags == ()
    empty = bank_of({"x": torch.zeros(400, 3)}, torch.arange(400) % 4, {"x": torch.zeros(5, 3)}, 4)
    ranking = SemiProbe(fraction=0.1, draws=1)(empty)
    assert ranking.flags == (f"draw 0: {EDGE}",)
    assert ranking.choices["strength_0"] == max(GRID + STRONGER + WEAKER)
    monkeypatch.setattr(linear, "ITERATIONS", 3)
    assert "draw 0: the fit ended at its limit" in " ".join(SemiProbe(fraction=0.1, draws=1)(bank).flags)


def test_a_list_stands_for_the_draw(tmp_path: Path) -> None:
    """Oracle: the evaluation of the draw whose ids the list has, in another order of the classes."""
    bank = example()
    file = tmp_path / "ids.txt"
    ids = labelled(bank.labels, "toy", 0.1, 2).view(4, -1).flip(0).flatten()
    file.write_text("\n".join(map(str, ids.tolist())))
    listed = SemiProbe(fraction=0.1, draws=1, list_file=str(file))(bank)
    drawn = SemiProbe(fraction=0.1, draws=3)(bank)
    assert listed.choices["strength_0"] == drawn.choices["strength_2"]
    assert torch.equal(listed.classes[0, :, 0], drawn.classes[2, :, 0])
    digest = listed.choices["list"]
    file.write_text("\n".join(map(str, ids.tolist()[1:])))
    assert SemiProbe(fraction=0.1, draws=1, list_file=str(file))(bank).choices["list"] != digest


def test_impossible_lists_are_refused(tmp_path: Path) -> None:
    """Oracle: the message by hand: twice the same id, none, below, above, no number."""
    bank, messages = example(), {"": "0 ids", "-1": "from 0 to 999", "1000": "1 ids", "n01": "one train"}
    for text, message in (messages | {"1\n2\n1": "3 ids, 2 different"}).items():
        (tmp_path / "ids.txt").write_text(text)
        with pytest.raises(ConfigError, match=message):
            SemiProbe(fraction=0.1, draws=1, list_file=str(tmp_path / "ids.txt"))(bank)
    with pytest.raises(MissingError, match="cannot be read"):
        SemiProbe(fraction=0.1, draws=1, list_file=str(tmp_path / "none"))(bank)
    with pytest.raises(ConfigError, match="one draw"):
        SemiProbe(fraction=0.1, draws=2, list_file="x")


def test_names_tell_fractions_apart() -> None:
    """Oracle: the percentages by hand, whatever binary fractions make of them."""
    settings = {"draws": 1, "trunk_rate": 0.01, "head_rate": 0.1, "steps": 4}
    for fraction, percent in ((0.01, "1"), (0.1, "10"), (0.07, "7"), (0.005, "0.5"), (1.0, "100")):
        assert SemiProbe(fraction=fraction, draws=1).name == f"semi_probe_{percent}"
        assert SemiFineTune(fraction=fraction, **settings).name == f"semi_finetune_{percent}"
