"""Generated text in a page of people: what stands around it stays, and a second time changes nothing."""

import pytest

from benchmark.errors import ConfigError
from benchmark.report.text import inserted, marks

PLACE = ("board", "python -m benchmark.tables")


def test_text_is_put_between_its_marks_alone() -> None:
    """Oracle: the page by hand; other marks and what stands around are as before; twice is once."""
    begin, end = marks(*PLACE)
    other = "\n".join(marks("costs", "python -m benchmark.speed costs"))
    page = f"above\n{begin}\nold\n{end}\n{other}\nbelow\n"
    new = inserted(page, *PLACE, "| new |")
    assert new == f"above\n{begin}\n| new |\n{end}\n{other}\nbelow\n"
    assert inserted(new, *PLACE, "| new |") == new


def test_a_page_without_a_place_is_refused() -> None:
    """Oracle: what lacks a place, and its mark."""
    for page in ("", "only {0}", "only {1}", "{1} before {0}"):
        with pytest.raises(ConfigError, match=r"no place for the board: .*<!-- board"):
            inserted(page.format(*marks(*PLACE)), *PLACE, "text")
