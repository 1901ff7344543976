"""Parses gin files and settings into statements, without executing or looking up anything.

Gin itself searches includes in the working directory, imports while it parses and does not keep where a value came
from. Here includes are searched beside the including file, and every statement keeps its line for messages.
"""

import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from benchmark.annotations import Reference
from benchmark.errors import ConfigError, MissingError, nearest, shown_path

try:
    from gin import config_parser
except ImportError as error:  # without the package, Python may import a folder gin of the working directory
    raise MissingError("The package gin-config is missing: pip install 'gin-config>=0.5,<0.6'") from error

_BARE_WORD = re.compile(r"[\w./:~+-]+")
LENIENT = ("protocol", "presets")  # folders of shipped files that bind more than each run reads
_SHARED = ("experiment.data", "experiment.encoder", "experiment.evaluations")
_OF_A_METHOD = ("Pretraining.method", "Pretraining.name")
LONGEST = 100  # characters of a name in a message
DEEPEST = 20  # brackets inside each other in a value
_CONSTANTS = {"true": "True", "false": "False", "none": "None"}


@dataclass(frozen=True, eq=False)
class Source:
    """A file, a setting or a stored text; a lenient one may bind values that nothing reads."""

    label: str
    path: Path | None = None
    lenient: bool = False
    is_setting: bool = False


@dataclass(frozen=True, eq=False)
class Line:
    """The line of a statement: its source, number from 1 and text."""

    source: Source
    number: int
    text: str

    @property
    def where(self) -> str:
        """The place as messages show it: `gin/x.gin:3` or `--set 'Name.parameter=value'`."""
        return self.source.label if self.source.is_setting else f"{self.source.label}:{self.number}"

    def error(self, message: str) -> ConfigError:
        """Return an error about this line."""
        shows_text = self.text and not self.source.is_setting
        return ConfigError(f"{self.where}: {message}" + (f"\n    {self.text}" if shows_text else ""))


@dataclass(frozen=True, eq=False)
class Import:
    """`import module`, in any of its forms."""

    module: str
    line: Line


@dataclass(frozen=True, eq=False)
class Include:
    """`include 'file'`."""

    file: str
    line: Line


@dataclass(frozen=True, eq=False)
class Binding:
    """`scope/name.parameter = value`; a macro has no parameter."""

    scope: str
    name: str
    parameter: str
    value: Any
    line: Line

    def __str__(self) -> str:
        return scoped(self.scope, self.name) + (f".{self.parameter}" if self.parameter else "")

    def binds(self, name: str) -> bool:
        """Return whether this binds `name` (`configurable.parameter`) without a scope, with or without modules."""
        return not self.scope and f".{self}".endswith(f".{name}")


Statement = Binding | Import | Include


@dataclass(frozen=True)
class Macro:
    """`%name` as a value."""

    name: str


class _Delegate(config_parser.ParserDelegate):
    """Turns gin's references and macros into plain values, so that parsing looks up nothing."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def parse(text: str, source: Source) -> Iterator[Statement]:
    """Yield the statements of a gin text without executing any. Raises ConfigError with the line of a syntax error."""
    try:
        for statement in _read_by_gin(text):
            line = Line(source, statement.location.line_num, statement.location.line_content.strip())
            if isinstance(statement, config_parser.BindingStatement) and _is_deep(statement.value):
                raise line.error(f"a value has at most {DEEPEST} brackets inside each other.")
            if isinstance(statement, config_parser.BindingStatement):
                yield Binding(statement.scope, statement.selector, statement.arg_name, statement.value, line)
            elif isinstance(statement, config_parser.ImportStatement):
                yield Import(statement.module, line)
            elif isinstance(statement, config_parser.IncludeStatement):
                yield Include(statement.filename, line)
    except SyntaxError as error:
        raise Line(source, error.lineno or 1, (error.text or "").strip()).error(_plain(error.msg)) from None
    except tokenize.TokenError as error:
        message, (number, _) = error.args
        raise Line(source, number, "").error(f"{message}: is a bracket or a quote left open?") from None
    except RecursionError:
        raise Line(source, 1, "").error(
            "its brackets are nested too deeply to be read; a value is a flat list."
        ) from None


@lru_cache(maxsize=256)  # a suite loads the same files for each of its runs
def _read_by_gin(text: str) -> tuple[Any, ...]:
    """Return gin's own statements of a text."""
    return tuple(config_parser.ConfigParser(text, _Delegate()))


def _is_deep(value: object, depth: int = 0) -> bool:
    """Return whether brackets are nested so deeply that what copies or prints a value could run out of stack."""
    if not isinstance(value, dict | list | tuple):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return depth >= DEEPEST or any(_is_deep(part, depth + 1) for part in parts)


def _plain(message: str) -> str:
    """Return gin's message about a syntax error in words that say what to do."""
    if word := re.search(r"Failed to parse token '(.*)'", message, re.DOTALL):
        return f"{word[1]} is no value. Put text in quotes ('{word[1]}'); constants are True, False and None."
    if message.startswith("Expected newline"):
        return "the line goes on after its value. A value is one literal, @Reference or %MACRO, without arithmetic."
    return message


def parse_setting(setting: str) -> Binding:
    """Parse `Name.parameter=value` or `MACRO=value`.

    Quotes may be missing, since shells remove them: a bare word or path is text; true, false and none are constants.
    Raises ConfigError.
    """
    source = Source(f"--set {setting!r}", is_setting=True)
    name, equals, value = (part.strip() for part in setting.partition("="))
    if not (equals and name and value) or len(setting.splitlines()) > 1:
        raise ConfigError(f"{source.label}: expected one binding such as 'Name.parameter=value'.")
    value = _CONSTANTS.get(value.lower(), value)
    try:
        statements = list(parse(f"{name} = {value}", source))
    except ConfigError:
        if not _BARE_WORD.fullmatch(value):
            raise
        statements = list(parse(f"{name} = {value!r}", source))
    if len(statements) != 1 or not isinstance(statements[0], Binding):
        raise ConfigError(f"{source.label}: expected one binding such as 'Name.parameter=value'.")
    return statements[0]


@cache
def shipped_folder() -> Path:
    """Return the resolved folder of the shipped gin files: in the package once installed, in a checkout beside it."""
    package = Path(__file__).parents[1]
    return (package / "_gin" if (package / "_gin").is_dir() else package.parent / "gin").resolve()


def locate(name: str, beside: Path) -> Path:
    """Return the path of the file `name`: relative to the folder `beside`, else to the shipped folder."""
    shipped = shipped_folder()
    candidates = (beside / name, shipped / name.removeprefix("gin/"))
    try:
        for candidate in candidates:
            if candidate.is_file():
                return candidate.resolve()
    except OSError as error:
        raise ConfigError(f"no file can have the name {name[:LONGEST]!r}: {error.strerror}.") from None
    if any(candidate.is_dir() for candidate in candidates):
        raise ConfigError(f"{name!r} is a folder; expected a gin file.")
    files = [Path("gin", path.relative_to(shipped)) for path in sorted(shipped.rglob("*.gin"))]
    stem = nearest(Path(name).stem, {file.stem for file in files})
    same_stem = [file for file in files if file.stem == stem]  # a method, its paper and its probe share a name
    close = min(same_stem, key=lambda file: (file.parent.name != Path(name).parent.name, len(file.parts)), default=None)
    raise ConfigError(f"there is no file {name!r}." + (f" Did you mean {close.as_posix()}?" if close else ""))


def read_files(files: Sequence[str]) -> list[list[Statement]]:
    """Return the statements of each file named on the command line, with those of its includes.

    A name is a path, else a name in the shipped folder. Raises ConfigError for a file that is missing, given twice,
    without any binding or not gin.
    """
    parsed: dict[Path, list[Statement]] = {}
    for file in files:
        try:
            path = locate(file, Path())
        except ConfigError as error:
            raise ConfigError(f"--gin: {error}") from None
        if path in parsed:
            raise ConfigError(f"--gin {file} is given twice.")
        parsed[path] = read(path)
        if not any(isinstance(statement, Binding) for statement in parsed[path]):
            raise ConfigError(f"--gin {file} binds nothing.")
    return list(parsed.values())


def is_bound(statements: Iterable[Statement], name: str) -> bool:
    """Return whether a statement binds `name` (`configurable.parameter`) without a scope."""
    return any(isinstance(statement, Binding) and statement.binds(name) for statement in statements)


def value_of(statements: Sequence[Statement], name: str) -> Any:
    """Return the value of the last unscoped binding of `name`, None without one."""
    values = (line.value for line in reversed(statements) if isinstance(line, Binding) and line.binds(name))
    return next(values, None)


def is_protocol(statements: Sequence[Statement]) -> bool:
    """Return whether a file with its includes binds data, encoder or evaluations, and no method."""
    is_shared = any(is_bound(statements, name) for name in _SHARED)
    return is_shared and not any(is_bound(statements, name) for name in _OF_A_METHOD)


def shipped_macros() -> set[str]:
    """Return the names of the macros that the shipped protocols define for methods to read."""
    statements = (line for path in shipped_folder().glob("protocol/*.gin") for line in read(path))
    return {str(line) for line in statements if isinstance(line, Binding) and not line.parameter}


def read(path: Path) -> list[Statement]:
    """Return the bindings and imports of a file and its includes, in the order of their effect.

    Includes are searched beside the including file, then in the shipped folder. Raises ConfigError.
    """
    return _read(path, set())


def _read(path: Path, seen: set[Path]) -> list[Statement]:
    seen.add(path)
    shipped = shipped_folder()
    lenient = any(path.is_relative_to(shipped / folder) for folder in LENIENT)
    source = Source(label(path), path, lenient=lenient)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file by a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source.label} cannot be read: {error}") from None
    statements: list[Statement] = []
    for statement in parse(text, source):
        if not isinstance(statement, Include):
            statements.append(statement)
            continue
        if any(isinstance(earlier, Binding) and earlier.line.source is source for earlier in statements):
            raise statement.line.error("includes must stand before all bindings; here it would undo those above it.")
        try:
            included = locate(statement.file, path.parent)
        except ConfigError as error:
            raise statement.line.error(str(error)) from None
        if included in seen:
            raise statement.line.error(f"{label(included)} is included twice; its values would be reset.")
        statements += _read(included, seen)
    return statements


def label(path: Path) -> str:
    """Return how messages and lists name a file, by its resolved path: a shipped one as gin/..."""
    shipped = shipped_folder()
    is_shipped = path.is_relative_to(shipped)
    return f"gin/{path.relative_to(shipped).as_posix()}" if is_shipped else shown_path(str(path))


def scoped(scope: str, name: str) -> str:
    """Return `scope/name`, or the name alone without a scope."""
    return f"{scope}/{name}" if scope else name
