"""Checks the values that a configuration binds, follows references from its root, and writes values as gin and JSON."""

import collections.abc
import math
import re
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, get_args, get_origin

from benchmark.annotations import Reference, checker, describe, is_location, without_auto
from benchmark.config import registry
from benchmark.config.parse import Binding, Line, Macro, Source, scoped, shipped_macros
from benchmark.errors import ConfigError, suggest
from benchmark.report.identity import DEFAULTS, PLACES

PROTOCOLS = (
    "Only a protocol may bind what nothing reads: a file given by --gin that binds experiment.data, experiment.encoder "
    "or experiment.evaluations, neither Pretraining.method nor Pretraining.name, and something that is read."
)
"""Follows the errors about lines of a file that nothing reads."""

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which UTF-8 has not
MOST = 2**63 - 1  # what torch holds

PROTOCOL_OF_MACRO = (
    " The protocol of an encoder defines it, for all methods: give the one whose widths suit yours by --gin, such as "
    "gin/protocol/resnet18.gin or gin/protocol/vit_tiny.gin; --set experiment.encoder=@Timm goes over it."
)
_LITERALS = (bool, int, float, str, type(None))
Key = tuple[str, str, str]  # scope, complete selector, parameter; of a macro: "", "", name


@dataclass(frozen=True)
class Node:
    """A configurable that the root reaches, the scope in which it is reached, and its parameters: value and section."""

    name: str
    scope: str
    parameters: dict[str, Any]
    sections: dict[str, str]


class Resolver:
    """Checks the value of every binding, then follows references from the root and records which bindings are read."""

    def __init__(self, winners: Mapping[Key, Binding]) -> None:
        self._winners = winners
        self._macros: dict[Key, set[Key]] = {key: set() for key in winners}
        self._values = {key: self._checked(key) for key in winners}
        self._read: set[Key] = set()
        self._nodes: dict[tuple[str, str], Node | None] = {}

    def node(self, scope: str, selector: str, referrer: str) -> Node:
        """Resolve a configurable and everything that it refers to; `referrer` is the line that names it."""
        name = registry.short(selector)
        if (scope, selector) in self._nodes:
            resolved = self._nodes[scope, selector]
            if resolved is None:
                raise ConfigError(f"{referrer}: {name} refers back to itself.")
            return resolved
        self._nodes[scope, selector] = None  # marks it as begun
        values = {}
        sections = {}
        for label, parameter in registry.parameters(selector).items():
            keys = ((outer, selector, label) for outer in _outward(scope))
            key = next((key for key in keys if key in self._winners), None)
            if key is not None:
                self._read |= {key, *self._macros[key]}
                value, source = self._values[key], f"{self._winners[key].line.where}: {self._winners[key]}"
                is_default = _is_default(value, parameter.default)
            elif parameter.is_required:
                reason = f", and {referrer} refers to {name}" if referrer else ""
                raise ConfigError(f"{scoped(scope, name)}.{label} must be bound: it has no default{reason}.")
            else:
                value, source, is_default = parameter.default, f"the default of {name}.{label}", True
            values[label] = self._attach(without_auto(value, parameter.hint), scope, source)
            sections[label] = PLACES if is_location(parameter.hint) else DEFAULTS if is_default else ""
        node = self._nodes[scope, selector] = Node(name, scope, values, sections)
        return node

    def text(self, seed: str) -> str:
        """Return a line for each parameter of each node, sorted, in sections: identity, defaults, seed and places.

        Defaults that gin cannot express are left out.
        """
        sections: dict[str, list[tuple[str, str, str]]] = {"": [], DEFAULTS: [], PLACES: []}
        for node in filter(None, self._nodes.values()):
            for label, value in node.parameters.items():
                if _is_expressible(value):
                    name = f"{scoped(node.scope, node.name)}.{label}"
                    section = PLACES if name == seed else node.sections[label]
                    sections[section].append((node.name, node.scope, f"{name} = {_gin(value)}"))
        blocks = ([head, *(line for _, _, line in sorted(entries))] for head, entries in sections.items())
        return "\n\n".join("\n".join(filter(None, block)) for block in blocks)

    def notes(self) -> Iterable[str]:
        """Yield a sentence for each setting that has no effect in a scope, since the scope has a binding of its own."""
        for (scope, selector, parameter), binding in self._winners.items():
            if scope or not selector or not binding.line.source.is_setting:
                continue
            for key in sorted(self._read):
                if key[0] and key[1:] == (selector, parameter):
                    other = self._winners[key]
                    yield f"{binding.line.where} does not reach {other} ({other.line.where})"

    def refuse_idle(self, root: str, protocols: frozenset[Source]) -> list[str]:
        """Return a sentence for each of a user's protocols with bindings that nothing reads.

        Raises ConfigError for such bindings in other sources, in a protocol of which nothing is read, and for macros
        of a protocol that neither a line nor a shipped protocol names: they are misspelt.
        """
        used = protocols & {self._winners[key].line.source for key in self._read}
        unread: dict[Source, list[str]] = defaultdict(list)
        refused = {}
        for key, binding in self._winners.items():
            source = binding.line.source
            if key in self._read or source.lenient:
                continue
            if source in used and (key[1] or key in self._mentioned):
                unread[source].append(str(binding))
            else:
                refused[key] = binding
        if refused:
            errors = [str(binding.line.error(self._why_idle(key, binding, root))) for key, binding in refused.items()]
            sources = {binding.line.source for binding in refused.values()} - used
            if root == "experiment" and not all(source.is_setting for source in sources):
                errors.append(PROTOCOLS)
            raise ConfigError("\n".join(errors))
        return [
            f"{source.label} binds {len(names)} value{'s' * (len(names) > 1)} that this run does not read: "
            f"{', '.join(names)}"
            for source, names in unread.items()
        ]

    @cached_property
    def _mentioned(self) -> set[Key]:
        """The macros that bindings use, and those of the shipped protocols."""
        return {*chain(*self._macros.values()), *(("", "", name) for name in shipped_macros())}

    def _why_idle(self, key: Key, binding: Binding, root: str) -> str:
        scope, selector, _ = key
        if not selector:
            close = suggest(str(binding), {name for _, _, name in self._mentioned - {key}})
            return f"nothing that {root} uses reads the macro %{binding}.{close}"
        scopes = [reached for reached, other in self._nodes if other == selector]
        if not scopes:
            return f"{root} does not use {binding.name}, so {binding} has no effect."
        if not any(scope in _outward(reached) for reached in scopes):
            return f"{binding.name} is not used in the scope {scope!r}, so {binding} has no effect."
        return f"lines for narrower scopes take the place of {binding} everywhere."

    def _checked(self, key: Key) -> Any:
        """Return the value of a binding, with macros replaced, references looked up and its type checked."""
        binding = self._winners[key]
        _, selector, parameter = key
        value = self._expand(binding.value, binding.line, self._macros[key], () if selector else (key,))
        if not selector:
            return value
        hint = registry.parameters(selector)[parameter].hint
        fitted, problems = checker(hint)(value)
        if problems:
            macros = sorted(self._macros[key])
            origin = "".join(f" %{macro[2]} is set in {self._winners[macro].line.where}." for macro in macros)
            raise binding.line.error(
                f"{binding} expected {describe(hint)}, got {value!r} ({type(value).__name__}).{origin}"
            )
        kinds = _made_by(hint)
        for reference in _references(fitted) if kinds else ():
            if not any(registry.makes(registry.find(reference.name), kind) for kind in kinds):
                names = ", ".join(f"@{name}" for kind in kinds for name in registry.makers(kind))
                raise binding.line.error(
                    f"{binding} expected one of {names or 'none that is imported'}, got {reference}."
                )
        if type(fitted) is int and abs(fitted) > MOST and binding.parameter != "seed":  # which has a bound of its own
            raise binding.line.error(
                f"{binding} = {fitted}: a whole number is at most 2^63 - 1, and most are far below."
            )
        return fitted

    def _expand(self, value: Any, line: Line, macros: set[Key], trail: tuple[Key, ...]) -> Any:
        if isinstance(value, Macro):
            key = "", "", value.name
            if key not in self._winners:
                close = suggest(value.name, [name for _, selector, name in self._winners if not selector])
                remedy = PROTOCOL_OF_MACRO if value.name in shipped_macros() else ""
                raise line.error(f"the macro %{value.name} is not defined.{close}{remedy}")
            if key in trail:
                raise line.error(f"the macro %{value.name} refers back to itself.")
            macros.add(key)
            inner = self._winners[key]
            return self._expand(inner.value, inner.line, macros, (*trail, key))
        if isinstance(value, Reference):
            if value.called:
                factory = str(value).removesuffix("()")
                raise line.error(f"{value} would be built before seeding. Write {factory}, which passes the factory.")
            registry.find(value.name, line)
            return value
        if isinstance(value, list | tuple):
            return type(value)(self._expand(item, line, macros, trail) for item in value)
        if isinstance(value, dict):
            for key in value:
                if type(key) not in _LITERALS:
                    raise line.error(f"the key {key!r} of a dict must be a number or a string.")
            return {key: self._expand(item, line, macros, trail) for key, item in value.items()}
        if not _is_expressible(value):
            raise line.error(f"{value!r} ({type(value).__name__}) cannot be configured.")
        if isinstance(value, str) and SURROGATE.search(value):
            raise line.error(f"{value!r} has a character that no file can hold.")
        return value

    def _attach(self, value: Any, scope: str, line: str) -> Any:
        """Replace references by nodes, and so registered classes and functions that are defaults."""
        if isinstance(value, Reference):
            return self.node(value.scope or scope, registry.find(value.name), line)
        if selector := registry.selector_of(value):
            return self.node(scope, selector, line)
        if type(value) in (list, tuple):
            return type(value)(self._attach(item, scope, line) for item in value)
        if type(value) is dict:
            return {key: self._attach(item, scope, line) for key, item in value.items()}
        return value


def _made_by(hint: Any) -> list[Any]:
    """Return what the factories of an annotation make, such as [Images] for `Callable[[], Images] | None`."""
    if get_origin(hint) is collections.abc.Callable:
        return [get_args(hint)[1]]
    return [kind for part in get_args(hint) for kind in _made_by(part)]


def _references(value: Any) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _outward(scope: str) -> list[str]:
    """Return the scopes whose bindings hold in `scope`, the narrowest first: "a/b", "a", ""."""
    parts = scope.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)] + [""] * bool(scope)


def _is_default(value: Any, default: Any) -> bool:
    """Return whether a bound value, with references not yet followed, equals the default."""
    if isinstance(value, Reference):
        return not value.scope and registry.find(value.name) == registry.selector_of(default)
    if type(value) in (list, tuple) and type(default) is type(value) and len(value) == len(default):
        return all(map(_is_default, value, default))
    return type(value) is type(default) and bool(value == default)


def _is_expressible(value: Any) -> bool:
    """Return whether gin's syntax can express `value`."""
    if type(value) in (list, tuple):
        return all(map(_is_expressible, value))
    if type(value) is dict:
        return all(type(key) in _LITERALS and _is_expressible(item) for key, item in value.items())
    if type(value) is float:
        return math.isfinite(value)
    return type(value) in _LITERALS or isinstance(value, Node)


def _gin(value: Any) -> str:
    if isinstance(value, Node):
        return f"@{scoped(value.scope, value.name)}"
    if isinstance(value, list):
        return f"[{', '.join(map(_gin, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_gin, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_gin(item)}" for key, item in value.items()) + "}"
    return repr(value)


def as_json(value: Any) -> Any:
    """Return a value as JSON; a node as `{"@": name, "scope": if any, "params": {...}}`."""
    if isinstance(value, Node):
        parameters = {name: as_json(item) for name, item in value.parameters.items()}
        return {"@": value.name, **({"scope": value.scope} if value.scope else {}), "params": parameters}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): as_json(item) for key, item in value.items()}
    if isinstance(value, type | types.FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if _is_expressible(value):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address would change the key from process to process
