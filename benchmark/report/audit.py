"""What must hold in each record and between records: arithmetic, places of files, agreement of repeated runs.

`record.read` makes sure that a file is byte for byte what was written. The audit compares the numbers in it, because a
forged or mixed-up record would still have consistent bytes.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.report import predictions
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
from benchmark.report.tuning import FIRST_SHARE, Contest, contests, fingerprint_without_test
from benchmark.storage.files import sha256_of

SLACK = 1e-9  # of a share of whole images: rounding of a sum of floats
TOLERANCE = 0.03  # of a budget in seconds: by how much a run that ended well may have missed it
ONE_CONFIGURATION = ("closed", "tuned")  # divisions that compare methods, not settings
METHOD = ("Pretraining.method", "experiment.teacher")  # everything that these parameters refer to is the method's own
VIEWS = "Pretraining.views"
FREE = (VIEWS, "Pretraining.name", "experiment.teacher_share", "experiment.rate_factor")


def audit(folder: Path) -> list[str]:
    """Return what is wrong with the records below a folder of boards, one sentence with its file per problem."""
    problems: list[str] = []
    records: dict[Path, Record] = {}
    for path in sorted(folder.rglob("*.json")):
        try:
            records[path] = read(path)
        except BenchmarkError as problem:
            problems.append(str(problem))
            continue
        place = path.parent.relative_to(folder).as_posix()
        inside = (
            *_misplaced(path.name, place, records[path]),
            *_wrong_text(records[path]),
            *_impossible(records[path]),
            *_unsound_files(path.parent, records[path]),
        )
        problems += [f"{path}: {problem}" for problem in inside]
    for check in (_missing_floors, _unfounded_rates, _unequal_terms):
        problems += check(records)
    return [*problems, *_contradictions(records.values())]


def _misplaced(name: str, place: str, record: Record) -> Iterator[str]:
    if name != file_name(record):
        yield f"expected the name {file_name(record)}. Rename it back."
    if record["division"] != "floor" and record["board"] != place:
        yield f"lies in the folder {place!r}, but was published to {record['board']!r}. Move it back."


def _wrong_text(record: Record) -> Iterator[str]:
    lines, tuning = record["config"]["text"].splitlines(), record["tuning"]
    for line in filter(ABSOLUTE.search, lines):
        yield (
            f"config.text has an absolute path: {line}. Publish the run again, by the command that made it and "
            f"--publish, which leaves it out, and remove this file."
        )
    if tuning and f"experiment.rate_factor = {tuning['factor']!r}" not in lines:
        yield f"tuning.factor: {tuning['factor']:g} is not the experiment.rate_factor of its configuration."


def _unsound_files(board: Path, record: Record) -> Iterator[str]:
    """Yield what is wrong with the files that were published with a record, and with the predictions in them."""
    files = record.get("published", {})
    for stated in (files.get("predictions"), files.get("encoder")):
        if stated is None:
            continue
        path = board / stated["file"]
        if not path.is_file():
            yield f"its file {stated['file']} is missing. Restore it from version control."
        elif path.stat().st_size != stated["bytes"] or sha256_of(path) != stated["sha256"]:
            yield f"its file {stated['file']} was changed. Restore it from version control."
        elif stated is files.get("predictions"):
            yield from _wrong_predictions(path, record)


def _wrong_predictions(path: Path, record: Record) -> Iterator[str]:
    """Yield the columns of predictions whose accuracy is not the recorded one."""
    try:
        classes = predictions.read(path)
    except BenchmarkError as problem:
        yield str(problem)
        return
    expected: dict[str, float] = {}
    for name, result in record["metrics"].items():
        draws = {predictions.of_draw(name, draw): top1 for draw, top1 in enumerate(result["draws"])}
        expected |= draws or {name: result["top1"]}
    for name in classes.dtype.names or ():
        correct = float((classes[name] == classes[predictions.LABEL]).mean())
        if name != predictions.LABEL and abs(correct - expected.get(name, math.inf)) > SLACK:
            yield f"{path.name}: {name} has the accuracy {correct:g}, which is not that of the record."


def _impossible(record: Record) -> Iterator[str]:
    """Yield the numbers of one record that contradict each other."""
    for name, result in record["metrics"].items():
        yield from (f"metrics.{name}: {problem}" for problem in _impossible_metrics(record, result))
    budget, cost, teacher, is_ok = record["budget"], record["cost"], record["teacher"], record["status"] == "ok"
    if curve := record["training"].get("curve"):
        for point in curve["points"]:
            if _is_no_share(point["knn"], curve["queries"]):
                yield f"training.curve: {point['knn']} after step {point['step']:,} is no share of its queries."
            if budget and point["step"] > budget["steps"]:
                yield f"training.curve: a point after step {point['step']:,} of {budget['steps']:,}."
    waited, seconds, images = cost["data_wait_seconds"], cost["train_seconds"], cost["images"]
    if waited > seconds:
        yield f"cost.data_wait_seconds: {waited:g} are part of cost.train_seconds, but those are {seconds:g}."
    if budget is None:
        if record["division"] == "floor" and (cost["flops"] or images):
            yield "a floor costs nothing, but its cost has images or FLOPs."
        return
    flops, step_images = (
        cost["teacher_flops"] + budget["steps"] * cost["flops_per_step"],
        budget["steps"] * budget["batch_size"],
    )
    if record["status"] in ("diverged", "overtime", "failed"):
        if cost["flops"] > flops:
            yield "a run that ended early cannot have spent more than its steps."
    else:
        if not math.isclose(cost["flops"], flops, rel_tol=1e-12):
            yield f"cost.flops: expected {flops:g} from steps and teacher, got {cost['flops']:g}."
        if images < step_images or (teacher is None and images > step_images):
            least = "" if teacher is None else "at least "
            yield f"cost.images: expected {least}{step_images:,} from steps and batch, got {images:,}."
    kind, amount = budget["kind"], budget["amount"]
    spent = {"flops": cost["flops"], "samples": images, "device_seconds": seconds}[kind]
    if kind != "device_seconds" and spent > amount:
        field = "flops" if kind == "flops" else "images"
        yield f"cost.{field}: {spent:,g} are more than the budget of {amount:,g}."
    if kind == "flops" and is_ok and amount - spent >= cost["flops_per_step"]:
        yield f"cost.flops: {amount - spent:g} of the budget are left, which is enough for another step."
    if kind == "device_seconds" and is_ok and abs(amount - spent) > TOLERANCE * amount:
        yield (
            f"status: expected budget_miss, got ok: {seconds:g} s miss the budget of {amount:g} s by more than "
            f"{100 * TOLERANCE:g} %."
        )
    was_trained = teacher is not None and teacher["key"] is not None
    if was_trained != (cost["teacher_flops"] > 0):
        was = "was" if was_trained else "was not"
        yield f"cost.teacher_flops: {cost['teacher_flops']:g}, but a teacher {was} trained here."


def _impossible_metrics(record: Record, result: Metrics) -> Iterator[str]:
    n, images = result["n"], record["dataset"]["sizes"]["test"]
    draws = result["draws"] or [result["top1"]]
    if n != images:
        yield f"n is {n:,}, but the test set has {images:,} images."
        return
    for top1 in draws:
        if _is_no_share(top1, n):
            yield f"top1 {top1} is no share of {n:,} images."
    if not math.isclose(result["top1"], math.fsum(draws) / len(draws), rel_tol=1e-9):
        yield "top1 is not the mean of its draws."
    if result["top5"] is not None and result["top5"] < result["top1"]:
        yield "top5 is below top1."
    if (result["top5"] is None) != (record["dataset"]["classes"] < 50):
        yield "top5 is recorded from 50 classes up, and only there."


def _is_no_share(accuracy: float, n: int) -> bool:
    return abs(accuracy * n - round(accuracy * n)) > SLACK * max(1, n)


def _missing_floors(records: Mapping[Path, Record]) -> Iterator[str]:
    floors = {record["id"] for record in records.values() if record["division"] == "floor"}
    for path, record in records.items():
        for identity in record["floors"]:
            if identity not in floors:
                yield f"{path}: its floor {identity} is not among the records. Restore it, or publish the run again."


def _unfounded_rates(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs of the tuned division whose learning rate does not follow from the trials that they name."""
    trials = {record["id"]: record for record in records.values() if record["division"] == "trial"}
    for path, record in records.items():
        tuning = tuning_of(record)
        if tuning is None or record["division"] != "tuned":
            continue
        if missing := [identity for identity in tuning["trials"] if identity not in trials]:
            yield f"{path}: its trials {', '.join(missing)} are not among the records. Restore them, or tune again."
            continue
        contest = contests(trials[identity] for identity in tuning["trials"]).get(tuning["recipe"], Contest(()))
        if contest.missing or contest.tuning != tuning:
            yield f"{path}: its learning rate, factor {tuning['factor']:g}, does not follow from its trials."
        elif differing := _differing_from_trial(record, contest.winner, contest.share or FIRST_SHARE):
            yield f"{path}: its trials were made with another {', '.join(differing)}. Tune again."


def _differing_from_trial(run: Record, trial: Record, share: float) -> list[str]:
    """Return the names of what a run and a trial of its contest, on a share of the budget, do not have alike."""
    run_budget, trial_budget = run["budget"], trial["budget"]
    assert run_budget is not None
    assert trial_budget is not None
    amounts = share * run_budget["amount"], trial_budget["amount"]
    equal = {
        "method": run["method"]["name"] == trial["method"]["name"],
        "encoder": run["encoder"] == trial["encoder"],
        "data set": fingerprint_without_test(run["dataset"]["fingerprint"]) == trial["dataset"]["fingerprint"],
        f"budget than {share:g} of the run's": run_budget["kind"] == trial_budget["kind"] and amounts[0] == amounts[1],
        "code": majors(run) == majors(trial),
    }
    return [name for name, is_equal in equal.items() if not is_equal]


def _unequal_terms(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs of a table that differ from the others of it in more than the method.

    Of the runs of the newest Major version of pretraining, each is compared with one that has the most common terms.
    """
    paths = {record["id"]: path for path, record in records.items()}
    tables: dict[Setting, list[Record]] = defaultdict(list)
    for cell in group(record for record in records.values() if record["division"] in ONE_CONFIGURATION):
        tables[cell.setting] += cell.runs
    for runs in tables.values():
        version = _pretraining(by_age(runs)[-1])
        alike = [run for run in runs if _pretraining(run) == version]
        terms = {run["id"]: _terms(run) for run in sorted(alike, key=lambda run: paths[run["id"]])}
        most_common = Counter(terms.values()).most_common(1)[0][0]
        usual = next(run for run in alike if terms[run["id"]] == most_common)
        for run in alike:
            if difference := _first_difference(run, usual):
                yield (
                    f"{paths[run['id']]}: has {difference[0]}, where {paths[usual['id']]} has {difference[1]}. Apart "
                    f"from the method, a table of the division {run['division']} has one configuration: publish the "
                    f"run to the division open, or to a board of its own."
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
    """Return the first lines in which two runs differ and may not; parameters of views may be absent from one."""
    texts = [canonical(each["config"]["text"]) for each in (run, other)]
    varied = [*run["config"]["varied"], *other["config"]["varied"]]
    in_one = texts[0].lines.keys() ^ texts[1].lines.keys()
    names = set(texts[0].counting | texts[1].counting)
    for text in texts:
        names -= (text.lines.keys() - _compared(text, varied)) | (_of_views(text) & in_one)
    for name in sorted(names):
        values = [text.lines.get(name) for text in texts]
        if values[0] != values[1]:
            first, second = (f"no line {name}" if value is None else f"{name} = {value}" for value in values)
            return first, second
    return None


def _compared(text: Canonical, varied: Iterable[str]) -> set[str]:
    """Return all parameters but those of the method, those varied on purpose, and the `FREE` ones."""
    endings = [f".{binding.partition('=')[0].strip().rpartition('/')[2]}" for binding in varied]
    bound = [name for name in text.lines if any(each.endswith(f".{name.rpartition('/')[2]}") for each in endings)]
    return text.reached_without({*METHOD, *bound}) - set(FREE)


def _of_views(text: Canonical) -> set[str]:
    return within(text.lines, references(text.lines, [VIEWS]))


def _contradictions(records: Collection[Record]) -> Iterator[str]:
    """Yield repeated runs that should be equal and are not, and different data sets of one name."""
    repeated, named = defaultdict(list), defaultdict(set)
    for record in records:
        machine = tuple(map(str, platform(record).values()))
        code = frozenset(item for item in versions_of(record).items() if item[1] != FIRST_VERSION)
        run = (key_of(record), record["seed"], record["division"], machine, files_outside(record), code)
        repeated[run].append(record)
        if record["division"] not in ("trial", "floor"):  # trials have another test split, floors have no board
            named[record["board"], record["dataset"]["name"]].add(record["dataset"]["fingerprint"])
    for runs in repeated.values():
        repeatable = [run for run in runs if run["status"] == "ok" and run["environment"]["deterministic"]]
        if len({run["training"]["digest"] for run in repeatable}) > 1:
            yield (
                f"{', '.join(sorted(run['id'] for run in runs))}: the same configuration, seed, code, versions and "
                f"machine ended in different weights. Runs are deterministic: find out which record is wrong."
            )
        yield from _differing_scores(runs)
    for (board, name), fingerprints in sorted(named.items(), key=str):
        if len(fingerprints) > 1:
            yield f"board {board}: {len(fingerprints)} different data sets are called {name}. Give each its own name."


def _differing_scores(runs: Iterable[Record]) -> Iterator[str]:
    """Yield the evaluations in which runs with equal weights have different results, apart from seconds."""
    scores: dict[tuple[str | None, str], dict[str, str]] = defaultdict(dict)  # results by the id of the run
    for run in runs:
        for name, metrics in run["metrics"].items():  # floors have no digest: their configuration identifies them
            scores[run["training"]["digest"], name][run["id"]] = json.dumps(timeless(metrics), sort_keys=True)
    for (_, name), results in scores.items():
        if len(set(results.values())) > 1:
            yield (
                f"{', '.join(sorted(results))}: the same weights, code and machine have different results of {name}. "
                f"Evaluations are deterministic: find out which record is wrong."
            )
