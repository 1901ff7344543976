"""What a finished run shows of itself: a map of its features, the neighbours it finds, what it attends to, and more.

Illustrations, never scores. Every draw has a fixed seed, and the images are the first of a hashed order, the same for
every encoder, whatever they show. Test labels have the classes take turns, colour points and mark hits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from benchmark import checkpoint
from benchmark import config as configuration
from benchmark.blame import blamed
from benchmark.data.subsets import hashed_order
from benchmark.errors import BenchmarkError, ConfigError
from benchmark.evals import harness, layouts
from benchmark.evals.features import Bank
from benchmark.evals.knn import KNN
from benchmark.evals.linear import fit
from benchmark.evals.neighbours import nearest
from benchmark.folders import make_folder
from benchmark.method import Draws, Method
from benchmark.nets.attention import set_fused
from benchmark.nets.encoders import Encoder
from benchmark.plots import layout
from benchmark.plots.layout import Scatter, Sheet, Tile
from benchmark.plots.projection import components, planar, purity, silhouette, strongest
from benchmark.report.record import Record
from benchmark.session import Session
from benchmark.subject import Subject
from benchmark.views.colour import normalise

FEWEST = 5  # test images of which features say anything
POINTS = 2000  # of a map
AROUND = 10  # points among which its purity is measured
NEIGHBOURS = 8  # shown of each query
MASS = 0.6  # of a head's attention that is shown (Caron et al. 2021, arXiv:2104.14294)
STRENGTH = 1e-3  # L2 of the probe whose classes are located; not tuned
VIEWS = 6  # draws shown of a recipe

LABELS = "Test labels choose the images, one class after the other"
CAPTIONS = {
    "reconstructions": "The encoder does not see the grey patches; the last row has them from the decoder, the others "
    "as they are. Where the loss standardises patches, a restored one has the mean and contrast of the original.",
    "mixtures": "A mixture is a view with parts of its filler, another image of the batch, or with parts erased.",
}


class LeftOut(Exception):  # noqa: N818, no error: the other figures are drawn
    """Why a figure cannot be drawn for this run."""


def draw(run: Path, folder: Path, *, allow_imports: bool = False) -> Iterator[str]:
    """Draw every figure that a finished run allows into a new folder; yield a line for each, and for each left out.

    Raises ConfigError for a run that is not finished or diverged, and for a folder that holds something; nothing is
    written then.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty. Give --to a folder that does not exist yet.")
    scene = Scene.of(run, allow_imports)
    make_folder(folder)
    for name, makes in FIGURES.items():
        try:
            for figure, made in makes(scene).items():
                made.save(folder / f"{figure}.png")
                yield str(folder / f"{figure}.png")
        except LeftOut as reason:
            yield f"{name} left out: {reason}"


@dataclass(frozen=True)
class Scene:
    """A finished run, rebuilt from its record and weights, and the images that its figures show."""

    run: Path
    record: Record
    session: Session
    encoder: Encoder

    @classmethod
    def of(cls, run: Path, allow_imports: bool) -> "Scene":
        """Rebuild the run in a folder."""
        subject = Subject.of_run(run)
        record = subject.run
        assert record is not None
        if record["status"] == "diverged":
            raise ConfigError(f"The run in {run} diverged: its weights show nothing. Draw another run.")
        config = configuration.load((), (), allow_imports=allow_imports, stored=record["config"]["text"])
        session = Session.open(config, run.parent)
        encoder = session.encoder()
        layouts.load(encoder, str(subject.weights), subject.layout)
        return cls(run, record, session, encoder.to(session.device).eval())

    @cached_property
    def labels(self) -> Tensor:
        """The labels of the test images."""
        data = self.session.dataset
        if data.test.labels is None or data.train.labels is None or len(data.classes) < 2:
            raise LeftOut(f"it needs train and test images of several classes, which {data.name} has not")
        return data.test.labels

    @cached_property
    def shown(self) -> tuple[Tensor, list[str]]:
        """The images on sheets, uint8 `(n, 3, size, size)`, of the test split where there is one, and their classes."""
        data = self.session.dataset
        count = layout.columns(data.size)
        if data.test.labels is None:
            ids = spread(torch.zeros(len(data.pretrain), dtype=torch.int64), data.name, count)
            return data.pretrain[ids], [""] * len(ids)
        ids = spread(data.test.labels, data.name, count)
        return data.test.images[ids], [data.classes[label] for label in data.test.labels[ids].tolist()]

    @cached_property
    def bank(self) -> Bank:
        """The features of all images as evaluations see them."""
        if len(self.labels) < FEWEST:
            raise LeftOut(f"it needs {FEWEST} test images, and {self.session.dataset.name} has {len(self.labels)}")
        looker, limits = _Looker(), self.session.experiment.limits()
        harness.evaluate_encoder(self.encoder, self.session.dataset, (looker,), self.session.device, limits=limits)
        return looker.banks[0]

    @cached_property
    def feature(self) -> str:
        """The feature that nearest neighbours do best with on the hold-out."""
        return str(KNN()(self.bank).choices["feature"])

    def method(self) -> Method:
        """Return the method as it was when the run ended, heads and decoders included."""
        folder = self.run / "checkpoints"
        try:
            state, _ = checkpoint.newest(folder, self.session.checkpoint_key)
        except BenchmarkError as problem:
            raise LeftOut(f"no checkpoint in {folder} is sound and of this run") from problem
        if state is None:
            raise LeftOut(f"no checkpoint is left in {folder}")
        method, _ = self.session.method()
        try:
            method.load_state_dict(state["method"])
        except RuntimeError as problem:
            raise LeftOut(f"the checkpoint in {folder} does not fit the code any more: {problem}") from problem
        return method.to(self.session.device).eval()

    def prepared(self, images: Tensor) -> Tensor:
        """Return uint8 images as the encoder sees them."""
        data = self.session.dataset
        return normalise(images.to(self.session.device).float() / 255, data.mean, data.std)

    def title(self, what: str) -> str:
        """Return a title that says whose figure it is."""
        record = self.record
        return (
            f"{what} (illustration): {record['method']['name']} on {record['dataset']['name']}, "
            f"{record['encoder']['name']}, seed {record['seed']}"
        )


class _Looker:
    """An evaluation that scores nothing and keeps what evaluations see."""

    name, version = "pictures", "1.0"

    def __init__(self) -> None:
        self.banks: list[Bank] = []

    def __call__(self, bank: Bank) -> None:
        self.banks.append(bank)


def spread(labels: Tensor, name: str, count: int) -> Tensor:
    """Return the ids of up to `count` images: in turn of each class the next in its hashed order."""
    orders = hashed_order(labels, name, "pictures")
    turns = range(max(map(len, orders)))
    return torch.stack([order[turn] for turn in turns for order in orders if turn < len(order)][:count])


def tsne(scene: Scene) -> dict[str, Sheet | Scatter]:
    """Map test features to the plane."""
    labels, data = scene.labels, scene.session.dataset
    ids = spread(labels, data.name, POINTS)
    features, classes = F.normalize(scene.bank.test[scene.feature][ids], dim=1), labels[ids]
    if float(features.std(0).max()) < 1e-6:
        raise LeftOut("the features of all test images are equal")
    caption = (
        f"{len(ids):,} test images, feature '{scene.feature}'. Measured on the features, not on the map: "
        f"{purity(features, classes, AROUND):.1%} of an image's {AROUND} nearest neighbours are of its class, and the "
        f"silhouette is {silhouette(features, classes):.2f}, both by cosine. The size of a group and the distance "
        f"between two mean nothing. {LABELS}, and colour them; they have no part in the map."
    )
    title = scene.title("t-SNE of test features")
    return {"tsne": Scatter(title, caption, planar(features), classes.numpy(), data.classes)}


def neighbours(scene: Scene) -> dict[str, Sheet | Scatter]:
    """Show test images and the train images that are nearest to them."""
    data, bank = scene.session.dataset, scene.bank
    queries = spread(scene.labels, data.name, layout.columns(data.size))
    _, found = nearest(bank.test[scene.feature][queries], bank.train[scene.feature], NEIGHBOURS)
    wanted = scene.labels[queries].tolist()
    rows = {"test image": tiles(data.test.images[queries].float() / 255)}
    for place, ids in enumerate(found.T, start=1):
        images = tiles(data.train.images[ids].float() / 255)
        rows[f"train {place}"] = [
            Tile(tile.image, data.classes[label], label == own)
            for tile, label, own in zip(images, bank.labels[ids].tolist(), wanted, strict=True)
        ]
    caption = (
        f"Below each test image the train images nearest to it by cosine, feature '{scene.feature}'. Green and ✓: of "
        f"the same class; red and ✗: of another. {LABELS}, and mark hits; which image of a class is hashed."
    )
    title = scene.title("Nearest neighbours")
    return {"neighbours": Sheet(title, caption, [data.classes[label] for label in wanted], rows)}


@torch.no_grad()
def attention(scene: Scene) -> dict[str, Sheet | Scatter]:
    """Show where a transformer looks and how its patches differ, or where a convolutional network sees a class."""
    images, names = scene.shown
    view, net, size = scene.prepared(images), scene.encoder.net, images.shape[-1]
    features = scene.encoder(view)
    rows = {"image": tiles(images.float() / 255)}
    if features.tokens is None:
        maps, seen = class_maps(scene, view, features.pooled)
        rows["the class seen"] = [
            Tile(tile.image, word) for tile, word in zip(overlaid(images, maps), seen, strict=True)
        ]
        caption = (
            f"Where the last layer speaks for the class, named below, that a linear probe of train features sees: "
            f"yellow most, blue least, each map by itself (Zhou et al. 2016, arXiv:1512.04150). {LABELS}."
        )
        return {"attention": Sheet(scene.title("Class activation maps"), caption, names, rows)}
    rows["PCA of patches"] = tiles(squares(components(features.tokens.cpu()), size))
    if isinstance(net, VisionTransformer) and net.cls_token is not None:
        for i, head in enumerate(strongest(class_attention(net, view), MASS).unbind(1), start=1):
            rows[f"head {i}"] = overlaid(images, squares(head[..., None], size)[:, 0])
    caption = (
        f"PCA: the first three principal components of the features of all patches here, as red, green and blue; a "
        f"pattern that all images share is mere position. Heads: what the class token attends to in the last block, in "
        f"colour as few patches as hold {MASS:.0%} of it, yellow most (Caron et al. 2021, arXiv:2104.14294). Where "
        f"pretraining hardly uses the class token, the PCA says more. {LABELS}."
    )
    return {"attention": Sheet(scene.title("Patch features and attention"), caption, names, rows)}


def class_attention(net: VisionTransformer, view: Tensor) -> Tensor:
    """Return the attention of the class token to patches in the last block, `(batch, heads, patches)`."""
    layer = net.blocks[-1].get_submodule("attn")
    seen: list[Tensor] = []
    hook = layer.get_submodule("attn_drop").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    set_fused(layer, False)  # the fused kernel keeps no matrix
    net.forward_features(view)
    hook.remove()
    return seen[0][:, :, 0, net.num_prefix_tokens :].float().cpu()


def class_maps(scene: Scene, view: Tensor, pooled: Tensor) -> tuple[Tensor, list[str]]:
    """Return what each place adds to the score of the class that a probe sees, `(batch, size, size)`, and its name.

    Maps are scaled to [0, 1] each. Raises LeftOut where the feature is not the mean of a map.
    """
    maps = scene.encoder.net.forward_features(view)
    if maps.shape[:2] != pooled.shape or not torch.allclose(maps.mean((2, 3)), pooled, rtol=1e-3, atol=1e-4):
        raise LeftOut(f"{scene.encoder.name} has neither patch tokens nor a map whose mean is its feature")
    probe = fit(scene.bank.train["pooled"], scene.bank.labels, scene.bank.classes, STRENGTH)
    chosen = probe.scores(pooled.cpu()).argmax(1)
    added = torch.einsum("nchw,cn->nhw", maps.cpu(), probe.weight[:, chosen])[:, None]
    low, high = added.amin((2, 3), keepdim=True), added.amax((2, 3), keepdim=True)
    scaled = F.interpolate((added - low) / (high - low).clamp_min(1e-12), size=view.shape[-1], mode="nearest")
    return scaled[:, 0], [scene.session.dataset.classes[label] for label in chosen.tolist()]


def views(scene: Scene) -> dict[str, Sheet | Scatter]:
    """Show what the recipe of the run makes of images before the method sees them."""
    _, recipe = scene.session.method()
    images, names = scene.shown
    rows = {"image": tiles(images.float() / 255)}
    for number, view in enumerate(recipe):
        for i in range(VIEWS // len(recipe)):
            draws = Draws(0, i, len(images))
            made = view(
                images, images.shape[-1], lambda name, *shape, d=draws, v=number: d.rows(("view", v, name), *shape)
            )
            rows[f"view {number + 1}, draw {i + 1}"] = tiles(made)
    caption = f"Images as the method gets them in pretraining, in several draws. {LABELS}."
    return {"views": Sheet(scene.title("Views"), caption, names, rows)}


@torch.no_grad()
def pictures(scene: Scene) -> dict[str, Sheet | Scatter]:
    """Show what the method makes of whole images; most methods make nothing."""
    method = scene.method()
    images, names = scene.shown
    view = scene.prepared(images)
    data = scene.session.dataset
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    figures: dict[str, dict[str, list[Tile]]] = {}
    with blamed(f"{type(method).__name__} makes no pictures", type(method)):
        shown = method.pictures([view] * method.n_views, Draws(0, 0, len(view), view.device))
    for name, made in shown.items():
        figure, _, row = name.partition("/")
        figures.setdefault(figure, {})[row] = tiles(made.cpu() * std + mean)
    return {
        figure: Sheet(scene.title(figure.capitalize()), f"{CAPTIONS.get(figure, '')} {LABELS}.".lstrip(), names, rows)
        for figure, rows in figures.items()
    }


FIGURES: dict[str, Callable[[Scene], dict[str, Sheet | Scatter]]] = {
    "tsne.png": tsne,
    "neighbours.png": neighbours,
    "attention.png": attention,
    "views.png": views,
    "what the method itself makes of images": pictures,
}


def tiles(images: Tensor) -> list[Tile]:
    """Return images `(n, 3, size, size)` in [0, 1] as tiles."""
    return [Tile(image.permute(1, 2, 0).numpy()) for image in images]


def squares(patches: Tensor, size: int) -> Tensor:
    """Lay patches `(n, patches, channels)` out in squares `(n, channels, size, size)`, enlarged without smoothing."""
    side = isqrt(patches.shape[1])
    return F.interpolate(patches.mT.unflatten(2, (side, side)), size=size, mode="nearest")


def overlaid(images: Tensor, heat: Tensor) -> list[Tile]:
    """Return uint8 images in grey under maps `(n, size, size)`, each relative to its largest value; dark where NaN."""
    grey = images.float().mean(1, keepdim=True) / 255
    level = heat / heat.nan_to_num(0).amax((1, 2), keepdim=True).clamp_min(1e-12)
    colours = torch.from_numpy(layout.heat(level.numpy())).permute(0, 3, 1, 2)
    return tiles(torch.where(level.isnan()[:, None], 0.3 * grey, 0.35 * grey + 0.65 * colours))
