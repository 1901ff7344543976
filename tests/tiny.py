"""A small encoder, method and run for the tests of the harness, and settings that make a command small."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.resident import Resident
from benchmark.method import Method, Step, Views
from benchmark.nets.encoders import Encoder, Features
from benchmark.randomness import Draws
from benchmark.training.loop import Training
from benchmark.training.optim import AdamW
from benchmark.views.recipes import View

SMALL = (
    "ViT.width=32",
    "ViT.depth=1",
    "ViT.heads=2",
    "Pretraining.batch_size=32",
    "Budget.kind=samples",
    "experiment.evaluations=(@KNN,)",
    "experiment.curve_points=0",
)
"""Settings over a method's file on the digits; `Budget.amount` is then in images, 32 a step."""


def command(folder: Path, steps: int, *more: str, gin: str = "gin/simclr.gin", seed: int = 0) -> list[str]:
    """Return the arguments of a small run of `steps` steps that writes to `folder`; `more` are further arguments."""
    settings = [part for setting in (*SMALL, f"Budget.amount={32 * steps}") for part in ("--set", setting)]
    return ["--gin", gin, *settings, "--seed", str(seed), "--out", str(folder), *more]


def runs_of(folder: Path, method: str = "*") -> list[Path]:
    """Return the files of the records of a method's runs in `folder`, in the order in which they were written.

    `created_utc` has whole seconds, and small runs take less.
    """
    return sorted(folder.glob(f"{method}-*-s*-*/*.json"), key=lambda path: path.stat().st_mtime_ns)


class TinyEncoder(Encoder):
    """One convolution over 4 px patches with batch norm, averaged: it has buffers and takes no time."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width), nn.ReLU())
        self.name, self.image_size, self.width = "tiny", 8, width

    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: tuple[Tensor, Tensor] | None = None
    ) -> Features:
        return Features(self.net(view).mean((2, 3)))


class TinyMethod(Method):
    """Two views agree and are drawn to noise; it draws by `draws` and, through dropout, by torch's own generator."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, 4)

    def forward(self, views: Views, draws: Draws) -> Step:
        a, b = (self.head(F.dropout(self.encoder(view).pooled, 0.2)) for view in views)
        loss = (a - b).square().mean() + (a - draws.rows("noise", 4)).square().mean()
        return Step(loss, {"spread": a.std().detach()})


def training(
    folder: Path, kind: type[Method] = TinyMethod, *, steps: int = 12, seed: int = 0, **changes: Any
) -> Training:
    """Return a run of the method `kind` on 40 random images of 8 px, in batches of 16."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    method = kind(TinyEncoder())  # type: ignore[call-arg]
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = {
        "method": method,
        "optimiser": AdamW(base_rate=0.02, weight_decay=0.05).build(method.param_groups(), 16),
        "views": (View(crop_scale=(0.5, 1.0)),) * method.n_views,
        "data": Resident(images, 16, seed, "cpu"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.3, 0.3, 0.3),
        "steps": steps,
        "schedule_steps": steps,
        "flops_per_step": 7,
        "seed": seed,
        "precision": "float32",
        "device": torch.device("cpu"),
        "folder": folder,
        "key": "the-key",
        "checkpoint_seconds": 600.0,
    }
    return Training(**(settings | changes))
