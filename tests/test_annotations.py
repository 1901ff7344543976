"""Values against annotations; the oracle is Python's own reading of each annotation."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import pytest

from benchmark.annotations import (
    Count,
    Location,
    MismatchError,
    NonNegative,
    Positive,
    Range,
    Reference,
    Residence,
    Share,
    conform,
    describe,
    is_location,
)

T = TypeVar("T")
Whole = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True, below=True)]
FACTORY = Reference("", "Name")


class Factory(Protocol):
    def __call__(self) -> int: ...


class Named(Protocol):
    name: str


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
    ],
)
def test_fits(value: Any, hint: Any) -> None:
    """Oracle: the value is of that type, so it comes back unchanged."""
    assert conform(value, hint) == value


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
    with pytest.raises(MismatchError):
        conform(value, hint)


@pytest.mark.parametrize(
    ("value", "hint", "kind"),
    [(1, float, float), (1, float | int, int), (1, float | None, float), (1.5, int | float, float)],
)
def test_only_an_int_for_a_float_changes(value: Any, hint: Any, kind: type) -> None:
    """Oracle: the type of the result; a union leaves alone what it can."""
    result = conform(value, hint)
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


def test_locations() -> None:
    """Oracle: which hints say where something lies, and which only look like it."""
    assert all(
        map(is_location, (Location, Location | None, Annotated[str, "location"], tuple[Location, ...], Residence))
    )
    assert not any(map(is_location, (str, Literal["location"], Annotated[str, "other"], None)))
