"""The linear probe against scikit-learn's logistic regression."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from banks import bank_of, mixture, normal
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmark.errors import ConfigError
from benchmark.evals import linear
from benchmark.evals.linear import GRID, STRONGER, Linear, Regression, Standard, fit, walk
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.semi_probe import SemiProbe


def scaled(features: Tensor) -> Tensor:
    return features * torch.logspace(-3, 3, features.shape[1]) + 5


def repeated(features: Tensor) -> Tensor:
    """Append two constant columns and two copies of the first."""
    n = len(features)
    return torch.cat([features, torch.full((n, 1), 3.0), torch.zeros(n, 1), features[:, :1], features[:, :1]], 1)


def correlated(features: Tensor) -> Tensor:
    """Mix all columns, so that standardising leaves a condition number of about 1e4."""
    dim = features.shape[1]
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(5))).Q
    return features * torch.logspace(0, -2, dim) @ mixing


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize(
    ("n", "dim", "classes", "spread", "change", "strength"),
    [
        (600, 20, 10, 3.0, None, 1e-3),
        (600, 20, 10, 3.0, None, 1e-6),
        (600, 20, 10, 3.0, None, 1.0),
        (600, 20, 10, 3.0, scaled, 1e-3),
        (600, 20, 10, 3.0, repeated, 1e-3),
        (600, 20, 10, 3.0, correlated, 1e-4),
        (100, 150, 10, 6.0, None, 1e-3),
        (100, 150, 10, 6.0, None, 1e-1),
        (60, 400, 5, 6.0, None, 1e-1),
        (60, 400, 5, 6.0, correlated, 1e-2),
        (1500, 30, 100, 1.5, None, 1e-3),
    ],
)
def test_probe_equals_sklearn(n: int, dim: int, classes: int, spread: float, change: object, strength: float) -> None:
    """Oracle: scikit-learn in float64 to a gradient of 1e-8: loss within 1e-4, and of 2,000 other images the same class
    for each of which its two best logits are 1 % of their range apart, which is nearly all."""
    features, labels = mixture(n, dim, classes, spread)
    asked, _ = mixture(2000, dim, classes, spread, seed=1)
    if callable(change):
        features, asked = change(features), change(asked)
    probe = fit(features, labels, classes, strength)

    scaler = StandardScaler().fit(features.double().numpy())
    reference = LogisticRegression(C=1 / (n * strength), tol=1e-8, max_iter=5000)
    reference.fit(scaler.transform(features.double().numpy()), labels.numpy())

    weight = probe.weight.double().numpy() * scaler.scale_[:, None]
    objective = mean_loss(probe.scores(features).double().numpy(), labels.numpy()) + strength / 2 * (weight**2).sum()
    inputs = scaler.transform(features.double().numpy())
    best = mean_loss(reference.decision_function(inputs), labels.numpy()) + strength / 2 * (reference.coef_**2).sum()
    assert objective == pytest.approx(best, rel=1e-4)
    logits = np.sort(reference.decision_function(scaler.transform(asked.double().numpy())), axis=1)
    clear = logits[:, -1] - logits[:, -2] > 0.01 * (logits[:, -1] - logits[:, 0]).mean()
    theirs = reference.predict(scaler.transform(asked.double().numpy()))
    assert (probe.scores(asked).argmax(1).numpy() == theirs)[clear].all()
    assert clear.mean() > 0.9


def test_feature_is_chosen_on_the_holdout() -> None:
    """Oracle: many noise columns fit the training part perfectly and know nothing of held-out images."""
    features, labels = mixture(400, 4, 4)
    noise = normal(400, 300)
    bank = bank_of({"noise": noise, "signal": features}, labels, {"noise": noise[:8], "signal": features[:8]}, 4)
    sgd = LinearSGD(rates=(0.1, 1.0), batch_size=64, epochs=6)
    probe, descent, few = (evaluation(bank).choices for evaluation in (Linear(), sgd, SemiProbe(fraction=0.1, draws=2)))
    assert probe["feature"] == descent["feature"] == few["feature_0"] == few["feature_1"] == "signal"
    assert probe["strength"] in GRID
    assert descent["rate"] in sgd.rates
    assert (few["fraction"], few["draws"]) == (0.1, 2)


def test_the_number_of_layers_is_chosen_on_the_hold_out() -> None:
    """Oracle: signal that only the last two layers together hold, beside noise; and a fit by hand on their features.

    The default asks for no layers and says nothing of them; of equals the first candidate wins, and raw pixels have
    no layers to choose from.
    """
    features, labels = mixture(400, 5, 4)
    asked, _ = mixture(50, 5, 4, seed=1)
    noise = {"x": normal(400, 3)}, {"x": normal(50, 3, seed=1)}
    bank = bank_of(noise[0], labels, noise[1], 4)
    requests: list[int] = []

    def layers(count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        requests.append(count)
        return ({"x": features}, {"x": asked}) if count == 2 else noise

    deep = replace(bank, layers=layers)
    ranking = Linear(layers=(1, 2, 3))(deep)
    assert ranking.choices["layers"] == 2
    probe = fit(features, labels, 4, float(ranking.choices["strength"]))
    assert torch.equal(ranking.classes, probe.scores(asked).argsort(dim=1, descending=True, stable=True))
    assert requests == [2, 3]
    assert Linear(layers=(3, 1))(deep).choices["layers"] == 3
    assert Linear()(deep).choices == Linear()(bank).choices
    assert "layers" not in Linear()(deep).choices
    assert requests == [2, 3, 3]
    assert Linear(layers=(2, 3))(bank).choices["layers"] == 1
    with pytest.raises(ConfigError, match=r"Linear.layers must have at least one number"):
        Linear(layers=())


def test_edge_of_the_grid_is_flagged() -> None:
    """Oracle: without any signal hits are equal and the strongest value wins; the grid has grown before the flag."""
    features, labels = torch.zeros(100, 5), torch.arange(100) % 4
    ranking = Linear()(bank_of({"x": features}, labels, {"x": features[:5]}, 4))
    assert ranking.flags == ("the best L2 strength lies at the edge of the grid",)
    assert ranking.choices["strength"] == max(STRONGER)


def test_a_fit_cut_short_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: three iterations are too few, a thousand are enough."""
    features, labels = mixture(300, 20, 4, spread=2.5)
    bank = bank_of({"x": correlated(features)}, labels, {"x": features[:5]}, 4)
    assert Linear()(bank).flags == ()
    monkeypatch.setattr(linear, "ITERATIONS", 3)
    assert "the fit ended at its limit of 3 iterations" in Linear()(bank).flags


def problem(dim: int) -> tuple[Regression, Tensor, Tensor]:
    """A regression on the first 200 samples of a mixture, and the inputs and labels of 100 more."""
    features, labels = mixture(300, dim, 4, spread=2.5)
    features = correlated(features)
    standard = Standard.of(features[:200])
    return Regression(standard.apply(features[:200]), labels[:200], 4), standard.apply(features[200:]), labels[200:]


def test_strengths_are_chosen_as_if_alone() -> None:
    """Oracle: a grid of one value; the warm start from stronger values must not change what the best predicts, but for
    images whose two best logits are within 1 % of their range, of which there are few."""
    hits, close = walk(*problem(10), GRID), 0
    for strength, count in hits.items():
        regression, held, _ = problem(10)
        solution, _ = regression.minimise(strength)
        logits = (held @ solution[:-1] + solution[-1]).sort(1).values
        unclear = int((logits[:, -1] - logits[:, -2] < 0.01 * (logits[:, -1] - logits[:, 0]).mean()).sum())
        alone = walk(*problem(10), (strength,))
        assert alone == {strength: pytest.approx(count, abs=unclear)}
        close += unclear
    assert close <= 0.03 * 100 * len(hits)


def test_the_search_of_few_wide_images_is_sklearns() -> None:
    """Oracle: scikit-learn on 60 images of 400 values, not on their coordinates: hits of 500 for each strength."""
    features, labels = mixture(560, 400, 4, spread=4.0)
    standard = Standard.of(features[:60])
    inputs, held = standard.apply(features[:60]), standard.apply(features[60:])
    regression = Regression(inputs, labels[:60], 4)
    assert regression.inputs.shape == (60, 60)
    for strength, (hits,) in walk(regression, regression.coordinates(held), labels[60:], (1.0, 0.1, 0.01)).items():
        reference = LogisticRegression(C=1 / (60 * strength), tol=1e-8, max_iter=5000).fit(inputs.double(), labels[:60])
        assert hits == pytest.approx((reference.predict(held.double()) == labels[60:].numpy()).sum(), abs=1)


def test_search_ends_after_three_worse_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the hits of the whole grid, cut after the third value in a row that is below the best before it."""
    hits = walk(*problem(120), GRID)
    monkeypatch.setattr(linear, "PATIENCE", 99)
    whole = walk(*problem(120), GRID)
    values = list(whole.values())
    ends = [i for i in range(3, 12) if max(values[i - 2 : i + 1]) < max(values[: i - 2])]
    assert list(hits.items()) == list(whole.items())[: ends[0] + 1]
    assert len(hits) < len(whole)


def test_standard_is_sklearns() -> None:
    """Oracle: StandardScaler; a constant dimension becomes 0 exactly, however large."""
    features = torch.cat([scaled(mixture(50, 8, 4)[0]), torch.full((50, 1), 1e6 + 0.1)], 1)
    standardised = Standard.of(features).apply(features)
    expected = StandardScaler().fit_transform(features.double().numpy())
    np.testing.assert_allclose(standardised[:, :8], expected[:, :8], atol=1e-3)
    assert not standardised[:, 8].any()


def test_standard_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: all dimensions at once, to the bit."""
    features, _ = mixture(300, 50, 4)
    whole = Standard.of(features)
    monkeypatch.setattr(linear, "COLUMNS", 7)
    blocks = Standard.of(features)
    assert torch.equal(blocks.mean, whole.mean)
    assert torch.equal(blocks.scale, whole.scale)


def test_no_seed_is_involved() -> None:
    """Oracle: two probes after different seeds are equal to the bit."""
    features, labels = mixture(100, 6, 4)
    probes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        probes.append(linear.fit(features, labels, 4, 1e-3))
    assert torch.equal(probes[0].weight, probes[1].weight)


@pytest.mark.parametrize(("n", "dim"), [(400, 60), (300, 500)])
@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_a_warm_start_on_ill_conditioned_inputs_ends_at_the_same_optimum(n: int, dim: int, strength: float) -> None:
    """Oracle: scikit-learn in float64 to a gradient of 1e-8, which starts at zero: the objective within 1e-3.

    The inputs are not standardised, so that their covariance keeps a condition number of 1e6, and some samples of a
    class of its own make the classes bend unlike each other.
    """
    features, labels = mixture(n, dim, 4, spread=3.0)
    inputs, labels = features * torch.logspace(0, -3, dim), labels.where(torch.arange(n) > 7, 4)
    regression, start = Regression(inputs, labels, 5), None
    for stronger in (*(value for value in GRID if value > 2 * strength), strength):
        start, converged = regression.minimise(stronger, start)
        assert converged
    reference = LogisticRegression(C=1 / (n * strength), tol=1e-8, max_iter=10_000).fit(inputs.double(), labels)
    weight, bias = regression.weights(start).double().numpy(), start[-1].double().numpy()
    objectives = [
        mean_loss(inputs.double().numpy() @ weights + biases, labels.numpy()) + strength / 2 * (weights**2).sum()
        for weights, biases in ((weight, bias), (reference.coef_.T, reference.intercept_))
    ]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-3)


@pytest.mark.parametrize("strength", [1.0, 1e-6])
def test_a_start_at_which_all_classes_are_certain(strength: float) -> None:
    """Oracle: the solution from zero weights, by its loss; all probabilities of the start are 0 or 1 to float32."""
    labels = torch.arange(60) % 3
    inputs = normal(60, 5) + 20 * torch.eye(5)[labels]
    regression = Regression(inputs, labels, 3)
    start = torch.cat([1e3 * torch.eye(5)[:, :3], torch.zeros(1, 3)])
    assert set(regression._logits(start).softmax(0).unique().tolist()) == {0.0, 1.0}
    losses = []
    for begin in (None, start):
        solution, converged = regression.minimise(strength, begin)
        assert converged
        loss, _, _ = regression._gradient(solution)
        losses.append(float(loss + strength / 2 * solution[:-1].square().sum()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-5)
