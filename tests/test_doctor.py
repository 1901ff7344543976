"""The doctor: a sound machine, planted faults that are named while all else is still reported, and nothing private."""

import contextlib
import math
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from PIL import Image
from tiny import SMALL

from benchmark import doctor
from benchmark.boards.inventory import data_sets, shipped
from benchmark.config import load as configuration
from benchmark.experiment import environment, machine
from benchmark.method import Step
from benchmark.storage import files
from benchmark.training.loop import Training

ROOT = Path(__file__).parents[1]
EXAMINED = ["versions", "imports", "code", "processor", "gpu", "compiler", "disk", "lock", "cache", "digits", "data"]

Plant = Callable[[pytest.MonkeyPatch, Path], None]
Report = dict[str, tuple[str, str]]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Train a small network for a moment, on a machine without NVIDIA's driver and with no data sets of the hub."""
    monkeypatch.setattr(machine, "SECONDS", 0.1)
    monkeypatch.setattr(configuration, "load", partial(configuration.load, settings=SMALL[:4]))
    monkeypatch.setattr(environment, "driver", lambda: None)
    monkeypatch.delenv("SSL_BENCHMARK_DATA", raising=False)


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Report, str]:
    """Return the exit code, the level and figure of each check, and all that was printed."""
    capsys.readouterr()
    code = doctor.main(list(arguments))
    captured = capsys.readouterr()
    lines = [line.split(maxsplit=2) for line in captured.out.splitlines()[:-1]]
    return code, {name: (level, figure) for level, name, figure in lines}, captured.out + captured.err


def test_a_sound_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the names of all checks, versions and counts by hand, and the folders as they were."""
    code, report, text = examine(capsys, "--out", str(tmp_path / "runs"))
    assert list(report) == [*EXAMINED, "training"]
    assert {level for level, _ in report.values()} <= {"ok", "note"}
    assert (code, text.splitlines()[-1]) == (0, "No fault.")
    assert f"torch {metadata.version('torch')}, torchvision {metadata.version('torchvision')}" in report["versions"][1]
    assert report["digits"] == ("ok", "1,442 images of train, 355 of test")
    assert (
        "hub when asked: cifar10, cifar100, imagenet100, imagenet1k, imagenette32, imagenette96, tiny_imagenet"
        in report["data"][1]
    )
    assert "images/s on" in report["training"][1]
    assert not list(tmp_path.iterdir())


def old_pair(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    plain = metadata.requires
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.5.0"] if name == "torchvision" else plain(name))


def missing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(machine, "_needs", lambda: ["python>=3.99", "torch>=99", "absent-package"])


def broken_import(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)


def unwritable_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))


def useless_lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(files, "exclusive", contextlib.nullcontext)


def full_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    usage = shutil.disk_usage(folder)._replace(free=2**28)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def damaged_data(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A cut file, a sound file of the same kind, and a sound folder of images."""
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(folder))
    for name in ("cifar10", "cifar100", "imagenette96/train/a"):
        (folder / name).mkdir(parents=True)
    table = folder / "cifar100/train-00000-of-00001.parquet"
    datasets.Dataset.from_dict({"label": list(range(100))}).to_parquet(table)
    (folder / "cifar10" / table.name).write_bytes(table.read_bytes()[:-9])
    Image.new("RGB", (4, 4)).save(folder / "imagenette96/train/a/0.png")


def incomplete_data(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """An absent shard, a pointer in place of a file, and an empty folder."""
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(folder))
    for name in ("cifar10", "cifar100", "imagenet100"):
        (folder / name).mkdir()
    (folder / "cifar10/train-00001-of-00002.parquet").touch()
    (folder / "cifar100/train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def no_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(folder / "absent"))


def unusable_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "driver", lambda: "470.1")


def no_place_for_runs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "runs").touch()


def raises(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def read() -> None:
        raise ZeroDivisionError("all is lost\nand more")

    monkeypatch.setattr(machine, "digits", read)


@pytest.mark.parametrize(
    ("plants", "faults"),
    [
        ([old_pair], {"versions": "takes torch==2.5.0, and "}),
        (
            [missing, useless_lock],
            {"versions": "absent-package is missing; the project takes python>=3.99, and ", "lock": "keeps nobody out"},
        ),
        ([broken_import, no_folder], {"imports": "import timm: Mod", "data": "$SSL_BENCHMARK_DATA is no folder"}),
        (
            [unwritable_cache, raises],
            {
                "cache": "$XDG_CACHE_HOME/ssl-benchmark/pixels cannot be written to",
                "digits": "ZeroDivisionError at test_doctor.py:",
            },
        ),
        (
            [unusable_gpu, full_disk],
            {
                "gpu": "driver 470.1 is there, but torch ",
                "disk": "0.25 GiB free, of 1 that are needed",
                "cache": "Make room, or set XDG_CACHE_HOME",
            },
        ),
        ([no_place_for_runs], {"lock": "--out cannot be made a folder: --out is a file. Give another place by --out"}),
        ([damaged_data], {"data": "cifar10 is damaged: train-00000-of-00001.parquet: "}),
    ],
)
def test_a_fault_is_named_and_hides_nothing(
    plants: list[Plant],
    faults: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Oracle: words for the planted faults, the last line, all other checks without a fault, and the exit code."""
    for plant in plants:
        plant(monkeypatch, tmp_path)
    code, report, text = examine(capsys, "--no-training", "--out", str(tmp_path / "runs"))
    assert list(report) == EXAMINED
    assert {name for name, (level, _) in report.items() if level == "FAULT"} == set(faults)
    assert all(words in report[name][1] for name, words in faults.items()), report
    assert (code, text.splitlines()[-1]) == (1, f"Faults: {', '.join(faults)}.")
    assert str(tmp_path) not in text


@pytest.mark.parametrize(("factor", "last"), [(math.nan, "nan"), (0.0, "0.00")])
def test_a_training_that_does_not_learn(factor: float, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the losses that were planted."""
    plain = Training.differentiate

    def differentiate(run: Training) -> Step:
        step = plain(run)
        return replace(step, loss=step.loss * factor)

    monkeypatch.setattr(Training, "differentiate", differentiate)
    monkeypatch.setattr(machine, "FEWEST", 2)
    level, figure = doctor._training()
    assert level == "FAULT"
    assert f"to {last}: it does not fall, or is not finite" in figure


def test_sound_data_is_shown_beside_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the splits that were written, and the reason for each folder that cannot be used."""
    sources = {data.name: data.source for data in data_sets(shipped("protocol/*.gin"))}
    for name in ("some", "others"):
        (tmp_path / name).mkdir()
    damaged_data(monkeypatch, tmp_path / "some")
    _, figure = machine.data_sets(sources)
    assert "cifar100 (train); imagenette96 (train); not here, fetched from the hub when asked: imagenet100" in figure
    incomplete_data(monkeypatch, tmp_path / "others")
    level, figure = machine.data_sets(sources)
    assert level == "FAULT"
    for words in ("cifar10 has 1 of 2 shards", "train.parquet is a pointer of Git LFS", "there is neither a Parquet"):
        assert words in figure


def test_an_installed_package_states_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: metadata by hand, as a wheel has them; packages of extras may be absent."""
    (tmp_path / "_gin").mkdir()
    monkeypatch.setattr(machine, "PACKAGE", tmp_path)
    stated = {"ssl-benchmark": ["torch>=2", "absent-package; extra == 'dev'"]}
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    monkeypatch.setattr(metadata, "requires", stated.get)
    assert machine.versions() == ("ok", f"python {platform.python_version()}, torch {metadata.version('torch')}")
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.99"})
    assert machine.versions()[1].startswith("the project takes python>=3.99, and ")


def test_a_gpu_may_be_hidden_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a note in place of the fault of a driver without a GPU."""
    unusable_gpu(monkeypatch, Path())
    assert machine.gpu()[0] == "FAULT"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert machine.gpu()[0] == "note"


def test_each_gpu_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the names and the memory of two simulated GPUs, of which the second then multiplies wrongly."""
    ones = torch.ones
    known = {0: SimpleNamespace(name="First"), 1: SimpleNamespace(name="Second")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", known.__getitem__)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**30, 2**32))
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    level, figure = machine.gpu()
    assert level == "ok"
    assert figure.startswith("First (1 of 4 GiB free), Second (1 of 4 GiB free); driver None, CUDA ")
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape) * (1 + (device == "cuda:1")))
    assert machine.gpu() == ("FAULT", "Second, number 1, multiplies wrongly. Do not train on it.")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_real_gpu() -> None:
    """Oracle: torch's name of it."""
    level, figure = machine.gpu()
    assert level == "ok"
    assert torch.cuda.get_device_name(0) in figure


def test_nothing_private_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: a home, a host and folders with names of their own, also in the message of an error."""
    home = tmp_path / "jane"
    (home / "mine").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("SSL_BENCHMARK_DATA", str(tmp_path / "photos"))
    monkeypatch.setattr("platform.node", lambda: "secret-7.lab.example")
    monkeypatch.chdir(home / "mine")

    def fail() -> None:
        raise OSError(
            f"{home}/x/y on secret-7, /scratch/jane/z/w.txt, /disk/jane, {home}/mine/v, see https://pytorch.org/get/"
        )

    monkeypatch.setattr(machine, "digits", fail)
    _, report, text = examine(capsys, "--no-training")
    assert not any(word in text for word in ("jane", "secret", "scratch", "mine", "photos", str(tmp_path)))
    assert report["cache"][1].startswith("~/.cache/ssl-benchmark/pixels holds 0.0 of at most 8 GiB")
    assert report["digits"][1].endswith(": ~/x/y on HOST, .../w.txt, .../USER, ./v, see https://pytorch.org/get/")


def test_wrong_arguments_are_refused() -> None:
    """Oracle: argparse's code."""
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--training"])
    assert ended.value.code == 2
