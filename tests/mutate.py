"""Plant one small mistake at a time in a copy of the tree and see whether a test notices.

Without names the subjects are the methods, the nets, and the modules that methods import. A mutant that no test catches
is printed as `file:line  before -> after`, and the exit code is 1. The tests of benchmark/nets/queue.py are
tests/test_nets_queue.py; where that is no file, all that import the module. Mutants that survive them meet the tests of
the methods that import what was changed.
"""

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WITH_SLOW = "not long and not acceptance and not slurm"  # the tests of CI, of which pytest leaves the slow ones out
PRELOADED = ("torch", "torchvision.transforms.v2", "timm", "sklearn.linear_model", "lightly.loss", "gin", "pytest")
PAIRS = ((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq))
EXCHANGED = {old: new for pair in (*PAIRS, (ast.And, ast.Or)) for old, new in (pair, pair[::-1])}
CLOSED = (ast.stmt, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Call)  # these need no parentheses


class Mutant(NamedTuple):
    """One mistake, from `line` to `end` of a file, in a `definition`; `text` is the whole file with it."""

    line: int
    end: int
    definition: str | None
    before: str
    after: str
    text: str


def changed(node: ast.AST, **fields: object) -> ast.AST:
    return type(node)(**(vars(node) | fields))


def mistakes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield `(old, new)` for each mistake at `node`; `old` is the node itself or a condition in it."""
    match node:
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield node, ast.Constant(value * 2 if value else 1)
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node, node.operand
        case ast.Subscript(slice=ast.Constant(value=0 | 1 as index)):
            yield node, changed(node, slice=ast.Constant(1 - index))
        case ast.Compare(ops=[op, *others]) if type(op) in EXCHANGED:
            yield node, changed(node, ops=[EXCHANGED[type(op)](), *others])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in EXCHANGED:
            yield node, changed(node, op=EXCHANGED[type(op)]())
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Subscript()]):
            yield node, ast.Pass()
        case ast.Call(func=ast.Attribute(attr="detach")):
            yield node, node.func.value
        case ast.Call(func=ast.Attribute(attr="no_grad" | "inference_mode")):
            yield node, changed(node, func=changed(node.func, attr="enable_grad"))
        case ast.Call():
            for place, (first, second) in enumerate(pairwise(node.args)):
                yield node, changed(node, args=[*node.args[:place], second, first, *node.args[place + 2 :]])
            for dropped in node.keywords:
                yield node, changed(node, keywords=[keyword for keyword in node.keywords if keyword is not dropped])
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) | ast.comprehension(ifs=[test]):
            if not isinstance(test, ast.UnaryOp):  # of `not` the operand is yielded above
                yield test, ast.UnaryOp(ast.Not(), test)
    if isinstance(node, ast.AugAssign):
        yield node, ast.Pass()


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk `node` without annotations, the errors that it raises, and texts with values."""
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            skipped = name in ("annotation", "returns") or not isinstance(child, ast.AST)
            if not skipped and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield from executed(child)


def mutants(text: str) -> Iterator[Mutant]:
    """Yield all mutants of a module's text, each once; outside of the changed node the text stays as it is."""
    source = text.encode()  # ast counts columns in bytes
    starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
    seen = {ast.unparse(ast.parse(text))}
    for definition in ast.parse(text).body:
        for old, new in (pair for node in executed(definition) for pair in mistakes(node)):
            after = ast.unparse(new)
            planted = after if isinstance(new, CLOSED) else f"({after})"
            begin, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
            whole = (source[:begin] + planted.encode() + source[end:]).decode()
            normal = ast.unparse(ast.parse(whole))
            if normal not in seen:
                seen.add(normal)
                name = getattr(definition, "name", None)
                yield Mutant(old.lineno, old.end_lineno, name, ast.unparse(old), after, whole)


def module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts)


def imports(file: Path) -> set[tuple[str | None, str]]:
    """Return the pairs of module and name that a file imports by `from ... import`."""
    nodes = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.ImportFrom)]
    return {(node.module, alias.name) for node in nodes for alias in node.names}


def is_imported(file: Path, by: Path) -> bool:
    """Return whether a file imports a module or something of it."""
    return any(module(file) in (source, f"{source}.{name}") for source, name in imports(by))


def files(folder: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


def test_file(file: Path) -> Path:
    return Path("tests", "_".join(("test", *file.parts[1:])))


def stages(file: Path, definition: str | None) -> list[list[Path]]:
    """Return the test files of a module, then those of the methods that import what was changed, or the module."""
    users = {path: [name for whose, name in imports(path) if whose == module(file)] for path in files("baselines")}
    exact = [path for path in users if definition in users[path]] or [path for path in users if users[path]]
    first = [test_file(file)]
    if not (ROOT / first[0]).exists():
        first = [test for test in files("tests") if is_imported(file, test)]
        users_here = (path for path in files("benchmark") if is_imported(file, path))
        first = first or [test_file(path) for path in users_here if (ROOT / test_file(path)).exists()]
    then = [test_file(path) for path in exact if (ROOT / test_file(path)).exists()]
    return [stage for stage in (first, then) if stage]


def start(tree: Path, tests: list[list[Path]], seconds: float) -> int:
    """Fork a process that runs lists of tests in `tree`, one after the other until the first failure; return its id."""
    if process := os.fork():
        return process
    signal.alarm(int(seconds))  # ends a mutant that hangs, which thereby is caught
    output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path[0] = str(tree)
    run = importlib.import_module("pytest").main
    codes = (int(run(["-x", "-m", WITH_SLOW, "-p", "no:cacheprovider", *map(str, stage)])) for stage in tests)
    os._exit(next((code for code in codes if code), 0))


def subjects(names: list[str]) -> list[Path]:
    """Return the files of paths or names (`queue`, `nets_queue`), relative to the root; by default those of methods."""
    modules = [*files("baselines"), *files("benchmark")]
    if names:
        return [p for p in modules if {str(p), p.stem, test_file(p).stem.removeprefix("test_")} & set(names)]
    used = {whose for path in files("baselines") for whose, _ in imports(path)}
    return [path for path in modules if path.parent.name in ("baselines", "nets") or module(path) in used]


def survivors(file: Path, planted: list[Mutant], trees: list[Path]) -> Iterator[Mutant]:
    """Run the tests against each mutant of a file, one in each tree at a time, and yield those that pass."""
    began, waiting = time.monotonic(), list(planted)
    needed = {test for mutant in planted for stage in stages(file, mutant.definition) for test in stage}
    if os.waitpid(start(trees[0], [sorted(needed)], 3600), 0)[1]:
        raise SystemExit(f"Without a mistake the tests of {file} fail:\n{(trees[0] / 'output.txt').read_text()}")
    seconds = 10 + 5 * (time.monotonic() - began)
    free, running = list(trees), {}
    while waiting or running:
        while waiting and free:
            tree, mutant = free.pop(), waiting.pop(0)
            (tree / file).write_text(mutant.text)
            running[start(tree, stages(file, mutant.definition), seconds)] = tree, mutant
        process, status = os.wait()
        tree, mutant = running.pop(process)
        shutil.copy(ROOT / file, tree / file)
        free.append(tree)
        if status == 0:
            yield mutant


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FILE.py or NAME")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N mutants of each file, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes; all cores")
    options = parser.parse_args()
    chosen = subjects(options.names)
    if not chosen:
        parser.error(f"no module has the path or the name {' or '.join(options.names)}")
    if untested := [str(file) for file in chosen if not stages(file, None)]:
        parser.error(f"no test imports {', '.join(untested)}, so that no mutant could be caught")
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # a fork takes no other thread along
    sys.dont_write_bytecode = True  # a cached module of the same second and size would be stale
    for name in PRELOADED:
        importlib.import_module(name)
    counts = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder, str(job)) for job in range(options.jobs)]
        for tree in trees:
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
        for file in chosen:
            planted = list(mutants((ROOT / file).read_text()))
            if options.sample is not None and options.sample < len(planted):
                planted = random.Random(options.seed).sample(planted, options.sample)
            counts[0] += len(planted)
            for mutant in survivors(file, planted, trees):
                counts[1] += 1
                print(f"{file}:{mutant.line}  {mutant.before}  ->  {mutant.after}", flush=True)
    print(f"{counts[1]} of {counts[0]} mutants survived")
    return int(counts[1] > 0)


if __name__ == "__main__":
    sys.exit(main())
