"""What a record says of the machine."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from report_records import EXAMPLE

from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.experiment import environment
from benchmark.report.record import seal, validate

ROOT = Path(__file__).parents[1]


def test_description_is_valid_in_a_record() -> None:
    """Oracle: the schema of records, on the types that JSON keeps."""
    description = environment.environment(torch.device("cpu"), "float32")
    record = seal(EXAMPLE | {"environment": description})
    assert validate(record) == []
    assert json.loads(json.dumps(description)) == description
    assert description["threads"] == torch.get_num_threads()
    assert description["gpu"] is None
    assert "runs_on_device" not in description


def test_runs_that_share_a_device_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the number that the suite gave, in a record that is valid."""
    monkeypatch.setenv("SSL_BENCHMARK_JOBS_ON_DEVICE", "3")
    description = environment.environment(torch.device("cpu"), "float32")
    assert description["runs_on_device"] == 3
    assert validate(seal(EXAMPLE | {"environment": description})) == []


def test_flags_are_found_where_linux_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: lines of /proc/cpuinfo on x86 and on Arm."""
    for listed, flags in (
        ("model name\t: X\nflags\t\t: fpu avx2 ht\n", ["avx2"]),
        ("Features\t: fp asimd bf16\n", ["asimd", "bf16"]),
    ):
        monkeypatch.setattr("benchmark.experiment.environment.Path.read_text", lambda path, listed=listed: listed)
        assert environment.environment(torch.device("cpu"), "float32")["processor_flags"] == flags


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand, which of them multiply bfloat16; a warning where it is emulated."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for flags, capability, precision in (
        ("fma avx2", None, "float32"),
        ("avx2 avx512f", None, "float32"),
        ("avx2 avx512f avx512_bf16", None, "bfloat16"),
        ("avx2 amx_bf16", None, "bfloat16"),
        ("asimd bf16", None, "bfloat16"),
        ("avx2", (8, 0), "bfloat16"),
        ("avx512_bf16", (7, 5), "float32"),
    ):
        monkeypatch.setattr(environment, "_flags", flags.split)
        monkeypatch.setattr(torch.cuda, "is_available", lambda capability=capability: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert environment.native_precision() == precision
        assert len(list(environment.speed_warnings("bfloat16"))) == (precision == "float32")
        assert not list(environment.speed_warnings("float32"))


@pytest.mark.parametrize(("flags", "precision"), [("avx2", "float32"), ("avx512_bf16", "bfloat16")])
def test_every_protocol_takes_the_precision(flags: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the device's, in the text and in the key; a precision that is set stays."""
    monkeypatch.setattr(environment, "_flags", flags.split)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pairs = [file for file in (ROOT / "gin" / "protocol").glob("*_*.gin") if file.read_text().count("include ") == 2]
    assert len(pairs) == 24
    for file in pairs:
        method = "gin/mimco.gin" if "vit" in file.stem else "gin/simclr.gin"
        loaded = configuration.load([method, str(file)])
        assert set(re.findall(r"Pretraining.precision = '(\w+)'", loaded.text)) == {precision}
    bound = configuration.load(["gin/simclr.gin"], ["Pretraining.precision = 'bfloat16'"])
    assert "Pretraining.precision = 'bfloat16'" in bound.text
    auto = configuration.load(["gin/simclr.gin"])
    assert (auto.key("data") == bound.key("data")) == (precision == "bfloat16")


def test_busy_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: three quarters of two cores, and only where several threads would wait for each other."""
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    for load, threads, warns in ((0.4, 2, False), (3.0, 2, True), (3.0, 1, False), (1.4, 2, False), (1.6, 2, True)):
        monkeypatch.setattr(environment.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        warnings = list(environment.speed_warnings("float32"))
        assert ["OMP_NUM_THREADS=1" in warning for warning in warnings] == [True] * warns


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_what_convolutions_on_a_gpu_use(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: cuDNN's own switch, which torch leaves on where it multiplies matrices in float32; none on a CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    assert environment.environment(torch.device("cuda"), "float32")["tf32"] == allowed
    assert not environment.environment(torch.device("cpu"), "float32")["tf32"]


def test_threads_follow_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: with OMP_NUM_THREADS torch's own choice stays, without it every allowed core is used."""
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        environment.use_device()
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(environment, "usable_cores", lambda: 2)
        environment.use_device()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("setting", ["1", "0"])
def test_kernels_repeat_their_bits_unless_set_otherwise(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: torch's switches, and what a record says; float32 is never rounded to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setenv("SSL_BENCHMARK_DETERMINISTIC", setting)
    try:
        environment.use_device()
        assert environment.environment(torch.device("cpu"), "float32")["deterministic"] == (setting == "1")
        assert torch.backends.cudnn.benchmark == (setting == "0")
        assert not torch.backends.cudnn.allow_tf32
    finally:
        environment.set_deterministic(True)
        torch.use_deterministic_algorithms(False)


def test_another_wish_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: an error that names variable and value."""
    monkeypatch.setenv("SSL_BENCHMARK_DETERMINISTIC", "no")
    with pytest.raises(ConfigError, match="SSL_BENCHMARK_DETERMINISTIC = 'no'"):
        environment.use_device()


HELD = """
import ctypes, torch
from benchmark.experiment.environment import keep_freed_memory

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info

def held():
    before = info()
    block = torch.ones(30 * 2**18)
    during = info()
    del block
    return during.hblkhd - before.hblkhd >= 30 * 2**20, info().arena >= during.arena >= before.arena + 25 * 2**20

print(held(), keep_freed_memory(), held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept() -> None:
    """Oracle: glibc's own account of 30 MiB: mapped for themselves and given back, or of the heap, which stays."""
    printed = subprocess.check_output([sys.executable, "-c", HELD], text=True)
    assert printed.strip() == "(True, False) True (False, True)"
