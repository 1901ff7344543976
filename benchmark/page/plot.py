"""Accuracy against compute as SVG: where everything lies, for each choice of cost and score, and the drawing.

All places are computed here. The script of the page only moves what is drawn to another choice's places.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from benchmark.page.axes import ALIKE, Axis, linear, logarithmic, unit
from benchmark.report.cells import runs_on_gpu
from benchmark.report.palette import MARKERS, Style
from benchmark.report.scaling import name_without_budget
from benchmark.report.section import Line, Section
from benchmark.report.statistics import Summary

COSTS = {"flops": "FLOPs", "seconds": "time", "joules": "energy"}
MOST_POINTS = 100
STEP = 15  # pixels between points of equal cost, which stand side by side
SHAPES = {
    "o": "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0z",
    "s": "M-3.7-3.7h7.4v7.4h-7.4z",
    "D": "M0-5.2L5.2 0 0 5.2-5.2 0z",
    "^": "M0-5L4.9 3.7h-9.8z",
    "v": "M0 5L4.9-3.7h-9.8z",
    "P": "M-1.7-4.9h3.4v3.2h3.2v3.4h-3.2v3.2h-3.4v-3.2h-3.2v-3.4h3.2z",
    "*": "M0-5.8L1.4-1.9 5.5-1.8 2.3.7 3.4 4.7 0 2.4-3.4 4.7-2.3.7-5.5-1.8-1.4-1.9z",
    "X": "M0-2.4L2.4-4.8 4.8-2.4 2.4 0 4.8 2.4 2.4 4.8 0 2.4-2.4 4.8-4.8 2.4-2.4 0-4.8-2.4-2.4-4.8z",
    "<": "M-5 0L3.7-4.9v9.8z",
    ">": "M5 0L-3.7-4.9v9.8z",
}


class Frame(NamedTuple):
    """The sizes of a plot in pixels: of the whole, and of the column of labels at its right with its characters."""

    name: str
    width: int
    left: int
    letter: float
    characters: int
    least_height: int
    top: int = 30
    bottom: int = 46
    gap: int = 15


FRAMES = (Frame("wide", 860, 46, 7.2, 25, 300), Frame("narrow", 358, 34, 7.4, 17, 260))


@dataclass(frozen=True)
class Point:
    """A line of a table in a plot: what it is called, its costs by kind, and its score in each column of the plot."""

    name: str
    label: str
    series: str
    target: str
    style: Style
    is_ranked: bool
    costs: dict[str, float]
    scores: tuple[Summary | None, ...]


@dataclass(frozen=True)
class Level:
    """A floor: a horizontal line, because it cost nothing."""

    label: str
    scores: tuple[Summary | None, ...]


@dataclass(frozen=True)
class Drawing:
    """One choice of cost and column: its axes, and by number of the point its cost in their unit and its place."""

    title: str
    across: Axis
    up: Axis
    costs: dict[int, float]
    places: dict[int, int]
    heights: dict[int, int]
    front: list[int]


class Plot:
    """The points and floors of tables that differ only in their budget."""

    def __init__(self, sections: Sequence[Section], styles: dict[str, Style], targets: dict[int, str]) -> None:
        self.columns = list(dict.fromkeys(column for section in sections for column in section.columns))
        lines = [(section, line) for section in reversed(sections) for line in section.lines]
        shown = [(section, line) for section, line in lines if not line.is_floor and any(line.values)]
        self.left_out = max(len(shown) - MOST_POINTS, 0)
        is_sweep = len({line.cell.method for _, line in shown if not line.is_beside}) == 1
        self.points = [
            Point(
                name=line.name,
                label=_short(line) if is_sweep else line.name,
                series=name_without_budget(line),
                target=targets[id(line)],
                style=styles[line.cell.method],
                is_ranked=line.rank is not None,
                costs=_costs(line),
                scores=self._scores(section, line),
            )
            for section, line in shown[:MOST_POINTS]
        ]
        floors = {line.name: (section, line) for section, line in reversed(lines) if line.is_floor}
        self.levels = [Level(name, self._scores(*floor)) for name, floor in floors.items()]
        known = [kind for kind in COSTS if any(kind in point.costs for point in self.points)]
        self.kinds = sorted(known, key=self._is_constant)  # of equal ones the order of COSTS

    def _scores(self, section: Section, line: Line) -> tuple[Summary | None, ...]:
        values = dict(zip(section.columns, line.values, strict=True))
        return tuple(value.summary if (value := values.get(column)) else None for column in self.columns)

    def _is_constant(self, kind: str) -> bool:
        costs = [point.costs[kind] for point in self.points if kind in point.costs]
        return max(costs) <= min(costs) * ALIKE

    def right(self, frame: Frame) -> int:
        """Return where the lines end and the labels begin."""
        names = [*(point.label for point in self.points), *(f"{level.label} ↓ 00.0" for level in self.levels)]
        return round(frame.width - 26 - frame.letter * max(len(shortened(name, frame.characters)) for name in names))

    def height(self, frame: Frame) -> int:
        labels = len({point.series for point in self.points}) + len(self.levels)
        return min(max(frame.gap * labels + 30, frame.least_height), 470) + frame.top + frame.bottom

    def layout(self, frame: Frame, kind: str, column: int) -> dict[str, Any]:
        """Return the places of everything for one kind of cost and one column; what is not shown is null.

        They are the ticks `x` and `y`, points `p` (x, y and the ends of the interval), heights of labels `l`, floors
        `v` (path to the label, label and its height), paths of the front `f` and of ladders `s`, a title `t`, and
        whether all costs are equal `c`.
        """
        at, right, bottom = self.drawing(frame, kind, column), self.right(frame), self.height(frame) - frame.bottom
        levels = [_level(at.up, level.scores[column], level.label) for level in self.levels]
        labels, level_labels = self._labels(frame, at.heights, levels, bottom)
        return {
            "c": self._is_constant(kind),
            "t": at.title,
            "x": [[round(at.across.place(value)), text] for value, text in at.across.ticks],
            "y": [[round(at.up.place(value)), text] for value, text in at.up.ticks],
            "p": [
                [at.places[i], at.heights[i], *_ends(at.up, point.scores[column])] if i in at.places else None
                for i, point in enumerate(self.points)
            ],
            "l": [labels.get(i) for i in range(len(self.points))],
            "v": [
                [f"M{frame.left} {level[0]}H{right}L{right + 4} {y}H{right + 16}", level[1], y] if level else None
                for level, y in zip(levels, level_labels, strict=True)
            ],
            "f": _steps([(at.places[i], at.heights[i]) for i in at.front], right),
            "s": [
                _path([(at.places[i], at.heights[i]) for i in ladder if i in at.places]) for ladder in self.ladders()
            ],
        }

    def drawing(self, frame: Frame, kind: str, column: int) -> Drawing:
        """Return where the points lie for one kind of cost and one column."""
        top, bottom, right = frame.top, self.height(frame) - frame.bottom, self.right(frame)
        shown = {i: point for i, point in enumerate(self.points) if kind in point.costs and point.scores[column]}
        name, size = unit(kind, [point.costs[kind] for point in shown.values()] or [1.0])
        costs = {i: point.costs[kind] / size for i, point in shown.items()}
        across = logarithmic(list(costs.values()) or [1.0], frame.left + 14, right - 14)
        up = self._accuracies(column, list(shown.values()), bottom, top)
        heights = {i: _height(up, point.scores[column]) for i, point in shown.items()}
        places = _side_by_side(costs, heights, across)
        is_equal = bool(costs) and max(costs.values()) <= min(costs.values()) * ALIKE
        title = f"{name}, equal for all; side by side" if is_equal and len(costs) > 1 else f"{name}, logarithmic"
        return Drawing(title, across, up, costs, places, heights, self._front(costs, heights))

    def ladders(self) -> list[list[int]]:
        """Return the points of each method that has several budgets, smallest budget first."""
        numbers = range(len(self.points))
        of_series = groupby(sorted(numbers, key=lambda i: self.points[i].series), key=lambda i: self.points[i].series)
        ladders = [sorted(each, key=lambda i: self.points[i].costs["flops"]) for _, each in of_series]
        return [ladder for ladder in ladders if len(ladder) > 1]

    def _accuracies(self, column: int, points: Iterable[Point], bottom: float, top: float) -> Axis:
        """Return the vertical axis: all means with their intervals, and floors that are not far below."""
        scores = [score for point in points if (score := point.scores[column])]
        means = [100 * score.mean for score in scores] or [0.0, 100.0]
        reach = max(5.0, 2 * (max(means) - min(means)))  # of intervals: a few seeds can have one that is wider than all
        halves = [min(100 * (score.half_width or 0.0), reach) for score in scores] or [0.0, 0.0]
        low = min(mean - half for mean, half in zip(means, halves, strict=True))
        high = max(mean + half for mean, half in zip(means, halves, strict=True))
        floors = [100 * score.mean for level in self.levels if (score := level.scores[column])]
        near = [floor for floor in floors if low - 0.7 * (high - low) <= floor]
        return linear(min([low, *near]), max([high, *near]), bottom, top)

    def _labels(
        self, frame: Frame, heights: dict[int, int], levels: Sequence[list[Any] | None], bottom: int
    ) -> tuple[dict[int, int], list[int | None]]:
        """Return heights of labels that do not overlap: of floors, and of as many points as there is room for."""
        room = (bottom - frame.top) // frame.gap + 1 - sum(level is not None for level in levels)
        first = {self.points[i].series: i for i in reversed(heights)}  # of a ladder, the largest budget
        wanted: list[tuple[int, int, int]] = [(heights[i], 0, i) for i in sorted(first.values())[: max(room, 0)]]
        wanted += [(level[0], 1, i) for i, level in enumerate(levels) if level]
        wanted.sort()
        ys = [min(max(y, frame.top), bottom) for y, _, _ in wanted]
        for i in range(1, len(ys)):
            ys[i] = max(ys[i], ys[i - 1] + frame.gap)
        limit = bottom
        for i in reversed(range(len(ys))):
            ys[i] = min(ys[i], limit)
            limit = ys[i] - frame.gap
        placed = {(kind, i): y for (_, kind, i), y in zip(wanted, ys, strict=True)}
        return {i: y for (kind, i), y in placed.items() if kind == 0}, [placed.get((1, i)) for i in range(len(levels))]

    def _front(self, costs: dict[int, float], heights: dict[int, int]) -> list[int]:
        """Return the front: the ranked points that no cheaper or equally dear one reaches, the cheapest first."""
        ranked = sorted((i for i in costs if self.points[i].is_ranked), key=lambda i: (costs[i], heights[i]))
        front: list[int] = []
        for i in ranked:
            if not front or heights[i] < heights[front[-1]]:
                if front and costs[i] <= costs[front[-1]] * ALIKE:
                    front.pop()
                front.append(i)
        return front


def shape(style: Style) -> str:
    """Return the path of a method's shape around the origin."""
    return SHAPES[MARKERS[style.marker]]


def shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def joules(line: Line) -> float | None:
    """Return the mean energy of the runs of a line; None unless all of them know theirs."""
    known = [joules for run in line.cell.runs if (joules := run["cost"]["joules"]) is not None]
    return sum(known) / len(known) if len(known) == len(line.cell.runs) else None


def _costs(line: Line) -> dict[str, float]:
    shared = any(map(runs_on_gpu, line.cell.runs))
    seconds = None if shared else line.cost.device_seconds  # of a GPU that others used too it says nothing
    costs = {"flops": line.cost.flops, "seconds": seconds, "joules": joules(line)}
    return {kind: cost for kind, cost in costs.items() if cost}


def _short(line: Line) -> str:
    """Return what a sweep varied, without the names of classes."""
    varied = [binding.partition(" = ") for binding in line.cell.runs[0]["config"]["varied"]]
    return ", ".join(f"{name.rpartition('.')[2]} = {value}" for name, _, value in varied) or line.name


def _height(up: Axis, score: Summary | None) -> int:
    assert score is not None
    return round(up.place(100 * score.mean))


def _ends(up: Axis, score: Summary | None) -> list[int]:
    """Return the ends of an interval, relative to its middle."""
    assert score is not None
    middle, half = _height(up, score), 100 * (score.half_width or 0.0)
    return [round(up.place(100 * score.mean + half)) - middle, round(up.place(100 * score.mean - half)) - middle]


def _level(up: Axis, score: Summary | None, name: str) -> list[Any] | None:
    """Return the height of a floor and its label, which says how high it is where the axis does not reach it."""
    if score is None:
        return None
    percentage = 100 * score.mean
    is_below = percentage < up.low
    return [round(up.place(percentage)), f"{name} ↓ {percentage:.1f}" if is_below else name]


def _side_by_side(costs: dict[int, float], heights: dict[int, int], across: Axis) -> dict[int, int]:
    """Return horizontal places at which points of equal cost stand side by side, the best at the left."""
    groups: list[list[int]] = []
    for i in sorted(costs, key=lambda i: costs[i]):
        if groups and costs[i] <= costs[groups[-1][0]] * ALIKE:
            groups[-1].append(i)
        else:
            groups.append([i])
    centres = [sum(across.place(costs[i]) for i in group) / len(group) for group in groups]
    room = min((after - before for before, after in pairwise(centres)), default=1e9)
    room = min(0.7 * room, across.end - across.start)
    places = {}
    for centre, group in zip(centres, groups, strict=True):
        width = min(room, STEP * (len(group) - 1)) if len(groups) > 1 else room * (len(group) - 1) / len(group)
        for rank, i in enumerate(sorted(group, key=lambda i: (heights[i], i))):
            offset = width * (rank / (len(group) - 1) - 0.5) if len(group) > 1 else 0.0
            places[i] = round(centre + offset)
    return places


def _path(points: Sequence[tuple[int, int]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points) if len(points) > 1 else ""


def _steps(points: Sequence[tuple[int, int]], right: int) -> str:
    """Return the path of a front up to the right end of the plot; none where it has a single point."""
    if len(points) < 2:
        return ""
    (x, y), *others = points
    return f"M{x} {y}{''.join(f'H{x}V{y}' for x, y in others)}H{right}"
