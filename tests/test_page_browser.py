"""The page of results in Chromium: what a reader does with it, without a request, a message or a serious barrier."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_records import HOSTILE, hostile, many, shown, write

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is an extra: pip install -e '.[browser]'")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

VIEW = """() => ({
  boards: [...document.querySelectorAll('.board.on')].map(e => e.id),
  rows: [...document.querySelectorAll('.board.on tr[data-k]')].filter(e => e.checkVisibility()).map(e => e.dataset.k),
  points: [...document.querySelectorAll('.board.on .wide .points a')].filter(e => !e.hasAttribute('hidden'))
    .map(e => e.getAttribute('transform')),
  axes: [...document.querySelectorAll('.board.on .wide .score, .board.on .wide .cost')].map(e => e.textContent),
  sorted: [...document.querySelectorAll('.board.on [aria-sort]')].map(e => e.textContent + e.getAttribute('aria-sort')),
  fields: [...document.querySelectorAll('.filters [name]')].map(e => e.type === 'checkbox' ? e.checked : e.value),
  panel: [...document.querySelectorAll('.panel.on')].map(e => e.id),
})"""
FIRST_PAINT = """() => new Promise(done => new PerformanceObserver((list, observer) => {
  observer.disconnect();
  done(list.getEntries()[0].startTime);
}).observe({type: 'paint', buffered: true}))"""
SORT = """() => {
  const button = [...document.querySelectorAll('.board.on thead button')].find(e => e.textContent === 'linear');
  const times = [];
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    button.click();
    document.body.offsetHeight;
    times.push(performance.now() - start);
  }
  return Math.min(...times);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(shown(), tmp_path_factory.mktemp("site") / "index.html")


class Tab:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, fragment: str = "", **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.address = f"file://{file}"
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "accept_downloads": True} | options
        )
        self.page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(self.address + fragment)

    @property
    def view(self) -> dict[str, Any]:
        seen: dict[str, Any] = self.page.evaluate(VIEW)
        return seen

    def names(self, table: int = 0) -> list[str]:
        rows = self.page.locator(".board.on .table:visible").nth(table).locator("tbody tr:visible th")
        return [text.strip() for text in rows.all_inner_texts()]

    def sort(self, heading: str) -> None:
        self.page.locator(".board.on thead button", has_text=heading).first.click()

    def close(self) -> None:
        """Close it. The page asked for itself alone, and said nothing."""
        self.page.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("blob:", "data:"))] == [self.address]


@pytest.fixture
def tab(browser: Any, site: Path) -> Iterator[Tab]:
    opened = Tab(browser, site)
    yield opened
    opened.close()


def test_a_board_is_chosen_and_sorted(tab: Tab) -> None:
    """Oracle: order by hand: rank, the stale line last; kNN, best first, worst first; floors below; aria-sort tells."""
    assert tab.names() == ["delta", "beta", "alpha", "gamma (2026-01-31)", "random init"]
    for heading, order in (("kNN", "descending"), ("kNN", "ascending")):
        tab.sort(heading)
        cells = tab.page.locator(".board.on .table").first.locator("tbody:not(.beside) td:nth-child(4)")
        scores = [float(text.split()[0]) for text in cells.all_inner_texts()]
        assert scores == sorted(scores, reverse=order == "descending")
        assert len(set(scores)) == 4
        assert tab.names()[-1] == "random init"
        assert tab.page.locator(f".board.on [aria-sort={order}]").first.inner_text().startswith(heading)
    tab.sort("method")
    assert tab.names() == ["alpha", "beta", "delta", "gamma (2026-01-31)", "random init"]
    tab.sort("rank")
    assert tab.names()[0] == "delta"
    tab.page.locator("nav.boards a", has_text="tuned").click()
    assert tab.names() == ["epsilon", "beta"]
    assert tab.view["boards"] == ["b-tuned"]
    tab.page.go_back()
    assert tab.view["boards"] == ["b-small"]


def test_filters_hide_lines_and_points(tab: Tab) -> None:
    """Oracle: lines by hand: by part of a name, without stale ones, by budget, on all boards by hardware."""
    tab.page.fill("[name=method]", "bet del")
    assert tab.names() == ["delta", "beta", "random init"]
    assert len(tab.view["points"]) == 6
    assert tab.page.locator("[role=status]").inner_text() == "6 of 12 lines"
    tab.page.locator("[data-do=clear]").first.click()
    tab.page.locator(".filters summary").click()
    tab.page.check("[name=fresh]")
    assert tab.names() == ["delta", "beta", "alpha", "random init"]
    tab.page.select_option("[name=budget]", "10 TFLOPs")
    assert tab.page.locator(".board.on .table:visible").count() == 1
    tab.page.locator("[data-do=clear]").first.click()
    tab.page.locator("nav.boards a", has_text="2 boards").click()
    tab.page.select_option("[name=hardware]", "GPU 1")
    assert tab.names() == ["epsilon"]
    tab.page.fill("[name=method]", "nobody")
    assert tab.page.locator(".nothing").is_visible()


PERMALINKS = (
    "",
    "#board=tuned",
    "#board=*&sort=-kNN",
    "#board=tuned&sort=-method",
    "#method=beta",
    "#method=alpha&fresh=1&budget=10+TFLOPs",
    "#x=seconds&y=kNN",
    "#x=joules",
    "#board=*&hardware=GPU+1&division=tuned&rows=all",
    "#sort=method&x=seconds&method=a",
)


@pytest.mark.slow
def test_permalinks_restore_the_view(browser: Any, site: Path) -> None:
    """Oracle: the address after a click, opened in another tab: board, rows and their order, points, axes, fields, and
    the open panel. The ten views differ."""
    views = []
    for start in PERMALINKS:
        tab = Tab(browser, site, start)
        views.append(str(tab.view))
        tab.page.locator(".board.on tbody tr:visible th a").last.click()
        other = Tab(browser, site, "#" + tab.page.url.partition("#")[2])
        assert other.view == tab.view, start
        assert len(tab.view["panel"]) == 1
        assert tab.view["rows"]
        for each in (tab, other):
            each.address = each.asked[0]
            each.close()
    assert len(set(views)) == 10


def test_a_panel_shows_the_records(tab: Tab) -> None:
    """Oracle: by hand: three seeds with links to their files, the column clicked, command, curve, confusions
    of three runs; Escape closes it."""
    tab.page.locator(".board.on .table").first.locator("tr", has_text="alpha").locator("td.e").nth(1).click()
    panel = tab.page.locator(".panel.on")
    assert "alpha" in panel.locator("h2").inner_text()
    assert panel.locator("tbody td.here").all_inner_texts() == ["65.00", "64.85", "64.70"]
    assert panel.locator("table").first.locator("tbody tr").count() == 3
    link = panel.locator("a.run").first.get_attribute("href")
    assert link.startswith("./small/digits-vit_micro-alpha-s0-")
    assert panel.locator(".repeat code").first.inner_text() == f"python -m benchmark.run --reproduce results/{link[2:]}"
    assert panel.locator("svg.curve path").count() == 3
    first = panel.locator("table.confusion tbody tr").first
    assert first.inner_text().split() == ["0", "90", "60"]
    assert first.locator("td:nth-child(11)").inner_text() == "60"
    assert "b" * 40 in panel.inner_text()
    assert "Example CPU, 1 thread" in panel.inner_text()
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.locator(".repeat button").nth(1).click()
    assert "-alpha-s1-" in tab.page.evaluate("navigator.clipboard.readText()")
    tab.page.keyboard.press("Escape")
    assert tab.view["panel"] == []
    assert tab.page.evaluate("document.activeElement.textContent") == "alpha"
    tab.page.keyboard.press("Enter")
    panel.locator("a", has_text="differs in 1 point").click()
    assert tab.view["panel"] == []
    assert tab.page.locator("details", has_text="Alpha: No crop.").locator("li").is_visible()


def test_points_are_links(tab: Tab) -> None:
    """Oracle: by the keyboard: the name and score in the title, and the panel of the line."""
    point = tab.page.locator(".board.on .wide .points a").first
    assert point.locator("title").text_content() == "delta: 76.30 %"
    point.focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.locator(".panel.on h2").inner_text() == "delta"
    tab.page.keyboard.press("Escape")
    tab.page.locator(".board.on select[name=y]").select_option("kNN")
    assert point.locator("title").text_content().startswith("delta: 51.85")


def test_csv(tab: Tab) -> None:
    """Oracle: of what is shown, one line for each score of two lines; of everything, of all lines of all boards."""
    tab.page.fill("[name=method]", "epsilon")
    tab.page.locator("nav.boards a", has_text="tuned").click()
    contents = []
    for action in ("shown", "all"):
        with tab.page.expect_download() as download:
            tab.page.locator(f"[data-do={action}]").click()
        contents.append(list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))))
    assert [(row["method"], row["evaluation"], row["mean"], row["seeds"]) for row in contents[0]] == [
        ("epsilon", "linear", "72.33", "3"),
        ("epsilon", "kNN", "50.00", "3"),
    ]
    assert len(contents[1]) == 2 * (3 * 5 + 2)
    assert {row["board"] for row in contents[1]} == {"small", "tuned"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        *((390, "dark"), (1440, "light")),
        *(pytest.param(*each, marks=pytest.mark.long) for each in ((390, "light"), (1440, "dark"))),
        *(pytest.param(768, scheme, marks=pytest.mark.long) for scheme in ("light", "dark")),
    ],
)
def test_width_and_barriers(browser: Any, site: Path, width: int, scheme: str) -> None:
    """Oracle: the page is as wide as the window, its colours follow the scheme, and axe-core finds nothing serious or
    critical, also with the filters unfolded and a panel open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[browser]'")
    tab = Tab(browser, site, "#board=*", viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(253, 253, 251)", "dark": "rgb(20, 23, 26)"}[scheme]
    for opened in (False, True):
        if opened:
            tab.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
            tab.page.locator(".board.on tbody th a").first.click()
        violations = axe.Axe().run(tab.page).response["violations"]
        assert [
            (each["id"], each["nodes"][0]["html"]) for each in violations if each["impact"] in ("serious", "critical")
        ] == []
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    tab.address = tab.asked[0]
    tab.close()


def test_without_javascript(browser: Any, site: Path) -> None:
    """Oracle: every line of every board can be read, a link opens a panel, and nothing is shown that needs a script."""
    tab = Tab(browser, site, java_script_enabled=False)
    assert tab.page.locator(".table tbody tr:visible").count() == 3 * 5 + 2
    assert tab.page.locator(".js-only:visible").count() == 0
    assert "lines open without this command" in tab.page.inner_text("header")
    tab.page.locator("tbody th a").first.click()
    assert tab.page.locator(".panel:visible").count() == 1
    assert tab.page.locator(".panel:visible table.confusion tbody tr").count() == 10
    tab.close()


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    """Oracle: no dialog, message, request or element of theirs; the names are text, also for the script."""
    tab = Tab(browser, write(hostile(), tmp_path / "index.html"), "#board=*")
    text = tab.page.inner_text("main")
    assert all(name.replace("\u202e", " ").replace("\u202c", " ").strip() in text for name in HOSTILE)
    assert tab.page.locator("img").count() == 0
    for link in tab.page.locator(".board.on tbody th a").all():
        link.click()
        tab.page.keyboard.press("Escape")
    with tab.page.expect_download() as download:
        tab.page.locator("[data-do=all]").click()
    assert "\"'=HYPERLINK(1)" in Path(download.value.path()).read_text()
    tab.address = tab.asked[0]
    tab.close()


@pytest.mark.long
@pytest.mark.parametrize(("count", "seeds", "boards"), [(1_000, 1, 1), (10_000, 10, 20)])
def test_many_records(browser: Any, tmp_path: Path, count: int, seeds: int, boards: int) -> None:
    """Oracle: the first paint within 300 ms, and a thousand lines sorted within 50 ms, layout included; the least of
    several measurements, because other tests use the same cores. Of a long table 100 lines are shown, then all."""
    file = write(many(count, seeds, boards), tmp_path / "index.html")
    paints, sorts = [], []
    for _ in range(8):
        tab = Tab(browser, file)
        paints.append(tab.page.evaluate(FIRST_PAINT))
        if boards > 1:
            tab.page.locator("nav.boards a", has_text="board 3").click()
        sorts.append(tab.page.evaluate(SORT))
        lines = count // (seeds * boards)
        assert len(tab.names()) == min(lines, 100)
        if lines > 100:
            tab.page.locator("[data-do=rows]:visible").click()
            assert len(tab.names()) == lines
        tab.close()
        if min(paints) <= 300 and min(sorts) <= 50:
            break
    print(f"{count} records: first paint {paints} ms, sorted in {min(sorts):.1f} ms")
    assert min(paints) <= 300
    assert min(sorts) <= 50
