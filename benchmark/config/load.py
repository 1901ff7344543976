"""Strict gin: turns gin files and settings into one checked, canonical configuration.

Gin alone accepts misspelt macros, wrong types, lines that nothing reads and files without effect, and builds objects
in the order of the lines. Here files are merged and checked before gin reads anything. The result is one sorted,
complete text, and gin reads only that text, so what is stored is what ran. Values that equal their default, the seed
and places have sections of their own: they do not distinguish runs.

A reference without a scope takes the scope in which its configurable is reached, as in gin, but also when the factory
is called later.
"""

import importlib
import importlib.util  # gin 0.5 uses importlib.util without importing it
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import gin

from benchmark.annotations import Reference
from benchmark.config import registry
from benchmark.config.parse import (
    Binding,
    Import,
    Source,
    Statement,
    is_bound,
    is_protocol,
    parse,
    parse_setting,
    read,
    read_files,
    shipped_folder,
    value_of,
)
from benchmark.config.resolve import Key, Resolver, as_json
from benchmark.errors import BenchmarkError, ConfigError, located, suggest, unwrapped
from benchmark.report.identity import Canonical, canonical, digest
from benchmark.runtime.collector import uncollected
from benchmark.runtime.ending import OTHERS

DEFAULTS = {"experiment.data": "protocol/digits.gin", "experiment.encoder": "protocol/vit_micro.gin"}
"""The shipped file that is read first if nothing binds a name."""

COMMANDS = {
    "suite": "python -m benchmark.suite --gin",
    "cluster": "python -m benchmark.suite --gin <suite> --cluster slurm --cluster-gin",
    "race": "python -m benchmark.speed races --race",
}
"""The command for the files of each root other than `experiment`."""

ROOTS = {
    "experiment": "benchmark.experiment.setup",
    "suite": "benchmark.boards.plan",
    "cluster": "benchmark.boards.cluster",
    "race": "benchmark.timing.races",
}
"""The module that registers each root."""

_OUR_PACKAGES = ("benchmark", "baselines")


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Attributes:
        text: canonical gin text; it alone is enough to build the same objects.
        tree: the root as JSON values with every default: `{"@": name, "scope": if any, "params": {...}}`.
        notes: sentences for the user.
    """

    text: str
    tree: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def canonical(self) -> Canonical:
        """The values in the text, and the identity that they give without defaults, seed and places."""
        return canonical(self.text)

    def key(self, *data: str) -> str:
        """Return the SHA-256 (64 hex digits) of the identity of the configuration and of fingerprints of data."""
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
    """Read gin files, then settings such as `Budget.kind=flops`; later values win.

    `stored` is the canonical text of an earlier configuration. It is read first, and parts of it may have no effect.
    Executes the imports of the files, those of foreign packages only with `allow_imports`, and imports the module that
    registers the root. Both take seconds, so what the texts alone show to be wrong is refused before. The global
    configuration of gin stays as it is.
    Raises ConfigError, with file and line, for everything that would not take effect as written.
    """
    parsed = read_files(files)
    for file, statements in zip(files, parsed, strict=True):
        _require_root(root, file, statements)
    _require_one_method(files, parsed)
    changes = [parse_setting(setting) for setting in settings]
    everything = [*parse(stored, Source("stored configuration", lenient=True)), *chain(*parsed)]
    shipped: list[Statement] = []
    notes = []
    for name, path in defaults.items():
        if not is_bound([*everything, *changes], name):
            shipped += read(shipped_folder() / path)
            notes.append(f"No file binds {name}: using gin/{path}")
    everything = [*shipped, *everything]
    execute_imports(root, everything, allow_imports)
    winners = _merge([*everything, *changes])
    effective = set(winners.values())
    for file, statements in zip(files, parsed, strict=True):
        if effective.isdisjoint(statements):
            raise ConfigError(f"--gin {file} is without effect: later files or settings bind all that it binds.")
    protocols = frozenset(statement.line.source for statement in chain(*filter(is_protocol, parsed)))
    return _resolve(winners, everything, root, notes, protocols)


def loads(text: str, root: str = "experiment", *, allow_imports: bool = False) -> Config:
    """Read a canonical text. Raises ConfigError if it does not fit the code any more."""
    statements = list(parse(text, Source("stored configuration")))
    execute_imports(root, statements, allow_imports)
    return _resolve(_merge(statements), statements, root, [])


def build(config: Config) -> Any:
    """Call the root with the configuration and return its result.

    Gin's state is global and keeps this configuration until the next `build`: factories in the result read their
    parameters when they are called.
    """
    gin.clear_config()
    gin.parse_config(config.text)
    try:
        return gin.get_configurable(config.tree["@"])()
    except BenchmarkError as error:
        raise unwrapped(error) from None


def _require_root(root: str, file: str, statements: Sequence[Statement]) -> None:
    """Raise ConfigError for a file of another root, which later errors would not explain."""
    bindings = (statement for statement in statements if isinstance(statement, Binding) and statement.parameter)
    bound = {binding.name.rpartition(".")[2] for binding in bindings}
    if others := sorted(COMMANDS.keys() & bound - {root}):
        raise ConfigError(f"{file} is a {others[0]}. Give it to another command: {COMMANDS[others[0]]} {file}")
    if root in COMMANDS and root not in bound:
        raise ConfigError(f"{file} is no {root}: it binds nothing of {root}.")


def _require_one_method(files: Sequence[str], parsed: Sequence[Sequence[Statement]]) -> None:
    """Raise ConfigError where two files bind different methods, of which the first would have no effect."""
    named = {file: value_of(statements, "Pretraining.method") for file, statements in zip(files, parsed, strict=True)}
    methods = {method.name.rpartition(".")[2]: file for file, method in named.items() if isinstance(method, Reference)}
    if len(methods) > 1:
        given = " and ".join(f"--gin {file} (@{method})" for method, file in methods.items())
        raise ConfigError(
            f"{given} are different methods, and a run has one. To compare methods, name them in a suite, such as "
            f"suite.methods = ('one', 'other'): python -m benchmark.suite --gin FILE. To change a method, include its "
            f"file in yours, and give yours alone."
        )


def execute_imports(root: str, statements: Iterable[Statement], allow_imports: bool) -> list[Import]:
    """Import the module that registers the root and the modules that files import; return the foreign imports.

    Raises ConfigError before any import if a foreign package is not allowed.
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
    OTHERS.update(statement.module for statement in foreign)
    if root in ROOTS:
        with uncollected():
            importlib.import_module(ROOTS[root])
    for statement in imports:
        path = statement.line.source.path
        try:
            importlib.import_module(statement.module)
        except BenchmarkError:
            raise
        except Exception as error:
            reason = located(error)
            if reason is None and not isinstance(error, ImportError):
                raise
            advice = "" if path else " Put its folder on PYTHONPATH."
            raise statement.line.error(f"cannot import {statement.module}: {reason or error}.{advice}") from error
    for statement in foreign:
        _require_beside(statement)
    return foreign


def _require_beside(statement: Import) -> None:
    """Raise ConfigError if a module is beside the gin file and Python imported another one of the same name."""
    path, name = statement.line.source.path, statement.module.split(".")[0]
    file = getattr(sys.modules[name], "__file__", None)
    if path is None or file is None or Path(file).resolve().is_relative_to(path.parent):
        return
    if (path.parent / f"{name}.py").is_file() or (path.parent / name / "__init__.py").is_file():
        raise statement.line.error(
            f"{name} is the module {file}, and not the one beside this file, which needs another name."
        )


def _merge(statements: Iterable[Statement]) -> dict[Key, Binding]:
    """Return the last binding of each parameter and macro."""
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
    parameters = registry.parameters(selector)
    if binding.parameter in parameters:
        return binding.scope, selector, binding.parameter
    if registry.is_supplied(selector, binding.parameter):
        raise binding.line.error(
            f"{binding.name}.{binding.parameter} is positional, so the harness supplies it. Gin may bind what stands "
            f"after the * in its signature."
        )
    close = suggest(binding.parameter, parameters) or f" It has: {', '.join(parameters) or 'none'}."
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
    imports = sorted({f"import {statement.module}\n" for statement in statements if isinstance(statement, Import)})
    text = "".join([*imports, "\n" * bool(imports), resolver.text(f"{root}.seed"), "\n"])
    return Config(text, as_json(node), (*notes, *resolver.notes()))
