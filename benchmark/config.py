"""Gin made strict: from gin files and settings to one checked, canonical configuration.

Gin alone accepts misspelt macros, wrong types, lines that nothing reads and files without effect, and builds objects
in the order of the lines. Here files are merged and checked before gin sees anything; what remains is written as one
sorted, complete text, and gin is given only that. What is stored is what ran. Values that equal their default, and
those that say where something lies, stand in sections of their own: they do not tell one run from another.

A reference without a scope takes the scope in which its configurable is reached, as in gin, but also when the factory
is called later.
"""

import importlib
import importlib.util  # gin 0.5 uses importlib.util without importing it
import math
import re
import sys
import types
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import gin

from benchmark import registry
from benchmark.annotations import Location as Location
from benchmark.annotations import decided, is_location
from benchmark.blame import located
from benchmark.conformance import Reference, checker, describe
from benchmark.errors import BenchmarkError, ConfigError, suggest, unwrapped
from benchmark.report.identity import DEFAULTS as DEFAULT_SECTION
from benchmark.report.identity import PLACES, Canonical, canonical, digest
from benchmark.statements import (
    Binding,
    Import,
    Line,
    Macro,
    Source,
    Statement,
    is_protocol,
    parse,
    parse_setting,
    read,
    read_given,
    scoped,
    shipped_folder,
    shipped_macros,
)

DEFAULTS: Mapping[str, str] = types.MappingProxyType(
    {"experiment.data": "protocol/digits.gin", "experiment.encoder": "protocol/vit_micro.gin"}
)
"""The shipped file that is read first when nothing binds a name."""

COMMANDS: Mapping[str, str] = types.MappingProxyType(
    {"suite": "python -m benchmark.suite --gin", "race": "python -m benchmark.speed {inputs,training} --race"}
)
"""What takes the files of another root than `experiment`."""

ROOTS: Mapping[str, str] = types.MappingProxyType(
    {"experiment": "benchmark.examination", "suite": "benchmark.plan", "race": "benchmark.speeds.subjects"}
)
"""The module that registers a root."""

PROTOCOLS = (
    "Only a protocol may bind what nothing reads: a file given by --gin that binds experiment.data, experiment.encoder "
    "or experiment.evaluations, neither Pretraining.method nor Pretraining.name, and something that is read."
)
"""Said where lines of a file are refused since nothing reads them."""

_OUR_PACKAGES = ("benchmark", "baselines")
_LITERALS = (bool, int, float, str, type(None))
_Key = tuple[str, str, str]  # scope, complete selector, parameter; of a macro: "", "", name


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Attributes:
        text: canonical gin text; parsing it alone rebuilds the same objects.
        tree: the root as JSON values with every default: `{"@": name, "scope": if any, "params": {...}}`.
        notes: sentences for the user.
    """

    text: str
    tree: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def canonical(self) -> Canonical:
        """The text as values, of which those that equal their default, the seed and places do not count."""
        return canonical(self.text)

    def key(self, *data: str) -> str:
        """Return the SHA-256 (64 hex digits) of what the configuration and the data, by fingerprint, tell runs by."""
        return digest(self.canonical.identity, *data)


def load(
    files: Sequence[str],
    settings: Sequence[str] = (),
    *,
    allow_imports: bool = False,
    root: str = "experiment",
    defaults: Mapping[str, str] = DEFAULTS,
    stored: str = "",
) -> Config:
    """Read gin files, then settings such as `Budget.kind=flops`; what comes later wins.

    `stored` is the canonical text of an earlier configuration, which comes first and of which parts may be idle.
    Executes the imports of the files, those of foreign packages only with `allow_imports`, and imports the module that
    registers the root: both take seconds, and come after all that the texts alone show to be wrong. Leaves the
    configuration that gin holds alone.
    Raises ConfigError, with file and line, for whatever would not take effect as written.
    """
    trees = read_given(files)
    for file, tree in zip(files, trees, strict=True):
        _require_root(root, file, tree)
    changes = [parse_setting(setting) for setting in settings]
    before = list(parse(stored, Source("stored configuration", lenient=True)))
    given = before + [statement for tree in trees for statement in tree]
    shipped: list[Statement] = []
    notes = []
    for name, path in defaults.items():
        if not any(isinstance(statement, Binding) and statement.binds(name) for statement in (*given, *changes)):
            shipped += read(shipped_folder().resolve() / path)
            notes.append(f"No file binds {name}: using gin/{path}")
    statements = [*shipped, *given]
    execute_imports(root, statements, allow_imports)
    winners = _merge([*statements, *changes])
    effective = set(winners.values())
    for file, tree in zip(files, trees, strict=True):
        if effective.isdisjoint(tree):
            raise ConfigError(f"--gin {file} is without effect: later files or settings bind all that it binds.")
    protocols = frozenset(statement.line.source for tree in trees if is_protocol(tree) for statement in tree)
    return _resolve(winners, statements, root, notes, protocols)


def loads(text: str, root: str = "experiment", *, allow_imports: bool = False) -> Config:
    """Read a stored canonical text again. Raises ConfigError where it does not fit the code any more."""
    statements = list(parse(text, Source("stored configuration")))
    execute_imports(root, statements, allow_imports)
    return _resolve(_merge(statements), statements, root, [])


def build(config: Config) -> Any:
    """Call the root with the configuration and return what it returns.

    Gin's state is global and keeps this configuration until the next `build`: factories that the root passes on read
    their parameters when they are called.
    """
    gin.clear_config()
    gin.parse_config(config.text)
    try:
        return gin.get_configurable(config.tree["@"])()
    except BenchmarkError as error:
        raise unwrapped(error) from None


def _require_root(root: str, file: str, tree: Sequence[Statement]) -> None:
    """Raise ConfigError for a file of another root, of which the errors that follow would say nothing."""
    bindings = (statement for statement in tree if isinstance(statement, Binding) and statement.parameter)
    bound = {binding.name.rpartition(".")[2] for binding in bindings}
    if foreign := sorted(COMMANDS.keys() & bound - {root}):
        raise ConfigError(f"{file} is a {foreign[0]}. Give it to another command: {COMMANDS[foreign[0]]} {file}")
    if root in COMMANDS and root not in bound:
        raise ConfigError(f"{file} is no {root}: it binds nothing of {root}.")


def execute_imports(root: str, statements: Iterable[Statement], allow_imports: bool) -> list[Import]:
    """Import what registers the root, and what the files import; nothing at all if a foreign package may not be.

    Return the imports of foreign packages.
    """
    imports = [statement for statement in statements if isinstance(statement, Import)]
    foreign = []
    for statement in imports:
        path = statement.line.source.path
        if statement.module.split(".")[0] in _OUR_PACKAGES:
            continue
        if not allow_imports:
            raise statement.line.error(
                f"a gin file executes the modules that it imports, and {statement.module} is not part of this "
                "project. If you trust it, add --allow-imports."
            )
        foreign.append(statement)
        if path and str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
    if root in ROOTS:
        importlib.import_module(ROOTS[root])
    for statement in imports:
        path = statement.line.source.path
        try:
            importlib.import_module(statement.module)
        except BenchmarkError:
            raise
        except Exception as error:
            found = located(error)
            if found is None and not isinstance(error, ImportError):
                raise
            where = "" if path else " Put its folder on PYTHONPATH."
            raise statement.line.error(f"cannot import {statement.module}: {found or error}.{where}") from error
    for statement in foreign:
        _require_own(statement)
    return foreign


def _require_own(statement: Import) -> None:
    """Raise ConfigError where Python took a module of the same name for the one that lies beside the file."""
    path, name = statement.line.source.path, statement.module.split(".")[0]
    file = getattr(sys.modules[name], "__file__", None)
    if path is None or file is None or Path(file).resolve().is_relative_to(path.parent):
        return
    if (path.parent / f"{name}.py").is_file() or (path.parent / name / "__init__.py").is_file():
        raise statement.line.error(
            f"{name} is the module {file}, and not the one beside this file, which needs another name."
        )


def _merge(statements: Iterable[Statement]) -> dict[_Key, Binding]:
    """Return the binding that wins for each parameter and macro: the last."""
    winners: dict[_Key, Binding] = {}
    for binding in statements:
        if not isinstance(binding, Binding):
            continue
        key = _key(binding)
        earlier = winners.get(key)
        if earlier is None and binding.line.source.is_setting and not binding.parameter:
            close = suggest(str(binding), [name for _, selector, name in winners if not selector])
            raise binding.line.error(f"no file defines a macro {binding}.{close} Parameters are set as Name.parameter.")
        if earlier is not None and earlier.line.source is binding.line.source:
            raise binding.line.error(f"{binding} is bound already in line {earlier.line.number}.")
        winners[key] = binding
    return winners


def _key(binding: Binding) -> _Key:
    if not binding.parameter:
        return "", "", str(binding)
    selector = registry.find(binding.name, binding.line)
    known = registry.parameters(selector)
    if binding.parameter in known:
        return binding.scope, selector, binding.parameter
    if registry.is_supplied(selector, binding.parameter):
        raise binding.line.error(
            f"{binding.name}.{binding.parameter} is positional, and so supplied by the harness; what gin may bind "
            f"stands after a * in its signature."
        )
    close = suggest(binding.parameter, known) or f" It has: {', '.join(known) or 'none'}."
    raise binding.line.error(f"{binding.name} has no parameter {binding.parameter!r}.{close}")


@dataclass(frozen=True)
class _Node:
    """A configurable that the root reaches, the scope in which it is reached, and all its parameters.

    `locations` say where something lies, and `defaults` have the value that they would have without a line.
    """

    name: str
    scope: str
    parameters: dict[str, Any]
    locations: frozenset[str]
    defaults: frozenset[str]


def _resolve(
    winners: Mapping[_Key, Binding],
    statements: Iterable[Statement],
    root: str,
    notes: list[str],
    protocols: frozenset[Source] = frozenset(),
) -> Config:
    resolver = _Resolver(winners)
    node = resolver.node("", registry.find(root), "")
    notes = [*notes, *resolver.refuse_idle(root, protocols)]
    modules = {statement.module for statement in statements if isinstance(statement, Import)}
    lines = [f"import {module}" for module in sorted(modules)] + [""] * bool(modules)
    text = "\n".join([*lines, *resolver.lines(f"{root}.seed")]) + "\n"
    return Config(text, _json(node), (*notes, *resolver.notes()))


class _Resolver:
    """Checks the value of every binding, then walks from the root through references and remembers what is read."""

    def __init__(self, winners: Mapping[_Key, Binding]) -> None:
        self._winners = winners
        self._macros: dict[_Key, set[_Key]] = {key: set() for key in winners}
        self._values = {key: self._checked(key) for key in winners}
        self._read: set[_Key] = set()
        self._nodes: dict[tuple[str, str], _Node | None] = {}

    def node(self, scope: str, selector: str, referrer: str) -> _Node:
        """Resolve a configurable and all that it refers to; `referrer` is the line that names it."""
        name = registry.short(selector)
        if (scope, selector) in self._nodes:
            known = self._nodes[scope, selector]
            if known is None:
                raise ConfigError(f"{referrer}: {name} refers back to itself.")
            return known
        self._nodes[scope, selector] = None
        parameters = registry.parameters(selector)
        values = {}
        defaults = set()
        for label, parameter in parameters.items():
            keys = ((outer, selector, label) for outer in _outward(scope))
            key = next((key for key in keys if key in self._winners), None)
            if key is not None:
                self._read |= {key, *self._macros[key]}
                value, source = self._values[key], f"{self._winners[key].line.where}: {self._winners[key]}"
                defaults |= {label} if _is_default(value, parameter.default) else set()
            elif parameter.is_required:
                because = f", and {referrer} refers to {name}" if referrer else ""
                raise ConfigError(f"{scoped(scope, name)}.{label} must be bound: it has no default{because}.")
            else:
                value, source = parameter.default, f"the default of {name}.{label}"
                defaults.add(label)
            values[label] = self._attach(decided(value, parameter.hint), scope, source)
        locations = frozenset(label for label, parameter in parameters.items() if is_location(parameter.hint))
        node = self._nodes[scope, selector] = _Node(name, scope, values, locations, frozenset(defaults))
        return node

    def lines(self, seed: str) -> list[str]:
        """Return one line for each parameter of each node, sorted, by section: what counts, defaults, seed and places.

        Defaults that gin cannot express are left out.
        """
        sections: dict[str, list[tuple[str, str, str]]] = {"": [], DEFAULT_SECTION: [], PLACES: []}
        for node in filter(None, self._nodes.values()):
            for parameter, value in node.parameters.items():
                if _is_expressible(value):
                    key = f"{scoped(node.scope, node.name)}.{parameter}"
                    is_place = parameter in node.locations or key == seed
                    section = PLACES if is_place else DEFAULT_SECTION if parameter in node.defaults else ""
                    sections[section].append((node.name, node.scope, f"{key} = {_gin(value)}"))
        blocks = [
            [*([head] if head else []), *(line for _, _, line in sorted(entries))] for head, entries in sections.items()
        ]
        return "\n\n".join("\n".join(block) for block in blocks).splitlines()

    def notes(self) -> Iterable[str]:
        """Yield a sentence for each setting that a line for a scope keeps from taking effect there."""
        for (scope, selector, parameter), binding in self._winners.items():
            if scope or not selector or not binding.line.source.is_setting:
                continue
            for key in sorted(self._read):
                if key[0] and key[1:] == (selector, parameter):
                    other = self._winners[key]
                    yield f"{binding.line.where} does not reach {other} ({other.line.where})"

    def refuse_idle(self, root: str, protocols: frozenset[Source]) -> list[str]:
        """Return a sentence for each of a user's protocols that binds what nothing reads.

        Raises ConfigError for such bindings elsewhere, in a protocol of which nothing is read, and for macros there
        that neither a line nor a shipped protocol knows: they are misspelt.
        """
        idle = {
            key: binding
            for key, binding in self._winners.items()
            if key not in self._read and not binding.line.source.lenient
        }
        used = protocols & {self._winners[key].line.source for key in self._read}
        unread: dict[Source, list[str]] = defaultdict(list)
        refused = {}
        for key, binding in idle.items():
            if binding.line.source in used and (key[1] or key in self._mentioned):
                unread[binding.line.source].append(str(binding))
            else:
                refused[key] = binding
        if refused:
            errors = [str(binding.line.error(self._why_idle(key, binding, root))) for key, binding in refused.items()]
            of_file = any(not source.is_setting for source in {each.line.source for each in refused.values()} - used)
            raise ConfigError("\n".join([*errors, *([PROTOCOLS] if of_file and root == "experiment" else [])]))
        return [
            f"{source.label} binds {len(names)} value{'s' * (len(names) > 1)} that this run does not read: "
            f"{', '.join(names)}"
            for source, names in unread.items()
        ]

    @cached_property
    def _mentioned(self) -> set[_Key]:
        """Return the macros that the values of lines name, and those of the shipped protocols."""
        return {*chain(*self._macros.values()), *(("", "", name) for name in shipped_macros())}

    def _why_idle(self, key: _Key, binding: Binding, root: str) -> str:
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

    def _checked(self, key: _Key) -> Any:
        """Return the value of a binding with macros replaced, references looked up and its type checked."""
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
        return fitted

    def _expand(self, value: Any, line: Line, macros: set[_Key], trail: tuple[_Key, ...]) -> Any:
        if isinstance(value, Macro):
            key = "", "", value.name
            if key not in self._winners:
                close = suggest(value.name, [name for _, selector, name in self._winners if not selector])
                raise line.error(f"the macro %{value.name} is not defined.{close}")
            if key in trail:
                raise line.error(f"the macro %{value.name} refers back to itself.")
            macros.add(key)
            inner = self._winners[key]
            return self._expand(inner.value, inner.line, macros, (*trail, key))
        if isinstance(value, Reference):
            if value.called:
                raise line.error(
                    f"{value} would be built before seeding. Write {str(value)[:-2]}: a factory is passed."
                )
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
        return value

    def _attach(self, value: Any, scope: str, line: str) -> Any:
        """Replace references by nodes, also registered things that a default names."""
        if isinstance(value, Reference):
            return self.node(value.scope or scope, registry.find(value.name), line)
        if selector := registry.selector_of(value):
            return self.node(scope, selector, line)
        if type(value) in (list, tuple):
            return type(value)(self._attach(item, scope, line) for item in value)
        if type(value) is dict:
            return {key: self._attach(item, scope, line) for key, item in value.items()}
        return value


def _outward(scope: str) -> list[str]:
    """Return the scopes whose lines hold in `scope`, the narrowest first: "a/b", "a", ""."""
    parts = scope.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)] + [""] * bool(scope)


def _is_default(value: Any, default: Any) -> bool:
    """Return whether a bound value, with references not yet followed, is what the parameter has without a line."""
    if isinstance(value, Reference):
        return not value.scope and registry.find(value.name) == registry.selector_of(default)
    if type(value) in (list, tuple) and type(default) is type(value) and len(value) == len(default):
        return all(map(_is_default, value, default))
    return type(value) is type(default) and bool(value == default)


def _is_expressible(value: Any) -> bool:
    """Return whether gin's syntax can say `value`."""
    if type(value) in (list, tuple):
        return all(map(_is_expressible, value))
    if type(value) is dict:
        return all(type(key) in _LITERALS and _is_expressible(item) for key, item in value.items())
    if type(value) is float:
        return math.isfinite(value)
    return type(value) in _LITERALS or isinstance(value, _Node)


def _gin(value: Any) -> str:
    if isinstance(value, _Node):
        return f"@{scoped(value.scope, value.name)}"
    if isinstance(value, list):
        return f"[{', '.join(map(_gin, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_gin, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_gin(item)}" for key, item in value.items()) + "}"
    return repr(value)


def _json(value: Any) -> Any:
    if isinstance(value, _Node):
        parameters = {name: _json(item) for name, item in value.parameters.items()}
        return {"@": value.name, **({"scope": value.scope} if value.scope else {}), "params": parameters}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _json(item) for key, item in value.items()}
    if isinstance(value, type | types.FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if _is_expressible(value):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address would change the key from process to process
