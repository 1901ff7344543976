"""Sheets of images and maps of points as PNG files, 1000 pixels wide; nothing here knows what they show.

The same content gives the same bytes: every length is in pixels, settings of the user have no say, and the files hold
neither dates nor versions.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmark.errors import MissingError

try:
    from matplotlib import colormaps, style
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ImportError as problem:
    raise MissingError(
        f"Figures are drawn by matplotlib, which cannot be imported: {problem}. pip install 'ssl-benchmark[plots]'"
    ) from problem

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

WIDTH = 1000
DOTS = 100  # per inch
MARGIN = 14
GAP = 5  # between tiles
FRAME = 2
LINE = 17  # height of a line of text
LETTER = 7.2  # mean width of a letter
TILE = 86  # side of a tile, more or less
LARGEST = 96  # images that are not made smaller
NAMES = 80  # width of the column of names
MAP = 760  # width of a map of points
BLANK = 0.8  # the grey of pixels that show nothing
RIGHT, WRONG = "#009E73", "#D55E00"  # told apart by colour-blind readers too (Okabe and Ito 2008)
COLOURS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#DDCC77", "#AA4499", "#44AA99", "#882255", "#999933", "#000000")
MARKERS = "osD^vP*X<>"  # a shape each, since nobody tells ten colours apart; these are Paul Tol's muted ones and black
OTHERS = "#CCCCCC"
SIZES = {"*": 2.0, ".": 1.5}  # of markers that would look smaller than others


@dataclass(frozen=True)
class Tile:
    """A square image `(side, side, 3)` in [0, 1], NaN where it shows nothing; words below it and a verdict."""

    image: Floats
    words: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Sheet:
    """Rows of tiles by name; all tiles are of one size, and one heading stands above each column."""

    title: str
    caption: str
    headings: Sequence[str]
    rows: Mapping[str, Sequence[Tile]]

    @style.context("default")
    def save(self, path: Path) -> None:
        """Write the sheet as a PNG file."""
        side = _shown(len(next(iter(self.rows.values()))[0].image))
        headed = LINE * any(self.headings)
        heights = [side + GAP + (LINE + 2) * any(_words(tile) for tile in tiles) for tiles in self.rows.values()]
        page = _Page(self.title, self.caption, headed + sum(heights))
        lefts = [MARGIN + NAMES + (side + GAP) * column for column in range(len(self.headings))]
        for left, heading in zip(lefts, self.headings, strict=True):
            page.centre(left, page.top, side + GAP, heading)
        top = page.top + headed
        for (name, tiles), height in zip(self.rows.items(), heights, strict=True):
            page.lines(MARGIN, top + side / 2, name, NAMES)
            for left, tile in zip(lefts, tiles, strict=True):
                page.show(left, top, side, tile)
                page.centre(left, top + side + FRAME + 1, side + GAP, _words(tile))
            top += height
        page.save(path)


@dataclass(frozen=True)
class Scatter:
    """Points `(n, 2)` of the classes `(n,)`; the first ten of `names` have colour and shape, the rest is grey."""

    title: str
    caption: str
    points: Floats
    classes: npt.NDArray[np.int64]
    names: Sequence[str]

    @style.context("default")
    def save(self, path: Path) -> None:
        """Write the map and its legend as a PNG file."""
        width, height = np.ptp(self.points, axis=0)
        page = _Page(self.title, self.caption, int(MAP * np.clip(height / width, 0.6, 1.0)))
        axes = page.axes(MAP)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        named = self.names[: len(COLOURS)]
        looks = [(_fit(name, WIDTH - MAP - 110), *look) for name, *look in zip(named, COLOURS, MARKERS, strict=False)]
        if len(self.names) > len(named):
            looks.append((f"{len(self.names) - len(named)} others", OTHERS, "."))
        size = 30 * min(1.0, (500 / len(self.points)) ** 0.5)
        places = self.classes.clip(max=len(COLOURS))
        for place in reversed(range(len(looks))):  # the grey ones first, below the others
            _, colour, marker = looks[place]
            x, y = self.points[places == place].T
            axes.scatter(x, y, c=colour, marker=marker, s=size * SIZES.get(marker, 1.0), linewidths=0)
        page.figure.legend(
            handles=[Line2D([], [], color=colour, marker=marker, ls="", ms=8) for _, colour, marker in looks],
            labels=[name.replace("$", r"\$") for name, *_ in looks],
            loc="upper left",
            bbox_to_anchor=((MARGIN + MAP + 2) / WIDTH, 1 - page.top / page.height),
            borderpad=0,
            frameon=False,
            fontsize=11,
            labelspacing=0.7,
        )
        page.save(path)


def columns(side: int) -> int:
    """Return how many images of `side` pixels stand beside each other on a sheet."""
    return (WIDTH - 2 * MARGIN - NAMES) // (_shown(side) + GAP)


def heat(values: Floats) -> Floats:
    """Return colours `(..., 3)` of values in [0, 1], blue to yellow and ever lighter."""
    return colormaps["viridis"](values)[..., :3].astype(np.float32)


def _shown(side: int) -> int:
    """Return the side of a tile: a multiple of the image's, so that all its pixels are of one size, unless reduced."""
    return round(TILE / side) * side if side <= LARGEST else TILE


def _words(tile: Tile) -> str:
    mark = {True: "✓ ", False: "✗ ", None: ""}[tile.right]  # so that the verdict does not rest on a colour
    return mark + tile.words


def _fit(text: str, width: float) -> str:
    """Cut a line of text to `width` pixels."""
    letters = int(width / LETTER)
    return text if len(text) <= letters else text[: letters - 1] + "…"


class _Page:
    """A white page with a title and a caption; positions are pixels from the upper left corner."""

    def __init__(self, title: str, caption: str, height: int) -> None:
        """Make room for `height` pixels between the two, from `top` on."""
        titles = textwrap.wrap(title, int((WIDTH - 2 * MARGIN) / LETTER / 1.4))
        captions = textwrap.wrap(caption, int((WIDTH - 2 * MARGIN) / LETTER * 1.07))
        self.room = height
        self.top = MARGIN + 24 * len(titles) + GAP
        below = self.top + height + GAP
        self.height = below + LINE * len(captions) + MARGIN
        self.figure = Figure(figsize=(WIDTH / DOTS, self.height / DOTS), dpi=DOTS)
        for i, line in enumerate(titles):
            self._write(MARGIN, MARGIN + 24 * i, line, size=12.5, weight="bold")
        for i, line in enumerate(captions):
            self._write(MARGIN, below + LINE * i, line, size=9)

    def axes(self, width: int) -> Axes:
        """Return axes on the left, between title and caption."""
        bottom = 1 - (self.top + self.room) / self.height
        return self.figure.add_axes((MARGIN / WIDTH, bottom, width / WIDTH, self.room / self.height))

    def centre(self, left: float, top: float, width: float, text: str) -> None:
        """Write a line in the middle of `width` pixels, cut to them."""
        self._write(left + (width - GAP) / 2, top, _fit(text, width), ha="center")

    def lines(self, left: float, middle: float, text: str, width: float) -> None:
        """Write lines of `width` pixels around a height."""
        lines = textwrap.wrap(text, int(width / LETTER))
        for i, line in enumerate(lines):
            self._write(left, middle + LINE * (i - len(lines) / 2), line)

    def show(self, left: int, top: int, side: int, tile: Tile) -> None:
        """Show a tile: enlarged without smoothing, reduced with it."""
        pixels: Bytes = (np.nan_to_num(tile.image, nan=BLANK).clip(0, 1) * 255).round().astype(np.uint8)
        kind = Image.Resampling.NEAREST if side >= len(pixels) else Image.Resampling.LANCZOS
        scaled = np.asarray(Image.fromarray(pixels).resize((side, side), kind))
        frame = 0
        if tile.right is not None:
            frame = FRAME
            colour = np.array(to_rgb(RIGHT if tile.right else WRONG)) * 255
            framed = np.tile(colour.round().astype(np.uint8), (side + 2 * frame, side + 2 * frame, 1))
            framed[frame:-frame, frame:-frame] = scaled
            scaled = framed
        self.figure.figimage(scaled, left - frame, self.height - top - side - frame)

    def save(self, path: Path) -> None:
        """Write the page as a PNG file."""
        self.figure.savefig(path, metadata={"Software": None})

    def _write(
        self, left: float, top: float, text: str, *, size: float = 9, weight: str = "normal", ha: str = "left"
    ) -> None:
        line = top + size * DOTS / 72  # that letters stand on, wherever the highest of them ends
        self.figure.text(left / WIDTH, 1 - line / self.height, text, size=size, weight=weight, ha=ha, parse_math=False)
