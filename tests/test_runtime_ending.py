"""The end of a process: nothing is lost, and modules are not taken apart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import atexit, ctypes, sys, tempfile, threading, time
from benchmark.runtime.ending import leave

class Remains:
    def __del__(self):
        print("taken apart")

remains = Remains()
place = tempfile.TemporaryDirectory(dir=sys.argv[1])
atexit.register(print, "registered")
threading.Thread(target=lambda: time.sleep(0.2) or print("thread"), daemon=False).start()
print("begin", flush=True)
ctypes.CDLL(None).printf(b"from C\\n")
print("line without end", end=" ")
leave(int(sys.argv[2]))
"""
LAUNCHER = """
import runpy
try:
    runpy.run_path("program.py", run_name="__main__")
except SystemExit as end:
    print("launcher goes on after", end.code)
"""
AT_ONCE = "begin line without end thread registered from C"


def ended(tmp_path: Path, *arguments: str, code: int) -> tuple[int, str, bool]:
    """Execute PROGRAM by Python with the arguments: its code, what it prints, and whether its folder is gone."""
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    places = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTHONUNBUFFERED": ""}
    command = [sys.executable, *arguments, str(folder), str(code)]
    process = subprocess.run(command, env=places, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not process.stderr
    return process.returncode, " ".join(process.stdout.split()), not list(folder.iterdir())


@pytest.mark.parametrize("arguments", [("program.py",), ("-m", "program")])
def test_python_is_not_taken_apart(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Oracle: what a thread, what was registered and an object print; the folder of a `TemporaryDirectory` is gone."""
    assert ended(tmp_path, *arguments, code=3) == (3, AT_ONCE, True)


def test_an_interrupted_command_waits_for_nothing(tmp_path: Path) -> None:
    assert ended(tmp_path, "program.py", code=75) == (75, "begin line without end", False)


@pytest.mark.parametrize(
    ("arguments", "code", "more"),
    [
        (("-m", "cProfile", "-o", os.devnull, "program.py"), 0, ""),
        (("-m", "trace", "--count", "-C", "counts", "program.py"), 0, ""),
        (("-m", "pdb", "-c", "continue", "-c", "quit", "program.py"), 0, "exited via sys.exit()"),
        (("launcher.py",), 0, "launcher goes on after 3"),
    ],
)
def test_what_surrounds_a_command_goes_on(tmp_path: Path, arguments: tuple[str, ...], code: int, more: str) -> None:
    """Oracle: the object is taken apart, which Python does at its own end, and what the tool prints."""
    found, printed, is_gone = ended(tmp_path, *arguments, code=3)
    assert (found, is_gone) == (code, True)
    assert "taken apart" in printed
    assert more in printed


def test_an_interactive_session_goes_on() -> None:
    command = [sys.executable, "-i", "-c", "from benchmark.runtime.ending import leave; leave(3)"]
    asked = {"input": "print('goes on')", "cwd": ROOT, "capture_output": True, "text": True, "check": False}
    assert subprocess.run(command, **asked).stdout == "goes on\n"  # type: ignore[call-overload]


def test_files_of_others_are_closed(tmp_path: Path) -> None:
    """Oracle: the text of a file that a module outside the project leaves to Python."""
    (tmp_path / "others.py").write_text("log = open('log.txt', 'w')\nlog.write('its last line')\n")
    (tmp_path / "program.py").write_text(
        "from benchmark.config.load import execute_imports\nfrom benchmark.config.parse import Source, parse\n"
        "from benchmark.runtime.ending import leave\n"
        "execute_imports('', list(parse('import others', Source('mine.gin'))), True)\nleave(0)\n"
    )
    places = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    subprocess.run([sys.executable, "program.py"], env=places, cwd=tmp_path, check=True)
    assert (tmp_path / "log.txt").read_text() == "its last line"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("code", [3, 75])
def test_closed_streams_change_no_code(code: int, closed: str) -> None:
    program = f"from benchmark.runtime.ending import leave; leave({code})"
    shell = f"{sys.executable} -c '{program}' {closed}"
    process = subprocess.run(shell, shell=True, cwd=ROOT, capture_output=True, check=False)
    assert (process.returncode, process.stderr) == (code, b"")


def test_a_stop_within_executed_text_keeps_its_code(tmp_path: Path) -> None:
    """Oracle: 75 of a module, where Python alone ends by SIGINT although the stop was handled; a signal that comes as
    the process ends changes no code."""
    stopped = """
try:
    exec("raise KeyboardInterrupt")
except KeyboardInterrupt:
    pass
"""
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    for number, (code, expected) in enumerate(
        (
            (f"{stopped}raise SystemExit(75)", -signal.SIGINT),
            (f"{stopped}leave(75)", 75),
            (f"{late}; raise SystemExit(0)", -signal.SIGTERM),
            (f"{late}; leave(0)", 0),
        )
    ):
        (tmp_path / f"module{number}.py").write_text(f"from benchmark.runtime.ending import leave\n{code}\n")
        command = [sys.executable, "-m", f"module{number}"]
        paths = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        assert subprocess.run(command, env=paths, cwd=tmp_path, check=False).returncode == expected
