"""The harness: what an evaluation may see, and that nothing but the final score depends on the test labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import TinyEncoder
from torch import Tensor
from tuned import split

from benchmark.data.dataset import Dataset, Split
from benchmark.data.subsets import holdout
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.evals import harness
from benchmark.evals.dense import DenseBank, Segmentation
from benchmark.evals.evaluation import Results
from benchmark.evals.features import Bank, Ranking
from benchmark.evals.harness import evaluate_encoder, evaluate_pixels
from benchmark.evals.knn import KNN
from benchmark.evals.linear import Linear
from benchmark.evals.scoring import SealedLabels
from benchmark.nets.attention import set_fused
from benchmark.nets.encoders import Features, ViT
from benchmark.storage.claim import Claim, Lost
from benchmark.storage.digest import digest
from benchmark.views.recipes import ViewLimits

CPU = torch.device("cpu")
LIMITS = ViewLimits(crop_scale=(0.5, 1.0), flip=False)
BOTH = (KNN(), Linear())


class Spy:
    """An evaluation that keeps what it was shown."""

    name, version = "spy", "1.0"

    def __init__(self, *, scores: bool = True) -> None:
        self.banks: list[Bank] = []
        self.scores = scores

    def __call__(self, bank: Bank) -> Ranking | None:
        self.banks.append(bank)
        n_test = len(next(iter(bank.test.values())))
        return Ranking(torch.zeros(n_test, 4, dtype=torch.int64), {}) if self.scores else None


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    train, test = (Split(*split(n, seed, noise=180, signal=40)) for seed, n in enumerate((160, 80)))
    classes = ("a", "b", "c", "d")
    return Dataset("toy", classes, 8, train.images, train, test, "0" * 64, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))


@pytest.fixture
def encoder() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder().train()


def with_test_labels(dataset: Dataset, labels: torch.Tensor | None) -> Dataset:
    return replace(dataset, test=replace(dataset.test, labels=labels))


def choices(results: Results) -> dict[str, Any]:
    return {name: (metrics["choices"], metrics["flags"]) for name, metrics in results.metrics.items()}


def test_pixels_of_an_easy_set_are_told_apart(dataset: Dataset) -> None:
    """Oracle: chance is 25 %; the classes differ in the brightness of a row, which raw pixels show."""
    results = evaluate_pixels(dataset, BOTH, limits=LIMITS)
    assert set(results.metrics) == {"knn", "linear"}
    assert results.metrics["linear"]["top1"] > 0.6
    assert all(score["n"] == 80 and score["choices"]["feature"] == "pixels" for score in results.metrics.values())


def test_test_labels_change_no_choice(dataset: Dataset, encoder: TinyEncoder) -> None:
    """Oracle: poisoned test labels: choices and predictions stay, the scores fall to what random labels allow."""
    random = torch.randint(4, (80,), generator=torch.Generator().manual_seed(3))
    honest = evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS)
    poisoned = evaluate_encoder(encoder, with_test_labels(dataset, random), BOTH, CPU, limits=LIMITS)
    assert choices(honest) == choices(poisoned)
    for name, ranking in honest.rankings.items():
        assert torch.equal(ranking, poisoned.rankings[name])
        assert honest.metrics[name]["top1"] != poisoned.metrics[name]["top1"]


def test_test_labels_are_read_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the counter of the sealed labels after all evaluations; the bank holds no tensor of that length."""
    seals: list[SealedLabels] = []

    class Counted(SealedLabels):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seals.append(self)

    spy = Spy()
    monkeypatch.setattr(harness, "SealedLabels", Counted)
    evaluate_pixels(dataset, (KNN(), spy), limits=LIMITS)
    assert [sealed.reads for sealed in seals] == [{"knn": 1, "spy": 1}]
    (bank,) = spy.banks
    assert len(bank.labels) == 160
    fit, held = holdout(dataset.train.labels, "toy")  # type: ignore[arg-type]
    assert torch.equal(bank.fit, fit)
    assert torch.equal(bank.held, held)


@pytest.mark.parametrize("masked", [False, True])
def test_who_has_lost_a_claim_evaluates_nothing_more(
    dataset: Dataset, masked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the evaluations that were asked: none after the first, during which the claim goes."""
    asked: list[str] = []

    class Losing:
        version = "1.0"
        dense = masked

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, bank: Bank | DenseBank) -> Ranking | Segmentation:
            asked.append(self.name)
            held.path.unlink(missing_ok=True)
            if isinstance(bank, DenseBank):
                return Segmentation(lambda maps: maps[:, :4], {})
            return Ranking(torch.zeros(80, 4, dtype=torch.int64), {})

    data = dataset
    if masked:
        masks = [[torch.zeros(8, 8, dtype=torch.uint8)] * n for n in (160, 80)]
        sides = zip((dataset.train, dataset.test), masks, strict=True)
        train, test = (replace(side, labels=None, masks=each) for side, each in sides)  # type: ignore[arg-type]
        data = replace(dataset, train=train, test=test)
    with Claim(tmp_path / "run").acquire() as held, pytest.raises(Lost, match="was removed"):
        evaluate_pixels(data, (Losing("first"), Losing("second")), limits=LIMITS)
    assert asked == ["first"]


def test_encoder_is_left_alone(dataset: Dataset, encoder: TinyEncoder) -> None:
    """Oracle: the digest of parameters and buffers, for a network with batch norm handed over in train mode."""
    before = digest(encoder.state_dict())
    evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS)
    assert digest(encoder.state_dict()) == before
    assert encoder.training


def test_order_of_train_does_not_matter(
    dataset: Dataset, encoder: TinyEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: permuting train with its labels and its hold-out changes no accuracy; a shifted label would."""
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    assert dataset.train.labels is not None
    permuted = replace(dataset, train=Split(dataset.train.images[order], dataset.train.labels[order]))
    straight = evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS)
    monkeypatch.setattr(
        harness, "holdout", lambda _, name: tuple(place[ids] for ids in holdout(dataset.train.labels, name))
    )
    turned = evaluate_encoder(encoder, permuted, BOTH, CPU, limits=LIMITS)
    for name in ("knn", "linear"):
        assert turned.metrics[name]["top1"] == pytest.approx(straight.metrics[name]["top1"], abs=1 / 80)
        assert turned.metrics[name]["choices"]["feature"] == straight.metrics[name]["choices"]["feature"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_evaluation_without_labels_is_refused(dataset: Dataset, part: str) -> None:
    """Oracle: the message names the evaluations, the split and the way to do without."""
    bare = replace(dataset, **{part: replace(getattr(dataset, part), labels=None)})
    with pytest.raises(ConfigError, match=rf"knn, linear need labels, but the {part} split of toy has none.*--set"):
        evaluate_pixels(bare, BOTH, limits=LIMITS)
    assert evaluate_pixels(bare, (), limits=LIMITS).metrics == {}


def test_predictions_are_saved_as_ranked(dataset: Dataset, tmp_path: Path) -> None:
    """Oracle: the file read again; without evaluations there is none."""
    results = evaluate_pixels(dataset, (KNN(),), limits=LIMITS)
    entry = results.save(tmp_path / "predictions.safetensors")
    assert entry is not None
    stored = load_file(tmp_path / entry["file"])
    assert torch.equal(stored["knn"].long(), results.rankings["knn"])
    hits = (stored["knn"][:, 0].long() == dataset.test.labels).double().mean()
    assert float(hits) == pytest.approx(results.metrics["knn"]["top1"])
    assert Results({}, {}).save(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_an_encoder_of_nan_is_scored_if_its_run_diverged(
    dataset: Dataset, encoder: TinyEncoder, tmp_path: Path
) -> None:
    """Oracle: constant answers are chance, 25 % of balanced classes; the same features in the cache help no other."""
    for parameter in encoder.parameters():
        parameter.data.fill_(float("nan"))
    results = evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path, diverged=True)
    for score in results.metrics.values():
        assert score["top1"] == pytest.approx(0.25)
    with pytest.raises(BenchmarkError, match="The feature 'pooled' of 160 of 160 train images"):
        evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path)


class Overflowing(TinyEncoder):
    """Of the brightest images, whose mean is above a threshold, a feature is infinite."""

    threshold = 0.2

    def forward(self, view: Tensor, visible: object = None, fill: object = None) -> Features:
        pooled = super().forward(view).pooled
        bright = view.mean((1, 2, 3)) > self.threshold
        return Features(torch.where(bright[:, None] & (torch.arange(16) == 3), torch.inf, pooled))


@pytest.mark.parametrize("split", ["train", "test"])
def test_features_that_are_not_finite_are_counted(dataset: Dataset, split: str) -> None:
    """Oracle: the images brightened by hand: 3 of each split that has them, and the message says what to do."""
    images = getattr(dataset, split).images // 2
    images[:3] = 255
    changed = replace(getattr(dataset, split), images=images)
    dark = replace(dataset, train=replace(dataset.train, images=dataset.train.images // 2))
    dark = replace(dark, test=replace(dark.test, images=dark.test.images // 2))
    dark = replace(dark, **{split: changed})
    message = f"The feature 'pooled' of 3 of {len(images)} {split} images has values that are not finite.*base_rate"
    with pytest.raises(BenchmarkError, match=message):
        evaluate_encoder(Overflowing(), dark, BOTH, CPU, limits=LIMITS)


def test_raw_pixels_are_the_pixels(dataset: Dataset) -> None:
    """Oracle: uint8 / 255 in memory order."""
    spy = Spy()
    evaluate_pixels(dataset, (spy,), limits=LIMITS)
    (bank,) = spy.banks
    assert bank.train["pixels"].shape == (160, 192)
    assert bank.train["pixels"][3, 100].item() == pytest.approx(dataset.train.images[3].flatten()[100].item() / 255)
    assert bank.dataset == "toy"
    assert bank.projected is None


def test_views_of_train_are_random_crops_that_all_share(dataset: Dataset) -> None:
    """Oracle: the same numbers for the same view, others for the next; no crop where the limits allow none."""
    spies = Spy(), Spy()
    for spy in spies:
        evaluate_pixels(dataset, (spy,), limits=LIMITS)
    first, second = (spy.banks[0] for spy in spies)
    assert torch.equal(first.views(0)["pixels"], second.views(0)["pixels"])
    assert not torch.equal(first.views(0)["pixels"], first.views(1)["pixels"])
    assert not torch.equal(first.views(0)["pixels"], first.train["pixels"])
    still = Spy()
    evaluate_pixels(dataset, (still,), limits=ViewLimits(crop_scale=(1.0, 1.0), flip=False))
    torch.testing.assert_close(still.banks[0].views(0)["pixels"], still.banks[0].train["pixels"], atol=1e-5, rtol=0)


def test_projections_are_apart_from_features(dataset: Dataset, encoder: TinyEncoder) -> None:
    """Oracle: the head on the features of the bank; nothing chooses among features and projections."""
    spy, head = Spy(), torch.nn.Linear(16, 3)
    evaluate_encoder(encoder, dataset, (spy,), CPU, limits=LIMITS, projector=head)
    (bank,) = spy.banks
    assert bank.projected is not None
    assert list(bank.train) == list(bank.test) == ["pooled"]
    for projected, features in zip(bank.projected, (bank.train["pooled"], bank.test["pooled"]), strict=True):
        torch.testing.assert_close(projected, head(features).detach())


def test_an_evaluation_that_does_not_apply_leaves_no_score(dataset: Dataset) -> None:
    """Oracle: no metric and no ranking of that name, and the others' as without it."""
    results = evaluate_pixels(dataset, (Spy(scores=False), KNN()), limits=LIMITS)
    assert list(results.metrics) == list(results.rankings) == ["knn"]
    assert results.metrics == evaluate_pixels(dataset, (KNN(),), limits=LIMITS).metrics


def test_cached_features_give_the_same_scores(
    dataset: Dataset, encoder: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: results without a cache; the second time no image is encoded, and all are for anything else.

    Else are other inputs, weights, a layer without weights, and another head, whose projections are kept too.
    """
    encoded = []
    forward = TinyEncoder.forward
    monkeypatch.setattr(TinyEncoder, "forward", lambda net, view: encoded.append(len(view)) or forward(net, view))
    plain = evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS)
    for images in (240, 0):
        encoded.clear()
        results = evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path)
        assert results.metrics == plain.metrics
        assert sum(encoded) == images
    encoder.statistics = ((0.5, 0.5, 0.5), (0.3, 0.3, 0.3))
    evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path)
    encoder.statistics = None
    assert sum(encoded) == 240
    evaluate_encoder(TinyEncoder(), dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path)
    assert sum(encoded) == 480
    for head in (torch.nn.Linear(16, 3), torch.nn.Linear(16, 3)):
        evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path, projector=head)
    assert sum(encoded) == 960
    encoder.net[2] = torch.nn.Tanh()
    evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS, cache=tmp_path)
    assert sum(encoded) == 1200


def test_layers_are_encoded_only_where_they_are_asked_for(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: how often the blocks are encoded; the cache keeps them apart from the features of the last block."""
    torch.manual_seed(0)
    vit, counts = ViT(8, name="tiny", width=16, depth=3, heads=2, patch=4), []
    last = ViT.last
    monkeypatch.setattr(ViT, "last", lambda net, view, count: counts.append(count) or last(net, view, count))
    plain = evaluate_encoder(vit, dataset, (Linear(),), CPU, limits=LIMITS, cache=tmp_path)
    assert counts == []
    several = [
        evaluate_encoder(vit, dataset, (KNN(), Linear(layers=(1, 2))), CPU, limits=LIMITS, cache=tmp_path)
        for _ in range(2)
    ]
    assert set(counts) == {2}
    assert len(counts) == 3 + 2  # batches of 64 images of train and test, once
    assert several[0].metrics == several[1].metrics
    assert several[0].metrics["linear"]["choices"]["layers"] in (1, 2)
    assert "layers" not in plain.metrics["linear"]["choices"]
    pixels = evaluate_pixels(dataset, (Linear(layers=(1, 2)),), limits=LIMITS)
    assert pixels.metrics["linear"]["choices"]["layers"] == 1


def test_statistics_replace_those_of_the_data(dataset: Dataset, encoder: TinyEncoder) -> None:
    """Oracle: the same encoder on a data set that has these statistics."""
    statistics = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    own = replace(dataset, mean=statistics[0], std=statistics[1])
    expected, without = (evaluate_encoder(encoder, data, BOTH, CPU, limits=LIMITS) for data in (own, dataset))
    encoder.statistics = statistics
    results = evaluate_encoder(encoder, dataset, BOTH, CPU, limits=LIMITS)
    assert results.metrics == expected.metrics != without.metrics


def test_an_evaluation_gets_copies_of_the_network(dataset: Dataset, encoder: TinyEncoder, tmp_path: Path) -> None:
    """Oracle: the encoder's weights, which training a copy leaves alone, and the images; raw pixels have no network.

    What it says of itself is in the record. Its inputs have the statistics that the encoder states.
    """
    before = digest(encoder.state_dict())
    encoder.statistics = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))

    class Trained(Spy):
        version = "7.2"

        def __call__(self, bank: Bank) -> Ranking | None:
            assert bank.network is not None
            first, second = bank.network.copy(), bank.network.copy()
            assert digest(first.state_dict()) == before
            with torch.no_grad():
                for weight in first.parameters():
                    weight.zero_()
            assert digest(second.state_dict()) == before
            ranking = super().__call__(bank)
            assert ranking is not None
            return replace(ranking, curve=(0.25, 0.5), measures={"epochs_to_95": 2.0}, flags=("a flag",))

    spy = Trained()
    results = evaluate_encoder(encoder, dataset, (spy,), CPU, limits=LIMITS, folder=tmp_path)
    assert digest(encoder.state_dict()) == before
    (bank,) = spy.banks
    assert bank.network is not None
    assert (bank.network.mean, bank.network.std) == encoder.statistics
    assert (bank.network.limits, bank.network.folder) == (LIMITS, tmp_path)
    assert torch.equal(bank.network.train, dataset.train.images)
    assert torch.equal(bank.network.test, dataset.test.images)
    assert (results.metrics["spy"]["version"], results.metrics["spy"]["flags"]) == (7, ["a flag"])
    assert results.metrics["spy"]["curve"] == [0.25, 0.5]
    assert results.metrics["spy"]["details"] == {"epochs_to_95": 2.0}
    pixels = Spy()
    evaluate_pixels(dataset, (pixels,), limits=LIMITS)
    assert pixels.banks[0].network is None


def test_the_kernel_of_training_does_not_show(dataset: Dataset) -> None:
    """Oracle: features of one ViT, to the last bit, after training with either kernel of attention."""
    torch.manual_seed(0)
    vit = ViT(8, name="tiny", width=32, depth=3, heads=2, patch=2)
    banks = []
    for fused in (True, False):
        set_fused(vit, fused)
        spy = Spy()
        evaluate_encoder(vit, dataset, (spy,), CPU, limits=LIMITS)
        banks += spy.banks
    assert all(torch.equal(banks[0].train[name], banks[1].train[name]) for name in ("cls", "mean", "both"))
