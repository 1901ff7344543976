"""Annotations of parameters, such as ranges, and checks of values against annotations.

Gin checks no types: `epochs = 'ten'` would fail hours later, far from its line. A configuration holds literals and
references to factories, and a record holds JSON, so all values are checked before anything is built or used.
"""

import collections.abc
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

AUTO = "auto"
SHOWN = 200  # characters of a value in a message

Location = Annotated[str, "location"]
"""Annotates a parameter that holds a place, such as a path: it never changes what a run computes."""

Residence = Annotated[bool, "location"]
"""Annotates a parameter that says whether something is in memory: it never changes what a run computes either."""


@dataclass(frozen=True)
class Range:
    """Annotates finite numbers from `least` to `most`; `above` excludes `least` itself, and `below` excludes `most`."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        low = number > self.least if self.above else number >= self.least
        return low and (number < self.most if self.below or self.most == math.inf else number <= self.most)

    @property
    def floats(self) -> tuple[float, float]:
        """The least and the greatest float of the range."""
        low = math.nextafter(self.least, math.inf) if self.above else self.least
        high = math.nextafter(self.most, -math.inf) if self.below else self.most
        return max(low, -sys.float_info.max), min(high, sys.float_info.max)

    def __str__(self) -> str:
        low = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        high = f"below {self.most:g}" if self.below else f"at most {self.most:g}"
        return low if self.most == math.inf else f"{low} and {high}"


Readings = Annotated[int, "location", Range(0)]
"""Annotates how often a run is measured on its way: it never changes what a run computes either."""

Kept = Annotated[bool, "location"]
"""Annotates whether a run keeps more files: it never changes what a run computes either."""

Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, above=True)]
Fraction = Annotated[float, Range(0, 1, below=True)]
Probability = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]


@dataclass(frozen=True)
class Decided:
    """Annotates a parameter that may be bound to 'auto', which the configuration replaces by what `by` returns."""

    by: Callable[[], str]

    def __str__(self) -> str:
        return f"or {AUTO!r}"


def without_auto(value: Any, hint: Any) -> Any:
    """Return what replaces 'auto' if the annotation has `Decided`; any other value unchanged."""
    notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Decided)]
    return notes[0].by() if notes and value == AUTO else value


def is_location(hint: Any) -> bool:
    """Return whether the annotation, or a part of it such as `Location | None`, is a `Location` or a `Residence`."""
    return "location" in getattr(hint, "__metadata__", ()) or any(map(is_location, get_args(hint)))


Problems = Sequence[tuple[str, str]]
Check = Callable[[Any], tuple[Any, Problems]]


@dataclass(frozen=True, repr=False)
class Reference:
    """A factory named in a configuration: `@scope/name` or `@name`."""

    scope: str
    name: str
    called: bool = False

    def __repr__(self) -> str:
        return "@" + (f"{self.scope}/" if self.scope else "") + self.name + ("()" if self.called else "")


def checker(hint: Any) -> Check:
    """Return the function that checks a value against the annotation `hint`.

    It returns the value, where an int becomes a float if `hint` asks for one, and its problems, as pairs of a place in
    it such as `.cost.images` and a sentence. A typed dictionary has exactly its fields, and may lack those that are
    `NotRequired`; text may have a note with a pattern, `Annotated[str, re.compile(...)]`. Annotations that are not
    about literals, references or JSON (type variables, string leftovers) accept anything.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, object):
        return lambda value: (value, ())
    expected = describe(hint)
    if is_typeddict(hint):
        kinds = get_type_hints(hint, include_extras=True)
        return partial(_check_object, {name: checker(kind) for name, kind in kinds.items()}, hint.__required_keys__)
    if origin is NotRequired:
        return checker(arguments[0])
    if origin is Annotated:
        return _with_notes(expected, arguments[0], hint.__metadata__)
    if origin in (Union, types.UnionType):
        takes_none = type(None) in arguments
        return partial(_check_union, expected, [checker(argument) for argument in arguments], takes_none)
    if origin is dict:
        return partial(_check_mapping, expected, checker(arguments[0]), checker(arguments[1]))
    if origin in (list, tuple):
        length = None if origin is list or arguments[-1:] == (...,) else len(arguments)
        inner = [checker(argument) for argument in arguments if argument is not ...]
        return partial(_check_items, expected, origin, inner, length)
    if hint is float:
        return _check_float
    if hint in (bool, int, str):
        return lambda value: (value, () if type(value) is hint else _mismatch(expected, value))
    test = _test(hint, origin or hint, arguments)
    return lambda value: (value, () if test(value) else _mismatch(expected, value))


def describe(hint: Any) -> str:
    """Return an annotation in words, for an error message."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        notes = [
            f"like {note.pattern}" if isinstance(note, re.Pattern) else str(note)
            for note in hint.__metadata__
            if isinstance(note, Range | Decided | re.Pattern)
        ]
        return " ".join([describe(arguments[0]), *notes])
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if _accepts_factory(origin or hint):
        return "a reference (@Name)"
    if hint in (None, type(None)):
        return "None"
    if is_typeddict(hint):
        return "an object"
    if origin is not None:
        inner = ("..." if argument is ... else describe(argument) for argument in arguments)
        return f"{origin.__name__}[{', '.join(inner)}]"
    return str(getattr(hint, "__name__", hint))


def _mismatch(expected: str, value: Any) -> Problems:
    text = repr(value)
    if len(text) > SHOWN:
        text = f"{text[:SHOWN]}..."
    return [("", f"expected {expected}, got {text}")]


def _test(hint: Any, kind: Any, arguments: tuple[Any, ...]) -> Callable[[Any], bool]:
    """Return the test for an annotation without parts to check one by one."""
    if kind is Literal:
        return lambda value: any(type(value) is type(choice) and value == choice for choice in arguments)
    if hint in (None, type(None)):
        return lambda value: value is None
    if _accepts_factory(kind):
        return lambda value: isinstance(value, Reference) or callable(value)
    return lambda value: not isinstance(kind, type) if isinstance(value, Reference) else _is_instance(value, kind)


def _check_float(value: Any) -> tuple[Any, Problems]:
    if type(value) not in (int, float):
        return value, _mismatch("float", value)
    if not abs(value) <= sys.float_info.max:
        return value, _mismatch("a finite number", value)
    return float(value), ()


def _with_notes(expected: str, hint: Any, notes: Iterable[Any]) -> Check:
    inner = checker(hint)
    ranges = [note for note in notes if isinstance(note, Range)]
    tests: list[Callable[[Any], Any]] = [note.__contains__ for note in ranges]
    tests += [note.fullmatch for note in notes if isinstance(note, re.Pattern)]
    may_be_auto = any(isinstance(note, Decided) for note in notes)
    # Most values of records are numbers of one range: ten thousand records have seven hundred thousand.
    kind = hint if hint in (int, float) and len(tests) == len(ranges) == 1 else None
    low, high = ranges[0].floats if kind else (0.0, 0.0)

    def check(value: Any) -> tuple[Any, Problems]:
        if type(value) is kind and low <= value <= high:
            return value, ()
        if may_be_auto and value == AUTO:
            return value, ()
        result = inner(value)
        if result[1]:
            return result
        for test in tests:
            if not test(result[0]):
                return value, _mismatch(expected, value)
        return result

    return check if tests or may_be_auto else inner


def _check_union(expected: str, inner: Iterable[Check], takes_none: bool, value: Any) -> tuple[Any, Problems]:
    """Take the first member that fits and keeps the value's type, else the first that fits."""
    if value is None and takes_none:
        return None, ()
    results = []
    for check in inner:
        fitted, problems = check(value)
        if not problems and type(fitted) is type(value):
            return fitted, ()
        results.append((fitted, problems))
    if fitting := [fitted for fitted, problems in results if not problems]:
        return fitting[0], ()
    inside = [problem for _, problems in results for problem in problems if problem[0]]
    return value, inside or _mismatch(expected, value)


def _check_object(fields: Mapping[str, Check], required: frozenset[str], value: Any) -> tuple[Any, Problems]:
    if type(value) is not dict:
        return value, _mismatch("an object", value)
    is_complete = value.keys() >= required
    problems = [] if is_complete else [(f".{name}", "missing") for name in fields if name in required - value.keys()]
    for name, item in value.items():
        check = fields.get(name)
        if check is None:
            problems.append((f".{name}", "unknown field"))
        elif inside := check(item)[1]:
            problems += [(f".{name}{place}", text) for place, text in inside]
    return value, problems


def _check_mapping(expected: str, key: Check, inner: Check, value: Any) -> tuple[Any, Problems]:
    if type(value) is not dict:
        return value, _mismatch(expected, value)
    fitted, problems = {}, []
    for name, item in value.items():
        fitted_name, is_other = key(name)
        if is_other:
            return value, _mismatch(expected, value)
        fitted[fitted_name], inside = inner(item)
        if inside:
            problems += [(f".{fitted_name}{place}", text) for place, text in inside]
    return fitted, problems


def _check_items(
    expected: str, kind: type[list[Any] | tuple[Any, ...]], inner: Sequence[Check], length: int | None, value: Any
) -> tuple[Any, Problems]:
    """Check a list or a tuple; without a `length` all items are of one annotation."""
    if type(value) is not kind or length not in (None, len(value)):
        return value, _mismatch(expected, value)
    if not value:
        return kind(), ()
    checks = repeat(inner[0]) if length is None else inner
    items = [check(item) for check, item in zip(checks, value, strict=False)]
    if any(inside for _, inside in items):
        return value, [
            (f"[{number}]{place}", text) for number, (_, inside) in enumerate(items) for place, text in inside
        ]
    return kind([item for item, _ in items]), ()


def _accepts_factory(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    is_callable_protocol = getattr(kind, "_is_protocol", False) and "__call__" in vars(kind)
    return kind in (collections.abc.Callable, type) or is_callable_protocol


def _is_instance(value: Any, kind: Any) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # not a class that isinstance accepts
        return True
