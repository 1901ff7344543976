"""Values against annotations; the oracle is Python's own reading of each annotation."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypedDict, TypeVar

import pytest

from benchmark.annotations import (
    Count,
    Location,
    NonNegative,
    Positive,
    Range,
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


class Outer(TypedDict):
    inner: Inner | None
    numbers: dict[str, float]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (True, bool),
        (None, int | None),
        ("a", Literal["a", 1]),
        ((), tuple[int, ...]),
        ((1, 2, 3), tuple[int, ...]),
        ((1, "a"), tuple[int, str]),
        ([(1,)], list[tuple[int]]),
        ({"a": None}, dict[str, int | None]),
        ({"a": 1}, Mapping[str, int]),
        ((1,), tuple),
        ("a", Annotated[str, "whatever"]),
        (2.5, Any),
        (FACTORY, Any),
        (FACTORY, Callable[[int], int]),
        (FACTORY, Callable),
        (FACTORY, type[int]),
        (FACTORY, Factory),
        (FACTORY, Factory | None),
        ((FACTORY, 1), tuple[Factory, int]),
        (FACTORY, T),
        ("a", T),
        (1e-9, Positive),
        (0.0, NonNegative),
        (1, Count),
        (0.0, Whole),
        (1.0, Whole),
        (1.0, Share),
        (10**400, Count),
        (0.5, Part),
        (None, Count | None),
        ((1, 2), tuple[Count, ...]),
        ("12", Digits),
    ],
)
def test_fits(value: Any, hint: Any) -> None:
    """Oracle: the value is of that type, so it comes back unchanged."""
    fitted, problems = checker(hint)(value)
    assert fitted == value
    assert not problems


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1.0, int),
        (True, int),
        (True, float),
        (1, bool),
        (1, str),
        (None, int),
        (True, Literal[1]),
        ("b", Literal["a"]),
        ((1,), tuple[int, int]),
        ((1, "a"), tuple[int, ...]),
        ([1], tuple[int, ...]),
        ((1,), list[int]),
        ({"a": "b"}, dict[str, int]),
        ({1: 1}, dict[str, int]),
        ("a", Path),
        ("a", int | None),
        ("12x", Digits),
        ("\u0661", Digits),
        (float("inf"), float),
        (10**400, float),
        (FACTORY, int),
        (FACTORY, Path),
        (FACTORY, Named),
        (FACTORY, Literal["Name"]),
        ("Name", Factory | None),
        ("Name", Callable[[], int]),
        (0.0, Positive),
        (-1.0, NonNegative),
        (float("inf"), NonNegative),
        (float("nan"), NonNegative),
        (0, Count),
        (1.0, Count),
        (-0.1, Whole),
        (1.1, Whole),
        (0.0, Share),
        (1.1, Share),
        (0.0, Part),
        (1.0, Part),
        (0, Count | None),
        ((1, 0), tuple[Count, ...]),
    ],
)
def test_does_not_fit(value: Any, hint: Any) -> None:
    """Oracle: the value is not of that type."""
    assert checker(hint)(value)[1]


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
    found = checker(Outer)(value)[1]
    assert [(place, text[: len(expected)]) for (place, text), (_, expected) in zip(found, problems, strict=True)] == (
        problems
    )


def test_locations() -> None:
    """Oracle: which hints say where something lies, and which only look like it."""
    assert all(
        map(is_location, (Location, Location | None, Annotated[str, "location"], tuple[Location, ...], Residence))
    )
    assert not any(map(is_location, (str, Literal["location"], Annotated[str, "other"], None)))
