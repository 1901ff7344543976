"""Planning a budget and charging the ledger."""

from dataclasses import asdict

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmark.errors import BenchmarkError, ConfigError
from benchmark.experiment.describe import cost
from benchmark.training.budget import MOST_STEPS, Budget, Ledger, Price


@pytest.mark.parametrize(
    ("kind", "amount", "steps"),
    [
        ("samples", 640, 20),
        ("samples", 671, 20),
        ("samples", 32, 1),
        ("flops", 1e6, 1000),
        ("flops", 1999, 1),
        ("device_seconds", 60, 240),
    ],
)
def test_plan_buys_whole_steps(kind: str, amount: float, steps: int) -> None:
    """Oracle: division by hand, with 32 images, 1000 FLOPs and a quarter of a second a step."""
    assert Budget(kind=kind, amount=amount).plan(Price(32, 1000, 0.25)) == steps  # type: ignore[arg-type]


@given(st.integers(1, 10**18), st.integers(1, 10**13))
def test_plan_never_overspends(amount: int, price: int) -> None:
    """Oracle: the plan's cost is at most the amount and one more step would exceed it, up to float rounding."""
    assume(amount // price < MOST_STEPS)
    try:
        steps = Budget(kind="flops", amount=amount).plan(Price(1, price))
    except ConfigError:
        steps = 0
    assert steps * price <= amount * (1 + 1e-15)
    assert (steps + 1) * price > amount * (1 - 1e-15)


@pytest.mark.parametrize("amount", [0.0, -5.0, 31.0])
def test_budget_below_a_step_is_refused(amount: float) -> None:
    """Oracle: a step of 32 images costs 32; the message names amount, price and remedy."""
    with pytest.raises(ConfigError, match=r"buys no step: one step of 32 images costs 32 samples. Give a larger"):
        Budget(kind="samples", amount=amount).plan(Price(32, 1))


def test_ledger_adds_up() -> None:
    """Oracle: sums by hand over three windows; a stored ledger goes on where it was."""
    ledger = Ledger()
    ledger.charge(steps=3, batch_size=10, n_views=2, flops_per_step=100, seconds=0.5, joules=0.0)
    ledger = Ledger(**asdict(ledger))  # type: ignore[arg-type]
    ledger.charge(steps=1, batch_size=10, n_views=2, flops_per_step=100, seconds=0.25, joules=3.0)
    assert (ledger.images, ledger.views, ledger.flops, ledger.train_seconds) == (40, 80, 400, 0.75)
    ledger.charge(steps=0, batch_size=10, n_views=2, flops_per_step=100, seconds=0.0, joules=4.0)
    assert ledger.joules == 7.0


@pytest.mark.parametrize("joules", [(None, 3.0), (3.0, None), (None, 3.0, 3.0), (3.0, None, 3.0)])
def test_a_part_without_a_meter_leaves_no_energy(joules: tuple[float | None, ...]) -> None:
    """Oracle: None: what is measured of a run that shared its GPU for a while is not its energy; nor, where that was
    its teacher. Weights of a teacher from elsewhere cost nothing."""
    ledger, whole = Ledger(), Ledger()
    for each in joules:
        ledger.charge(steps=1, batch_size=10, n_views=2, flops_per_step=100, seconds=0.5, joules=each)
    whole.charge(steps=1, batch_size=10, n_views=2, flops_per_step=100, seconds=0.5, joules=4.0)
    assert ledger.joules is None
    assert cost(whole, 100, 0.0, ledger)["joules"] is cost(ledger, 100, 0.0, whole)["joules"] is None
    assert cost(whole, 100, 0.0, Ledger())["joules"] == cost(whole, 100, 0.0)["joules"] == 4.0
    assert cost(whole, 100, 0.0, whole)["joules"] == 8.0


@given(
    st.sampled_from(["samples", "flops", "device_seconds"]),
    st.floats(1e6, 1e9),
    st.floats(0.1, 0.9),
    st.integers(1, 999),
)
def test_two_stages_spend_one_budget(kind: str, amount: float, share: float, price: int) -> None:
    """Oracle: the sum of both stages' costs: at most the budget, and short of it by less than a step of the second."""
    whole = Budget(kind=kind, amount=amount)  # type: ignore[arg-type]
    first = whole.part(share).plan(Price(7 * price, 7 * price, 7 * price))
    assert first * 7 * price <= amount * share * (1 + 1e-12)
    second = whole.without(first, Price(7 * price, 7 * price, 7 * price)).plan(Price(price, price, price))
    spent = (first * 7 + second) * price
    assert amount - price * (1 + 1e-6) < spent <= amount * (1 + 1e-12)


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        (97.0, "ok"),
        (103.0, "ok"),
        (96.9, "budget_miss"),
        (103.1, "budget_miss"),
        (150.0, "budget_miss"),
        (151.0, "overtime"),
    ],
)
def test_seconds_are_held_against_the_clock(seconds: float, verdict: str) -> None:
    """Oracle: 3 % of 100 s either way, and half as much again; other budgets do not look at the clock."""
    budget = Budget(kind="device_seconds", amount=100.0)
    assert budget.verdict(seconds) == verdict
    assert (seconds > budget.most_seconds) == (verdict == "overtime")
    assert Budget(kind="flops", amount=100.0).verdict(seconds) == "ok"
    assert Budget(kind="samples", amount=100.0).most_seconds == float("inf")


def test_seconds_need_a_calibration() -> None:
    """Oracle: a price without seconds buys nothing by the clock."""
    with pytest.raises(BenchmarkError, match="needs a calibrated step"):
        Budget(kind="device_seconds", amount=60.0).plan(Price(32, 1000))
