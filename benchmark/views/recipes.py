"""Distributions of views: what one view is made of, and the recipes that methods share.

A recipe gets the `ViewLimits` of the data set and returns one `View` per view of an image. Recipes are named after what
they do and cite the paper they come from; a method's configuration chooses one, and may bind each of its numbers. A
method whose views are like no other's has a recipe in its own file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import gin
import torch
from torch import Tensor

from benchmark.annotations import Share
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.views.colour import blur_, greyscale_, jitter_, jitter_factors, solarize_
from benchmark.views.geometry import TRIES, Cut, Interpolation, crop_boxes, crop_resize, mirrored

Draw = Callable[..., Tensor]
Interval = tuple[float, float]
Strengths = tuple[float, float, float, float]  # of brightness, contrast, saturation and hue

DRAWS: dict[str, tuple[int, ...]] = {
    "crop": (TRIES, 2),
    "corner": (2,),
    "flip": (),
    "jitter": (),
    "order": (4,),
    "factors": (4,),
    "grey": (),
    "blur": (),
    "sigma": (),
    "solarize": (),
}

# Values per block of images on a CPU: larger intermediates would be given back to the system after each operation.
BLOCK = 2**21


@gin.register
@dataclass(frozen=True, kw_only=True)
class ViewLimits:
    """What a data set permits: a crop scale in place of the recipe's, and whether to flip and to blur at all."""

    crop_scale: Interval | None = None
    flip: bool = True
    blur: bool = True

    def apply(self, view: "View") -> "View":
        """The view within these limits."""
        return replace(
            view,
            crop_scale=self.crop_scale or view.crop_scale,
            flip=view.flip if self.flip else 0.0,
            blur_p=view.blur_p if self.blur else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """The distribution of one view: crop and flip, then jitter, grey, blur and solarize by their probabilities.

    `crop_scale` is the range of the crop's share of the area, `crop_ratio` that of its width over its height, `jitter`
    the strengths of brightness, contrast, saturation and hue, and `blur_sigma` the range of the blur in pixels.
    `resolution` is the side of the view as a share of that of the images.
    """

    crop_scale: Interval
    crop_ratio: Interval = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"
    flip: float = 0.5
    jitter: Strengths = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grey_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: Interval = (0.1, 2.0)
    solarize_p: float = 0.0
    resolution: Share = 1.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_p", "grey_p", "blur_p", "solarize_p"):
            _require(0 <= getattr(self, name) <= 1, name, "a probability in [0, 1]", getattr(self, name))
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            _require(0 < low <= high, name, "a range (low, high) with 0 < low <= high", (low, high))
        _require(self.crop_scale[1] <= 1, "crop_scale", "at most the whole image, 1", self.crop_scale)
        _require(min(self.jitter) >= 0 and self.jitter[3] <= 0.5, "jitter", "strengths >= 0, hue <= 0.5", self.jitter)
        _require(0 < self.resolution <= 1, "resolution", "a share above 0 and at most 1", self.resolution)
        filters = get_args(Interpolation)
        _require(self.interpolation in filters, "interpolation", f"one of {filters}", self.interpolation)

    def side(self, size: int) -> int:
        """The side of the view in pixels, where those of the whole image have `size`."""
        return max(1, round(self.resolution * size))

    def cut(self, draw: Draw) -> Cut:
        """The boxes of this view, for images that are cropped where they are decoded; `draw` is that of the view."""
        tries, corner = (draw(name, *DRAWS[name]) for name in ("crop", "corner"))
        return Cut(tries, corner, self.crop_scale, self.crop_ratio, self.interpolation)

    def finish(self, crops: Tensor, draw: Draw) -> Tensor:
        """The view of crops by `cut`, uint8 (batch, 3, size, size): mirrored and coloured, float32 in [0, 1]."""
        return self._view(crops, crops.shape[-1], draw, is_cropped=True)

    def __call__(self, images: Tensor, size: int, draw: Draw) -> Tensor:
        """One view (batch, 3, side, side), float32 in [0, 1], of each of the uint8 images (batch, 3, height, width).

        Its side is `size`, or the share of it that is the resolution of the view.

        `draw(name, *shape)` returns float32 numbers (batch, *shape), uniform in [0, 1), independent for each name in
        `DRAWS`, and on the host whatever the device of the images. An image's view depends on its own rows alone.

        Raises:
            BenchmarkError: the images have another type or shape.
        """
        return self._view(images, size, draw, is_cropped=False)

    def _view(self, images: Tensor, size: int, draw: Draw, is_cropped: bool) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise BenchmarkError(
                f"Views are made of uint8 images (batch, 3, height, width); got {images.dtype} {tuple(images.shape)}."
            )
        size = self.side(size)
        drawn = {name: draw(name, *shape) for name, shape in DRAWS.items()}
        block = max(1, BLOCK // (3 * size * size)) if images.device.type == "cpu" else len(images)
        blocks = [
            self._augment(
                images[start : start + block], size, {k: v[start : start + block] for k, v in drawn.items()}, is_cropped
            )
            for start in range(0, len(images), block)
        ]
        return torch.cat(blocks)

    def _augment(self, images: Tensor, size: int, drawn: dict[str, Tensor], is_cropped: bool) -> Tensor:
        flips = drawn["flip"] < self.flip
        if is_cropped:
            views = mirrored(images, flips)
        else:
            height, width = images.shape[2:]
            boxes = crop_boxes(drawn["crop"], drawn["corner"], height, width, self.crop_scale, self.crop_ratio)
            views = crop_resize(images, boxes, flips, size, self.interpolation)
        if len(chosen := _below(drawn["jitter"], self.jitter_p)):
            factors = jitter_factors(drawn["factors"][chosen], self.jitter)
            jitter_(views, chosen, drawn["order"][chosen].argsort(dim=1), factors)
        if len(chosen := _below(drawn["grey"], self.grey_p)):
            greyscale_(views, chosen)
        if len(chosen := _below(drawn["blur"], self.blur_p)):
            low, high = self.blur_sigma
            blur_(views, chosen, low + (high - low) * drawn["sigma"][chosen])
        if len(chosen := _below(drawn["solarize"], self.solarize_p)):
            solarize_(views, chosen)
        return views


@gin.register
def crop_flip(limits: ViewLimits, *, views: int = 1, crop_scale: Interval = (0.2, 1.0)) -> tuple[View, ...]:
    """`views` crops of at least a fifth of the image, and nothing else (He et al. 2022, arXiv:2111.06377)."""
    return (limits.apply(View(crop_scale=crop_scale, interpolation="bicubic")),) * views


@gin.register
def large_crop_flip(limits: ViewLimits) -> tuple[View, ...]:
    """One crop of at least 0.67 of the image, and nothing else (Xie et al. 2022, arXiv:2111.09886, authors' code)."""
    return (limits.apply(View(crop_scale=(0.67, 1.0))),)


@gin.register
def always_jitter(
    limits: ViewLimits,
    *,
    crop_scale: Interval = (0.2, 1.0),
    jitter: Strengths = (0.4, 0.4, 0.4, 0.4),
    jitter_p: float = 1.0,
    grey_p: float = 0.2,
    blur_p: float = 0.0,
    solarize_p: float = 0.0,
) -> tuple[View, ...]:
    """Two views, every one jittered, a fifth of them grey (He et al. 2020, arXiv:1911.05722).

    Differs from the source: grey follows the jitter instead of preceding it.
    """
    view = View(
        crop_scale=crop_scale, jitter=jitter, jitter_p=jitter_p, grey_p=grey_p, blur_p=blur_p, solarize_p=solarize_p
    )
    return (limits.apply(view),) * 2


@gin.register
def symmetric_blur(
    limits: ViewLimits,
    *,
    crop_scale: Interval = (0.2, 1.0),
    jitter: Strengths = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    solarize_p: float = 0.0,
) -> tuple[View, ...]:
    """Two views with mild jitter, half of them blurred (Chen et al. 2020, arXiv:2003.04297)."""
    view = View(
        crop_scale=crop_scale, jitter=jitter, jitter_p=jitter_p, grey_p=grey_p, blur_p=blur_p, solarize_p=solarize_p
    )
    return (limits.apply(view),) * 2


@gin.register
def strong_colour(
    limits: ViewLimits,
    *,
    strength: float = 1.0,
    flip: float = 0.5,
    grey: float = 0.2,
    crop_scale: Interval = (0.08, 1.0),
    jitter_p: float = 0.8,
    blur_p: float = 0.5,
    solarize_p: float = 0.0,
) -> tuple[View, ...]:
    """Two views with small crops and `strength` times the full jitter (Chen et al. 2020, arXiv:2002.05709).

    `flip` and `grey` are the probabilities of a mirrored and of a grey view.
    """
    jitter = (0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    view = View(
        crop_scale=crop_scale,
        flip=flip,
        jitter=jitter,
        jitter_p=jitter_p,
        grey_p=grey,
        blur_p=blur_p,
        solarize_p=solarize_p,
    )
    return (limits.apply(view),) * 2


@gin.register
def blur_solarize(
    limits: ViewLimits,
    *,
    crop_scale: Interval = (0.08, 1.0),
    jitter: Strengths = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: Interval = (1.0, 0.1),
    solarize_p: Interval = (0.0, 0.2),
) -> tuple[View, ...]:
    """One view always blurred, one seldom blurred and at times solarized (Grill et al. 2020, arXiv:2006.07733).

    `blur_p` and `solarize_p` are the probabilities of the first view and of the second.
    """
    first, second = (
        View(
            crop_scale=crop_scale,
            interpolation="bicubic",
            jitter=jitter,
            jitter_p=jitter_p,
            grey_p=grey_p,
            blur_p=blurred,
            solarize_p=solarized,
        )
        for blurred, solarized in zip(blur_p, solarize_p, strict=True)
    )
    return limits.apply(first), limits.apply(second)


Recipe = Callable[[ViewLimits], tuple[View, ...]]


@gin.register
def strong_weak(limits: ViewLimits, *, strong: Recipe = symmetric_blur, weak: Recipe = crop_flip) -> tuple[View, ...]:
    """The first view of the recipe `strong` and the first of `weak`.

    Strong queries and weak keys are from Yao et al. 2022 (arXiv:2211.06012); the two recipes are our choice.
    """
    return strong(limits)[0], weak(limits)[0]


def _below(drawn: Tensor, probability: float) -> Tensor:
    return (drawn < probability).nonzero().squeeze(1)


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"View.{name} must be {expected}; got {value!r}. Correct the recipe or ViewLimits.")
