"""Fine-tuning on a few labels: which labels are used for what."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from tuned import TENTH, Toy, ranked, vit

from benchmark.data.subsets import labelled
from benchmark.evals import semi_finetune
from benchmark.evals.semi_finetune import GRID, TwoRates
from benchmark.evals.semi_probe import SemiProbe
from benchmark.evals.supervised import Classifier, Trained, Trainer

SINGLE = replace(TENTH, fraction=0.01)  # one label of each class


def test_encoder_and_head_have_their_own_rates() -> None:
    """Oracle: SGD without decay; the peak of each group whatever the batch, and nothing that is fixed."""
    model = Classifier(vit(), 16, 4)
    settings = TwoRates(0.02, 5.0)
    optimiser = settings.optimiser(model)
    assert isinstance(optimiser, torch.optim.SGD)
    by_parameter = {
        id(p): settings.rate_at(0, 13) * group["scale"] for group in optimiser.param_groups for p in group["params"]
    }
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert by_parameter == {
        id(p): pytest.approx(5.0 if name.startswith("head") else 0.02) for name, p in trained.items()
    }
    for group in optimiser.param_groups:
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 0.0, False)


def test_draws_are_the_probes_and_draw_0_is_for_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the probe's own ids; 9 trainings on four fifths of draw 0, all of draws 1 and 2 for the test images."""
    seen: list[tuple[Tensor, Tensor | None, TwoRates]] = []

    def train(
        trainer: Trainer, part: str, settings: TwoRates, rows: Tensor, asked: Tensor | None, **length: Any
    ) -> Trained:
        seen.append((rows, asked, settings))
        assert length["steps"] == 4
        return Trained(torch.zeros(1, 40 if asked is None else len(asked), 4, dtype=torch.int64), torch.zeros(1))

    toy = Toy(vit(), train=400)
    monkeypatch.setattr(Trainer, "train", train)
    ranked(toy, TENTH)
    probe = SemiProbe(fraction=0.1, draws=3)
    zero, one, two = (probe._ids(toy.bank, draw) for draw in range(3))
    assert len(zero) == 40
    for rows, asked, _ in seen[:9]:
        held = set(zero.tolist()) - set(rows.tolist())
        assert len(rows) == 32
        assert set(rows.tolist()) < set(zero.tolist())
        assert {int(toy.bank.labels[i]) for i in held} == {0, 1, 2, 3}
        assert asked is not None
        assert set(asked.tolist()) == held
    assert {(settings.rate, settings.head_rate) for *_, settings in seen[:9]} == {
        (0.01 * trunk, 0.1 * head) for trunk in (0.1, 1.0, 10.0) for head in (0.1, 1.0, 10.0)
    }
    assert all(torch.equal(rows, expected) for (rows, *_), expected in zip(seen[9:], (one, two), strict=True))
    assert all(asked is None for _, asked, _ in seen[9:])


@pytest.mark.parametrize("best", [0, 4, 8])
def test_best_pair_is_taken_and_an_end_flagged(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: planted predictions of which those of one pair are right; of equally good ones the middle pair."""
    toy = Toy(vit(), train=400)
    places = iter(range(9))
    used = []

    def train(
        trainer: Trainer, part: str, settings: TwoRates, rows: Tensor, asked: Tensor | None, **length: Any
    ) -> Trained:
        right = next(places, None) == best
        used.append(settings)
        labels = held_labels if right else held_labels + 1
        return Trained((labels % 4)[None, :, None], torch.zeros(1))

    zero = labelled(toy.bank.labels, "toy", 0.1, 0)
    held_labels = toy.bank.labels[zero][semi_finetune.holdout(toy.bank.labels[zero], "toy", 0.2)[1]]
    monkeypatch.setattr(Trainer, "train", train)
    ranking = ranked(toy, TENTH)
    trunk, head = GRID[best]
    assert ranking.choices["trunk_rate"] == pytest.approx(0.01 * trunk)
    assert ranking.choices["head_rate"] == pytest.approx(0.1 * head)
    assert {(settings.rate, settings.head_rate) for settings in used[9:]} == {(0.01 * trunk, 0.1 * head)}
    assert ranking.flags == (() if best == 0 else ("the best pair of learning rates lies at the edge of the grid",))


def test_single_labels_leave_no_choice() -> None:
    """Oracle: with one label a class the middle pair, a flag, and two trainings, of draws 1 and 2."""
    toy = Toy(vit())
    ranking = ranked(toy, SINGLE)
    assert (ranking.choices["trunk_rate"], ranking.choices["head_rate"]) == (0.01, 0.1)
    assert len(ranking.flags) == 1
    assert "one label a class" in ranking.flags[0]
    assert len(toy.copies) == 3  # one for the digest of the start


def test_an_easy_set_is_learnt_from_few_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: chance is 25 %; rankings of each draw, which differ, and no encoder but copies moves."""
    monkeypatch.setattr(semi_finetune, "GRID", [(1.0, 1.0)])
    toy = Toy(vit())
    before = {name: value.clone() for name, value in toy.encoder.state_dict().items()}
    ranking = ranked(toy, replace(TENTH, fraction=0.2, trunk_rate=0.1, steps=80, batch_size=24))
    assert ranking.classes.shape == (2, 40, 4)
    assert not torch.equal(*ranking.classes)
    assert (ranking.classes[:, :, 0] == toy.answers).double().mean() > 0.6
    assert all(torch.equal(value, before[name]) for name, value in toy.encoder.state_dict().items())
