"""Any network of timm as an encoder: for evaluation, where nothing has to be masked."""

import math
from typing import Any

import gin
import torch
from timm.models import create_model, get_pretrained_cfg, is_model, list_models
from torch import Tensor, nn

from benchmark.errors import ConfigError, MissingError, suggest
from benchmark.nets.encoders import Encoder, Features, Fill, TimmSpec
from benchmark.runtime import hub


@gin.register
class Timm(Encoder):
    """A timm network under its own name, with or without the weights that timm publishes for it.

    `pooled` is what timm's own classifier would read; `tokens` are the patch tokens after the last layer where the
    network is a transformer that says how many other tokens precede them, else None. `statistics` are the mean and
    deviation of the inputs that published weights expect, None without them. Positions of published weights are
    resampled by timm where `image_size` is not that of their training. Raises ConfigError for a network that timm does
    not know or cannot build for this size, or of which it would leave a border out, and MissingError for weights that
    cannot be fetched.
    """

    def __init__(self, image_size: int, *, name: str, pretrained: bool = False) -> None:
        super().__init__()
        if not is_model(name):
            raise ConfigError(
                f"Timm.name = {name!r}: timm has no such network.{suggest(name, list_models())} "
                f"timm.list_models('*resnet*') in Python lists names."
            )
        try:
            fetched = pretrained and torch.get_default_device().type != "meta"  # which holds no values
            if fetched:
                hub.only_cached_if_unreachable()
            self.net, arguments = _created(name, image_size, fetched)
            self.name, self.image_size = name, image_size
            self.has_one_size = "img_size" in arguments
            self.width = self._pooled_width(image_size)
        except OSError as problem:
            raise MissingError(
                f"Timm.pretrained = True: the weights of {name} cannot be fetched: {problem} Run once with a "
                f"connection, or set Timm.pretrained = False and load weights from a file."
            ) from problem
        except (AssertionError, RuntimeError, ValueError) as problem:
            default = get_pretrained_cfg(name.partition(".")[0])
            fitting = f" It was made for images of --set Images.size={default.input_size[-1]}" if default else ""
            raise ConfigError(
                f"Timm.name = {name!r} with pretrained = {pretrained} cannot be had for images of {image_size} px: "
                f"{problem} Choose another network or image size.{fitting}"
            ) from problem
        self.spec = TimmSpec(name.partition(".")[0], arguments)  # a tag names weights
        self.is_trained = pretrained
        if pretrained:
            self.statistics = self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"]

    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None, paths: Tensor | None = None
    ) -> Features:
        if visible is not None or fill is not None or paths is not None:
            raise ConfigError(f"Timm encodes whole images: {self.name} can neither drop nor replace tokens. Use ViT.")
        if self.has_one_size and view.shape[-2:] != (self.image_size, self.image_size):
            raise ConfigError(
                f"{self.name} was built for views of {self.image_size} px alone; got one of {view.shape[-2]} x "
                f"{view.shape[-1]} px. Take ViT or ResNet as the encoder, or views of the size of the images."
            )
        features = self.net.forward_features(view)
        prefix = getattr(self.net, "num_prefix_tokens", None)
        tokens = features[:, prefix:] if prefix is not None else None
        return Features(self.net.forward_head(features, pre_logits=True), tokens)

    def resize(self, size: int) -> None:
        before = self.image_size
        super().resize(size)
        try:
            if size != before:
                self._pooled_width(size)
        except (AssertionError, RuntimeError, ValueError) as problem:
            raise ConfigError(
                f"{self.name} was built for images of {before} px and cannot take {size} px: {problem} Set "
                f"Images.size={before}, or take another network."
            ) from problem

    @torch.no_grad()
    def _pooled_width(self, image_size: int) -> int:
        """Encode one image: timm's `num_features` says nothing of the layers that some heads have before the logits.

        Raises ConfigError where layers that cut an image into patches would leave its border out, but not at the size
        for which the network was published: some leave a border out there.
        """
        sides: list[tuple[int, int]] = []  # of each image or map that is cut into patches, and of its patches

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            sides.append((inputs[0].shape[-1], int(layer.kernel_size[0])))  # type: ignore[index]

        hooks = [layer.register_forward_hook(note) for name, layer in self.net.named_modules() if _cuts(name, layer)]
        was_training = self.net.training
        self.net.eval()
        width = self(torch.zeros(1, 3, image_size, image_size)).pooled.shape[1]
        self.net.train(was_training)
        for hook in hooks:
            hook.remove()
        cut = [(side, patch) for side, patch in sides if side % patch]
        if cut and image_size != self.net.pretrained_cfg.get("input_size", (0,))[-1]:
            multiple = math.prod(patch for _, patch in sides)
            below = image_size // multiple * multiple
            fitting = [size for size in (below, below + multiple) if size]
            side, patch = cut[0]
            raise ConfigError(
                f"Images.size = {image_size}: {self.name} cuts a side of {side} into patches of {patch} and would "
                f"leave the rest of the image out. Sizes that fit are the multiples of {multiple}: --set Images.size="
                f"{' or '.join(map(str, fitting))}"
            )
        return int(width)


def _cuts(name: str, layer: nn.Module) -> bool:
    """Return whether a layer cuts into patches that do not overlap; in attention, keys alone are thinned out so."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == layer.stride
        and layer.stride[0] > 1
        and set(layer.padding) == {0}
        and "attn" not in name
    )


def _created(name: str, image_size: int, pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network, for this image size if it depends on one; return it and the arguments that it took."""
    arguments: dict[str, Any] = {"num_classes": 0, "img_size": image_size}
    try:
        return create_model(name, pretrained=pretrained, **arguments), arguments
    except TypeError as problem:
        if "img_size" not in str(problem):
            raise
    del arguments["img_size"]
    return create_model(name, pretrained=pretrained, **arguments), arguments
