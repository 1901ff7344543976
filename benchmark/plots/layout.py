"""Layouts of figures by matplotlib: a grid of images, and a map of points."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.report.palette import COLOURS, MARKERS

Floats = npt.NDArray[np.float32]

STYLE: list[Any] = ["default", {"text.parse_math": False, "font.size": 9, "axes.titlesize": 8, "axes.labelsize": 8}]
WIDTH = 10  # inches
TILE = 0.87  # inches that the side of an image takes
LINE = 0.15  # inches that a line of text takes
LETTERS = 13  # in a line above or below an image
BLANK = 0.8  # the grey of pixels that show nothing
CORRECT, WRONG = "#009E73", "#D55E00"  # colour-blind readers can tell them apart (Okabe and Ito 2008)
OTHERS = "#CCCCCC"


@dataclass(frozen=True)
class Tile:
    """A square image `(side, side, 3)` in [0, 1], NaN where it shows nothing, with a label below it.

    With `heat` `(n, n)` the image is dark and grey below colours from blue (0) to yellow (the largest value of heat);
    NaN has no colour. `correct` gives the image a frame and its label a mark.
    """

    image: Floats
    label: str = ""
    correct: bool | None = None
    heat: Floats | None = None


@style.context(STYLE)
def image_grid(title: str, caption: str, headings: Sequence[str], rows: Mapping[str, Sequence[Tile]]) -> Figure:
    """Draw rows of images, each with its name at the left, below one heading for each column."""
    labels = [[_label(tile) for tile in tiles] for tiles in rows.values()]
    lines = sum(max(text.count("\n") + 1 if text else 0 for text in row) for row in labels)
    figure = _figure(title, caption, len(rows) * TILE + lines * LINE)
    grid = figure.subplots(len(rows), len(headings), squeeze=False)
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(_shortened(heading))
    for cells, texts, (name, tiles) in zip(grid, labels, rows.items(), strict=True):
        cells[0].set_ylabel(textwrap.fill(name, LETTERS + 2), rotation=0, ha="right", va="center")
        for axes, text, tile in zip(cells, texts, tiles, strict=True):
            axes.set_xlabel(text, labelpad=2)
            _show(axes, tile)
    return figure


@style.context(STYLE)
def class_map(title: str, caption: str, points: Floats, classes: npt.NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Draw points `(n, 2)` of classes `(n,)`: the first ten of `names` have colour and shape, the others are grey."""
    figure = _figure(title, caption, 6)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    styles = list(zip(names, COLOURS, MARKERS, strict=False))
    if len(names) > len(styles):
        styles.append((f"{len(names) - len(styles)} others", OTHERS, "o"))
    groups = classes.clip(max=len(COLOURS))
    size = 30 * min(1.0, (500 / len(points)) ** 0.5)
    handles = []
    for i, (_, colour, marker) in enumerate(styles):
        x, y = points[groups == i].T
        handles.append(axes.scatter(x, y, s=size, c=colour, marker=marker, linewidths=0, zorder=len(styles) - i))
    labels = [textwrap.fill(name, 2 * LETTERS) for name, _, _ in styles]
    figure.legend(handles, labels, loc="outside right upper", frameon=False, markerscale=1.5)
    return figure


def _figure(title: str, caption: str, height: float) -> Figure:
    """Return an empty figure with room for `height` inches between its title and its caption."""
    title, caption = textwrap.fill(title, 95), textwrap.fill(caption, 140)
    figure = Figure((WIDTH, height + LINE * (caption.count("\n") + 5)), layout="compressed")
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold")
    figure.supxlabel(caption, x=0.01, ha="left", size=9)
    return figure


def _shortened(text: str) -> str:
    return textwrap.fill(text, LETTERS, max_lines=2, placeholder="…")


def _label(tile: Tile) -> str:
    mark = {True: "✓ ", False: "✗ ", None: ""}[tile.correct]  # readers who see no colours need a mark
    return _shortened(mark + tile.label)


def _show(axes: Axes, tile: Tile) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(tile.correct is not None)
    axes.spines[:].set(color=CORRECT if tile.correct else WRONG, linewidth=2)
    frame = (0, 1, 0, 1)
    if tile.heat is None:
        axes.imshow(np.nan_to_num(tile.image, nan=BLANK).clip(0, 1), extent=frame)
    else:
        axes.imshow(tile.image.mean(2), cmap="gray", vmin=0, vmax=2, extent=frame)
        axes.imshow(tile.heat, cmap="viridis", vmin=0, alpha=0.6, extent=frame)
