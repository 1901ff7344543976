"""The wheel: it holds the gin files inside the package, and what is installed runs without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the build backend is not installed: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = ["pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    done = subprocess.run([sys.executable, "-m", *build], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("ssl_benchmark-*.whl")
    return path


def test_wheel_holds_code_gin_files_and_templates(wheel: Path) -> None:
    """Oracle: the files of the checkout; a folder `gin` at the top would shadow the package gin-config."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"benchmark/_gin/{path.relative_to(ROOT / 'gin')}" for path in (ROOT / "gin").rglob("*.*")}
    for package in ("benchmark", "baselines"):
        expected |= {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
    expected.add("benchmark/report/defaults_of_schema_1.txt")
    expected |= {
        str(path.relative_to(ROOT)) for each in ("jinja", "css", "js") for path in ROOT.glob(f"benchmark/page/*.{each}")
    }
    assert names == expected


def test_installed_package_finds_its_gin_files(wheel: Path, tmp_path: Path) -> None:
    """Oracle: a dry run from an empty folder, with the unpacked wheel as the only copy of the project."""
    unpacked, empty = tmp_path / "unpacked", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(unpacked)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.run", "--gin", "gin/mrcl_bt.gin", "--dry-run"],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "MRCL.base = @BarlowTwins" in done.stdout
    assert "digits, 1,442 images to pretrain on" in done.stdout
    assert not list(empty.iterdir())
