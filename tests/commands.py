"""Train every method by the real command: python tests/commands.py OPTION ...

Each gin/*.gin is given with the options to `python -m benchmark.run`, as many at once as there are cores. The first one
starts as users start it. The others are forks of a process that has imported the libraries, which take most of a start,
and nothing of this project; Python then runs the module of the command as ever. The exit code is 1 where one fails.
"""

import os
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "torch._dynamo", "torchvision.transforms.v2", "timm", "sklearn.datasets", "gin")
COMMAND = "benchmark.run"


def start(arguments: list[str]) -> int:
    """Fork a process that runs the command, and return its id."""
    if process := os.fork():
        return process
    sys.argv = [COMMAND, *arguments]
    code: object = 1
    try:
        runpy.run_module(COMMAND, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def main(options: list[str]) -> int:
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork takes no other thread along
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)  # as `python -m` has it, in place of the folder of this file
    first, *others = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("gin/*.gin"))
    subprocess.run([sys.executable, "-m", COMMAND, "--gin", first, *options], check=True)
    for name in LIBRARIES:
        import_module(name)
    running: dict[int, str] = {}
    failed: list[str] = []
    while others or running:
        while others and len(running) < (os.cpu_count() or 1):
            file = others.pop(0)
            running[start(["--gin", file, *options])] = file
        process, status = os.wait()
        file = running.pop(process)
        if status:
            failed.append(file)
            others.clear()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
