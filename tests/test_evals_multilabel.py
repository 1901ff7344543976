"""Images with several labels: mean average precision, the probe with a sigmoid, and the whole way from a file."""

import re
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from banks import bank_of, normal
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score
from tiny import command
from torch import Tensor

from benchmark.data.dataset import Dataset, Split
from benchmark.errors import ConfigError
from benchmark.evals import scoring
from benchmark.evals.features import Ranking, best_classes
from benchmark.evals.harness import evaluate_pixels
from benchmark.evals.knn import KNN
from benchmark.evals.linear import GRID, STRONGER, Linear, Standard, fit
from benchmark.evals.multilabel import MultiLabel, Sigmoid
from benchmark.evals.scoring import SealedLabels, mean_average_precision
from benchmark.figures import main as figures
from benchmark.page.page import Page, pictures
from benchmark.page.page import render as page
from benchmark.report import record as records
from benchmark.report.audit import audit
from benchmark.report.cells import load
from benchmark.report.markdown import render
from benchmark.run import main
from benchmark.views.recipes import ViewLimits


def sets(n: int, dim: int, shares: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features and labels: a class is there where its direction, seen through noise, is above a quantile."""
    features = normal(n, dim, seed=seed)
    signal = features @ normal(dim, len(shares), seed=99) / dim**0.5 + 0.7 * normal(n, len(shares), seed=seed + 7)
    labels = [signal[:, i] > signal[:, i].quantile(1 - share) for i, share in enumerate(shares)]
    return features, torch.stack(labels, dim=1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "classes"), [(5, 3), (200, 7), (300, 150)])
def test_mean_average_precision_equals_sklearn(n: int, classes: int, ties: bool) -> None:
    """Oracle: scikit-learn to 1e-12, over the classes with an image; with ties, scores of five values."""
    for seed in range(10 if classes < 100 else 2):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(n, classes, generator=generator) < torch.rand(classes, generator=generator) / 3
        scores = torch.randn(n, classes, generator=generator)
        scores = scores.round().clamp(-2, 2) if ties else scores
        present = labels.any(0).nonzero().flatten().tolist()
        each = [average_precision_score(labels[:, i].numpy(), scores[:, i].numpy()) for i in present]
        assert abs(mean_average_precision(scores, labels) - (np.mean(each) if each else 0.0)) < 1e-12


def test_scores_of_sets_equal_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: scikit-learn's metrics of the predictions above a half, class by class; top-1 and top-5 by hand."""
    monkeypatch.setattr(scoring, "COLUMNS", 16)
    features, labels = sets(400, 20, [0.3, 0.1, 0.02, 0.6] * 15)
    labels[:, 3] = False
    logits = features @ normal(20, 60, seed=99)
    score = SealedLabels(labels, 60).score("x", Ranking(best_classes(logits), {}, scores=logits))
    truth, predicted = labels.numpy(), logits.numpy() > 0
    present = [i for i in range(60) if i != 3]
    precisions = [average_precision_score(truth[:, i], logits[:, i].numpy()) for i in present]
    recalls = [balanced_accuracy_score(truth[:, i], predicted[:, i]) for i in present]
    recalls.append(1 - predicted[:, 3].mean())  # of a class without images there is one recall
    ranked = logits.argsort(1, descending=True).numpy()
    assert score.mean_average_precision == pytest.approx(np.mean(precisions), abs=1e-12)
    assert score.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert score.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert score.top1 == pytest.approx(np.mean([truth[i, ranked[i, 0]] for i in range(400)]))
    assert score.top5 == pytest.approx(np.mean([truth[i, ranked[i, :5]].any() for i in range(400)]))


@pytest.mark.parametrize(
    ("n", "dim", "strength"), [(600, 20, 1e-3), (600, 20, 1e-6), (600, 20, 1.0), (100, 150, 1e-2), (60, 400, 1e-1)]
)
def test_the_optimum_is_that_of_sklearn(n: int, dim: int, strength: float) -> None:
    """Oracle: scikit-learn's logistic regression of each class by itself, in float64.

    The sum of the losses is within 1e-5 of theirs, and that of each class within 1e-3: of a class that the features
    separate, it lies near what float32 resolves of the sum.
    """
    features, labels = sets(n, dim, [0.5, 0.3, 0.1, 0.02])
    features = features * torch.logspace(-2, 2, dim) + 3
    probe = fit(features, labels, 4, strength, Sigmoid)
    assert probe.converged
    standard = Standard.of(features)
    inputs = standard.apply(features).double().numpy()
    weights = (probe.weight / standard.scale[:, None]).double().numpy()
    logits = probe.scores(features).double().numpy()
    ours, least = [], []
    for i in range(4):
        truth = labels[:, i].numpy()
        theirs = LogisticRegression(C=1 / (n * strength), tol=1e-8, max_iter=20000).fit(inputs, truth)

        def objective(logits: np.ndarray, weight: np.ndarray, truth: np.ndarray = truth) -> float:
            signs = np.where(truth, 1, -1)
            return float(np.logaddexp(0, -signs * logits).mean() + strength / 2 * (weight**2).sum())

        least.append(objective(theirs.decision_function(inputs), theirs.coef_[0]))
        ours.append(objective(logits[:, i], weights[:, i]))
    assert sum(ours) == pytest.approx(sum(least), rel=1e-5)
    assert ours == pytest.approx(least, rel=1e-3)


def test_classes_of_no_image_or_of_each() -> None:
    """Oracle: their probabilities are near 0 and 1 for all images; the other class is fitted as without them."""
    features, labels = sets(300, 10, [0.4])
    wide = torch.cat([labels, torch.zeros_like(labels), torch.ones_like(labels)], dim=1)
    scores = fit(features, wide, 3, 1e-3, Sigmoid).scores(features)
    alone = fit(features, labels, 1, 1e-3, Sigmoid).scores(features)
    torch.testing.assert_close(scores[:, :1], alone, rtol=2e-3, atol=2e-3)
    assert scores[:, 1].sigmoid().max() < 0.01
    assert scores[:, 2].sigmoid().min() > 0.99


def test_strength_feature_and_layers_are_chosen_on_the_hold_out() -> None:
    """Oracle: signal beside noise; a search of the grid by hand for the best mean average precision of the hold-out."""
    features, labels = sets(400, 30, [0.5, 0.2, 0.1])
    noise = normal(400, 30, seed=5)
    bank = bank_of({"noise": noise, "signal": features}, labels, {"noise": noise[:9], "signal": features[:9]}, 3)
    ranking = MultiLabel()(bank)
    assert ranking.choices["feature"] == "signal"
    precisions = {}
    for strength in (*GRID, *STRONGER):
        probe = fit(features[bank.fit], labels[bank.fit], 3, strength, Sigmoid)
        precisions[strength] = mean_average_precision(probe.scores(features[bank.held]), labels[bank.held])
    chosen = float(ranking.choices["strength"])
    assert precisions[chosen] == pytest.approx(max(precisions.values()), abs=5e-3)
    expected = fit(features, labels, 3, chosen, Sigmoid).scores(features[:9])
    assert ranking.scores is not None
    torch.testing.assert_close(ranking.scores, expected)
    deep = replace(bank_of({"x": noise}, labels, {"x": noise[:9]}, 3), layers=lambda n: ({"x": features}, bank.test))
    deep = replace(deep, layers=lambda n: ({"x": features}, {"x": features[:9]}))
    assert MultiLabel(layers=(1, 4))(deep).choices["layers"] == 4
    with pytest.raises(ConfigError, match=r"MultiLabel.layers must have"):
        MultiLabel(layers=())


def test_kinds_of_labels_and_evaluations_must_agree() -> None:
    """Oracle: the message names what does not fit, the data set, and what to set instead."""
    images = torch.zeros(40, 3, 4, 4, dtype=torch.uint8)
    marks = Split(images, torch.arange(40)[:, None] % 3 == torch.arange(3))
    single = Split(images, torch.arange(40) % 3)
    limits = ViewLimits(crop_scale=(0.5, 1.0), flip=False)
    several, one = (
        Dataset("toy", ("a", "b", "c"), 4, images, split, split, "0" * 64, (0.4,) * 3, (0.2,) * 3)
        for split in (marks, single)
    )
    with pytest.raises(
        ConfigError, match=r"toy may have several labels, for which KNN, Linear is not made.*\(@MultiLabel,\)"
    ):
        evaluate_pixels(several, (KNN(), Linear(), MultiLabel()), limits=limits)
    with pytest.raises(ConfigError, match=r"toy have one label, for which MultiLabel is not made.*\(@KNN, @Linear\)"):
        evaluate_pixels(one, (KNN(), MultiLabel()), limits=limits)


COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16 px with some of three coloured bars at drawn places, whose names are the labels; Parquet."""
    folder = tmp_path_factory.mktemp("flags")
    random = np.random.RandomState(0)
    for split, n in (("train", 160), ("test", 240)):
        columns: dict[str, list[object]] = {"image": [], "colours": []}
        for _ in range(n):
            pixels = random.randint(0, 256, (16, 16, 3)).astype(np.uint8)
            names = [name for name in COLOURS if random.rand() < 0.4]
            for row, name in zip(random.permutation(4), names, strict=False):
                pixels[4 * row : 4 * row + 2] = pixels[4 * row : 4 * row + 2] // 2 + np.array(COLOURS[name]) // 2
            columns["image"].append(Image.fromarray(pixels))
            columns["colours"].append(names)
        kind = datasets.Sequence(datasets.ClassLabel(names=list(COLOURS)))
        features = datasets.Features({"image": datasets.Image(), "colours": kind})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def on(flags: Path, evaluations: str = "@MultiLabel,") -> list[str]:
    """Return the arguments of a run on these images: the protocol of the documentation, and the evaluations."""
    blocks = re.findall(r"```\w*\n(.*?)```", Path("docs/data.md").read_text(encoding="utf-8"), re.DOTALL)
    (protocol,) = (block for block in blocks if "@MultiLabel" in block)
    file = flags / "flags.gin"
    file.write_text(protocol.replace("/data/flags", str(flags)))
    return ["--gin", str(file), "--set", f"experiment.evaluations=({evaluations})"]


def few_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out weak strengths, which take long."""
    monkeypatch.setattr("benchmark.evals.linear.GRID", (1.0, 0.1, 0.01))
    monkeypatch.setattr("benchmark.evals.linear.WEAKER", ())


@pytest.mark.usefixtures("one_thread")
def test_a_run_on_a_file_with_lists_of_labels(
    flags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the record, its floors, the row, the table and the page have the mean average precision; the audit.

    Colours are easy for raw pixels, and guessing has the share of a class, about .4.
    """
    few_strengths(monkeypatch)
    board = tmp_path / "results" / "board"
    for seed in (0, 1):
        assert main([*command(tmp_path / "runs", 4, *on(flags), "--publish", str(board), seed=seed)]) == 0
    printed = capsys.readouterr().out
    assert "mAP v1" in printed
    runs = {each["method"]["name"]: each for each in load(board)}
    assert set(runs) == {"simclr", "random init", "raw pixels"}
    metrics = runs["simclr"]["metrics"]["multilabel"]
    assert 0.4 < metrics["mean_average_precision"] <= 1
    assert metrics["top1"] != metrics["mean_average_precision"]
    assert metrics["n"] == 240
    assert runs["simclr"]["dataset"]["classes"] == 3
    assert runs["simclr"]["code"]["versions"]["MultiLabel"] == "1.0"
    assert "curve" not in runs["simclr"]["training"]
    assert "predictions" not in runs["simclr"].get("published", {})
    assert runs["raw pixels"]["metrics"]["multilabel"]["mean_average_precision"] > 0.6
    of_seeds = [each["metrics"]["multilabel"] for each in load(board) if each["budget"]]
    mean = np.mean([metrics["mean_average_precision"] for metrics in of_seeds])
    places = {each["id"]: f"board/{each['id']}.json" for each in load(board)}
    shown = Page(load(board), (), lambda record: (), places)
    (drawn,) = pictures(shown).values()
    assert ">mAP</tspan> in %" in drawn
    for text in (render(load(board)), page(shown)):
        assert f"{100 * mean:.2f}" in text
        assert "mAP, in place of top-1, is the mean over classes" in text
    assert audit(tmp_path / "results") == []
    (run,) = (tmp_path / "runs").glob("simclr-*-s0-*")
    assert records.read(next(run.glob("*-s0-*.json")))["predictions"] is not None


def test_other_evaluations_and_supervision_are_refused(
    flags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: exit code and sentence of the command; without evaluations pretraining works."""
    assert main(command(tmp_path, 4, *on(flags, "@KNN, @one_percent/SemiProbe, @FineTune"))) == 2
    assert "several labels, for which KNN, SemiProbe, FineTune is not made" in capsys.readouterr().err
    supervised = command(tmp_path, 4, *on(flags), gin="gin/supervised_reference.gin")
    assert main(supervised) == 2
    assert "learns from one label an image" in capsys.readouterr().err
    assert main(command(tmp_path, 4, "--set", "experiment.evaluations=(@MultiLabel,)")) == 2
    assert "digits have one label, for which MultiLabel is not made" in capsys.readouterr().err
    assert main(command(tmp_path, 2, *on(flags, ""))) == 0


def test_trials_and_figures(
    flags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a trial is scored on a tenth of train, 16 images; figures of single labels are left out by name."""
    few_strengths(monkeypatch)
    assert main(command(tmp_path, 2, *on(flags), "--set", "experiment.is_trial=True")) == 0
    (trial,) = (each for folder in tmp_path.glob("simclr-*") for each in load(folder))
    assert (trial["division"], trial["metrics"]["multilabel"]["n"]) == ("trial", 16)
    assert main(command(tmp_path / "runs", 2, *on(flags, ""))) == 0
    (run,) = (tmp_path / "runs").glob("simclr-*")
    capsys.readouterr()
    assert figures([str(run), "--to", str(tmp_path / "figures")]) == 0
    assert "tsne.png left out: it needs one label an image" in capsys.readouterr().out
    assert (tmp_path / "figures" / "views.png").is_file()
