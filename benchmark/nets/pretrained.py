"""Weights from elsewhere: where each project keeps those of an encoder, and by which names.

`encoder.net` has timm's names. A layout says what to cut and rename in a file to get them. Then keys and shapes must be
exactly the network's: a partly loaded network would run, with worse features. Weights show neither the number of
attention heads nor a stride, a padding, a pooling or the inputs: a layout states them where its project fixes them, the
rest the user has to match. This is the one file of the harness that names methods and other people's projects.
"""

import math
import pickle
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import is_model
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.errors import ConfigError, suggest
from benchmark.nets.encoders import Encoder, ResNet, Statistics

SHOWN = 8  # keys in a message, of each kind

VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
"""What timm calls a ViT of a width and depth."""

IMAGENET: Statistics = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

TORCHVISION_VIT = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_", r"blocks.\1.norm"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
)

SEQUENTIAL_RESNET = (  # the children of torchvision's network by number: 2 and 3 are an activation and a pooling
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^([4-7])\.", lambda number: f"layer{int(number[1]) - 3}."),
)


POOLED = "class token, or global average"
WIDE_HEADS = {768: 12, 1024: 16, 1280: 16}  # ViT-B, -L and -H (Dosovitskiy et al. 2021, Table 1)


@dataclass(frozen=True)
class Layout:
    """How one project writes an encoder, and what of it keys and shapes do not show.

    `within`: the entries of the file that may hold its weights, None for the file itself; the first one that does is
    read. `prefix`: a pattern with which every key of the encoder begins. `beside`: beginnings of the keys without it
    that are known not to belong to the encoder. `renames`: patterns and replacements that turn the rest of a key into
    timm's name. `dropped`: beginnings of such names that are in the file beside the encoder's.

    `statistics`: mean and deviation of the inputs that the project's weights expect, None where they are the data
    set's own. `pooled`: what `Features.pooled` is; a class token is taken after the final norm. `padding`: of the 3x3
    convolution by which the project replaces the stem of a residual network for small images, without a max pooling;
    None where it has none, and ours keeps its 1. The 7x7 stem is padded by 3 everywhere. `heads`: attention heads by
    width, where all ViTs of the project have as many. `remark`: which copy of the weights is read, and how the
    project's own evaluation differs. Batch norms use the file's running statistics everywhere, as the projects do where
    they evaluate frozen features. docs/reference.md says the same to users.
    """

    within: tuple[str | None, ...]
    prefix: str = ""
    beside: tuple[str, ...] = ()
    renames: tuple[tuple[str, Any], ...] = ()
    dropped: tuple[str, ...] = ()
    statistics: Statistics | None = None
    pooled: str = POOLED
    padding: int | None = None
    heads: Mapping[int, int] = field(default_factory=dict)
    remark: str = ""


LAYOUTS = {
    "run": Layout((None,), remark="the encoder of a run of this benchmark"),
    "timm": Layout(
        (None, "state_dict_ema", "model_ema", "state_dict", "model"),
        r"(_orig_mod\.)?(module\.)?(_orig_mod\.)?",
        dropped=("head.", "fc.", "classifier."),
        pooled=f"{POOLED}; with `@Timm` what its classifier reads",
        remark="averaged weights before plain ones, as timm loads them; `Timm.pretrained=True` knows the inputs",
    ),
    "mae": Layout(
        ("model",),
        dropped=("decoder_", "mask_token", "head."),
        statistics=IMAGENET,
        pooled="class token",
        heads=WIDE_HEADS,
        remark="its linear probe reads the class token, its fine-tuning a new norm of the mean of the patch tokens",
    ),
    "moco_v3": Layout(
        ("state_dict",),
        r"module\.base_encoder\.",
        beside=("module.momentum_encoder.", "module.predictor."),
        dropped=("head.", "fc."),
        statistics=IMAGENET,
        heads={384: 12} | WIDE_HEADS,
        remark="the base encoder, not the momentum encoder",
    ),
    "moco": Layout(
        ("state_dict",),
        r"module\.encoder_q\.",
        beside=("module.encoder_k.", "module.queue"),
        dropped=("fc.",),
        statistics=IMAGENET,
        pooled="global average",
        remark="the query encoder, not the key encoder",
    ),
    "dino": Layout(
        ("teacher", None),
        r"(module\.)?(backbone\.)?",
        dropped=("head.",),
        statistics=IMAGENET,
        heads={192: 3, 384: 6, 768: 12},
        remark="the teacher; its linear evaluation joins the class tokens of the last 4 blocks (ViT-S), or the class "
        "token and the mean of the patch tokens (ViT-B)",
    ),
    "solo_learn": Layout(
        ("state_dict",),
        r"backbone\.",
        beside=("",),
        padding=2,
        heads={768: 12, 1024: 16},
        remark="the online network; trained on CIFAR with its own inputs, on STL-10 with CIFAR-10's, else with "
        "ImageNet's; 12 heads at widths 192 and 384 in its MAE and MoCo v3, else 3 and 6",
    ),
    "lightly": Layout(
        ("state_dict", None),
        r"backbone\.(vit\.)?",
        beside=("",),
        renames=TORCHVISION_VIT + SEQUENTIAL_RESNET,
        dropped=("mask_token", "head.", "heads.", "fc."),
        statistics=IMAGENET,
        remark="the network named `backbone`; its transforms have ImageNet's inputs by default, for CIFAR too",
    ),
    "torchvision": Layout(
        (None, "model"),
        renames=TORCHVISION_VIT,
        dropped=("heads.", "fc."),
        statistics=IMAGENET,
        heads=WIDE_HEADS,
        remark="plain weights, not `model_ema`",
    ),
}
"""By name, the layouts that can be read. `run` is the encoder.safetensors of a run of this benchmark."""


@dataclass(frozen=True)
class Match:
    """What of a file belongs to an encoder, by the encoder's names, and what keeps it from fitting."""

    weights: Mapping[str, Tensor]
    missing: Sequence[str]
    left_over: Sequence[str]
    misshapen: Sequence[str]


def statistics(layout: str, encoder: Encoder) -> Statistics | None:
    """Return (mean, deviation) of the inputs, in [0, 1], that weights of a layout expect, None for the data set's own.

    Those that were set for the encoder come first. Raises ConfigError for an unknown layout.
    """
    stated = None if encoder.is_trained else encoder.statistics  # what timm fetched is replaced by the file
    return _layout(layout).statistics if stated is None else stated


def load(encoder: Encoder, file: str, layout: str) -> None:
    """Load a file into `encoder.net`: all of its weights and buffers, or none of them.

    Only tensors and plain values are read: no code in the file runs. Raises ConfigError for an unknown layout, a file
    that cannot be read, and weights whose names and shapes are not the encoder's, which it lists.
    """
    _layout(layout)
    fit(encoder, read(file), file, layout)


def fit(
    encoder: Encoder, contents: Mapping[str, Any], file: str, layout: str, *, interpolated: bool = False
) -> str | None:
    """Load the contents of a file, as `load` does.

    With `interpolated`, learnt positions of a ViT follow its image size, bicubically as in timm, and the return value
    says from which grid to which; None where they fit.
    """
    project, expected = _layout(layout), encoder.net.state_dict()
    match = _match(contents, project, expected)
    positions = None
    if interpolated and match and isinstance(encoder.net, VisionTransformer):
        match, positions = _interpolate(encoder.net, match)
    if match is None or match.missing or match.left_over or match.misshapen:
        raise ConfigError(
            f"{file} does not hold the weights of {encoder.name} in the layout {layout!r}, whose keys "
            f"{_place(project)}.\n{_problems(contents, match)}{_advice(encoder, file, contents, layout, match)}"
        )
    if isinstance(encoder.net, VisionTransformer):
        attention: Any = encoder.net.blocks[0].attn
        heads = project.heads.get(encoder.width, attention.num_heads)
        if heads != attention.num_heads:
            raise ConfigError(
                f"{file}: a ViT of width {encoder.width} in the layout {layout!r} has {heads} attention heads, which "
                f"weights do not show; {encoder.name} has {attention.num_heads}. Set ViT.heads = {heads}."
            )
    if isinstance(encoder, ResNet) and encoder.stem != "7x7" and project.padding is not None:
        if encoder.stem != "3x3":
            raise ConfigError(
                f"{file}: a network with a 3x3 convolution as its stem has no max pooling in the layout {layout!r}, "
                f"which weights do not show; {encoder.name} has one for images of {encoder.image_size} px. Evaluate on "
                f"images of at most 48 px, as it was trained: --set Images.size=32"
            )
        encoder.net.conv1.padding = (project.padding,) * 2
        change = f"model.conv1.padding = {encoder.net.conv1.padding}"
        encoder.spec = replace(encoder.spec, changes=(*encoder.spec.changes, change))
    encoder.net.load_state_dict({name: part.to(expected[name].device) for name, part in match.weights.items()})
    return positions


def _interpolate(net: VisionTransformer, match: Match) -> tuple[Match, str | None]:
    """Resample the positions of a square grid of patches to the grid of the network, if they are of another one."""
    positions, prefix = match.weights.get("pos_embed"), net.num_prefix_tokens
    if positions is None or positions.ndim != 3 or net.pos_embed is None or positions.shape == net.pos_embed.shape:
        return match, None
    side = math.isqrt(max(positions.shape[1] - prefix, 0))
    if side**2 + prefix != positions.shape[1] or positions.shape[2] != net.pos_embed.shape[2]:
        return match, None
    rows, columns = net.patch_embed.grid_size
    resampled = resample_abs_pos_embed(positions, [rows, columns], num_prefix_tokens=prefix)
    misshapen = [problem for problem in match.misshapen if not problem.startswith("pos_embed ")]
    changed = replace(match, weights={**match.weights, "pos_embed": resampled}, misshapen=misshapen)
    return changed, f"{side} x {side} to {rows} x {columns}"


def _layout(layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise ConfigError(f"No layout {layout!r}.{suggest(layout, LAYOUTS)} Choose one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[layout]


def read(file: str) -> dict[str, Any]:
    """Read a file without running code from it; the arguments that training scripts save along are inert."""
    inert: list[Any] = [Namespace, (PurePosixPath, "pathlib.PosixPath"), (PurePosixPath, "pathlib._local.PosixPath")]
    try:
        if Path(file).suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(inert):
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        foreign = re.search(r"GLOBAL (\S+)", str(problem))
        if foreign is None:
            raise _unreadable(file, "it is not a file of torch.save") from problem
        raise ConfigError(
            f"{file} holds an object of {foreign[1]}, which cannot be read without running code from the file. If you "
            f"trust its source, write the weights alone: contents = torch.load({file!r}, weights_only=False), then "
            f"torch.save of its entry with the weights under the same key."
        ) from problem
    except Exception as problem:  # what a damaged file raises depends on where the damage lies
        raise _unreadable(file, str(problem)) from problem
    if not isinstance(contents, dict):
        raise _unreadable(file, f"it holds a {type(contents).__name__} instead of a dictionary")
    return contents


def _unreadable(file: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{file} cannot be read: {reason}. Give an existing .safetensors file, or a .pt or .pth file that torch.save "
        f"wrote; if it was downloaded, check its size."
    )


def _match(contents: Mapping[str, Any], layout: Layout, expected: Mapping[str, Tensor]) -> Match | None:
    """Turn a file's keys into an encoder's; None where no entry of the layout holds weights."""
    states = (contents if entry is None else contents.get(entry) for entry in layout.within)
    state = next((state for state in states if _is_state(state)), None)
    if state is None:
        return None
    weights: dict[str, Tensor] = {}
    left_over = []
    for key, tensor in state.items():
        start = re.match(layout.prefix, key)
        if start is None:
            if not key.startswith(layout.beside):
                left_over.append(key)
            continue
        name = key[start.end() :]
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        if name in expected and name not in weights:
            weights[name] = tensor
        elif name in expected or not name.startswith(layout.dropped):
            left_over.append(key)
    counters = {name: expected[name] for name in expected if name.endswith(".num_batches_tracked")}
    if counters.keys().isdisjoint(weights):  # files of before torch 0.4.1 have none, and no output depends on them
        weights |= counters
    shapes = {name: (tuple(weights[name].shape), tuple(expected[name].shape)) for name in expected if name in weights}
    misshapen = [f"{name} {shape} instead of {wanted}" for name, (shape, wanted) in shapes.items() if shape != wanted]
    return Match(weights, [name for name in expected if name not in weights], left_over, misshapen)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(part, Tensor) for key, part in value.items())
    )


def _place(layout: Layout) -> str:
    """Say where a layout has its keys, to follow "whose keys"."""
    entries = " or ".join("in the file itself" if entry is None else f"under {entry!r}" for entry in layout.within)
    return f"lie {entries}" + (f" and begin with {layout.prefix}".replace("\\", "") if layout.prefix else "")


def _problems(contents: Mapping[str, Any], match: Match | None) -> str:
    if match is None:
        return f"There are no weights there; {_listed('the file holds', [str(key) for key in contents])}"
    return (
        _listed("missing", match.missing)
        + _listed("left over", match.left_over)
        + _listed("of another shape", match.misshapen)
    )


def _listed(what: str, names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} ({len(names)}): {', '.join(names[:SHOWN])}{more}\n" if names else ""


def _advice(encoder: Encoder, file: str, contents: Mapping[str, Any], layout: str, match: Match | None) -> str:
    """Name the layouts that would fit or, where all names do, the encoder that would."""
    net, expected = encoder.net, encoder.net.state_dict()
    if match is None or match.missing or match.left_over:
        others = {name: _match(contents, other, expected) for name, other in LAYOUTS.items() if name != layout}
        fitting = [name for name, other in others.items() if other and not (other.missing or other.left_over)]
        if fitting:
            return f"Its keys would fit the layout {' or '.join(repr(name) for name in fitting)}."
    elif isinstance(net, VisionTransformer):
        patch, positions = (match.weights[name] for name in ("patch_embed.proj.weight", "pos_embed"))
        if positions.ndim == 3 and patch.ndim == 4:
            pixels, patches = patch.shape[-1], net.patch_embed.num_patches
            in_file = patches + positions.shape[1] - expected["pos_embed"].shape[1]
            side = math.isqrt(max(in_file, 0))
            if in_file != patches and side**2 == in_file:
                return (
                    f"Its positions are for images of {side * pixels} px in patches of {pixels} px, the encoder's for "
                    f"{encoder.image_size} px; they are not resampled. Build the encoder for images of that size: "
                    f"--set Images.size={side * pixels}{_timm(file, match)}"
                )
    elif isinstance(net, TimmResNet) and all(problem.startswith("conv1.") for problem in match.misshapen):
        return (
            f"Its first convolution is not the one for images of {encoder.image_size} px. To keep the network as it "
            f"was trained: --set experiment.encoder=@Timm --set Timm.name={encoder.spec.architecture}"
        )
    return (
        "Build the encoder with the architecture, patch and image size that the weights were trained with"
        f"{_timm(file, match) or '; --set experiment.encoder=@Timm --set Timm.name=NAME builds any network of timm.'}"
    )


def _timm(file: str, match: Match | None) -> str:
    """Return the settings of the timm network that the file's name or shapes show, to end a sentence; '' for none."""
    stem = Path(file).stem
    name = next((name for name in (stem, stem.partition("-")[0]) if is_model(name)), None)
    size = ""
    weights = match.weights if match else {}
    patch, positions = (weights.get(key) for key in ("patch_embed.proj.weight", "pos_embed"))
    if match and patch is not None and positions is not None and positions.ndim == 3 and patch.ndim == 4:
        keys = " ".join([*weights, *match.left_over])
        depth = max((int(number) + 1 for number in re.findall(r"\bblocks\.(\d+)\.", keys)), default=0)
        size = f" --set Images.size={math.isqrt(positions.shape[1] - 1) * patch.shape[-1]}"
        vit = f"vit_{VITS.get((patch.shape[0], depth))}_patch{patch.shape[-1]}_224"
        name = name or (vit if is_model(vit) else None)
    return f", or take timm's own: --set experiment.encoder=@Timm --set Timm.name={name}{size}" if name else ""
