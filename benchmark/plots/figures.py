"""The figures of a finished run: a map of its features, nearest neighbours, attention, views, and the method's own.

Figures illustrate and score nothing. Every draw has a fixed seed, and all encoders are shown the same images: the first
of a hashed order. Test labels choose the images (each class in turn), colour points and mark hits.
"""

from collections.abc import Callable, Iterable, Iterator
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from benchmark.errors import ConfigError, method_errors
from benchmark.evals.linear import fit
from benchmark.evals.neighbours import nearest
from benchmark.nets.attention import set_fused
from benchmark.plots.layout import Tile, class_map, image_grid
from benchmark.plots.projection import components, planar, purity, silhouette, strongest
from benchmark.plots.scene import COLUMNS, LeftOut, Scene, spread
from benchmark.randomness import Draws
from benchmark.storage.files import make_folder

DOTS = 150  # per inch
POINTS = 2000  # of a map
PURITY_NEIGHBOURS = 10  # of each point, whose labels count for the purity of a map
NEIGHBOURS = 8  # shown of each test image
MASS = 0.6  # of a head's attention that is shown (Caron et al. 2021, arXiv:2104.14294)
STRENGTH = 1e-3  # L2 of the probe whose classes are located; not tuned
VIEWS = 6  # draws shown of a recipe
CAPTIONS = {
    "reconstructions": "The encoder does not see the grey patches. In the last row the decoder restores them, and the "
    "others are copied. Where the loss standardises patches, a restored one has the original's mean and contrast.",
    "keys": "The view of the momentum encoder, which does not see grey patches. In the last row the decoder restores "
    "these and the others are copied; where none is grey, it restores all.",
    "mixtures": "A mixture is a view with parts erased, or mixed with its filler, which is another image of the batch.",
}


def draw(run: Path, folder: Path, *, allow_imports: bool = False) -> Iterator[str]:
    """Draw every figure that a finished run allows into a new folder; yield a line for each, and for each left out.

    Raises ConfigError for a run that is not finished or diverged, and for a folder that is not empty, before anything
    is written.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty. Give --to a folder that does not exist yet.")
    scene = Scene.of(run, allow_imports)
    make_folder(folder)
    for kind, figures_of in FIGURES.items():
        try:
            for name, figure in figures_of(scene).items():
                path = folder / f"{name}.png"
                figure.savefig(path, dpi=DOTS, bbox_inches="tight", pad_inches=0.15)
                yield str(path)
        except LeftOut as reason:
            yield f"{kind} left out: {reason}"


def tsne(scene: Scene) -> dict[str, Figure]:
    """Map test features to the plane."""
    labels, data = scene.labels, scene.stage.dataset
    ids = spread(labels, data.name, POINTS)
    features, classes = F.normalize(scene.bank.test[scene.feature][ids], dim=1), labels[ids]
    if float(features.std(0).max()) < 1e-6:
        raise LeftOut("the features of all test images are equal")
    share, score = purity(features, classes, PURITY_NEIGHBOURS), silhouette(features, classes)
    caption = (
        f"{len(ids):,} test images, feature '{scene.feature}'. Measured on the features, not on the map: of an image's "
        f"{PURITY_NEIGHBOURS} nearest neighbours {share:.1%} are of its class, and the silhouette is {score:.2f}, both "
        "by cosine. The size of groups and the distance between them mean nothing. Labels colour the points and do not "
        "place them."
    )
    title = scene.title("t-SNE of test features")
    return {"tsne": class_map(title, scene.caption(caption), planar(features), classes.numpy(), data.classes)}


def neighbours(scene: Scene) -> dict[str, Figure]:
    """Show test images and the train images that are nearest to them."""
    data, bank = scene.stage.dataset, scene.bank
    queries = spread(scene.labels, data.name, COLUMNS)
    _, train_ids = nearest(bank.test[scene.feature][queries], bank.train[scene.feature], NEIGHBOURS)
    classes = [data.classes[label] for label in scene.labels[queries].tolist()]
    rows = {"test image": tiles(data.test.images[queries])}
    for rank, ids in enumerate(train_ids.T, start=1):
        names = [data.classes[label] for label in bank.labels[ids].tolist()]
        correct = (bank.labels[ids] == scene.labels[queries]).tolist()
        rows[f"train {rank}"] = tiles(data.train.images[ids], label=names, correct=correct)
    caption = (
        f"Below each test image are the train images nearest to it by cosine, feature '{scene.feature}'. Green and ✓: "
        "the class is the same; red and ✗: it is another."
    )
    return {"neighbours": image_grid(scene.title("Nearest neighbours"), scene.caption(caption), classes, rows)}


@torch.no_grad()
def attention(scene: Scene) -> dict[str, Figure]:
    """Show attention and patch features of a transformer, or class activation maps of a convolutional network."""
    images, names = scene.shown
    view, net = scene.prepared(images), scene.encoder.net
    features = scene.encoder(view)
    rows = {"image": tiles(images)}
    if features.tokens is None:
        title = "Class activation maps"
        maps, predicted = class_maps(scene, view, features.pooled)
        rows["predicted class"] = tiles(images, label=predicted, heat=maps.numpy())
        caption = (
            "What each place of the last layer adds to the score of the class named below, which a linear probe of "
            "train features predicts: yellow most, blue least, each map scaled (Zhou et al. 2016, arXiv:1512.04150)."
        )
    else:
        title = "Patch features and attention"
        square = (isqrt(features.tokens.shape[1]),) * 2
        rows["PCA of patches"] = tiles(components(features.tokens.cpu()).mT.unflatten(2, square))
        caption = (
            "PCA: the first three principal components of the features of all these patches, as red, green and blue. A "
            "pattern that all images share comes from position alone."
        )
        if isinstance(net, VisionTransformer) and net.cls_token is not None:
            for i, head in enumerate(strongest(class_attention(net, view), MASS).unbind(1), start=1):
                rows[f"head {i}"] = tiles(images, heat=head.unflatten(1, square).numpy())
            caption += (
                f" Heads: in colour the fewest patches that hold {MASS:.0%} of what the class token attends to in the "
                "last block, yellow most (Caron et al. 2021, arXiv:2104.14294). Where pretraining hardly uses this "
                "token, the PCA says more."
            )
    return {"attention": image_grid(scene.title(title), scene.caption(caption), names, rows)}


def class_attention(net: VisionTransformer, view: Tensor) -> Tensor:
    """Return the attention of the class token to patches in the last block, `(batch, heads, patches)`."""
    layer = net.blocks[-1].get_submodule("attn")
    inputs: list[Tensor] = []
    hook = layer.get_submodule("attn_drop").register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    set_fused(layer, False)  # the fused kernel keeps no matrix
    net.forward_features(view)
    hook.remove()
    return inputs[0][:, :, 0, net.num_prefix_tokens :].float().cpu()


def class_maps(scene: Scene, view: Tensor, pooled: Tensor) -> tuple[Tensor, list[str]]:
    """Return class activation maps `(batch, height, width)`, and the names of the classes that a probe predicts.

    From activations A `(channels, height, width)` and the probe's weights w `(channels)` for the predicted class:
    map = sum over channels of w A, less its least value. Raises LeftOut where the feature is not the mean of A.
    """
    maps = scene.encoder.net.forward_features(view)
    if maps.shape[:2] != pooled.shape or not torch.allclose(maps.mean((2, 3)), pooled, rtol=1e-3, atol=1e-4):
        raise LeftOut(f"{scene.encoder.name} has neither patch tokens nor a map whose mean is its feature")
    probe = fit(scene.bank.train["pooled"], scene.bank.labels, scene.bank.classes, STRENGTH)
    predicted = probe.scores(pooled.cpu()).argmax(1)
    evidence = torch.einsum("nchw,cn->nhw", maps.cpu(), probe.weight[:, predicted])
    classes = [scene.stage.dataset.classes[label] for label in predicted.tolist()]
    return evidence - evidence.amin((1, 2), keepdim=True), classes


def views(scene: Scene) -> dict[str, Figure]:
    """Show the views of images that the method gets, in several draws."""
    _, recipe = scene.stage.method()
    images, names = scene.shown
    rows = {"image": tiles(images)}
    for number, view in enumerate(recipe):
        for i in range(VIEWS // len(recipe)):
            draws = Draws(0, i, len(images))
            augmented = view(
                images, images.shape[-1], lambda name, *shape, d=draws, v=number: d.rows(("view", v, name), *shape)
            )
            rows[f"view {number + 1}, draw {i + 1}"] = tiles(augmented)
    caption = "Images as the method gets them in pretraining, in several draws."
    return {"views": image_grid(scene.title("Views"), scene.caption(caption), names, rows)}


@torch.no_grad()
def pictures(scene: Scene) -> dict[str, Figure]:
    """Show the images that the method itself returns; most methods return none."""
    method = scene.method()
    images, names = scene.shown
    view = scene.prepared(images)
    mean, std = (torch.tensor(values)[:, None, None] for values in scene.stage.statistics)
    grids: dict[str, dict[str, list[Tile]]] = {}
    with method_errors(f"{type(method).__name__} makes no pictures", type(method)):
        normalised = method.pictures([view] * method.n_views, Draws(0, 0, len(view), view.device))
    for name, batch in normalised.items():
        grid, _, row = name.partition("/")
        grids.setdefault(grid, {})[row] = tiles(batch.cpu() * std + mean)
    return {
        grid: image_grid(scene.title(grid.capitalize()), scene.caption(CAPTIONS.get(grid, "")), names, rows)
        for grid, rows in grids.items()
    }


FIGURES: dict[str, Callable[[Scene], dict[str, Figure]]] = {
    "tsne.png": tsne,
    "neighbours.png": neighbours,
    "attention.png": attention,
    "views.png": views,
    "images of the method itself": pictures,
}


def tiles(images: Tensor, **details: Iterable[Any]) -> list[Tile]:
    """Return images `(n, 3, size, size)`, uint8 or in [0, 1], as tiles with details such as their labels."""
    floats = (images / 255 if images.dtype == torch.uint8 else images).movedim(1, 3).numpy()
    return [
        Tile(image, **dict(zip(details, values, strict=True)))
        for image, *values in zip(floats, *details.values(), strict=True)
    ]
