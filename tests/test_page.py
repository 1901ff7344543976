"""The page of results: bytes that depend on the records alone, inert names, its size, its links, plots and colours."""

import math
import random
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from page_records import HOSTILE, changed, confused, hostile, many, places, shown
from report_records import floor, run, trial

from benchmark.page.axes import linear, logarithmic, unit
from benchmark.page.page import START, Page, pictures, render
from benchmark.page.plot import FRAMES, SHAPES, Plot
from benchmark.report import predictions
from benchmark.report.palette import COLOURS, MARKERS, ON_DARK, styles
from benchmark.report.record import Record, file_name
from benchmark.report.record import write as write_record
from benchmark.report.text import marks
from benchmark.tables import LEAD, PLACE, main

KB = 1000


class Reader(HTMLParser):
    """What a browser sees: tags, attributes, text, and the content of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and not self.scripts[-1][1]:
            self.scripts[-1] = (self.scripts[-1][0], data)
        else:
            self.text.append(data)

    @property
    def links(self) -> list[str]:
        return [value for _, name, value in self.attributes if name in ("href", "src")]


def page(records: list[Record]) -> Page:
    return Page(records, (), changed, places(records))


def plots(records: list[Record]) -> list[Plot]:
    return [view.plot for board in page(records).boards for view in board.views]


def test_the_same_records_give_the_same_bytes() -> None:
    """Oracle: the same records in another order."""
    records = shown()
    shuffled = sorted(records, key=lambda record: record["id"])
    random.Random(1).shuffle(records)
    ordered = sorted(records, key=lambda record: record["id"])
    assert render(page(ordered)) == render(page(shuffled))
    assert pictures(page(ordered)) == pictures(page(shuffled))


def test_hostile_names_are_inert() -> None:
    """Oracle: a parser of HTML: two scripts of ours and data without a tag, no handler of events, no other scheme in
    links, no mark of writing direction; and every name is readable as text."""
    for text in (render(page(hostile())), *pictures(page(hostile())).values()):
        assert "\u202e" not in text
    seen = Reader(text := render(page(hostile())))
    code = [content for kind, content in seen.scripts if not kind]
    assert len(code) == 2
    assert code[0] == START
    assert all("<" not in content for kind, content in seen.scripts if kind)
    assert not [name for _, name, _ in seen.attributes if name.startswith("on") or name == "style"]
    assert all(link.startswith(("#", "./")) or link == "data:," for link in seen.links)
    assert "img" not in seen.tags
    assert seen.tags.count("table") == text.count("</table>")
    for name in HOSTILE:
        assert any(name.replace("\u202e", " ").replace("\u202c", " ") in part for part in ["".join(seen.text)])
    assert "49" not in [part.strip() for part in seen.text]


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    """Oracle: ids and targets of the page itself; boards whose names give the same file have files of their own."""
    records = [*shown(), *(run("alpha", seed, 0.5, board=board) for board in ("a b", "a-b") for seed in range(2))]
    seen = Reader(render(page(records)))
    ids = [value for _, name, value in seen.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in seen.links if link.startswith("#")} - {"", "b-*"} <= set(ids)
    assert {"a-b.svg", "a-b--2.svg", "small.svg", "tuned.svg"} == set(pictures(page(records)))


def test_every_record_is_linked() -> None:
    """Oracle: the paths of all records: runs, floors, trials, replaced runs, and trials that no run names."""
    stray = trial(2.0, 0.1, "ef" * 32)
    older = run("alpha", 0, 0.1, created_utc="2026-01-01T00:00:00Z")
    records = [*shown(), stray, older]
    links = {unquote(link) for link in Reader(render(page(records))).links}
    assert {f"./{path}" for path in places(records).values()} <= links


def test_only_floors_say_that_other_runs_measure_them() -> None:
    """Oracle: by hand: two lines, of which one is a floor."""
    start = floor(0, 0.3)
    records = [start, *(run("alpha", seed, 0.5, floors=[start["id"]]) for seed in range(2))]
    panels = render(page(records)).split('<section class="panel"')[1:]
    assert len(panels) == 2
    for panel in panels:
        assert ("each run of this table measures its floors" in panel) == ("random init" in panel)


def test_earlier_lines_say_how_they_differ_from_papers() -> None:
    """Oracle: by hand: a method that only stale lines have is among those that differ, and its panel leads there."""
    old = run("gamma", 0, 0.4, method__deviations=["Gamma: No blur."])
    text = render(page([run("delta", 0, 0.5), old]))
    assert "<li>Gamma: No blur.</li>" in text
    assert '<a href="#d-1">differs in 1 point</a>' in text


def test_the_blocks_of_a_board_are_shown() -> None:
    """Oracle: titles of `results/README.md` by hand: the order under other rules, and the table over two data sets."""
    others = {"dataset__name": "other", "dataset__fingerprint": "0ddc0ffee0"}
    methods = [(name, place, more) for place, name in enumerate("abc") for more in ({}, others)]
    records = [
        run(name, seed, 0.9 - place / 10 + seed / 1000, 0.5 + place / 10, **more)
        for name, place, more in methods
        for seed in range(2)
    ]
    text = render(page(records))
    assert "<summary>digits, vit_micro, 2 TFLOPs, the order under other rules</summary>" in text
    assert "<summary>Over 2 data sets, float32, closed division</summary>" in text
    assert "digits and other 1.00 (1.00 to 1.00)" in text


@pytest.mark.parametrize(("count", "seeds", "boards"), [(0, 1, 1), (300, 1, 1), (300, 5, 2)])
def test_size(count: int, seeds: int, boards: int) -> None:
    """Oracle: 60 kB, and 1.5 kB for each record."""
    size = len(render(page(many(count, seeds, boards))).encode())
    assert size <= 60 * KB + 1.5 * KB * count


def test_size_with_confusions() -> None:
    """Oracle: as above, where each line has three seeds and a matrix of ten classes."""
    records = many(300, 3)
    page = Page(records, (), changed, places(records), confused=confused)
    text = render(page)
    assert text.count('<table class="confusion">') == 100
    assert len(text.encode()) <= 60 * KB + 1.5 * KB * 300


def matrix(text: str) -> list[list[str]]:
    """Return the cells of the only table of confusions, whose cells have no end tags, with their classes."""
    (table,) = re.findall(r"<h3>Confusions.*?</table>", text, re.S)
    return [
        re.split("<t[hd]", row)[1:] for row in table.partition("<tbody>")[2].removesuffix("</table>").split("<tr>")[1:]
    ]


def test_confusions_of_few_classes(tmp_path: Path) -> None:
    """Oracle: by hand, from the files of two of three runs: rows are classes, columns predicted ones; shaded is the
    wrong class that a tenth of the images or more were taken for."""
    labels, guesses = np.array([0] * 20 + [1] * 20 + [2] * 20), np.array([0] * 15 + [2] * 5 + [1] * 20 + [1] + [2] * 19)
    for seed in range(3):
        name = f"predictions/{seed}.npz"
        content, _ = predictions.pack(labels, {"linear": guesses if seed else labels, "knn": labels})
        if seed < 2:
            (tmp_path / "small" / "predictions").mkdir(parents=True, exist_ok=True)
            (tmp_path / "small" / name).write_bytes(content)
        stated = {"file": name, "sha256": "0" * 64, "bytes": len(content)}
        more = {"dataset__classes": 3, "published": {"predictions": stated}}
        write_record(run("alpha", seed, 0.5, **more), tmp_path / "small")
    assert main(["--results", str(tmp_path), "--html"]) == 0
    text = (tmp_path / "index.html").read_text()
    assert matrix(text) == [
        [">0", " class=d>35", ">", " class=x>5"],
        [">1", ">", " class=d>40", ">"],
        [">2", ">", ">1", " class=d>39"],
    ]
    assert "<h3>Confusions (linear)</h3>" in text
    assert "Test images of 2 runs by class (row)" in text


def test_confusions_of_many_classes() -> None:
    """Oracle: by hand: of 21 classes the ten largest counts, ties in the order of classes, and their shares of a class
    of which 25 images are right."""

    def confused(record: Record, evaluation: str) -> Counter[tuple[int, int]]:
        right = Counter({(label, label): 25 for label in range(21)})
        return right + Counter({(label, label - 1): 5 if label == 20 else 1 for label in range(1, 21)})

    text = render(Page([run("alpha", 0, 0.5, dataset__classes=21)], confused=confused))
    lines = [["20", "19", "5", "16.67"], *([f"{label}", f"{label - 1}", "1", "3.85"] for label in range(1, 10))]
    assert matrix(text) == [[f">{cell}" for cell in line] for line in lines]
    assert 'class="confusion"' not in text


def test_figures_of_runs_are_linked(tmp_path: Path) -> None:
    """Oracle: the files that lie in the folders of two runs, by seed; none of a board, where no run lies, and no image,
    which would be a request."""
    for seed, names in enumerate((("tsne.png", "views.png"), ("a b.png", "notes.txt"))):
        folder = tmp_path / "runs" / f"alpha-s{seed}"
        write_record(run("alpha", seed, 0.5), folder)
        (folder / "config.gin").touch()
        (folder / "figures").mkdir()
        for name in names:
            (folder / "figures" / name).touch()
    write_record(run("beta", 0, 0.6), tmp_path / "runs" / "small")
    (tmp_path / "runs" / "small" / "figures").mkdir()
    (tmp_path / "runs" / "small" / "figures" / "stray.png").touch()
    assert main(["--results", str(tmp_path / "runs"), "--html"]) == 0
    text = (tmp_path / "runs" / "index.html").read_text()
    assert re.findall(r"<dt>figures</dt>.*?</dd>", text) == [
        '<dt>figures</dt><dd><a href="./alpha-s0/figures/tsne.png">seed 0: tsne</a>, '
        '<a href="./alpha-s0/figures/views.png">seed 0: views</a>, '
        '<a href="./alpha-s1/figures/a%20b.png">seed 1: a b</a></dd>'
    ]
    seen = Reader(text)
    assert "img" not in seen.tags
    assert all((tmp_path / "runs" / unquote(link)).is_file() for link in seen.links if "figures" in link)


def test_size_of_the_published_page() -> None:
    """Oracle: as above, for the page of this checkout."""
    results = Path(__file__).parents[1] / "results"
    count = len(list(results.rglob("*.json")))
    assert (results / "index.html").stat().st_size <= 60 * KB + 1.5 * KB * count


def test_places_follow_scores_and_costs() -> None:
    """Oracle: the order of the scores and the costs; labels keep their distance and stay within the plot."""
    for plot in plots(shown()):
        for frame in FRAMES:
            for kind in plot.kinds:
                for column in range(len(plot.columns)):
                    at = plot.layout(frame, kind, column)
                    for i, j in combinations(range(len(plot.points)), 2):
                        first, second = plot.points[i], plot.points[j]
                        if first.costs[kind] > 1.5 * second.costs[kind]:
                            assert at["p"][i][0] > at["p"][j][0]
                        if first.scores[column].mean > second.scores[column].mean:  # type: ignore[union-attr]
                            assert at["p"][i][1] <= at["p"][j][1]
                    heights = sorted([y for y in at["l"] if y is not None] + [y for *_, y in filter(None, at["v"])])
                    assert all(after - before >= frame.gap for before, after in pairwise(heights))
                    assert heights[0] >= 0
                    assert heights[-1] <= plot.height(frame) - frame.bottom + 1


def test_what_a_board_lacks_stands_above_it() -> None:
    """Oracle: the sentence and the command, which are escaped, once."""
    text = render(Page(shown(), missing={"tuned": ("1 of <2> runs", "make & rest")}))
    assert text.count("<p>1 of &lt;2&gt; runs The rest: <code>make &amp; rest</code></p>") == 1


def test_the_first_sentence_says_who_leads() -> None:
    """Oracle: by hand: of each budget the best method and its lead; ties and what single seeds say; and why lines are
    stale. The seeds of a budget have equal differences in the first case, and the range test a margin of nothing."""
    text = render(page(shown()))
    for budget in ("1 TFLOPs", "10 TFLOPs", "100 TFLOPs"):
        assert (
            f"<b>{budget}.</b> Best in linear: delta, 4.0 points above beta. The range test distinguishes it from "
            in text
        )
    assert text.count("Stale lines were made by other code than today's: Gamma 1.0, now 2.0.</p>") == 3
    tops = {"alpha": (0.70, 0.72, 0.71), "beta": (0.71, 0.70, 0.69), "gamma": (0.30, 0.31, 0.32)}
    records = [run(name, seed, top1) for name, by_seed in tops.items() for seed, top1 in enumerate(by_seed)]
    tied = "Best in linear: alpha, 1.0 points above beta. The range test cannot distinguish it from 1 of the 2 others."
    assert tied in render(Page(records))
    single = "alpha, 1.0 points above beta. Seeds cannot test the difference: the methods share fewer than two."
    assert single in render(Page([run("alpha", 0, 0.70), run("beta", 0, 0.69), run("gamma", 0, 0.3)]))
    lone = "Seeds cannot test the difference: new has fewer than two in common with the others."
    newcomer = f"new, 1.0 points above alpha. {lone}"
    assert newcomer in render(Page([*records, run("new", 0, 0.72)]))
    with_last = tied.replace("others", "others that are compared")
    assert with_last in render(Page([*records, run("new", 0, 0.2), run("newer", 0, 0.2)]))
    more = run("alpha", 3, 0.99)
    assert tied.replace("beta", "beta by means adjusted for seeds") in render(Page([*records, more]))
    apart = "alpha, 40.0 points above gamma. The range test distinguishes it from all others that are compared."
    assert apart in render(
        Page([*(record for record in records if record["method"]["name"] != "beta"), run("new", 0, 0.2)])
    )
    assert "Best in" not in render(Page([run("alpha", 0, 0.70)]))
    dear = run("gamma", 0, 0.3, cost__flops=9e12)
    for third, is_equal in ((run("gamma", 0, 0.3), True), (dear, False)):
        drawn = render(Page([run("alpha", 0, 0.70), run("beta", 0, 0.69), third]))
        assert ("FLOPs, equal for all; side by side" in drawn) == is_equal
        assert ("FLOPs, logarithmic" in drawn) != is_equal


def test_front_and_ladders_by_hand() -> None:
    """Oracle: of three methods the dearest is worse, so the front has two steps; three budgets are joined by a line."""
    costs = {"cheap": (10.0, 0.5), "better": (20.0, 0.7), "worse": (40.0, 0.6)}
    records = [run(name, 0, top1, cost__train_seconds=seconds) for name, (seconds, top1) in costs.items()]
    (plot,) = plots(records)
    assert plot.kinds == ["seconds", "flops"]  # all spent the same FLOPs, which show nothing
    shared = {"environment__gpu": "H100", "environment__runs_on_device": 2}
    (busy,) = plots([run(name, 0, top1, cost__train_seconds=each, **shared) for name, (each, top1) in costs.items()])
    assert busy.kinds == ["flops"]  # the time on a GPU that others used says nothing
    at = plot.layout(FRAMES[0], "seconds", 0)
    names = [point.name for point in plot.points]
    cheap, better = (at["p"][names.index(name)] for name in ("cheap", "better"))
    assert at["f"] == f"M{cheap[0]} {cheap[1]}H{better[0]}V{better[1]}H{plot.right(FRAMES[0])}"
    ladder = next(plot for plot in plots(shown()) if len(plot.points) == 9)  # the stale method is not drawn
    at = ladder.layout(FRAMES[0], "flops", 0)
    assert ladder.kinds == ["flops", "seconds", "joules"]
    for path in at["s"]:
        steps = [int(point.split()[0]) for point in path[1:].split("L")]
        assert len(steps) == 3
        assert steps == sorted(steps)
    assert len([y for y in at["l"] if y is not None]) == 3  # a label for each method, not for each budget
    ((path, label, y),) = at["v"]
    assert label == "random init ↓ 30.0"  # below the axis
    right = ladder.right(FRAMES[0])
    assert re.fullmatch(rf"M46 \d+H{right}L{right + 4} {y}H{right + 16}", path)


def test_axes_by_hand() -> None:
    """Oracle: ticks by hand, equal steps of ratio on a logarithmic axis, and units."""
    axis = logarithmic([1.0, 100.0], 0, 100)
    assert [text for _, text in axis.ticks] == ["1", "10", "100"]
    assert axis.place(10.0) == pytest.approx(50)
    assert axis.place(10.0) - axis.place(1.0) == pytest.approx(axis.place(100.0) - axis.place(10.0))
    assert [text for _, text in logarithmic([60.0, 60.1], 0, 100).ticks] == ["60"]
    assert [text for _, text in linear(50, 60, 100, 0).ticks] == ["50", "52", "54", "56", "58", "60"]
    assert linear(50, 60, 100, 0).place(55) == pytest.approx(50)
    assert linear(99, 100, 100, 0).high == 100
    assert unit("seconds", [600.0]) == ("device minutes", 60.0)
    assert unit("seconds", [7200.0]) == ("device hours", 3600.0)
    assert unit("joules", [5e3]) == ("kJ", 1e3)


def test_pictures_are_alone() -> None:
    """Oracle: a parser of XML: no script, no address but of the page, both colour schemes, a title."""
    for text in pictures(page(shown())).values():
        root = ElementTree.fromstring(text)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert "script" not in tags
        assert "title" in tags
        links = [element.get("href", "") for element in root.iter() if element.tag.endswith("}a")]
        assert links
        assert all(link.startswith("index.html#p-") for link in links)
        assert text.count("prefers-color-scheme:dark") == 2


def linear_light(colour: str, blindness: str = "") -> tuple[float, ...]:
    """Return a colour in linear RGB, as seen with a colour blindness (Machado, Oliveira and Fernandes 2009)."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgb = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    matrices = {
        "": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
        "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
        "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
    }
    seen = (sum(a * b for a, b in zip(row, rgb, strict=True)) for row in matrices[blindness])
    return tuple(min(max(value, 0.0), 1.0) for value in seen)


XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.072175), (0.0193339, 0.119192, 0.9503041))


def lab(colour: str, blindness: str) -> tuple[float, float, float]:
    rgb = linear_light(colour, blindness)
    x, y, z = (sum(a * b for a, b in zip(row, rgb, strict=True)) / sum(row) for row in XYZ)
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize(("colours", "paper"), [(COLOURS, "#fdfdfb"), (ON_DARK, "#14171a")])
def test_colours_can_be_told_apart(colours: tuple[str, ...], paper: str) -> None:
    """Oracle: CIE 1976 distances of at least 15 for readers with full, protan, deutan and tritan sight (a difference of
    2.3 is just noticed), and WCAG's contrast of 3 for graphics."""
    for blindness in ("", "protan", "deutan", "tritan"):
        for a, b in combinations(colours, 2):
            assert math.dist(lab(a, blindness), lab(b, blindness)) >= 15, (blindness, a, b)

    def luminance(colour: str) -> float:
        return sum(a * b for a, b in zip(XYZ[1], linear_light(colour), strict=True)) + 0.05

    for colour in colours:
        ratio = luminance(colour) / luminance(paper)
        assert max(ratio, 1 / ratio) >= 3


def test_styles_are_distinct() -> None:
    """Oracle: a hundred names: pairs of colour and shape are unique, and so are both among the first ten."""
    chosen = list(styles([f"m{i}" for i in range(100)] + ["m0"]).values())
    assert len(chosen) == len(set(chosen)) == 100
    assert len({style.colour for style in chosen[:10]}) == len({style.marker for style in chosen[:10]}) == 10
    assert set(MARKERS) == set(SHAPES)


def test_command_writes_the_page_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: with --html the page and the plots, and exit code 4 once a record was added; links lead to the files. A
    user's `runs/` has calibrations too."""
    for seed in range(2):
        write_record(run("alpha", seed, 0.5), tmp_path / "results" / "small")
    (tmp_path / "results" / "calibrations").mkdir()
    (tmp_path / "results" / "calibrations" / "step.json").write_text("{}")
    options = ["--results", str(tmp_path / "results"), "--html"]
    assert main([*options, "--check"]) == 4
    assert main(options) == 0
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "small",
        "calibrations",
        "index.html",
        "small.svg",
    }
    assert main([*options, "--check"]) == 0
    for link in Reader((tmp_path / "results" / "index.html").read_text()).links:
        if link.startswith("./"):
            assert (tmp_path / "results" / link).is_file()
    record = run("beta", 0, 0.6)
    write_record(record, tmp_path / "results" / "small")
    assert main([*options, "--check"]) == 4
    assert file_name(record) not in (tmp_path / "results" / "index.html").read_text()


def test_empty_page_says_how_to_begin() -> None:
    """Oracle: the command that publishes a run."""
    assert "benchmark.run --gin toy.gin --allow-imports --publish results/" in render(Page([]))


def test_the_leading_board_is_first_everywhere(tmp_path: Path) -> None:
    """Oracle: by hand: the board of most FLOPs, though another comes first by name; its plot and first three lines lead
    the README beside the records."""
    for place, method in enumerate(("alpha", "beta", "gamma", "delta")):
        for seed in range(2):
            for board, flops in (("a small one", 1e12), ("large", 1e14)):
                costs = {"cost__flops": flops, "budget__amount": flops}
                write_record(
                    run(method, seed, 0.5 + place / 10 + seed / 50, board=board, **costs), tmp_path / "results"
                )
    readme = tmp_path / "README.md"
    readme.write_text("\n".join([*marks(*PLACE), *marks(*LEAD)]))
    assert main(["--results", str(tmp_path / "results")]) == 0
    lead = readme.read_text().partition(marks(*LEAD)[0])[2]
    assert lead.strip().startswith("[![Accuracy against compute](results/large.svg)](results/index.html)")
    lines = [line.split(" | ")[1] for line in lead.splitlines() if line.startswith("| ")]
    assert lines == ["method", ":--", "delta", "gamma", "beta"]
    seen = Reader((tmp_path / "results" / "index.html").read_text())
    assert [link for link in seen.links if link.startswith("#b-")] == ["#b-large", "#b-a-small-one", "#b-*"]
    readme.write_text(readme.read_text().replace("delta", "epsilon"))
    assert main(["--results", str(tmp_path / "results"), "--check"]) == 4
