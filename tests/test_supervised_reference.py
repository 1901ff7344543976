"""A reference that learns from labels: its loss, its images, and its line beside the methods."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from baselines.supervised_reference import SupervisedReference, smoothed_cross_entropy
from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.experiment.stage import Stage
from benchmark.nets.encoders import ViT
from benchmark.randomness import Draws

GIN = "gin/supervised_reference.gin"
TINY = ("ViT.width=32", "ViT.depth=1", "ViT.heads=2", "Budget.kind='samples'", "Budget.amount=19200")


def stage(folder: Path, *settings: str) -> Stage:
    return Stage.open(configuration.load([GIN], [*TINY, *settings]), folder)


def test_loss_is_the_cross_entropy_with_smoothed_targets() -> None:
    """Oracle: the sum by hand; a perfect and a uniform prediction."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 3, 0])
    targets = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing=0.2), expected)
    with pytest.raises(ConfigError, match=r"smoothing = 1.0: a share"):
        SupervisedReference(ViT(16, name="vit", width=24, depth=1, heads=3, patch=4), 10, smoothing=1.0)


def test_images_meet_their_own_labels(tmp_path: Path) -> None:
    """Oracle: the labels of the data set by the ids of the batch; none of a trial's is of its hold-out."""
    for setting in ("experiment.is_trial = False", "experiment.is_trial = True"):
        opened = stage(tmp_path, setting)
        training = opened.training(float("inf"))
        data = opened.dataset
        assert len(training.data.images) == len(data.train.images)
        assert data.train.labels is not None
        for step in (0, 3):
            training.batch(step)
            ids, images = training.data.batch(step)
            assert torch.equal(training.method.labels, data.train.labels[ids])  # type: ignore[arg-type]
            assert torch.equal(images, data.train.images[ids])
    held = {image.numpy().tobytes() for image in data.test.images[:]}
    assert (opened.probe, opened.points) == (None, 0), "it knows the labels of the queries"
    assert not held & {image.numpy().tobytes() for image in training.data.images[:]}


def test_it_learns_to_tell_classes_apart(tmp_path: Path) -> None:
    """Oracle: chance, a tenth: after 150 steps of a tiny network more than twice as many training digits are right."""
    training = stage(tmp_path).training(float("inf"))
    training.advance(150)
    assert float(training.logs["train_top1"]) > 0.25


def test_data_without_labels_are_refused(tmp_path: Path) -> None:
    """Oracle: the message, before an image is decoded."""
    opened = stage(tmp_path)
    outline = opened.outline
    object.__setattr__(outline.train, "labels", None)
    with pytest.raises(ConfigError, match="supervised_reference learns from labels, and digits has none"):
        opened.check()


def test_another_step_sees_other_labels() -> None:
    """Oracle: the loss of the same views under two sets of labels."""
    torch.manual_seed(0)
    method = SupervisedReference(ViT(16, name="vit", width=24, depth=1, heads=3, patch=4), 10, smoothing=0.0)
    views, losses = [torch.randn(4, 3, 16, 16)], []
    for labels in (torch.zeros(4, dtype=torch.int64), torch.arange(4)):
        method.labels = labels
        losses.append(float(method(views, Draws(0, 0, 4)).loss.detach()))
    assert losses[0] != losses[1]
