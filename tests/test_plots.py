"""Figures of a run: what they show against what they are made of, and that they are the same every time."""

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nets16 import BATCH, views, vit
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from baselines.macrl import MACRL
from baselines.mae import MAE
from baselines.mixmask import Erase, Mixer, MixMask, Mixture, UnMix
from baselines.moco import MoCo
from baselines.mrcl import MRCL
from baselines.simclr import SimCLR
from benchmark.evals.linear import fit
from benchmark.figures import main
from benchmark.method import Draws, Method
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.masking import patchify
from benchmark.plots.projection import components, planar, purity, silhouette, strongest
from benchmark.report import record as records
from benchmark.run import main as pretrain

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is an extra: pip install -e '.[plots]'")

from benchmark.plots import figures  # noqa: E402
from benchmark.plots.figures import FIGURES, Scene, class_attention, class_maps, spread  # noqa: E402
from benchmark.plots.layout import BLANK, Scatter, Sheet, Tile, columns  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

DECODER = partial(PixelDecoder, width=16, depth=1, heads=2)
MOCO = partial(MoCo, temperature=0.2, momentum=0.9, queue_size=16, projector_width=6, symmetric=False, splits=1)
ALWAYS = {"tsne.png", "neighbours.png", "attention.png", "views.png"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs, with 48 train and 24 test images of three classes that differ in colour."""
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        for channel, name in enumerate(("red", "green", "$blue$")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 128, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{i}.png")
    return folder


def trained(photos: Path, folder: Path, *files: str, settings: tuple[str, ...] = ()) -> Path:
    """Train one step on the images of a folder, and return the folder of the run."""
    few = ("Pretraining.batch_size=32", "Budget.kind=samples", "Budget.amount=32", "experiment.evaluations=()")
    given = [part for file in files for part in ("--gin", f"gin/{file}.gin")]
    for setting in (*few, f"Images.source=folder:{photos}", "Images.name=photos", *settings):
        given += ["--set", setting]
    assert pretrain([*given, "--out", str(folder)]) == 0
    return next(folder.glob("[!.]*-photos-s0-*"))


@pytest.fixture(scope="module")
def vit_run(out: Path) -> Path:
    """A finished run whose method restores patches."""
    return trained(out / "photos", out / "vit", "mae")


@pytest.fixture(scope="module")
def resnet_run(out: Path) -> Path:
    """A finished run on a convolutional network, of a method that shows nothing itself."""
    return trained(out / "photos", out / "resnet", "simclr", "protocol/digits_resnet18")


def drawn(run: Path, folder: Path) -> dict[str, bytes]:
    assert main([str(run), "--to", str(folder)]) == 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("kind", "more"), [("vit_run", {"reconstructions.png"}), ("resnet_run", set())])
def test_each_figure_is_a_png_of_the_width_of_a_page(
    kind: str, more: set[str], request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the files' own headers, and a printed line for each; nothing but pixels is in them."""
    found = drawn(request.getfixturevalue(kind), tmp_path / "figures")
    printed = capsys.readouterr().out
    assert found.keys() == ALWAYS | more
    for name, content in found.items():
        assert str(tmp_path / "figures" / name) in printed
        with Image.open(tmp_path / "figures" / name) as image:
            assert image.format == "PNG"
            assert image.width == 1000
            assert 200 < image.height < 1200
            assert image.info.keys() <= {"dpi"}
        assert b"tIME" not in content


def test_the_same_run_gives_the_same_bytes(vit_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the bytes of a first drawing, before torch's and numpy's state and the user's settings change."""
    first = drawn(vit_run, tmp_path / "first")
    torch.manual_seed(5)
    np.random.seed(5)
    for name, value in {"font.size": 20.0, "savefig.dpi": 50, "savefig.bbox": "tight", "axes.grid": True}.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert drawn(vit_run, tmp_path / "second") == first


def test_every_figure_says_that_it_illustrates(vit_run: Path) -> None:
    """Oracle: the word, and what test labels did, in what is drawn."""
    scene = Scene.of(vit_run, allow_imports=False)
    made = [figure for makes in FIGURES.values() for figure in makes(scene).values()]
    assert len(made) == 5
    for figure in made:
        assert "(illustration): mae on photos" in figure.title
        assert "Test labels choose the images" in figure.caption


def test_neighbours_are_the_nearest_train_images(vit_run: Path) -> None:
    """Oracle: cosines of all pairs; the verdict is the equality of the images' own labels."""
    scene = Scene.of(vit_run, allow_imports=False)
    (found,) = FIGURES["neighbours.png"](scene).values()
    assert isinstance(found, Sheet)
    data, bank = scene.session.dataset, scene.bank
    queries = spread(data.test.labels, data.name, columns(16))
    near = F.normalize(bank.test[scene.feature][queries]) @ F.normalize(bank.train[scene.feature]).T
    names = [data.classes[label] for label in data.test.labels[queries]]
    assert found.headings == names
    for place, ids in enumerate(near.argsort(descending=True)[:, :8].T, start=1):
        for tile, i, name in zip(found.rows[f"train {place}"], ids, names, strict=True):
            assert np.array_equal(tile.image, data.train.images[i].permute(1, 2, 0).float() / 255)
            assert tile.words == data.classes[data.train.labels[i]]
            assert tile.right == (tile.words == name)


def test_pictures_of_a_method_are_images_again(vit_run: Path) -> None:
    """Oracle: the test images in [0, 1], where the row shows them; three quarters of a masked image are hidden."""
    scene = Scene.of(vit_run, allow_imports=False)
    rows = figures.pictures(scene)["reconstructions"].rows
    images = (scene.shown[0].float() / 255).permute(0, 2, 3, 1).numpy()
    original, visible, restored = (np.stack([tile.image for tile in rows[row]]) for row in rows)
    hidden = np.isnan(visible)
    assert hidden.mean() == 0.75
    for shown in (original, visible, restored):
        np.testing.assert_allclose(shown[~hidden], images[~hidden], atol=1e-6)
    assert not np.allclose(restored[hidden], images[hidden], atol=1e-2)


def test_without_a_checkpoint_the_encoder_is_drawn_alone(
    vit_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the files, and the reason that is printed for what lacks."""
    copy = tmp_path / vit_run.name
    shutil.copytree(vit_run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    assert drawn(copy, tmp_path / "figures").keys() == ALWAYS
    assert f"left out: no checkpoint is left in {copy / 'checkpoints'}" in capsys.readouterr().out


def test_images_without_labels_are_drawn_as_far_as_they_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the files; what needs classes is left out, and says so."""
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    run = trained(tmp_path / "photos", tmp_path / "runs", "mae", settings=("Images.test=None",))
    found = drawn(run, tmp_path / "figures")
    assert found.keys() == {"attention.png", "views.png", "reconstructions.png"}
    assert "tsne.png left out: it needs train and test images of several classes" in capsys.readouterr().out


@pytest.mark.parametrize("misuse", ["no run", "diverged", "full folder", "a file", "below a file", "no matplotlib"])
def test_misuse_is_answered_and_nothing_is_written(
    misuse: str, vit_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the exit code, the sentence that helps, and the folder as it was."""
    target, run = tmp_path / "figures", vit_run
    if misuse == "no run":
        run = tmp_path
    if misuse == "diverged":
        run = tmp_path / vit_run.name
        shutil.copytree(vit_run, run, ignore=shutil.ignore_patterns("*.json"))
        record = records.read(next(vit_run.glob("*-s*-*-*.json")))
        records.write(records.seal({**record, "status": "diverged"}), run)
    if misuse == "full folder":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    if misuse == "a file":
        target.write_text("mine")
    if misuse == "below a file":
        (tmp_path / "mine.txt").write_text("mine")
        target = tmp_path / "mine.txt" / "figures"
    if misuse == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        for name in ("layout", "figures"):
            monkeypatch.delitem(sys.modules, f"benchmark.plots.{name}")
            monkeypatch.delattr(f"benchmark.plots.{name}")
    code, answer = {
        "no run": (2, "is not the folder of a finished run"),
        "diverged": (2, "diverged: its weights show nothing. Draw another run."),
        "full folder": (2, "is not empty. Give --to a folder"),
        "a file": (2, "is not empty. Give --to a folder"),
        "below a file": (2, "cannot be made a folder"),
        "no matplotlib": (3, "pip install 'ssl-benchmark[plots]'"),
    }[misuse]
    before = sorted(tmp_path.rglob("*"))
    assert main([str(run), "--to", str(target)]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert answer in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def mae() -> Method:
    return MAE(vit(), decoder=DECODER, mask_ratio=0.5)


def mrcl() -> Method:
    weights = {"masked_weight": 1.0, "visible_weight": 0.0}
    return MRCL(vit(), base=None, decoder=DECODER, mask_ratio=0.5, standardised=False, **weights)


def macrl() -> Method:
    weights = {"contrast_weight": 0.0, "masked_weight": 1.0}
    return MACRL(vit(), base=MOCO, decoder=DECODER, mask_ratio=0.5, key_mask_ratio=0.0, kind="l2", **weights)


@pytest.mark.parametrize("make", [mae, mrcl, macrl])
def test_reconstructions_are_what_the_loss_scores(make: Callable[[], Method]) -> None:
    """Oracle: the loss of the same draws, computed anew from the pictures; visible patches are the original's."""
    torch.manual_seed(1)
    method, given = make(), views(dtype=torch.float32)
    given = given[: method.n_views]
    with torch.no_grad():
        found = method.pictures(given, Draws(0, 3, BATCH))
        loss = method(given, Draws(0, 3, BATCH)).loss
    original, visible, restored = (
        patchify(found[f"reconstructions/{row}"], 4) for row in ("original", "visible", "restored")
    )
    assert torch.equal(found["reconstructions/original"], given[0])
    masked = visible.isnan().all(2)
    assert torch.equal(masked, visible.isnan().any(2))
    assert masked.sum(1).tolist() == [8] * BATCH
    assert torch.equal(visible[~masked], original[~masked])
    assert torch.equal(restored[~masked], original[~masked])
    scale = 1.0 if make is mrcl else original.var(2, keepdim=True) + 1e-6
    error = ((restored - original).square() / scale)[masked].mean()
    torch.testing.assert_close(error, loss, rtol=1e-4, atol=0)


def test_nothing_is_shown_where_nothing_is_restored() -> None:
    """Oracle: no pictures of a method without a decoder, of one that masks nothing, or whose decoder learns nothing."""
    given = views(dtype=torch.float32)
    simclr = SimCLR(vit(), temperature=0.2, projector_layers=2, projector_hidden=8, projector_width=4)
    whole = MRCL(vit(), base=None, decoder=DECODER, mask_ratio=0.0, masked_weight=1.0, visible_weight=1.0)
    seen = MRCL(vit(), base=None, decoder=DECODER, mask_ratio=0.5, masked_weight=0.0, visible_weight=1.0)
    for method in (simclr, whole, seen):
        assert method.pictures(given[: method.n_views], Draws(0, 0, BATCH)) == {}


GRID = {"grid": 2, "pattern": "discrete", "mask_ratio": 0.5}
MIXERS: dict[str, Callable[[int], Mixer]] = {
    "MixMask": partial(MixMask, **GRID, permutation="random"),
    "UnMix": partial(UnMix, blend_probability=0.5, permutation="reverse"),
    "Erase": partial(Erase, **GRID, fill="mean"),
}


def test_mixtures_are_what_the_mixers_make() -> None:
    """Oracle: each mixer called by itself in its place, and the share of view and filler in every pixel."""
    method = Mixture(vit(), base=MOCO, mixers=tuple(MIXERS.values()))
    given = views(dtype=torch.float32)
    found = method.pictures(given, Draws(0, 4, BATCH))
    rows = ["view", "filler 1", "MixMask 1", "filler 2", "UnMix 2", "Erase 3"]
    assert list(found) == [f"mixtures/{row}" for row in rows]
    assert torch.equal(found["mixtures/view"], given[0])
    for place, (name, mixer) in enumerate(MIXERS.items()):
        mixed = mixer(16)(given[0], Draws(0, 4, BATCH), place)
        shown = found[f"mixtures/{name} {place + 1}"]
        assert torch.equal(shown, mixed.view)
        if mixed.inverse is not None:
            filler = found[f"mixtures/filler {place + 1}"]
            apart = given[0] - filler
            own = ((shown - filler) * apart).sum((0, 1)) / apart.square().sum((0, 1))
            torch.testing.assert_close(shown, own * given[0] + (1 - own) * filler)
            torch.testing.assert_close(own.mean(), mixed.own_share)


def test_images_are_spread_over_classes() -> None:
    """Oracle: counts by class of every prefix differ by one at most while all last; another name, another choice."""
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 7)
    ids = spread(labels, "digits", 12)
    for end in range(1, 13):
        counts = labels[ids[:end]].bincount(minlength=3)
        assert counts.max() - counts.min() <= 1
    assert len(ids.unique()) == 12
    assert sorted(spread(labels, "digits", 99).tolist()) == list(range(20))
    assert not torch.equal(ids, spread(labels, "photos", 12))


def test_the_strongest_patches_hold_the_mass() -> None:
    """Oracle: by hand; 0.6 of the sum takes 5 of 10 and then 2, and equal patches go by their order."""
    attention = torch.tensor([[2.0, 5.0, 1.0, 2.0], [0.1, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[2.0, 5.0, torch.nan, torch.nan], [0.1, torch.nan, torch.nan, torch.nan]])
    torch.testing.assert_close(strongest(attention, 0.6), expected, equal_nan=True)


def test_components_are_principal() -> None:
    """Oracle: scikit-learn's, up to sign and scale, each from 0 to 1; equal patches are one colour, not NaN."""
    tokens = torch.randn(5, 16, 12, generator=torch.Generator().manual_seed(0))
    found = components(tokens).flatten(0, 1)
    expected = PCA(3).fit_transform(tokens.flatten(0, 1).double().numpy())
    for ours, theirs in zip(found.T.numpy(), expected.T, strict=True):
        assert abs(np.corrcoef(ours, theirs)[0, 1]) == pytest.approx(1, abs=1e-5)
        assert (ours.min(), ours.max()) == pytest.approx((0, 1))
    assert components(torch.ones(2, 4, 8)).isfinite().all()


def test_maps_keep_groups_apart_and_lie_across() -> None:
    """Oracle: two far groups: in the plane each point is nearest to its own; the same places for the same features."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=generator) + 30 * torch.arange(40)[:, None].remainder(2)
    places = planar(features)
    assert np.array_equal(places, planar(features))
    distances = torch.cdist(torch.from_numpy(places), torch.from_numpy(places)).fill_diagonal_(torch.inf)
    assert torch.equal(distances.argmin(1).remainder(2), torch.arange(40).remainder(2))
    assert np.ptp(places[:, 0]) > np.ptp(places[:, 1])


def test_purity_and_silhouette() -> None:
    """Oracle: by hand on a circle: neighbours at 10, 20 and 180 degrees; one class has no silhouette."""
    angles = torch.tensor([0.0, 10.0, 20.0, 180.0, 185.0]).deg2rad()
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert purity(points, torch.tensor([0, 0, 1, 1, 1]), 1) == pytest.approx(4 / 5)
    assert purity(points, torch.tensor([0, 0, 1, 1, 1]), 9) == pytest.approx(8 / 20)
    near = 1 - angles[1].cos()
    far = 1 - (angles[3:] - angles[:2, None]).cos()
    expected = 1 - near / far.mean(1)
    four = points[[0, 1, 3, 4]]
    other = 1 - (1 - (angles[4] - angles[3]).cos()) / far.mean(0)
    assert silhouette(four, torch.tensor([0, 0, 1, 1])) == pytest.approx(
        float(torch.cat([expected, other]).mean()), abs=1e-5
    )
    assert np.isnan(silhouette(points, torch.zeros(5, dtype=torch.int64)))


def test_attention_is_that_of_the_class_token() -> None:
    """Oracle: the softmax of queries and keys of the last block, image by image and head by head."""
    encoder, view = vit().eval(), views(dtype=torch.float32)[0]
    block = encoder.net.blocks[-1]
    inputs: list[Tensor] = []
    hook = block.attn.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    found = class_attention(encoder.net, view)
    hook.remove()
    assert found.shape == (BATCH, 3, 16)
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    for i, tokens in enumerate(inputs[0]):
        query, key, _ = (tokens @ weight.T + bias).chunk(3, dim=1)
        for head in range(3):
            at = slice(8 * head, 8 * head + 8)
            expected = (key[:, at] @ query[0, at] / 8**0.5).softmax(0)[1:]
            torch.testing.assert_close(found[i, head], expected)


def test_maps_show_what_speaks_for_the_class(resnet_run: Path) -> None:
    """Oracle: places of the last layer left out one by one: that without which the score falls most is brightest."""
    scene = Scene.of(resnet_run, allow_imports=False)
    images, _ = scene.shown
    view = scene.prepared(images)
    with torch.no_grad():
        maps, words = class_maps(scene, view, scene.encoder(view).pooled)
        layers = scene.encoder.net.forward_features(view)
    probe = fit(scene.bank.train["pooled"], scene.bank.labels, 3, figures.STRENGTH)
    assert maps.shape == (len(images), 16, 16)
    for layer, shown, word in zip(layers, maps, words, strict=True):
        label = scene.session.dataset.classes.index(word)
        assert label == int(probe.scores(layer.mean((1, 2))[None]).argmax())
        without = torch.empty(2, 2)
        for row, column in np.ndindex(2, 2):
            rest = layer.clone()
            rest[:, row, column] = 0
            without[row, column] = probe.scores(rest.mean((1, 2))[None])[0, label]
        expected = (without.max() - without) / (without.max() - without.min())
        torch.testing.assert_close(shown, expected.repeat_interleave(8, 0).repeat_interleave(8, 1), atol=1e-3, rtol=0)


def test_tiles_are_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    """Oracle: the pixels of the file: blocks of 5 x 5 of the image's own colours, grey for NaN, framed by verdict."""
    pixels = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    pixels[3, 4] = np.nan
    tile = Tile(pixels, "word", right=True)
    Sheet("Title", "Caption", ["one", "two"], {"row": [tile, Tile(pixels)]}).save(tmp_path / "sheet.png")
    page = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    expected = np.repeat(np.repeat((np.nan_to_num(pixels, nan=BLANK) * 255).round(), 5, 0), 5, 1).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(page, (80, 80, 3))[:, :, 0]
    corners = np.argwhere((windows[:, :, 0, 0] == expected[0, 0]).all(2))
    places = [(top, left) for top, left in corners if (windows[top, left] == expected).all()]
    assert len(places) == 2
    (top, left), (_, right) = places
    assert right - left == 85
    assert page[top - 1, left].tolist() == page[top + 80, left].tolist() == [0, 158, 115]
    assert page[top - 1, right].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("side", "count"), [(16, 10), (28, 10), (32, 8), (64, 12), (96, 8), (224, 9)])
def test_sheets_fill_the_page(side: int, count: int) -> None:
    """Oracle: by hand: 892 pixels of room, 5 between tiles of 80, 84, 96, 64, 96 and 86 pixels."""
    assert columns(side) == count


def test_more_classes_than_colours_and_any_names_are_drawn(tmp_path: Path) -> None:
    """Oracle: a file, for 12 classes of which some have names that mean something else to matplotlib."""
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    names = ["$x", r"$\no maths$", "_hidden", "ÄÖ", *map(str, range(8))]
    Scatter("Title $", "Caption $x^$", points, np.arange(50) % 12, names).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.width == 1000
