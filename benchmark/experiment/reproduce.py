"""Repeat a recorded run and compare: the same bits here, or elsewhere scores as near as those of other seeds."""

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
from benchmark.report.section import ranking_score
from benchmark.report.statistics import half_width_by_images, t_quantile


def reproduce(path: Path, *, out: Path, settings: Sequence[str] = (), allow_imports: bool = False) -> str:
    """Run the configuration of a record again and return a sentence on how far it agrees.

    `settings` may say where data lie. On the machine, libraries and versions of the record, the weights must be equal
    to the bit. Elsewhere each score must lie in the 95 % prediction interval for one more run of its cell or, where the
    folder has one seed of it, in the narrower interval over test images.
    Raises ConfigError where a Major version of the code has changed since, CheckError where the run does not agree.
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
    if parts := changed(old):
        raise _other_code(f"The code ({'; '.join(parts)})", old)
    config = configuration.load(
        (), (*_frozen(old), *settings), stored=old["config"]["text"], allow_imports=allow_imports
    )
    new = run.run(config, out=out / "reproduced", fresh=True)
    if files_outside(new) != files_outside(old):
        raise _other_code("The file of the method", old)
    differences = [name for name, value in platform(new).items() if value != platform(old)[name]]
    then, now = versions_of(old), versions_of(new)  # their Majors are equal: a new Minor changes rounding alone
    changed_minors = [name for name in sorted(now) if now[name] != then.get(name, FIRST_VERSION)]
    differences += [f"the version of {name}" for name in changed_minors]
    if not differences:
        return _compare_bits(old, new)
    return f"Differs from the record in {', '.join(differences)}. {_compare_scores(path, old, new)}"


def _other_code(part: str, old: Record) -> ConfigError:
    commit = old["code"]["commit"]
    place = f"git checkout {commit}" if commit else f"version {old['code']['version']}"
    dirty = " (its tree had changes that were not committed)" if old["code"]["dirty"] else ""
    return ConfigError(
        f"{part} is not that of the record any more: the run cannot be repeated here. Use {place}{dirty}."
    )


def _frozen(old: Record) -> tuple[str, ...]:
    """Return the settings by which a run with a budget in seconds takes the steps of the record."""
    budget = old["budget"]
    assert budget is not None
    if budget["kind"] != "device_seconds":
        return ()
    if old["teacher"]:
        raise ConfigError("A budget in seconds that two stages shared cannot be repeated step by step.")
    amount = f"Budget.amount = {budget['steps'] * budget['batch_size']}"
    return "Budget.kind = 'samples'", "experiment.budget_share = 1.0", amount


def _compare_bits(old: Record, new: Record) -> str:
    if old["training"]["digest"] != new["training"]["digest"]:
        raise CheckError(
            f"Machine and versions are those of the record, but the weights differ: expected the digest "
            f"{old['training']['digest']}, got {new['training']['digest']}."
        )
    metrics = new["metrics"]
    if names := [
        name
        for name, scores in old["metrics"].items()
        if name not in metrics or records.timeless(metrics[name]) != records.timeless(scores)
    ]:
        raise CheckError(f"The weights are the same, but {', '.join(names)} gave other scores.")
    return "The same bits: weights and scores are those of the record."


def _cell(record: Record) -> tuple[object, ...]:
    """Return what is equal for runs that differ in seed and machine alone."""
    return record["division"], record["method"]["name"], key_of(record), majors(record)


def _compare_scores(path: Path, old: Record, new: Record) -> str:
    """Compare the new scores with an interval around those of the record's cell.

    With n > 1 seeds in the folder of the record it is that for one more run, with one the interval of the difference of
    two runs over the test images (`half_width_by_images`), which leaves out the spread over seeds:

        mean ± t s sqrt(1 + 1 / n)
    """
    beside = by_age(map(records.read, path.parent.glob("*.json")))
    cell = [*(record for record in beside if _cell(record) == _cell(old)), old]  # of its seed, the record itself counts
    parts, outside, is_one_seed = [], [], False
    for name, metrics in sorted(new["metrics"].items()):
        of_seeds = {record["seed"]: record["metrics"][name] for record in cell if name in record["metrics"]}
        scores, score = list(map(ranking_score, of_seeds.values())), ranking_score(metrics)
        if len(scores) > 1:
            half = t_quantile(len(scores) - 1) * stdev(scores) * math.sqrt(1 + 1 / len(scores))
        elif scores and score == metrics["top1"]:  # other measures are no mean over test images
            half = half_width_by_images(*((each, metrics["n"]) for each in (score, *scores)))
            is_one_seed = True
        else:
            continue
        low, high = fmean(scores) - half, fmean(scores) + half
        parts.append(f"{name} {100 * score:.2f} in [{100 * low:.2f}, {100 * high:.2f}]")
        if not low <= score <= high:
            outside.append(name)
    if not parts:
        raise CheckError("One seed gives no interval: scores of at least two of this configuration must lie beside it.")
    kind = "interval over test images" if is_one_seed else "prediction interval"
    if outside:
        unknown = " The record has one seed: runs may differ by more, which more seeds would show." * is_one_seed
        raise CheckError(f"Outside the {kind}: {', '.join(outside)}. {'; '.join(parts)}.{unknown}")
    of = "of the only seed" if is_one_seed else "for one more run"
    return f"Inside the 95 % {kind} {of}: {'; '.join(parts)}."
