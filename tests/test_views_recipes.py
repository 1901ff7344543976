"""Whole views: order of operations, probabilities, independence of images, and the recipes' numbers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from benchmark.config.load import build, load
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.views import recipes
from benchmark.views.geometry import crop_boxes
from benchmark.views.recipes import (
    View,
    ViewLimits,
    always_jitter,
    blur_solarize,
    crop_flip,
    strong_colour,
    strong_weak,
    symmetric_blur,
)

EVERYTHING = View(
    crop_scale=(0.08, 1.0),
    interpolation="bicubic",
    jitter=(0.8, 0.8, 0.8, 0.2),
    jitter_p=0.8,
    grey_p=0.3,
    blur_p=0.5,
    solarize_p=0.4,
)
IDENTITY = View(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)


class Drawn:
    """Uniform draws by name, drawn once, so that a test can permute or select the rows of all of them."""

    def __init__(self, batch: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = {name: torch.rand(batch, *shape, generator=generator) for name, shape in recipes.DRAWS.items()}

    def __call__(self, name: str, *shape: int) -> Tensor:
        assert self.rows[name].shape[1:] == shape
        return self.rows[name]

    def __getitem__(self, index: Tensor) -> "Drawn":
        selected = Drawn(0)
        selected.rows = {name: rows[index] for name, rows in self.rows.items()}
        return selected


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (40, 3, 24, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_view_equals_torchvision_one_image_at_a_time(images: Tensor) -> None:
    """Oracle: torchvision's functions in the documented order, with the parameters that the draws stand for."""
    drawn = Drawn(40)
    views = EVERYTHING(images, 20, drawn)
    assert views.shape == (40, 3, 20, 20)
    assert views.dtype == torch.float32
    boxes = crop_boxes(drawn("crop", 10, 2), drawn("corner", 2), 24, 30, (0.08, 1.0), (3 / 4, 4 / 3))
    adjust = (V.adjust_brightness, V.adjust_contrast, V.adjust_saturation, V.adjust_hue)
    for i in range(40):
        u = {name: rows[i] for name, rows in drawn.rows.items()}
        expected = V.resized_crop(
            images[i] / 255, *boxes[i].tolist(), [20, 20], interpolation=V.InterpolationMode.BICUBIC, antialias=True
        ).clamp(0, 1)
        if u["flip"] < 0.5:
            expected = V.horizontal_flip(expected)
        if u["jitter"] < 0.8:
            for operation in u["order"].argsort().tolist():
                uniform = u["factors"][operation].item()
                factor = 0.4 * uniform - 0.2 if operation == 3 else 0.2 + 1.6 * uniform
                expected = adjust[operation](expected, factor)
        if u["grey"] < 0.3:
            expected = V.rgb_to_grayscale(expected, 3)
        if u["blur"] < 0.5:
            expected = V.gaussian_blur(expected, [3, 3], [0.1 + 1.9 * u["sigma"].item()] * 2)
        if u["solarize"] < 0.4:
            at_threshold = (expected - 128 / 255).abs() < 1e-5
            expected = torch.where(at_threshold, views[i], V.solarize(expected, 128 / 255))
        torch.testing.assert_close(views[i], expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("size", [16, 64])
def test_view_does_not_depend_on_the_rest_of_the_batch(
    images: Tensor, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: each image alone, and blocks of three images instead of one block; the images stay as they were."""
    drawn, original = Drawn(40), images.clone()
    views = EVERYTHING(images, size, drawn)
    alone = [EVERYTHING(images[i : i + 1], size, drawn[torch.tensor([i])]) for i in range(40)]
    torch.testing.assert_close(torch.cat(alone), views, rtol=0, atol=1e-6)
    monkeypatch.setattr(recipes, "BLOCK", 3 * 3 * size * size)
    torch.testing.assert_close(EVERYTHING(images, size, drawn), views, rtol=0, atol=1e-6)
    assert torch.equal(images, original)


@pytest.mark.parametrize(("share", "size", "side"), [(0.5, 20, 10), (0.5, 8, 4), (3 / 7, 224, 96), (0.428571, 224, 96)])
def test_a_view_may_be_smaller_than_the_images(images: Tensor, share: float, size: int, side: int) -> None:
    """Oracle: the view of a whole image of that side, from the same draws; the sides of the papers by hand."""
    small = replace(EVERYTHING, resolution=share)
    assert small.side(size) == side
    if size == 20:
        assert torch.equal(small(images, size, Drawn(40)), EVERYTHING(images, side, Drawn(40)))


def test_view_without_operations_is_the_image(images: Tensor) -> None:
    """Oracle: the image divided by 255."""
    square = images[..., :24]
    torch.testing.assert_close(IDENTITY(square, 24, Drawn(40)), square / 255, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flip", {"flip": 0.5}),
        ("jitter", {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8}),
        ("grey", {"grey_p": 0.2}),
        ("blur", {"blur_p": 0.1, "blur_sigma": (1.0, 2.0)}),
        ("solarize", {"solarize_p": 0.3}),
    ],
)
def test_operations_occur_with_their_probability(name: str, change: dict[str, float]) -> None:
    """Oracle: binomial test of how many of 4000 views differ from the image."""
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    images = images.expand(4000, -1, -1, -1)
    views = replace(IDENTITY, **change)(images, 8, Drawn(4000, seed=3))
    changed = int(((views - images / 255).abs() > 1e-5).flatten(1).any(dim=1).sum())
    probability = change.get(f"{name}_p", change.get(name))
    assert binomtest(changed, 4000, probability).pvalue > 1e-3


def test_probability_one_always_and_zero_never() -> None:
    """Oracle: solarizing by hand, with draws at both ends of [0, 1)."""
    images = torch.full((2, 3, 8, 8), 200, dtype=torch.uint8)
    drawn = Drawn(2)
    drawn.rows["solarize"] = torch.tensor([0.0, 1 - 2**-24])
    assert IDENTITY(images, 8, drawn).mean() == pytest.approx(200 / 255)
    assert replace(IDENTITY, solarize_p=1.0)(images, 8, drawn).mean() == pytest.approx(55 / 255)


def test_limits_replace_the_scale_and_forbid_flip_and_blur() -> None:
    """Oracle: the fields of the views, all others unchanged."""
    limits = ViewLimits(crop_scale=(0.5, 0.9), flip=False, blur=False)
    for recipe in (crop_flip, always_jitter, symmetric_blur, strong_colour, blur_solarize, strong_weak):
        for free, limited in zip(recipe(ViewLimits()), recipe(limits), strict=True):
            assert limited == replace(free, crop_scale=(0.5, 0.9), flip=0.0, blur_p=0.0)
            assert free.flip == 0.5


def test_recipes_have_the_papers_numbers() -> None:
    """Oracle: the published pre-training recipes, by hand."""
    crops = crop_flip(ViewLimits(), views=3)
    assert crops == (View(crop_scale=(0.2, 1), interpolation="bicubic"),) * 3
    old = View(crop_scale=(0.2, 1), jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1, grey_p=0.2)
    assert always_jitter(ViewLimits()) == (old, old)
    mild = View(crop_scale=(0.2, 1), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.5)
    assert symmetric_blur(ViewLimits()) == (mild, mild)
    strong = View(crop_scale=(0.08, 1), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.5)
    assert strong_colour(ViewLimits(), strength=0.5) == (strong, strong)
    assert strong_colour(ViewLimits())[0].jitter == (0.8, 0.8, 0.8, 0.2)
    plain = replace(strong, flip=0.0, grey_p=0.1)
    assert strong_colour(ViewLimits(), strength=0.5, flip=0.0, grey=0.1) == (plain, plain)
    assert strong_weak(ViewLimits()) == (mild, crops[0])
    first, second = blur_solarize(ViewLimits())
    assert (first.blur_p, first.solarize_p, second.blur_p, second.solarize_p) == (1.0, 0.0, 0.1, 0.2)
    for view in (first, second):
        assert (view.crop_scale, view.interpolation, view.jitter) == ((0.08, 1), "bicubic", (0.4, 0.4, 0.2, 0.1))


def test_gin_may_bind_what_recipes_do_one_by_one() -> None:
    """Oracle: the recipe itself with one value replaced, for each parameter; `blur_solarize` has a pair for two."""
    replaced = {
        "crop_scale": (0.3, 0.9),
        "jitter": (0.1, 0.2, 0.3, 0.4),
        "jitter_p": 0.7,
        "grey_p": 0.6,
        "blur_p": 0.3,
        "solarize_p": 0.1,
    }
    for recipe in (always_jitter, symmetric_blur, strong_colour, blur_solarize):
        for name, value in replaced.items():
            if recipe is strong_colour and name in ("jitter", "grey_p"):
                continue  # which `strength` and `grey` set
            pair = recipe is blur_solarize and name in ("blur_p", "solarize_p")
            views = configured(recipe, name, (value, 0.25) if pair else value)
            values = (value, 0.25) if pair else (value, value)
            expected = [replace(view, **{name: each}) for view, each in zip(recipe(ViewLimits()), values, strict=True)]
            assert list(views) == expected
    assert configured(crop_flip, "crop_scale", (0.3, 0.9))[0].crop_scale == (0.3, 0.9)
    files, bound = ["gin/macrl.gin"], ("symmetric_blur.blur_p = 0.25", "crop_flip.crop_scale = (0.7, 1.0)")
    strong, weak = build(load(files, bound)).pretraining().views(ViewLimits())
    assert (strong.blur_p, weak.crop_scale) == (0.25, (0.7, 1.0))


def configured(recipe: Callable[..., tuple[View, ...]], name: str, value: object) -> tuple[View, ...]:
    """Return the views of a recipe of which gin binds one parameter."""
    settings = (f"Pretraining.views = @{recipe.__name__}", f"{recipe.__name__}.{name} = {value!r}")
    views: tuple[View, ...] = build(load(["gin/simclr.gin"], settings)).pretraining().views(ViewLimits())
    return views


def test_impossible_views_are_refused() -> None:
    """Oracle: the ConfigError names the field."""
    refused: list[tuple[str, object]] = [
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 1.5)),
        ("crop_ratio", (2.0, 1.0)),
        ("flip", 1.2),
        ("grey_p", -0.1),
        ("jitter", (0.4, 0.4, 0.4, 0.6)),
        ("jitter", (-0.4, 0.4, 0.4, 0.1)),
        ("blur_sigma", (0.0, 2.0)),
        ("interpolation", "nearest"),
        ("resolution", 0.0),
        ("resolution", 1.5),
    ]
    for field, value in refused:
        with pytest.raises(ConfigError, match=f"View.{field} must be .*got"):
            replace(IDENTITY, **{field: value})


def test_other_images_than_uint8_rgb_are_refused() -> None:
    """Oracle: the error shows the type of the images."""
    for images in (torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(BenchmarkError, match=f"got {images.dtype}"):
            IDENTITY(images, 8, Drawn(2))
