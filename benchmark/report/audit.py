"""What must hold in each record and between records: places of files, floors, trials, agreement of repeated runs.

`record.read` makes sure that a file is byte for byte what was written. The audit compares the numbers in it, because a
forged or mixed-up record would still have consistent bytes. What one record says of itself is checked by
`audit_numbers`, `audit_text` and `audit_files`.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.report import cells
from benchmark.report.audit_files import wrong_files
from benchmark.report.audit_numbers import wrong_numbers
from benchmark.report.audit_text import wrong_text
from benchmark.report.identity import canonical, references, within
from benchmark.report.record import Record, file_name, pretrained, pretrained_on, read, timeless
from benchmark.report.tuning import FIRST_SHARE, Contest, contests, fingerprint_without_test

SLOWER = 100  # times as long as that of its floor, on the same hardware, is more than an evaluation takes
LONGEST = 2000  # characters of a sentence
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
        problems += [
            f"{path}: {problem}" for problem in (*_misplaced(place, records[path]), *alone(path, records[path]))
        ]
    return list(map(shortened, [*problems, *together(records)]))


def shortened(problem: str) -> str:
    """Return a sentence cut to a length that a terminal can show: a forged value may be as long as its file."""
    return problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}..."


def alone(path: Path, record: Record) -> Iterator[str]:
    """Yield what is wrong with one record, whatever other records say, and with its published files."""
    if path.name != file_name(record):
        yield f"expected the name {file_name(record)}. Rename it back."
    yield from wrong_text(record)
    yield from wrong_numbers(record)
    yield from wrong_files(path.parent, record)


def together(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield what does not fit between records, with the file or the id of each that it concerns."""
    for check in (_wrong_floors, _unequal_data, _wrong_origins, _unfounded_rates, _unequal_terms):
        yield from check(records)
    yield from _contradictions(records.values())


def _misplaced(place: str, record: Record) -> Iterator[str]:
    if record["division"] != "floor" and record["board"] != place:
        yield f"board: lies in the folder {place!r}, but was published to {record['board']!r}. Move it back."


def _wrong_floors(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs whose floors are missing, or are those of other data, another encoder, or another seed."""
    floors = {record["id"]: record for record in records.values() if record["division"] == "floor"}
    for path, record in records.items():
        known = [floors[identity] for identity in record["floors"] if identity in floors]
        for identity in record["floors"]:
            if identity not in floors:
                yield (
                    f"{path}: floors: its floor {identity} is not among the records. Restore it, or publish the run "
                    f"again."
                )
        is_compared = record["metrics"] and record["division"] not in ("trial", "floor")
        names = [floor["method"]["name"] for floor in known]
        if is_compared and len(known) == len(record["floors"]) and cells.RANDOM_INIT not in names:
            yield f"{path}: floors: expected one of {cells.RANDOM_INIT}, which each run that is evaluated has."
        for floor in known:
            yield from (f"{path}: {problem}" for problem in _differing_from_floor(record, floor))


def _differing_from_floor(run: Record, floor: Record) -> Iterator[str]:
    """Yield where a floor is not that of a run."""
    name = floor["method"]["name"]
    place = f"floors: {name} ({floor['id']})"
    if run["dataset"]["fingerprint"] != floor["dataset"]["fingerprint"]:
        yield f"{place} is of other images than dataset.fingerprint says."
        return
    if name == cells.RANDOM_INIT and floor["seed"] != run["seed"]:
        yield f"{place} has the seed {floor['seed']}, but seed is {run['seed']}."
    if not name.startswith(cells.START) and cells.key_of(floor) != cells.key_of_floor(floor, run["config"]["text"]):
        yield f"{place} has another encoder, other evaluations or other limits of views than config.text says."
        return
    if name == cells.RAW_PIXELS:  # measured once for the images, by the first run on them, whatever its encoder
        return
    for field, value in floor["encoder"].items():
        if field not in ("inputs", "positions") and dict(run["encoder"])[field] != value:
            yield f"encoder.{field}: {dict(run['encoder'])[field]!r}, but its floor {floor['id']} has {value!r}."
    seconds, usual = run["cost"]["evaluation_seconds"], floor["cost"]["evaluation_seconds"]
    if name == cells.RANDOM_INIT and cells.hardware(run) == cells.hardware(floor) and seconds > SLOWER * usual + SLOWER:
        yield f"cost.evaluation_seconds: {seconds:g}, over {SLOWER} times the {usual:g} of its floor {floor['id']}."


def _unequal_data(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the records that describe the same images in another way than most."""
    described: dict[str, dict[Path, str]] = defaultdict(dict)
    for path, record in records.items():
        described[record["dataset"]["fingerprint"]][path] = str(_of_images(record))
    for values in described.values():
        usual = Counter(values.values()).most_common(1)[0][0]
        other = next(_of_images(records[path]) for path, value in values.items() if value == usual)
        for path, value in values.items():
            for name, part in _of_images(records[path]).items() if value != usual else ():
                if part != other[name]:
                    yield f"{path}: dataset.{name}: {part}, where most records of the same images have {other[name]}."


def _of_images(record: Record) -> dict[str, object]:
    """Return what follows from the images that the fingerprint of a record is of."""
    parts: Mapping[str, object] = record["dataset"]
    return {name: parts[name] for name in ("classes", "sizes", "size", "mean", "std")}


def _wrong_origins(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs that were evaluated again and name other data of pretraining than the runs with their weights."""
    origins: dict[str | None, set[str]] = defaultdict(set)
    for run in records.values():
        if pretrained(run) and run["division"] != "trial":  # a trial has another test split
            origins[run["training"]["digest"]].add(pretrained_on(run)["fingerprint"])
    for path, record in records.items():
        expected, got = origins.get(record["training"]["digest"]), pretrained_on(record)["fingerprint"]
        if record["division"] == "open" and not pretrained(record) and expected and got not in expected:
            yield (
                f"{path}: pretrained_on.fingerprint: {got[:8]}, but the run with its training.digest was pretrained on "
                f"{', '.join(sorted(each[:8] for each in expected))}. Evaluate the run again, and remove this file."
            )


def _unfounded_rates(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs of the tuned division whose learning rate does not follow from the trials that they name."""
    trials = {record["id"]: record for record in records.values() if record["division"] == "trial"}
    for path, record in records.items():
        tuning = cells.tuning_of(record)
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
        "code": cells.majors(run) == cells.majors(trial),
    }
    return [name for name, is_equal in equal.items() if not is_equal]


def _unequal_terms(records: Mapping[Path, Record]) -> Iterator[str]:
    """Yield the runs of a table that differ from the others of it in more than the method.

    Of the runs of the newest Major version of pretraining, each is compared with one that has the most common terms.
    """
    paths = {record["id"]: path for path, record in records.items()}
    tables: dict[cells.Setting, list[Record]] = defaultdict(list)
    for cell in cells.group(record for record in records.values() if record["division"] in ONE_CONFIGURATION):
        tables[cell.setting] += cell.runs
    for runs in tables.values():
        version = _pretraining(cells.by_age(runs)[-1])
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
    return dict(cells.majors(record)).get(cells.PRETRAINING, 1)


def _terms(run: Record) -> frozenset[tuple[str, str]]:
    """Return the values in which a run must agree with all others of its table."""
    config = run["config"]
    names = _compared(config["text"], tuple(config["varied"])) - _of_views(config["text"])
    return frozenset((name, value) for name, value in canonical(config["text"]).identity.items() if name in names)


def _first_difference(run: Record, other: Record) -> tuple[str, str] | None:
    """Return the first lines in which two runs differ and may not; parameters of views may be absent from one."""
    configs = [each["config"]["text"] for each in (run, other)]
    texts = [canonical(each) for each in configs]
    varied = (*run["config"]["varied"], *other["config"]["varied"])
    in_one = texts[0].lines.keys() ^ texts[1].lines.keys()
    names = set(texts[0].counting | texts[1].counting)
    for config, text in zip(configs, texts, strict=True):
        names -= (text.lines.keys() - _compared(config, varied)) | (_of_views(config) & in_one)
    for name in sorted(names):
        values = [text.lines.get(name) for text in texts]
        if values[0] != values[1]:
            first, second = (f"no line {name}" if value is None else f"{name} = {value}" for value in values)
            return first, second
    return None


@cache  # each run is compared with one that many others are compared with too
def _compared(text: str, varied: tuple[str, ...]) -> Set[str]:
    """Return all parameters but those of the method, those varied on purpose, and the `FREE` ones."""
    configuration = canonical(text)
    endings = [f".{binding.partition('=')[0].strip().rpartition('/')[2]}" for binding in varied]
    bound = [
        name for name in configuration.lines if any(each.endswith(f".{name.rpartition('/')[2]}") for each in endings)
    ]
    return configuration.reached_without({*METHOD, *bound}) - set(FREE)


@cache
def _of_views(text: str) -> Set[str]:
    lines = canonical(text).lines
    return within(lines, references(lines, [VIEWS]))


def _contradictions(records: Collection[Record]) -> Iterator[str]:
    """Yield repeated runs that should be equal and are not, and different data sets of one name."""
    repeated, named = defaultdict(list), defaultdict(set)
    for record in records:
        machine = (*map(str, cells.platform(record).values()), str(record["cost"]["devices"]))
        code = frozenset(item for item in cells.versions_of(record).items() if item[1] != cells.FIRST_VERSION)
        run = (cells.key_of(record), record["seed"], record["division"], machine, cells.files_outside(record), code)
        repeated[run].append(record)
        if record["division"] not in ("trial", "floor"):  # trials have another test split, floors have no board
            for data in (record["dataset"], pretrained_on(record)):
                named[record["board"], data["name"]].add(data["fingerprint"])
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
    scores: dict[tuple[str | None, str], dict[str, object]] = defaultdict(dict)  # results by the id of the run
    for run in runs:
        for name, metrics in run["metrics"].items():  # floors have no digest: their configuration identifies them
            scores[run["training"]["digest"], name][run["id"]] = timeless(metrics)
    for (_, name), results in scores.items():
        first = next(iter(results.values()))
        if any(other != first for other in results.values()):
            yield (
                f"{', '.join(sorted(results))}: the same weights, code and machine have different results of {name}. "
                f"Evaluations are deterministic: find out which record is wrong."
            )
