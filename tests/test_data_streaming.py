"""Streamed images: the bits of resident ones, in bounded memory, for training and every evaluation."""

import io
import itertools
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tiny import TinyEncoder, command, training
from torch import Tensor

from benchmark.config.load import load
from benchmark.data import decode, formats, streaming
from benchmark.data.dataset import Dataset, Split
from benchmark.data.decode import Stored
from benchmark.data.images import Images
from benchmark.data.resident import Resident
from benchmark.data.streaming import BATCH, DEPTH, SHARE, WORKERS, Prefetched, Streamed, ahead, batches, subset
from benchmark.data.white import White
from benchmark.errors import MissingError
from benchmark.evals import features
from benchmark.evals.cache import FeatureCache
from benchmark.evals.finetune import ConvNetTuning, FineTune
from benchmark.evals.harness import evaluate_encoder, evaluate_pixels
from benchmark.evals.knn import KNN
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.semi_finetune import SemiFineTune
from benchmark.experiment import floors
from benchmark.report import record as records
from benchmark.run import main
from benchmark.views.recipes import ViewLimits

CPU = torch.device("cpu")
LIMITS = ViewLimits(crop_scale=(0.5, 1.0), flip=False)
N = 203

pytestmark = pytest.mark.usefixtures("no_other_data")


def noise(n: int = N, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def streamed(images: Tensor) -> Streamed:
    """Images that are "decoded" from a tensor, some shares later than the next."""

    def read(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        time.sleep(1e-3 * (sum(ids) % 3))
        places[:] = images[ids].numpy()

    return Streamed(len(images), images.shape[-1], read)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files of 4 classes in two splits, of several sizes, each class of another brightness."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, each in (("train", 40), ("test", 10)):
        for label, i in itertools.product(range(4), range(each)):
            place = root / split / "abcd"[label]
            place.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 100, (9 + i % 4, 12, 3), dtype=np.uint8) + np.uint8(40 * label)
            Image.fromarray(pixels).save(place / f"{i:02}.jpg")
    return root


def loaded(folder: Path, *, streamed: bool) -> Dataset:
    return Images(name="toy", source=f"folder:{folder}", size=8, streamed=streamed)()


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Dataset, Dataset]:
    """The same files, resident and streamed."""
    return loaded(folder, streamed=False), loaded(folder, streamed=True)


def test_indexing_is_that_of_a_tensor() -> None:
    """Oracle: torch's indexing of the same images: values, type, shape, and the length; and its IndexError."""
    images = noise()
    lazy = streamed(images)
    some = (torch.tensor([5, 0, 5, N - 1, -1]), torch.randperm(N), torch.empty(0, dtype=torch.int64))
    for ids in (*some, slice(None), slice(0, 0), slice(3, 60), slice(-2, None), slice(100, 10**9, 7)):
        assert torch.equal(lazy[ids], images[ids])
        assert lazy[ids].dtype == torch.uint8
        assert lazy[ids].is_contiguous()
    assert (len(lazy), lazy.shape) == (len(images), images.shape)
    with pytest.raises(IndexError):
        lazy[torch.tensor([N])]


def test_a_subset_is_that_of_a_tensor() -> None:
    """Oracle: indexing twice; a tensor's subset is a tensor, and a streamed one stays streamed on any device."""
    images, chosen = noise(), torch.tensor([5, 3, 200, 3])
    part = subset(streamed(images), chosen)
    assert isinstance(part, Streamed)
    assert (len(part), part.shape) == (4, (4, 3, 8, 8))
    assert torch.equal(part.to("cpu")[torch.tensor([2, 0])], images[[200, 5]])
    assert torch.equal(subset(part, torch.tensor([1]))[:], images[[3]])
    assert torch.equal(torch.as_tensor(subset(images, chosen)[:]), images[chosen])


def test_batches_are_the_resident_ones() -> None:
    """Oracle: Resident, over three epochs in order, then for steps in any order, and twice for one step."""
    images = noise()
    resident, lazy = Resident(images, 50, 3, CPU), batches(streamed(images), 50, 3, CPU)
    assert isinstance(lazy, Prefetched)
    assert lazy.steps_per_epoch == resident.steps_per_epoch == 4
    for step in [*range(12), 7, 7, 0, 30, 31, 29]:
        ids, batch = lazy.batch(step)
        expected_ids, expected = resident.batch(step)
        assert torch.equal(ids, expected_ids)
        assert torch.equal(batch, expected)
        assert len(lazy._begun) == DEPTH  # also after a jump


def test_tensors_stay_resident() -> None:
    """Oracle: the type that is returned for a tensor."""
    assert type(batches(noise(), 50, 0, CPU)) is Resident


def test_next_batches_are_decoded_meanwhile_and_no_others() -> None:
    """Oracle: the ids that were read once the decoder is idle: those of the step and of the DEPTH steps after it."""
    images, read = noise(), list[int]()

    def note(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        read.extend(ids)
        places[:] = images[ids].numpy()

    lazy = batches(Streamed(N, 8, note), 10, 0, CPU)
    for step in range(5):
        lazy.batch(step)
        for _, finish in lazy._begun.values():
            finish()
        expected = torch.cat([Resident(images, 10, 0, CPU).batch(i)[0] for i in range(step + 1 + DEPTH)])
        assert sorted(read) == sorted(expected.tolist())


def test_ahead_is_in_order() -> None:
    """Oracle: slices of the tensor itself, in batches of 32 of which the last is smaller."""
    images, some = noise(), (None, torch.tensor([7, 3, 3, 200, 11]), torch.empty(0, dtype=torch.int64))
    for ids, source in itertools.product(some, (images, streamed(images))):
        wanted = torch.arange(N) if ids is None else ids
        parts = list(ahead(source, ids, batch_size=32))
        assert [len(part) for part, _ in parts] == [len(part) for part in wanted.split(32)]
        assert torch.equal(torch.cat([part for part, _ in parts]), wanted)
        assert torch.equal(torch.cat([batch for _, batch in parts]), images[wanted])


def test_batches_of_photos_are_smaller() -> None:
    """Oracle: 512 images, which features of published sizes were made in, up to the pixels of 512 images of 96 px."""
    for n, size, batch in ((600, 16, 512), (600, 96, 512), (600, 224, 94), (2, 5000, 1)):
        images = torch.zeros(1, dtype=torch.uint8).expand(n, 3, size, size)
        assert len(next(ahead(images))[0]) == batch


def test_first_error_is_raised_and_ends_the_work() -> None:
    """Oracle: images 70 and 20 cannot be read: 20 is named, though it is slower; what had not begun never does."""
    read = list[int]()

    def fail(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        read.extend(ids)
        time.sleep(0.05 if 20 in ids else 0.001)
        for bad in (20, 70):
            if bad in ids:
                raise MissingError(f"Image {bad}")

    n = 1000 * SHARE
    with pytest.raises(MissingError, match="Image 20"):
        Streamed(n, 8, fail)[:]
    WORKERS.submit(int).result()
    assert len(read) < n


@pytest.mark.parametrize(
    ("height", "width", "size", "is_file", "threads"),
    [
        (64, 64, 64, False, 1),
        (65, 64, 8, False, 2),
        (4, 1024, 8, False, 1),
        (4, 1025, 8, False, 2),
        (4, 4, 65, False, 2),
        (4, 4, 4, True, 2),
    ],
)
def test_one_thread_decodes_small_images(
    tmp_path: Path, height: int, width: int, size: int, is_file: bool, threads: int
) -> None:
    """Oracle: a barrier for two threads, which one alone never passes."""
    barrier, names = threading.Barrier(threads), set[str]()
    path, file = tmp_path / "image.png", io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    path.write_bytes(file.getvalue())
    item = {"bytes": None if is_file else file.getvalue(), "path": str(path)}

    def items(ids: list[int] | range) -> list[Any]:
        if len(ids) > 1:  # one alone is looked at before
            barrier.wait(30)
            names.add(threading.current_thread().name)
        return [item] * len(ids)

    stored = Stored(4 * SHARE, items, size, "x", White(None, 4 * SHARE, items, formats.opened, "x"))
    assert (stored[:] == torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)).all()
    assert stored.subset(torch.arange(SHARE, 4 * SHARE))[: 2 * SHARE].shape == (2 * SHARE, 3, size, size)
    assert (len(names) > 1) == (threads > 1)


def test_small_images_are_read_in_long_ranges() -> None:
    """A range of rows takes a fifth of the time of the same single rows, and one thread needs no short shares."""
    file, asked = io.BytesIO(), list[list[int] | range]()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")

    def items(ids: list[int] | range) -> list[Any]:
        asked.append(ids)
        return [{"bytes": file.getvalue(), "path": None}] * len(ids)

    n = BATCH + 100
    stored = Stored(n, items, 4, "x", White(None, n, items, formats.opened, "x"))
    for ids, reads in (
        (slice(None), [range(BATCH), range(BATCH, n)]),
        (torch.tensor([7, 5, 6]), [[7, 5, 6]]),
        (torch.tensor([5, 7, 6, 8]), [[5, 7, 6, 8]]),
        (torch.tensor([3]), [range(3, 4)]),
        (slice(0), [range(0)]),
    ):
        asked.clear()
        stored[ids]
        assert asked == reads


def test_broken_images_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the images that are decoded, counted: all after the first broken one, then the next broken one alone."""
    file, decoded, plain = io.BytesIO(), list[int](), decode.decode
    Image.new("RGB", (4, 4)).save(file, "PNG")

    def items(ids: list[int] | range) -> list[Any]:
        return [{"bytes": file.getvalue() if index % SHARE else b"", "path": None} for index in ids]

    def counted(*arguments: Any) -> Image.Image:
        decoded.append(1)
        return plain(*arguments)

    monkeypatch.setattr(decode, "decode", counted)
    n = 3 * SHARE
    stored = Stored(n, items, 4, "x", White(None, n, items, formats.opened, "x"))
    for start, others, count in ((SHARE, f": {2 * SHARE}", 2 * SHARE), (2 * SHARE, "", 1), (0, f": {SHARE}, ", n)):
        decoded.clear()
        with pytest.raises(MissingError, match=f"Image {start} ") as caught:
            stored[start : start + SHARE]
        assert others in str(caught.value)
        assert ("Nor can" in str(caught.value)) == bool(others)
        assert len(decoded) == count


class Alive:
    """Counts the images in batches that somebody still holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = self.decoded = 0
        begin = Streamed.begin

        def counted(images: Streamed, ids: Tensor | slice) -> Callable[[], Tensor]:
            finish = begin(images, ids)
            batch = finish()
            self.now += len(batch)
            self.decoded += len(batch)
            self.most = max(self.most, self.now)
            weakref.finalize(batch, self._gone, len(batch))
            return finish

        monkeypatch.setattr(Streamed, "begin", counted)

    def _gone(self, count: int) -> None:
        self.now -= count


def test_data_sets_are_equal(pair: tuple[Dataset, Dataset]) -> None:
    """Oracle: the resident form of the same files: pixels, labels, fingerprint, classes, mean and deviation."""
    resident, lazy = pair
    assert isinstance(lazy.train.images, Streamed)
    assert isinstance(lazy.test.images, Streamed)
    assert lazy.pretrain is lazy.train.images
    assert isinstance(resident.train.images, Tensor)
    for a, b in ((resident.train, lazy.train), (resident.test, lazy.test)):
        assert torch.equal(a.images[:], b.images[:])
        assert torch.equal(a.labels, b.labels)
    for name in ("fingerprint", "classes", "mean", "std", "size", "name"):
        assert getattr(resident, name) == getattr(lazy, name)


def test_digits_are_equal() -> None:
    """Oracle: the resident form, of images that lie in a table instead of files."""
    resident, lazy = (Images(name="digits", source="sklearn:digits", size=8, streamed=flag)() for flag in (False, True))
    assert (lazy.fingerprint, lazy.mean, lazy.std) == (resident.fingerprint, resident.mean, resident.std)
    assert torch.equal(lazy.test.images[:], resident.test.images[:])


def test_without_a_test_split(folder: Path) -> None:
    """Oracle: the resident form: no test images, of the same shape."""
    data = Images(name="toy", source=f"folder:{folder}", size=8, test=None, streamed=True)()
    assert data.test.images.shape == (0, 3, 8, 8)
    assert data.test.labels is None


def test_loading_holds_few_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the images in batches that are held at once; train is decoded twice, test once."""
    alive = Alive(monkeypatch)
    monkeypatch.setattr("benchmark.data.dataset.ahead", partial(ahead, batch_size=10))
    loaded(folder, streamed=True)
    assert alive.decoded == 2 * 160 + 40
    assert alive.most <= (DEPTH + 2) * 10


def test_unreadable_image_is_named(folder: Path, tmp_path: Path) -> None:
    """Oracle: the message of both forms, before anything is trained, with index, file and split."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train" / "c" / "05.jpg").write_bytes(b"no image")
    for flag in (False, True):
        with pytest.raises(MissingError, match=r"Image 85 \(.*/train/c/05.jpg\) of split 'train' of toy"):
            loaded(tmp_path, streamed=flag)


EVALUATIONS: dict[str, Callable[[], Any]] = {
    "knn": KNN,
    "live views": lambda: LinearSGD(epochs=3, train_views="live", batch_size=64, rates=(0.1, 1.0)),
    "finetune": lambda: FineTune(convnet=ConvNetTuning, epochs=2, select_epochs=1, batch_size=16, curve=True),
    "semi_finetune": lambda: SemiFineTune(
        fraction=0.2, draws=1, trunk_rate=0.01, head_rate=0.1, steps=3, batch_size=16
    ),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations_see_the_same_images(
    pair: tuple[Dataset, Dataset], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the resident form: equal scores, choices and predictions, seconds apart; and few images held at once.

    Those are counted in batches, of 200 images that are seen in batches of 16 at most.
    """
    monkeypatch.setattr(streaming, "BATCH", 16)
    monkeypatch.setattr(features, "CPU_BATCH", 16)
    alive = Alive(monkeypatch)
    torch.manual_seed(0)
    encoder, results = TinyEncoder(), []
    for data in pair:
        results.append(evaluate_encoder(encoder, data, (EVALUATIONS[name](),), CPU, limits=LIMITS))
    (key,) = results[0].metrics
    resident, lazy = (result.metrics[key] for result in results)
    assert torch.equal(results[0].rankings[key], results[1].rankings[key])
    for figure in ("top1", "choices", "flags", "curve"):
        assert resident[figure] == lazy[figure]
    assert alive.decoded >= 200
    assert alive.most <= (DEPTH + 2) * 16


def test_raw_pixels_are_the_same(pair: tuple[Dataset, Dataset]) -> None:
    """Oracle: the resident form: equal scores and predictions, of whole images and of random views."""
    evaluations = (KNN(), EVALUATIONS["live views"]())
    resident, lazy = (evaluate_pixels(data, evaluations, limits=LIMITS) for data in pair)
    assert resident.metrics == lazy.metrics
    assert all(torch.equal(resident.rankings[name], lazy.rankings[name]) for name in resident.rankings)


def test_cached_features_are_shared(tmp_path: Path) -> None:
    """Oracle: features of resident images are found for streamed ones, and not for others; the digest of a tensor."""
    images, labels = noise(), torch.zeros(N, dtype=torch.int64)
    cache = FeatureCache(tmp_path, ("weights",))
    features = {"pooled": torch.rand(N, 4)}
    cache.get(images, labels, lambda: features)

    def never() -> dict[str, Tensor]:
        raise AssertionError("made anew")

    assert torch.equal(cache.get(streamed(images), labels, never)["pooled"], features["pooled"])
    with pytest.raises(AssertionError, match="made anew"):
        cache.get(streamed(noise(seed=1)), labels, never)


def test_training_is_the_same_and_waits_are_measured(tmp_path: Path) -> None:
    """Oracle: the run on resident images: digest, health and losses; waits are those of a decoder of 20 ms a batch."""
    images = noise(40)

    def slow(ids: list[int], places: npt.NDArray[np.uint8]) -> None:
        time.sleep(0.02)
        places[:] = images[ids].numpy()

    runs = [
        training(tmp_path / str(i), data=batches(source, 16, 0, CPU))
        for i, source in enumerate((images, Streamed(40, 8, slow)))
    ]
    resident, lazy = (run.run(resume=False) for run in runs)
    assert (resident.digest, resident.loss, resident.health) == (lazy.digest, lazy.loss, lazy.health)
    ledgers = [run.ledger for run in runs]
    assert 0 < ledgers[0].data_wait_seconds < ledgers[0].train_seconds
    assert 0.02 <= ledgers[1].data_wait_seconds <= ledgers[1].train_seconds


def test_training_holds_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the images in batches that are held at once, in three epochs of 200; the monitor's are one batch more."""
    alive = Alive(monkeypatch)
    monkeypatch.setattr("benchmark.training.loop.MONITORED", 16)
    training(tmp_path, data=batches(streamed(noise()), 16, 0, CPU), steps=36).run(resume=False)
    assert alive.decoded >= 36 * 16
    assert alive.most <= (DEPTH + 3) * 16


def test_where_images_lie_is_no_part_of_the_key() -> None:
    """Oracle: the key with and without the binding, which the text states."""
    resident, lazy = load(["gin/simclr.gin"]), load(["gin/simclr.gin"], ["Images.streamed = True"])
    assert resident.key("data") == lazy.key("data")
    assert "Images.streamed = True" in lazy.text


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[records.Record]]:
    """The records of one command on the digits, resident and streamed."""
    written = []
    for more in ((), ("--set", "Images.streamed=True")):
        out = tmp_path_factory.mktemp("runs")
        assert main(command(out, 4, *more)) == 0
        written += [records.read(path) for path in out.glob("simclr-*/*.json")]
    yield written
    torch.use_deterministic_algorithms(False)


def test_command_gives_the_same_record(recorded: list[records.Record]) -> None:
    """Oracle: the resident run of the command: key, training with its digest, data set and metrics."""
    resident, lazy = recorded
    for part in ("dataset", "training", "metrics", "encoder"):
        assert resident[part] == lazy[part]
    assert resident["config"]["key"] == lazy["config"]["key"]
    assert len(resident["floors"]) == len(lazy["floors"]) == 2
    for record in recorded:
        assert 0 < record["cost"]["data_wait_seconds"] < record["cost"]["train_seconds"]


def test_raw_pixels_past_memory_are_no_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: 1,797 digits of 16 px take 5.3 MiB as float32: with less allowed, one floor and the reason."""
    monkeypatch.setattr(floors, "MOST_BYTES", 5 * 2**20)
    assert main(command(tmp_path, 1)) == 0
    (record,) = (records.read(path) for path in tmp_path.glob("simclr-*/*.json"))
    assert len(record["floors"]) == 1
    assert "raw pixels left out: as features they take 0.0 GiB" in capsys.readouterr().out
    torch.use_deterministic_algorithms(False)


def test_raw_pixels_have_bounds() -> None:
    """Oracle: CIFAR-10 and 2,000 images of 96 px are measured; the bytes and rows of the others by hand."""
    for train, test, size, reason in (
        (50_000, 10_000, 32, ""),
        (2_000, 2_000, 96, ""),
        (2_400, 600, 224, "they take 1.7 GiB; the most is 0.75 GiB"),
        (6_000, 100, 64, "of 6,000 images of 12,288 values decomposes a matrix of 6,000 rows; the most is 4,096"),
    ):
        images = [torch.zeros(1, dtype=torch.uint8).expand(n, 3, size, size) for n in (train, test)]
        splits = [Split(part, None) for part in images]
        data = Dataset("x", ("a", "b"), size, images[0], *splits, "0" * 64, (0.5,) * 3, (0.2,) * 3)
        large = floors._too_large(data)
        assert (reason in large) if reason else not large
