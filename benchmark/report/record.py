"""The record: one immutable JSON file per run, from which every table, plot and page is derived.

`Record`, with its fields in `schema` and their parts in `fields`, is both the type and the schema: `read` and `write`
check its annotations. Records are shared through git, so a file is named by its content, is never rewritten, and any
changed byte is found on reading.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from benchmark.annotations import checker
from benchmark.errors import BenchmarkError
from benchmark.report.fields import Code, Metrics, Pretrained
from benchmark.report.proofs import Proofs
from benchmark.report.schema import Common
from benchmark.report.schema_1 import RecordOfSchema1
from benchmark.storage.files import write_once

FIELD = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False, check_circular=False)
CANONICAL = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"), check_circular=False)
SHOWN = 20  # problems of a record in a message
LONGEST = 2000  # characters of each
RESTORE = (
    "If it was one, restore it from version control; one of your own runs, with no copy there, is made again from what "
    "was trained: remove it and give the command of the run"
)
SLUG_LENGTH = 24  # three slugs, a 63-bit seed and two short hashes stay within 120 characters


class Record(Common):
    """The record of a run in the present schema; one of schema 1 has another `code`, see `cells.versions_of`."""

    schema: Literal[1, 2]
    code: Code


SCHEMA = 2
CHECKS = {1: checker(RecordOfSchema1), SCHEMA: checker(Record)}


def seal(record: Mapping[str, object]) -> Record:
    """Return the record with its `id`: the first 16 hex digits of the SHA-256 of its canonical JSON without id."""
    content = {name: value for name, value in record.items() if name != "id"}
    try:
        return cast(Record, content | {"id": _digest(content)})
    except (TypeError, ValueError) as error:
        raise BenchmarkError(f"The record is not JSON: {error}. Numbers must be finite, and keys strings.") from error


def validate(record: object) -> list[str]:
    """Return what is wrong with a sealed record, one sentence per problem."""
    return _inspect(record)[0]


def write(record: Record, folder: Path) -> Path:
    """Write a sealed record into the folder and return its path.

    The file appears complete or not at all, and is on disk on return. Writing the same record again changes nothing.

    Raises:
        BenchmarkError: the record is invalid, or a file of that name has other content.
    """
    problems, content = _inspect(record)
    if problems:
        raise BenchmarkError(_listed("The record is not a valid record:", problems))
    return write_once(folder / file_name(record), content)


def read(path: Path, proofs: Proofs | None = None) -> Record:
    """Read a record, which is byte for byte what `write` wrote; one of the `proofs` is not examined, and others enter.

    Raises:
        BenchmarkError: the file cannot be read, is not a valid record, or was changed.
    """
    try:
        content = path.read_bytes()
        record: object = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} cannot be read as a record: {error}. {RESTORE}.") from error
    if proofs is not None and content in proofs:
        return cast(Record, record)
    problems, expected = _inspect(record)
    if problems:
        raise BenchmarkError(_listed(f"{path} is not a valid record. {RESTORE}:", problems))
    if content != expected:
        raise BenchmarkError(
            f"{path} was changed after it was written (expected JSON with a line for each field, sorted, and one "
            f"newline at the end). {RESTORE}."
        )
    if proofs is not None:
        proofs.add(content)
    return cast(Record, record)


def pretrained(record: Record) -> bool:
    """Return whether a run pretrained its encoder, and did not only evaluate one."""
    return record["division"] != "floor" and "\nexperiment.pretraining = None\n" not in record["config"]["text"]


def pretrained_on(record: Record) -> Pretrained:
    """Return the data on which the encoder of a run was pretrained, its own where the record names no other."""
    data = record["dataset"]
    own: Pretrained = {
        "name": data["name"],
        "fingerprint": data["fingerprint"],
        "size": data["size"],
        "images": data["sizes"]["pretrain"],
    }
    return record.get("pretrained_on", own)


def timeless(metrics: Metrics) -> dict[str, object]:
    """Return the metrics of an evaluation without the measured times in their details."""
    details = {name: value for name, value in metrics["details"].items() if not name.startswith("seconds_")}
    return {**metrics, "details": details}


def file_name(record: Record) -> str:
    """Return `<dataset>-<encoder>-<method>-s<seed>-<key>-<id>.json`: at most 120 characters of [a-z0-9._-]."""
    return f"{stem(record)}-{record['id'][:8]}.json"


def stem(record: Record) -> str:
    """Return how the names of a record and of the files that are published with it begin."""
    names = (record["dataset"]["name"], record["encoder"]["name"], record["method"]["name"])
    slugs = (re.sub(r"[^a-z0-9._]+", "-", name.lower())[:SLUG_LENGTH].strip("-._") or "unnamed" for name in names)
    return f"{'-'.join(slugs)}-s{record['seed']}-{record['config']['key'][:8]}"


def _listed(head: str, problems: Sequence[str]) -> str:
    """Return the first problems below a head, each cut to a length that a terminal can show."""
    more = [f"and {len(problems) - SHOWN:,} more"] * (len(problems) > SHOWN)
    return "\n  ".join([head, *(problem[:LONGEST] for problem in problems[:SHOWN]), *more])


def _inspect(record: object) -> tuple[list[str], bytes]:
    """Return what is wrong with a record and, if nothing is, the bytes of its file."""
    schema = record.get("schema") if isinstance(record, dict) else SCHEMA
    _, problems_by_place = CHECKS[schema if type(schema) is int and schema in CHECKS else SCHEMA](record)
    if problems := [f"record{place}: {text}" for place, text in problems_by_place]:
        return problems, b""
    valid = cast(Record, record)
    problems = list(_contradictions(valid))
    try:
        # A line for each field: people can read it, and thousands are written fast.
        lines = [f'  "{name}": {FIELD.encode(value)}' for name, value in sorted(valid.items())]
        content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
        expected = _digest({name: value for name, value in valid.items() if name != "id"})
    except (TypeError, ValueError, RecursionError) as error:
        return [*problems, f"record: not JSON: {error}"], b""
    if valid["id"] != expected:
        problems.append(f"record.id: expected {expected} from the content, got {valid['id']}")
    return problems, content


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(CANONICAL.encode(content).encode()).hexdigest()[:16]


def _contradictions(record: Record) -> Iterator[str]:
    """Yield the problems that the types of the fields cannot express."""
    budget, division, tuning = record["budget"], record["division"], record["tuning"]
    if budget is None and division not in ("floor", "open"):
        yield "record.budget: expected a budget; only floors and encoders from elsewhere (division open) have none"
    if budget is not None and division == "floor":
        yield "record.budget: expected null for a floor"
    if (tuning is not None) != (division in ("tuned", "trial")):
        yield f"record.tuning: expected only for the divisions tuned and trial, got {division}"
    elif tuning is not None and bool(tuning["trials"]) != (division == "tuned"):
        yield "record.tuning.trials: expected some for the division tuned, none for a trial"
    if origin := record.get("pretrained_on"):
        if division != "open" or budget is None or pretrained(record):
            yield f"record.pretrained_on: expected only for a run that was evaluated again, got {origin['name']}"
        if origin["fingerprint"] == record["dataset"]["fingerprint"]:
            yield "record.pretrained_on.fingerprint: expected other data than record.dataset"
    inputs = record["encoder"].get("inputs")
    for place, stated in (("dataset", record["dataset"]), ("encoder.inputs", inputs)):
        for name, values in (("mean", stated["mean"]), ("std", stated["std"])) if stated else ():
            if len(values) != 3:
                yield f"record.{place}.{name}: expected 3 numbers, got {len(values)}"
