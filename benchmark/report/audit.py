"""What must hold among records and inside each of them: arithmetic, places, and agreement of repeated runs.

`record.read` has made sure that a file is byte for byte what was written. Here numbers are held against each other, as
a forged or mixed-up record would have consistent bytes.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.report.identity import ABSOLUTE, Canonical, canonical, references, within
from benchmark.report.record import Metrics, Record, file_name, read, timeless
from benchmark.report.store import (
    FIRST_VERSION,
    PRETRAINING,
    Setting,
    group,
    key_of,
    made_by,
    major,
    majors,
    platform,
    tuning_of,
    versions_of,
)
from benchmark.report.tuning import SHARE, Contest, contests, fingerprint_without_test

CHANCE = 1e-9  # of a share of whole images: floats of a sum
TOLERANCE = 0.03  # of a budget in seconds: what a run that ended well may have taken more or less
ON_EQUAL_TERMS = ("closed", "tuned")  # the divisions that compare methods, not settings
METHOD = ("Pretraining.method", "experiment.teacher")  # all that these lines reach is the method's own
VIEWS = "Pretraining.views"
FREE = (VIEWS, "Pretraining.name", "experiment.teacher_share", "experiment.rate_factor")


def audit(folder: Path) -> list[str]:
    """Return what is wrong with the records below a folder of boards, one sentence with its file per problem."""
    problems, found = [], {}
    for path in sorted(folder.rglob("*.json")):
        try:
            found[path] = read(path)
        except BenchmarkError as problem:
            problems.append(str(problem))
    records = list(found.values())
    for path, record in found.items():
        found_here = (
            *_misplaced(path, folder, record),
            *_private(record),
            *_impossible(record),
            *_unused_rate(record),
        )
        problems += [f"{path}: {problem}" for problem in found_here]
    problems += _missing_floors(found)
    problems += _unfounded_rates(found)
    problems += _unequal_terms(found)
    problems += _contradictions(records)
    return problems


def _misplaced(path: Path, folder: Path, record: Record) -> Iterator[str]:
    if path.name != file_name(record):
        yield f"expected the name {file_name(record)}. Rename it back."
    board = record["board"]
    place = path.parent.relative_to(folder).as_posix()
    if record["division"] != "floor" and board != place:
        yield f"lies in the folder {place!r}, but was published to {board!r}. Move it back."


def _private(record: Record) -> Iterator[str]:
    """Yield the absolute paths in a configuration, which tell of somebody's machine."""
    for line in record["config"]["text"].splitlines():
        if ABSOLUTE.search(line):
            yield (
                f"config.text has an absolute path: {line}. Publish the run again, by the command that made it and "
                f"--publish, which leaves it out, and remove this file."
            )


def _impossible(record: Record) -> Iterator[str]:
    """Yield the numbers of one record that do not fit together."""
    for name, result in record["metrics"].items():
        yield from (f"metrics.{name}: {problem}" for problem in _impossible_metrics(record, result))
    budget, cost = record["budget"], record["cost"]
    if cost["data_wait_seconds"] > cost["train_seconds"]:
        yield (
            f"cost.data_wait_seconds: {cost['data_wait_seconds']:g} are part of cost.train_seconds, but those are "
            f"{cost['train_seconds']:g}."
        )
    if budget is None:
        if record["division"] == "floor" and (cost["flops"] or cost["images"]):
            yield "a floor costs nothing, but its cost has images or FLOPs."
        return
    if record["status"] in ("diverged", "overtime", "failed"):
        if cost["flops"] > cost["teacher_flops"] + budget["steps"] * cost["flops_per_step"]:
            yield "a run that ended early cannot have spent more than its steps."
    else:
        flops = cost["teacher_flops"] + budget["steps"] * cost["flops_per_step"]
        if not math.isclose(cost["flops"], flops, rel_tol=1e-12):
            yield f"cost.flops: expected {flops:g} from steps and teacher, got {cost['flops']:g}."
        own = budget["steps"] * budget["batch_size"]
        if record["teacher"] is None and cost["images"] != own:
            yield f"cost.images: expected {own:,} from steps and batch, got {cost['images']:,}."
        if cost["images"] < own:
            yield f"cost.images: at least {own:,} by the steps, got {cost['images']:,}."
    if budget["kind"] == "flops" and cost["flops"] > budget["amount"]:
        yield f"cost.flops: {cost['flops']:g} are more than the budget of {budget['amount']:g}."
    if budget["kind"] == "flops" and record["status"] == "ok":
        unspent = budget["amount"] - cost["flops"]
        if unspent >= cost["flops_per_step"]:
            yield f"cost.flops: {unspent:g} of the budget are left, which buys another step."
    if budget["kind"] == "samples" and cost["images"] > budget["amount"]:
        yield f"cost.images: {cost['images']:,} are more than the budget of {budget['amount']:,.0f}."
    if budget["kind"] == "device_seconds" and record["status"] == "ok":
        missed = abs(cost["train_seconds"] - budget["amount"])
        if missed > TOLERANCE * budget["amount"]:
            yield (
                f"status: {cost['train_seconds']:g} s miss the budget of {budget['amount']:g} s by more than "
                f"{100 * TOLERANCE:g} %, which is no ok."
            )
    taught = record["teacher"] is not None and record["teacher"]["key"] is not None
    if taught != (cost["teacher_flops"] > 0):
        was = "" if taught else " not"
        yield f"cost.teacher_flops: {cost['teacher_flops']:g}, but a teacher was{was} trained here."


def _impossible_metrics(record: Record, result: Metrics) -> Iterator[str]:
    if result["n"] != record["dataset"]["sizes"]["test"]:
        yield f"n is {result['n']:,}, but the test set has {record['dataset']['sizes']['test']:,} images."
        return
    for top1 in result["draws"] or [result["top1"]]:
        hits = top1 * result["n"]
        if abs(hits - round(hits)) > CHANCE * max(1, result["n"]):
            yield f"top1 {top1} is no share of {result['n']:,} images."
    if result["draws"] and not math.isclose(
        result["top1"], math.fsum(result["draws"]) / len(result["draws"]), rel_tol=1e-9
    ):
        yield "top1 is not the mean of its draws."
    if result["top5"] is not None and result["top5"] < result["top1"]:
        yield "top5 is below top1."
    if (result["top5"] is None) != (record["dataset"]["classes"] < 50):
        yield "top5 is given from 50 classes up, and only there."


def _unused_rate(record: Record) -> Iterator[str]:
    tuning = record["tuning"]
    if tuning and f"experiment.rate_factor = {tuning['factor']!r}" not in record["config"]["text"].splitlines():
        yield f"tuning.factor: {tuning['factor']:g} is not the experiment.rate_factor of its configuration."


def _missing_floors(found: dict[Path, Record]) -> Iterator[str]:
    known = {record["id"] for record in found.values() if record["division"] == "floor"}
    for path, record in found.items():
        for identity in record["floors"]:
            if identity not in known:
                yield f"{path}: its floor {identity} is not among the records. Restore it, or publish the run again."


def _unfounded_rates(found: dict[Path, Record]) -> Iterator[str]:
    """Yield the runs of the division tuned whose rate does not follow from the trials that they name."""
    trials = {record["id"]: record for record in found.values() if record["division"] == "trial"}
    for path, record in found.items():
        tuning = tuning_of(record)
        if tuning is None or record["division"] != "tuned":
            continue
        if missing := [identity for identity in tuning["trials"] if identity not in trials]:
            yield f"{path}: its trials {', '.join(missing)} are not among the records. Restore them, or tune again."
            continue
        named = contests(trials[identity] for identity in tuning["trials"]).get(tuning["recipe"], Contest(()))
        if not named.is_complete or named.tuning != tuning:
            yield f"{path}: its rate, factor {tuning['factor']:g}, does not follow from the trials that it names."
        elif apart := list(_apart(record, named.winner)):
            yield f"{path}: its trials were made with another {', '.join(apart)}. Tune again."


def _apart(run: Record, trial: Record) -> Iterator[str]:
    """Name what a run does not share with a trial of its contest."""
    assert run["budget"] is not None
    assert trial["budget"] is not None
    budget = (run["budget"]["kind"], SHARE * run["budget"]["amount"])
    shared = {
        "method": (run["method"]["name"], trial["method"]["name"]),
        "encoder": (run["encoder"], trial["encoder"]),
        "data set": (fingerprint_without_test(run["dataset"]["fingerprint"]), trial["dataset"]["fingerprint"]),
        f"budget than {SHARE:g} of the run's": (budget, (trial["budget"]["kind"], trial["budget"]["amount"])),
        "code": (majors(run), majors(trial)),
    }
    yield from (name for name, (ours, theirs) in shared.items() if ours != theirs)


def _unequal_terms(found: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs that a table ranks beside others although more than the method differs in their configurations.

    Among the runs of a table that its newest code made, each is held against one whose terms the most have.
    """
    paths = {record["id"]: path for path, record in found.items()}
    tables: dict[Setting, list[Record]] = defaultdict(list)
    for cell in group(record for record in found.values() if record["division"] in ON_EQUAL_TERMS):
        tables[cell.setting] += cell.runs
    for runs in tables.values():
        newest = max(runs, key=lambda run: (run["created_utc"], run["id"]))
        alike = sorted(
            (run for run in runs if _pretraining(run) == _pretraining(newest)), key=lambda run: paths[run["id"]]
        )
        terms = [_terms(run) for run in alike]
        usual = alike[terms.index(Counter(terms).most_common(1)[0][0])]
        for run in alike:
            if apart := _first_difference(run, usual):
                yield (
                    f"{paths[run['id']]}: has {apart[0]}, where {paths[usual['id']]} has {apart[1]}. Beside the method "
                    f"a table of the division {run['division']} has one configuration: publish the run to the division "
                    f"open, or to a board of its own."
                )


def _pretraining(record: Record) -> int:
    """Return the Major version of the code of pretraining."""
    return major(versions_of(record).get(PRETRAINING, FIRST_VERSION))


def _terms(run: Record) -> frozenset[tuple[str, str]]:
    """Return the values in which a run must agree with all others of its table."""
    text = canonical(run["config"]["text"])
    without = _own(text, run["config"]["varied"]) | _within_views(text)
    return frozenset((name, value) for name, value in text.identity.items() if name not in without)


def _first_difference(run: Record, other: Record) -> tuple[str, str] | None:
    """Return the first lines in which two runs differ and may not; what one's views alone have may be there or not."""
    texts = ours, theirs = canonical(run["config"]["text"]), canonical(other["config"]["text"])
    varied = [*run["config"]["varied"], *other["config"]["varied"]]
    own = _own(ours, varied) | _own(theirs, varied)
    views = _within_views(ours) | _within_views(theirs)
    shared = ours.lines.keys() & theirs.lines.keys()
    for name in sorted((ours.counting | theirs.counting) - own - (views - shared)):
        if ours.lines.get(name) != theirs.lines.get(name):
            first, second = (
                f"{name} = {text.lines[name]}" if name in text.lines else f"no line {name}" for text in texts
            )
            return first, second
    return None


def _own(text: Canonical, varied: Iterable[str]) -> set[str]:
    """Return the parameters that may be a run's own: its method's, those varied on purpose, and its rate."""
    named = tuple(f".{binding.partition('=')[0].strip().rpartition('/')[2]}" for binding in varied)
    lines = text.lines
    roots = {name for name in lines if name in METHOD or any(own.endswith(_ending(name)) for own in named)}
    others = {name: value for name, value in lines.items() if name not in roots}
    shared = references(others, [name for name in others if name.startswith("experiment.")])
    return {*roots, *FREE, *within(lines, references(lines, roots) - shared)}


def _within_views(text: Canonical) -> set[str]:
    """Return the parameters of the views alone."""
    return within(text.lines, references(text.lines, [VIEWS]))


def _ending(name: str) -> str:
    """Return how a binding of the parameter ends, whatever its scope and module."""
    return f".{name.rpartition('/')[2]}"


def _contradictions(records: Sequence[Record]) -> Iterator[str]:
    """Yield repeated runs that should be the same and are not, and data sets that go by one name."""
    repeated, named = defaultdict(list), defaultdict(set)
    for record in records:
        made_on = tuple(str(part) for part in platform(record).values())
        made_with = made_by(record), _exact_code(record)
        repeated[key_of(record), record["seed"], record["division"], made_on, made_with].append(record)
        if record["division"] not in ("trial", "floor"):  # those have another test split, these no board
            named[record["board"], record["dataset"]["name"]].add(record["dataset"]["fingerprint"])
    for runs in repeated.values():
        repeatable = [run for run in runs if run["status"] == "ok" and run["environment"]["deterministic"]]
        digests = {run["training"]["digest"] for run in repeatable}
        if len(digests) > 1:
            ids = ", ".join(sorted(run["id"] for run in runs))
            yield (
                f"{ids}: the same configuration, seed, code, versions and machine ended in different weights. Find out "
                f"which is not what it says; runs are deterministic."
            )
        yield from _other_scores(runs)
    for (board, name), fingerprints in sorted(named.items(), key=str):
        if len(fingerprints) > 1:
            yield f"board {board}: {len(fingerprints)} different data sets are called {name}. Give each its own name."


def _exact_code(record: Record) -> frozenset[tuple[str, str]]:
    """Return the versions, Minor and all, of the code of a record: equal ones give equal bits."""
    return frozenset((name, each) for name, each in versions_of(record).items() if each != FIRST_VERSION)


def _other_scores(runs: Sequence[Record]) -> Iterator[str]:
    """Yield the evaluations of which runs with equal weights have different results; seconds are no results."""
    scores: dict[tuple[str | None, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        digest = run["training"]["digest"]  # None for floors, which are known by their configuration
        for name, metrics in run["metrics"].items():
            scores[digest, name][json.dumps(timeless(metrics), sort_keys=True)].add(run["id"])
    for (_, name), found in scores.items():
        if len(found) > 1:
            ids = ", ".join(sorted(set().union(*found.values())))
            yield (
                f"{ids}: the same weights, code and machine have different results of {name}. Find out which is not "
                f"what it says; evaluations are deterministic."
            )
