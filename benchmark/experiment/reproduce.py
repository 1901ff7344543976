"""Make a recorded run again and hold the outcome against its record: the same bits, or inside what seeds leave open."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmark.config import load as configuration
from benchmark.errors import CheckError, ConfigError
from benchmark.experiment import run
from benchmark.report import record as records
from benchmark.report.cells import FIRST_VERSION, by_age, files_outside, key_of, majors, platform, versions_of
from benchmark.report.code import changed
from benchmark.report.record import Record
from benchmark.report.statistics import t_quantile


def reproduce(path: Path, *, out: Path, settings: Sequence[str] = (), allow_imports: bool = False) -> str:
    """Run the configuration of a record again and return a sentence on how far it agrees.

    `settings` may say where data lie. Where the machine, the libraries and the versions of the code are those of the
    record, the weights must be the same to the bit; elsewhere each score must lie in the 95 % prediction interval for
    one more run of its cell, which needs records of at least two seeds beside it.
    Raises ConfigError where the code has had a new Major version since, CheckError where the run does not agree.
    """
    old = records.read(path)
    if not records.pretrained(old):
        raise ConfigError(
            f"{path} is of an encoder that was evaluated alone: nothing was pretrained that could be repeated."
        )
    if old["training"]["digest"] is None:
        raise ConfigError(
            f"{path} is of a run that ended as {old['status']!r}: it left no weights to hold others against."
        )
    _require_same_code(old)
    config = configuration.load(
        (), (*_frozen(old), *settings), stored=old["config"]["text"], allow_imports=allow_imports
    )
    new = run.run(config, out=out / "reproduced", fresh=True)
    if files_outside(new) != files_outside(old):
        raise ConfigError(_changed("The file of the method", old))
    apart = [name for name, value in platform(new).items() if value != platform(old)[name]]
    apart += [f"the version of {name}" for name in sorted(_new_minors(old, new))]
    if not apart:
        return _same_bits(old, new)
    return f"Differs from the record in {', '.join(apart)}. {_inside(path, old, new)}"


def _require_same_code(old: Record) -> None:
    if parts := changed(old):
        raise ConfigError(_changed(f"The code ({'; '.join(parts)})", old))


def _changed(part: str, old: Record) -> str:
    commit = old["code"]["commit"]
    place = f"git checkout {commit}" if commit else f"version {old['code']['version']}"
    dirty = " (its tree had changes that were not committed)" if old["code"]["dirty"] else ""
    return f"{part} is not that of the record any more: the run cannot be repeated here. Use {place}{dirty}."


def _new_minors(old: Record, new: Record) -> set[str]:
    """Return the names of code whose versions differ: their Majors are equal, so results differ by rounding."""
    then, now = versions_of(old), versions_of(new)
    return {name for name in now if now[name] != then.get(name, FIRST_VERSION)}


def _frozen(old: Record) -> tuple[str, ...]:
    """Return the settings that hold a budget in seconds to the steps that were taken."""
    budget = old["budget"]
    assert budget is not None
    if budget["kind"] != "device_seconds":
        return ()
    if old["teacher"]:
        raise ConfigError("A budget in seconds that two stages shared cannot be repeated step by step.")
    whole = ("Budget.kind = 'samples'", "experiment.budget_share = 1.0")
    return (*whole, f"Budget.amount = {budget['steps'] * budget['batch_size']}")


def _same_bits(old: Record, new: Record) -> str:
    if old["training"]["digest"] != new["training"]["digest"]:
        raise CheckError(
            f"Machine and versions are those of the record, but the weights differ: expected the digest "
            f"{old['training']['digest']}, got {new['training']['digest']}."
        )
    if moved := [name for name in old["metrics"] if _timeless(new, name) != _timeless(old, name)]:
        raise CheckError(f"The weights are the same, but {', '.join(moved)} gave other scores.")
    return "The same bits: weights and scores are those of the record."


def _timeless(record: Record, evaluation: str) -> object:
    """Return the metrics of an evaluation without the figures that a clock gives; None where there are none."""
    found = record["metrics"].get(evaluation)
    return None if found is None else records.timeless(found)


def _cell(record: Record) -> tuple[object, ...]:
    """Return what runs share that differ in nothing but seed and machine."""
    return record["division"], record["method"]["name"], key_of(record), majors(record)


def _inside(path: Path, old: Record, new: Record) -> str:
    """Hold the new scores against the interval for one more run of the cell of the record."""
    cell = [record for record in by_age(map(records.read, path.parent.glob("*.json"))) if _cell(record) == _cell(old)]
    parts, outside = [], []
    for name, found in sorted(new["metrics"].items()):
        of_seeds = {record["seed"]: record["metrics"][name]["top1"] for record in cell if name in record["metrics"]}
        scores = list(of_seeds.values())
        if len(scores) < 2:
            continue
        half = t_quantile(len(scores) - 1) * stdev(scores) * math.sqrt(1 + 1 / len(scores))
        low, high = fmean(scores) - half, fmean(scores) + half
        parts.append(f"{name} {100 * found['top1']:.2f} in [{100 * low:.2f}, {100 * high:.2f}]")
        if not low <= found["top1"] <= high:
            outside.append(name)
    if not parts:
        raise CheckError("One seed gives no interval: scores of at least two of this configuration must lie beside it.")
    if outside:
        raise CheckError(f"Outside the prediction interval: {', '.join(outside)}. {'; '.join(parts)}.")
    return f"Inside the 95 % prediction interval for one more run: {'; '.join(parts)}."
