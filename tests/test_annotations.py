"""Values against annotations; the oracle is Python's own reading of each annotation."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Protocol, TypedDict, TypeVar

import pytest

from benchmark.annotations import (
    Count,
    Kept,
    Location,
    NonNegative,
    Positive,
    Range,
    Readings,
    Reference,
    Residence,
    Share,
    checker,
    describe,
    is_location,
)

T = TypeVar("T")
Whole = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True, below=True)]
Digits = Annotated[str, re.compile(r"\d+", re.ASCII)]
FACTORY = Reference("", "Name")


class Factory(Protocol):
    def __call__(self) -> int: ...


class Named(Protocol):
    name: str


class Inner(TypedDict):
    count: Count
    parts: list[Digits]


class Optional(TypedDict):
    a: int
    b: NotRequired[int]


class Outer(TypedDict):
    inner: Inner | None
    numbers: dict[str, float]


@pytest.mark.parametrize(
    ("hint", "fitting", "others"),
    [
        (int, [1], [1.0, True, None, FACTORY]),
        (bool, [True], [1]),
        (str, ["a"], [1]),
        (float, [1.5], [True, float("inf"), 10**400]),
        (Any, [2.5, FACTORY], []),
        (T, ["a", FACTORY], []),
        (Path, [Path()], ["a", FACTORY]),
        (Named, [], [FACTORY]),
        (int | None, [None, 1], ["a"]),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (Literal["Name"], ["Name"], [FACTORY]),
        (tuple, [(1,)], [[1]]),
        (tuple[int, ...], [(), (1, 2, 3)], [(1, "a"), [1]]),
        (tuple[int, str], [(1, "a")], [(1, 2), (1,)]),
        (list[int], [[1]], [(1,)]),
        (list[tuple[int]], [[(1,)]], [[1]]),
        (dict[str, int | None], [{"a": None}], []),
        (dict[str, int], [{"a": 1}], [{"a": "b"}, {1: 1}]),
        (Mapping[str, int], [{"a": 1}], []),
        (Annotated[str, "whatever"], ["a"], [1]),
        (Callable[[], int], [FACTORY], ["Name"]),
        (Callable, [FACTORY], []),
        (type[int], [FACTORY], []),
        (Factory, [FACTORY], []),
        (Factory | None, [FACTORY], ["Name"]),
        (tuple[Factory, int], [(FACTORY, 1)], []),
        (Positive, [1e-9], [0.0]),
        (NonNegative, [0.0], [-1.0, float("inf"), float("nan")]),
        (Count, [1, 10**400], [0, 1.0]),
        (Count | None, [None], [0]),
        (tuple[Count, ...], [(1, 2)], [(1, 0)]),
        (Whole, [0.0, 1.0], [-0.1, 1.1]),
        (Share, [1.0], [0.0, 1.1]),
        (Part, [0.5], [0.0, 1.0]),
        (Digits, ["12"], ["12x", "\u0661"]),
        (Readings, [0, 8], [-1, 1.0]),
        (Annotated[float, Range(0), Range(-1, 1)], [0.5, 1.0, 0], [2.0, -1.0, 2, True, math.inf]),
        (Annotated[float, Range(-math.inf, 0)], [-1e308, 0.0], [-math.inf, math.nan, 1.0]),
        (Annotated[int, Range(0)], [0, 10**400], [-1, 1.0]),
        (Optional, [{"a": 1}, {"a": 1, "b": 2}], [{"b": 2}, {"a": 1, "b": None}, {"a": 1, "c": 2}]),
    ],
)
def test_fits(hint: Any, fitting: list[Any], others: list[Any]) -> None:
    """Oracle: Python's types: a value of that type comes back unchanged, and others have a problem."""
    check = checker(hint)
    for value in fitting:
        fitted, problems = check(value)
        assert fitted == value
        assert not problems
    for value in others:
        assert check(value)[1], value


@pytest.mark.parametrize(
    ("value", "hint", "kind"),
    [(1, float, float), (1, float | int, int), (1, float | None, float), (1.5, int | float, float)],
)
def test_only_an_int_for_a_float_changes(value: Any, hint: Any, kind: type) -> None:
    """Oracle: the type of the result; a union leaves alone what it can."""
    result, problems = checker(hint)(value)
    assert not problems
    assert result == value
    assert type(result) is kind


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "int or None"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (tuple[float, ...], "tuple[float, ...]"),
        (Callable[[int], int] | None, "a reference (@Name) or None"),
        (Location, "str"),
        (Positive, "float above 0"),
        (Count | None, "int of at least 1 or None"),
        (Whole, "float of at least 0 and at most 1"),
        (Share, "float above 0 and at most 1"),
        (Part, "float above 0 and below 1"),
    ],
)
def test_words(hint: Any, words: str) -> None:
    """Oracle: the words written by hand."""
    assert describe(hint) == words


@pytest.mark.parametrize(
    ("value", "problems"),
    [
        ({"inner": None, "numbers": {"a": 1, "b": 0.5}}, []),
        ({"inner": {"count": 1, "parts": ["1", "2"]}, "numbers": {}}, []),
        ([], [("", "expected an object, got []")]),
        ({"inner": None, "more": 1}, [(".numbers", "missing"), (".more", "unknown field")]),
        ({"inner": 1, "numbers": []}, [(".inner", "expected an object or None, got 1"), (".numbers", "expected dict")]),
        (
            {"inner": {"count": 0, "parts": ["1", "a"]}, "numbers": {"a": float("nan")}},
            [
                (".inner.count", "expected int of at least 1, got 0"),
                (".inner.parts[1]", "expected str like \\d+, got 'a'"),
                (".numbers.a", "expected a finite number, got nan"),
            ],
        ),
    ],
)
def test_places_of_problems(value: Any, problems: list[tuple[str, str]]) -> None:
    """Oracle: every problem of a nested object, with its place, what was expected and what came, by hand."""
    pairs = zip(checker(Outer)(value)[1], problems, strict=True)
    assert [(place, text[: len(expected)]) for (place, text), (_, expected) in pairs] == problems


def test_locations() -> None:
    """Oracle: which hints say where something lies, and which only look like it."""
    locations = (Location, Location | None, Annotated[str, "location"], tuple[Location, ...], Residence, Readings, Kept)
    others = (str, Literal["location"], Annotated[str, "other"], None)
    assert all(map(is_location, locations))
    assert not any(map(is_location, others))
