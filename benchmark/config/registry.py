"""The classes and functions that are registered with gin, and the parameters that a configuration may bind.

Only this module reads gin's private registry. The harness supplies the positional parameters of everything registered;
keyword-only parameters are configuration.
"""

import inspect
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import gin

from benchmark.annotations import checker
from benchmark.config.parse import Line
from benchmark.errors import ConfigError, is_user_code, shown_path, suggest

_REGISTRY = gin.config._REGISTRY


@dataclass(frozen=True)
class Parameter:
    """A keyword-only parameter: its annotation (Any if unknown) and default (`inspect.Parameter.empty` if required)."""

    hint: Any
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether the configuration must bind it."""
        return self.default is inspect.Parameter.empty


def find(name: str, line: Line | None = None) -> str:
    """Return the complete selector (with modules) of the class or function that `name` means.

    Raises ConfigError, with the line if there is one, for an unknown or ambiguous name.
    """
    matches = sorted(_ours(_REGISTRY.matching_selectors(name)))
    if len(matches) == 1:
        return matches[0]
    if matches:
        message = f"{name} is ambiguous. Write one of {', '.join(matches)}."
    else:
        close = suggest(name, [short(selector) for selector in _ours(key for key, _ in _REGISTRY.items())])
        message = f"no class or function {name} is registered.{close} Is an import or @gin.register missing?"
    raise line.error(message) if line else ConfigError(message)


def of_module(module: str) -> list[str]:
    """Return the selectors of the classes and functions that a module registers."""
    return [selector for selector, entry in _REGISTRY.items() if entry.wrapped.__module__ == module]


def short(selector: str) -> str:
    """Return the shortest unambiguous name of a selector."""
    return str(_REGISTRY.minimal_selector(selector))


def selector_of(value: Any) -> str | None:
    """Return the selector of a class or function, None if it is not registered."""
    entry = gin.config._INVERSE_REGISTRY.get(value) if isinstance(value, type | types.FunctionType) else None
    return entry and str(entry.selector)


def parameters(selector: str) -> dict[str, Parameter]:
    """Return the keyword-only parameters, in the order of the signature.

    Raises ConfigError for a parameter of user code without a readable type annotation: nothing could check its value.
    """
    return _parameters(_REGISTRY[selector].wrapped)


@cache  # a suite asks for each some hundred times
def _parameters(thing: Any) -> dict[str, Parameter]:
    hints = _hints(thing)
    result = {}
    for name, parameter in inspect.signature(thing).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            hint = hints.get(name, parameter.annotation)
            if hint is parameter.empty or isinstance(hint, str):
                _require_annotation(thing, parameter)
                hint = Any
            result[name] = Parameter(hint, _default(thing, parameter, hint))
    return result


def _require_annotation(thing: Any, parameter: inspect.Parameter) -> None:
    try:
        file, line = inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):  # without source, such as a builtin
        return
    if not is_user_code(file):  # torch and timm need not annotate
        return
    name, annotation, kind = parameter.name, parameter.annotation, type(parameter.default)
    problem = "no type annotation" if annotation is parameter.empty else f"an unreadable annotation, {annotation!r}"
    example = kind.__name__ if kind in (bool, int, float, str) else "float"
    raise ConfigError(
        f"{shown_path(file)}, line {line}: the parameter {name} of {thing.__name__} has {problem}, so no value of a "
        f"gin file could be checked. Write {name}: {example}, or another type; benchmark/annotations.py has ranges, "
        "and typing.Any accepts everything."
    )


def makes(selector: str, kind: Any) -> bool:
    """Return whether a class or function makes objects of a kind, as far as annotations tell."""
    thing = _REGISTRY[selector].wrapped
    hint = thing if isinstance(thing, type) else _hints(thing).get("return", Any)
    made, wanted = (typing.get_origin(each) or each for each in (hint, kind))
    if made in (Any, object) or wanted is Any or not (isinstance(made, type) and isinstance(wanted, type)):
        return True
    if getattr(wanted, "_is_protocol", False):
        return all(_has(made, name) for name in wanted.__annotations__)
    return issubclass(made, wanted) or issubclass(wanted, made)  # the annotation of a function may be a wider one


def _has(made: type, name: str) -> bool:
    """Return whether objects of a class have an attribute: of the class, annotated there, or named in an `__init__`."""
    inits = [vars(each).get("__init__") for each in made.__mro__]
    codes = [each.__code__ for each in inits if isinstance(each, types.FunctionType)]
    return hasattr(made, name) or name in _hints(made) or any(name in code.co_names for code in codes)


def makers(kind: Any) -> list[str]:
    """Return the names of the classes and functions that make objects of a kind, in the order of the alphabet."""
    return sorted(short(selector) for selector in _ours(key for key, _ in _REGISTRY.items()) if makes(selector, kind))


def is_supplied(selector: str, name: str) -> bool:
    """Return whether `name` is a positional parameter, which the harness supplies."""
    parameter = inspect.signature(_REGISTRY[selector].wrapped).parameters.get(name)
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _ours(selectors: Iterable[str]) -> list[str]:
    return [selector for selector in selectors if not selector.startswith("gin.")]


def _hints(thing: Any) -> dict[str, Any]:
    """Return the annotations of the parameters; none at all if one of them cannot be resolved."""
    owner = inspect.getattr_static(thing, "__init__") if isinstance(thing, type) and not is_dataclass(thing) else thing
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _default(thing: Any, parameter: inspect.Parameter, hint: Any) -> Any:
    value = parameter.default
    if is_dataclass(thing):  # the signature has a placeholder for a field with a default factory
        factory = next((f.default_factory for f in fields(thing) if f.name == parameter.name), MISSING)
        value = value if factory is MISSING else factory()
    fitted, problems = checker(hint)(value)
    return value if problems else fitted
