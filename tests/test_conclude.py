"""The sentences under a printed row."""

from pathlib import Path
from typing import Any

import pytest
from report_records import run
from scipy.stats import binomtest

from benchmark.conclude import conclude, half_width


@pytest.mark.parametrize("n", [2, 12, 60, 198])
def test_half_width_is_wilsons(n: int) -> None:
    """Oracle: scipy's interval of n / 2 of n."""
    interval = binomtest(n // 2, n).proportion_ci(0.95, method="wilson")
    assert half_width(n) == pytest.approx((interval.high - interval.low) / 2)


@pytest.mark.parametrize(
    ("tested", "changes", "said"), [(12, {}, True), (199, {}, True), (200, {}, False), (12, {"metrics": {}}, False)]
)
def test_few_test_images_are_named(
    tested: int, changes: dict[str, Any], said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: 25 points for 12 images, 7 for 199; nothing from 200 images up, nor without scores."""
    sizes = {"pretrain": 100, "train": 100, "test": tested}
    conclude(run("alpha", 0, 0.5, dataset__sizes=sizes, **changes), [], tmp_path, None)
    points = {12: 25, 199: 7, 200: 7}[tested]
    sentence = (
        f"There are {tested} test images: the 95 % interval (Wilson) around an accuracy of 50 % is ± {points} points"
    )
    assert (sentence in capsys.readouterr().out) == said
