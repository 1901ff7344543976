"""Figures of a run: what they show, compared with the images and features of the run."""

import shutil
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from nets16 import BATCH, unlike, views, vit
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
from benchmark.method import Method
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.masking import patchify
from benchmark.nets.reconstruction import Restoration
from benchmark.randomness import Draws
from benchmark.report import record as records
from benchmark.run import main as pretrain

pytest.importorskip("matplotlib", reason="matplotlib is an extra: pip install -e '.[plots]'")

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from benchmark.plots import figures
from benchmark.plots.figures import FIGURES, class_attention, class_maps
from benchmark.plots.layout import BLANK, CORRECT, WRONG, Tile, class_map, image_grid
from benchmark.plots.projection import components, planar, purity, silhouette, strongest
from benchmark.plots.scene import Scene, spread

pytestmark = pytest.mark.usefixtures("one_thread")

DECODER = partial(PixelDecoder, width=16, depth=1, heads=2)
HALF = {"decoder": DECODER, "mask_ratio": 0.5}
MOCO = partial(MoCo, temperature=0.2, momentum=0.9, queue_size=16, projector_width=6, symmetric=False, splits=1)
ALWAYS = {"tsne.png", "neighbours.png", "attention.png", "views.png"}
NAMES = ["$x", r"$\no maths$", "_hidden", "American Staffordshire terrier", "ÄÖ", *"abcde"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for runs, with 48 train and 24 test images of three classes that differ in colour."""
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    for i, (channel, name) in product(range(24), enumerate(("red", "green", "$blue$"))):
        path = folder / "photos" / ("train" if i < 16 else "test") / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 128, (16, 16, 3), dtype=np.uint8)
        image[..., channel] += 100
        Image.fromarray(image).save(path)
    return folder


def trained(photos: Path, folder: Path, *files: str, settings: tuple[str, ...] = ()) -> Path:
    """Train one step on the images of a folder, and return the folder of the run."""
    few = ("Pretraining.batch_size=32", "Budget.kind=samples", "Budget.amount=32", "experiment.evaluations=()")
    arguments = [part for file in files for part in ("--gin", f"gin/{file}.gin")]
    for setting in (*few, f"Images.source=folder:{photos}", "Images.name=photos", *settings):
        arguments += ["--set", setting]
    assert pretrain([*arguments, "--out", str(folder)]) == 0
    return next(folder.glob("[!.]*-photos-s0-*"))


@pytest.fixture(scope="module")
def run(out: Path) -> Path:
    """A finished run whose method restores patches."""
    return trained(out / "photos", out / "vit", "mae")


@pytest.fixture(scope="module")
def scene(run: Path) -> Scene:
    return Scene.of(run, allow_imports=False)


@pytest.fixture(scope="module")
def resnet_run(out: Path) -> Path:
    """A finished run on a convolutional network, of a method that shows nothing itself."""
    narrow = ("ResNet.base_width=8", "HEAD_HIDDEN=32")
    return trained(out / "photos", out / "resnet", "simclr", "protocol/digits_resnet18", settings=narrow)


def drawn(run: Path, folder: Path) -> set[str]:
    assert main([str(run), "--to", str(folder)]) == 0
    return {path.name for path in folder.iterdir()}


def pixels(images: Tensor) -> np.ndarray:
    return images.movedim(1, 3).numpy() / np.float32(255)


def rows(figure: Figure) -> dict[str, np.ndarray]:
    """Return the images of a grid by the names of its rows."""
    images = [np.asarray(axes.images[-1].get_array()) for axes in figure.axes]
    names = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes[::10]]
    return {name: np.stack(images[10 * i : 10 * i + 10]) for i, name in enumerate(names)}


def write_nothing(figure: Figure, path: Path, **_: object) -> None:
    """Take the place of `Figure.savefig`, which takes long, where the names of files are enough."""
    path.touch()


@pytest.mark.slow
def test_the_command_writes_what_a_run_allows(
    run: Path, resnet_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the files (by default in the run's folder), a line for each, and the reason for what is left out."""
    copy = tmp_path / run.name
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", write_nothing)
        assert drawn(resnet_run, tmp_path / "resnet") == ALWAYS
        assert main([str(copy)]) == 0
    assert {path.name for path in (copy / "figures").iterdir()} == ALWAYS
    assert f"left out: no checkpoint is left in {copy / 'checkpoints'}" in capsys.readouterr().out
    assert drawn(run, tmp_path / "vit") == ALWAYS | {"reconstructions.png"}
    assert set(capsys.readouterr().out.split()) == set(map(str, (tmp_path / "vit").iterdir()))
    assert {Image.open(path).format for path in (tmp_path / "vit").iterdir()} == {"PNG"}


def test_images_without_labels_are_drawn_as_far_as_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the files; what needs classes is left out with a reason, and no caption names labels."""
    monkeypatch.setattr(Figure, "savefig", write_nothing)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    run = trained(tmp_path / "photos", tmp_path / "runs", "mae", settings=("Images.test=None",))
    assert drawn(run, tmp_path / "figures") == {"attention.png", "views.png", "reconstructions.png"}
    assert "tsne.png left out: it needs train and test images of several classes" in capsys.readouterr().out
    assert "labels" not in figures.views(Scene.of(run, allow_imports=False))["views"].get_supxlabel()


@pytest.mark.slow
def test_figures_show_what_they_say(scene: Scene) -> None:
    """Oracle: the names of rows and classes, the first row's images, the word "illustration", what labels did."""
    expected = {
        "neighbours": ["test image", *(f"train {i}" for i in range(1, 9))],
        "attention": ["image", "PCA of patches", "head 1", "head 2", "head 3"],
        "views": ["image", *(f"view 1, draw {i}" for i in range(1, 7))],
        "reconstructions": ["original", "visible", "restored"],
    }
    by_name = {name: figure for figures_of in FIGURES.values() for name, figure in figures_of(scene).items()}
    assert list(by_name) == ["tsne", *expected]
    for name, figure in by_name.items():
        assert "(illustration): mae on photos" in figure.get_suptitle()
        assert "Test labels choose the images" in figure.get_supxlabel().replace("\n", " ")
        if name in expected:
            assert list(rows(figure)) == expected[name]
            assert [axes.get_title() for axes in figure.axes[:10]] == scene.shown[1]
            np.testing.assert_allclose(rows(figure)[expected[name][0]], pixels(scene.shown[0]), atol=1e-6)
    assert [text.get_text() for text in by_name["tsne"].legends[0].get_texts()] == ["$blue$", "green", "red"]
    assert [len(points.get_offsets()) for points in by_name["tsne"].axes[0].collections] == [8, 8, 8]
    torch.manual_seed(5)
    again = rows(figures.views(scene)["views"])
    assert all(np.array_equal(images, again[row]) for row, images in rows(by_name["views"]).items())
    assert not np.array_equal(again["view 1, draw 1"], again["view 1, draw 2"])


def test_neighbours_are_the_nearest_train_images(scene: Scene) -> None:
    """Oracle: cosines of all pairs; the mark and the colour of the frame tell whether the labels are equal."""
    figure = figures.neighbours(scene)["neighbours"]
    data, bank = scene.stage.dataset, scene.bank
    queries = spread(data.test.labels, data.name, 10)
    near = F.normalize(bank.test[scene.feature][queries]) @ F.normalize(bank.train[scene.feature]).T
    for place, ids in enumerate(near.argsort(descending=True)[:, :8].T, start=1):
        assert np.array_equal(rows(figure)[f"train {place}"], pixels(data.train.images[ids]))
        hits = data.train.labels[ids] == data.test.labels[queries]
        for axes, i, hit in zip(figure.axes[10 * place :], ids, hits, strict=False):
            assert axes.get_xlabel() == f"{'✓' if hit else '✗'} {data.classes[data.train.labels[i]]}"
            assert axes.spines["top"].get_edgecolor() == to_rgba(CORRECT if hit else WRONG)


def test_pictures_of_a_method_are_images_again(scene: Scene) -> None:
    """Oracle: the test images, where the row shows them; three quarters of a masked image are hidden."""
    _, visible, restored = rows(figures.pictures(scene)["reconstructions"]).values()
    hidden, images = (visible == np.float32(BLANK)).all(3), pixels(scene.shown[0])
    assert hidden.mean() == 0.75
    for row in (visible, restored):
        np.testing.assert_allclose(row[~hidden], images[~hidden], atol=1e-6)
    assert not np.allclose(restored[hidden], images[hidden], atol=1e-2)


MISUSE = {
    "no run": (2, "is not the folder of a finished run"),
    "diverged": (2, "diverged: its weights show nothing. Draw another run."),
    "full": (2, "is not empty. Give --to a folder"),
    "full/file.txt": (2, "is not empty. Give --to a folder"),
    "full/file.txt/figures": (2, "cannot be made a folder"),
    "no matplotlib": (3, "pip install 'ssl-benchmark[plots]'"),
}


@pytest.mark.parametrize("misuse", MISUSE)
def test_misuse_is_answered_and_nothing_is_written(
    misuse: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the exit code, the sentence that helps, and the folder as it was."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file.txt").write_text("of the user")
    record = records.read(next(run.glob("*-s*-*-*.json")))
    if misuse == "no run":
        run = tmp_path
    if misuse == "diverged":
        run = shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("*.json"))
        records.write(records.seal({**record, "status": "diverged"}), run)
    if misuse == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "benchmark.plots")
        monkeypatch.delattr("benchmark.plots")
    before = sorted(tmp_path.rglob("*"))
    code, answer = MISUSE[misuse]
    assert main([str(run), "--to", str(tmp_path / misuse)]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert answer in error
    assert sorted(tmp_path.rglob("*")) == before


def raw_mae() -> Method:
    method = MAE(vit(), decoder=DECODER, mask_ratio=0.5)
    method.restore = Restoration(method.encoder, DECODER, masked_weight=1.0, standardised=False)
    return method


RESTORING: dict[str, Callable[[], Method]] = {
    "mae": lambda: MAE(vit(), decoder=DECODER, mask_ratio=0.5),
    "raw mae": raw_mae,
    "macrl": lambda: MACRL(
        vit(), base=MOCO, **HALF, key_mask_ratio=0.0, kind="l2", contrast_weight=0.0, masked_weight=1.0
    ),
}


@pytest.mark.parametrize("name", RESTORING)
def test_reconstructions_are_what_the_loss_scores(name: str) -> None:
    """Oracle: the loss of the same draws, computed anew from the pictures; visible patches are the original's."""
    torch.manual_seed(1)
    method = RESTORING[name]()
    batch = views(dtype=torch.float32)[: method.n_views]
    with torch.no_grad():
        shown = method.pictures(batch, Draws(0, 3, BATCH))
        loss = method(batch, Draws(0, 3, BATCH)).loss
    assert list(shown) == [f"reconstructions/{row}" for row in ("original", "visible", "restored")]
    original, visible, restored = (patchify(images, 4) for images in shown.values())
    assert torch.equal(original, patchify(batch[0], 4))
    masked = visible.isnan().all(2)
    assert torch.equal(masked, visible.isnan().any(2))
    assert masked.sum(1).tolist() == [8] * BATCH
    for patches in (visible, restored):
        assert torch.equal(patches[~masked], original[~masked])
    scale = 1.0 if name == "raw mae" else original.var(2, keepdim=True) + 1e-6
    error = ((restored - original).square() / scale)[masked].mean()
    torch.testing.assert_close(error, loss, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("ratio", "masked"), [(0.0, 16), (0.5, 8)])
def test_restored_keys_are_what_the_loss_scores(ratio: float, masked: int) -> None:
    """Oracle: the absolute error of the same draws, computed anew from the pictures; the query's rows come first."""
    torch.manual_seed(1)
    settings = {"base": MOCO, **HALF, "key_mask_ratio": ratio, "contrast_weight": 1.0, "masked_weight": 1.0}
    method = MACRL(vit(), **settings, restore_key=True)
    unlike(method.base.target)
    batch = views(dtype=torch.float32)
    with torch.no_grad():
        shown = method.pictures(batch, Draws(0, 3, BATCH))
        loss = method(batch, Draws(0, 3, BATCH)).logs["key_reconstruction_loss"]
    rows = ["original", "visible", "restored"]
    key_rows = rows if ratio else ["original", "restored"]
    assert list(shown) == [f"reconstructions/{row}" for row in rows] + [f"keys/{row}" for row in key_rows]
    original, restored = (patchify(shown[f"keys/{row}"], 4) for row in ("original", "restored"))
    assert torch.equal(original, patchify(batch[1], 4))
    changed = (restored != original).any(2)
    assert changed.sum(1).tolist() == [masked] * BATCH
    if ratio:
        assert torch.equal(changed, patchify(shown["keys/visible"], 4).isnan().all(2))
    error = ((restored - original).abs() / (original.var(2, keepdim=True) + 1e-6).sqrt())[changed].mean()
    torch.testing.assert_close(error, loss, rtol=1e-4, atol=0)


def test_nothing_is_shown_where_nothing_is_restored() -> None:
    """Oracle: no pictures of a method without a decoder, of one that masks nothing, or whose decoder learns nothing."""
    batch = views(dtype=torch.float32)
    simclr = partial(SimCLR, temperature=0.2, projector_layers=2, projector_hidden=8, projector_width=4)
    mrcl = partial(MRCL, base=simclr, decoder=DECODER, visible_weight=1.0)
    whole, seen = mrcl(vit(), mask_ratio=0.0, masked_weight=1.0), mrcl(vit(), mask_ratio=0.5, masked_weight=0.0)
    for method in (simclr(vit()), whole, seen):
        assert method.pictures(batch[: method.n_views], Draws(0, 0, BATCH)) == {}


GRID = {"grid": 2, "pattern": "discrete", "mask_ratio": 0.5}
MIXERS: dict[str, Callable[[int], Mixer]] = {
    "MixMask": partial(MixMask, **GRID, permutation="random"),
    "UnMix": partial(UnMix, blend_probability=0.5, permutation="reverse"),
    "Erase": partial(Erase, **GRID, fill="mean"),
}


def test_mixtures_are_what_the_mixers_make() -> None:
    """Oracle: each mixer called by itself in its place, and the share of view and filler in every pixel."""
    method = Mixture(vit(), base=MOCO, mixers=tuple(MIXERS.values()))
    batch = views(dtype=torch.float32)
    pictures = method.pictures(batch, Draws(0, 4, BATCH))
    rows = ["view", "filler 1", "MixMask 1", "filler 2", "UnMix 2", "Erase 3"]
    assert list(pictures) == [f"mixtures/{row}" for row in rows]
    assert torch.equal(pictures["mixtures/view"], batch[0])
    for place, (name, mixer) in enumerate(MIXERS.items()):
        mixed = mixer(16)(batch[0], Draws(0, 4, BATCH), place)
        shown = pictures[f"mixtures/{name} {place + 1}"]
        assert torch.equal(shown, mixed.view)
        if mixed.inverse is not None:
            filler = pictures[f"mixtures/filler {place + 1}"]
            apart = batch[0] - filler
            share = ((shown - filler) * apart).sum((0, 1)) / apart.square().sum((0, 1))
            torch.testing.assert_close(shown, share * batch[0] + (1 - share) * filler)
            torch.testing.assert_close(share.mean(), mixed.own_share)


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
    parts = components(tokens).flatten(0, 1)
    expected = PCA(3).fit_transform(tokens.flatten(0, 1).double().numpy())
    for ours, theirs in zip(parts.T.numpy(), expected.T, strict=True):
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
    opposite = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [-1.0, 0.0]])
    assert silhouette(opposite, torch.tensor([0, 0, 1, 1])) == pytest.approx(1)
    assert silhouette(opposite, torch.tensor([0, 1, 0, 1])) == pytest.approx(-0.5)
    assert np.isnan(silhouette(points, torch.zeros(5, dtype=torch.int64)))


def test_attention_is_that_of_the_class_token() -> None:
    """Oracle: the softmax of queries and keys of the last block, head by head."""
    net, view = vit().eval().net, views(dtype=torch.float32)[0]
    layer = net.blocks[-1].attn
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    attention = class_attention(net, view)
    hook.remove()
    assert attention.shape == (BATCH, 3, 16)
    query, key, _ = layer.qkv(inputs[0]).chunk(3, dim=2)
    for head, at in enumerate((slice(0, 8), slice(8, 16), slice(16, 24))):
        expected = torch.einsum("bnd,bd->bn", key[..., at], query[:, 0, at] / 8**0.5).softmax(1)[:, 1:]
        torch.testing.assert_close(attention[:, head], expected)


def test_maps_show_what_speaks_for_the_class(resnet_run: Path) -> None:
    """Oracle: places of the last layer left out one by one: that without which the score falls most is brightest."""
    scene = Scene.of(resnet_run, allow_imports=False)
    view = scene.prepared(scene.shown[0])
    with torch.no_grad():
        maps, classes = class_maps(scene, view, scene.encoder(view).pooled)
        layers = scene.encoder.net.forward_features(view)
    probe = fit(scene.bank.train["pooled"], scene.bank.labels, 3, figures.STRENGTH)
    labels = probe.scores(layers.mean((2, 3))).argmax(1)
    assert classes == [scene.stage.dataset.classes[label] for label in labels]
    without = torch.empty(len(view), 2, 2)
    for row, column in np.ndindex(2, 2):
        rest = layers.clone()
        rest[..., row, column] = 0
        without[:, row, column] = probe.scores(rest.mean((2, 3)))[torch.arange(len(view)), labels]
    fall = without.amax((1, 2), keepdim=True) - without
    shares = [values / values.amax((1, 2), keepdim=True) for values in (maps, fall)]
    torch.testing.assert_close(*shares, atol=1e-3, rtol=0)


def test_grids_lay_out_any_names_without_overlap() -> None:
    """Oracle: the extents of what is drawn, within the page; grey for NaN, and heat from 0 to its largest value."""
    image = np.full((16, 16, 3), np.nan, dtype=np.float32)
    heat = np.array([[1.0, np.nan], [0.0, 2.0]], dtype=np.float32)
    tiles = {"a": [Tile(image, name, correct=True) for name in NAMES], "a long name": [Tile(image, heat=heat)] * 10}
    figure = image_grid("Title $ " * 20, "Caption $x^$ " * 40, NAMES, tiles)
    assert (figure.axes[0].images[0].get_array() == np.float32(BLANK)).all()
    assert figure.axes[10].images[1].get_clim() == (0, 2)
    figure.draw_without_rendering()
    title, caption = (text.get_window_extent() for text in figure.texts)
    first, second = (Bbox.union([axes.get_tightbbox() for axes in figure.axes[i : i + 10]]) for i in (0, 10))
    assert figure.bbox.y1 >= title.y1
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise((title, first, second, caption)))
    assert caption.y0 >= 0
    assert max(title.x1, first.x1, caption.x1) <= figure.bbox.x1
    for left, right in pairwise(figure.axes[:10]):
        assert left.title.get_window_extent().x1 < right.title.get_window_extent().x0


def test_maps_name_ten_classes_and_count_the_others() -> None:
    """Oracle: the legend and the points of each entry, for 12 classes whose names mean something to matplotlib."""
    points = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32)
    figure = class_map("Title $", "Caption $x^$", points, np.arange(48) % 12, [*NAMES, "k", "l"])
    figure.draw_without_rendering()
    labels = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert labels == [*NAMES, "2 others"]
    assert [len(entry.get_offsets()) for entry in figure.axes[0].collections] == [4] * 10 + [8]
