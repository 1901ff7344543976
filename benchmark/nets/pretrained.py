"""Weights from elsewhere, read into an encoder: all of them, or none.

`benchmark.nets.layouts` says how each project writes them. Keys and shapes must be exactly the network's: a partly
loaded network would run, with worse features.
"""

import math
import pickle
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import is_model
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmark.errors import ConfigError, suggest
from benchmark.nets.encoders import Encoder, Statistics
from benchmark.nets.layouts import LAYOUTS, Layout
from benchmark.nets.resnet import ResNet

SHOWN = 8  # keys in a message, of each kind

VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
"""What timm calls a ViT of a width and depth."""


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


def load(encoder: Encoder, file: str, layout: str, *, interpolated: bool = False, diverged: bool = False) -> str | None:
    """Load a file into `encoder.net`: all of its weights and buffers, or none of them.

    Only tensors and plain values are read: no code in the file runs. Raises ConfigError for an unknown layout, a file
    that cannot be read, and weights whose names and shapes are not the encoder's, which it lists, or which are not
    finite, unless they are those of a run that is known to have `diverged`. For `interpolated` and the result, see
    `fit`.
    """
    _layout(layout)
    return fit(encoder, read(file), file, layout, interpolated=interpolated, diverged=diverged)


def fit(
    encoder: Encoder,
    contents: Mapping[str, Any],
    file: str,
    layout: str,
    *,
    interpolated: bool = False,
    diverged: bool = False,
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
    weights = {name: part.to(expected[name].dtype) for name, part in match.weights.items()}  # float64 may overflow
    if not diverged:
        check_finite(weights, file)
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
    encoder.net.load_state_dict({name: part.to(expected[name].device) for name, part in weights.items()})
    return positions


def check_finite(weights: Mapping[str, Tensor], file: str) -> None:
    """Raise ConfigError for weights that are not finite numbers, and name them."""
    broken = [name for name, weight in weights.items() if weight.is_floating_point() and not weight.isfinite().all()]
    if broken:
        raise ConfigError(
            f"{file} has weights that are not finite, so nothing that is computed with them means anything.\n"
            f"{_listed('not finite', broken)}Give weights of a training that did not diverge, or of an earlier step."
        )


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
    for written, tensor in state.items():
        key = re.sub(r"(^|\.)_orig_mod\.", r"\1", written)  # torch.compile puts it before the names of what it wraps
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
        if alike := _most_alike(match, others):
            return (
                f"More of its keys fit the layout {' or '.join(map(repr, alike))}. With that, build the encoder with "
                f"the architecture that the weights were trained with."
            )
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


def _most_alike(match: Match | None, others: Mapping[str, Match | None]) -> list[str]:
    """Return the layouts in which most keys of a file are an encoder's, if these are more than in the one asked for."""

    def known(candidate: Match | None) -> int:
        return 0 if candidate is None else sum("num_batches" not in name for name in candidate.weights)

    most = max(map(known, others.values()), default=0)
    return [name for name, other in others.items() if known(other) == most] if most > known(match) else []


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
