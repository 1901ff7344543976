"""Detection: average precision, what is scored at which size, the pyramid of maps, and what a detector learns from."""

import contextlib
import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from benchmark.data.boxes import Objects
from benchmark.data.dataset import Dataset, Split
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.evals import detect, saved
from benchmark.evals.average_precision import Detections, matches
from benchmark.evals.detect import Detect, Training
from benchmark.evals.detection import BoxBank, Detected, SealedBoxes, interval, precisions, scored
from benchmark.evals.detector import Pyramid, faster_rcnn
from benchmark.evals.evaluation import check
from benchmark.evals.features import Network
from benchmark.evals.harness import evaluate_encoder
from benchmark.evals.saved import Saved
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.resnet import ResNet
from benchmark.nets.swin import Swin
from benchmark.nets.timm_net import Timm
from benchmark.views.recipes import ViewLimits

CPU = torch.device("cpu")
SIZE = 32
COLOURS = torch.tensor([[250, 30, 30], [30, 30, 250]], dtype=torch.uint8)
SMALL = {"rates": (0.003,), "batch_size": 4, "width": 16, "samples": 16, "proposals": 60}


def drawn_boxes(generator: np.random.Generator, n: int, whole: bool) -> Tensor:
    corners = generator.integers(0, 20, (n, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 12, (n, 2))], axis=1).astype(float)
    if not whole:
        boxes += np.sort(generator.random((n, 2)), axis=1)[:, [0, 0, 1, 1]]
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)


def case(seed: int) -> tuple[list[Detections], list[Objects], int]:
    """Return images, some of them empty, with classes that are absent, crowds, equal scores and equal overlaps."""
    generator = np.random.default_rng(seed)
    classes, whole = int(generator.integers(1, 4)), seed % 2 == 0
    truth, found = [], []
    for _ in range(int(generator.integers(1, 7))):
        n, m = int(generator.integers(0, 8) * (generator.random() > 0.2)), int(generator.integers(0, 12))
        m = m if seed % 25 else 130
        labels = torch.from_numpy(generator.integers(0, max(1, classes - (seed % 3 == 0)), n))
        crowd = torch.from_numpy(generator.random(n) < (0.25 if seed % 4 else 0.0))
        truth.append(Objects(drawn_boxes(generator, n, whole), labels, crowd, (40, 40)))
        boxes = drawn_boxes(generator, m, whole)
        if n:
            moved = torch.from_numpy(generator.integers(-1, 2, (m, 4)) * (generator.random((m, 1)) < 0.6)).float()
            near = truth[-1].boxes[torch.from_numpy(generator.integers(0, n, m))] + moved
            near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
            boxes = near.where(torch.from_numpy(generator.random((m, 1)) < 0.7), boxes)
        scores = torch.from_numpy(np.round(generator.random(m), 1 if seed % 3 else 6)).float()
        found.append(Detections(boxes, torch.from_numpy(generator.integers(0, classes, m)), scores))
    return found, truth, classes


def by_coco(found: list[Detections], truth: list[Objects], classes: int) -> Tensor:
    """Return the average precisions of pycocotools, `(thresholds, classes)`, NaN for a class without objects."""
    annotations, results = [], []
    for image, (there, detections) in enumerate(zip(truth, found, strict=True), start=1):
        for box, label, crowd in zip(there.boxes.double(), there.labels, there.crowd, strict=True):
            sides = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            place = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "bbox": sides}
            annotations.append({**place, "area": sides[2] * sides[3], "iscrowd": int(crowd)})
        for box, label, score in zip(detections.boxes.double(), detections.labels, detections.scores, strict=True):
            sides = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            results.append({"image_id": image, "category_id": int(label) + 1, "bbox": sides, "score": float(score)})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image + 1} for image in range(len(truth))],
        "annotations": annotations,
        "categories": [{"id": label + 1} for label in range(classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    of_recalls = torch.from_numpy(evaluation.eval["precision"][:, :, :, 0, 2])
    return of_recalls.mean(1).masked_fill((of_recalls < 0).all(1), torch.nan)


@pytest.mark.slow
def test_average_precision_is_that_of_pycocotools() -> None:
    """Oracle: pycocotools on 200 random cases, to 1e-6: empty images, crowds, absent classes, ties, over 100 boxes."""
    absent = crowds = empty = 0
    for seed in range(201):
        found, truth, classes = case(seed)
        if not any(len(each.labels) for each in found):
            continue  # which pycocotools does not take
        ours = precisions(matches(found, truth, classes), torch.ones(1, len(truth)).double())[0].T
        torch.testing.assert_close(ours, by_coco(found, truth, classes), atol=1e-6, rtol=0, equal_nan=True)
        absent += int(ours.isnan().any())
        crowds += any(bool(each.crowd.any()) for each in truth)
        empty += any(not len(each.labels) for each in truth)
    assert min(absent, crowds, empty) > 20


def test_a_resample_is_a_list_of_images() -> None:
    """Oracle: the same score of images that are really repeated, by pycocotools; weights 0 leave images out."""
    found, truth, classes = case(7)
    scores = torch.linspace(0.1, 0.9, sum(len(each.labels) for each in found)).split(
        [len(each.labels) for each in found]
    )
    found = [replace(each, scores=part) for each, part in zip(found, scores, strict=True)]  # without ties
    weights = torch.arange(len(truth)) % 3
    repeated = [index for index, weight in enumerate(weights.tolist()) for _ in range(weight)]
    expected = by_coco([found[i] for i in repeated], [truth[i] for i in repeated], classes)
    ours = precisions(matches(found, truth, classes), weights.double()[None])[0].T
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0, equal_nan=True)


def noisy(n: int) -> tuple[list[Detections], list[Objects]]:
    """Return images of three objects of two classes, which are found more or less."""
    generator = np.random.default_rng(3)
    truth, found = [], []
    for i in range(n):
        boxes = torch.tensor([[2.0, 2, 12, 20], [15, 3, 30, 30], [0, 22, 10, 38]])
        labels = torch.tensor([0, 1, 0])
        truth.append(Objects(boxes, labels, torch.zeros(3, dtype=torch.bool), (40, 40)))
        moved = boxes + torch.from_numpy(generator.normal(0, 0.4 + 0.8 * (i % 3), (3, 4))).float()
        found.append(Detections(moved, labels, torch.from_numpy(generator.random(3)).float()))
    return found, truth


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """Oracle: numpy's quantiles over other draws, which lists of images would have; its ends within a tenth of the
    width, also where two trials are averaged."""
    found, truth = noisy(24)
    generator = np.random.default_rng(5)
    drawn = torch.tensor([np.bincount(generator.integers(0, 24, 24), minlength=24).tolist() for _ in range(1000)])
    of_classes = matches(found, truth, 2)
    means = precisions(of_classes, drawn.double()).mean((1, 2)).numpy()
    low, high = interval([of_classes] * 2, 24)
    expected = np.quantile(means, [0.025, 0.975])
    assert np.abs(expected - [low, high]).max() < 0.1 * (high - low)
    assert low < scored([found], truth, "ab").mean_average_precision < high


def test_scores_by_hand() -> None:
    """Oracle: counts by hand. Of class a one of two objects is found and one box is wrong, of b all are found by a
    second trial alone; c is absent, and a box in a crowd is not judged."""
    no = torch.zeros(3, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 20, 10, 30]])
    crowd = Objects(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), torch.tensor([True]), (40, 40))
    truth = [Objects(boxes, torch.tensor([0, 0, 1]), no, (40, 40)), crowd]
    seen = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10], [20, 20, 30, 30], [0, 20, 10, 30]])
    sure = torch.tensor([0.9, 0.8, 0.3, 0.4])
    labels = torch.tensor([0, 0, 0, 1])
    inside = Detections(torch.tensor([[5.0, 5, 15, 15]]), torch.tensor([0]), torch.tensor([0.95]))
    first, second = (Detections(seen, labels, scores) for scores in (sure, sure.index_fill(0, torch.tensor([3]), 0.7)))
    score = scored([[first, inside], [second, inside]], truth, ("a", "b", "c"))
    assert score.draws == pytest.approx([1 / 3, 2 / 3])
    assert score.top1 == pytest.approx(1 / 2)
    assert score.balanced_accuracy == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert score.macro_f1 == pytest.approx((1 / 4 + (1 / 2 + 1) / 2) / 2)
    a = (51 * 1 + 50 * 2 / 3) / 101  # precision 1 to recall 1/2, then 2/3
    assert score.details["ap a"] == pytest.approx(a)
    assert score.details["ap b"] == pytest.approx(1)
    assert "ap c" not in score.details
    assert score.mean_average_precision == score.details["trial 1"] == pytest.approx((a + 1) / 2)
    assert (score.n, score.details["objects"]) == (2, 3)


def test_a_shifted_class_and_a_scaled_box_are_seen() -> None:
    """Oracle: the truth itself scores 1; with its classes exchanged 0; boxes that are too wide or large lose."""
    _, truth = noisy(5)
    perfect = [Detections(each.boxes, each.labels, torch.ones(3)) for each in truth]
    wide = torch.tensor([1.2, 1, 1.2, 1])
    assert scored([perfect], truth, "ab").mean_average_precision == pytest.approx(1)
    assert scored([[replace(each, labels=1 - each.labels) for each in perfect]], truth, "ab").details["ap50"] == 0
    assert scored([[replace(each, boxes=each.boxes * wide) for each in perfect]], truth, "ab").details["ap75"] < 0.7
    assert scored([[replace(each, boxes=each.boxes * 2) for each in perfect]], truth, "ab").details["ap50"] < 0.3


def test_test_boxes_are_read_once() -> None:
    """Oracle: a second score of one evaluation is refused."""
    found, truth = noisy(3)
    sealed = SealedBoxes(truth, "ab")
    sealed.score("x", Detected((found,), {}))
    with pytest.raises(BenchmarkError, match="test boxes were read for 'x' before"):
        sealed.score("x", Detected((found,), {}))


def vit(size: int, patch: int = 4) -> Encoder:
    return ViT(size, name="vit", width=32, depth=2, heads=2, patch=patch)


@pytest.mark.parametrize(
    ("build", "size", "strides", "places"),
    [
        (lambda: vit(64), 64, [4, 8, 16, 32], 1),
        (lambda: vit(64, 16), 64, [4, 8, 16, 32], 1),
        (lambda: vit(64, 2), 64, [4, 8, 16, 32], 1),
        (lambda: vit(112, 14), 112, [7, 14, 28, 56], 1),
        (lambda: ResNet(32, name="resnet18", base_width=8), 64, [4, 8, 16, 32], 2),
        (lambda: ResNet(224, name="resnet18", base_width=8), 64, [4, 8, 16, 32], 4),
        (
            lambda: Swin(32, name="swin", width=16, depths=(1, 1, 1), heads=(1, 1, 1), window=4, patch=4, split=2),
            64,
            [4, 8, 16, 32],
            2,
        ),
        (lambda: Timm(64, name="resnet10t"), 64, [4, 8, 16, 32], 4),
    ],
)
def test_pyramids(build: Callable[[], Encoder], size: int, strides: list[int], places: int) -> None:
    """Oracle: four maps of the widths and sides that follow from strides by hand, a coarser one, and gradients in each
    layer of the pyramid; how many maps of the encoder it takes."""
    encoder = build()
    encoder.resize(size)
    pyramid = Pyramid(encoder, 8, size)
    assert pyramid.strides == strides
    assert len(pyramid.places) == places
    maps = pyramid(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
    sides = [size // stride for stride in strides]
    assert [tuple(each.shape) for each in maps.values()] == [
        (2, 8, side, side) for side in [*sides, -(-sides[-1] // 2)]
    ]
    sum(each.square().sum() for each in maps.values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in pyramid.levels.parameters())


def test_proposals_are_cut_out_at_their_place() -> None:
    """Oracle: by hand: of a map whose cells hold their column, a box of 28 px is cut out between its own columns, also
    where cells have 7 px, which torchvision would take for 8."""
    encoder = vit(112, 14)
    model = faster_rcnn(encoder, 1, 112, width=8, samples=4, proposals=10)
    side = 112 // 7
    columns = (torch.arange(side) + 0.5).expand(1, 8, side, side) * 7
    maps = {"0": columns, "1": columns[:, :, ::2, ::2], "2": columns[:, :, ::4, ::4], "3": columns[:, :, ::8, ::8]}
    cut = model.roi_heads.box_roi_pool(maps, [torch.tensor([[42.0, 42.0, 70.0, 70.0]])], [(112, 112)])
    expected = 42 + 28 * (torch.arange(7) + 0.5) / 7
    assert (cut[0, 0, 3] - expected).abs().max() < 4  # half a cell


def test_a_size_that_leaves_a_rest_is_refused() -> None:
    """Oracle: the message names the size and what divides it."""
    encoder = vit(32)
    encoder.resize(80)
    with pytest.raises(ConfigError, match=r"Images.size = 80: the coarsest map .* 32 pixels a cell.*multiple of 32"):
        Pyramid(encoder, 8, 80)
    with pytest.raises(ConfigError, match=r"Images.size = 70: a map of .* multiple of the coarsest stride"):
        Pyramid(ResNet(224, name="resnet18", base_width=8), 8, 70)


def scenes(n: int, seed: int = 0) -> tuple[Tensor, list[Objects]]:
    """Return squares of scenes that are 60 px wide and 40 high, with rectangles whose class is their colour."""
    generator = np.random.default_rng(seed)
    images = torch.full((n, 3, SIZE, SIZE), 120, dtype=torch.uint8)
    objects = []
    for i in range(n):
        boxes, labels = [], generator.integers(0, 2, 2)
        for half, label in enumerate(labels):
            left, top = int(generator.integers(1, 5)) + 16 * half, int(generator.integers(1, 12))
            right, bottom = left + int(generator.integers(7, 11)), top + int(generator.integers(10, 19))
            images[i, :, top:bottom, left:right] = COLOURS[label][:, None, None]
            boxes.append([left * 60 / SIZE, top * 40 / SIZE, right * 60 / SIZE, bottom * 40 / SIZE])
        crowd = torch.tensor([False, i % 5 == 0])
        objects.append(Objects(torch.tensor(boxes), torch.from_numpy(labels), crowd, (40, 60)))
    return images, objects


def bank_of(n: int, encoder: Encoder, folder: Path | None = None, flip: bool = True) -> BoxBank:
    images, objects = scenes(n)
    limits = ViewLimits(crop_scale=None, flip=flip, blur=False)
    half = (0.5,) * 3
    network = Network(lambda: copy.deepcopy(encoder), images, images[:6], "toy", half, half, limits, CPU, folder)
    ids = torch.arange(n)
    sizes = [each.size for each in objects[:6]]
    return BoxBank(network, objects, sizes, ids[ids % 5 > 0], ids[ids % 5 == 0], 2, "toy")


def test_a_detector_learns_from_the_boxes_that_are_in_the_image() -> None:
    """Oracle: the pixels of each batch: those within a box have the colour of its class, and each side is one of the
    rectangle's; half of the images are flipped, and crowds are left out."""
    bank = bank_of(12, vit(SIZE))
    training = Training(Detect(**SMALL), bank, 0.001, 30, torch.arange(12), 0)  # type: ignore[arg-type]
    seen = []
    for training.step in range(12):
        images, targets = training._batch()
        pixels = (images * 0.5 + 0.5) * 255
        for image, target in zip(pixels, targets, strict=True):
            boxes = target["boxes"].round().int().tolist()
            seen.append(len(boxes))
            for (left, top, right, bottom), label in zip(boxes, target["labels"].tolist(), strict=True):
                colour = COLOURS[label - 1].float()[:, None, None]
                assert (image[:, top:bottom, left:right] - colour).abs().max() < 1
                around = image[:, top - 1 : bottom + 1, left - 1 : right + 1]
                assert ((around - colour).abs().amax(0) < 1).sum() == (bottom - top) * (right - left)
    assert {1, 2} == set(seen)
    unflipped = replace(bank, network=replace(bank.network, limits=ViewLimits(crop_scale=None, flip=False, blur=False)))
    other = Training(Detect(**SMALL), unflipped, 0.001, 30, torch.arange(12), 0)  # type: ignore[arg-type]
    flips = []
    for training.step in range(12):
        other.step = training.step
        both = zip(training._batch()[0], other._batch()[0], strict=True)
        flips += [not torch.equal(mine, straight) for mine, straight in both]
    assert 12 < sum(flips) < 36


class Oracle(nn.Module):
    """A detector that knows the test images by their pixels, and where their rectangles are in the square."""

    def __init__(self, images: Tensor, objects: list[Objects]) -> None:
        super().__init__()
        self.images, self.objects = images, objects

    def forward(self, batch: list[Tensor]) -> list[dict[str, Tensor]]:
        outputs = []
        for view in batch:
            pixels = (view * 0.5 + 0.5) * 255
            (index,) = [i for i, image in enumerate(self.images) if (image - pixels).abs().max() < 1]
            boxes = self.objects[index].boxes / torch.tensor([60, 40, 60, 40]) * SIZE
            labels = self.objects[index].labels + 1
            outputs.append({"boxes": boxes, "labels": labels, "scores": torch.ones(2)})
        return outputs


@pytest.mark.parametrize("held", [False, True])
def test_what_is_found_is_scored_in_pixels_of_the_stored_image(held: bool) -> None:
    """Oracle: a detector that knows where rectangles are in the square: boxes are those that are stored, with AP 1; at
    the size of the square, AP50 is 0.

    The order of the images is that of the split.
    """
    bank = bank_of(12, vit(SIZE))
    training = Training(Detect(**SMALL), bank, 0.001, 30, bank.fit, 0)  # type: ignore[arg-type]
    training.model = Oracle(bank.network.train, bank.objects)  # type: ignore[assignment, arg-type]
    found = training.find(bank.held if held else None)
    truth = [bank.objects[i] for i in bank.held.tolist()] if held else list(bank.objects[:6])
    assert len(found) == len(truth)
    for mine, there in zip(found, truth, strict=True):
        torch.testing.assert_close(mine.boxes, there.boxes)
        assert torch.equal(mine.labels, there.labels)
    assert scored([found], truth, "ab").mean_average_precision == pytest.approx(1)
    small = [replace(each, boxes=each.boxes / torch.tensor([60, 40, 60, 40]) * SIZE) for each in found]
    assert scored([small], truth, "ab").details["ap75"] < 0.2
    if held:
        assert bank.held_score(found) == pytest.approx(1)
    training.has_diverged = True
    assert all(len(each.labels) == 0 for each in training.find(None))


def test_the_rate_is_chosen_on_the_hold_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: planted scores: the best rate trains each trial on all of train, and of equals the smaller one; the
    state that was kept is gone afterwards."""
    bank = bank_of(10, vit(SIZE), tmp_path)
    trained = []

    class Planted(Training):
        def run(self, saved: Saved, part: str) -> None:
            trained.append((part, self.rate, self.steps, len(self.rows)))

        def find(self, held: Tensor | None) -> list[Detections]:
            truth = [bank.objects[i] for i in (range(6) if held is None else held.tolist())]
            return [Detections(each.boxes + 20 * (self.rate == 0.1), each.labels, torch.ones(2)) for each in truth]

    monkeypatch.setattr(detect, "Training", Planted)
    evaluation = Detect(**(SMALL | {"rates": (0.1, 0.02, 0.01)}), steps=9, select_steps=3, trials=2)  # type: ignore[arg-type]
    result = evaluation(bank)
    assert trained[:3] == [(f"rate {rate}", rate, 3, 8) for rate in (0.1, 0.02, 0.01)]
    assert trained[3:] == [("trial 0", 0.01, 9, 10), ("trial 1", 0.01, 9, 10)]
    assert result.choices == {"rate": 0.01}
    assert result.flags == ("the best learning rate lies at the edge of the grid",)
    for i, each in enumerate(result.trials[1]):
        torch.testing.assert_close(each.boxes, bank.objects[i].boxes)
        assert torch.equal(each.labels, bank.objects[i].labels)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"Detect.rates must have"):
        Detect(rates=())


def test_a_state_of_other_images_is_not_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Oracle: after a stop in the second trial, the first is made again where the data's fingerprint is another."""
    bank, trained = bank_of(10, vit(SIZE), tmp_path), []

    class Planted(Training):
        def run(self, saved: Saved, part: str) -> None:
            trained.append(part)
            if len(trained) == 2:
                raise StopError

        def find(self, held: Tensor | None) -> list[Detections]:
            return [Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))] * 6

    monkeypatch.setattr(detect, "Training", Planted)
    evaluation = Detect(**(SMALL | {"rates": (0.1,)}), trials=2)  # type: ignore[arg-type]
    with pytest.raises(StopError):
        evaluation(bank)
    evaluation(replace(bank, network=replace(bank.network, fingerprint="of other images")))
    evaluation(bank)
    assert trained == ["trial 0", "trial 1", "trial 0", "trial 1", "trial 1"]


def test_an_encoder_of_nan_finds_nothing() -> None:
    """Oracle: the first loss is not finite, so that training ends and no box is found."""
    encoder = vit(SIZE)
    for parameter in encoder.parameters():
        parameter.data.fill_(float("nan"))
    bank = bank_of(8, encoder)
    training = Training(Detect(**SMALL), bank, 0.003, 5, bank.fit, 0)  # type: ignore[arg-type]
    training.run(Saved("detect", None, ()), "trial 0")
    assert training.step == 1
    assert all(len(each.labels) == 0 for each in training.find(None))


class StopError(Exception):
    """An interruption."""


def test_a_stopped_training_goes_on_to_the_same_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the weights of a training that was not stopped, to the bit; it goes on from its last state."""
    monkeypatch.setattr(saved, "SAVE_SECONDS", -1.0)
    bank = bank_of(8, ResNet(SIZE, name="resnet18", base_width=8))
    settings = Detect(**SMALL)  # type: ignore[arg-type]
    steps: list[int] = []

    def trained(folder: Path, stop: int | None) -> dict[str, Tensor]:
        training = Training(settings, bank, 0.003, 4, bank.fit, 0)
        take = training._take

        def counted() -> None:
            if training.step == stop:
                raise StopError
            steps.append(training.step)
            take()

        training._take = counted  # type: ignore[method-assign]
        training.run(Saved("detect", folder, ("terms",)), "trial 0")
        return training.model.state_dict()

    whole = trained(tmp_path / "a", None)
    with pytest.raises(StopError):
        trained(tmp_path / "b", 2)
    resumed = trained(tmp_path / "b", None)
    assert steps == [0, 1, 2, 3, 0, 1, 2, 3]
    assert all(torch.equal(resumed[name], each) for name, each in whole.items())


def test_a_detector_finds_rectangles_and_leaves_the_encoder_alone() -> None:
    """Oracle: chance finds less than a tenth; a picture has a row for each of five images."""
    images, objects = scenes(40)
    test_images, test_objects = scenes(10, seed=1)
    train, test = (
        Split(pixels, None, boxes=there)  # type: ignore[arg-type]
        for pixels, there in ((images, objects), (test_images, test_objects))
    )
    half = (0.5,) * 3
    data = Dataset("toy", ("red", "blue"), SIZE, images, train, test, "", half, half)
    torch.manual_seed(0)
    encoder = vit(SIZE)
    before = copy.deepcopy(encoder.state_dict())
    limits = ViewLimits(crop_scale=None, flip=True, blur=False)
    results = evaluate_encoder(encoder, data, (Detect(**SMALL, steps=60),), CPU, limits=limits)  # type: ignore[arg-type]
    metrics = results.metrics["detect"]
    assert metrics["details"]["ap50"] > 0.3
    assert metrics["interval"][0] <= metrics["mean_average_precision"] <= metrics["interval"][1]
    assert all(torch.equal(before[name], each) for name, each in encoder.state_dict().items())
    rows = results.rankings["detect"]
    assert rows.shape[1] == 8
    assert set(rows[:, 2].tolist()) <= {0.0, 1.0}
    assert results.pictures["detect"].size == (2 * 60 + 4, 5 * 40 + 4 * 4)


def test_data_without_boxes_are_refused() -> None:
    """Oracle: the messages, in both directions."""
    images, objects = scenes(4)
    half = (0.5,) * 3
    labels = torch.tensor([0, 1, 0, 1])
    plain = Split(images, labels)
    boxed = Split(images, None, boxes=objects)  # type: ignore[arg-type]
    data = Dataset("toy", ("red", "blue"), SIZE, images, plain, plain, "", half, half)
    with pytest.raises(ConfigError, match=r"toy have one label, for which Detect is not made.*\(@KNN, @Linear\)"):
        check(data, (Detect(),))
    boxes = replace(data, train=boxed, test=boxed)
    check(boxes, (Detect(),))
    with pytest.raises(ConfigError, match=r"detect need boxes of test images, but Images.test is None"):
        check(replace(boxes, test=Split(images[:0], None)), (Detect(),))
