"""The linear probe by SGD against torch's layers, optimisers and schedules, and the full-batch probe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from banks import bank_of, mixture
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmark.config import load as configuration
from benchmark.errors import ConfigError
from benchmark.evals.features import Bank
from benchmark.evals.linear import Linear
from benchmark.evals.linear_sgd import Heads, LinearSGD
from benchmark.experiment.setup import Experiment
from benchmark.randomness import derive

GIN = Path(__file__).parents[1] / "gin"
GENERAL = {"frozen", "trained", "all", "short", "detect_smoke"}  # every other preset is the linear probe of a paper
PRESETS = sorted(path for path in GIN.glob("presets/*.gin") if path.stem not in GENERAL)
SHORT = LinearSGD(rates=(0.1, 1.0), batch_size=64, epochs=6)


def small(n: int = 50, dtype: torch.dtype = torch.float64) -> Bank:
    """A bank of `n` train and 30 test images with 6 features `x`, in 3 classes."""
    features, labels = mixture(n, 6, 3, spread=2.0)
    asked, _ = mixture(30, 6, 3, spread=2.0, seed=1)
    return bank_of({"x": features.to(dtype)}, labels, {"x": asked.to(dtype)}, 3)


def trained(probe: LinearSGD, bank: Bank, rows: Tensor, rates: tuple[float, ...]) -> Heads:
    heads = Heads(probe, bank, "x", rows, rates)
    for epoch in range(probe.epochs):
        heads.train(bank.train["x"], epoch)
    return heads


def batches(rows: Tensor, probe: LinearSGD) -> list[Tensor]:
    """The ids of each batch of all epochs."""
    ids = []
    for epoch in range(probe.epochs):
        generator = torch.Generator().manual_seed(derive("linear_sgd", epoch))
        ids += rows[torch.randperm(len(rows), generator=generator)].split(probe.batch_size)
    return ids


def layer(bank: Bank) -> nn.Linear:
    linear = nn.Linear(bank.train["x"].shape[1], bank.classes, dtype=bank.train["x"].dtype)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


@pytest.mark.parametrize("normalise", ["none", "batch_norm"])
@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_sgd_is_torchs(schedule: Any, normalise: Any) -> None:
    """Oracle: nn.Linear, with nn.BatchNorm1d before it or without, autograd, SGD and schedules of torch, in float64.

    Momentum, weight decay and an incomplete last batch of 8 among 50 images; scores of the test to 1e-9.
    """
    bank = small(50)
    probe = LinearSGD(
        batch_size=14, epochs=4, weight_decay=0.01, schedule=schedule, milestones=(1, 3), normalise=normalise
    )
    rows, rate, asked = torch.arange(50), 2.0, bank.test["x"]
    heads = trained(probe, bank, rows, (rate,))
    net = nn.Sequential(layer(bank))
    if normalise == "batch_norm":
        net.insert(0, nn.BatchNorm1d(6, affine=False, eps=1e-6, dtype=torch.float64))
    optimiser = torch.optim.SGD(net.parameters(), lr=rate * 14 / 256, momentum=0.9, weight_decay=0.01)
    decay: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=4 * 4)
    if schedule == "step":
        decay = torch.optim.lr_scheduler.MultiStepLR(optimiser, [4, 12])
    for ids in batches(rows, probe):
        optimiser.zero_grad()
        F.cross_entropy(net(bank.train["x"][ids]), bank.labels[ids]).backward()
        optimiser.step()
        decay.step()
    scores = heads.normalise(asked, False) @ heads.weight[:, 0] + heads.bias[0]
    torch.testing.assert_close(scores, net.eval()(asked), rtol=1e-9, atol=1e-9)
    assert torch.equal(heads.rank(asked, rate)[:, 0], net(asked).argmax(1))


def test_lars_is_its_definition() -> None:
    """Oracle: a transcription of You et al. 2017 for one rate, with autograd; the bias and a zero norm unscaled."""
    bank = small(50)
    probe = LinearSGD(batch_size=14, epochs=4, weight_decay=0.01, warmup=1, optimiser="lars", normalise="none")
    rates = (5.0, 50.0)
    heads = trained(probe, bank, bank.fit, rates)
    for head, rate in enumerate(rates):
        linear = layer(bank)
        buffers = {p: torch.zeros_like(p) for p in linear.parameters()}
        taken = batches(bank.fit, probe)
        per_epoch = len(taken) // 4
        for step, ids in enumerate(taken):
            loss = F.cross_entropy(linear(bank.train["x"][ids]), bank.labels[ids])
            for p, gradient in zip(buffers, torch.autograd.grad(loss, list(buffers)), strict=True):
                slope = gradient + 0.01 * p.detach()
                if p is linear.weight and step > 1:  # the first step has a rate of 0, so the second starts at 0 too
                    slope *= 0.001 * p.detach().norm() / slope.norm()
                buffers[p] = 0.9 * buffers[p] + slope
                p.data -= rate * 14 / 256 * probe.share(step / per_epoch) * buffers[p]
        torch.testing.assert_close(heads.weight[:, head].T, linear.weight.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(heads.bias[head], linear.bias.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimiser", ["sgd", "lars"])
def test_rates_are_trained_as_if_alone(optimiser: Any) -> None:
    """Oracle: the same probe with one rate at a time, in float32."""
    bank = small(200, torch.float32)
    probe = replace(SHORT, optimiser=optimiser, weight_decay=0.001)
    rates = (0.01, 1.0, 30.0)
    together = trained(probe, bank, bank.fit, rates)
    for head, rate in enumerate(rates):
        alone = trained(probe, bank, bank.fit, (rate,))
        torch.testing.assert_close(together.weight[:, head], alone.weight[:, 0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.bias[head], alone.bias[0], rtol=1e-5, atol=1e-6)
        assert torch.equal(together.rank(bank.test["x"], rate), alone.rank(bank.test["x"], rate))


def test_shares_of_the_rate() -> None:
    """Oracle: by hand: linear from 0 for two epochs, then a half cosine over eight, or tenths at 4 and 6."""
    cosine = LinearSGD(epochs=10, warmup=2)
    assert [cosine.share(epoch) for epoch in (0, 0.5, 2, 6, 10)] == pytest.approx([0, 0.25, 1, 0.5, 0])
    step = replace(cosine, schedule="step", milestones=(4, 6))
    assert [step.share(epoch) for epoch in (1, 2, 3.9, 4, 5.9, 6, 9.9)] == pytest.approx(
        [0.5, 1, 1, 0.1, 0.1, 1e-2, 1e-2]
    )


def test_standard_is_sklearns_on_the_images_trained_on() -> None:
    """Oracle: no normalisation of features that StandardScaler has scaled by those of the fitting part."""
    bank = small(200, torch.float32)
    features = bank.train["x"] * torch.logspace(-2, 2, 6) + 3
    scaler = StandardScaler().fit(features[bank.fit].double().numpy())
    scaled = torch.tensor(scaler.transform(features.double().numpy()), dtype=torch.float32)
    ours = trained(SHORT, replace(bank, train={"x": features}), bank.fit, SHORT.rates)
    plain = trained(replace(SHORT, normalise="none"), replace(bank, train={"x": scaled}), bank.fit, SHORT.rates)
    torch.testing.assert_close(ours.weight, plain.weight, rtol=1e-3, atol=1e-4)
    assert torch.equal(ours.rank(features, 1.0)[:, 0], plain.rank(scaled, 1.0)[:, 0])


def test_batch_norm_bears_a_last_batch_of_one() -> None:
    """Oracle: nn.BatchNorm1d, which refuses to train on one image: it is normalised as in the test, and not counted."""
    bank = small(9)
    probe = LinearSGD(rates=(1.0,), batch_size=4, epochs=1, normalise="batch_norm")
    heads = Heads(probe, bank, "x", torch.arange(9), (1.0,))
    norm = nn.BatchNorm1d(6, affine=False, eps=1e-6, dtype=torch.float64)
    for ids in batches(torch.arange(9), probe):
        norm.train(len(ids) > 1)
        torch.testing.assert_close(heads.normalise(bank.train["x"][ids], True), norm(bank.train["x"][ids]))
    torch.testing.assert_close(heads.normalise(bank.test["x"], False), norm.eval()(bank.test["x"]))


def test_accuracy_is_near_the_full_batch_probes() -> None:
    """Oracle: `Linear` on the same bank, within 1.5 points of 4000 test images, far from chance and from 100 %."""
    features, labels = mixture(1200, 30, 10, spread=3.0)
    asked, truth = mixture(4000, 30, 10, spread=3.0, seed=1)
    bank = bank_of({"x": features}, labels, {"x": asked}, 10)
    accuracies = []
    for evaluation in (Linear(), LinearSGD(epochs=30)):
        accuracies.append(float((evaluation(bank).classes[:, 0] == truth).double().mean()))
    assert 0.3 < accuracies[0] < 0.9
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.015)


def test_test_features_decide_nothing() -> None:
    """Oracle: the same choices and flags when the test features are no numbers."""
    bank = small(200, torch.float32)
    poisoned = replace(bank, test={"x": torch.full((30, 6), torch.nan)})
    clean, blind = SHORT(bank), SHORT(poisoned)
    assert (clean.choices, clean.flags) == (blind.choices, blind.flags)
    assert not torch.equal(clean.classes, blind.classes)


@pytest.mark.parametrize("train_views", ["center", "live", 2])
def test_the_classifier_of_the_best_rate_is_trained_on_all_of_train(train_views: Any) -> None:
    """Oracle: by hand, with the rate that has most hits on the hold-out at the last epoch; views change nothing here.

    The two kinds of passes, with and without keeping views, must agree on which rate and which images.
    """
    bank, rates = small(200, torch.float32), (0.001, 0.03, 1.0)
    probe = replace(SHORT, rates=rates, train_views=train_views)
    ranking = probe(bank)
    trial = trained(probe, bank, bank.fit, rates)
    hits = [int((trial.rank(bank.train["x"][bank.held], r)[:, 0] == bank.labels[bank.held]).sum()) for r in rates]
    best = rates[hits.index(max(hits))]
    assert len(set(hits)) > 1
    assert ranking.choices == {"feature": "x", "rate": best}
    final = trained(probe, bank, torch.arange(200), (best,))
    assert torch.equal(ranking.classes, final.rank(bank.test["x"], best))


@pytest.mark.parametrize(
    ("train_views", "extracted", "seen"),
    [("center", [], [9] * 5), ("live", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]), (3, [0, 1, 2], [0, 1, 2, 0, 1])],
)
def test_views(train_views: Any, extracted: list[int], seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand: which views are extracted, each once, and which one each epoch sees, in choice and result.

    The center features are number 9.
    """
    bank = small(60, torch.float32)
    calls: list[int] = []
    views = {number: {name: bank.train["x"].clone() for name in ("x", "y")} for number in (0, 1, 2, 3, 4, 9)}

    def view(number: int) -> dict[str, Tensor]:
        calls.append(number)
        return views[number]

    trained_on: dict[tuple[int, str], list[int]] = {}

    def train(heads: Heads, features: Tensor, epoch: int) -> None:
        (number,) = (number for number, view in views.items() if view[heads.name] is features)
        trained_on.setdefault((len(heads.rows), heads.name), []).append(number)

    monkeypatch.setattr(Heads, "train", train)
    test = {"x": bank.test["x"], "y": bank.test["x"]}
    probe = replace(SHORT, epochs=5, train_views=train_views)
    ranking = probe(replace(bank, train=views[9], test=test, views=view))
    assert calls == extracted
    finals = {"x", "y"} if train_views == "live" else {ranking.choices["feature"]}
    assert set(trained_on) == {(len(bank.fit), "x"), (len(bank.fit), "y")} | {(60, name) for name in finals}
    assert all(numbers == seen for numbers in trained_on.values())


@pytest.mark.parametrize(
    ("hits", "rate", "flagged"),
    [
        ({0.1: 1, 1.0: 3, 10.0: 2}, 1.0, False),
        ({0.1: 1, 1.0: 2, 10.0: 3}, 10.0, True),
        ({0.1: 3, 1.0: 2, 10.0: 1}, 0.1, True),
        ({0.1: 1, 1.0: 3, 10.0: 3}, 1.0, False),
        ({1.0: 3}, 1.0, False),
    ],
)
def test_edge_of_the_grid_is_flagged(
    hits: dict[float, int], rate: float, flagged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: planted hits: an end of several rates is flagged, one rate never, and the smaller of equals wins."""
    monkeypatch.setattr(Heads, "hits", lambda heads, rows, rate: hits[rate])
    ranking = replace(SHORT, rates=tuple(hits), epochs=1)(small())
    assert ranking.choices["rate"] == rate
    assert ranking.flags == (("the best learning rate lies at the edge of the grid",) if flagged else ())


def test_nothing_held_out_is_flagged() -> None:
    """Oracle: of equal scores the smaller rate, which nothing chose; one rate alone is no choice."""
    bank = replace(small(), held=torch.zeros(0, dtype=torch.int64))
    rates = (0.1, 1.0, 10.0)
    said = ("nothing could be held out, so the learning rate is 0.1 by rule",)
    assert replace(SHORT, rates=rates, epochs=1)(bank).flags == said
    assert replace(SHORT, rates=(1.0,), epochs=1)(bank).flags == ()


def test_impossible_settings_are_refused() -> None:
    """Oracle: the documented ranges; the milestones are checked only if they are used."""
    for setting, message in (
        ("rates = (0.1, 0.0)", "above 0"),
        ("batch_size = 0", "of at least 1, got 0"),
        ("epochs = 0", "of at least 1, got 0"),
        ("warmup = -1", "of at least 0, got -1"),
        ("momentum = 1.0", "at least 0 and below 1, got 1.0"),
        ("weight_decay = -0.1", "of at least 0, got -0.1"),
        ("train_views = 0", "'center', 'live' or int of at least 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=f"LinearSGD.{setting.split()[0]}.*{message}"):
            configuration.load(
                [str(GIN / "simclr.gin")], ("experiment.evaluations = (@LinearSGD,)", f"LinearSGD.{setting}")
            )
    refused: list[tuple[dict[str, Any], str]] = [
        ({"rates": ()}, "at least one number"),
        ({"epochs": 10, "warmup": 10}, "warmup must be below"),
        ({"schedule": "step", "epochs": 80}, "before the end at 80"),
    ]
    for settings, message in refused:
        with pytest.raises(ConfigError, match=message):
            LinearSGD(**settings)
    assert LinearSGD(epochs=80).schedule == "cosine"


PEAKS = {
    "dinov2": (4e-5, 8e-5, 2e-4, 4e-4, 8e-4, 2e-3, 4e-3, 8e-3, 0.02, 0.04, 0.08, 0.2, 0.4),
    "mae": (6.4,),
    "mocov2": (30.0,),
    "mocov3": (12.0,),
    "mrcl": (0.8,),
    "simsiam": (1.6,),
}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_the_published_ones(path: Path) -> None:
    """Oracle: the rates after scaling by hand, base * batch / 256; every parameter is bound; a step runs."""
    assert [preset.stem for preset in PRESETS] == list(PEAKS)
    assert len(path.read_text().splitlines()) <= 15
    assert f"python -m benchmark.evaluate --run runs/<run> --gin gin/presets/{path.name}" in path.read_text()
    experiment: Experiment = configuration.build(configuration.load([str(GIN / "simclr.gin"), str(path)]))
    (probe,) = (evaluation() for evaluation in experiment.evaluations)
    assert isinstance(probe, LinearSGD)
    heads = Heads(probe, small(), "x", torch.arange(50), probe.rates)
    assert heads.peaks.flatten().tolist() == pytest.approx(PEAKS[path.stem])
    bound = {name for name in vars(probe) if f"LinearSGD.{name} = " in path.read_text()}
    assert set(vars(probe)) - bound == (set() if probe.schedule == "step" else {"milestones"})
    heads.train(small().train["x"], probe.warmup)
    assert heads.weight.any()
