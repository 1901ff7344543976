"""What a run leaves on its board: the file of an encoder in half the bytes."""

from pathlib import Path

import torch
from report_records import make
from safetensors.torch import load_file, save_file

from benchmark.experiment.publication import publish
from benchmark.storage.files import sha256_of


def test_values_that_float16_cannot_hold_stay(tmp_path: Path) -> None:
    """Oracle: the tensors that were written: 65,504 is the largest number of float16; integers stay as they are."""
    state = {"small": torch.full((2,), 65504.0), "large": torch.full((2,), 70000.0), "steps": torch.tensor(7)}
    file = tmp_path / "encoder.safetensors"
    save_file(state, file)
    checkpoint = {"file": file.name, "sha256": sha256_of(file), "bytes": file.stat().st_size}
    record = make(seed=0, checkpoint=checkpoint, predictions=None)
    board = tmp_path / "board"
    published = load_file(board / publish(record, None, tmp_path, board)["encoder"]["file"])
    assert {name: part.dtype for name, part in published.items()} == {
        "small": torch.float16,
        "large": torch.float32,
        "steps": torch.int64,
    }
    assert all(torch.equal(published[name].to(part.dtype), part) for name, part in state.items())
