"""The record: one immutable JSON file per run, from which every table, plot and page is derived.

`Record` is both the type and the schema: `validate` walks its annotations. Records are append-only and shared through
git, so a file is named by its content, is never rewritten, and any change of a byte is found when it is read.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypedDict, cast

from benchmark.annotations import NonNegative as Amount
from benchmark.annotations import Range
from benchmark.conformance import checker
from benchmark.errors import BenchmarkError

FIELD = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False)
SLUG_LENGTH = 24  # three slugs, a 63-bit seed and two short hashes stay within 120 characters

Count = Annotated[int, Range(0, 2**63 - 1)]
Fraction = Annotated[float, Range(0, 1)]
Sha256 = Annotated[str, re.compile(r"[0-9a-f]{64}", re.ASCII)]
Version = Annotated[str, re.compile(r"\d+\.\d+", re.ASCII)]


class Method(TypedDict):
    """The method, its source files, and its deviations from the paper, one sentence each.

    `module_sha256` is the hash of the files where they lie outside this project (in schema 1 of all files).
    """

    name: str
    files: list[str]
    module_sha256: Sha256 | None
    deviations: list[str]


class Sizes(TypedDict):
    """Number of images in each split."""

    pretrain: Count
    train: Count
    test: Count


class Dataset(TypedDict):
    """The data: fingerprint of its content, image size in pixels, channel mean and deviation, images not readable."""

    name: str
    fingerprint: str
    classes: Count
    sizes: Sizes
    size: Count
    mean: list[float]
    std: list[float]
    unreadable: Count


class Encoder(TypedDict):
    """The encoder that is evaluated; `patch` is null for a CNN, `stem` for a transformer, `width` counts features."""

    name: str
    parameters: Count
    image_size: Count
    patch: Count | None
    stem: str | None
    width: Count


class Config(TypedDict):
    """The complete configuration and its key, which leaves out the seed and where files lie.

    `varied` are the bindings by which the run differs from others of its method on purpose, as in a sweep.
    """

    key: Annotated[str, re.compile(r"[0-9a-f]{8,64}", re.ASCII)]
    text: str
    varied: list[str]


class Tuning(TypedDict):
    """How the rate of a run was chosen: `factor` times the rate of the recipe.

    `recipe` is what a run has in common with its trials, which have themselves no `trials`. `flops` and `seconds` are
    what all of them cost, beyond the budget of the run.
    """

    recipe: Sha256
    factor: Amount
    trials: list[str]
    flops: Amount
    seconds: Amount


class _Checkout(TypedDict):
    version: str
    commit: str | None
    dirty: bool | None
    diff_sha256: Sha256 | None


class Code(_Checkout):
    """The code that ran; `commit`, `dirty` (it is not as committed) and `diff_sha256` are null outside a checkout.

    `versions` are those of pretraining and of the classes of the method and the evaluations, by name.
    """

    versions: dict[str, Version]


class CodeOfSchema1(_Checkout):
    """The code of early records, which knew it by hashes of its text."""

    protocol_sha256: Sha256
    evaluation_sha256: Sha256


class Budget(TypedDict):
    """What the run might spend, in units of its kind, and the optimiser steps that this was frozen to."""

    kind: Literal["samples", "flops", "device_seconds"]
    amount: Amount
    steps: Count
    batch_size: Count


class Cost(TypedDict):
    """What the run spent, its teacher included; `teacher_flops` is the teacher's part of `flops`.

    `train_seconds` is the wall time charged to the budget on each of `devices`; compilation and evaluation are not.
    """

    images: Count
    views: Count
    flops_per_step: Amount
    flops: Amount
    teacher_flops: Amount
    train_seconds: Amount
    data_wait_seconds: Amount
    compile_seconds: Amount
    evaluation_seconds: Amount
    joules: Amount | None
    peak_memory_bytes: Count | None
    devices: Count
    resumes: Count


class Environment(TypedDict):
    """Versions, hardware and arithmetic of the run."""

    python: str
    torch: str
    torchvision: str
    timm: str
    cuda: str | None
    cudnn: str | None
    driver: str | None
    gpu: str | None
    processor: str
    processor_flags: list[str]
    cores: Count
    threads: Count
    os: str
    precision: str
    deterministic: bool
    tf32: bool


class Training(TypedDict):
    """The end of pretraining: last loss and logs, digest of the final state, and signs of collapsed features."""

    loss: float | None
    logs: dict[str, float]
    digest: str | None
    collapsed: bool | None
    effective_rank: Amount | None
    feature_std: Amount | None


class Metrics(TypedDict):
    """One evaluation on `n` test images by `version` of its protocol, what it chose on held-out data, and warnings.

    Where it was done on several draws of its training data, `draws` has the top-1 of each, and the others are means.
    `details` are figures beside the result, for instance top-1 under other settings; none of them ranks. `curve` is
    the accuracy on held-out train images after each epoch of an evaluation that trains, and empty for others.
    """

    version: Count
    top1: Fraction
    top5: Fraction | None
    macro_f1: Fraction
    balanced_accuracy: Fraction
    n: Count
    draws: list[Fraction]
    details: dict[str, Amount]
    curve: list[Fraction]
    choices: dict[str, object]
    flags: list[str]


class Predictions(TypedDict):
    """The file with the prediction for each test image."""

    file: str
    sha256: Sha256


class Teacher(TypedDict):
    """A teacher pretrained on `share` of the budget; `key` is null for weights from elsewhere, whose share is 0."""

    key: str | None
    share: Fraction
    digest: str | None


class Checkpoint(TypedDict):
    """The file with the exported encoder."""

    file: str
    sha256: Sha256
    bytes: Count


class _Record(TypedDict):
    """What all schemas of the record of a run have in common.

    Every field is required, null only where the type says so. `created_utc` has whole seconds, such as
    2026-01-31T12:00:00Z, so that its order as text is its order in time. `board` is null for a run that is not
    published, `budget` for a floor (an encoder without pretraining) and for an encoder of others, and `floors` has the
    ids of the floors' records. A `trial` was scored on a hold-out of train in place of the test set.
    """

    id: Annotated[str, re.compile(r"[0-9a-f]{16}", re.ASCII)]
    created_utc: Annotated[str, re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)]
    status: Literal["ok", "diverged", "failed", "overtime", "budget_miss"]
    division: Literal["closed", "tuned", "open", "floor", "trial"]
    board: str | None
    method: Method
    dataset: Dataset
    encoder: Encoder
    seed: Count
    config: Config
    tuning: Tuning | None
    budget: Budget | None
    cost: Cost
    environment: Environment
    training: Training
    metrics: dict[str, Metrics]
    predictions: Predictions | None
    floors: list[str]
    teacher: Teacher | None
    checkpoint: Checkpoint | None


class Record(_Record):
    """The record of a run in its present schema; one of schema 1 has another `code`, see `store.versions_of`."""

    schema: Literal[1, 2]
    code: Code


class RecordOfSchema1(_Record):
    """The record of a run in its first schema, which is read for ever."""

    schema: Literal[1]
    code: CodeOfSchema1


SCHEMA = 2
CHECKS = {1: checker(RecordOfSchema1), SCHEMA: checker(Record)}


def seal(record: Mapping[str, object]) -> Record:
    """Return the record with its `id`: the first 16 hex digits of the SHA-256 of its canonical JSON without id."""
    content = {name: value for name, value in record.items() if name != "id"}
    try:
        return cast(Record, content | {"id": _digest(content)})
    except (TypeError, ValueError) as error:
        raise BenchmarkError(f"The record is not JSON: {error}. Numbers must be finite, keys strings.") from error


def validate(record: object) -> list[str]:
    """Return what is wrong with a sealed record, one sentence per problem; an empty list if it is valid."""
    return _inspect(record)[0]


def write(record: Record, folder: Path) -> Path:
    """Write a sealed record into the folder and return its path.

    The file appears whole or not at all, and is on disk on return. Writing the same record again changes nothing.

    Raises:
        BenchmarkError: the record is invalid, or a file of that name has other content.
    """
    problems, text = _inspect(record)
    if problems:
        raise BenchmarkError("\n  ".join(["The record is not a valid record:", *problems]))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(record)
    partial = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with partial.open("xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, never replaces a file
        _sync_folder(folder)
    except FileExistsError as error:
        if path.read_bytes() != text:
            raise BenchmarkError(
                f"{path} exists with other content, and records are never rewritten. "
                "Restore it from version control, or remove it if it was never published."
            ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read(path: Path) -> Record:
    """Read a record, certain that it is byte for byte what `write` wrote.

    Raises:
        BenchmarkError: the file cannot be read, is not a valid record, or was changed.
    """
    try:
        content = path.read_bytes()
        record: object = json.loads(content)
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read as a record: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(
            f"{path} cannot be read as a record: {error}. If it was one, restore it from version control."
        ) from error
    problems, expected = _inspect(record)
    if problems:
        head = f"{path} is not a valid record. If it was one, restore it from version control:"
        raise BenchmarkError("\n  ".join([head, *problems]))
    if content != expected:
        raise BenchmarkError(
            f"{path} was changed after it was written (expected JSON with a line for each field, sorted, and one "
            f"newline at the end). Restore it from version control."
        )
    return cast(Record, record)


def pretrained(record: Record) -> bool:
    """Return whether a record is of pretraining, and not of an encoder that was evaluated alone."""
    return record["division"] != "floor" and "\nexperiment.pretraining = None\n" not in record["config"]["text"]


def timeless(metrics: Metrics) -> dict[str, object]:
    """Return an evaluation without the figures beside it that a clock gave."""
    details = {name: value for name, value in metrics["details"].items() if not name.startswith("seconds_")}
    return {**metrics, "details": details}


def file_name(record: Record) -> str:
    """Return `<dataset>-<encoder>-<method>-s<seed>-<key>-<id>.json`: at most 120 characters of [a-z0-9._-]."""
    names = (record["dataset"]["name"], record["encoder"]["name"], record["method"]["name"])
    slugs = (re.sub(r"[^a-z0-9._]+", "-", name.lower())[:SLUG_LENGTH].strip("-._") or "unnamed" for name in names)
    return f"{'-'.join(slugs)}-s{record['seed']}-{record['config']['key'][:8]}-{record['id'][:8]}.json"


def _inspect(record: object) -> tuple[list[str], bytes]:
    """Return what is wrong with a record and, where nothing is, the bytes of its file."""
    schema = record.get("schema", SCHEMA) if isinstance(record, dict) else SCHEMA
    _, found = CHECKS[schema if schema in CHECKS else SCHEMA](record)
    if problems := [f"record{place}: {text}" for place, text in found]:
        return problems, b""
    valid = cast(Record, record)
    problems = list(_contradictions(valid))
    try:
        contents = _render(valid)
        expected = _digest({name: value for name, value in valid.items() if name != "id"})
    except (TypeError, ValueError, RecursionError) as error:
        return [*problems, f"record: not JSON: {error}"], b""
    if valid["id"] != expected:
        problems.append(f"record.id: expected {expected} from the content, got {valid['id']}")
    return problems, contents


def _digest(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _render(record: Record) -> bytes:
    """Return the bytes of a file: a line for each field, which people can read and thousands are written fast."""
    lines = [f'  "{name}": {FIELD.encode(value)}' for name, value in sorted(record.items())]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _contradictions(record: Record) -> Iterator[str]:
    """Yield what the types of the fields cannot say."""
    if record["budget"] is None and record["division"] not in ("floor", "open"):
        yield "record.budget: expected a budget; only floors and encoders from elsewhere (division open) have none"
    if record["budget"] is not None and record["division"] == "floor":
        yield "record.budget: expected null for a floor"
    tuning = record["tuning"]
    if (tuning is not None) != (record["division"] in ("tuned", "trial")):
        yield f"record.tuning: expected it for the divisions tuned and trial alone, got {record['division']}"
    elif tuning is not None and bool(tuning["trials"]) != (record["division"] == "tuned"):
        yield "record.tuning.trials: expected some for the division tuned, none for a trial"
    for name, values in (("mean", record["dataset"]["mean"]), ("std", record["dataset"]["std"])):
        if len(values) != 3:
            yield f"record.dataset.{name}: expected 3 numbers, got {len(values)}"
