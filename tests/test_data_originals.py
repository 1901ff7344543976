"""Random crops from stored images: torchvision's boxes and pixels, one decoding for all views, the same bits always."""

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TinyEncoder, command, training
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V

from benchmark.data import decode, streaming
from benchmark.data.dataset import Dataset
from benchmark.data.images import Images
from benchmark.data.streaming import Prefetched, batches, is_cropped_stored
from benchmark.errors import ConfigError
from benchmark.evals.extraction import inputs
from benchmark.evals.finetune import ConvNetTuning, FineTune
from benchmark.evals.harness import evaluate_encoder
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.randomness import Draws
from benchmark.report import record as records
from benchmark.run import main
from benchmark.runtime import ranks
from benchmark.training.loop import Training
from benchmark.views.geometry import Cut, Interpolation, crop_boxes
from benchmark.views.recipes import View, ViewLimits

CPU = torch.device("cpu")
RATIO = (3 / 4, 4 / 3)
VIEW = View(crop_scale=(0.08, 1.0), flip=0.0)
LIMITS = ViewLimits()

pytestmark = pytest.mark.usefixtures("no_other_data")


def photo(seed: int, height: int, width: int, brightness: int = 255) -> Image.Image:
    """A smooth random picture with noise on it."""
    generator = np.random.default_rng(seed)
    smooth = Image.fromarray(generator.integers(0, brightness, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    noise = generator.integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 2 classes in two splits, upright and flat, far larger than the 8 px that they become."""
    root = tmp_path_factory.mktemp("photos")
    for split, label, i in itertools.product(("train", "test"), range(2), range(20)):
        place = root / split / "ab"[label]
        place.mkdir(parents=True, exist_ok=True)
        size = (30, 40) if i % 3 else (44, 26)
        photo(100 * label + i, *size, brightness=100 + 100 * label).save(place / f"{i:02}.png")
    return root


def loaded(folder: Path, source: str = "folder", **settings: object) -> Dataset:
    arguments: dict[str, object] = {"size": 8, "streamed": True, "cropped_from": "original"}
    return Images(name="toy", source=f"{source}:{folder}", **(arguments | settings))()  # type: ignore[arg-type]


def original(folder: Path, index: int) -> Image.Image:
    """The image of a train id, read by Pillow alone."""
    with Image.open(sorted((folder / "train").glob("*/*.png"))[index]) as image:
        return image.convert("RGB")


def draw_of(n: int, seed: int = 0, step: int = 0, v: int = 0) -> object:
    draws = Draws(seed, step, n)
    return lambda name, *shape: draws.rows(("view", v, name), *shape)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_a_box_is_that_of_the_batch(scale: tuple[float, float]) -> None:
    """Oracle: `crop_boxes`, which has torchvision's distribution, for images of one size; also where no try fits."""
    generator, sizes = torch.Generator().manual_seed(0), random.Random(0)
    tries = torch.rand(50, 10, 2, generator=generator)
    corner = torch.rand(50, 2, generator=generator)
    cut = Cut(tries, corner, scale, RATIO, "bilinear")
    for height, width in [(375, 500), (20, 400), (400, 20), (1, 1), *((sizes.randint(1, 900),) * 2 for _ in range(9))]:
        boxes = crop_boxes(tries, corner, height, width, scale, RATIO)
        assert [cut(row, height, width) for row in range(50)] == [tuple(box) for box in boxes.tolist()]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_those_of_torchvision(interpolation: Interpolation, tmp_path: Path) -> None:
    """Oracle: torchvision's RandomResizedCrop, given the same boxes, of the same 375 x 500 image.

    On the image of Pillow, as the papers' loaders use it, no pixel differs. On a float tensor the largest difference is
    1/255 where it is bilinear, by the rounding to 8 bits after each axis; bicubic, Pillow also clips between the axes.
    """
    (tmp_path / "train").mkdir()
    image = photo(0, 375, 500)
    image.save(tmp_path / "train" / "0.png")
    data = loaded(tmp_path, size=224, test=None)
    images = data.pretrain
    assert is_cropped_stored(images)
    repeated = images.subset(torch.zeros(12, dtype=torch.int64))
    draws = Draws(0, 0, 12)
    view = View(crop_scale=(0.08, 1.0), interpolation=interpolation)
    cut = view.cut(draws.rows)
    crops = repeated.cut([cut])[:][:, 0]
    outer = 0
    tensor = V.to_tensor(image).double()
    for row, crop in enumerate(crops):
        box = cut(row, 375, 500)
        outer += box[1] < 62 or box[1] + box[3] > 438  # beyond the central square
        mode = InterpolationMode(interpolation)
        reference = transforms.RandomResizedCrop(224, interpolation=mode, antialias=True)
        reference.get_params = lambda *_, box=box: box  # type: ignore[method-assign, assignment]
        assert np.array_equal(crop.permute(1, 2, 0).numpy(), np.asarray(reference(image)))
        exact = reference(tensor).clamp(0, 1)
        difference = float((crop / 255 - exact).abs().max())
        assert difference <= 1 / 255 + 1e-6 or interpolation == "bicubic"
    assert outer >= 5


@pytest.mark.parametrize(("size", "resized", "setting"), [(224, 256, None), (96, 110, None), (32, 40, 40)])
def test_images_of_test_are_resized_and_cropped(
    size: int, resized: int, setting: int | None, folder: Path, tmp_path: Path
) -> None:
    """Oracle: torchvision's Resize(256) and CenterCrop(224) on the image of Pillow."""
    sides = [(375, 500), (501, 333), (256, 256), (20, 33)]
    (tmp_path / "train").mkdir()
    for number, (height, width) in enumerate(sides):
        photo(number, height, width).save(tmp_path / "train" / f"{number}.png")
    data = loaded(tmp_path, size=size, test=None, test_resize=setting)
    bicubic = InterpolationMode.BICUBIC
    reference = transforms.Compose([transforms.Resize(resized, bicubic), transforms.CenterCrop(size)])
    for number, tested in enumerate(data.pretrain[:]):
        expected = np.asarray(reference(photo(number, *sides[number])))
        assert np.array_equal(tested.permute(1, 2, 0).numpy(), expected)


def test_cropped_images_are_mirrored_and_coloured_alike() -> None:
    """Oracle: the same view of square images, whose crop is the whole image at its own size."""
    images = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colours = {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grey_p": 0.3, "blur_p": 0.5, "solarize_p": 0.2}
    view = View(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), **colours)  # type: ignore[arg-type]
    draws = Draws(0, 0, 9)
    assert torch.allclose(view(images, 12, draws.rows), view.finish(images, draws.rows), atol=1e-5)


def run_of(folder: Path, out: Path, steps: int = 12, **changes: object) -> Training:
    """A run of two views on the photos."""
    data = batches(loaded(folder).pretrain, 16, 0, CPU)
    return training(out, data=data, views=(VIEW, VIEW), steps=steps, **changes)


def test_views_of_a_step_are_cut_from_the_originals(folder: Path, tmp_path: Path) -> None:
    """Oracle: torchvision's resized_crop of each file of the batch, by boxes drawn for its view and row."""
    run = run_of(folder, tmp_path)
    for step in (0, 1, 5):
        views, ids = run.batch(step), run.data.ids(step)
        for v, view in enumerate(views):
            cut = VIEW.cut(draw_of(16, 0, step, v))  # type: ignore[arg-type]
            for row, index in enumerate(ids.tolist()):
                image = original(folder, index)
                box = cut(row, image.height, image.width)
                expected = V.to_tensor(V.resized_crop(image, *box, [8, 8])).sub(0.5).div(0.3)
                assert torch.allclose(view[row], expected, atol=1e-6)


def test_an_image_is_decoded_once_for_all_views(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the count of decodings: those of the step and of the steps ahead, 16 each."""
    run, count, plain = run_of(folder, tmp_path), list[int](), decode.decode

    def counted(*arguments: object) -> Image.Image:
        count.append(1)
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "decode", counted)
    run.batch(0)
    assert isinstance(run.data, Prefetched)
    for _, finish in run.data._begun.values():
        finish()
    assert len(count) == 16 * (1 + streaming.DEPTH)


@pytest.fixture
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with ThreadPoolExecutor(request.param) as pool:
        monkeypatch.setattr(streaming, "WORKER", pool)  # of images that are stored small, as these are
        monkeypatch.setattr(streaming, "SHARE", 3)
        yield request.param


DIGESTS: set[str] = set()


@pytest.mark.parametrize("workers", [1, 3], indirect=True)
def test_threads_and_resumption_change_nothing(workers: int, folder: Path, tmp_path: Path) -> None:
    """Oracle: the digest of the run with another number of threads, and of the run that goes on from its middle."""
    whole = run_of(folder, tmp_path / "whole").run(resume=False)
    first = run_of(folder, tmp_path / "parts")
    first.advance(5)
    first.save()
    resumed = run_of(folder, tmp_path / "parts").run(resume=True)
    DIGESTS.update((whole.digest, resumed.digest))
    assert len(DIGESTS) == 1


def test_each_rank_cuts_its_own_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the rows of the batch of one process."""
    whole = run_of(folder, tmp_path / "whole").batch(3)
    monkeypatch.setattr(ranks, "whole", lambda tensor: tensor)
    for rank in range(2):
        run = run_of(folder, tmp_path / str(rank))
        monkeypatch.setattr(ranks, "_group", ranks._Group(rank, 2))
        parts = run.batch(3)
        monkeypatch.setattr(ranks, "_group", ranks._Group())
        assert all(torch.equal(part, view[rank::2]) for part, view in zip(parts, whole, strict=True))


def test_random_views_of_evaluations_are_cut_from_the_originals(folder: Path) -> None:
    """Oracle: torchvision's resized_crop of each file, also of a subset; and evaluations that use them run through."""
    data = loaded(folder)
    images, prepare = inputs(data, ViewLimits(flip=False), "train", 2)
    draws = Draws(0, 2, 40)
    cut = VIEW.cut(lambda name, *shape: draws.rows(("evaluation", name), *shape))
    ids = torch.tensor([7, 0, 39])
    for view, index in zip(prepare(images[ids], ids), ids.tolist(), strict=True):
        image = original(folder, index)
        box = cut(index, image.height, image.width)
        assert torch.allclose(view, V.to_tensor(V.resized_crop(image, *box, [8, 8])), atol=1e-6)
    tuning = FineTune(convnet=ConvNetTuning, epochs=1, select_epochs=1, batch_size=8)
    live = LinearSGD(epochs=2, train_views="live", batch_size=16, rates=(0.1,))
    torch.manual_seed(0)
    results = evaluate_encoder(TinyEncoder(), data, (live, tuning), CPU, limits=LIMITS)
    again = evaluate_encoder(TinyEncoder(), data, (live, tuning), CPU, limits=LIMITS)
    assert set(results.metrics) == set(again.metrics) == {live.name, tuning.name}


def test_rows_of_parquet_are_cropped_alike(folder: Path, tmp_path: Path) -> None:
    """Oracle: the same images in a folder: fingerprint, and the crops of both."""
    for split in ("train", "test"):
        files = sorted((folder / split).glob("*/*.png"))
        columns = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    both = loaded(folder), loaded(tmp_path, "parquet")
    assert both[0].fingerprint == both[1].fingerprint
    crops: list[Tensor] = []
    for data in both:
        assert is_cropped_stored(data.pretrain)
        crops.append(data.pretrain.cut([VIEW.cut(draw_of(40))])[:])  # type: ignore[arg-type]
    assert torch.equal(*crops)


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    """Oracle: the messages: resident images are square, a side is resized to that is cut out of, one size."""
    views = (View(crop_scale=(0.5, 1.0)), View(crop_scale=(0.1, 0.5), resolution=0.5))
    with pytest.raises(ConfigError, match=r"Give 'centre', or views with a resolution of 1"):
        training(tmp_path, views=views, data=Prefetched(loaded(folder).pretrain, 16, 0, CPU))
    with pytest.raises(ConfigError, match=r"needs Images.streamed = True"):
        Images(name="x", source="folder:x", size=8, cropped_from="original")
    with pytest.raises(ConfigError, match=r"Images.test_resize = 9: it is for Images.cropped_from = 'original'"):
        Images(name="x", source="folder:x", size=8, test_resize=9)
    with pytest.raises(ConfigError, match=r"at least Images\.size = 8"):
        Images(name="x", source="folder:x", size=8, streamed=True, cropped_from="original", test_resize=7)


def test_a_record_says_it(folder: Path, tmp_path: Path) -> None:
    """Oracle: the run from squares: the FLOPs are equal; text, key, weights and fingerprint differ."""
    written = []
    for number, more in enumerate(((), ("Images.cropped_from=original",))):
        settings = ("Images.name=toy", f"Images.source=folder:{folder}", "Images.streamed=True", *more)
        out = tmp_path / str(number)
        assert main(command(out, 3, *(part for setting in settings for part in ("--set", setting)))) == 0
        written += [records.read(path) for path in out.glob("simclr-*/*.json")]
    square, cut = written
    assert "Images.cropped_from = 'original'" in cut["config"]["text"]
    assert square["cost"]["flops"] == cut["cost"]["flops"]
    assert square["config"]["key"] != cut["config"]["key"]
    assert square["dataset"]["fingerprint"] != cut["dataset"]["fingerprint"]
    torch.use_deterministic_algorithms(False)


DRIVER = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from benchmark.data import streaming
from benchmark.run import main
streaming.WORKERS = ThreadPoolExecutor(int(sys.argv[1]))
code = main(sys.argv[2:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)
sys.exit(code)
"""
PHOTOS, BATCH, STEPS = 20_000, 64, 12


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 JPEG files of 375 x 500 without labels, and a train split of four classes for the statistics."""
    root = tmp_path_factory.mktemp("many")
    (root / "unlabelled").mkdir()
    (root / "train").mkdir()
    pictures = [photo(seed, 375, 500) for seed in range(50)]
    for number in range(PHOTOS):
        picture = pictures[number % 50].rotate(180) if number % 3 else pictures[number % 50]
        picture.save(root / "unlabelled" / f"{number:05}.jpg", quality=20 + number % 7)
    for number in range(8):
        pictures[number].save(root / "train" / f"{number}.jpg")
    return root


def of_many(many: Path, out: Path, threads: int) -> list[str]:
    """The arguments of a run on the many photos, at 224 px."""
    settings = (
        *("Images.name=many", f"Images.source=folder:{many}", "Images.pretrain=unlabelled", "Images.test=None"),
        *("Images.size=224", "Images.streamed=True", "Images.cropped_from=original", "PATCH=32"),
        *(f"Pretraining.batch_size={BATCH}", f"Budget.amount={BATCH * STEPS}", "experiment.evaluations=()"),
        "experiment.curve_points=0",
    )
    arguments = [*command(out, STEPS), *(part for setting in settings for part in ("--set", setting))]
    return [sys.executable, "-c", DRIVER, str(threads), *arguments, "--checkpoint-seconds", "0"]


def peak(text: str) -> int:
    return int(text.rpartition("peak ")[2].split()[0])


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a killed process is read from /proc")
def test_many_photos_take_little_memory_and_survive_a_kill(many: Path, tmp_path: Path) -> None:
    """Oracle: under 3 GB at any time; and the digest of the run that nothing interrupted, with 1 and with 3 threads."""
    digests, peaks = {}, {}
    for name, threads in (("whole", 3), ("one thread", 1), ("three threads", 3)):
        out = tmp_path / name
        if name != "whole":
            with subprocess.Popen(of_many(many, out, threads)) as process:
                while process.poll() is None and not list(out.glob("simclr-*/checkpoints/step-*.pt")):
                    time.sleep(0.05)
                status = Path(f"/proc/{process.pid}/status").read_text()
                process.kill()
            assert process.returncode == -signal.SIGKILL
            peaks[f"{name}, killed"] = int(status.partition("VmHWM:")[2].split()[0]) // 1024
        done = subprocess.run(of_many(many, out, threads), capture_output=True, text=True, check=True)
        assert ("goes on from step" in done.stdout) == (name != "whole")
        peaks[name] = peak(done.stdout)
        (record,) = (records.read(path) for path in out.glob("simclr-*/*.json"))
        cost = record["cost"]
        digests[name] = record["training"]["digest"]
        print(name, f"peak {peaks[name]} MB, {cost['images'] / cost['train_seconds']:.0f} images/s")
    assert max(peaks.values()) < 3000, peaks
    assert len(set(digests.values())) == 1, digests
