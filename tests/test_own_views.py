"""A method with views of its own is two files, in a copy of the tree or outside of it, for every command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SMALL

ROOT = Path(__file__).parents[1]
MODULE = '''"""Mean squared distance of projections, of a view in two colours and of the whole image."""

import gin
import torch.nn.functional as F
from torch import Tensor

from benchmark.losses import full_precision
from benchmark.method import Branch, Siamese
from benchmark.nets.encoders import Encoder
from benchmark.nets.heads import mlp
from benchmark.views.recipes import View, ViewLimits


@gin.register
def inverted(limits: ViewLimits, *, solarize_p: float = 1.0) -> tuple[View, ...]:
    """Return the image, and a crop of it whose bright pixels are inverted."""
    whole = View(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    return whole, limits.apply(View(crop_scale=(0.5, 1.0), solarize_p=solarize_p))


@full_precision
def distance_and_spread(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(a, b) + F.relu(1 - a.std(0)).mean()


@gin.register
class Own(Siamese):
    """Mean squared distance, and a hinge on the spread.

    Differs from the paper: there is none.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, mlp(encoder.width, 16, 8, layers=2))

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return distance_and_spread(prediction, target)

    def objective(self, online: dict[int, Branch], targets: dict[int, Tensor]) -> Tensor:
        return self.compare(online[0].projection, targets[1])
'''
GIN = """# Own: nothing is published
#   python -m benchmark.run --gin gin/own.gin
import {module}
Pretraining.name = 'own'
Pretraining.method = @Own
Pretraining.views = @inverted   # our choice: no other method has these
inverted.solarize_p = 0.75      # our choice: seldom not
"""
COMMANDS = """
import json, sys
from types import SimpleNamespace
from benchmark import battery, list, run, suite, tables
from benchmark.boards import jobs
own, more = sys.argv[1], sys.argv[2:]

def process(command, **_):  # runs of the suite are made in this process: each of its own would import torch again
    assert command[:3] == [sys.executable, "-m", "benchmark.run"]
    code = run.main(command[3:])
    return SimpleNamespace(poll=lambda: code, wait=lambda: code)

jobs.subprocess = SimpleNamespace(Popen=process)
small = json.loads(open("small.json").read())
arguments = ["--gin", own, *more, *(part for setting in small for part in ("--set", setting))]
board = ["--gin", "board.gin", *more, "--jobs", "1"]
assert list.main(["--json", "--gin", own]) == 0
print("END OF LIST")
assert battery.main([own]) == 0
assert run.main(arguments) == 0
assert suite.main([*board, "--tune"]) == 0
assert tables.main(["--results", "results"]) == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", [pytest.param("in", marks=pytest.mark.long), "outside"])
def test_run_suite_trials_and_page(place: str, tmp_path: Path) -> None:
    """Oracle: what each command leaves: one line of the list, records that name the recipe and its number, divisions,
    and both pages."""
    root, module, own, more = ROOT, "own", "own.gin", ["--allow-imports"]
    here = {Path(own): GIN, Path("own.py"): MODULE}
    if place == "in":
        root, module, own, more = tmp_path, "baselines.own", "gin/own.gin", []
        for folder in ("benchmark", "baselines", "gin"):
            shutil.copytree(ROOT / folder, tmp_path / folder)
        here = {Path(own): GIN, Path("baselines/own.py"): MODULE}
    settings = (*SMALL, "Budget.amount=64", "KNN.k=3")
    suite = f"""
suite.methods = ('{"own" if place == "in" else own}',)
suite.protocols = ('digits_vit_micro',)
suite.seeds = (0,)
suite.chosen_by = '@KNN'
suite.settings = {(*settings[:-2], "Budget.amount=512", settings[-1])!r}
"""
    files = {path: text.format(module=module) if path.suffix == ".gin" else text for path, text in here.items()}
    for path, text in (files | {Path("board.gin"): suite, Path("small.json"): json.dumps(settings)}).items():
        (tmp_path / path).write_text(text)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", COMMANDS, own, *more]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]

    methods = json.loads(ended.stdout.partition("END OF LIST")[0])["methods"]
    assert [method for method in methods if method["name"] == "own"] == [
        {"gin": own, "name": "own", "views": "inverted", "about": "Own: nothing is published"}
    ]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("r*/*/*.json")]
    ours = [record for record in records if record["method"]["name"] == "own"]
    assert {record["division"] for record in ours} == {"closed", "trial", "tuned"}
    for record in ours:
        assert "Pretraining.views = @inverted\n" in record["config"]["text"]
        assert "inverted.solarize_p = 0.75\n" in record["config"]["text"]
    for page, line in (("index.html", "<bdi>own</bdi>"), ("README.md", "| [own](#differences-own) |")):
        assert line in (tmp_path / "results" / page).read_text()
