"""Swin transformers (Liu et al. 2021, arXiv:2103.14030): attention within windows, and maps that shrink by stages."""

from typing import Any

import gin
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from benchmark.annotations import Count
from benchmark.errors import ConfigError
from benchmark.nets.drop_path import scaled_block
from benchmark.nets.encoders import Encoder, Features, Fill, TimmSpec
from benchmark.nets.initial import xavier_


@gin.register
class Swin(Encoder):
    """A Swin transformer: `tokens` are the places of its last map after the final norm, `pooled` is their mean.

    The image is cut into patches of `patch / split` pixels: they are smaller than the `patch` of a ViT on the same
    data. Each of `depths` is a stage with its number of blocks, each of `heads` has the heads of a stage. The first
    stage is `width` wide, and each later one merges 2 x 2 places into one of twice the width. Blocks attend within
    windows of `window` x `window` places, or of the whole map where that is smaller.

    A token therefore stands for a square of several patches, and masks are drawn in tokens. The patches of a masked
    square are replaced right after their embedding (Xie et al. 2022, arXiv:2111.09886, authors' code), by a token of
    the first stage's width. Initial weights are those of `ViT`; biases of relative positions start as in timm.
    """

    patch: int
    pools_tokens = True

    def __init__(
        self,
        image_size: int,
        *,
        name: str,
        width: Count,
        depths: tuple[Count, ...],
        heads: tuple[Count, ...],
        window: Count,
        patch: Count,
        split: Count,
    ) -> None:
        super().__init__()
        if not depths or len(depths) != len(heads):
            raise ConfigError(f"Swin.depths = {depths} and Swin.heads = {heads} need one number for each stage.")
        if any(width * 2**stage % count for stage, count in enumerate(heads)):
            raise ConfigError(
                f"Swin.width = {width}, doubled from stage to stage, must be a multiple of Swin.heads = {heads}."
            )
        if patch % split:
            raise ConfigError(f"Swin.split = {split} does not divide Swin.patch = {patch}; choose a divisor of it.")
        self.merged = 2 ** (len(depths) - 1)
        stride = patch // split * self.merged
        if image_size % stride:
            raise ConfigError(
                f"Swin: {len(depths)} stages on patches of {patch // split} px have tokens of {stride} px, which "
                f"do not divide the image side {image_size}. Use fewer Swin.depths, a larger Swin.split or another "
                f"Swin.patch."
            )
        shape: dict[str, Any] = {
            "img_size": image_size,
            "patch_size": patch // split,
            "embed_dim": width,
            "depths": depths,
            "num_heads": heads,
            "window_size": window,
            "num_classes": 0,
            "drop_path_rate": 0.0,  # timm's default is 0.1
        }
        self.net = SwinTransformer(**shape)
        self.spec = TimmSpec("swin_tiny_patch4_window7_224", shape)
        self.name, self.image_size = f"{name}_patch{patch // split}", image_size
        self.width, self.fill_width, self.n_blocks = self.net.num_features, width, sum(depths)
        self.patch, self.n_tokens = stride, (image_size // stride) ** 2
        xavier_(self.net)
        nn.init.xavier_uniform_(self.net.patch_embed.proj.weight.view(width, -1))

    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None, paths: Tensor | None = None
    ) -> Features:
        if visible is not None:
            raise ConfigError(
                f"{self.name} needs every patch, since its windows have no gaps: it can replace masked tokens, but not "
                f"drop them. Use a ViT."
            )
        net = self.net
        embedded = net.patch_embed(view)
        if fill is not None:
            mask, token = fill
            squares = mask.bool().unflatten(1, (self.image_size // self.patch, -1))
            places = squares.repeat_interleave(self.merged, 1).repeat_interleave(self.merged, 2)
            embedded = torch.where(places[..., None], token.to(embedded.dtype), embedded)
        last = net.norm(net.layers(embedded) if paths is None else self._scaled(embedded, paths))
        return Features(net.forward_head(last, pre_logits=True), last.flatten(1, 2))

    def _scaled(self, places: Tensor, paths: Tensor) -> Tensor:
        """Pass all stages with scaled branches."""
        scales = iter(paths.unbind(1))
        for stage in self.net.layers:
            places = stage.downsample(places)
            for block in stage.blocks:
                places = scaled_block(block, block._attn, places, next(scales))
        return places
