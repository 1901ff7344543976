"""The plots of the page for papers: source text for LaTeX with the package pgfplots.

Each plot can be pasted alone, as it brings its colours and shapes. Points have their exact cost and score. Where points
of equal compute stand side by side, as on the page, they have the costs of the places where they stand.
"""

from collections.abc import Iterable, Iterator

from benchmark.page.page import Page, View
from benchmark.page.plot import COSTS, FRAMES, Drawing, Plot, shape
from benchmark.report.formats import tex
from benchmark.report.palette import COLOURS, MARKERS, Style
from benchmark.report.statistics import Summary
from benchmark.report.text import printable

HEAD = r"% The plots need \usepackage{pgfplots}, \pgfplotsset{compat=1.16} and \usetikzlibrary{svg.path}."
FRAME = FRAMES[0]
FRONT = "A3420A"  # --accent in chart.css
MARK = r"\pgftransformscale{.5}\pgftransformyscale{-1}%s\pgfusepathqfillstroke"
CIRCLE = r"\pgfpathcircle{\pgfpointorigin}{4.2pt}"  # PGF draws half of a circle that SVG makes of arcs
AXIS = r"""\begin{axis}[width=.6\linewidth, height=.42\linewidth, scale only axis, axis lines*=left, ymajorgrids,
  grid style={black!12}, xmode=log, xminorticks=false, xmin=%.6g, xmax=%.6g, ymin=%.4f, ymax=%.4f,
  xtick={%s}, xticklabels={%s}, ytick={%s}, xlabel={%s}, ylabel={%s, top-1 in \%%},
  legend style={at={(1.03,.5)}, anchor=west, draw=none, font=\footnotesize,
    cells={anchor=west, text height=.7em, text depth=.2em}, row sep=-2pt}]"""
Place = tuple[float, float]


def pgfplots(page: Page) -> str:
    """Return every plot of the page, with the score and the cost that the page shows first."""
    views = [view for board in page.boards for view in board.views if view.plot.kinds]
    return "".join(f"{text}\n\n" for text in ["\n".join(_picture(view)) for view in views])


def _picture(view: View) -> Iterator[str]:
    """Yield the lines of a plot."""
    plot, kind = view.plot, view.plot.kinds[0]
    at, heading = plot.drawing(FRAME, kind, 0), view.tables[-1].section.heading(plot.columns[0])
    left, right = at.across.value(FRAME.left), at.across.value(plot.right(FRAME))
    yield f"% {printable(view.title)}: {printable(heading)} against {COSTS[kind]}"
    yield HEAD
    yield r"\begin{tikzpicture}"
    yield rf"\definecolor{{front}}{{HTML}}{{{FRONT}}}"
    for style in dict.fromkeys(plot.points[i].style for i in at.places):
        yield rf"\definecolor{{{_name(style)}}}{{HTML}}{{{COLOURS[style.colour][1:].upper()}}}"
        path = CIRCLE if MARKERS[style.marker] == "o" else rf"\pgfpathsvg{{{shape(style)}}}"
        yield rf"\pgfdeclareplotmark{{{_name(style)}}}{{{MARK % path}}}"
    ticks = [f"{value:.6g}" for value, _ in at.across.ticks], [f"{{{text}}}" for _, text in at.across.ticks]
    heights = [text for _, text in at.up.ticks]
    numbers = [",".join(each) for each in (*ticks, heights)]
    yield AXIS % (left, right, at.up.low, at.up.high, *numbers, at.title, tex(heading))
    places = {i: _place(plot, at, i) for i in sorted(at.places)}
    if len(at.front) > 1:
        front = [places[i] for i in at.front]
        yield _plot("front, const plot, forget plot", [*front, (right, front[-1][1])])
    for ladder in plot.ladders():
        yield _plot(f"{_name(plot.points[ladder[0]].style)}, forget plot", [places[i] for i in ladder if i in places])
    named = set()
    for i, place in places.items():
        point, is_first = plot.points[i], plot.points[i].series not in named
        options = f"only marks, {_name(point.style)}, mark={_name(point.style)}"
        options += "" if point.is_ranked else ", mark options={fill=white}"
        options += "" if is_first else ", forget plot"
        bars = ", error bars/.cd, y dir=both, y explicit, error mark=none"
        yield _plot(options + bars, [place], _half_width(point.scores[0]))
        if is_first:
            named.add(point.series)
            yield rf"\addlegendentry{{{tex(point.label)}}}"
    for level in plot.levels:
        if score := level.scores[0]:
            yield _plot("black!60, densely dotted", [(left, 100 * score.mean), (right, 100 * score.mean)])
            yield rf"\addlegendentry{{\textit{{{tex(level.label)}}}, {100 * score.mean:.1f}}}"
    yield r"\end{axis}"
    yield r"\end{tikzpicture}"


def _place(plot: Plot, at: Drawing, i: int) -> Place:
    """Return the cost and the score of a point in %; the cost is that of its place where it stands beside others."""
    score, cost = plot.points[i].scores[0], at.costs[i]
    assert score is not None
    return cost if abs(at.across.place(cost) - at.places[i]) <= 0.5 else at.across.value(at.places[i]), 100 * score.mean


def _half_width(score: Summary | None) -> str:
    return f" +- (0,{100 * score.half_width:.2f})" if score and score.half_width is not None else ""


def _plot(options: str, places: Iterable[Place], ends: str = "") -> str:
    coordinates = " ".join(f"({x:.6g},{y:.2f}){ends}" for x, y in places)
    return rf"\addplot[{options}] coordinates {{{coordinates}}};"


def _name(style: Style) -> str:
    return f"method{style.colour}{style.marker}"
