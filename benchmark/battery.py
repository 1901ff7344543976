"""Check what a method owes the harness, on a tiny encoder and random views: `python -m benchmark.battery my.gin`.

The modules that the gin files import are executed, also those outside this project.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError, CheckError, command_parser, first_line, method_errors, reported
from benchmark.runtime import sharing
from benchmark.runtime.collector import uncollected
from benchmark.runtime.ending import leave


@reported
def main(arguments: Sequence[str] | None = None) -> int:
    sharing.require_one_process("benchmark.battery")
    parser = command_parser("battery", __doc__, "0 all checks pass, 2 configuration refused, 4 a check failed.")
    parser.add_argument("gin", nargs="+", metavar="FILE", help="the gin file of a method; a protocol may follow")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="one binding")
    parser.add_argument("--paired", action="store_true", help="its draws pair the rows of the batch, so order matters")
    options = parser.parse_args(arguments)
    with uncollected():
        from benchmark.checks.checks import CHECKS, order_of_the_batch_is_irrelevant
        from benchmark.checks.subject import TINY, NotApplicable, Subject
        from benchmark.config import load as configuration
        from benchmark.config.parse import is_bound, read_files
        from benchmark.experiment.stage import Stage

    bound = [statement for statements in read_files(options.gin) for statement in statements]
    tiny = () if is_bound(bound, "experiment.encoder") else TINY
    config = configuration.load(options.gin, [*tiny, *options.settings], allow_imports=True)
    subject = Subject(Stage.open(config, Path()))
    name, failed = subject.stage.pretraining.name, 0
    for title, check in CHECKS.items():
        words = title.replace("_", " ")
        try:
            with method_errors(words, subject.stage.pretraining.method):
                if check is order_of_the_batch_is_irrelevant:
                    order_of_the_batch_is_irrelevant(subject, options.paired)
                else:
                    check(subject)
            print(f"ok      {words}", flush=True)
        except NotApplicable as reason:
            print(f"-       {words}: {reason}", flush=True)
        except (AssertionError, BenchmarkError) as problem:
            failed += 1
            print(f"FAILED  {words}: {_explained(problem).removeprefix(f'{words}: ')}", flush=True)
    if failed:
        raise CheckError(f"{failed} of {len(CHECKS)} checks of {name} failed.")
    return 0


def _explained(problem: Exception) -> str:
    """Return what a check says, in one line where it compared tensors."""
    if isinstance(problem, BenchmarkError):
        return str(problem)
    parts = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(parts[:3]) or first_line(problem)


if __name__ == "__main__":
    leave(main())
