"""Residual networks of timm as encoders, with a stem for small images."""

from contextlib import suppress
from typing import Any, cast

import gin
from timm.models import create_model, is_model, list_models
from timm.models.resnet import BasicBlock
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from benchmark.annotations import Count
from benchmark.errors import ConfigError, suggest
from benchmark.nets.encoders import Encoder, Features, Fill, Statistics, TimmSpec

TIMM_WIDTH = 64  # of the first stage of timm's residual networks


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

    def forward(
        self, view: Tensor, visible: Tensor | None = None, fill: Fill | None = None, paths: Tensor | None = None
    ) -> Features:
        if visible is not None or fill is not None or paths is not None:
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
