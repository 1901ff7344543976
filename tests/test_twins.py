"""Twin trajectories: every baseline and lightly from the same weights on the same views, 200 steps in float32.

Ours is a run of the training loop. Theirs is a plain loop over lightly's modules and losses, in the order of the paper
or of its authors' code. Where a method differs from lightly by intent, its twin says so. What a single step cannot
show is the order of optimiser, momentum and queue, the mode of batch norms, the groups of weight decay and the
schedule. Mistakes of these kinds are planted at the end, and the trajectory leaves its band.

The networks of both sides have GELU where the methods have ReLU. The gradient of a ReLU jumps at 0: where rounding
moves a value across it, two equal trainings part, on one processor and not on another.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    IBOTPatchLoss,
    MSNLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    VICRegLoss,
)
from lightly.models.batchnorm import SplitBatchNorm
from lightly.models.modules import (
    DINOProjectionHead,
    MaskedVisionTransformerTIMM,
    MoCoProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
)
from lightly.models.modules.heads import MSNProjectionHead, ProjectionHead
from lightly.models.utils import (
    batch_unshuffle,
    deactivate_requires_grad,
    get_weight_decay_parameters,
    normalize_mean_var,
    patchify,
    update_momentum,
)
from lightly.utils import lars
from lightly.utils.scheduler import cosine_schedule
from nets16 import vit
from test_nets_decoder import LightlyAutoencoder
from timm.models.vision_transformer import VisionTransformer
from tiny import TinyEncoder, training
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.barlow_twins import BarlowTwins
from baselines.byol import BYOL
from baselines.dino import DINO
from baselines.ibot import IBOT
from baselines.mae import MAE
from baselines.moco import MoCo
from baselines.moco_v3 import MoCoV3
from baselines.msn import MSN
from baselines.simclr import SimCLR
from baselines.simsiam import SimSiam
from baselines.vicreg import VICReg
from benchmark.data.resident import Resident
from benchmark.method import Method
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.masking import masked_blocks
from benchmark.randomness import Draws
from benchmark.training import optim
from benchmark.training.loop import Training
from benchmark.training.optim import LARS, SGD, AdamW, OptimiserSpec, schedule

STEPS, WARMUP, BATCH, SEED = 200, 20, 16, 0
LOSS_BAND = 1e-4  # of the loss of every step
WEIGHT_BAND = 1e-3  # of the largest value of a final tensor, or of 1e-3 in one that is zero but for rounding

CHANNELS, HIDDEN, WIDTH = 16, 32, 16  # of `TinyEncoder` and of the heads
MOMENTUM, SPLITS = 0.9, 4
DECODER = partial(PixelDecoder, width=16, depth=1, heads=2)

PROTOTYPES, RESTING, RISING = (
    24,
    10,
    20,
)  # of DINO and iBOT; steps in which they rest, and in which the temperature rises

NAMES = {
    "backbone.": "encoder.net.",
    "projector.layers.": "projector.",
    "predictor.layers.": "predictor.",
    "backbone_momentum.": "target.encoder.net.",
    "projector_momentum.layers.": "target.projector.",
    "projector.last_layer.weight_v": "projector.5.weight",
    "projector_momentum.last_layer.weight_v": "target.projector.5.weight",
    "criterion.memory_bank.bank": "queue.keys",
    "masked.vit.": "encoder.net.",
    "masked_momentum.vit.": "target.encoder.net.",
    "prototypes.weight": "prototypes.0.weight",
    "net.encoder.vit.": "encoder.net.",
    "net.decoder.pos_embed": "restore.decoder.positions",
    "net.decoder.": "restore.decoder.",
    "net.embed.": "restore.decoder.embed.",
    "net.predict.": "restore.decoder.predict.",
}
"""Our names of the parts of twins. A tensor without one has no part in the training."""


class Twin(nn.Module):
    """Lightly's side of a method; `forward` returns the loss of step t."""

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters, batch-norm statistics and queue by our names."""
        tensors = {}
        for theirs, tensor in [*self.named_parameters(), *self.named_buffers()]:
            prefix = next((prefix for prefix in NAMES if theirs.startswith(prefix)), None)
            if prefix is not None and tensor.is_floating_point() and tensor.numel():
                tensors[NAMES[prefix] + theirs.removeprefix(prefix)] = tensor.data
        return tensors

    def groups(self) -> list[tuple[list[nn.Module], bool]]:
        """Return the trained modules, and whether the schedule moves their rate."""
        return [([self], True)]

    def before(self, t: int) -> None:
        """Act before the forward pass of step t; once more after the last step."""

    def after_backward(self, t: int) -> None:
        """Act before the optimiser's step t."""

    def decay(self, t: int, decay: float) -> float:
        """Return the weight decay in step t, where `decay` is that of the optimiser."""
        return decay

    def after(self, t: int) -> None:
        """Act after the optimiser's step t."""


class MomentumTwin(Twin):
    """Backbone, projector and their copies, which move by lightly's function and stay in train mode."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector
        self.backbone_momentum, self.projector_momentum = copy.deepcopy((backbone, projector))
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projector_momentum)

    def move(self, m: float) -> None:
        update_momentum(self.backbone, self.backbone_momentum, m=m)
        update_momentum(self.projector, self.projector_momentum, m=m)

    @torch.no_grad()
    def key(self, view: Tensor) -> Tensor:
        return self.projector_momentum(self.backbone_momentum(view))


def tiny(norm: nn.Module) -> nn.Module:
    """Return the layers of `TinyEncoder`."""
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 4, 4), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def head(inputs: int, *, layers: int = 2, width: int = WIDTH, last: nn.Module | None = None) -> ProjectionHead:
    """Return a head of lightly with neither bias nor, unless given, batch norm in its last layer.

    Lightly's heads of BYOL and Barlow Twins have that bias, which the authors' code has not. Its head of SimCLR has the
    batch norm, without which ours differs from the paper.
    """
    hidden = [(n, HIDDEN, nn.BatchNorm1d(HIDDEN), nn.ReLU()) for n in (inputs, HIDDEN)[: layers - 1]]
    return ProjectionHead([*hidden, (HIDDEN, width, last, None, False)])


def autoencoder() -> LightlyAutoencoder:
    return LightlyAutoencoder(vit(), DECODER(vit()))


def rising(t: int) -> float:
    """Return a momentum that rises to 1 at step `STEPS`, by lightly's schedule, which ends a step earlier."""
    return cosine_schedule(t, STEPS + 1, MOMENTUM, 1.0)


class SimCLRTwin(Twin):
    """Both views pass the network together, as in the authors' code; in lightly's example each passes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.projector = tiny(nn.BatchNorm2d(CHANNELS)), head(CHANNELS)
        self.criterion = NTXentLoss(temperature=0.5)

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        return self.criterion(*self.projector(self.backbone(torch.cat(views))).chunk(2))


class MoCoTwin(MomentumTwin):
    """As in lightly's example the copies move before the forward pass, and the criterion holds the queue.

    The momentum is constant, as in the paper; that of the example rises. The batch norms of images are split.
    """

    def __init__(self) -> None:
        super().__init__(tiny(SplitBatchNorm(CHANNELS, SPLITS)), MoCoProjectionHead(CHANNELS, CHANNELS, WIDTH))
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(4 * BATCH, WIDTH))

    def before(self, t: int) -> None:
        self.move(MOMENTUM)

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        order = Draws(SEED, t, BATCH).shared(("shuffle", 1), BATCH).argsort()  # lightly's batch_shuffle draws its own
        keys = batch_unshuffle(self.key(views[1][order]), order)
        return self.criterion(self.projector(self.backbone(views[0])), keys)


class MoCoV3Twin(MomentumTwin):
    """Algorithm 1 of the paper on lightly's heads; the projector is that of lightly's SimSiam.

    As in ours a momentum is that of the step before; in the authors' code it is that of the step.
    """

    def __init__(self) -> None:
        super().__init__(tiny(nn.BatchNorm2d(CHANNELS)), SimSiamProjectionHead(CHANNELS, HIDDEN, WIDTH))
        self.predictor = head(WIDTH, last=nn.BatchNorm1d(WIDTH, affine=False))

    def before(self, t: int) -> None:
        if t > 0:
            self.move(rising(t - 1))

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        (q1, q2), (k1, k2) = (
            [F.normalize(encode(view), dim=1) for view in views]
            for encode in (lambda view: self.predictor(self.projector(self.backbone(view))), self.key)
        )
        labels, tau = torch.arange(BATCH), 0.2
        return sum(2 * tau * F.cross_entropy(q @ k.T / tau, labels) for q, k in ((q1, k2), (q2, k1)))


class BYOLTwin(MomentumTwin):
    """Eq. 2 by lightly's cosine. The copies move after a step, as in the authors' code; in lightly's example before."""

    def __init__(self) -> None:
        super().__init__(tiny(nn.BatchNorm2d(CHANNELS)), head(CHANNELS))
        self.predictor = head(WIDTH)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        p1, p2 = (self.predictor(self.projector(self.backbone(view))) for view in views)
        z1, z2 = (self.key(view) for view in views)
        return 4 + 2 * (self.criterion(p1, z2) + self.criterion(p2, z1))

    def after(self, t: int) -> None:
        self.move(rising(t))


class SimSiamTwin(Twin):
    """As in lightly's example; the rate of the predictor is constant, as in the authors' code."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.projector = tiny(nn.BatchNorm2d(CHANNELS)), SimSiamProjectionHead(CHANNELS, WIDTH, WIDTH)
        self.predictor = SimSiamPredictionHead(WIDTH, 8, WIDTH)
        self.criterion = NegativeCosineSimilarity()

    def groups(self) -> list[tuple[list[nn.Module], bool]]:
        return [([self.backbone, self.projector], True), ([self.predictor], False)]

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        z1, z2 = (self.projector(self.backbone(view)) for view in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return 0.5 * (self.criterion(z1.detach(), p2) + self.criterion(z2.detach(), p1))


class BarlowTwinsTwin(Twin):
    """As in lightly's example."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.projector = tiny(nn.BatchNorm2d(CHANNELS)), head(CHANNELS, layers=3, width=HIDDEN)
        self.criterion = BarlowTwinsLoss(lambda_param=0.005)

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        return self.criterion(*(self.projector(self.backbone(view)) for view in views))


class VICRegTwin(Twin):
    """As in lightly's example."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.projector = tiny(nn.BatchNorm2d(CHANNELS)), head(CHANNELS, layers=3, width=HIDDEN)
        self.criterion = VICRegLoss()

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        return self.criterion(*(self.projector(self.backbone(view)) for view in views))


def with_crops(views: list[Tensor]) -> list[Tensor]:
    """Add three small crops of the two views."""
    return [*views, views[0][..., :8, :8], views[1][..., 8:, :8], views[0][..., 4:12, 4:12]]


class DINOTwin(MomentumTwin):
    """On crops of two sizes, those of a size together as in the authors' code; in lightly's example each alone.

    What rests or rises by epochs there does so by steps. The teacher follows after a step, as in the authors' code; in
    lightly's example before.
    """

    def __init__(self) -> None:
        Twin.__init__(self)
        self.backbone, self.backbone_momentum = (tiny(nn.BatchNorm2d(CHANNELS)) for _ in range(2))
        self.projector, self.projector_momentum = (
            DINOProjectionHead(CHANNELS, HIDDEN, WIDTH, PROTOTYPES, freeze_last_layer=RESTING) for _ in range(2)
        )
        self.criterion = DINOLoss(PROTOTYPES, 0.04, 0.07, RISING + 1)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projector_momentum)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"centre": self.criterion.center.data[0, 0]}

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        crops = with_crops(views)
        student = [
            each
            for part in (crops[:2], crops[2:])
            for each in self.projector(self.backbone(torch.cat(part))).chunk(len(part))
        ]
        return self.criterion(list(self.key(torch.cat(crops[:2])).chunk(2)), student, epoch=t)

    def after_backward(self, t: int) -> None:
        self.projector.cancel_last_layer_gradients(t)

    def decay(self, t: int, decay: float) -> float:
        return decay and cosine_schedule(t, STEPS + 1, decay, 10 * decay)

    def after(self, t: int) -> None:
        self.move(rising(t))


def masked() -> MaskedVisionTransformerTIMM:
    """Return lightly's masked encoder of the shape of `vit`, for views of any size; positions are fixed."""
    shape = vit().spec.arguments | {"dynamic_img_size": True}
    net = VisionTransformer(**shape)
    net.pos_embed.requires_grad_(False)
    return MaskedVisionTransformerTIMM(net, weight_initialization="skip", antialias=False)


class MaskedTwin(MomentumTwin):
    """A masked encoder, a projector, and their copies."""

    def __init__(self, projector: Callable[[], nn.Module]) -> None:
        Twin.__init__(self)
        self.masked, self.masked_momentum = masked(), masked()
        self.projector, self.projector_momentum = projector(), projector()
        deactivate_requires_grad(self.masked_momentum)
        deactivate_requires_grad(self.projector_momentum)

    def move(self, m: float) -> None:
        update_momentum(self.masked.vit, self.masked_momentum.vit, m=m)
        update_momentum(self.projector, self.projector_momentum, m=m)


class IBOTTwin(MaskedTwin):
    """As DINO's; lightly's centre of patches follows those that are masked, ours as the authors' code all of them."""

    def __init__(self) -> None:
        super().__init__(lambda: DINOProjectionHead(24, HIDDEN, WIDTH, PROTOTYPES, freeze_last_layer=RESTING))
        self.criterion = DINOLoss(PROTOTYPES, 0.04, 0.07, RISING + 1)
        self.patches = IBOTPatchLoss(PROTOTYPES, center_momentum=0.9)
        self.follow, self.patches.center.update = self.patches.center.update, lambda tokens: None

    def tensors(self) -> dict[str, Tensor]:
        centres = {"centre": self.criterion.center.data[0, 0], "patch_centre": self.patches.center.center[0]}
        return super().tensors() | centres | {"mask_token": self.masked.mask_token.data[0, 0]}

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        draws, large, small = Draws(SEED, t, BATCH), torch.cat(views), with_crops(views)[2:]
        drawn, blocks = (
            torch.cat([draws.rows((name, crop), *shape) for crop in range(2)])
            for name, shape in (("ratio", (2,)), ("mask", (16, 4)))
        )
        ratio = torch.where(drawn[:, 0] < 0.5, 0.1 + 0.4 * drawn[:, 1], 0.0)
        mask = masked_blocks(blocks, ratio, 4, (0.3, 1 / 0.3)).bool()
        with_class = torch.cat([torch.zeros(len(mask), 1, dtype=torch.bool), mask], dim=1)
        tokens = self.masked.encode(large, mask=with_class)
        classes = [*self.projector(tokens[:, 0]).chunk(2), *self.projector(self.masked(torch.cat(small))).chunk(3)]
        with torch.no_grad():
            whole = self.masked_momentum.encode(large)
            expected = self.projector_momentum(whole[:, 0]).chunk(2)
            targets = self.projector_momentum(whole[:, 1:].flatten(0, 1)).unflatten(0, mask.shape)
        between = self.criterion(list(expected), classes, epoch=t)
        temperature = float(self.criterion.teacher_temp_schedule[min(t, RISING)])
        patches = self.projector(tokens[:, 1:][mask])
        within = self.patches(targets[mask], patches, mask.view(-1, 4, 4), teacher_temp=temperature)
        self.follow(targets.flatten(0, 1))
        return between + within

    def after_backward(self, t: int) -> None:
        self.projector.cancel_last_layer_gradients(t)

    def after(self, t: int) -> None:
        self.move(rising(t))


class MSNTwin(MaskedTwin):
    """As in lightly's example, which masks small views too; here as in the authors' code the large anchor alone."""

    def __init__(self) -> None:
        super().__init__(lambda: MSNProjectionHead(24, HIDDEN, WIDTH))
        self.prototypes = nn.Linear(WIDTH, PROTOTYPES, bias=False)
        self.criterion = MSNLoss()

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        target, large, *small = with_crops(views)
        visible = Draws(SEED, t, BATCH).rows("mask", 16).argsort(1)[:, :9]
        kept = torch.cat([torch.zeros(BATCH, 1, dtype=torch.long), visible + 1], dim=1)
        anchors = [self.projector(self.masked(large, idx_keep=kept)), self.projector(self.masked(torch.cat(small)))]
        with torch.no_grad():
            expected = self.projector_momentum(self.masked_momentum(target))
        return self.criterion(torch.cat(anchors), expected, self.prototypes.weight)

    def after(self, t: int) -> None:
        self.move(MOMENTUM + (1 - MOMENTUM) * t / STEPS)


class MAETwin(Twin):
    """As in lightly's example, with targets standardised per patch, on the ids that ours draws."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.criterion = autoencoder(), nn.MSELoss()

    def forward(self, views: list[Tensor], t: int) -> Tensor:
        visible = Draws(SEED, t, BATCH).rows(("mask", 0), 16).argsort(1)[:, :4]
        masked = torch.ones(BATCH, 16, dtype=torch.bool).scatter(1, visible, False)
        _, predicted = self.net(views[0], visible)
        return self.criterion(predicted[masked], normalize_mean_var(patchify(views[0], 4))[masked])


@dataclass(frozen=True)
class Pair:
    """A method, its twin, and the optimiser of both. The rates are high, so that the network moves far."""

    method: Callable[[TinyEncoder], Method]
    twin: Callable[[], Twin]
    optimiser: OptimiserSpec


# The two forms of LARS differ in where the decay enters the trust; at the decay of the papers that is within the bands.
LARGE_BATCH = LARS(base_rate=16.0, vector_rate=0.5, weight_decay=1.5e-6)
CONVOLUTIONAL = SGD(base_rate=0.5, weight_decay=0.01)
PAIRS = {
    "simclr": Pair(
        partial(SimCLR, temperature=0.5, projector_layers=2, projector_hidden=HIDDEN, projector_width=WIDTH),
        SimCLRTwin,
        LARGE_BATCH,
    ),
    "moco": Pair(
        partial(
            MoCo,
            temperature=0.2,
            momentum=MOMENTUM,
            queue_size=4 * BATCH,
            projector_width=WIDTH,
            symmetric=False,
            splits=SPLITS,
        ),
        MoCoTwin,
        CONVOLUTIONAL,
    ),
    "moco_v3": Pair(
        partial(
            MoCoV3, temperature=0.2, momentum=MOMENTUM, projector_layers=3, head_hidden=HIDDEN, projector_width=WIDTH
        ),
        MoCoV3Twin,
        CONVOLUTIONAL,
    ),
    "byol": Pair(
        partial(BYOL, momentum=MOMENTUM, projector_layers=2, head_hidden=HIDDEN, projector_width=WIDTH),
        BYOLTwin,
        LARGE_BATCH,
    ),
    "simsiam": Pair(
        partial(SimSiam, projector_layers=3, projector_width=WIDTH, bottleneck=8), SimSiamTwin, CONVOLUTIONAL
    ),
    "barlow_twins": Pair(
        partial(BarlowTwins, redundancy_weight=0.005, projector_width=HIDDEN), BarlowTwinsTwin, LARGE_BATCH
    ),
    "vicreg": Pair(
        partial(VICReg, invariance=25.0, variance=25.0, covariance=1.0, projector_width=HIDDEN), VICRegTwin, LARGE_BATCH
    ),
    "dino": Pair(
        partial(
            DINO,
            temperature=0.1,
            teacher_temperatures=(0.04, 0.07),
            temperature_warmup=RISING / STEPS,
            momentum=MOMENTUM,
            centre_momentum=0.9,
            prototypes=PROTOTYPES,
            prototypes_frozen=RESTING / STEPS,
            head_hidden=HIDDEN,
            bottleneck=WIDTH,
        ),
        DINOTwin,
        SGD(base_rate=0.5, weight_decay=0.01, final_decay=0.1),
    ),
    "ibot": Pair(
        lambda _: IBOT(
            vit(),
            temperature=0.1,
            teacher_temperatures=(0.04, 0.07),
            temperature_warmup=RISING / STEPS,
            momentum=MOMENTUM,
            centre_momentum=0.9,
            prototypes=PROTOTYPES,
            prototypes_frozen=RESTING / STEPS,
            head_hidden=HIDDEN,
            bottleneck=WIDTH,
            mask_p=0.5,
            mask_ratios=(0.1, 0.5),
            mask_aspect=(0.3, 1 / 0.3),
        ),
        IBOTTwin,
        SGD(base_rate=0.5, weight_decay=0.0),  # lightly's mask token would decay
    ),
    "msn": Pair(
        lambda _: MSN(
            vit(),
            temperature=0.1,
            sharpening=0.25,
            sinkhorn_rounds=3,
            entropy_weight=1.0,
            mask_ratio=0.4,
            momentum=MOMENTUM,
            prototypes=PROTOTYPES,
            head_hidden=HIDDEN,
            projector_width=WIDTH,
        ),
        MSNTwin,
        SGD(base_rate=0.5, weight_decay=0.0),
    ),
    "mae": Pair(
        lambda _: MAE(vit(), decoder=DECODER, mask_ratio=0.75), MAETwin, AdamW(base_rate=0.05, weight_decay=0.1)
    ),
}


def smoothed(module: nn.Module) -> None:
    """Put GELU in place of every ReLU."""
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.ReLU):
                setattr(part, name, nn.GELU())


def method(name: str) -> Method:
    """Return our side at its start."""
    torch.manual_seed(SEED)
    method = PAIRS[name].method(TinyEncoder(CHANNELS))
    smoothed(method)
    return method


def started(name: str, folder: Path) -> Training:
    """Return a run on 40 images of 16 squares in random colours."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8, generator=generator)
    data = Resident(squares.repeat_interleave(4, 2).repeat_interleave(4, 3), BATCH, SEED, "cpu")
    run = training(folder, lambda _: method(name), steps=STEPS, seed=SEED, data=data)
    run.optimiser = PAIRS[name].optimiser.build(run.method.param_groups(), BATCH)
    return run


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> list[list[Tensor]]:
    """Return two views for each step, as the loop makes them: once for all, to save time."""
    run = started("simclr", tmp_path_factory.mktemp("views"))
    return [run.batch(t) for t in range(STEPS)]


@pytest.fixture
def ours(views: list[list[Tensor]], tmp_path: Path) -> Callable[[str], Training]:
    """Return how to start a run of ours on the views."""

    def start(name: str) -> Training:
        run = started(name, tmp_path)
        more = run.method.takes_more_views
        run.batch = lambda t: with_crops(views[t]) if more else views[t][: run.method.n_views]  # type: ignore[method-assign]
        return run

    return start


class Trajectory:
    """A twin that is trained in a plain loop, as far as its losses are asked for.

    It is kept from test to test, and trained while a mistake is planted: mistakes change what the twin does not use.
    """

    def __init__(self, name: str, views: list[list[Tensor]]) -> None:
        self.twin, self.views, start = PAIRS[name].twin(), views, method(name).state_dict()
        smoothed(self.twin)
        for at, tensor in self.twin.tensors().items():
            if "running" not in at:  # statistics start at the same numbers, but of each part where norms are split
                tensor.copy_(start[at])
        self.optimiser = reference(self.twin, PAIRS[name].optimiser)
        self._losses: list[float] = []

    def losses(self, steps: int) -> Tensor:
        while len(self._losses) < steps:
            self._advance(len(self._losses))
        return torch.tensor(self._losses[:steps])

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, copies, statistics and keys after all steps."""
        self.losses(STEPS)
        self.twin.before(STEPS)
        return self.twin.tensors()

    def _advance(self, t: int) -> None:
        self.twin.before(t)
        loss = self.twin(self.views[t], t)
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * (share(t) if group["scheduled"] else 1.0)
            group["weight_decay"] = self.twin.decay(t, group["decay"])
        self.twin.after_backward(t)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.twin.after(t)
        self._losses.append(loss.item())


def reference(twin: Twin, spec: OptimiserSpec) -> torch.optim.Optimizer:
    """Return the optimiser of torch or lightly, with lightly's choice of what decays; groups keep their peak rate."""
    groups = []
    for modules, scheduled in twin.groups():
        settings = (spec.base_rate, spec.weight_decay), (getattr(spec, "vector_rate", None) or spec.base_rate, 0.0)
        for params, (rate, decay) in zip(get_weight_decay_parameters(modules), settings, strict=True):
            peak = rate * BATCH / 256
            settings_of_group = {"weight_decay": decay, "decay": decay, "peak": peak, "scheduled": scheduled}
            groups.append({"params": params, **settings_of_group})
    if isinstance(spec, AdamW):
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    return {SGD: torch.optim.SGD, LARS: lars.LARS}[type(spec)](groups, lr=0.0, momentum=0.9)


def share(t: int) -> float:
    """Return the share of the peak rate in step t, as in the authors' code of MAE and MoCo v3.

    The warm-up of lightly's scheduler is a step ahead, and its cosine ends a step earlier.
    """
    if t < WARMUP:
        return t / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP)))


@pytest.fixture(scope="module")
def lightly(views: list[list[Tensor]]) -> Callable[[str], Trajectory]:
    """Return how to train a twin on the views, once for all tests."""
    return cache(lambda name: Trajectory(name, views))


def outside(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the steps whose losses are outside of the band."""
    return ((ours - theirs).abs() > LOSS_BAND * theirs.abs()).nonzero().flatten()


def distance(name: str, ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest value.

    Where norms are split, lightly keeps the statistics of each part and ours their mean. The bias of keys does not
    count: attention does not depend on it, so its gradient is rounding, of which AdamW makes whole steps.
    """
    if theirs.shape != ours.shape:
        theirs = theirs.view(SPLITS, -1).mean(0)
    if name.endswith("attn.qkv.bias"):
        ours, theirs = (torch.cat([bias.chunk(3)[i] for i in (0, 2)]) for bias in (ours, theirs))
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3))


SHOWN = ("simclr", "moco", "dino")
"""Pairs that CI trains. `pytest -m long` trains all; what a change does to a method that is on a board, the check of
equal behaviour finds sooner."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in SHOWN else pytest.param(name, marks=pytest.mark.long) for name in PAIRS]
)
def test_trajectory_is_that_of_lightly(
    name: str, ours: Callable[[str], Training], lightly: Callable[[str], Trajectory]
) -> None:
    """Oracle: lightly in a plain loop: all losses, and at the end all weights, copies, statistics and keys."""
    run = ours(name)
    run.run(resume=False)
    expected = lightly(name)
    assert outside(run.losses, expected.losses(STEPS)).tolist() == []
    tensors = {at: tensor for at, tensor in run.method.state_dict().items() if tensor.is_floating_point()}
    reached = expected.tensors()
    assert tensors.keys() == reached.keys()
    distances = {at: distance(at, tensor, reached[at]) for at, tensor in tensors.items()}
    assert {at: far for at, far in distances.items() if far > WEIGHT_BAND} == {}


def momentum_before_the_step(run: Training, patch: pytest.MonkeyPatch) -> None:
    step, move = run.optimiser.step, run.method.after_step
    patch.setattr(run.optimiser, "step", lambda progress: (move(progress), step(progress)))
    patch.setattr(run.method, "after_step", lambda progress: None)


def constant_momentum(run: Training, patch: pytest.MonkeyPatch) -> None:
    move = run.method.after_step
    patch.setattr(run.method, "after_step", lambda progress: move(0.0))


def keys_pushed_before_the_logits(run: Training, patch: pytest.MonkeyPatch) -> None:
    encode, push = run.method.targets, run.method.queue.push

    def early(*inputs: Any) -> dict[int, Tensor]:
        keys = encode(*inputs)
        push(F.normalize(keys[1], dim=1))
        return keys

    patch.setattr(run.method, "targets", early)
    patch.setattr(run.method, "after_backward", lambda step: None)


def keys_pushed_to_one_place(run: Training, patch: pytest.MonkeyPatch) -> None:
    push = run.method.after_backward
    patch.setattr(run.method, "after_backward", lambda step: (push(step), run.method.queue.position.zero_()))


def keys_not_shuffled(run: Training, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run.method, "shuffled", False)


def copy_in_eval_mode(run: Training, patch: pytest.MonkeyPatch) -> None:
    target = run.method.target
    patch.setattr(target, "train", lambda mode: nn.Module.train(target, False))


def decay_of_norms_and_biases(run: Training, patch: pytest.MonkeyPatch) -> None:
    groups = run.optimiser.inner.param_groups
    for group in groups:
        group["weight_decay"] = max(other["weight_decay"] for other in groups)


def scheduled_predictor(run: Training, patch: pytest.MonkeyPatch) -> None:
    for group in run.optimiser.inner.param_groups:
        group["scheduled"] = True


def warmup_a_step_ahead(run: Training, patch: pytest.MonkeyPatch) -> None:
    ahead = 1 / STEPS
    patch.setattr(optim, "schedule", lambda at, warmup, _: schedule(at + ahead if at < warmup else at, warmup))


def cosine_a_step_ahead(run: Training, patch: pytest.MonkeyPatch) -> None:
    ahead = 1 / STEPS
    patch.setattr(optim, "schedule", lambda at, warmup, _: schedule(at if at < warmup else at + ahead, warmup))


def prototypes_never_rest(run: Training, patch: pytest.MonkeyPatch) -> None:
    for group in run.optimiser.inner.param_groups:
        group.pop("frozen", None)


def constant_decay(run: Training, patch: pytest.MonkeyPatch) -> None:
    for group in run.optimiser.inner.param_groups:
        group.pop("decay_range", None)


def centre_stays(run: Training, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run.method, "after_backward", lambda step: None)


def constant_temperature(run: Training, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run.method, "set_progress", lambda progress: None)


MISTAKES: dict[Callable[[Training, pytest.MonkeyPatch], None], tuple[str, ...]] = {
    momentum_before_the_step: ("moco", "moco_v3", "byol", "dino"),
    constant_momentum: ("moco_v3", "byol", "dino", "msn"),
    keys_pushed_before_the_logits: ("moco",),
    keys_pushed_to_one_place: ("moco",),
    keys_not_shuffled: ("moco",),
    copy_in_eval_mode: ("moco", "moco_v3", "byol", "dino"),
    prototypes_never_rest: ("dino",),
    constant_decay: ("dino",),
    centre_stays: ("dino", "ibot"),
    constant_temperature: ("dino",),
    decay_of_norms_and_biases: ("moco", "simsiam", "mae"),
    scheduled_predictor: ("simsiam",),
    warmup_a_step_ahead: tuple(PAIRS),
    cosine_a_step_ahead: ("simclr", "moco"),
}


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        pytest.param(mistake, name, id=f"{mistake.__name__}-{name}")
        for mistake, names in MISTAKES.items()
        for name in names
    ],
)
def test_mistake_leaves_the_band(
    mistake: Callable[[Training, pytest.MonkeyPatch], None],
    name: str,
    ours: Callable[[str], Training],
    lightly: Callable[[str], Trajectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: the trajectory of lightly, from which a mistake planted into ours departs."""
    expected, run = lightly(name), ours(name)
    mistake(run, monkeypatch)
    left: list[int] = []
    while not left and run.step < STEPS:
        run.advance(5)
        left = outside(run.losses[: run.step], expected.losses(run.step)).tolist()
    assert left
