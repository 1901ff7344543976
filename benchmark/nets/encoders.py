"""Encoders: timm networks behind one interface.

`Encoder.net` is a plain timm module; its weights load into timm without this project. Positions are fixed, and a mask
token never belongs to the encoder, so that what is exported is what was evaluated.
"""

import inspect
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import gin
import torch
from timm.models import create_model, is_model, list_models
from timm.models.resnet import BasicBlock
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.annotations import Count
from benchmark.errors import ConfigError, suggest
from benchmark.nets.masking import pick


@dataclass(frozen=True)
class Features:
    """What an encoder returns: pooled `(batch, width)`, patch tokens `(batch, visible, width)`, ids of these tokens."""

    pooled: Tensor
    tokens: Tensor | None = None
    visible: Tensor | None = None


Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
Fill = tuple[Tensor, Tensor]
TIMM_WIDTH = 64  # of the first stage of timm's residual networks


@dataclass(frozen=True)
class TimmSpec:
    """A timm network: its architecture, the arguments of `create_model`, and lines of Python that change `model`."""

    architecture: str
    arguments: dict[str, Any]
    changes: tuple[str, ...] = ()


class Encoder(nn.Module, ABC):
    """A network from normalised images `(batch, 3, image_size, image_size)` to `Features`.

    A ViT and a ResNet take smaller and larger views too.

    `n_tokens` and `patch` are None for a convolutional network, which cannot drop tokens. `stem` names the first layers
    where they depend on the image size. `statistics` are the mean and deviation by which inputs are normalised, as
    published weights expect it; None where the data set's are used. `is_trained` says that its weights are published
    ones. `spec` builds `net` anew in timm.
    """

    net: Any  # a timm module: its parts are typed as tensor or module, which no arithmetic accepts
    name: str
    image_size: int
    width: int
    n_tokens: int | None = None
    patch: int | None = None
    stem: str | None = None
    statistics: Statistics | None = None
    is_trained: bool = False
    spec: TimmSpec

    @abstractmethod
    def forward(self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None) -> Features:
        """Encode a view.

        `visible`: ids `(batch, kept)` of the tokens to encode, the others are dropped. `fill`: a mask
        `(batch, tokens)` and a token `(width,)` that replaces the masked embeddings before positions are added.
        """

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

    def patch_grid(self) -> tuple[int, int]:
        """Return (number of patch tokens, patch side in pixels); raises ConfigError without them."""
        if self.n_tokens is None or self.patch is None:
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
        self.net = VisionTransformer(**shape)
        self.net.patch_embed.strict_img_size = False  # views of other sizes are welcome, or refused in words
        self.spec = TimmSpec("vit_base_patch16_224", shape)
        self.name, self.image_size = f"{name}_patch{patch}", image_size
        self.width, self.patch, self.n_tokens = width, patch, (image_size // patch) ** 2
        xavier_(self.net)
        nn.init.xavier_uniform_(self.net.patch_embed.proj.weight.view(width, -1))
        nn.init.normal_(self.net.cls_token, std=0.02)
        self.net.pos_embed = nn.Parameter(sincos_positions(width, image_size // patch), requires_grad=False)
        if frozen_patches:
            self.net.patch_embed.requires_grad_(False)
            nn.init.zeros_(self.net.patch_embed.proj.bias)

    def forward(self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None) -> Features:
        net = self.net
        positions = self.positions(view.shape[-2], view.shape[-1])
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
        tokens = net.norm(net.blocks(torch.cat([start, tokens], dim=1)))
        return Features(tokens[:, 0], tokens[:, 1:], visible)

    def positions(self, height: int, width: int) -> Tensor:
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


def xavier_(module: nn.Module) -> None:
    """Set every linear layer to Xavier-uniform weights and zero bias (He et al. 2022, arXiv:2111.06377).

    A fused layer of queries, keys and values counts as the three square matrices that it holds (Chen et al. 2021,
    arXiv:2104.02057): as one matrix of 3 x width rows they would start smaller by a factor of sqrt(2).
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            for matrix in part.weight.chunk(3) if name.endswith("qkv") else (part.weight,):
                nn.init.xavier_uniform_(matrix)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sincos_positions(width: int, side: int) -> Tensor:
    """Return fixed positions `(1, 1 + side * side, width)`, zero for the class token.

    The first half of the channels encodes the column, the second half the row, each as sines then cosines of
    frequencies 10000^(-4 i / width) (He et al. 2022, arXiv:2111.06377).
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = line[None].expand(side, -1, -1)
    rows = line[:, None].expand(-1, side, -1)
    grid = torch.cat([columns, rows], dim=2).reshape(side * side, width)
    return torch.cat([grid.new_zeros(1, width), grid])[None].float()


@gin.register
class ResNet(Encoder):
    """A timm residual network whose stem follows the image size; `pooled` is the global average of the last stage.

    Up to 48 px the first convolution is 3x3 with stride 1 and there is no max pooling (Chen et al. 2020,
    arXiv:2002.05709, B.9); up to 128 px the pooling stays; above, the stem is the 7x7 one of ImageNet. The last norm
    of each block starts at zero with `zero_last`, as timm does by default, else at one, as torchvision does.
    A 3x3 convolution has He-normal initial weights as timm's layers have, or with `plain_stem` torch's default, as in
    code that exchanges it after torchvision's initialisation: these are twice as large, so that the layer, whose scale
    the norm after it takes out, learns at a quarter of the pace. `base_width` is that of the first stage, which the
    others double; another than 64 takes a network of basic blocks. `statistics` replace the mean and deviation of the
    data set, by which images are normalised.
    """

    def __init__(
        self,
        image_size: int,
        *,
        name: str,
        zero_last: bool = True,
        plain_stem: bool = False,
        base_width: Count = 64,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        if not is_model(name):
            raise ConfigError(f"ResNet.name = {name!r}: timm has no such network.{suggest(name, list_models())}")
        arguments: dict[str, Any] = {"num_classes": 0} | ({} if zero_last else {"zero_init_last": False})
        changes: list[str] = []
        if base_width == TIMM_WIDTH:
            self.net, title = create_model(name, **arguments), name
        else:
            arguments["channels"] = [base_width * 2**stage for stage in range(4)]
            self.net, changes = _of_width(name, base_width, arguments)
            title = f"{name}w{base_width}"
        self.statistics = statistics
        self.stem = "7x7"
        if image_size <= 128:
            old = getattr(self.net, "conv1", None)
            if not isinstance(old, nn.Conv2d):
                raise ConfigError(
                    f"ResNet.name = {name!r} does not begin with a single convolution, which is replaced for images of "
                    f"{image_size} px. Choose another, such as resnet18, or take any network of timm as it is: "
                    f"--set experiment.encoder=@Timm --set Timm.name={name}"
                )
            self.net.conv1 = nn.Conv2d(3, old.out_channels, 3, stride=1, padding=1, bias=False)
            if not plain_stem:
                nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.stem = "3x3-pool"
            changes.append(f"model.conv1 = torch.nn.Conv2d(3, {old.out_channels}, 3, stride=1, padding=1, bias=False)")
        if image_size <= 48:
            self.net.maxpool = nn.Identity()
            self.stem = "3x3"
            changes.append("model.maxpool = torch.nn.Identity()")
        self.spec = TimmSpec(name, arguments, tuple(changes))
        self.name, self.image_size, self.width = f"{title}_stem{self.stem}", image_size, self.net.num_features

    def forward(self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None) -> Features:
        if visible is not None or fill is not None:
            raise ConfigError(f"{self.name} is convolutional: it can neither drop nor replace tokens. Use a ViT.")
        return Features(self.net(view))


def _of_width(name: str, width: int, arguments: dict[str, Any]) -> tuple[Any, list[str]]:
    """Build a residual network whose stages have the widths of its arguments, and return what timm's lacks for it.

    timm's stem is 64 wide whatever the stages are, so that it and the first block are exchanged.
    """
    net: Any = None
    with suppress(TypeError):  # of a network without channels
        net = create_model(name, **arguments)
    first: Any = cast(Any, net).layer1[0] if isinstance(net, TimmResNet) else None
    if not isinstance(first, BasicBlock) or not isinstance(net.conv1, nn.Conv2d):
        raise ConfigError(
            f"ResNet.base_width = {width}: {name} does not consist of basic blocks behind a single convolution; only "
            f"such a network can have another width, for instance resnet18."
        )
    net.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    first.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    first.downsample = None
    for convolution in (net.conv1, first.conv1):
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return net, [
        f"model.conv1 = torch.nn.Conv2d(3, {width}, 7, stride=2, padding=3, bias=False)",
        f"model.bn1 = torch.nn.BatchNorm2d({width})",
        f"model.layer1[0].conv1 = torch.nn.Conv2d({width}, {width}, 3, padding=1, bias=False)",
        "model.layer1[0].downsample = None",
    ]
