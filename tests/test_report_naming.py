"""Names of lines: keys, the values that differ, and what a sweep varies."""

from report_records import make, metrics, run

from benchmark.report.identity import DEFAULTS, PLACES
from benchmark.report.markdown import render


def test_configurations_of_one_method_are_told_apart() -> None:
    """Oracle: two keys are two rows, never one mean."""
    page = render([make(), make(config__key="fedcba9876543210", metrics={"linear": metrics(0.7)})])
    assert "| 1-2 | alpha (01234567) | 90.00 (1 seed) |" in page
    assert "| 1-2 | alpha (fedcba98) | 70.00 (1 seed) |" in page
    assert "All ranks stay open: the range test needs methods that share seeds, two each." in page


def test_what_was_set_names_the_lines_of_one_method() -> None:
    """Oracle: by hand: the values in which configurations differ, not those that a new option adds; the key of one
    whose differences a name has no room for."""
    text = f"A.x = 1\nA.y = 2\nB.z = 3\n\n{DEFAULTS}\nC.w = 0\n\n{PLACES}\nI.s = 's'\n"
    texts = {"aa" * 8: text, "bb" * 8: text.replace("x = 1", "x = 7").replace("C.w = 0", "C.w = 0\nC.new = 5")}
    records = [make(config__key=key, config__text=text) for key, text in texts.items()]
    page = render(records)
    assert "| alpha (A.x = 1) |" in page
    assert "| alpha (A.x = 7) |" in page
    far = make(config__key="cc" * 8, config__text=text.replace("A", "D").replace("B", "D"))
    assert "| alpha (cccccccc) |" in render([*records, far])


def test_what_a_sweep_varies_is_named() -> None:
    """Oracle: the bindings beside the method, one row each; the key where they do not tell two cells apart."""
    points = [("0.2", "aa" * 8, 0.9), ("0.4", "bb" * 8, 0.8), ("0.4", "cc" * 8, 0.7)]
    page = render(
        [run("alpha", 0, top1, config__key=key, config__varied=[f"A.ratio = {value}"]) for value, key, top1 in points]
    )
    assert "| 1-3 | alpha (A.ratio = 0.2) | 90.00 (1 seed) |" in page
    assert "| 1-3 | alpha (A.ratio = 0.4, bbbbbbbb) | 80.00 (1 seed) |" in page
    assert "| 1-3 | alpha (A.ratio = 0.4, cccccccc) | 70.00 (1 seed) |" in page
