"""Records: complete, finite, content-addressed, append-only, and tamper-evident."""

import copy
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report_records import EXAMPLE, make, tuning

from benchmark.errors import BenchmarkError
from benchmark.report.record import Record, file_name, read, seal, stem, validate, write


def required_fields(kind: Any = Record, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every field that the schema requires, as its path in the example and whether it may be null."""
    for name, annotation in get_type_hints(kind).items():
        here = (*path, name)
        nullable = type(None) in get_args(annotation)
        if name in kind.__required_keys__:
            yield here, nullable
        inner = get_args(annotation)[0] if nullable else annotation
        if is_typeddict(inner):
            yield from required_fields(inner, here)
        elif get_origin(inner) is dict and is_typeddict(get_args(inner)[1]):
            yield from required_fields(get_args(inner)[1], (*here, "linear"))


FIELDS = list(required_fields())


def with_value(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The sealed example with the field set to the value, or removed if the value is `...`."""
    curve = {"bank": 80, "queries": 20, "points": [{"step": 200, "knn": 0.5}]}
    start = {"name": "simclr", "digest": "0" * 64, "layout": "run", "positions": None}
    inputs = {"mean": [0.5] * 3, "std": [0.2] * 3}
    files = {name: {"file": f"{name}/a.npz", "sha256": "0" * 64, "bytes": 1} for name in ("predictions", "encoders")}
    published = {"predictions": files["predictions"], "encoder": files["encoders"]}
    data = {"name": "a", "fingerprint": "0", "size": 16, "images": 9}
    optional = {"training__curve": curve, "start": start, "encoder__inputs": inputs, "published": published}
    if path[0] == "pretrained_on":  # which a run of this division may not have
        optional["pretrained_on"] = data
    example = make(division="tuned", tuning=tuning(0.5, "0" * 16), **optional)
    record: dict[str, Any] = copy.deepcopy(dict(example))
    place = record
    for name in path[:-1]:
        place = place[name]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return record


def test_schema_is_walked_completely() -> None:
    """Oracle: fields counted by hand: at the top, then method, dataset, sizes, encoder, config and so on.

    The example has no curve, as records from before there was one, no inputs, no start, no data
    of its own to pretrain on and no published files.
    """
    assert len(FIELDS) == 22 + sum([4, 8, 3, 6, 3, 5, 5, 4, 13, 16, 6, 3, 11, 2, 3, 3, 2, 4, 3, 3, 4])
    assert validate(make()) == []


def test_missing_field_is_found() -> None:
    """Oracle: the field that was removed."""
    for path, _ in FIELDS:
        assert f"record.{'.'.join(path)}: missing" in validate(with_value(path, ...))


def test_null_only_where_listed() -> None:
    """Oracle: the annotation; budget and tuning are null in other divisions, so the example's must be refused too."""
    for path, nullable in FIELDS:
        record = with_value(path, None)
        problems = validate(record if path == ("id",) else seal(record))
        assert (problems == []) == (nullable and path not in [("budget",), ("tuning",)]), path
        assert all(".".join(path) in problem for problem in problems)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 3),
        ("schema", True),
        ("status", "fine"),
        ("created_utc", "2026-01-31 12:00:00"),
        ("seed", True),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", 2**63),
        ("config.key", "../../etc"),
        ("config.key", "abc"),
        ("dataset.mean", [0.5, 0.5]),
        ("dataset.mean", (0.5, 0.5, 0.5)),
        ("encoder.inputs.std", [0.5, 0.5]),
        ("start.digest", "0"),
        ("pretrained_on.images", 0),
        ("published.predictions.file", "../README.md"),
        ("published.encoder.file", "encoders/../a"),
        ("published.encoder.sha256", "0"),
        ("dataset.std", [0.5, 0.5, "0.5"]),
        ("method.deviations", "none"),
        ("method.module_sha256", "A" * 64),
        ("metrics", []),
        ("metrics.linear", 0.9),
        ("metrics.linear.top1", 90.0),
        ("metrics.linear.macro_f1", -0.1),
        ("metrics.linear.choices", []),
        ("cost.flops", "1e12"),
        ("cost.flops", True),
        ("cost.train_seconds", -1.0),
        ("environment.tf32", 0),
        ("training.logs", {"loss": float("nan")}),
        ("training.loss", 10**400),
        ("training.curve", None),
        ("training.curve.points", [{"step": 200, "knn": 50.0}]),
        ("training.curve.points", [{"step": 200}]),
        ("division", "floor"),
    ],
)
def test_wrong_value_is_found(path: str, value: Any) -> None:
    """Oracle: the field that was changed, which the problem must name."""
    problems = validate(with_value(tuple(path.split(".")), value))
    assert any(("record.budget" if path == "division" else path) in problem for problem in problems[:1])


def test_other_data_of_pretraining_only_where_a_run_was_evaluated_again() -> None:
    """Oracle: the text that says whether a run pretrained, its division, and whether it had a budget."""
    data = {"name": "a", "fingerprint": "0", "size": 16, "images": 9}
    again: dict[str, Any] = {"division": "open", "pretrained_on": data}
    again["config__text"] = "experiment.seed = 0\nexperiment.pretraining = None\n"
    assert validate(make(**again)) == []
    for wrong in ({"division": "closed"}, {"budget": None}, {"config__text": "experiment.seed = 0\n"}):
        assert any("record.pretrained_on" in problem for problem in validate(make(**again | wrong)))
    same = data | {"fingerprint": make()["dataset"]["fingerprint"]}
    assert any("expected other data" in problem for problem in validate(make(**again | {"pretrained_on": same})))


def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    """Oracle: half of a surrogate pair, which JSON can escape and UTF-8 cannot write; a schema that is no number."""
    record = seal(with_value(("method", "name"), "\ud800"))
    assert "surrogates not allowed" in validate(record)[0]
    with pytest.raises(BenchmarkError, match="surrogates not allowed"):
        write(record, tmp_path)
    (tmp_path / "escaped.json").write_text(json.dumps(record))
    with pytest.raises(BenchmarkError, match="surrogates not allowed"):
        read(tmp_path / "escaped.json")
    for schema in ([], {}, "2", True, None, 3):
        assert "record.schema" in validate(with_value(("schema",), schema))[0]


def test_a_message_about_much_is_short(tmp_path: Path) -> None:
    """Oracle: the length of the answer to megabytes: of values of another type, of long values and of long names."""
    for value in ([1] * 100_000, "x" * 10_000_000, {"y" * 10_000_000: 1}):
        (tmp_path / "much.json").write_text(json.dumps(with_value(("metrics", "linear", "flags"), value)))
        with pytest.raises(BenchmarkError, match=r"record\.metrics\.linear\.flags") as problem:
            read(tmp_path / "much.json")
        assert len(str(problem.value)) < 10_000
    (tmp_path / "much.json").write_text(json.dumps(EXAMPLE | {"y" * 10_000_000: 1}))
    with pytest.raises(BenchmarkError, match="yyy") as problem:
        read(tmp_path / "much.json")
    assert len(str(problem.value)) < 50_000


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("path", ["training.loss", "metrics.linear.top1", "metrics.linear.choices"])
def test_numbers_are_finite(number: float, path: str, tmp_path: Path) -> None:
    """Oracle: JSON, which has no such numbers; neither sealing nor writing lets them pass."""
    record = with_value(tuple(path.split(".")), {"l2": number} if path.endswith("choices") else number)
    with pytest.raises(BenchmarkError, match="not JSON"):
        seal(record)
    with pytest.raises(BenchmarkError, match="not a valid record"):
        write(record, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_unknown_field_is_found() -> None:
    """Oracle: the schema, which is closed: a further field would be a further version."""
    assert validate(seal(with_value(("cost", "dollars"), 1.0))) == ["record.cost.dollars: unknown field"]
    assert validate([]) == ["record: expected an object, got []"]


def test_id_is_a_hash_of_the_content() -> None:
    """Oracle: SHA-256 of compact, key-sorted JSON, computed here."""
    canonical = json.dumps(EXAMPLE, sort_keys=True, separators=(",", ":")).encode()
    record = seal(EXAMPLE)
    assert record["id"] == hashlib.sha256(canonical).hexdigest()[:16]
    assert seal(record) == record
    assert "record.id: expected" in validate({**record, "seed": 1})[0]


def test_round_trip(tmp_path: Path) -> None:
    """Oracle: the record that was written; the file is UTF-8 with a sorted line for each field."""
    record = make(method__deviations=["Größe, 大きさ, 1e-3 ± 0"], cost__flops=0.1 + 0.2)
    path = write(record, tmp_path / "new" / "board")
    assert read(path) == record
    text = path.read_text(encoding="utf-8")
    fields = [f'  "{name}": {json.dumps(record[name], sort_keys=True, ensure_ascii=False)}' for name in sorted(record)]
    assert text.splitlines() == ["{", *(line + "," for line in fields[:-1]), fields[-1], "}"]
    assert text.endswith("}\n")
    assert path.name == f"digits-vit_micro-alpha-s0-01234567-{record['id'][:8]}.json"


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    """Oracle: the change itself, at every eleventh byte, in values, names and white space alike."""
    path = write(make(), tmp_path)
    content = path.read_bytes()
    for position in range(0, len(content), 11):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(BenchmarkError, match=re.escape(path.name)):
            read(path)
    for changed in (content[:-1], content + b"\n", content.replace(b"\n", b"\r\n"), b"", b"[" * 100_000):
        path.write_bytes(changed)
        with pytest.raises(BenchmarkError, match=re.escape(path.name)):
            read(path)


def test_records_are_append_only(tmp_path: Path) -> None:
    """Oracle: the bytes already there, which a second write leaves as they are."""
    record = make()
    path = write(record, tmp_path)
    assert write(record, tmp_path) == path
    path.write_text("other")
    with pytest.raises(BenchmarkError, match="exists with other content"):
        write(record, tmp_path)
    assert path.read_text() == "other"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the empty folder before; the file appears only once it is whole and on disk."""

    def full(descriptor: int) -> None:
        assert list(tmp_path.glob("*.json")) == []
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(make(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_writers_of_one_record(tmp_path: Path) -> None:
    """Oracle: one file, equal to the record, however many write it at once."""
    record = make()
    threads = [threading.Thread(target=write, args=(record, tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read(path) for path in tmp_path.iterdir()] == [record]


@given(dataset=st.text(), encoder=st.text(), method=st.text(max_size=200), seed=st.integers(0, 2**63 - 1))
@example(dataset="x" * 200, encoder="y" * 200, method="z" * 200, seed=2**63 - 1)
def test_file_names_are_harmless(dataset: str, encoder: str, method: str, seed: int) -> None:
    """Oracle: the promised alphabet and length, for any name."""
    record = make(seed=seed)
    record["dataset"]["name"], record["encoder"]["name"], record["method"]["name"] = dataset, encoder, method
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,114}\.json", file_name(record))
    assert file_name(record).startswith(f"{stem(record)}-")


def test_hostile_method_name(tmp_path: Path) -> None:
    """Oracle: the slug by hand; nothing is written outside the folder."""
    path = write(make(method__name="../<script>alert(1)</script>|"), tmp_path / "results")
    assert path.name.startswith("digits-vit_micro-script-alert-1-script-s0-")
    assert [file.parent for file in tmp_path.rglob("*.json")] == [tmp_path / "results"]
