"""Subsets of labelled data: stratified, nested, disjoint, and the same for ever."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.subsets import hashed_order, holdout, labelled

LABELS = torch.arange(60) % 3

labels = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)


@given(labels)
def test_orders_cover_each_class(labels: torch.Tensor) -> None:
    """Oracle: the ids of each class present, in the order of the classes, each once."""
    orders = hashed_order(labels, "x", "p")
    assert [sorted(order.tolist()) for order in orders] == [
        (labels == label).nonzero().flatten().tolist() for label in labels.unique().tolist()
    ]


def test_orders_are_written_down() -> None:
    """Oracle: the order as first published; any change would change every hold-out and every subset."""
    assert hashed_order(LABELS, "digits", "holdout")[1][:8].tolist() == [52, 55, 40, 34, 13, 46, 43, 28]
    assert holdout(LABELS, "digits")[1].tolist() == [20, 29, 36, 39, 52, 55]


def test_orders_depend_on_name_and_purpose() -> None:
    """Oracle: 20 ids have 20! orders; two of them are equal only if they are the same."""
    orders = {
        tuple(hashed_order(LABELS, name, purpose)[0].tolist()) for name in ("a", "b") for purpose in ("test", "holdout")
    }
    assert len(orders) == 4


def test_prefixes_are_nested() -> None:
    """Oracle: a larger fraction of the hold-out contains the smaller one."""
    parts = [set(holdout(LABELS, "x", fraction)[1].tolist()) for fraction in (0.1, 0.2, 0.5)]
    assert parts[0] < parts[1] < parts[2]


def test_an_order_does_not_see_other_classes() -> None:
    """Oracle: relabelling the samples of other classes leaves a class's order alone."""
    other = torch.where(LABELS == 0, 0, 7)
    assert torch.equal(hashed_order(LABELS, "x", "p")[0], hashed_order(other, "x", "p")[0])


@given(labels)
def test_holdout_is_a_stratified_partition(labels: torch.Tensor) -> None:
    """Oracle: all ids once, sorted; of each class a tenth, at least one, and none of a class with one sample."""
    fit, held = holdout(labels, "x")
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert fit.tolist() == sorted(fit.tolist())
    assert held.tolist() == sorted(held.tolist())
    for label in labels.unique().tolist():
        n = int((labels == label).sum())
        expected = 0 if n == 1 else max(1, round(n / 10))
        assert int((labels[held] == label).sum()) == expected


def test_labelled_subsets_are_written_down() -> None:
    """Oracle: the ids as first published, for 1000 samples in 10 classes: of each class 1 at 1 % and 10 at 10 %."""
    golden = torch.arange(1000) % 10
    assert labelled(golden, "golden", 0.01, 0).tolist() == [210, 31, 632, 333, 4, 395, 96, 797, 178, 859]
    assert labelled(golden, "golden", 0.01, 1).tolist() == [640, 481, 802, 843, 234, 995, 356, 227, 498, 869]
    first, second = [210, 160, 290, 580, 260, 150, 780, 340, 420, 820], [31, 101, 761, 831, 971, 541, 421, 61, 561, 461]
    assert labelled(golden, "golden", 0.1, 0)[:20].tolist() == first + second


@given(labels, st.sampled_from([0.01, 0.1, 0.5, 1.0]), st.integers(0, 4))
def test_labelled_subsets_are_balanced(labels: torch.Tensor, fraction: float, draw: int) -> None:
    """Oracle: of each class present the fraction, at least one, each id once and class after class."""
    ids = labelled(labels, "x", fraction, draw)
    assert len(ids.unique()) == len(ids)
    assert labels[ids].tolist() == sorted(labels[ids].tolist())
    for label in labels.unique().tolist():
        assert int((labels[ids] == label).sum()) == max(1, round(fraction * int((labels == label).sum())))


@given(labels, st.integers(0, 4))
def test_labelled_subsets_are_nested(labels: torch.Tensor, draw: int) -> None:
    """Oracle: each fraction's subset contains those of the smaller ones; all of train is the last."""
    parts = [set(labelled(labels, "x", fraction, draw).tolist()) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert parts[0] <= parts[1] <= parts[2] <= parts[3] == set(range(len(labels)))


def test_labelled_subsets_differ_by_draw_and_from_the_holdout() -> None:
    """Oracle: two of 20 choose 5 subsets are equal only if they are the same."""
    subsets = [set(labelled(LABELS, "x", 0.25, draw).tolist()) for draw in range(3)]
    subsets += [set(labelled(LABELS, "y", 0.25, 0).tolist()), set(holdout(LABELS, "x", 0.25)[1].tolist())]
    assert len({frozenset(subset) for subset in subsets}) == 5
