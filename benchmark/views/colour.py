"""Colour jitter, greyscale, blur and solarize with parameters of their own for every image, and normalisation.

The formulas are torchvision's for float images. Images are float32 (batch, 3, height, width) in [0, 1]. The functions
ending in an underscore work in place on the images in `index`; `index` and parameters are on the host, so that
choosing images never waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.runtime.transfer import send
from benchmark.views.geometry import Taps, resample

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jitter_factors(draws: Tensor, strengths: Sequence[float]) -> Tensor:
    """Factors (batch, 4) from uniform `draws` (batch, 4) and the strengths of brightness, contrast, saturation and hue.

    The first three are uniform in [max(0, 1 - strength), 1 + strength]; the hue's, in turns of the colour circle, is
    uniform in [-strength, strength].
    """
    low = torch.tensor([max(0.0, 1 - strength) for strength in strengths[:HUE]] + [-strengths[HUE]])
    high = torch.tensor([1 + strength for strength in strengths[:HUE]] + [strengths[HUE]])
    return torch.lerp(low, high, draws)


def jitter_(images: Tensor, index: Tensor, order: Tensor, factors: Tensor) -> None:
    """Adjusts brightness, contrast, saturation and hue of the images in `index` (chosen,).

    `order` (chosen, 4) lists for each image the operations, `BRIGHTNESS` to `HUE`, as they are to be applied; column k
    of `factors` (chosen, 4) belongs to operation k.
    """
    # Sorted by the place of the hue in their order, the images that need an n-th operation before it lie side by
    # side, and so do those that need one after it: the hue, by far the slowest, takes one call, and no step is wasted.
    place, sorting = (order == HUE).int().argmax(dim=1).sort(stable=True)
    order, factors = order[sorting], factors[sorting]
    steps = order[order != HUE].view(-1, 3)
    scale = factors.gather(1, steps)
    coefficients = torch.stack([scale, (1 - scale) * (steps == SATURATION), (1 - scale) * (steps == CONTRAST)])
    index, coefficients, turns = send(images.device, index[sorting], coefficients, factors[:, HUE])

    chosen = images.index_select(0, index)
    done = [int((place <= step).sum()) for step in range(3)]
    for step in range(3):
        _blend_(chosen[done[step] :], coefficients[:, done[step] :, step])
    _rotate_hue_(chosen, turns)
    for step in range(3):
        _blend_(chosen[: done[step]], coefficients[:, : done[step], step])
    images.index_copy_(0, index, chosen)


def greyscale_(images: Tensor, index: Tensor) -> None:
    """Replaces the three channels of the images in `index` (chosen,) by their luminance."""
    (index,) = send(images.device, index)
    images.index_copy_(0, index, _luminance(images.index_select(0, index)).unsqueeze(1).expand(-1, 3, -1, -1))


def blur_(images: Tensor, index: Tensor, sigma: Tensor) -> None:
    """Blurs the images in `index` (chosen,) with a Gaussian of standard deviation `sigma` (chosen,), in pixels.

    The kernel is a tenth of the side, made odd, at least 3 pixels (Chen et al. 2020, arXiv:2002.05709, appendix A); the
    image is reflected at its borders.

    A kernel that is short for its `sigma` cuts the Gaussian, and blurs less. For a `sigma` of 2 the standard deviation
    of the kernel is 1.64 pixels at a side of 64, 1.85 at 96 and 2.00 at 224. The code of several later papers has PIL's
    GaussianBlur instead, which cuts nothing at any side.
    """
    index, sigma = send(images.device, index, sigma)
    rows, columns = (_blur_taps(side, max(1, side // 20), sigma) for side in images.shape[-2:])
    images.index_copy_(0, index, resample(images.index_select(0, index), rows, columns))


def solarize_(images: Tensor, index: Tensor) -> None:
    """Inverts the values from 128/255 on of the images in `index` (chosen,)."""
    (index,) = send(images.device, index)
    chosen = images.index_select(0, index)
    bright = (chosen >= 128 / 255).float()
    images.index_copy_(0, index, bright.sub_(chosen).abs_())  # |1 - x| or |0 - x|: `where` takes several times as long


def normalise(views: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Subtracts each channel's mean from `views` (batch, 3, height, width) and divides by its standard deviation.

    Both are best given as tensors (3,) on the device of the views, to which numbers have to be copied at each call.
    """
    mean, std = (
        torch.as_tensor(values, dtype=views.dtype, device=views.device).view(-1, 1, 1) for values in (mean, std)
    )
    return (views - mean).div_(std)


def _luminance(images: Tensor) -> Tensor:
    """Grey value (batch, height, width) with the weights of ITU-R BT.601, as torchvision rounds them."""
    red, green, blue = images.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _blend_(images: Tensor, coefficients: Tensor) -> None:
    """Sets images to a * image + b * grey + c * mean(grey), clamped, with `coefficients` a, b, c (3, batch).

    With a factor f brightness is (f, 0, 0), saturation (f, 1 - f, 0) and contrast (f, 0, 1 - f): one pass serves all.
    """
    own, grey, mean = coefficients[..., None, None]
    luminance = _luminance(images)
    average = luminance.mean(dim=(1, 2), keepdim=True)
    offset = luminance.mul_(grey).add_(average.mul_(mean))
    torch.addcmul(offset.unsqueeze(1), images, own.unsqueeze(1), out=images).clamp_(0, 1)


def _rotate_hue_(images: Tensor, turns: Tensor) -> None:
    """Turns the hue by `turns` (batch,) of the full circle, keeping value and saturation of HSV.

    With channels rescaled to r, g, b in [0, 1], the smallest at 0 and the largest at 1, the hue lies 1 + g + b - r
    sextants from red, on green's side if g > b; and a channel is clamp(d - 1, 0, 1), where d sextants lie between the
    hue and the one opposite to the channel's own. Unlike the usual formulas by sector these need no masks, on which a
    CPU spends more time than on arithmetic.
    """
    red, green, blue = images.unbind(1)
    low = torch.minimum(green, blue).minimum(red)
    chroma = torch.maximum(green, blue).maximum(red).sub_(low)
    sextants = (green - red).add_(blue - low).div_(chroma.clamp(min=torch.finfo(chroma.dtype).tiny)).add_(1)
    hue = sextants.copysign_(green - blue).div_(6).add_(turns.view(-1, 1, 1) + 2)  # + 2: frac needs it positive
    channel_hues = torch.arange(3, device=images.device).view(3, 1, 1) / 3
    opposite = (hue.unsqueeze(1) - channel_hues).frac_().sub_(0.5).abs_()
    torch.addcmul(low.unsqueeze(1), chroma.unsqueeze(1), opposite.mul_(6).sub_(1).clamp_(0, 1), out=images)


def _blur_taps(side: int, radius: int, sigma: Tensor) -> Taps:
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    position = (torch.arange(side, device=sigma.device).unsqueeze(1) + offset).abs_()
    index = side - 1 - (side - 1 - position).abs_()
    weight = torch.softmax(-0.5 * (offset / sigma.unsqueeze(1)).square(), dim=1)
    shape = (len(sigma), side, len(offset))
    return Taps(index.expand(shape), weight.unsqueeze(1).expand(shape))
