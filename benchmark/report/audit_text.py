"""The fields of one record against the text of its configuration, and against the classes that the text names.

What a text does not state, and classes from outside this project, are not compared.
"""

import ast
import math
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import benchmark
from benchmark.report.cells import (
    FIRST_VERSION,
    PRETRAINING,
    RANDOM_INIT,
    RAW_PIXELS,
    files_outside,
    key_of_text,
    major,
    tuning_key,
    versions_of,
)
from benchmark.report.code import HERE, VersionedClass, classes, versions, with_bases
from benchmark.report.identity import ABSOLUTE, canonical
from benchmark.report.record import Record, pretrained

COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?", re.ASCII)
DEFAULT_VIEWS = 2  # of a method that states no `n_views`
CHOSEN = ("k", "temperature", "draws", "fraction")  # choices of an evaluation that are parameters of it
OPTIONAL = ("KNNProjection",)  # evaluations that some encoders do not have


def wrong_text(record: Record) -> Iterator[str]:
    """Yield the fields that contradict the configuration of their record."""
    text = record["config"]["text"]
    for line in filter(ABSOLUTE.search, text.splitlines() if ABSOLUTE.search(text) else ()):
        yield (
            f"config.text has an absolute path: {line}. Publish the run again, by the command that made it and "
            f"--publish, which leaves it out, and remove this file."
        )
    lines = canonical(text).lines
    key, expected = record["config"]["key"], key_of_text(record)
    if record["schema"] > 1 and expected not in (None, key):
        yield f"config.key: expected {expected} from config.text and dataset.fingerprint, got {key}."
    for field, value, stated in (*_experiment(record, lines), *(_stage(record, lines) if pretrained(record) else ())):
        if stated is not None and value != stated:
            yield f"{field}: {value!r}, but config.text says {stated!r}."
    is_trial = _value(lines, "experiment.is_trial")
    if is_trial is not None and is_trial != (record["division"] == "trial"):
        yield f"division: {record['division']}, but config.text says experiment.is_trial = {is_trial}."
    if pretrained(record):
        yield from _wrong_origin(record, lines)
        yield from _wrong_varied(record, lines)
        yield from _wrong_method(record, lines)
    yield from _wrong_evaluations(record, lines)
    yield from _wrong_code(record)


def _experiment(record: Record, lines: Mapping[str, str]) -> Iterator[tuple[str, object, object]]:
    """Yield the fields that a text states for any record: name, value, and what the text says, None for nothing."""
    data = _named(lines, "experiment.data")
    of_seed_0 = record["division"] == "floor" and record["method"]["name"] != RANDOM_INIT
    yield "seed", record["seed"], 0 if of_seed_0 else _value(lines, "experiment.seed")
    yield "dataset.name", record["dataset"]["name"], _value(lines, f"{data}.name")
    yield "dataset.size", record["dataset"]["size"], _value(lines, f"{data}.size")
    yield "encoder.image_size", record["encoder"]["image_size"], _value(lines, f"{data}.size")


def _stage(record: Record, lines: Mapping[str, str]) -> Iterator[tuple[str, object, object]]:
    """Yield the fields that a text states for a run that was pretrained."""
    stage, budget, tuning = _named(lines, "experiment.pretraining"), record["budget"], record["tuning"]
    yield "method.name", record["method"]["name"], _value(lines, f"{stage}.name")
    yield "environment.precision", record["environment"]["precision"], _value(lines, f"{stage}.precision")
    if budget:
        terms = _named(lines, "experiment.budget")
        amount, share = _number(lines, f"{terms}.amount"), _number(lines, "experiment.budget_share")
        yield "budget.kind", budget["kind"], _value(lines, f"{terms}.kind")
        yield "budget.amount", budget["amount"], None if amount is None else amount * (1.0 if share is None else share)
        yield "budget.batch_size", budget["batch_size"], _value(lines, f"{stage}.batch_size")
    if tuning:
        yield "tuning.factor", tuning["factor"], _value(lines, "experiment.rate_factor")
        yield "tuning.recipe", tuning["recipe"], tuning_key(record["config"]["text"]) if record["schema"] > 1 else None
    if ".compiled = True\n" not in record["config"]["text"]:
        yield "cost.compile_seconds", record["cost"]["compile_seconds"], 0.0


def _wrong_origin(record: Record, lines: Mapping[str, str]) -> Iterator[str]:
    """Yield where the teacher and the weights from which the run went on are not those of its text."""
    teacher = record["teacher"]
    stated = {
        name: lines.get(f"experiment.{name}", "None") != "None" for name in ("init", "teacher_weights", "teacher")
    }
    if ("start" in record) != stated["init"]:
        yield f"start: config.text says experiment.init = {lines.get('experiment.init')}."
    if (teacher is not None) != (stated["teacher"] or stated["teacher_weights"]):
        yield f"teacher: config.text says experiment.teacher = {lines.get('experiment.teacher')}."
    elif teacher and teacher["key"] and _value(lines, "experiment.teacher_share") not in (None, teacher["share"]):
        yield f"teacher.share: {teacher['share']}, but config.text says {lines.get('experiment.teacher_share')}."
    if record["division"] in ("closed", "tuned") and (stated["init"] or stated["teacher_weights"]):
        yield f"division: {record['division']}, but its weights come from elsewhere: expected open."


def _wrong_varied(record: Record, lines: Mapping[str, str]) -> Iterator[str]:
    for binding in record["config"]["varied"]:
        name, _, value = (part.strip() for part in binding.partition("="))
        ending = f".{name.rpartition('/')[2]}"
        bound = [line for parameter, line in lines.items() if ending.endswith(f".{parameter.rpartition('/')[2]}")]
        values = [_literal(each) for each in bound]
        if values and "auto" not in value and _literal(value) not in values:
            yield f"config.varied: {binding}, but config.text says {bound[0]}."


def _wrong_method(record: Record, lines: Mapping[str, str]) -> Iterator[str]:
    """Yield where files, versions, views and labels are not those of the method that the text names."""
    method, cost, budget = record["method"], record["cost"], record["budget"]
    imports = re.findall(r"^import ([\w.]+)$", record["config"]["text"], re.MULTILINE)
    files = {f"{module.replace('.', '/')}.py" for module in imports}
    if imports and all(module.startswith("baselines.") for module in imports) and files.isdisjoint(method["files"]):
        yield f"method.files: {', '.join(method['files'])}, but config.text imports {', '.join(imports)}."
    are_ours = all(re.search(r"[/\\]", file) for file in method["files"])
    if record["schema"] > 1 and (method["module_sha256"] is None) != are_ours:
        yield "method.module_sha256: expected the hash of the files outside this project (method.files), if any."
    names = [_class(lines, name) for name in ("experiment.pretraining", "experiment.teacher")]
    kinds = [with_bases(name) for name in names if name]
    if record["schema"] > 1 and kinds and kinds[0] and names[0] not in versions_of(record):
        yield f"code.versions: {names[0]} is missing, which trained."
    supervised = method.get("supervised", False)
    takes_labels = any("Labelled" in each.bases for kind in kinds for each in kind.values())
    if all(kinds) and kinds and supervised != takes_labels:
        yield f"method.supervised: {supervised}, but that is not what {names[0]} is."
    if budget is None or not cost["images"]:
        return
    of_teacher = cost["images"] - budget["steps"] * budget["batch_size"] if cost["teacher_flops"] else 0
    views = [_views(record, kind) for kind in kinds]
    if len(views) == 1 + bool(of_teacher) and None not in views:
        images = cost["images"] - of_teacher, of_teacher
        expected = sum(n * each for n, each in zip(images, views, strict=False) if each)
        if cost["views"] != expected:
            yield f"cost.views: expected {expected:,} from images and {names[0]}, got {cost['views']:,}."
    elif cost["views"] < cost["images"] or (not of_teacher and cost["views"] % cost["images"]):
        yield f"cost.views: {cost['views']:,} are not a whole number for each of {cost['images']:,} images."


def _wrong_evaluations(record: Record, lines: Mapping[str, str]) -> Iterator[str]:
    """Yield where versions, settings and number of the evaluations are not those that the text names."""
    evaluated, recorded = {}, versions_of(record)
    for reference in re.findall(r"@([\w./]+)", lines.get("experiment.evaluations", "")):
        kind, fraction = reference.rpartition("/")[2].rpartition(".")[2], _number(lines, f"{reference}.fraction")
        known = classes(HERE.parent).get(kind)
        if known is None or not known.file.startswith("benchmark/evals/"):
            continue
        percent = "" if fraction is None else f"{100 * fraction:g}"
        alike = {f"{kind.lower()}{percent}", f"{kind.lower()}{lines.get(f'{reference}.bank', '')}"}
        names = [name for name in record["metrics"] if name.replace("_", "") in alike]
        evaluated.update(dict.fromkeys(names, (reference, kind)))
        if record["schema"] > 1 and kind not in recorded:
            yield f"code.versions: {kind} is missing, which evaluated."
        may_lack = record["status"] == "failed" or record["method"]["name"] == RAW_PIXELS or kind in OPTIONAL
        if not names and not may_lack:
            yield f"metrics: {reference} is missing, which config.text says."
    for name, (reference, kind) in evaluated.items():
        result = record["metrics"][name]
        for choice in CHOSEN:
            stated = _value(lines, f"{reference}.{choice}")
            if stated is not None and result["choices"].get(choice, stated) != stated:
                yield f"metrics.{name}.choices: {choice} = {result['choices'][choice]}, but config.text says {stated}."
        if kind in recorded and result["version"] != major(recorded[kind]):
            yield f"metrics.{name}.version: {result['version']}, but code.versions says {recorded[kind]}."


def _wrong_code(record: Record) -> Iterator[str]:
    code, recorded, present = record["code"], versions_of(record), versions()
    if code["commit"] is not None and not COMMIT.fullmatch(code["commit"]):
        yield f"code.commit: {code['commit']} is none."
    if bool(code["dirty"]) != (code["diff_sha256"] is not None):
        yield f"code.dirty: {code['dirty']}, and code.diff_sha256 is {code['diff_sha256']}."
    if record["schema"] > 1 and PRETRAINING not in recorded:
        yield f"code.versions: {PRETRAINING} is missing."
    newer = {"code.version": (code["version"], benchmark.__version__)}
    if files_outside(record) is None:
        newer |= {f"code.versions.{name}": (recorded[name], present[name]) for name in recorded.keys() & present.keys()}
    for field, (then, now) in sorted(newer.items()):
        if _numbers(then) > _numbers(now):
            yield f"{field}: {then}, but the newest here is {now}. If the record is of newer code, check it with that."


def _views(record: Record, kind: Mapping[str, VersionedClass]) -> int | None:
    """Return the views of a method for each image, None where its recipe or another code decides."""
    if not kind or any(
        major(versions_of(record).get(name, FIRST_VERSION)) != major(each.version) for name, each in kind.items()
    ):
        return None
    return next((each.n_views for each in kind.values() if each.n_views is not None), DEFAULT_VIEWS) or None


def _named(lines: Mapping[str, str], parameter: str) -> str:
    """Return the configurable that a parameter refers to; empty where it refers to none."""
    value = lines.get(parameter, "")
    return value[1:] if value.startswith("@") else ""


def _class(lines: Mapping[str, str], stage: str) -> str:
    """Return the name of the class of a stage's method; empty where there is no such stage."""
    return _named(lines, f"{_named(lines, stage)}.method").rpartition("/")[2].rpartition(".")[2]


def _value(lines: Mapping[str, str], parameter: str) -> Any:
    """Return the value of a parameter; None where the text has none."""
    return _literal(lines.get(parameter, "None"))


def _number(lines: Mapping[str, str], parameter: str) -> float | None:
    """Return the value of a parameter if that is a number; infinity for one that no float holds."""
    value = _value(lines, parameter)
    if not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else math.inf


@cache
def _literal(text: str) -> Any:
    """Return the value that a text writes, or the text where that is no literal, such as a reference."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version)]
