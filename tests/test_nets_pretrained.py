"""Weights of other projects in our encoders, against the networks that they were taken from."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import create_model
from torch import Tensor, nn

from benchmark.errors import ConfigError
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.layouts import LAYOUTS
from benchmark.nets.pretrained import load, statistics
from benchmark.nets.resnet import ResNet
from benchmark.nets.timm_net import Timm

State = dict[str, Tensor]


def vit(seed: int = 0, *, size: int = 16, heads: int = 2) -> ViT:
    """A ViT whose norms and positions are not at their initial values, so that each parameter shows."""
    torch.manual_seed(seed)
    return noisy(ViT(size, name="tiny", width=32, depth=2, heads=heads, patch=4))


def resnet(seed: int = 0) -> ResNet:
    """A narrow residual network without its two last stages, to keep files small."""
    torch.manual_seed(seed)
    encoder = ResNet(16, name="resnet18", base_width=8)
    encoder.net.layer3 = encoder.net.layer4 = nn.Identity()
    return noisy(encoder)


def patches_alone(seed: int = 0) -> Timm:
    """A ViT without a class token, whose patches are averaged, of one block."""
    torch.manual_seed(seed)
    encoder = Timm(16, name="vit_medium_patch16_gap_240")
    encoder.net.blocks = encoder.net.blocks[:1]
    return noisy(encoder)


def padded(seed: int = 0) -> ResNet:
    """The same with solo-learn's padding."""
    encoder = resnet(seed)
    encoder.net.conv1.padding = (2, 2)
    return encoder


def noisy(network: Any) -> Any:
    for tensor in network.state_dict().values():
        tensor += torch.rand(tensor.shape).mul(0.1) if tensor.is_floating_point() else 7
    return network.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def some(*keys: str) -> State:
    """Weights that are not the encoder's."""
    return {key: torch.ones(3) for key in keys}


def indexed(state: State) -> State:
    """A residual network's keys in `nn.Sequential` of its children."""
    children = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    places = {name: str(index) for index, name in enumerate(children)}
    return {re.sub(r"^\w+", lambda name: places.get(name[0], name[0]), key): state[key] for key in state}


def torchvision_keys(state: State, mlp: tuple[str, str] = ("0", "3")) -> State:
    """A ViT's keys as torchvision writes them; its older releases named the MLP's layers."""
    pairs = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "blocks.": "encoder.layers.encoder_layer_",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": f"mlp.{mlp[0]}",
        "mlp.fc2": f"mlp.{mlp[1]}",
        "norm.": "encoder.ln.",
    }
    renamed = {}
    for key, tensor in state.items():
        for old, new in pairs.items():
            key = key.replace(old, new)
        renamed[key] = tensor
    return renamed


def lightning(state: State) -> dict[str, Any]:
    return {"epoch": 3, "pytorch-lightning_version": "2.1.2", "state_dict": state, "hyper_parameters": {"lr": 0.1}}


MLP = ("head.mlp.0.weight", "head.last_layer.weight_g")

FILES: dict[str, tuple[str, Callable[[], Encoder], Callable[[State], Any]]] = {
    "run": ("run", vit, lambda s: s),
    "run, residual": ("run", resnet, lambda s: s),
    "timm": ("timm", vit, lambda s: s | some("head.weight", "head.bias")),
    "timm, model": ("timm", vit, lambda s: {"model": s, "epoch": 1}),
    "timm, state_dict": ("timm", resnet, lambda s: {"state_dict": prefixed("module.", s | some("fc.bias"))}),
    "mae, whole": (
        "mae",
        vit,
        lambda s: {
            "model": s | some("mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.weight", "head.weight"),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
            "epoch": 1,
            "args": argparse.Namespace(lr=0.1, output_dir=Path("out"), device="cuda"),
        },
    ),
    "moco v3": (
        "moco_v3",
        vit,
        lambda s: {
            "arch": "vit_small",
            "state_dict": prefixed("module.base_encoder.", s | some("head.0.weight", "head.1.running_mean"))
            | prefixed("module.momentum_encoder.", s)
            | some("module.predictor.0.weight"),
        },
    ),
    "moco v3, residual": (
        "moco_v3",
        resnet,
        lambda s: {"state_dict": prefixed("module.base_encoder.", s | some("fc.0.weight"))},
    ),
    "moco": (
        "moco",
        resnet,
        lambda s: {
            "state_dict": prefixed("module.encoder_q.", s | some("fc.0.weight", "fc.2.bias"))
            | prefixed("module.encoder_k.", s)
            | some("module.queue", "module.queue_ptr"),
        },
    ),
    "moco, not wrapped": (
        "moco",
        resnet,
        lambda s: {
            "state_dict": prefixed("encoder_q.", s | some("fc.0.weight"))
            | prefixed("encoder_k.", s)
            | some("queue", "queue_ptr"),
        },
    ),
    "simsiam": (
        "simsiam",
        resnet,
        lambda s: {
            "arch": "resnet50",
            "state_dict": prefixed("module.encoder.", s | some("fc.0.weight", "fc.6.bias"))
            | some("module.predictor.0.weight"),
        },
    ),
    "barlow twins": (
        "barlow_twins",
        resnet,
        lambda s: {
            "epoch": 1000,
            "model": prefixed("module.backbone.", s) | some("module.projector.0.weight", "module.bn.running_mean"),
        },
    ),
    "barlow twins, encoder alone": ("barlow_twins", resnet, lambda s: s),
    "swav": ("swav", resnet, lambda s: prefixed("module.", s | some("projection_head.0.weight", "prototypes.weight"))),
    "swav, whole": ("swav", resnet, lambda s: {"epoch": 1, "state_dict": prefixed("module.", s)}),
    "i-jepa": (
        "ijepa",
        patches_alone,
        lambda s: {
            "encoder": prefixed("module.", {key: tensor + 1 for key, tensor in s.items()}),
            "predictor": prefixed("module.", some("predictor_embed.weight")),
            "target_encoder": prefixed("module.", s),
            "scaler": None,
        },
    ),
    "timm, compiled": ("timm", vit, lambda s: {"state_dict": prefixed("_orig_mod.module.", s)}),
    "timm, compiled parts": (
        "timm",
        vit,
        lambda s: {key.replace("blocks.0.", "blocks.0._orig_mod."): tensor for key, tensor in s.items()},
    ),
    "timm, lightning": ("timm", vit, lambda s: lightning(prefixed("model.", s | some("head.weight")))),
    "mae, compiled": ("mae", vit, lambda s: {"model": prefixed("_orig_mod.", s | some("mask_token"))}),
    "dino": (
        "dino",
        vit,
        lambda s: {
            "student": prefixed("module.backbone.", s),
            "teacher": prefixed("backbone.", s) | some(*MLP),
            "args": argparse.Namespace(arch="vit_small"),
        },
    ),
    "dino, residual": (
        "dino",
        resnet,
        lambda s: {"teacher": prefixed("module.", prefixed("backbone.", s) | some(*MLP))},
    ),
    "dino, backbone alone": ("dino", vit, lambda s: s),
    "solo_learn": (
        "solo_learn",
        padded,
        lambda s: lightning(prefixed("backbone.", s) | some("classifier.weight", "projector.0.weight")),
    ),
    "lightly": ("lightly", resnet, lambda s: lightning(prefixed("backbone.", s) | some("projection_head.0.weight"))),
    "lightly, sequential": ("lightly", resnet, lambda s: lightning(prefixed("backbone.", indexed(s)))),
    "lightly, vit": (
        "lightly",
        vit,
        lambda s: prefixed("backbone.", prefixed("vit.", s | some("head.weight")) | some("mask_token")),
    ),
    "lightly, torchvision": (
        "lightly",
        vit,
        lambda s: lightning(prefixed("backbone.vit.", torchvision_keys(s) | some("heads.head.weight"))),
    ),
    "torchvision": ("torchvision", resnet, lambda s: s | some("fc.weight", "fc.bias")),
    "torchvision, vit": (
        "torchvision",
        vit,
        lambda s: {
            "model": torchvision_keys(s, ("linear_1", "linear_2")) | some("heads.head.weight"),
            "args": argparse.Namespace(workers=16),
        },
    ),
}
"""What a project writes, by the keys in its public code: layout, encoder, and the file's contents from its weights."""


def saved(contents: Any, folder: Path) -> str:
    torch.save(contents, folder / "weights.pth")
    return str(folder / "weights.pth")


def same(one: Encoder, other: Encoder) -> bool:
    """Whether both encoders hold the same weights and give the same features, bit by bit."""
    pairs = zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True)
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in pairs) and torch.equal(one(images()).pooled, other(images()).pooled)


@pytest.mark.parametrize("name", FILES)
def test_weights_arrive(name: str, tmp_path: Path) -> None:
    """Oracle: the encoder that the file was written from."""
    layout, build, write = FILES[name]
    source, target = build(0), build(1)
    assert not same(source, target)
    load(target, saved(write(source.net.state_dict()), tmp_path), layout)
    assert same(source, target)


def test_every_layout_is_tested() -> None:
    """Oracle: the table itself."""
    assert {layout for layout, _, _ in FILES.values()} == set(LAYOUTS)


def renamed(state: State, key: str) -> State:
    return {("odd_" + name if name == key else name): tensor for name, tensor in state.items()}


def without(state: State, key: str) -> State:
    return {name: tensor for name, tensor in state.items() if name != key}


DAMAGES: tuple[tuple[Callable[[State, str], State], str], ...] = (
    (renamed, r"missing \(1\): {key}\nleft over \(1\): \S*odd_"),
    (without, r"missing \(1\): {key}\n[^l]"),
    (lambda s, _: s | some("layer5.norm3.weight"), r"left over \(1\): \S*layer5.norm3.weight"),
    (lambda s, key: s | {key: torch.zeros(5)}, r"of another shape \(1\): {key} \(5,\) instead of \(\d"),
)


@pytest.mark.parametrize("name", FILES)
def test_one_wrong_key_is_refused(name: str, tmp_path: Path) -> None:
    """Oracle: the damage, named by the encoder's key; the encoder is left as it was."""
    layout, build, write = FILES[name]
    encoder = build()
    state = {key: tensor.clone() for key, tensor in encoder.net.state_dict().items()}
    key = [key for key in state if "num_batches" not in key][-1]
    for damage, says in DAMAGES:
        file = saved(write(damage({name: tensor + 1 for name, tensor in state.items()}, key)), tmp_path)
        with pytest.raises(ConfigError, match=says.replace("{key}", re.escape(key))) as refusal:
            load(encoder, file, layout)
        assert f"layout '{layout}'" in str(refusal.value)
        assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.net.state_dict().items())


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    """Oracle: a part that the project's own code does not have; a run of ours has no head."""
    parts = {"moco_v3": "module.other.weight", "moco": "module.decoder.weight", "mae": "norm3.weight"}
    for layout, key in (parts | {"run": "head.bias"}).items():
        _, build, write = next(row for row in FILES.values() if row[0] == layout)
        source = build(0)
        contents = write(source.net.state_dict())
        entry = LAYOUTS[layout].within[0]
        (contents if entry is None else contents[entry])[key] = torch.ones(3)
        with pytest.raises(ConfigError, match=rf"left over \(1\): {key}"):
            load(source, saved(contents, tmp_path), layout)


@pytest.mark.parametrize(
    ("file", "asked", "fitting"),
    [
        ("dino", "mae", {"dino"}),
        ("moco v3", "timm", {"moco_v3"}),
        ("moco", "moco_v3", {"moco"}),
        ("lightly, sequential", "solo_learn", {"lightly"}),
        ("torchvision, vit", "mae", {"torchvision"}),
        ("solo_learn", "torchvision", {"solo_learn", "lightly"}),
        ("run, residual", "moco", {"run", "timm", "dino", "torchvision", "barlow_twins"}),
        ("simsiam", "moco", {"simsiam"}),
        ("barlow twins", "torchvision", {"barlow_twins"}),
        ("i-jepa", "mae", {"ijepa"}),
    ],
)
def test_the_layout_that_fits_is_named(file: str, asked: str, fitting: set[str], tmp_path: Path) -> None:
    """Oracle: the project that wrote the file, and those that write the same keys."""
    _, build, write = FILES[file]
    source = build(0)
    with pytest.raises(ConfigError, match="would fit the layout") as refusal:
        load(source, saved(write(source.net.state_dict()), tmp_path), asked)
    named = set(re.findall(r"'(\w+)'", str(refusal.value).partition("would fit")[2]))
    assert named == fitting


def test_the_layout_of_another_architecture_is_named(tmp_path: Path) -> None:
    """Oracle: the project that wrote the file, of a network without the last two stages of the encoder."""
    file = saved(FILES["simsiam"][2](resnet().net.state_dict()), tmp_path)
    with pytest.raises(ConfigError, match=r"More of its keys fit the layout 'simsiam'. With that, build the encoder"):
        load(ResNet(16, name="resnet18"), file, "moco")


def test_nothing_is_suggested_where_nothing_fits(tmp_path: Path) -> None:
    """Oracle: a residual network's file for a ViT: no layout makes one of the other; a long list is cut at 8."""
    with pytest.raises(ConfigError, match=r"missing \(\d\d\):(?: [\w.]+,){8} and \d+ more\n") as refusal:
        load(vit(), saved(resnet().net.state_dict(), tmp_path), "run")
    assert "would fit" not in str(refusal.value)
    assert "Build the encoder with the architecture" in str(refusal.value)


def test_an_entry_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Oracle: the entries of the file, by hand."""
    with pytest.raises(
        ConfigError, match=r"lie under 'model'.\nThere are no weights there; the file holds \(2\): a, b"
    ):
        load(vit(), saved({"a": 1, "b": {}}, tmp_path), "mae")


def test_positions_of_another_image_size(tmp_path: Path) -> None:
    """Oracle: arithmetic: 64 patches of 4 px are an image of 32 px."""
    with pytest.raises(
        ConfigError, match=r"pos_embed \(1, 65, 32\) instead of \(1, 17, 32\)\n.*32 px.*16 px"
    ) as refusal:
        load(vit(), saved(vit(size=32).net.state_dict(), tmp_path), "run")
    assert "not resampled" in str(refusal.value)
    assert "--set Images.size=32" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "file", "encoder", "settings"),
    [
        ("vit_tiny_patch16_224", "mine.pth", "ViT", "Timm.name=vit_tiny_patch16_224 --set Images.size=224"),
        ("resnet10t", "resnet10t.c3_in1k.pth", "ViT", "Timm.name=resnet10t.c3_in1k"),
        ("resnet10t", "resnet10t-ab12.pth", "ViT", "Timm.name=resnet10t"),
        ("resnet10t", "mine.pth", "ViT", "Timm.name=NAME builds any network of timm"),
        ("resnet18", "mine.pth", "ResNet", "Timm.name=resnet18"),
    ],
)
def test_the_network_of_timm_that_fits_is_named(
    name: str, file: str, encoder: str, settings: str, tmp_path: Path
) -> None:
    """Oracle: timm's own name of the network that was saved, and its image size where positions tell it."""
    torch.save(create_model(name, num_classes=0).state_dict(), tmp_path / file)
    built = vit() if encoder == "ViT" else ResNet(16, name="resnet18")
    with pytest.raises(ConfigError) as refusal:
        load(built, str(tmp_path / file), "timm")
    assert f"--set experiment.encoder=@Timm --set {settings}" in str(refusal.value)


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    """Oracle: a file that holds a weight both inside and outside of its backbone."""
    source = vit()
    state = prefixed("backbone.", source.net.state_dict())
    with pytest.raises(ConfigError, match=r"left over \(1\): norm.weight"):
        load(source, saved(state | {"norm.weight": torch.zeros(32)}, tmp_path), "dino")


@pytest.mark.parametrize(
    ("layout", "width", "heads"),
    [
        ("mae", 768, 12),
        ("moco_v3", 384, 12),
        ("moco_v3", 768, 12),
        ("dino", 192, 3),
        ("dino", 384, 6),
        ("solo_learn", 768, 12),
        ("torchvision", 768, 12),
    ],
)
def test_heads_that_weights_do_not_show(layout: str, width: int, heads: int, tmp_path: Path) -> None:
    """Oracle: the projects' public code; with twice as many heads the weights look the same."""
    write = next(write for name, (of, _, write) in FILES.items() if of == layout and "residual" not in name)
    write = FILES["torchvision, vit"][2] if layout == "torchvision" else write
    right, wrong = (ViT(16, name="vit", width=width, depth=1, heads=number, patch=8) for number in (heads, 2 * heads))
    file = saved(write(right.net.state_dict()), tmp_path)
    load(right, file, layout)
    with pytest.raises(ConfigError, match=rf"has {heads} attention heads.*has {2 * heads}. Set ViT.heads = {heads}"):
        load(wrong, file, layout)


def test_counters_may_be_absent(tmp_path: Path) -> None:
    """Oracle: outputs of the source; files from before torch 0.4.1 lack all counters, which no output depends on."""
    source, target = resnet(0), resnet(1)
    state = source.net.state_dict()
    counters = [key for key in state if "num_batches" in key]
    load(target, saved({key: state[key] for key in state if key not in counters}, tmp_path), "torchvision")
    assert torch.equal(target(images()).pooled, source(images()).pooled)
    with pytest.raises(ConfigError, match=rf"missing \(1\): {counters[3]}"):
        load(target, saved(without(state, counters[3]), tmp_path), "torchvision")


def test_other_formats(tmp_path: Path) -> None:
    """Oracle: the encoder that the files were written from: as safetensors, and in the format of torch before 1.6."""
    source = vit(0)
    save_file(source.net.state_dict(), tmp_path / "encoder.safetensors")
    torch.save(source.net.state_dict(), tmp_path / "w.pth.tar", _use_new_zipfile_serialization=False)
    for file, layout in (("encoder.safetensors", "run"), ("w.pth.tar", "timm")):
        target = vit(1)
        load(target, str(tmp_path / file), layout)
        assert same(source, target)


class Configuration:
    """Something that only its own code can rebuild."""


def spoilt(folder: Path, kind: str) -> str:
    """Write a file that cannot be read and return its path."""
    file = folder / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "code":
        torch.save({"state_dict": {}, "hyper_parameters": Configuration()}, file)
    elif kind == "truncated":
        torch.save({"model": vit().net.state_dict()}, file)
        file.write_bytes(file.read_bytes()[:5000])
    elif kind == "list":
        torch.save([torch.ones(2)], file)
    elif kind == "folder":
        file.mkdir()
    elif kind != "absent":
        file.write_bytes(b"<html>not found</html>")
    return str(file)


def test_unreadable_files(tmp_path: Path) -> None:
    """Oracle: a download that failed in one way or another."""
    for kind in ("absent", "html", "safetensors", "truncated", "list", "folder"):
        (tmp_path / "weights.pth").unlink(missing_ok=True)
        with pytest.raises(ConfigError, match=r"weights\.\w+ cannot be read: .+Give an existing"):
            load(vit(), spoilt(tmp_path, kind), "mae")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """Oracle: the object's class, named with what to do about it; what is let through stays let in no further."""
    with pytest.raises(ConfigError, match=r"object of \S*Configuration, .* write the weights alone"):
        load(vit(), spoilt(tmp_path, "code"), "mae")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_unknown_layouts() -> None:
    """Oracle: a near miss by hand."""
    for ask in (lambda layout: statistics(layout, vit()), lambda layout: load(vit(), "none.pth", layout)):
        with pytest.raises(ConfigError, match=r"No layout 'torchvison'\. Did you mean torchvision"):
            ask("torchvison")


def test_the_reference_says_what_weights_do_not_show() -> None:
    """Oracle: the page, line by line; ImageNet's mean and deviation by hand."""
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    lines = [
        "| layout | inputs | `pooled` | padding of a 3x3 stem | attention heads (width) | remark |",
        "|---|---|---|---|---|---|",
    ]
    for name, layout in LAYOUTS.items():
        assert layout.statistics in (None, imagenet)
        inputs = "ImageNet's" if layout.statistics else "the data set's"
        padding = "1, as ours" if layout.padding is None else str(layout.padding)
        heads = ", ".join(f"{heads} ({width})" for width, heads in layout.heads.items()) or "not checked"
        lines.append(f"| `{name}` | {inputs} | {layout.pooled} | {padding} | {heads} | {layout.remark} |")
    assert "\n".join(lines) in (Path(__file__).parents[1] / "docs/reference.md").read_text()
