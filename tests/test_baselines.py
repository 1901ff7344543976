"""What several methods share: weights that all learn on a ResNet, heads, momentum copies, bases of containers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from nets16 import hidden, resnet, unlike, untrained
from test_barlow_twins import barlow_twins
from test_byol import byol
from test_dino import dino
from test_ibot import ibot
from test_moby import moby
from test_moco import moco
from test_moco_v3 import moco_v3
from test_msn import msn
from test_simclr import simclr
from test_simsiam import simsiam
from test_vicreg import vicreg
from torch import nn

from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.experiment.dry_run import dry_run
from benchmark.method import Method

BUILDERS: dict[str, Callable[..., Method]] = {
    "barlow_twins": barlow_twins,
    "byol": byol,
    "dino": dino,
    "moby": partial(moby, drop_path=0.0),
    "moco": partial(moco, splits=4),
    "symmetric moco": partial(moco, splits=4, symmetric=True),
    "moco_v3": moco_v3,
    "simclr": simclr,
    "simsiam": simsiam,
    "vicreg": vicreg,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_weight_learns_on_a_resnet(name: str) -> None:
    """Oracle: a finite gradient that is not zero, once the norms that start at zero have moved."""
    method = BUILDERS[name](resnet()).float()
    unlike(method.encoder)
    assert untrained(method) == set()


OUTPUT = [nn.Linear(16, 6, bias=False), nn.BatchNorm1d(6, affine=False)]
THREE_OF_ONE_WIDTH = [*hidden(24, 10), *hidden(10, 10), nn.Linear(10, 10, bias=False)]
HEADS: dict[str, tuple[list[nn.Module], ...]] = {
    "barlow_twins": (THREE_OF_ONE_WIDTH,),
    "byol": tuple([*hidden(inputs, 16), nn.Linear(16, 6, bias=False)] for inputs in (24, 6)),
    "moby": tuple([*hidden(inputs, 16), nn.Linear(16, 6)] for inputs in (24, 6)),
    "moco": ([nn.Linear(24, 24), nn.ReLU(inplace=True), nn.Linear(24, 6)],),
    "moco_v3": ([*hidden(24, 16), *hidden(16, 16), *OUTPUT], [*hidden(6, 16), *OUTPUT]),
    "simsiam": (
        [*hidden(24, 12), *hidden(12, 12), nn.Linear(12, 12, bias=False), nn.BatchNorm1d(12, affine=False)],
        [*hidden(12, 4), nn.Linear(4, 12)],
    ),
    "vicreg": (THREE_OF_ONE_WIDTH,),
}
"""The layers of projectors and predictors by hand. What standardises itself, or fixes a variance, ends without norm."""


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str) -> None:
    """Oracle: the table."""
    method = BUILDERS[name]()
    for head, expected in zip([method.projector, getattr(method, "predictor", None)], HEADS[name], strict=False):
        assert [repr(part) for part in head] == [repr(part) for part in expected]


RISING = (0.9, 0.95, 1 - 0.05 * (1 - 0.5**0.5))
MOMENTA = dict.fromkeys(("byol", "dino", "moby", "moco_v3"), RISING) | {"moco": (0.9,) * 3, "msn": (0.9, 0.95, 0.975)}
"""Momenta at the start, halfway and at three quarters: on half a cosine, constant, and on a line."""


@pytest.mark.parametrize("name", MOMENTA)
def test_copy_holds_no_predictor_and_follows_with_its_momentum(name: str) -> None:
    """Oracle: the weights of encoder and projector, the momentum's share old plus the rest new."""
    method = msn() if name == "msn" else BUILDERS[name]()
    unlike(method.target)
    originals = [*method.encoder.parameters(), *method.projector.parameters()]
    copies = list(method.target.parameters())
    assert [p.shape for p in copies] == [p.shape for p in originals]
    for progress, momentum in zip((0.0, 0.5, 0.75), MOMENTA[name], strict=True):
        expected = [momentum * c + (1 - momentum) * p for c, p in zip(copies, originals, strict=True)]
        method.after_step(progress)
        torch.testing.assert_close(copies, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", [byol, dino, ibot, moby, moco, moco_v3, msn])
def test_an_impossible_momentum_is_refused(build: Callable[..., Method]) -> None:
    """Oracle: the message names the setting."""
    for momentum in (-1.0, 1.1):
        with pytest.raises(ConfigError, match=rf"{type(build()).__name__}\.momentum = {momentum}"):
            build(momentum=momentum)


@pytest.mark.parametrize(("stem", "name"), [("macrl", "MACRL"), ("mixmask_moco", "Mixture"), ("mrcl_simclr", "MRCL")])
def test_a_base_is_needed(stem: str, name: str) -> None:
    """Oracle: the refusal of the configuration names the setting, before anything is built."""
    with pytest.raises(ConfigError, match=rf"{name}\.base"):
        dry_run(configuration.load([f"gin/{stem}.gin"], (f"{name}.base=None",)), Path())
