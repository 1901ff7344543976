"""Whether a value from a configuration fits a parameter's type annotation.

Gin checks no types, so `epochs = 'ten'` would fail hours later, far from its line. A configuration holds literals
and references to factories, which is a small enough world to check before anything is built.
"""

import collections.abc
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

AUTO = "auto"

Location = Annotated[str, "location"]
"""Annotates a parameter that says where something lies, such as a path: it never changes what a run computes."""

Residence = Annotated[bool, "location"]
"""Annotates a parameter that says whether something lies in memory: it never changes what a run computes either."""


@dataclass(frozen=True)
class Range:
    """Annotates the finite numbers from `least` to `most`, without these themselves if `above` and `below`."""

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        low = number > self.least if self.above else number >= self.least
        return low and (number < self.most if self.below or self.most == math.inf else number <= self.most)

    def __str__(self) -> str:
        low = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        high = f"below {self.most:g}" if self.below else f"at most {self.most:g}"
        return low if self.most == math.inf else f"{low} and {high}"


Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, above=True)]
Count = Annotated[int, Range(1)]


@dataclass(frozen=True)
class Decided:
    """Annotates a parameter that may also be bound to 'auto', which `by` replaces before anything is built or keyed."""

    by: Callable[[], str]

    def __str__(self) -> str:
        return f"or {AUTO!r}"


def decided(value: Any, hint: Any) -> Any:
    """Return what 'auto' stands for, for a parameter that is `Decided`; any other value as it is."""
    notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Decided)]
    return notes[0].by() if notes and value == AUTO else value


@dataclass(frozen=True, repr=False)
class Reference:
    """A factory named in a configuration: `@scope/name`, or `@name` without a scope of its own."""

    scope: str
    name: str
    called: bool = False

    def __repr__(self) -> str:
        return "@" + (f"{self.scope}/" if self.scope else "") + self.name + ("()" if self.called else "")


class MismatchError(TypeError):
    """The value does not fit the annotation."""


def conform(value: Any, hint: Any) -> Any:
    """Return `value` in the type that `hint` asks for: an int becomes a float, everything else stays as it is.

    Annotations that are not about literals or references (type variables, string leftovers) accept anything.
    Raises MismatchError.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object):
        return value
    if origin is Annotated:
        if value == AUTO and any(isinstance(note, Decided) for note in hint.__metadata__):
            return value
        inner = conform(value, arguments[0])
        if any(isinstance(note, Range) and inner not in note for note in hint.__metadata__):
            raise MismatchError
        return inner
    if origin in (Union, types.UnionType):
        return _conform_any(value, arguments)
    if origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in arguments)
    elif isinstance(value, Reference):
        fits = _accepts_factory(origin or hint) or not isinstance(origin or hint, type)
    elif hint is float:
        fits = type(value) in (int, float)
        value = float(value) if fits else value
    elif hint in (bool, int, str):
        fits = type(value) is hint
    elif hint in (None, type(None)):
        fits = value is None
    elif origin is tuple and type(value) is tuple:
        each = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        fits = len(each) == len(value)
        value = tuple(map(conform, value, each))
    elif origin is list and type(value) is list:
        return [conform(item, arguments[0]) for item in value]
    elif origin is dict and type(value) is dict:
        return {conform(key, arguments[0]): conform(item, arguments[1]) for key, item in value.items()}
    else:
        fits = callable(value) if _accepts_factory(origin or hint) else _is_instance(value, origin or hint)
    if not fits:
        raise MismatchError
    return value


def describe(hint: Any) -> str:
    """Return the annotation in words for an error message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join(
            [describe(arguments[0]), *(str(note) for note in hint.__metadata__ if isinstance(note, Range | Decided))]
        )
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if _accepts_factory(origin or hint):
        return "a reference (@Name)"
    if hint in (None, type(None)):
        return "None"
    if origin is not None:
        inner = ("..." if argument is ... else describe(argument) for argument in arguments)
        return f"{origin.__name__}[{', '.join(inner)}]"
    return str(getattr(hint, "__name__", hint))


def is_location(hint: Any) -> bool:
    """Return whether the annotation, or a part of it such as `Location | None`, is a `Location` or a `Residence`."""
    return "location" in getattr(hint, "__metadata__", ()) or any(map(is_location, typing.get_args(hint)))


def _conform_any(value: Any, hints: tuple[Any, ...]) -> Any:
    """Conform to the first fitting member of a union, preferably to one that leaves the value's type alone."""
    results = []
    for hint in hints:
        try:
            results.append(conform(value, hint))
        except MismatchError:
            continue
    if not results:
        raise MismatchError
    return next((result for result in results if type(result) is type(value)), results[0])


def _accepts_factory(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    is_callable_protocol = getattr(kind, "_is_protocol", False) and "__call__" in vars(kind)
    return kind in (collections.abc.Callable, type) or is_callable_protocol


def _is_instance(value: Any, kind: Any) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # not a class that can be asked
        return True
