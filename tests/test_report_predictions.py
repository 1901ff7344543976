"""Published predictions: what numpy reads, what fits, and the order in which the rest is left out."""

import bz2
from pathlib import Path

import numpy as np
import pytest
from report_records import make

from benchmark.errors import BenchmarkError
from benchmark.report.predictions import MOST_BYTES, confusion, correct, fields_of, pack, read

DRAWS = np.random.default_rng(0)


def guesses(labels: np.ndarray, accuracy: float, *draws: int) -> np.ndarray:
    """Rankings of ten classes whose first ones are right with a probability, and else any."""
    shape = (*draws, len(labels), 3)
    others = DRAWS.integers(0, 10, shape)
    others[..., 0] = np.where(DRAWS.random(shape[:-1]) < accuracy, labels, others[..., 0])
    return others.astype(np.int16)


def test_fields_are_in_the_order_of_tables() -> None:
    """Oracle: the order by hand: draw 0 of each evaluation, linear first; then the next draws; first classes alone."""
    labels = np.arange(4)
    rankings = {
        "zeta": guesses(labels, 0.5),
        "semi_probe_10": guesses(labels, 0.5, 2),
        "semi_probe_1": guesses(labels, 0.5, 3),
        "knn": guesses(labels, 0.5),
        "linear": guesses(labels, 0.5),
    }
    fields = fields_of(rankings)
    first = ["linear", "knn", "semi_probe_1 draw 0", "semi_probe_10 draw 0", "zeta"]
    assert list(fields) == [*first, "semi_probe_1 draw 1", "semi_probe_10 draw 1", "semi_probe_1 draw 2"]
    assert (fields["semi_probe_1 draw 2"] == rankings["semi_probe_1"][2, :, 0]).all()


def test_a_single_draw_has_the_field_of_an_evaluation_without_draws() -> None:
    """Oracle: the name by which the audit looks for it, since the record of such an evaluation has no draws."""
    labels = np.arange(4)
    single = guesses(labels, 0.5, 1)
    fields = fields_of({"semi_probe_1": single, "semi_probe_10": guesses(labels[:1], 0.5, 2)})
    assert list(fields) == ["semi_probe_1", "semi_probe_10 draw 0", "semi_probe_10 draw 1"]
    assert (fields["semi_probe_1"] == single[0, :, 0]).all()
    assert (fields_of({"knn": guesses(labels[:1], 0.5)})["knn"]).shape == (1,)


def test_numpy_reads_what_was_packed(tmp_path: Path) -> None:
    """Oracle: the arrays that went in; 16 bits from 257 classes up; the same bytes again."""
    labels = np.arange(300) % 7
    fields = fields_of({"linear": guesses(labels, 0.5), "semi_probe_1": guesses(labels, 0.3, 5)})
    content, count = pack(labels, fields)
    assert count == 6
    assert pack(labels, fields) == (content, count)
    (tmp_path / "a.npz").write_bytes(content)
    classes = np.load(tmp_path / "a.npz")["classes"]
    assert classes.dtype.names == ("label", *fields)
    assert classes.dtype.itemsize == 7
    assert all((classes[name] == column).all() for name, column in {"label": labels, **fields}.items())
    assert (read(tmp_path / "a.npz") == classes).all()
    for most, kind in ((255, np.uint8), (256, np.uint16)):
        column = np.full(300, most)
        (tmp_path / "b.npz").write_bytes(pack(labels, {"linear": column})[0])
        assert read(tmp_path / "b.npz").dtype["linear"] == kind
        assert (read(tmp_path / "b.npz")["linear"] == column).all()


def test_what_fits_comes_first() -> None:
    """Oracle: the bound of 20 kB, and one field more, packed here, beyond it; nothing where not even one fits."""
    labels = DRAWS.integers(0, 10, 10_000)
    rankings = {"linear": guesses(labels, 0.5), "knn": guesses(labels, 0.5), "semi_probe_1": guesses(labels, 0.4, 5)}
    content, count = pack(labels, fields_of(rankings))
    assert 2 <= count < 7
    assert len(content) <= MOST_BYTES
    rows = np.stack([labels, *fields_of(rankings).values()][: count + 2], axis=1).astype(np.uint8)

    assert len(bz2.compress(rows.tobytes())) > MOST_BYTES - 500  # of the archive's own bytes
    many = DRAWS.integers(0, 1000, 50_000)
    assert pack(many, {"linear": many[::-1]}) == (b"", 0)


def test_which_images_a_published_run_got_right(tmp_path: Path) -> None:
    """Oracle: by hand, and what the others were taken for; None for a run without a file, whose file is gone, and
    for an evaluation that is not in it."""
    labels = np.array([0, 1, 2, 3])
    content, _ = pack(labels, {"linear": np.array([0, 0, 2, 2])})
    file = {"file": "predictions/a.npz", "sha256": "0" * 64, "bytes": len(content)}
    record = make(published={"predictions": file})
    assert correct(tmp_path, record, "linear") is None
    (tmp_path / "small" / "predictions").mkdir(parents=True)
    (tmp_path / "small" / "predictions" / "a.npz").write_bytes(content)
    assert correct(tmp_path, record, "linear").tolist() == [True, False, True, False]
    assert correct(tmp_path, record, "knn") is None
    assert correct(tmp_path, make(), "linear") is None
    assert correct(tmp_path, make(published={}), "linear") is None
    assert confusion(tmp_path, record, "linear") == {(0, 0): 1, (1, 0): 1, (2, 2): 1, (3, 2): 1}
    assert confusion(tmp_path, record, "knn") is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Oracle: an error that names the file, for one that is no archive, has no such array, or no label."""
    (tmp_path / "a.npz").write_bytes(b"text")
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    np.savez(tmp_path / "c.npz", classes=np.zeros(3))
    for name in ("a", "b", "c", "none"):
        with pytest.raises(BenchmarkError, match=f"{name}.npz"):
            read(tmp_path / f"{name}.npz")
