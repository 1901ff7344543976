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
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin

from benchmark.config import registry
from benchmark.config.parse import (
    Binding,
    Import,
    Source,
    Statement,
    is_protocol,
    parse,
    parse_setting,
    read,
    read_given,
    shipped_folder,
)
from benchmark.config.resolve import Key, Resolver, as_json
from benchmark.errors import BenchmarkError, ConfigError, located, suggest, unwrapped
from benchmark.report.identity import Canonical, canonical, digest

DEFAULTS: Mapping[str, str] = types.MappingProxyType(
    {"experiment.data": "protocol/digits.gin", "experiment.encoder": "protocol/vit_micro.gin"}
)
"""The shipped file that is read first when nothing binds a name."""

COMMANDS: Mapping[str, str] = types.MappingProxyType(
    {"suite": "python -m benchmark.suite --gin", "race": "python -m benchmark.speed {inputs,training} --race"}
)
"""What takes the files of another root than `experiment`."""

ROOTS: Mapping[str, str] = types.MappingProxyType(
    {
        "experiment": "benchmark.experiment.setup",
        "suite": "benchmark.boards.plan",
        "race": "benchmark.timing.workloads",
    }
)
"""The module that registers a root."""

_OUR_PACKAGES = ("benchmark", "baselines")


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


def _merge(statements: Iterable[Statement]) -> dict[Key, Binding]:
    """Return the binding that wins for each parameter and macro: the last."""
    winners: dict[Key, Binding] = {}
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


def _key(binding: Binding) -> Key:
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


def _resolve(
    winners: Mapping[Key, Binding],
    statements: Iterable[Statement],
    root: str,
    notes: list[str],
    protocols: frozenset[Source] = frozenset(),
) -> Config:
    resolver = Resolver(winners)
    node = resolver.node("", registry.find(root), "")
    notes = [*notes, *resolver.refuse_idle(root, protocols)]
    modules = {statement.module for statement in statements if isinstance(statement, Import)}
    lines = [f"import {module}" for module in sorted(modules)] + [""] * bool(modules)
    text = "\n".join([*lines, *resolver.lines(f"{root}.seed")]) + "\n"
    return Config(text, as_json(node), (*notes, *resolver.notes()))
