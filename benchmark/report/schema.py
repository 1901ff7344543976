"""Annotations as a schema: a value is held against a type, and each departure gets a place and a sentence."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

Problems = Sequence[tuple[str, str]]
Check = Callable[[Any], Problems]


@cache
def checker(kind: Any) -> Check:
    """Return what finds the problems of a value, as pairs of a place in it and a sentence.

    Annotations are typed dictionaries, lists, mappings from text, literals, optional values, and numbers and text with
    a range or a pattern as `Annotated[float, (0.0, 1.0)]`. Each is compiled once.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return partial(
            _check_object, {name: checker(hint) for name, hint in get_type_hints(kind, None, None, True).items()}
        )
    if origin is Annotated:
        return partial(_check_constraint, checker(arguments[0]), arguments[1])
    if type(None) in arguments:
        inner = checker(arguments[0])
        return lambda value: () if value is None else inner(value)
    if origin is Literal:
        return partial(_check_choice, arguments)
    if origin is list:
        return partial(_check_list, checker(arguments[0]))
    if origin is dict:
        return partial(_check_mapping, checker(arguments[1]))
    if kind is float:
        return _check_number
    return (lambda value: ()) if kind is object else partial(_check_type, kind)


def _check_object(fields: Mapping[str, Check], value: object) -> Problems:
    if not isinstance(value, dict):
        return [("", f"expected an object, got {value!r}")]
    problems = [(f".{name}", "missing") for name in fields if name not in value]
    for name, item in value.items():
        if name not in fields:
            problems.append((f".{name}", "unknown field"))
        elif found := fields[name](item):
            problems += [(f".{name}{where}", text) for where, text in found]
    return problems


def _check_mapping(inner: Check, value: object) -> Problems:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return [("", f"expected an object, got {value!r}")]
    return [(f".{name}{where}", text) for name, item in value.items() for where, text in inner(item)]


def _check_list(inner: Check, value: object) -> Problems:
    if not isinstance(value, list):
        return [("", f"expected a list, got {value!r}")]
    return [(f"[{place}]{where}", text) for place, item in enumerate(value) for where, text in inner(item)]


def _check_choice(choices: tuple[Any, ...], value: object) -> Problems:
    if type(value) is type(choices[0]) and value in choices:
        return ()
    return [("", f"expected {' or '.join(map(repr, choices))}, got {value!r}")]


def _check_number(value: object) -> Problems:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return ()
    return [("", f"expected a finite number, got {value!r}")]


def _check_type(kind: type, value: object) -> Problems:
    return () if type(value) is kind else [("", f"expected {kind.__name__}, got {value!r}")]


def _check_constraint(base: Check, constraint: str | tuple[float, float], value: Any) -> Problems:
    if problems := base(value):
        return problems
    if isinstance(constraint, str):
        fits = re.fullmatch(constraint, value, re.ASCII)
        return () if fits else [("", f"expected text like {constraint}, got {value!r}")]
    least, most = constraint
    return () if least <= value <= most else [("", f"expected {least} to {most}, got {value!r}")]
