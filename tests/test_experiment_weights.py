"""Weights that are not finite are refused wherever they enter, and a run that ended badly says so."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from report_records import run as record_of
from safetensors.torch import load_file, save_file
from tiny import command

from benchmark.errors import ConfigError
from benchmark.experiment import describe
from benchmark.nets import pretrained
from benchmark.run import main

pytestmark = pytest.mark.usefixtures("one_thread")

BROKEN = "not finite (2): blocks.0.norm1.weight, norm.bias"


@pytest.fixture
def run(out: Path) -> Path:
    """The folder of a finished run of one step."""
    if not list(out.glob("simclr-*")):
        assert main(command(out, 1)) == 0
    return next(out.glob("simclr-*"))


@pytest.fixture
def broken(run: Path, tmp_path: Path) -> Path:
    """Its weights, two of which have one value that is no number or infinite."""
    weights = load_file(run / "encoder.safetensors")
    weights["blocks.0.norm1.weight"][0], weights["norm.bias"][0] = math.nan, -math.inf
    save_file(weights, tmp_path / "broken.safetensors")
    return tmp_path / "broken.safetensors"


def test_what_overflows_is_refused(tmp_path: Path) -> None:
    """Oracle: a number of float64 by hand that no float32 holds."""
    from test_nets_pretrained import vit

    weights = vit().net.state_dict() | {"norm.bias": torch.full((32,), 1e300, dtype=torch.float64)}
    with pytest.raises(ConfigError, match=r"not finite \(1\): norm.bias"):
        pretrained.fit(vit(), weights, "x", "run")


@pytest.mark.parametrize(
    ("gin", "setting"),
    [("gin/simclr.gin", "experiment.init='{}'"), ("gin/mimco.gin", "experiment.teacher_weights='{}'")],
)
def test_a_run_refuses_them(
    gin: str, setting: str, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the tensors that the test broke, before anything is written."""
    assert main(command(tmp_path / "out", 2, "--set", setting.format(broken), gin=gin)) == 2
    printed = capsys.readouterr().err
    assert BROKEN in printed
    assert str(broken) in printed
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize(
    ("changes", "name", "is_warned"),
    [
        ({"training__collapsed": True, "training__effective_rank": 1.2}, "alpha (collapsed)", True),
        ({"status": "diverged", "training__collapsed": True}, "alpha (diverged)", False),
        ({}, "alpha", False),
    ],
)
def test_the_printed_row_names_a_bad_end(
    changes: dict[str, Any], name: str, is_warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the record as the test makes it; the record that is written keeps the name of the method."""
    record = describe.finish(record_of("alpha", 0, 0.5, **changes), [], tmp_path, None)
    printed = capsys.readouterr()
    assert any(line.startswith(f"{name}  ") for line in printed.out.splitlines()), printed.out
    assert ("features of alpha collapsed" in printed.err) == is_warned
    assert record["method"]["name"] == "alpha"
