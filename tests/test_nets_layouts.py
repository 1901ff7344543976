"""Features of other projects' networks, each built from its published definition and read from the file that it writes.

Weights and running statistics are random. Images are uint8, so that the inputs are compared as well, and both sides
compute in float64, so that only a difference of the networks shows.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightly.models.modules import MaskedVisionTransformerTIMM, MaskedVisionTransformerTorchvision
from timm.models import create_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from benchmark.errors import ConfigError
from benchmark.evals.features import extract
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.layouts import LAYOUTS
from benchmark.nets.pretrained import load, statistics
from benchmark.nets.resnet import ResNet
from benchmark.nets.timm_net import Timm

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)  # the mean and deviation of some data set
WIDTH, HEADS, DEPTH, PATCH, SIZE = 32, 2, 2, 4, 16
LARGE = 136  # px: beyond 128 our residual networks have the stem of ImageNet


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        mixed: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, WIDTH))
        return mixed


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), Attention(), nn.LayerNorm(WIDTH, eps=1e-6)
        layers = {"fc1": nn.Linear(WIDTH, 4 * WIDTH), "act": nn.GELU(), "fc2": nn.Linear(4 * WIDTH, WIDTH)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainViT(nn.Module):
    """The ViT of MAE (models_mae.py, models_vit.py), MoCo v3 (vits.py), DINO (vision_transformer.py) and solo-learn's
    MAE (vit_mae.py) in plain torch: their keys, and the class token after the final norm."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIZE // PATCH) ** 2, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        pooled: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return pooled


def timm_vit(classes: int = 0) -> nn.Module:
    return VisionTransformer(
        SIZE, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=classes, global_pool="token"
    )


def torchvision_vit() -> Any:
    return torchvision.models.VisionTransformer(SIZE, PATCH, DEPTH, HEADS, WIDTH, 4 * WIDTH)


def cut(network: Any) -> Any:
    """Take a residual network's two large last stages away, to keep files small."""
    network.layer3 = network.layer4 = nn.Identity()
    return network


def torchvision_resnet() -> Any:
    network = cut(torchvision.models.resnet18())
    network.fc = nn.Linear(128, 10)
    return network


def cifar_resnet(padding: int) -> Any:
    """solo-learn's (solo/methods/base.py), with its padding of 2, which neither keys nor shapes show."""
    network = torchvision_resnet()
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network


def headless(network: Any) -> Any:
    """Return a copy that gives what its head would get."""
    network = copy.deepcopy(network)
    name = next(name for name in ("fc", "heads", "head") if hasattr(network, name))
    setattr(network, name, nn.Identity())
    return network


def mlp(width: int, *, bias: bool = False) -> nn.Module:
    """A head with a batch norm."""
    return nn.Sequential(nn.Linear(width, 8, bias=bias), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4, bias=bias))


def modules(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def noisy(network: Any) -> Any:
    """Move every weight and running statistic at random."""
    for tensor in network.state_dict().values():
        tensor += torch.rand(tensor.shape).mul(0.1) if tensor.is_floating_point() else 7
    return network


def lightning(**parts: nn.Module) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": noisy(modules(**parts)).state_dict(), "hyper_parameters": {"lr": 0.1}}


Written = tuple[Any, nn.Module]


def run() -> Written:
    network = noisy(timm_vit())
    return network.state_dict(), network


def timm_network(network: Any) -> Written:
    """timm's train.py keeps averaged weights beside the plain ones; timm reads these, also of a compiled network."""
    averaged = noisy(copy.deepcopy(network))
    wrapped = modules(module=modules(_orig_mod=averaged))
    return {"state_dict": noisy(network).state_dict(), "state_dict_ema": wrapped.state_dict()}, headless(averaged)


def mae() -> Written:
    network = PlainViT()
    network.mask_token = nn.Parameter(torch.zeros(1, 1, 8))
    network.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, 8))
    network.decoder_embed, network.decoder_norm = nn.Linear(WIDTH, 8), nn.LayerNorm(8)
    network.decoder_blocks, network.decoder_pred = nn.ModuleList([nn.Linear(8, 8)]), nn.Linear(8, 3 * PATCH**2)
    return {"model": noisy(network).state_dict(), "epoch": 799}, network


def moco_v3(network: Any, head: str, width: int) -> Written:
    """moco/builder.py: two encoders whose heads are MLPs, and a predictor, under DistributedDataParallel."""
    setattr(network, head, mlp(width))
    model = modules(base_encoder=network, momentum_encoder=copy.deepcopy(network), predictor=mlp(4))
    return {"arch": "x", "state_dict": noisy(modules(module=model)).state_dict()}, headless(network)


def moco() -> Written:
    """moco/builder.py, v2: two networks of torchvision with an MLP in place of fc, and a queue."""
    network = torchvision_resnet()
    network.fc = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8))
    model = modules(encoder_q=network, encoder_k=copy.deepcopy(network))
    model.register_buffer("queue", torch.randn(8, 16))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    return {"arch": "resnet50", "state_dict": noisy(modules(module=model)).state_dict()}, headless(network)


def simsiam() -> Written:
    """simsiam/builder.py: an encoder of torchvision whose fc is the projector, and a predictor, under DDP."""
    network = torchvision_resnet()
    network.fc = mlp(128)
    model = modules(encoder=network, predictor=mlp(4))
    return {"arch": "resnet50", "state_dict": noisy(modules(module=model)).state_dict()}, headless(network)


def barlow_twins() -> Written:
    """main.py: a backbone without fc, a projector and a norm without parameters, under DDP."""
    network = headless(torchvision_resnet())
    model = modules(backbone=network, projector=mlp(128), bn=nn.BatchNorm1d(4, affine=False))
    return {"epoch": 1000, "model": noisy(modules(module=model)).state_dict()}, network


def swav() -> Written:
    """src/resnet50.py: torchvision's network whose 7x7 stem is padded by 1 and then by 2, under DDP."""
    network = headless(torchvision_resnet())
    network.conv1.padding = (2, 2)
    features = nn.Sequential(nn.ConstantPad2d(1, 0.0), network)
    network.projection_head, network.prototypes = mlp(128), nn.Linear(4, 6, bias=False)
    return noisy(modules(module=network)).state_dict(), features


class PatchViT(PlainViT):
    """I-JEPA's (src/models/vision_transformer.py): no class token; its evaluations average the patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        del self.cls_token
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIZE // PATCH) ** 2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        pooled: Tensor = self.norm(self.blocks(patches + self.pos_embed)).mean(1)
        return pooled


def ijepa() -> Written:
    """src/train.py: encoder, predictor and target encoder, each under DDP."""
    target = PatchViT()
    other = noisy(modules(module=copy.deepcopy(target))).state_dict()
    contents = {"encoder": other, "predictor": {}, "target_encoder": noisy(modules(module=target)).state_dict()}
    return contents, target


def dino(network: Any, width: int) -> Written:
    """main_dino.py: utils.MultiCropWrapper of a headless backbone and DINOHead; only the student is under DDP."""
    last = nn.Module()  # torch's weight_norm, by its keys
    last.weight_g, last.weight_v = nn.Parameter(torch.ones(8, 1)), nn.Parameter(torch.ones(8, 4))
    teacher = modules(backbone=network, head=modules(mlp=mlp(width), last_layer=last))
    student = modules(module=modules(backbone=noisy(headless(network))))
    return {"student": student.state_dict(), "teacher": noisy(teacher).state_dict(), "epoch": 100}, network


def solo_learn(network: Any) -> Written:
    other = copy.deepcopy(network)
    contents = lightning(backbone=network, momentum_backbone=other, projector=mlp(8), classifier=nn.Linear(8, 2))
    return contents, network


def lightly(backbone: nn.Module, features: nn.Module | None = None) -> Written:
    """As in lightly's examples: `backbone` and a head, in a LightningModule."""
    return lightning(backbone=backbone, projection_head=mlp(8)), features or backbone


def sequential() -> nn.Module:
    """As in lightly's examples: torchvision's children without the last, so that keys have numbers."""
    return nn.Sequential(*list(torchvision_resnet().children())[:-1])


def torchvision_network(network: Any) -> Written:
    return {"model": noisy(network).state_dict(), "epoch": 1}, headless(network)


def our_vit() -> Encoder:
    return ViT(SIZE, name="vit", width=WIDTH, depth=DEPTH, heads=HEADS, patch=PATCH)


def our_resnet(size: int = LARGE) -> Encoder:
    encoder = ResNet(size, name="resnet18")
    cut(encoder.net)
    return encoder


def our_patch_vit() -> Encoder:
    """timm's ViT without a class token, as `Timm.name` builds it, in a small shape."""
    encoder = Timm(SIZE, name="vit_medium_patch16_gap_240")
    shape = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    encoder.net = create_model("vit_base_patch16_gap_224", num_classes=0, **shape)
    return encoder


def our_timm() -> Encoder:
    encoder = Timm(LARGE, name="resnet18")
    cut(encoder.net)
    return encoder


@dataclass(frozen=True)
class Project:
    """A layout, our encoder, what the project writes with the network of its features, and the inputs it expects."""

    layout: str
    encoder: Callable[[], Encoder]
    write: Callable[[], Written]
    inputs: tuple[tuple[float, ...], tuple[float, ...]]


PROJECTS = {
    "run": Project("run", our_vit, run, OWN),
    "timm, vit": Project("timm", our_vit, lambda: timm_network(timm_vit(10)), OWN),
    "timm, residual": Project("timm", our_resnet, lambda: timm_network(cut(create_model("resnet18"))), OWN),
    "mae": Project("mae", our_vit, mae, IMAGENET),
    "moco_v3, vit": Project("moco_v3", our_vit, lambda: moco_v3(PlainViT(), "head", WIDTH), IMAGENET),
    "moco_v3, residual": Project("moco_v3", our_resnet, lambda: moco_v3(torchvision_resnet(), "fc", 128), IMAGENET),
    "moco": Project("moco", our_resnet, moco, IMAGENET),
    "simsiam": Project("simsiam", our_resnet, simsiam, IMAGENET),
    "barlow_twins": Project("barlow_twins", our_resnet, barlow_twins, IMAGENET),
    "swav": Project("swav", our_resnet, swav, IMAGENET),
    "ijepa": Project("ijepa", our_patch_vit, ijepa, IMAGENET),
    "dino, vit": Project("dino", our_vit, lambda: dino(PlainViT(), WIDTH), IMAGENET),
    "dino, residual": Project("dino", our_resnet, lambda: dino(headless(torchvision_resnet()), 128), IMAGENET),
    "solo_learn, vit": Project("solo_learn", our_vit, lambda: solo_learn(timm_vit()), OWN),
    "solo_learn, mae": Project("solo_learn", our_vit, lambda: solo_learn(PlainViT()), OWN),
    "solo_learn, residual": Project("solo_learn", our_resnet, lambda: solo_learn(headless(torchvision_resnet())), OWN),
    "solo_learn, cifar": Project("solo_learn", lambda: our_resnet(32), lambda: solo_learn(cifar_resnet(2)), OWN),
    "lightly, residual": Project("lightly", our_resnet, lambda: lightly(headless(torchvision_resnet())), IMAGENET),
    "lightly, sequential": Project("lightly", our_resnet, lambda: lightly(sequential()), IMAGENET),
    "lightly, cifar": Project("lightly", lambda: our_resnet(32), lambda: lightly(cifar_resnet(1)), IMAGENET),
    "lightly, timm": Project("lightly", our_vit, lambda: lightly(MaskedVisionTransformerTIMM(timm_vit(10))), IMAGENET),
    "lightly, torchvision": Project(
        "lightly", our_vit, lambda: lightly(MaskedVisionTransformerTorchvision(torchvision_vit())), IMAGENET
    ),
    "torchvision, vit": Project("torchvision", our_vit, lambda: torchvision_network(torchvision_vit()), IMAGENET),
    "torchvision, residual": Project(
        "torchvision", our_timm, lambda: torchvision_network(torchvision_resnet()), IMAGENET
    ),
}


def test_every_layout_has_a_network() -> None:
    """Oracle: the table of layouts."""
    assert {project.layout for project in PROJECTS.values()} == set(LAYOUTS)


def written(project: Project, folder: Path) -> tuple[str, nn.Module]:
    torch.manual_seed(1)
    contents, theirs = project.write()
    torch.save(contents, folder / "weights.pth")
    return str(folder / "weights.pth"), theirs.double().eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_features_are_those_of_the_project(name: str, tmp_path: Path) -> None:
    """Oracle: the project's own network in eval mode, on inputs normalised by torchvision with the project's numbers.

    Ours is extracted as evaluations do, from a network that was left in training mode.
    """
    project = PROJECTS[name]
    encoder = project.encoder()
    file, theirs = written(project, tmp_path)
    load(encoder, file, project.layout)
    images = torch.randint(0, 256, (3, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8)
    mean, std = (torch.tensor(values).double()[:, None, None] for values in statistics(project.layout, encoder) or OWN)
    device = torch.device("cpu")
    features = extract(encoder.double(), images, lambda batch, _: (batch.double() / 255 - mean) / std, device)
    with torch.no_grad():
        expected = theirs(normalize(images.double() / 255, *map(list, project.inputs))).flatten(1)
    assert len(expected) == 3
    assert expected.std(0).max() > 1e-3
    close(features["cls" if "cls" in features else "pooled"], expected)


@pytest.mark.parametrize(("layout", "padding"), [("solo_learn", 2), ("lightly", 1)])
def test_a_stem_for_small_images_is_built_anew_with_its_padding(layout: str, padding: int, tmp_path: Path) -> None:
    """Oracle: the project's own features, from the network that timm builds by the encoder's description."""
    encoder = our_resnet(32)
    file, theirs = written(PROJECTS[f"{layout}, cifar"], tmp_path)
    load(encoder, file, layout)
    model = cut(create_model(encoder.spec.architecture, **encoder.spec.arguments))
    exec("\n".join(encoder.spec.changes), {"model": model, "torch": torch})
    assert model.conv1.padding == (padding, padding)
    model.load_state_dict(encoder.net.state_dict())
    images = torch.randn(2, 3, 32, 32).double()
    with torch.no_grad():
        close(model.double().eval()(images), theirs(images))


def test_a_stem_with_a_pooling_is_refused(tmp_path: Path) -> None:
    """Oracle: solo-learn's code: its 3x3 stem, for CIFAR alone, has no pooling; ours for 96 px has one."""
    file, _ = written(PROJECTS["solo_learn, cifar"], tmp_path)
    with pytest.raises(ConfigError, match=r"no max pooling in the layout 'solo_learn'.*96 px.*Images.size=32"):
        load(our_resnet(96), file, "solo_learn")


def test_inputs_that_were_set_come_first() -> None:
    """Oracle: the numbers set by hand; those of weights that timm fetched, which the file replaces, do not count."""
    encoder = our_resnet()
    encoder.statistics = OWN
    assert statistics("mae", encoder) == OWN
    encoder.is_trained = True
    assert statistics("mae", encoder) == IMAGENET
    assert statistics("timm", encoder) is None
