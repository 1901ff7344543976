"""What must hold among records and inside each of them: arithmetic, places, and agreement of repeated runs.

`record.read` has made sure that a file is byte for byte what was written. Here numbers are held against each other, as
a forged or mixed-up record would have consistent bytes.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.report.cells import (
    FIRST_VERSION,
    PRETRAINING,
    Setting,
    by_age,
    files_outside,
    group,
    key_of,
    majors,
    platform,
    tuning_of,
    versions_of,
)
from benchmark.report.fields import Metrics
from benchmark.report.identity import ABSOLUTE, Canonical, canonical, references, within
from benchmark.report.record import Record, file_name, read, timeless
from benchmark.report.tuning import SHARE, Contest, contests, fingerprint_without_test

CHANCE = 1e-9  # of a share of whole images: floats of a sum
TOLERANCE = 0.03  # of a budget in seconds: what a run that ended well may have taken more or less
ON_EQUAL_TERMS = ("closed", "tuned")  # the divisions that compare methods, not settings
METHOD = ("Pretraining.method", "experiment.teacher")  # all that these lines reach is the method's own
VIEWS = "Pretraining.views"
FREE = (VIEWS, "Pretraining.name", "experiment.teacher_share", "experiment.rate_factor")


def audit(folder: Path) -> list[str]:
    """Return what is wrong with the records below a folder of boards, one sentence with its file per problem."""
    problems: list[str] = []
    records: dict[Path, Record] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            record = records[path] = read(path)
        except BenchmarkError as problem:
            problems.append(str(problem))
            continue
        place = path.parent.relative_to(folder).as_posix()
        inside = (*_misplaced(path.name, place, record), *_private(record), *_impossible(record), *_unused_rate(record))
        problems += [f"{path}: {problem}" for problem in inside]
    for check in (_missing_floors, _unfounded_rates, _unequal_terms):
        problems += check(records)
    return [*problems, *_contradictions(records.values())]


def _misplaced(name: str, place: str, record: Record) -> Iterator[str]:
    if name != file_name(record):
        yield f"expected the name {file_name(record)}. Rename it back."
    if record["division"] != "floor" and record["board"] != place:
        yield f"lies in the folder {place!r}, but was published to {record['board']!r}. Move it back."


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
    waited, seconds = cost["data_wait_seconds"], cost["train_seconds"]
    if waited > seconds:
        yield f"cost.data_wait_seconds: {waited:g} are part of cost.train_seconds, but those are {seconds:g}."
    if budget is None:
        if record["division"] == "floor" and (cost["flops"] or cost["images"]):
            yield "a floor costs nothing, but its cost has images or FLOPs."
        return
    flops, images = cost["teacher_flops"] + budget["steps"] * cost["flops_per_step"], cost["images"]
    own_images = budget["steps"] * budget["batch_size"]
    if record["status"] in ("diverged", "overtime", "failed"):
        if cost["flops"] > flops:
            yield "a run that ended early cannot have spent more than its steps."
    else:
        if not math.isclose(cost["flops"], flops, rel_tol=1e-12):
            yield f"cost.flops: expected {flops:g} from steps and teacher, got {cost['flops']:g}."
        if record["teacher"] is None and images != own_images:
            yield f"cost.images: expected {own_images:,} from steps and batch, got {images:,}."
        if images < own_images:
            yield f"cost.images: at least {own_images:,} by the steps, got {images:,}."
    spent = {"flops": cost["flops"], "samples": images, "device_seconds": seconds}[budget["kind"]]
    left = budget["amount"] - spent
    if budget["kind"] == "flops" and left < 0:
        yield f"cost.flops: {spent:g} are more than the budget of {budget['amount']:g}."
    if budget["kind"] == "flops" and record["status"] == "ok" and left >= cost["flops_per_step"]:
        yield f"cost.flops: {left:g} of the budget are left, which buys another step."
    if budget["kind"] == "samples" and left < 0:
        yield f"cost.images: {images:,} are more than the budget of {budget['amount']:,.0f}."
    if budget["kind"] == "device_seconds" and record["status"] == "ok" and abs(left) > TOLERANCE * budget["amount"]:
        yield (
            f"status: {seconds:g} s miss the budget of {budget['amount']:g} s by more than {100 * TOLERANCE:g} %, "
            f"which is no ok."
        )
    taught = record["teacher"] is not None and record["teacher"]["key"] is not None
    if taught != (cost["teacher_flops"] > 0):
        was = "" if taught else " not"
        yield f"cost.teacher_flops: {cost['teacher_flops']:g}, but a teacher was{was} trained here."


def _impossible_metrics(record: Record, result: Metrics) -> Iterator[str]:
    n, draws = result["n"], result["draws"] or [result["top1"]]
    if n != record["dataset"]["sizes"]["test"]:
        yield f"n is {n:,}, but the test set has {record['dataset']['sizes']['test']:,} images."
        return
    for top1 in draws:
        if abs(top1 * n - round(top1 * n)) > CHANCE * max(1, n):
            yield f"top1 {top1} is no share of {n:,} images."
    if not math.isclose(result["top1"], math.fsum(draws) / len(draws), rel_tol=1e-9):
        yield "top1 is not the mean of its draws."
    if result["top5"] is not None and result["top5"] < result["top1"]:
        yield "top5 is below top1."
    if (result["top5"] is None) != (record["dataset"]["classes"] < 50):
        yield "top5 is given from 50 classes up, and only there."


def _unused_rate(record: Record) -> Iterator[str]:
    tuning = record["tuning"]
    if tuning and f"experiment.rate_factor = {tuning['factor']!r}" not in record["config"]["text"].splitlines():
        yield f"tuning.factor: {tuning['factor']:g} is not the experiment.rate_factor of its configuration."


def _missing_floors(records: Mapping[Path, Record]) -> Iterator[str]:
    known = {record["id"] for record in records.values() if record["division"] == "floor"}
    for path, record in records.items():
        for identity in filter(lambda identity: identity not in known, record["floors"]):
            yield f"{path}: its floor {identity} is not among the records. Restore it, or publish the run again."


def _unfounded_rates(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs of the division tuned whose rate does not follow from the trials that they name."""
    trials = {record["id"]: record for record in records.values() if record["division"] == "trial"}
    for path, record in records.items():
        tuning = tuning_of(record)
        if tuning is None or record["division"] != "tuned":
            continue
        if missing := [identity for identity in tuning["trials"] if identity not in trials]:
            yield f"{path}: its trials {', '.join(missing)} are not among the records. Restore them, or tune again."
            continue
        contest = contests(trials[identity] for identity in tuning["trials"]).get(tuning["recipe"], Contest(()))
        if not contest.is_complete or contest.tuning != tuning:
            yield f"{path}: its rate, factor {tuning['factor']:g}, does not follow from the trials that it names."
        elif apart := list(_apart(record, contest.winner)):
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


def _unequal_terms(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs that a table ranks beside others although more than the method differs in their configurations.

    Among the runs of a table that its newest code made, each is held against one whose terms the most have.
    """
    paths = {record["id"]: path for path, record in records.items()}
    tables: dict[Setting, list[Record]] = defaultdict(list)
    for cell in group(record for record in records.values() if record["division"] in ON_EQUAL_TERMS):
        tables[cell.setting] += cell.runs
    for runs in tables.values():
        newest = by_age(runs)[-1]
        alike = [run for run in runs if _pretraining(run) == _pretraining(newest)]
        terms = {run["id"]: _terms(run) for run in sorted(alike, key=lambda run: paths[run["id"]])}
        most_common = Counter(terms.values()).most_common(1)[0][0]
        usual = next(run for run in alike if terms[run["id"]] == most_common)
        for run in alike:
            if apart := _first_difference(run, usual):
                yield (
                    f"{paths[run['id']]}: has {apart[0]}, where {paths[usual['id']]} has {apart[1]}. Beside the method "
                    f"a table of the division {run['division']} has one configuration: publish the run to the division "
                    f"open, or to a board of its own."
                )


def _pretraining(record: Record) -> int:
    """Return the Major version of the code of pretraining."""
    return dict(majors(record)).get(PRETRAINING, 1)


def _terms(run: Record) -> frozenset[tuple[str, str]]:
    """Return the values in which a run must agree with all others of its table."""
    text = canonical(run["config"]["text"])
    names = _compared(text, run["config"]["varied"]) - _of_views(text)
    return frozenset((name, value) for name, value in text.identity.items() if name in names)


def _first_difference(run: Record, other: Record) -> tuple[str, str] | None:
    """Return the first lines in which two runs differ and may not; what one's views alone have may be there or not."""
    texts = ours, theirs = canonical(run["config"]["text"]), canonical(other["config"]["text"])
    varied = [*run["config"]["varied"], *other["config"]["varied"]]
    of_one = ours.lines.keys() ^ theirs.lines.keys()
    names = set(ours.counting | theirs.counting)
    for text in texts:
        names -= (text.lines.keys() - _compared(text, varied)) | (_of_views(text) & of_one)
    for name in sorted(names):
        if ours.lines.get(name) != theirs.lines.get(name):
            first, second = (
                f"{name} = {text.lines[name]}" if name in text.lines else f"no line {name}" for text in texts
            )
            return first, second
    return None


def _compared(text: Canonical, varied: Iterable[str]) -> set[str]:
    """Return the parameters that are not a run's own: its method's, those varied on purpose, its views and its rate."""
    endings = [f".{binding.partition('=')[0].strip().rpartition('/')[2]}" for binding in varied]
    bound = [name for name in text.lines if any(each.endswith(f".{name.rpartition('/')[2]}") for each in endings)]
    return text.reached_without({*METHOD, *bound}) - set(FREE)


def _of_views(text: Canonical) -> set[str]:
    """Return the parameters of the views alone."""
    return within(text.lines, references(text.lines, [VIEWS]))


def _contradictions(records: Collection[Record]) -> Iterator[str]:
    """Yield repeated runs that should be the same and are not, and data sets that go by one name."""
    repeated, named = defaultdict(list), defaultdict(set)
    for record in records:
        machine = tuple(map(str, platform(record).values()))
        code = frozenset(item for item in versions_of(record).items() if item[1] != FIRST_VERSION)
        repeated[key_of(record), record["seed"], record["division"], machine, files_outside(record), code].append(
            record
        )
        if record["division"] not in ("trial", "floor"):  # those have another test split, these no board
            named[record["board"], record["dataset"]["name"]].add(record["dataset"]["fingerprint"])
    for runs in repeated.values():
        repeatable = [run for run in runs if run["status"] == "ok" and run["environment"]["deterministic"]]
        if len({run["training"]["digest"] for run in repeatable}) > 1:
            yield (
                f"{', '.join(sorted(run['id'] for run in runs))}: the same configuration, seed, code, versions and "
                f"machine ended in different weights. Find out which is not what it says; runs are deterministic."
            )
        yield from _other_scores(runs)
    for (board, name), fingerprints in sorted(named.items(), key=str):
        if len(fingerprints) > 1:
            yield f"board {board}: {len(fingerprints)} different data sets are called {name}. Give each its own name."


def _other_scores(runs: Iterable[Record]) -> Iterator[str]:
    """Yield the evaluations of which runs with equal weights have different results; seconds are no results."""
    scores: dict[tuple[str | None, str], dict[str, str]] = defaultdict(dict)  # results by the id of the run
    for run in runs:
        for name, metrics in run["metrics"].items():  # floors have no digest, and are known by their configuration
            scores[run["training"]["digest"], name][run["id"]] = json.dumps(timeless(metrics), sort_keys=True)
    for (_, name), results in scores.items():
        if len(set(results.values())) > 1:
            yield (
                f"{', '.join(sorted(results))}: the same weights, code and machine have different results of {name}. "
                f"Find out which is not what it says; evaluations are deterministic."
            )
