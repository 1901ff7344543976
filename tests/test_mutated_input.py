"""Mutated gin files, settings and records are answered by the project's own errors, and within seconds.

By default a hundred cases; `pytest -m long -s tests/test_mutated_input.py` has 20,000 and prints how they ended. A case
follows from its kind and number. Seconds are those of the processor, whatever else the machine does; a case that waits,
as for a pipe, is ended after a minute.
"""

import hashlib
import json
import random
import re
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchmark.boards.plan import Suite
from benchmark.config import load as configuration
from benchmark.errors import BenchmarkError
from benchmark.experiment.stage import Stage
from benchmark.report import record as records
from benchmark.report.audit import audit
from benchmark.report.audit_one import examine
from benchmark.report.cells import load
from benchmark.report.markdown import render

ROOT = Path(__file__).parents[1]
GIN = sorted(path for path in (ROOT / "gin").rglob("*.gin") if path.parent.name != "acceptance")
METHODS = [path for path in GIN if path.parent.name == "gin"]
BOARD = ROOT / "results" / "digits"
CASES = {"gin files": 7000, "settings": 5000, "records": 8000}
LIMIT, WAIT = 5.0, 60.0  # seconds of a case: of the processor, and on the clock
LONGEST = 20_000  # characters of a message
CHECKED = 0.25  # share of the configurations that load whose stage is checked, which prices a step
TOKEN = re.compile(r"[\w.]+|\s+|.", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d.]*(?:e[+-]?\d+)?(?![\w.])")
NUMBERS = ["0", "-0.0", "-1", "1e-320", "1e308", "-1e309", "9" * 400, "9" * 5000]
NUMBERS += ["2.5", "0x10", "1_0", "٣", "007", "1j"]
LITERALS = ["None", "True", "''", "'x'", "b'x'", "()", "[]", "{}", "(1,)", "[[[]]]", "{'a': 1}", "{1: {2: 3}}", "..."]
LITERALS += ["'\\x00'", "'\\ud800'", "'a' 'b'", "nan", "(" * 30 + ")" * 30, "[" * 300, "'" + "x" * 5000 + "'", "f'{1}'"]
LITERALS += ["'../../etc/passwd'", "'timm:x'", "1 if 1 else 2", "%PATCH", "%x", "%", "@", "@@KNN", "@ViT()", "@x/ViT"]
REFERENCES = ["KNN", "ViT", "ResNet", "Images", "Budget", "AdamW", "ViewLimits", "crop_flip"]
REFERENCES += ["Pretraining", "experiment"]
ODD = ["\x00", "\ufeff", "\u2028", "\r", "\x0c", "\\\n", "\t", "ß", "#", "'''", '"', "(", ")", "=", "@", "%", "/", "."]
JSON: list[Any] = [None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 2**63, 10**400]
JSON += ["", "x", "\x00", "\ud800", "1e5", "1.0"]
JSON += [[], {}, [None], [[]], {"": None}, {"x": {"y": []}}, [1] * 1000]
JSON += ["../x", "é" * 300, "2026-13-45T99:99:99Z", "٣.٣"]


class TooSlowError(BaseException):
    """A case took too long; no `except Exception` may swallow it."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, LIMIT), signal.SIGALRM: (signal.ITIMER_REAL, WAIT)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def mutated(text: str, rng: random.Random) -> str:
    """Return a text with one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(CHANGES)(text, rng)
    return text


def flip(text: str, rng: random.Random) -> str:
    """Change one bit; bytes that are no UTF-8 any more stay, as what `surrogateescape` makes of them."""
    content = bytearray(text.encode(errors="surrogateescape"))
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content.decode(errors="surrogateescape")


def span(length: int, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(length + 1)
    return start, min(length, start + rng.choice((1, 1, 2, 5, 20, 200)))


def delete(text: str, rng: random.Random) -> str:
    start, end = span(len(text), rng)
    return text[:start] + text[end:]


def duplicate(text: str, rng: random.Random) -> str:
    start, end = span(len(text), rng)
    return text[:end] + text[start:end] * rng.choice((1, 2, 50)) + text[end:]


def insert(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(ODD) + text[place:]


def cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def swap_tokens(text: str, rng: random.Random) -> str:
    parts = TOKEN.findall(text)
    if len(parts) > 1:
        a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
        parts[a], parts[b] = parts[b], parts[a]
    return "".join(parts)


def move_line(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines)), lines.pop(rng.randrange(len(lines))))
    return "".join(lines)


def number(text: str, rng: random.Random) -> str:
    """Replace a number by one that nobody expects."""
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return text
    match = rng.choice(numbers)
    return text[: match.start()] + rng.choice(NUMBERS) + text[match.end() :]


def literal(text: str, rng: random.Random) -> str:
    """Replace the value of a line, mostly by one of another type."""
    lines = text.split("\n")
    if bound := [place for place, line in enumerate(lines) if "=" in line]:
        place = rng.choice(bound)
        lines[place] = f"{lines[place].partition('=')[0]}= {rng.choice(LITERALS)}"
    return "\n".join(lines)


def reference(text: str, rng: random.Random) -> str:
    """Replace a reference by one to another thing."""
    parts = re.split(r"(@[\w/]+)", text)
    if len(parts) > 1:
        parts[rng.randrange(1, len(parts), 2)] = f"@{rng.choice(REFERENCES)}"
    return "".join(parts)


def foreign_line(text: str, rng: random.Random) -> str:
    """Add a line of another gin file."""
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(rng.choice(GIN).read_text().split("\n")))
    return "\n".join(lines)


BYTES = (flip, delete, duplicate, insert, cut, swap_tokens, move_line)
CHANGES = (*BYTES, number, number, literal, literal, reference, reference, foreign_line)


def opened(files: Sequence[str], settings: Sequence[str], folder: Path, rng: random.Random) -> None:
    """Do what the commands do before they look at an image."""
    if "suites" in files[0]:
        suite: Suite = configuration.build(configuration.load(files, settings, root="suite", defaults={}))
        for _ in islice(suite.located(ROOT / "gin" / "suites", allow_imports=False).runs(), 2):
            pass
        return
    config = configuration.load(files, settings)
    if "experiment.pretraining = @" not in config.text:
        configuration.build(config)
        return
    stage = Stage.open(config, folder / "runs")
    if rng.random() < CHECKED:
        stage.check()


def gin_case(rng: random.Random, folder: Path) -> None:
    """Open a shipped gin file that was changed."""
    path = rng.choice(GIN)
    changed = folder / path.parent.name / "changed.gin"
    changed.parent.mkdir(exist_ok=True)
    changed.write_bytes(mutated(path.read_text(), rng).encode(errors="surrogateescape"))
    opened([str(changed)], [], folder, rng)


def setting_case(rng: random.Random, folder: Path) -> None:
    """Open a method with one or two settings: lines of gin files or of a whole configuration, changed."""
    lines = rng.choice([rng.choice(GIN).read_text(), CONFIG]).split("\n")
    settings = [mutated(rng.choice(lines).partition("#")[0], rng) for _ in range(rng.choice((1, 1, 2)))]
    opened([str(rng.choice(METHODS))], settings, folder, rng)


CONFIG = records.read(next(BOARD.glob("*mimco*.json")))["config"]["text"]


def places(part: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value in a record."""
    for name, inner in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield (*trail, name)
        yield from places(inner, (*trail, name))


def changed_value(record: Any, rng: random.Random) -> None:
    """Change, replace, remove, rename or double a value of a record."""
    has_text = isinstance(record.get("config"), dict) and "text" in record["config"]
    *parents, name = ("config", "text") if has_text and rng.random() < 0.2 else rng.choice(list(places(record)))
    parent = record
    for each in parents:
        parent = parent[each]
    old, way = parent[name], rng.random()
    if isinstance(old, str) and way < 0.5:
        parent[name] = mutated(old, rng).encode(errors="surrogateescape").decode(errors="replace")
    elif isinstance(old, int | float) and way < 0.5:
        parent[name] = rng.choice([old * 2, old + 1, -old, 10**30 + old, str(old), [old], bool(old), 1e300, 0.3])
    elif way < 0.75:
        parent[name] = rng.choice(JSON)
    elif way < 0.85:
        del parent[name]
    elif isinstance(parent, dict):
        parent[rng.choice([*parent, "x", "", "é", "a.b"])] = old
    else:
        parent.extend(parent)


def record_case(rng: random.Random, folder: Path) -> None:
    """Audit, examine and render a board with a changed record: its bytes, or values of one that is sealed anew."""
    path = rng.choice(sorted(folder.glob("digits/*.json")))
    original, changed = path.read_bytes(), path
    try:
        if rng.random() < 0.25:
            path.write_bytes(mutated(original.decode(), rng).encode(errors="surrogateescape"))
        else:
            record = json.loads(original)
            for _ in range(rng.choice((1, 1, 2))):
                changed_value(record, rng)
            path.unlink()
            changed = resealed(record, path)
        problems = audit(folder)
        if rng.random() < 0.1:
            examine(changed, folder)
        if not problems or rng.random() < 0.2:
            render(load(folder))
        if problems:
            raise BenchmarkError("\n".join(problems[:5]))
    finally:
        changed.unlink(missing_ok=True)
        path.write_bytes(original)


def resealed(record: Any, path: Path) -> Path:
    """Write a record with the id and the name that belong to its content, as a forger would, and return its path."""
    content = json.dumps({name: value for name, value in record.items() if name != "id"}, sort_keys=True)
    canonical = json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"))
    record["id"] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    lines = (f"  {json.dumps(name)}: {records.FIELD.encode(value)}" for name, value in sorted(record.items()))
    with suppress(KeyError, TypeError, AttributeError):  # where what names a file is gone
        if re.fullmatch(r"[\w.-]{1,120}", name := records.file_name(record)):
            path = path.with_name(name)
    path.write_bytes(("{\n" + ",\n".join(lines) + "\n}\n").encode(errors="surrogatepass"))
    return path


KINDS = {"gin files": gin_case, "settings": setting_case, "records": record_case}


def wrong(kind: str, numbers: range, folder: Path, ends: Counter[str]) -> Iterator[str]:
    """Yield a line for each case that ends otherwise than it should; count all of them."""
    for each in numbers:
        begin = time.process_time()
        try:
            with limited():
                KINDS[kind](random.Random(f"{kind} {each}"), folder)
        except BenchmarkError as problem:
            ends[f"{kind} refused"] += 1
            if not 0 < len(str(problem).strip()) < LONGEST:
                yield f"{kind} {each}: a message of {len(str(problem)):,} characters"
        except TooSlowError:
            yield f"{kind} {each}: over {LIMIT:g} s of the processor, or {WAIT:g} s"
        except Exception as problem:
            last = traceback.extract_tb(problem.__traceback__)[-1]
            yield f"{kind} {each}: {type(problem).__name__}: {str(problem)[:200]} ({last.filename}:{last.lineno})"
        else:
            ends[f"{kind} taken"] += 1
        ends["slowest, ms"] = max(ends["slowest, ms"], round(1000 * (time.process_time() - begin)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A board of a few records that name each other: two runs, their floors and trials, with predictions."""
    every = {record["id"]: (path, record) for path in BOARD.glob("*.json") for record in [records.read(path)]}
    methods = ("mimco", "simclr")
    chosen = [each for each in every.values() if each[1]["method"]["name"] in methods and each[1]["seed"] == 0]
    names = {name for _, record in chosen for name in record["floors"]}
    names |= {name for _, record in chosen if record["tuning"] for name in record["tuning"]["trials"]}
    for path, record in [*chosen, *(every[name] for name in names)]:
        files = (published["file"] for published in record.get("published", {}).values())
        for file in (path.name, *map(str, files)):
            (tmp_path / "digits" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(BOARD / file, tmp_path / "digits" / file)
    assert audit(tmp_path) == []
    return tmp_path


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("share", [0.005, pytest.param(1.0, marks=pytest.mark.long)])
def test_mutated_input_is_refused_in_words(share: float, folder: Path) -> None:
    """Oracle: the project's own errors; no other exception, no case over 5 s, no message over 20,000 characters."""
    ends: Counter[str] = Counter()
    lines = [line for kind, count in CASES.items() for line in wrong(kind, range(round(share * count)), folder, ends)]
    print(f"{round(share * sum(CASES.values())):,} cases: {len(lines)} foreign or slow; {dict(ends)}")
    assert not lines, "\n".join(lines)
