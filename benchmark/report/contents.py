"""What boards show, whatever the format: their tables in order, and the cells of a ranking table."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import median

from benchmark.report.cells import START, hardware, runs_on_gpu
from benchmark.report.leaderboard import SMOKE
from benchmark.report.orders import other_rules
from benchmark.report.overall import overall_tables
from benchmark.report.published import Result, published_table
from benchmark.report.record import Record
from benchmark.report.scaling import scaling_tables
from benchmark.report.section import Column, Line, Section, Value, ranking_score, result
from benchmark.report.statistics import half_width_by_images, summarise
from benchmark.report.text import Block, amount, data_of, flops_unit, percent, spread, terms
from benchmark.report.time_to_target import time_to_target
from benchmark.report.tuning import trials_table

AVERAGE_PRECISION = "mAP, in place of top-1, is the mean over classes of the average precision."
BOX_PRECISION = "AP, in place of top-1, is the mean average precision of boxes over classes and IoUs of 0.5 to 0.95."
MEAN_IOU = "mIoU, in place of top-1, is the mean over classes of intersection over union, at the size of the masks."
UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))


def contents(board: Sequence[Section], results: Sequence[Result]) -> Iterator[Section | Block]:
    """Yield the ranking tables of one board, each followed by the blocks that belong to it."""
    for _, of_dataset in groupby(board, key=lambda section: section.setting.dataset):
        alike = list(of_dataset)
        for section in alike:
            yield section
            yield from trials_table(section)
            yield from time_to_target(section)
        yield from other_rules(alike)
        yield from published_table(alike, results)
    yield from scaling_tables(board)
    yield from overall_tables(board)


def leading(tables: Sequence[Section]) -> Section | None:
    """Return the table that leads all boards; None if there is none.

    It is the table of the most FLOPs among those that compare two methods or more over seeds, of the most methods where
    FLOPs are equal, and of its divisions the first. If no table compares methods, it is the table of the most FLOPs
    among the first of each board. A smoke set leads only where there is no other data set.
    """
    tables = [section for section in tables if section.setting.dataset not in SMOKE] or tables
    comparing = [section for section in tables if section.ranking is not None and len(section.ranking.seeds) > 1]
    candidates: dict[object, Section] = {}
    for section in comparing or tables:
        setting = section.setting
        candidates.setdefault(setting._replace(division="") if comparing else setting.board, section)
    return max(candidates.values(), key=_weight, default=None)


def _weight(section: Section) -> tuple[float, int]:
    """Return the FLOPs of a table (its budget, if that is in FLOPs) and how many methods it compares."""
    spent = max(line.cost.flops for line in section.lines)
    flops = section.setting.amount if section.setting.budget == "flops" else spent
    return flops, len(section.ranking.seeds) if section.ranking else 0


def title(section: Section) -> str:
    """Return what the lines of a table share, in a few words."""
    setting = section.setting
    time = typical_time(section.runs) if setting.budget in ("flops", "samples") else None
    times = [f"about {time}"] if time else []
    return ", ".join([data_of(setting), setting.encoder, amount(setting), *times, *terms(setting)])


def typical_time(runs: Sequence[Record]) -> str | None:
    """Return the median device time of the runs on the commonest hardware, a core or a GPU.

    Runs that shared a GPU do not count, as their time depends on the others; None where no run is left.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if runs_on_gpu(run):
            continue
        gpu, cost = run["environment"]["gpu"], run["cost"]
        count = cost["devices"] if gpu else run["environment"]["threads"]
        seconds[gpu or f"{run['environment']['processor']} core"].append(cost["train_seconds"] * count)
    if not seconds:
        return None
    kind = min(seconds, key=lambda kind: (-len(seconds[kind]), kind))
    time = median(seconds[kind])
    unit, size = next((unit, size) for unit, size in UNITS if time >= 2 * size or size == 1)
    return f"{float(f'{time / size:.2g}'):g} {unit} of one {kind}"


def table(
    section: Section,
    name: Callable[[Line], str],
    value: Callable[[Line, Column, Value | None], str],
    shown: Sequence[Line] | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and lines of a section; `name` and `value` mark up names of lines and scores.

    `shown` are the lines, by default those of the section.
    """
    unit, divisor = flops_unit(run["cost"]["flops"] for run in section.runs)
    is_tuned = section.setting.division == "tuned"
    headings = ["rank", "method", *["LR x"] * is_tuned, *map(section.heading, section.columns)]
    headings += ["images", "epochs", unit, "device minutes", "peak GiB", "seeds", "notes"]
    lines = []
    for line in section.lines if shown is None else shown:
        factor = "" if line.rate_factor is None else f"{line.rate_factor:g}"
        scores = [value(line, *score) for score in zip(section.columns, line.values, strict=True)]
        start = [line.place, name(line), *[factor] * is_tuned]
        lines.append([*start, *scores, *_costs(line, divisor), str(len(line.cell.runs)), _notes(line)])
    return headings, lines


def caption(section: Section) -> str:
    """Return what ranks, and the encoder, the data and the hardware of a table."""
    runs = section.runs
    dataset, encoder = runs[0]["dataset"], runs[0]["encoder"]
    machines = {hardware(run) for line in section.lines if not line.is_floor for run in line.cell.runs}
    shape = [f"{encoder['image_size']} px"]
    shape += [f"{name} {encoder[name]}" for name in ("patch", "stem") if encoder[name] is not None]
    sentences = [
        *(f"Ranking evaluation: {section.heading(column)}." for column in section.columns[:1]),
        *(AVERAGE_PRECISION for column in section.columns if column.evaluation == "multilabel"),
        *(BOX_PRECISION for column in section.columns if column.evaluation == "detect"),
        *[MEAN_IOU] * any(column.is_dense for column in section.columns),
        f"Encoder: {', '.join(shape)}, {encoder['parameters']:,} parameters.",
        f"Data: {dataset['classes']} classes, {dataset['sizes']['test']:,} test images, "
        f"fingerprint {dataset['fingerprint'][:8]}.",
        f"Hardware: {'; '.join(sorted(machines))}.",
    ]
    return " ".join(sentences)


def verdict(section: Section) -> str:
    """Return which method is best, by how much, and whether the range test distinguishes it; empty for a single one."""
    ranked, ranking = [line for line in section.lines if line.rank is not None], section.ranking
    if len(ranked) < 2 or ranking is None:
        return ""
    best, second = (line.cell.entry for line in ranked[:2])
    tested = [line.cell.entry for line in ranked[1:] if line.cell.entry in ranking.seeds]
    tied = sum(not ranking.is_above(best, entry) for entry in tested)
    others = "others that are compared" if len(tested) < len(ranked) - 1 else "others"
    if not ranking.seeds:
        test = "Seeds cannot test the difference: the methods share fewer than two."
    elif best not in ranking.seeds:
        test = f"Seeds cannot test the difference: {ranked[0].name} has fewer than two in common with the others."
    elif tied:
        test = f"The range test cannot distinguish it from {tied} of the {len(tested)} {others}."
    else:
        test = f"The range test distinguishes it from all {others}."
    heading = section.heading(section.columns[0])
    gap = ranking.means[best] - ranking.means[second]
    first, other = ({run["seed"] for run in line.cell.runs} for line in ranked[:2])
    adjusted = " by means adjusted for seeds" if first != other and {best, second} <= ranking.seeds.keys() else ""
    return f"Best in {heading}: {ranked[0].name}, {100 * gap:.1f} points above {ranked[1].name}{adjusted}. {test}"


def remarks(section: Section) -> str:
    """Return what a reader must know of the comparison: seeds, uneven spreads, gains, floors not found."""
    sentences = []
    ranking = section.ranking
    if ranking and len(ranking.ranks) > 1:
        own = {line.cell.entry: {run["seed"] for run in line.cell.runs} for line in section.lines}
        counted = {seed for seeds in ranking.seeds.values() for seed in seeds}
        if not ranking.seeds:
            sentences.append("All ranks stay open: the range test needs methods that share seeds, two each.")
        elif len(ranking.seeds) < len(ranking.ranks):
            sentences.append("A method that has fewer than two seeds in common with those compared may have any rank.")
        if any(own[entry] != counted for entry in ranking.seeds):
            sentences.append(
                "Methods have different seeds: ranks, the order of lines, and what is bold or underlined follow means "
                "that are adjusted for that. Scores are the plain means."
            )
        if any(len(seeds) == 2 for seeds in ranking.seeds.values()):
            sentences.append("Spreads over two seeds cannot be checked: the test takes them to be like the others.")
    for place, column in enumerate(section.columns):
        if uneven := [line.name for line in section.lines if (value := line.values[place]) and value.is_uneven]:
            sentences.append(
                f"{section.heading(column)}: the spread of {', '.join(uneven)} is over twice the median one, "
                f"so ties are less certain than 5 %."
            )
    sentences += _of_one_seed(section)
    sentences += _by_images(section)
    if gains := [f"{line.name} {gain}" for line in section.lines if (gain := _gain(section, line))]:
        sentences.append(f"Gain over the start, {section.heading(section.columns[0])}, in points: {', '.join(gains)}.")
    if section.missing_floors:
        sentences.append(f"Floors named but not found: {', '.join(section.missing_floors)}.")
    return " ".join(sentences)


def _of_one_seed(section: Section) -> Iterator[str]:
    """Yield how far the test images alone leave the first column open, in lines with one seed of it."""
    for column in section.columns[:1]:
        half_widths = []
        for line in (line for line in section.lines if not line.is_floor):
            scores = [metrics for run in line.cell.runs if (metrics := result(run, column))]
            if len(scores) == 1:
                half_widths.append(half_width_by_images((scores[0]["top1"], scores[0]["n"])))
        if half_widths and column.measure:
            yield (
                f"A line of one seed has no spread over seeds. Over the test images alone, its 95 % interval in "
                f"{section.heading(column)} is at most ± {percent(max(half_widths))} points."
            )


def _by_images(section: Section) -> Iterator[str]:
    """Yield for each column of masks or boxes the intervals over test images, of the first seed of each line."""
    for column in section.columns:
        of_lines = [(line.name, result(line.cell.runs[0], column)) for line in section.lines]
        intervals = [
            f"{name} {percent(metrics['interval'][0])} to {percent(metrics['interval'][1])}"
            for name, metrics in of_lines
            if metrics and "interval" in metrics
        ]
        if intervals:
            heading = section.heading(column)
            yield f"95 % interval over test images of the first seed, {heading}: {', '.join(intervals)}."


def _gain(section: Section, line: Line) -> str:
    """Return by how many points a line that went on from trained weights is above these; empty for any other line."""
    floors = [floor for each in section.lines if each.is_floor for floor in each.cell.runs]
    starts = {floor["id"]: floor for floor in floors if floor["method"]["name"].startswith(START)}
    gains = []
    for run in line.cell.runs if "start" in line.cell.runs[0] else ():
        start = next((starts[key] for key in run["floors"] if key in starts), None)
        after, before = (result(record, section.columns[0]) if record else None for record in (run, start))
        if after and before:
            gains.append(ranking_score(after) - ranking_score(before))
    return spread(summarise(gains)) if gains else ""


def _notes(line: Line) -> str:
    """Return which runs of a line did not end well, what has changed in the code since, and who shared its GPU."""
    stale = [f"stale ({', '.join(line.stale)})"] if line.stale else []
    most = 0 if line.is_floor else max(map(runs_on_gpu, line.cell.runs))
    shared = [f"time on a GPU with {most} runs or more"] if most else []
    return ", ".join([*(f"{count} {status}" for status, count in line.endings.items()), *stale, *shared])


def _costs(line: Line, divisor: float) -> list[str]:
    """Return images, epochs, FLOPs in units of the divisor, device minutes and peak GiB, empty for a floor."""
    cost = line.cost
    if line.is_floor:
        return [""] * 5
    return [
        f"{cost.images:,.0f}",
        f"{cost.epochs:,.1f}",
        f"{cost.flops / divisor:.2f}",
        f"{cost.device_seconds / 60:,.1f}",
        "n/a" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**30:.2f}",
    ]
