"""kNN accuracy during pretraining: its value, which images it sees, and that it leaves no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from tiny import TinyEncoder

from benchmark.data.dataset import Dataset, Split
from benchmark.data.images import Images
from benchmark.data.streaming import Streamed
from benchmark.evals.online import OnlineKNN, online_knn
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.resnet import ResNet
from benchmark.views.colour import normalise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Images(name="digits", source="sklearn:digits", size=8)()


def probe(data: Dataset, seed: int = 0, precision: str = "float32") -> OnlineKNN:
    measure = online_knn(data, seed, CPU, precision)
    assert measure is not None
    return measure


def of_size(n: int, data: Dataset) -> Dataset:
    return replace(data, train=Split(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)))


def encoders() -> dict[str, Encoder]:
    torch.manual_seed(0)
    vit = ViT(8, name="vit", width=32, depth=1, heads=2, patch=4)
    return {"tiny": TinyEncoder(), "vit": vit, "resnet": ResNet(8, name="resnet18", base_width=8)}


@pytest.mark.parametrize("name", ["tiny", "vit"])
def test_the_accuracy_is_that_of_scikit_learn(digits: Dataset, name: str) -> None:
    """Oracle: scikit-learn's 20 nearest by cosine, weighted by exp(similarity / 0.07), on the pooled feature."""
    encoder, measure = encoders()[name], probe(digits)
    with torch.no_grad():
        inputs = normalise(digits.train.images.float() / 255, digits.mean, digits.std)
        pooled = encoder.eval()(inputs).pooled.numpy()
    classifier = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    bank, queries = measure.ids.split([measure.bank, measure.queries])
    classifier.fit(pooled[bank], digits.train.labels[bank])
    expected = classifier.score(pooled[queries], digits.train.labels[queries])
    assert measure(encoder) == pytest.approx(expected, abs=1.5 / measure.queries)
    assert expected > 0.5


def test_bank_and_queries_are_drawn_once_from_train(digits: Dataset) -> None:
    """Oracle: 4 to 1, at most 5,000; no image in both; the same by the seed, others by another; none without labels."""
    for n, bank, queries in ((60_000, 4000, 1000), (5000, 4000, 1000), (1442, 1153, 289), (9, 7, 2), (2, 1, 1)):
        measure = probe(of_size(n, digits))
        assert (measure.bank, measure.queries) == (bank, queries)
        ids = measure.ids
        assert len(ids.unique()) == bank + queries
        assert 0 <= int(ids.min()) <= int(ids.max()) < n
    assert torch.equal(probe(digits).ids, probe(digits).ids)
    assert not torch.equal(probe(digits).ids, probe(digits, seed=1).ids)
    unlabelled = replace(digits, train=Split(digits.train.images, None))
    for data in (unlabelled, replace(digits, classes=("0",)), of_size(1, digits)):
        assert online_knn(data, 0, CPU, "float32") is None
    assert online_knn(replace(digits, classes=("0", "1")), 0, CPU, "float32") is not None


def test_no_image_or_label_of_test_is_seen(digits: Dataset) -> None:
    """Oracle: the same accuracy with a test split of zeros and without labels."""
    blind = replace(digits, test=Split(torch.zeros_like(digits.test.images), None))
    encoder = encoders()["tiny"]
    assert probe(blind)(encoder) == probe(digits)(encoder) > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny", "vit", "resnet"])
def test_measuring_leaves_no_trace(digits: Dataset, name: str, precision: str) -> None:
    """Oracle: the state and mode of the encoder and torch's generator are what they were; the same twice."""
    data = replace(digits, train=Split(digits.train.images[:100], digits.train.labels[:100]))
    encoder, measure = encoders()[name].train(), probe(data, precision=precision)
    before, generator = {key: value.clone() for key, value in encoder.state_dict().items()}, torch.get_rng_state()
    assert measure(encoder) == measure(encoder)
    assert all(part.training for part in encoder.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_streamed_images_give_the_same(digits: Dataset) -> None:
    """Oracle: the resident ones."""
    streamed = Images(name="digits", source="sklearn:digits", size=8, streamed=True)()
    assert isinstance(streamed.train.images, Streamed)
    encoder = TinyEncoder()
    assert probe(streamed)(encoder) == probe(digits)(encoder)


def test_features_that_are_not_finite_have_an_accuracy(digits: Dataset) -> None:
    """Oracle: a constant feature is no better than the share of a class."""
    encoder = TinyEncoder()
    torch.nn.init.constant_(encoder.net[0].weight, float("nan"))
    assert 0 <= probe(digits)(encoder) < 0.2
