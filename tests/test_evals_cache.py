"""Features on disk: features again, and never those of others."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark.evals.cache import FeatureCache

IMAGES = torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2)
LABELS = torch.tensor([0, 1, 1, 0])


class Maker:
    """Counts how often features are made."""

    def __init__(self, value: float = 1.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"mean": torch.full((4, 2), self.value), "cls": torch.arange(8.0).reshape(4, 2)}


def test_features_are_made_once(tmp_path: Path) -> None:
    """Oracle: the features that were made, bit by bit and in their order, and the count of calls."""
    make = Maker()
    first, second = (FeatureCache(tmp_path, ("weights", 1)).get(IMAGES, LABELS, make) for _ in range(2))
    assert make.calls == 1
    assert list(first) == list(second) == ["mean", "cls"]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("origin", "images", "labels"),
    [
        (("weights", 2), IMAGES, LABELS),
        (("others", 1), IMAGES, LABELS),
        (("weights", 1), IMAGES.flip(0), LABELS),
        (("weights", 1), IMAGES, LABELS.flip(0) * 2),
    ],
)
def test_features_of_others_are_not_taken(
    origin: tuple[object, ...], images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    """Oracle: another origin, order of images, or labels makes anew."""
    FeatureCache(tmp_path, ("weights", 1)).get(IMAGES, LABELS, Maker(1.0))
    make = Maker(2.0)
    features = FeatureCache(tmp_path, origin).get(images, labels, make)
    assert make.calls == 1
    assert features["mean"].unique().tolist() == [2.0]


def test_damaged_features_are_made_anew(tmp_path: Path) -> None:
    """Oracle: a file cut short, with one bit flipped, or empty; afterwards the file is sound again."""
    cache = FeatureCache(tmp_path, ("weights", 1))
    whole = cache.get(IMAGES, LABELS, Maker())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-3], content[:-3] + bytes([content[-3] ^ 1]) + content[-2:], b""):
        path.write_bytes(damaged)
        make = Maker()
        for _ in range(2):
            features = cache.get(IMAGES, LABELS, make)
            assert make.calls == 1
            assert all(torch.equal(features[name], whole[name]) for name in whole)
