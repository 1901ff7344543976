"""Fine-tuning: what moves and how fast, what a choice may see, and that an interruption changes nothing."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tuned import SHORT, TENTH, WHOLE, Toy, convnet, ranked, stop_at, vit

from benchmark.config import load as configuration
from benchmark.data import streaming
from benchmark.data.resident import epoch_order
from benchmark.errors import ConfigError
from benchmark.evals import supervised
from benchmark.evals.evaluation import Evaluation
from benchmark.evals.finetune import ConvNetTuning, FineTune, Tuning, ViTTuning, exponents, speed
from benchmark.evals.semi_finetune import TwoRates
from benchmark.evals.supervised import Classifier, SupervisedSettings, Trainer, _Run
from benchmark.experiment.setup import Experiment
from benchmark.nets.encoders import ViT
from benchmark.nets.resnet import ResNet
from benchmark.storage.digest import digest
from benchmark.views.recipes import View, ViewLimits

GIN = Path(__file__).parents[1] / "gin"
PLAIN = ViTTuning(rate=0.05, mixup=0.0, cutmix=0.0, magnitude=0.0)
ENCODERS = pytest.mark.parametrize("encoder", [vit, convnet])


def run_of(toy: Toy, settings: SupervisedSettings, rows: Tensor, steps: int = 4, batch_size: int = 16) -> _Run:
    assert toy.bank.network is not None
    return _Run(Trainer("test", settings, toy.bank, toy.bank.network), settings, rows, steps, batch_size, 5)


def test_layers_have_their_rates() -> None:
    """Oracle: MAE's code (`util/lr_decay.py`) by hand, depth 3; decay spares vectors, class token and positions."""
    net = ViT(8, name="vit", width=16, depth=3, heads=2, patch=2)
    model = Classifier(net, 16, 4)
    groups = ViTTuning(layer_decay=0.75, weight_decay=0.05).optimiser(model).param_groups
    by_parameter = {id(p): (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    shares = {"encoder.net.blocks.0": 3, "encoder.net.blocks.1": 2, "encoder.net.blocks.2": 1, "head": 0}
    shares |= {"encoder.net.patch_embed": 4, "encoder.net.cls_token": 4, "encoder.net.norm": 0}
    expected = {}
    for name, parameter in model.named_parameters():
        if name != "encoder.net.pos_embed":
            (power,) = (power for prefix, power in shares.items() if name.startswith(prefix))
            weight = parameter.ndim > 1 and "cls_token" not in name
            expected[id(parameter)] = (pytest.approx(0.75**power), 0.05 if weight else 0.0)
    assert by_parameter == expected


def test_decay_spares_what_a_network_names_by_patterns() -> None:
    """Oracle: a pattern by hand, as XCiT of timm has one."""
    model = Classifier(vit(), 16, 4)
    model.encoder.net.no_weight_decay = lambda: {"blocks.*"}
    groups = ViTTuning(weight_decay=0.05).optimiser(model).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(model.encoder.net.blocks[0].attn.qkv.weight)] == 0
    assert decays[id(model.encoder.net.patch_embed.proj.weight)] == 0.05


@pytest.mark.parametrize(
    "options", [{}, {"global_pool": "avg"}, {"global_pool": "map"}, {"reg_tokens": 4, "pre_norm": True}]
)
def test_whatever_follows_the_blocks_has_the_rate_of_the_head(options: dict[str, Any]) -> None:
    """Oracle: `get_layer_id_for_vit` of MAE's code by hand, with timm's further tokens and norms at the stem."""
    net = VisionTransformer(img_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=0, **options)
    powers = {"blocks.0.": 2, "blocks.1.": 1} | dict.fromkeys(("norm.", "fc_norm.", "attn_pool."), 0)
    powers |= dict.fromkeys(("cls_token", "reg_token", "pos_embed", "patch_embed.", "norm_pre."), 3)
    names = [name for name, _ in net.named_parameters()]
    assert exponents(net) == {name: next(powers[start] for start in powers if name.startswith(start)) for name in names}


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        (ViTTuning(rate=0.16, layer_decay=0.5, warmup=0.0), (0.005, 0.0025, 0.00125, 0.000625)),
        (TwoRates(0.02, 5.0), (2.5, 0.01, 0.01, 0.01)),
    ],
)
def test_groups_train_at_their_own_rates(settings: SupervisedSettings, rates: tuple[float, ...]) -> None:
    """Oracle: by hand: half the peak in the second of two steps; the peak is 0.01 for a batch of 16, or 0.02 and 5."""
    run = run_of(Toy(vit()), settings, torch.arange(120), steps=2)
    for _ in range(2):
        run.take()
    by_parameter = {id(p): group["lr"] for group in run.optimiser.param_groups for p in group["params"]}
    net = run.classifier.encoder.net
    layers = (run.classifier.head, net.blocks[1].attn.qkv, net.blocks[0].attn.qkv, net.patch_embed.proj)
    assert [by_parameter[id(layer.weight)] for layer in layers] == pytest.approx(rates, rel=1e-3)


def test_rate_rises_and_falls() -> None:
    """Oracle: by hand: 0 at first, the peak of 256 images times 2 after the warm-up, the floor at the end."""
    settings = ViTTuning(rate=1e-3, warmup=0.2)
    assert settings.rate_at(0.0, 512) == 0
    assert settings.rate_at(0.1, 512) == pytest.approx(1e-3)
    assert settings.rate_at(0.2, 512) == pytest.approx(2e-3)
    assert settings.rate_at(0.6, 512) == pytest.approx((2e-3 + 1e-6) / 2)
    assert settings.rate_at(1.0, 512) == pytest.approx(1e-6)
    assert ConvNetTuning(rate=0.05).rate_at(0.5, 256) == pytest.approx(0.025)


def test_paths_are_dropped_as_timm_does() -> None:
    """Oracle: the blocks of timm's network built with the rate of the settings."""
    theirs = VisionTransformer(img_size=8, patch_size=2, embed_dim=16, depth=4, num_heads=2, drop_path_rate=0.3)
    encoder = ViT(8, name="vit", width=16, depth=4, heads=2, patch=2)
    tuned = run_of(Toy(encoder), ViTTuning(drop_path=0.3), torch.arange(120)).classifier.encoder
    for ours, expected in zip(tuned.net.blocks, theirs.blocks, strict=True):
        for name in ("drop_path1", "drop_path2"):
            rate = getattr(getattr(expected, name), "drop_prob", 0.0)
            assert getattr(ours, name).drop_prob == pytest.approx(rate)
    assert set(tuned.state_dict()) == set(encoder.state_dict())


def test_training_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: torch's SGD and cosine on whole, normalised images in the order of the epochs, two and a half epochs.

    The views are whole images, so that the transcription needs none.
    """
    monkeypatch.setattr(supervised, "View", lambda crop_scale: View(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)))
    toy = Toy(convnet(), limits=ViewLimits(flip=False))
    rows, bank = torch.arange(0, 120, 2), toy.bank
    run = run_of(toy, ConvNetTuning(rate=2.0, weight_decay=0.01), rows, steps=7, batch_size=20)
    model = Classifier(convnet(), 16, 4)
    weights = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimiser = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.01}, {"params": vectors}], lr=2.0 * 20 / 256, momentum=0.9, nesterov=True
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=7)
    for step in range(7):
        run.take()
        ids = rows[epoch_order(5, step // 3, 60)[step % 3 * 20 : step % 3 * 20 + 20]]
        inputs = (bank.network.train[ids] / 255 - 0.4) / 0.2  # type: ignore[union-attr]
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), bank.labels[ids]).backward()
        optimiser.step()
        cosine.step()
    for name, value in run.classifier.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)


@ENCODERS
def test_all_that_may_move_moves_in_copies(encoder: Any) -> None:
    """Oracle: every parameter of the copy that was trained last; fixed positions and the bank's own encoder stay.

    A bias before a batch norm moves no output, so it may stay.
    """
    toy = Toy(encoder())
    start = {name: value.clone() for name, value in toy.encoder.state_dict().items()}
    ranked(toy, SHORT)
    assert all(torch.equal(value, start[name]) for name, value in toy.encoder.state_dict().items())
    for name, parameter in toy.copies[-1].named_parameters():
        assert torch.equal(parameter, start[name]) != parameter.requires_grad or name == "net.0.bias", name
    assert not any(copied is toy.encoder for copied in toy.copies)


def test_an_easy_set_is_learnt() -> None:
    """Oracle: chance is 25 %, and the classes differ in the brightness of a row."""
    toy = Toy(vit())
    ranking = ranked(toy, FineTune(epochs=15, select_epochs=4, batch_size=16, vit=lambda: PLAIN))
    assert (ranking.classes[:, 0] == toy.answers).double().mean() > 0.7
    assert ranking.classes.shape == (40, 4)
    assert ranking.choices["feature"] == "mean"


def test_residual_networks_are_trained() -> None:
    """Oracle: the settings for convolutional networks move every weight of a narrow ResNet-18 by finite amounts.

    Four steps: a head of zeros lets no gradient through, nor do last norms of zeros after that.
    """
    torch.manual_seed(0)
    toy = Toy(ResNet(8, name="resnet18", base_width=8), train=40)
    evaluation = FineTune(epochs=2, select_epochs=1, batch_size=16, convnet=lambda: ConvNetTuning(rate=1.0))
    assert ranked(toy, evaluation).choices["feature"] == "pooled"
    start = dict(toy.encoder.named_parameters())
    for name, parameter in toy.copies[-1].named_parameters():
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, start[name]), name


@pytest.mark.parametrize("evaluation", [SHORT, TENTH])
def test_test_images_change_no_choice(evaluation: Evaluation) -> None:
    """Oracle: another test set: choices, flags, curve and trained weights stay, the ranking does not."""
    toy, other = Toy(vit()), Toy(vit())
    noise = torch.randint(0, 256, other.asked.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    other.bank = replace(other.bank, network=replace(other.bank.network, test=noise))  # type: ignore[type-var]
    one, two = ranked(toy, evaluation), ranked(other, evaluation)
    assert (one.choices, one.flags, one.curve) == (two.choices, two.flags, two.curve)
    assert toy.digest() == other.digest()
    assert not torch.equal(one.classes, two.classes)


def test_choices_are_made_on_the_hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the rows, rates, lengths and images of each training: three and the curve on the fitting part."""
    seen = []
    train = Trainer.train

    def spy(trainer: Trainer, part: str, settings: Tuning, rows: Tensor, asked: Tensor | None, **length: Any) -> Any:
        assert asked is (None if part == "final" else toy.bank.held)
        assert torch.equal(rows, torch.arange(120) if part == "final" else toy.bank.fit)
        seen.append((part, settings.rate, length["steps"] // (len(rows) // length["batch_size"])))
        return train(trainer, part, settings, rows, asked, **length)

    toy = Toy(vit())
    monkeypatch.setattr(Trainer, "train", spy)
    ranking = ranked(toy, SHORT)
    rate, rates = ranking.choices["rate"], [settings[1] for settings in seen[:3]]
    assert rates == [pytest.approx(r) for r in (1e-3, 1e-3 / 3, 3e-3)]
    assert [epochs for _, _, epochs in seen[:3]] == [1, 1, 1]
    assert seen[3:] == [("curve", rate, 3), ("final", rate, 3)]


@pytest.mark.parametrize(("hits", "factor"), [((2, 3, 2), 1 / 3), ((1, 2, 3), 3), ((2, 2, 2), 1), ((1, 2, 2), 1 / 3)])
def test_best_rate_is_taken_and_an_end_flagged(
    hits: tuple[int, ...], factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: planted hits of 1, 1/3 and 3 times the rate; of equals the middle one, then the smaller."""
    toy = Toy(vit())
    planted = iter(hits)

    def look(run: _Run, asked: Tensor | None) -> None:
        held, n = toy.bank.labels[toy.bank.held], next(planted, 0)
        run.looks.append(torch.where(torch.arange(len(held)) < n, held, (held + 1) % 4)[:, None])
        run.times.append(0.0)

    monkeypatch.setattr(_Run, "look", look)
    monkeypatch.setattr(_Run, "take", lambda run: setattr(run, "step", run.step + 1))
    ranking = ranked(toy, replace(SHORT, curve=False))
    assert ranking.choices["rate"] == pytest.approx(1e-3 * factor)
    assert ranking.flags == (() if factor == 1 else ("the best learning rate lies at the edge of the grid",))
    assert ranking.measures == {}


def test_last_epoch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: planted looks: right after every epoch but the last, where all is wrong; the curve has each epoch."""
    toy = Toy(vit())

    def look(run: _Run, asked: Tensor | None) -> None:
        labels = toy.answers if asked is None else toy.bank.labels[toy.bank.held]
        run.looks.append(((labels + (run.step == run.steps)) % 4)[:, None])
        run.times.append(float(run.step))

    monkeypatch.setattr(_Run, "look", look)
    monkeypatch.setattr(_Run, "take", lambda run: setattr(run, "step", run.step + 1))
    ranking = ranked(toy, SHORT)
    assert ranking.curve == (1.0, 1.0, 0.0)
    assert not (ranking.classes[:, 0] == toy.answers).any()


def test_speed_is_counted_to_the_first_epoch_that_reaches_a_share() -> None:
    """Oracle: by hand: 90, 95 and 99 % of 0.8 are 0.72, 0.76 and 0.792."""
    measures = speed([0.5, 0.72, 0.78, 0.7, 0.8], [2.0, 4.0, 6.0, 8.0, 10.0])
    assert {name: value for name, value in measures.items() if name.startswith("epochs")} == {
        "epochs_to_90": 2,
        "epochs_to_95": 3,
        "epochs_to_99": 5,
    }
    assert measures["seconds_to_90"] == 4.0
    assert measures["seconds_to_99"] == 10.0


def test_looks_are_at_whole_images_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the bank's images, asked or of the test, normalised by hand in their order, and the classes by hand."""
    toy = Toy(vit())
    run = run_of(toy, replace(PLAIN, drop_path=0.5), torch.arange(120))
    run.take()
    seen: list[Tensor] = []
    run.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    monkeypatch.setattr(streaming, "BATCH", 16)
    for asked, images in ((None, toy.asked), (toy.bank.held, toy.bank.network.train[toy.bank.held])):  # type: ignore[union-attr]
        seen.clear()
        run.look(asked)
        expected = (images / 255 - 0.4) / 0.2
        torch.testing.assert_close(torch.cat(seen), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(run.looks[-1][:, 0], run.classifier.eval()(expected).argmax(1))
        run.classifier.train()


def test_one_image_a_class_leaves_the_middle_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: nothing is held out, so nothing is tried and no curve is drawn, and the row says so."""
    toy = Toy(vit(), train=4)
    ranking = FineTune(vit=lambda: ViTTuning(rate=1e-3), epochs=1, select_epochs=1, batch_size=4, curve=True)(toy.bank)
    assert ranking is not None
    assert ranking.choices["rate"] == 1e-3
    assert (ranking.curve, ranking.measures) == ((), {})
    assert ranking.flags == ("one train image a class, so the learning rate is the middle one by rule",)


def test_seconds_are_those_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a clock that moves by 1 s a step and 100 s a look: 6 steps an epoch, and an interruption adds nothing."""
    toy, seen, now = Toy(vit(), tmp_path), list[list[float]](), 0.0
    batch, best = _Run._batch, supervised.best_classes

    def passing(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(perf_counter=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr(supervised, "time", clock)
    stop_at(monkeypatch, 3 * 6 + 9)
    monkeypatch.setattr(supervised, "best_classes", lambda scores: passing(100) or best(scores))
    monkeypatch.setattr(_Run, "_batch", lambda run: passing(1) or batch(run))
    monkeypatch.setattr("benchmark.evals.finetune.speed", lambda accuracy, seconds: seen.append(seconds) or {})
    with pytest.raises(KeyboardInterrupt):
        ranked(toy, SHORT)
    ranked(Toy(vit(), tmp_path), SHORT)
    assert seen == [[6.0, 12.0, 18.0]]


@pytest.mark.parametrize(
    ("encoder", "evaluation", "stops", "steps"),
    [
        (vit, SHORT, (9, 26, 50), 3 * 6 + 3 * 6 + 3 * 7),  # in the choice, in the curve and in the last training
        (convnet, SHORT, (9, 26, 50), 3 * 6 + 3 * 6 + 3 * 7),
        (convnet, TENTH, (7, 42), 11 * 4),  # in the choice and in a draw
    ],
)
def test_interrupted_is_uninterrupted(
    encoder: Any,
    evaluation: Evaluation,
    stops: tuple[int, ...],
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: an evaluation that was not interrupted, bit by bit: ranking, choices, curve and trained weights.

    No step is taken twice, and nothing is left of the state.
    """
    whole = Toy(encoder())
    expected = ranked(whole, evaluation)
    taken = stop_at(monkeypatch, *stops)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            ranked(Toy(encoder(), tmp_path), evaluation)
        assert list(tmp_path.glob(f"{evaluation.name}-*/step-*.pt"))
    toy = Toy(encoder(), tmp_path)
    ranking = ranked(toy, evaluation)
    assert len(taken) == steps + len(stops)
    assert torch.equal(ranking.classes, expected.classes)
    assert (ranking.choices, ranking.flags, ranking.curve) == (expected.choices, expected.flags, expected.curve)
    assert toy.digest() == whole.digest()
    assert not list(tmp_path.iterdir())


def test_state_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    """Oracle: the key differs with settings, weights, labels, data set, fingerprint and inputs, and else does not."""

    def key(toy: Toy, settings: object = PLAIN, **changes: Any) -> str:
        bank = replace(toy.bank, **changes)
        assert bank.network is not None
        return Trainer("finetune", settings, bank, bank.network).saved.key

    toy, other = Toy(vit(), tmp_path), Toy(vit(), tmp_path)
    nn.init.ones_(other.encoder.net.norm.bias)
    assert key(toy) == key(Toy(vit(), tmp_path))
    keys = {key(toy), key(other), key(toy, replace(PLAIN, rate=0.1)), key(toy, dataset="another")}
    keys |= {key(toy, labels=toy.bank.labels.flip(0)), key(Toy(vit(), tmp_path, fingerprint="of 32 px"))}
    assert toy.bank.network is not None
    for change in ({"std": (0.3, 0.2, 0.2)}, {"limits": replace(WHOLE, flip=True)}):
        keys.add(key(toy, network=replace(toy.bank.network, **change)))
    assert len(keys) == 8


def test_no_seed_is_involved() -> None:
    """Oracle: the same weights to the bit after other seeds of both generators."""
    digests = set()
    for seed in (1, 2):
        toy = Toy(vit())
        torch.manual_seed(seed)
        np.random.seed(seed)
        ranked(toy, SHORT)
        digests.add(toy.digest())
    assert len(digests) == 1
    assert digests != {digest(vit().state_dict())}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    """The targets of each step and the smoothing of the loss."""
    seen: list[tuple[Tensor, float]] = []

    def spy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        seen.append((targets, label_smoothing))
        return logits.square().mean()

    monkeypatch.setattr(supervised.F, "cross_entropy", spy)
    return seen


def test_targets_are_smoothed_once(scored: list[tuple[Tensor, float]]) -> None:
    """Oracle: rows of mixed labels are smooth; without mixing labels are classes, and torch's loss smooths them."""
    toy = Toy(vit())
    for mixup, cutmix in ((0.0, 0.0), (0.8, 0.0), (0.0, 1.0)):
        run_of(toy, ViTTuning(mixup=mixup, cutmix=cutmix, smoothing=0.2), torch.arange(120)).take()
    assert [(targets.dtype, smoothing) for targets, smoothing in scored] == [
        (torch.int64, 0.2),
        (torch.float32, 0),
        (torch.float32, 0),
    ]
    assert all(targets.min() >= 0.05 - 1e-6 for targets, _ in scored[1:])


def test_images_are_mixed_as_timm_does(scored: list[tuple[Tensor, float]]) -> None:
    """Oracle: timm's Mixup, its arguments named, on the batch of each step; both kinds of mixture occur."""
    theirs = Mixup(mixup_alpha=0.3, cutmix_alpha=1.0, num_classes=4, label_smoothing=0.2)
    settings = ViTTuning(mixup=0.3, cutmix=1.0, smoothing=0.2, drop_path=0.0)
    run = run_of(Toy(vit()), settings, torch.arange(120))
    seen: list[Tensor] = []
    run.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    pasted = []
    for _ in range(4):
        plain, labels = run._batch()
        images, targets = theirs(plain.clone(), labels)
        run.take()
        assert torch.equal(seen[-1], images)
        assert torch.equal(scored[-1][0], targets)
        assert not torch.equal(images, plain)
        pasted.append(bool(((images == plain) | (images == plain.flip(0))).all()))
    assert set(pasted) == {False, True}


def test_images_are_augmented_at_the_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the arguments of RandAugment, in the place of which a constant goes to the classifier, normalised."""
    seen = []

    def spy(images: Tensor, magnitude: float, fill: Any, draw: Any) -> Tensor:
        seen.append((float(images.min()) >= 0, float(images.max()) <= 1, magnitude, tuple(fill)))
        return torch.full_like(images, 0.6)

    monkeypatch.setattr(supervised, "rand_augment", spy)
    images, _ = run_of(Toy(vit()), ViTTuning(magnitude=7.0), torch.arange(120))._batch()
    assert seen == [(True, True, 7.0, (0.4, 0.4, 0.4))]
    torch.testing.assert_close(images, torch.ones(16, 3, 8, 8))


def test_limits_hold() -> None:
    """Oracle: the crop scale of the data, no flip where it forbids one, and that of the settings if it says nothing."""
    free, bound = ViewLimits(), ViewLimits(crop_scale=(0.3, 0.9), flip=False)
    views = [run_of(Toy(vit(), limits=limits), PLAIN, torch.arange(60)).view for limits in (free, bound)]
    assert [(view.crop_scale, view.flip) for view in views] == [((0.5, 1.0), 0.5), ((0.3, 0.9), 0.0)]
    assert all(view.jitter_p == view.grey_p == view.blur_p == view.solarize_p == 0 for view in views)


def test_a_diverged_training_is_ranked() -> None:
    """Oracle: a rate at which weights overflow leaves a constant classifier, and no error."""
    ranking = ranked(Toy(convnet()), replace(SHORT, convnet=lambda: ConvNetTuning(rate=1e30)))
    assert torch.equal(ranking.classes, torch.arange(4).expand(40, 4))


def test_raw_pixels_are_left_out() -> None:
    """Oracle: None, which the harness takes for an evaluation that does not apply."""
    for evaluation in (SHORT, TENTH):
        assert evaluation(replace(Toy(vit()).bank, network=None)) is None


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (FineTune, {"epochs": 10, "select_epochs": 11}, "select_epochs from 1 to the epochs; got 11 and 10"),
        (FineTune, {"select_epochs": 0}, "select_epochs from 1"),
        (FineTune, {"batch_size": 15}, "must be even.*got 15"),
        (FineTune, {"batch_size": 0}, "must be even"),
        (ConvNetTuning, {"crop_scale": (0.5, 1.1)}, "0 < low <= high <= 1"),
    ],
)
def test_impossible_settings_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    """Oracle: the documented ranges."""
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_settings_out_of_range_are_refused_before_anything_is_trained() -> None:
    """Oracle: the ranges by hand, named when the configuration is read."""
    for name, value, words in (
        ("ViTTuning.rate", 0.0, "above 0"),
        ("ConvNetTuning.weight_decay", -1.0, "at least 0"),
        ("ViTTuning.layer_decay", 0.0, "above 0 and at most 1"),
        ("ViTTuning.drop_path", 1.0, "at least 0 and below 1"),
        ("ViTTuning.warmup", 1.0, "at least 0 and below 1"),
        ("ViTTuning.smoothing", -0.1, "at least 0 and below 1"),
        ("ViTTuning.magnitude", 11.0, "at least 0 and at most 10"),
        ("ViTTuning.mixup", -0.1, "at least 0"),
    ):
        with pytest.raises(ConfigError, match=f"{name} .*{words}, got {value}"):
            configuration.load(
                [str(GIN / "simclr.gin")], ("experiment.evaluations = (@FineTune,)", f"{name} = {value}")
            )


def test_an_impossible_crop_is_refused_with_the_evaluation() -> None:
    """Oracle: the message when the evaluation is built, which is before an encoder is pretrained."""
    settings = ("experiment.evaluations=(@FineTune,)", "ViTTuning.crop_scale=(0.9, 0.1)")
    experiment: Experiment = configuration.build(configuration.load([str(GIN / "simclr.gin")], settings))
    with pytest.raises(ConfigError, match=r"ViTTuning\.crop_scale must be \(low, high\)"):
        experiment.evaluations[0]()


def test_gin_reaches_the_settings() -> None:
    """Oracle: a rate bound for ViTTuning is that of the settings which the evaluation builds."""
    settings = ("experiment.evaluations=(@FineTune,)", "ViTTuning.rate=0.5", "FineTune.epochs=30")
    experiment: Experiment = configuration.build(configuration.load([str(GIN / "simclr.gin")], settings))
    (evaluation,) = (evaluation() for evaluation in experiment.evaluations)
    assert isinstance(evaluation, FineTune)
    assert (evaluation.epochs, evaluation.vit().rate, evaluation.convnet().rate) == (30, 0.5, 0.05)
