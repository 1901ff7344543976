"""Encoders: timm networks behind one interface.

`Encoder.net` is a plain timm module; its weights load into timm without this project. Positions are fixed, and a mask
token never belongs to the encoder, so that what is exported is what was evaluated.
"""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import gin
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.annotations import Count
from benchmark.errors import ConfigError
from benchmark.nets.drop_path import path_scales, scaled_block
from benchmark.nets.initial import sincos_positions, xavier_
from benchmark.nets.masking import pick
from benchmark.randomness import Draws


@dataclass(frozen=True)
class Features:
    """What an encoder returns: pooled `(batch, width)`, patch tokens `(batch, visible, width)`, ids of these tokens."""

    pooled: Tensor
    tokens: Tensor | None = None
    visible: Tensor | None = None


Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
Fill = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TimmSpec:
    """A timm network: its architecture, the arguments of `create_model`, and lines of Python that change `model`."""

    architecture: str
    arguments: dict[str, Any]
    changes: tuple[str, ...] = ()


class Encoder(nn.Module, ABC):
    """A network from normalised images `(batch, 3, image_size, image_size)` to `Features`.

    A ViT and a ResNet take smaller and larger views too.

    `n_tokens` and `patch`, the side in pixels that a token stands for, are None for a convolutional network, which
    cannot mask tokens. `n_blocks` are the blocks whose branches `paths` scales, None where it cannot. `fill_width` is
    the width of the embeddings that `fill` replaces. `drops_tokens` says that a subset of tokens can be encoded, and
    `pools_tokens` that `pooled` is the mean of the tokens. `stem` names the first layers where they depend on the image
    size. `statistics` are the mean and deviation by which inputs are normalised, as published weights expect it; None
    where the data set's are used. `is_trained` says that its weights are published ones. `positions` says from which
    grid to which its positions were interpolated, None where they were not. `spec` builds `net` anew in timm.
    """

    net: Any  # a timm module: its parts are typed as tensor or module, which no arithmetic accepts
    name: str
    image_size: int
    width: int
    n_tokens: int | None = None
    patch: int | None = None
    n_blocks: int | None = None
    fill_width: int | None = None
    drops_tokens: bool = False
    pools_tokens: bool = False
    stem: str | None = None
    statistics: Statistics | None = None
    is_trained: bool = False
    positions: str | None = None
    spec: TimmSpec

    @abstractmethod
    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None, paths: Tensor | None = None
    ) -> Features:
        """Encode a view; keep nothing of it, since several threads encode batches at once.

        `visible`: ids `(batch, kept)` of the tokens to encode, the others are dropped. `fill`: a mask
        `(batch, tokens)` and a token `(fill_width,)` that replaces the masked embeddings before positions are added.
        `paths`: factors `(batch, n_blocks, 2)` of the residual branches, as of `draw_paths`.
        """

    def draw_paths(self, draws: Draws, name: object, rate: float) -> Tensor | None:
        """Draw the `paths` of a pass by `path_scales`, for one use under `name`; None for a rate of 0.

        Raises ConfigError for a network without blocks of a transformer.
        """
        if not rate:
            return None
        if self.n_blocks is None:
            raise ConfigError(
                f"A drop_path of {rate} leaves out branches of a transformer's blocks; {self.name} has none. Use a ViT "
                f"or a Swin, or set drop_path to 0."
            )
        return path_scales(draws.rows(name, self.n_blocks, 2), rate)

    def last(self, view: Tensor, count: int) -> list[Features]:
        """Encode a view and return the features of the last `count` layers, the last one at the end.

        The layers of a transformer with a class token are its blocks: their tokens pass the final norm and are pooled
        as its output is (Caron et al. 2021, arXiv:2104.14294, authors' code `get_intermediate_layers`). Those of any
        other network are the stages of which timm returns maps, the stem of a ResNet among them: their `pooled` is the
        average of the map, but for the last one, whose features are the encoder's own.

        Raises ConfigError for a network that has fewer layers, or of which timm does not return them.
        """
        returns = getattr(self.net, "forward_intermediates", None)
        options = inspect.signature(returns).parameters if returns else {}
        prefix = getattr(self.net, "num_prefix_tokens", None)
        has_tokens = "return_prefix_tokens" in options
        if returns is None or (prefix is not None and not has_tokens):
            raise ConfigError(
                f"The last {count} layers of {self.name} cannot be had: timm returns no "
                f"{'class tokens' if returns else 'features'} of its single layers. Leave `layers` of the evaluation "
                f"at (1,), or take a ViT or a ResNet."
            )
        try:
            if not has_tokens:
                maps = returns(view, indices=count, intermediates_only=True)
                return [*(Features(each.mean((2, 3))) for each in maps[:-1]), self(view)]
            asked = {"norm": True, "output_fmt": "NLC", "intermediates_only": True, "return_prefix_tokens": True}
            blocks = returns(view, indices=count, **asked)  # (patch tokens, tokens before them), or patch tokens alone
        except AssertionError as problem:
            raise ConfigError(
                f"The last {count} layers of {self.name} cannot be had: {problem}. Give `layers` of the evaluation "
                f"smaller numbers."
            ) from problem
        blocks = [torch.cat(block[::-1], dim=1) if isinstance(block, tuple) else block for block in blocks]
        return [
            Features(self.net.forward_head(block, pre_logits=True), None if prefix is None else block[:, prefix:])
            for block in blocks
        ]

    def maps(self, view: Tensor) -> Tensor:
        """Encode a view and return the map of the last layer, `(batch, width, rows, columns)`; see `stages`."""
        (last,) = self.stages(view, 1)
        return last

    def stages(self, view: Tensor, places: int | list[int] | None = None) -> list[Tensor]:
        """Encode a view and return the maps `(batch, channels, rows, columns)` of its stages, the last one at the end.

        Those of a ViT are its blocks, whose patch tokens pass the final norm. `places` are those of the stages to
        return, or the number of last ones; None stands for all. Raises ConfigError for a network of which timm returns
        no maps, or that does not take views of this size.
        """
        returns = getattr(self.net, "forward_intermediates", None)
        if returns is None:
            raise ConfigError(f"{self.name} has no maps: timm returns none of it. Take a ViT or a ResNet.")
        try:
            maps = returns(view, indices=places, norm=True, output_fmt="NCHW", intermediates_only=True)
        except AssertionError as problem:
            raise ConfigError(
                f"{self.name} does not encode images of {view.shape[-1]} px: {problem}. Choose another Images.size."
            ) from problem
        return cast(list[Tensor], maps)

    def resize(self, size: int) -> None:
        """Take images of another size from now on: positions of a transformer are interpolated, bicubically as by timm.

        Attention keeps the windows in which it was trained, as in a network that is built for the new size. A
        convolutional network stays as it is, its stem included.
        """
        if size == self.image_size:
            return
        if self.patch and size % self.patch:
            raise ConfigError(
                f"Images.size = {size}: {self.name} cuts images into patches of {self.patch} px, which leave a rest. "
                f"Choose a multiple of {self.patch}."
            )
        if hasattr(self.net, "set_input_size"):
            before, shapes = self._places(), [each.shape for each in self.net.parameters()]
            windows = [each.window_size for each in self.net.modules() if hasattr(each, "shift_size")]
            # Of each stage as it was built; older versions of timm have one for all.
            kept = {"window_size": getattr(self.net, "_ref_window_sizes", max(windows))} if windows else {}
            self.net.set_input_size(img_size=size, **kept)
            if [each.shape for each in self.net.parameters()] != shapes:
                self.positions = f"{before} to {self._places(size)}"
        if self.n_tokens and self.patch:
            self.n_tokens = (size // self.patch) ** 2
        self.image_size = size

    def _places(self, size: int | None = None) -> str:
        """Return the grid of positions in words, or the image size where the network does not state it."""
        rows, columns = getattr(getattr(self.net, "patch_embed", None), "grid_size", (0, 0))
        return f"{rows} x {columns}" if rows else f"{size or self.image_size} px"

    def patch_grid(self, *, dropped: bool = True) -> tuple[int, int]:
        """Return (number of patch tokens, side in pixels of each); raises ConfigError without them.

        Raises it too where tokens are to be `dropped` and can only be replaced.
        """
        if self.n_tokens is None or self.patch is None or (dropped and not self.drops_tokens):
            raise ConfigError(
                f"Restoring masked patches needs an encoder that can encode a subset of patches; got {self.name}, "
                f"which encodes whole images ({type(self).__name__}). Use a ViT (for instance --gin "
                f"gin/protocol/vit_tiny.gin), or a method without a decoder."
            )
        return self.n_tokens, self.patch


@gin.register
class ViT(Encoder):
    """A vision transformer with a class token and fixed sine-cosine positions (He et al. 2022, arXiv:2111.06377).

    For a view of another size than `image_size` the positions are interpolated bicubically (Caron et al. 2021,
    arXiv:2104.14294, authors' code `interpolate_pos_encoding`), and there are as many tokens as it has patches.
    `pooled` is the class token and `tokens` are the patch tokens, both after the final norm. The initial weights are
    those of `xavier_`. Those of timm, truncated normal with a deviation of 0.02, suit a width of 768; in a narrow
    network the class token would hardly depend on the patches. `frozen_patches` does not train the projection of the
    patches, for stability (Chen et al. 2021, arXiv:2104.02057, section 4), and gives it no bias, as the authors' code.
    """

    drops_tokens = True

    def __init__(
        self,
        image_size: int,
        *,
        name: str,
        width: Count,
        depth: int,
        heads: Count,
        patch: Count,
        frozen_patches: bool = False,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ConfigError(
                f"ViT.patch = {patch} does not divide the image side {image_size}; choose a divisor of {image_size}."
            )
        if depth < 1:
            raise ConfigError(f"ViT.depth = {depth}: a transformer has at least 1 block.")
        if width % 4 or width % heads:
            raise ConfigError(f"ViT.width = {width} must be a multiple of 4 and of ViT.heads = {heads}.")
        shape: dict[str, Any] = {
            "img_size": image_size,
            "patch_size": patch,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "num_classes": 0,
            "global_pool": "token",
        }
        is_abstract = torch.get_default_device().type == "meta"  # no values: timm would take long to set none
        self.net = VisionTransformer(**shape, weight_init="skip" if is_abstract else "")
        self.net.patch_embed.strict_img_size = False  # views of other sizes are welcome, or refused in words
        self.spec = TimmSpec("vit_base_patch16_224", shape)
        self.name, self.image_size = f"{name}_patch{patch}", image_size
        self.width, self.patch, self.n_tokens = width, patch, (image_size // patch) ** 2
        self.n_blocks, self.fill_width = depth, width
        xavier_(self.net)
        nn.init.xavier_uniform_(self.net.patch_embed.proj.weight.view(width, -1))
        nn.init.normal_(self.net.cls_token, std=0.02)
        self.net.pos_embed = nn.Parameter(sincos_positions(width, image_size // patch), requires_grad=False)
        if frozen_patches:
            self.net.patch_embed.requires_grad_(False)
            nn.init.zeros_(self.net.patch_embed.proj.bias)

    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None, paths: Tensor | None = None
    ) -> Features:
        net = self.net
        positions = self.positions_of(view.shape[-2], view.shape[-1])
        tokens = net.patch_embed(view)
        if (visible is not None or fill is not None) and tokens.shape[1] != self.n_tokens:
            raise ConfigError(
                f"Patches are masked in views of {self.image_size} px alone, which have {self.n_tokens}; got one of "
                f"{view.shape[-1]} px with {tokens.shape[1]}. Give the views of the recipe a resolution of 1."
            )
        if fill is not None:
            mask, token = fill
            tokens = torch.where(mask.bool()[..., None], token.to(tokens.dtype), tokens)
        tokens = tokens + positions[:, 1:]
        if visible is not None:
            tokens = pick(tokens, visible)
        start = (net.cls_token + positions[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([start, tokens], dim=1)
        if paths is None:
            tokens = net.blocks(tokens)
        else:
            for block, scales in zip(net.blocks, paths.unbind(1), strict=True):
                tokens = scaled_block(block, block.attn, tokens, scales)
        tokens = net.norm(tokens)
        return Features(tokens[:, 0], tokens[:, 1:], visible)

    def positions_of(self, height: int, width: int) -> Tensor:
        """Return the positions `(1, 1 + tokens, width)` of a view; raises ConfigError where patches do not tile it."""
        patch, fixed = self.patch, self.net.pos_embed
        assert patch is not None
        if height % patch or width % patch:
            raise ConfigError(
                f"A view of {height} x {width} px does not divide into patches of {patch} px. Choose a resolution of "
                f"the view whose side is a multiple of {patch}: images have {self.image_size} px."
            )
        side, rows, columns = self.image_size // patch, height // patch, width // patch
        if rows == columns == side:
            return fixed  # type: ignore[no-any-return]
        grid = fixed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([fixed[:, :1], grid.flatten(2).mT], dim=1)
