"""What several methods share: weights that all learn on a ResNet, the momentum of a copy, the base of a container."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from nets16 import resnet, unlike, untrained
from test_barlow_twins import barlow_twins
from test_byol import byol
from test_dino import dino
from test_moby import moby
from test_moco import moco
from test_moco_v3 import moco_v3
from test_simclr import simclr
from test_simsiam import simsiam
from test_vicreg import vicreg

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


@pytest.mark.parametrize("name", ["byol", "dino", "moby", "moco_v3"])
def test_copy_holds_no_predictor_and_its_momentum_rises(name: str) -> None:
    """Oracle: the weights of encoder and projector, 1 - 0.1 (cos(pi p) + 1) / 2 old plus the rest new."""
    method = BUILDERS[name]()
    originals = [*method.encoder.parameters(), *method.projector.parameters()]
    copies = list(method.target.parameters())
    assert [p.shape for p in copies] == [p.shape for p in originals]
    for progress, momentum in ((0.0, 0.9), (0.5, 0.95), (0.75, 1 - 0.05 * (1 - 0.5**0.5))):
        expected = [momentum * c + (1 - momentum) * p for c, p in zip(copies, originals, strict=True)]
        method.after_step(progress)
        torch.testing.assert_close(copies, expected, rtol=1e-12, atol=1e-12)


def test_an_impossible_momentum_is_refused() -> None:
    """Oracle: the message names the setting."""
    for name, setting in (
        ("byol", "BYOL"),
        ("dino", "DINO"),
        ("moby", "MoBY"),
        ("moco", "MoCo"),
        ("moco_v3", "MoCoV3"),
    ):
        for momentum in (-1.0, 1.1):
            with pytest.raises(ConfigError, match=rf"{setting}\.momentum = {momentum}"):
                BUILDERS[name](momentum=momentum)


@pytest.mark.parametrize(("stem", "name"), [("macrl", "MACRL"), ("mixmask_moco", "Mixture"), ("mrcl_simclr", "MRCL")])
def test_a_base_is_needed(stem: str, name: str) -> None:
    """Oracle: the refusal of the configuration names the setting, before anything is built."""
    with pytest.raises(ConfigError, match=rf"{name}\.base"):
        dry_run(configuration.load([f"gin/{stem}.gin"], (f"{name}.base=None",)), Path())
