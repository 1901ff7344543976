"""The plots for papers: the numbers, names and colours of the page, and what LaTeX makes of them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from page_records import HOSTILE, changed, hostile, shown
from report_records import floor, run

from benchmark.page.page import Page
from benchmark.page.pgfplots import FRONT, pgfplots
from benchmark.page.plot import SHAPES
from benchmark.report.formats import latex
from benchmark.report.palette import COLOURS, MARKERS
from benchmark.report.record import Record, write
from benchmark.tables import main

TEX = r"\input{x} & 50% $a_b$ #1 ~^|<> ]],=}{"
WORDS = {
    *("addlegendentry", "addplot", "begin", "definecolor", "end", "footnotesize", "linewidth", "pgfdeclareplotmark"),
    *("pgfpathcircle", "pgfpathsvg", "pgfpointorigin", "pgftransformscale", "pgftransformyscale", "textit"),
    *("pgfusepathqfillstroke", "textbackslash", "textasciitilde", "textasciicircum", "textbar", "textless"),
    "textgreater",
}
DOCUMENT = r"""\documentclass{article}\usepackage{booktabs,pgfplots}\pgfplotsset{compat=1.16}\usetikzlibrary{svg.path}
\begin{document}
%s
\end{document}
"""


def of(records: list[Record]) -> str:
    return pgfplots(Page(records, (), changed))


def coordinates(text: str) -> dict[str, str]:
    """Return the coordinates of each plot by its legend; those of a plot without one by its options."""
    lines = text.splitlines()
    plots = [line.removeprefix(r"\addplot[").split("] coordinates ") for line in lines if line.startswith(r"\addplot")]
    entries = iter([line[len(r"\addlegendentry{") : -1] for line in lines if line.startswith(r"\addlegendentry")])
    return {options if "forget plot" in options else next(entries): places.strip("{};") for options, places in plots}


def test_numbers_by_hand() -> None:
    """Oracle: seconds and means by hand; of three seeds that differ by 1 point, 4.303 / sqrt(3) = 2.48; the front leads
    over two methods to the end of the axis; a floor is a line over the whole axis; the colours of the page."""
    costs = {"cheap": (10.0, 0.5), "better_1": (20.0, 0.7), "worse": (40.0, 0.6)}
    base = floor(0, 0.48)
    records = [base] + [
        run(name, seed, top1 + seed / 100, cost__train_seconds=seconds, floors=[base["id"]])
        for name, (seconds, top1) in costs.items()
        for seed in range(3)
    ]
    text = of(records)
    plots = coordinates(text)
    (low, high) = re.search(r"xmin=([\d.]+), xmax=([\d.]+)", text).groups()  # type: ignore[union-attr]
    assert float(low) < 10
    assert float(high) > 40
    assert plots == {
        "front, const plot, forget plot": f"(10,51.00) (20,71.00) ({high},71.00)",
        "cheap": "(10,51.00) +- (0,2.48)",
        r"better\_1": "(20,71.00) +- (0,2.48)",
        "worse": "(40,61.00) +- (0,2.48)",
        r"\textit{random init}, 48.0": f"({low},48.00) ({high},48.00)",
    }
    assert list(plots)[1:] == [r"better\_1", "worse", "cheap", r"\textit{random init}, 48.0"]
    assert "xlabel={device seconds, logarithmic}, ylabel={linear, top-1 in \\%}" in text
    for name, style in Page(records).styles.items():
        if name in costs:
            own = f"method{style.colour}{style.marker}"
            assert f"\\definecolor{{{own}}}{{HTML}}{{{COLOURS[style.colour][1:].upper()}}}" in text
            path = (
                rf"\pgfpathsvg{{{SHAPES[MARKERS[style.marker]]}}}"
                if style.marker
                else r"\pgfpathcircle{\pgfpointorigin}"
            )
            assert re.search(rf"mark{{{own}}}{{\\pgftransform.*{re.escape(path)}.*\\pgfusepathqfillstroke}}", text)
            bars = "error bars/.cd, y dir=both, y explicit, error mark=none"
            assert f"[only marks, {own}, mark={own}, {bars}] coordinates {{({costs[name][0]:g}," in text
    assert f"--accent:#{FRONT.lower()}" in (Path(pgfplots.__code__.co_filename).parent / "chart.css").read_text()


def test_budgets_are_joined_and_equal_costs_side_by_side() -> None:
    """Oracle: by hand: at each of three budgets three methods; the one in the middle has its exact cost, the better one
    stands at its left. A line joins the budgets of each method, which has one name."""
    text = of(shown()).split(r"\end{tikzpicture}")[0]
    points = [line for line in text.splitlines() if line.startswith(r"\addplot[only marks")]
    assert len(points) == 9
    assert text.count(r"\addlegendentry") == 4  # three methods and a floor
    costs: dict[str, list[float]] = {}
    for line in points:
        style, cost = re.match(r".*only marks, (\w+),.*coordinates \{\(([\d.]+),", line).groups()  # type: ignore[union-attr]
        costs.setdefault(style, []).append(float(cost))
    styles = Page(shown(), (), changed).styles
    order = [styles[name] for name in ("delta", "beta", "alpha")]
    delta, beta, alpha = (costs[f"method{style.colour}{style.marker}"] for style in order)
    assert beta == [100, 10, 1]
    assert all(left < middle < right for left, middle, right in zip(delta, beta, alpha, strict=True))
    ladders = [line for line in text.splitlines() if re.match(r"\\addplot\[method\d+, forget plot\]", line)]
    assert [line.count("(") for line in ladders] == [3, 3, 3]


def test_hostile_names_are_inert() -> None:
    """Oracle: the commands of LaTeX that the plots use, as many braces opened as closed, and the name as it is read."""
    for records in (hostile(), [run(TEX, seed, 0.5, board=TEX, dataset__name=TEX) for seed in range(2)]):
        text = "\n".join(line for line in of(records).splitlines() if not line.startswith("%"))
        assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= WORDS
        plain = re.sub(r"\\.", "", text)
        assert plain.count("{") == plain.count("}")
        assert not re.search(r"[$#&^~|<>\u202e]", plain)
        assert text.count(r"\begin") == text.count(r"\end{")
    assert r"\addlegendentry{\textbackslash{}input\{x\} \& 50\% \$a\_b\$ \#1 " in of(
        [run(TEX, seed, 0.5) for seed in range(2)]
    )


@pytest.mark.skipif(
    not shutil.which("kpsewhich") or not subprocess.run(["kpsewhich", "pgfplots.sty"], capture_output=True).stdout,
    reason="LaTeX is not installed: apt-get install texlive-latex-base texlive-pictures texlive-latex-extra",
)
@pytest.mark.parametrize("name", ["plain", TEX, *HOSTILE[:1]])
def test_latex_takes_them(tmp_path: Path, name: str) -> None:
    """Oracle: pdflatex, which ends without an error and a warning, tables included; every shape is used."""
    records = [run(f"{name}{i}", seed, 0.4 + i / 50, board=name) for i in range(11) for seed in range(2)]
    text = latex(records, (), changed) + of(records + shown())
    (tmp_path / "a.tex").write_text(DOCUMENT % text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-2000:]
    assert "Warning" not in said.stdout


def test_the_command_prints_them_after_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the text of the two functions for latex; for the other formats no plot."""
    for record in shown():
        write(record, tmp_path / "small")
    assert main(["--results", str(tmp_path), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert text.count(r"\begin{tikzpicture}") == 2
    assert text.rindex(r"\end{tabular}") < text.index(r"\begin{tikzpicture}")
    assert main(["--results", str(tmp_path), "--format", "csv"]) == 0
    assert "tikz" not in capsys.readouterr().out
