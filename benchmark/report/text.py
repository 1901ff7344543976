"""Numbers as tables print them."""

from collections.abc import Iterable

from benchmark.report.cells import Setting
from benchmark.report.statistics import Summary

TERA = 1e12


def amount(setting: Setting) -> str:
    """Return the budget of a setting in the unit of its kind."""
    if setting.budget == "flops":
        unit, divisor = flops_unit([setting.amount])
        return f"{setting.amount / divisor:.2f} {unit}"
    if setting.budget:
        number = f"{setting.amount:,.2f}".removesuffix("0").removesuffix(".0")
        return f"{number} {'images' if setting.budget == 'samples' else 'device seconds'}"
    return "unknown budgets"


def flops_unit(amounts: Iterable[float]) -> tuple[str, float]:
    """Return the unit in which the largest amount is at least 1, and its size in FLOPs."""
    largest = max(amounts)
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", TERA)):
        if largest >= size:
            return f"{prefix}FLOPs", size
    return "GFLOPs", 1e9


def percent(fraction: float | None) -> str:
    """Return a fraction in % with two decimals, nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.2f}"


def spread(summary: Summary) -> str:
    """Return mean ± half width in %, or the mean of a single seed."""
    if summary.half_width is None:
        return f"{percent(summary.mean)} (1 seed)"
    return f"{percent(summary.mean)} ± {percent(summary.half_width)}"
