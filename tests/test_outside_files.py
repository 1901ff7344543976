"""Files of users, outside the tree: a protocol that binds what a run does not read, and methods in a suite."""

from pathlib import Path

import pytest

from benchmark.config import load
from benchmark.errors import ConfigError
from benchmark.statements import shipped_folder


def protocol(folder: Path, more: str = "") -> str:
    """Write a user's copy of a shipped protocol, and return its path."""
    shipped = (shipped_folder() / "protocol" / "vit_micro.gin").read_text()
    (folder / "my_vit.gin").write_text(f"{shipped}{more}\n")
    return str(folder / "my_vit.gin")


def test_a_users_protocol_may_bind_what_a_run_does_not_read(tmp_path: Path) -> None:
    """Oracle: a copy of a shipped protocol gives the shipped one's text, and one note that names what is not read."""
    loaded = load(["gin/simclr.gin", protocol(tmp_path)])
    assert loaded.text == load(["gin/simclr.gin", "gin/protocol/vit_micro.gin"]).text
    (note,) = (note for note in loaded.notes if "does not read" in note)
    assert "my_vit.gin binds 10 values that this run does not read: PixelDecoder.width, Pix" in note
    assert "ten_percent/SemiFineTune.head_rate" in note
    read = load(["gin/mae.gin", protocol(tmp_path)]).notes
    assert not any("PixelDecoder" in note for note in read)


@pytest.mark.parametrize(
    ("more", "others", "settings", "message"),
    [
        ("", (), ("PixelDecoder.width=64",), "^--set .*so PixelDecoder.width has no effect.$"),
        ("Pretraining.name = 'own'", (), (), "PixelDecoder.width has no effect.*Only a protocol may bind what nothing"),
        ("", ("plain.gin",), (), "plain.gin:1: .*PixelDecoder.depth has no effect.*Only a protocol may"),
        ("ViT.wdith = 3", (), (), "my_vit.gin:30: .*Did you mean width"),
        ("HAED_WIDTH = 3", (), (), r"%HAED_WIDTH. Did you mean HEAD_WIDTH\?\n.*= 3$"),
        ("", ("gin/protocol/resnet18.gin",), (), "my_vit.gin:3: .* and something that is read"),
    ],
)
def test_nothing_else_may(
    more: str, others: tuple[str, ...], settings: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """Oracle: settings, a file with a method, other files, misspelt names, and a protocol that is wholly overridden."""
    (tmp_path / "plain.gin").write_text("PixelDecoder.depth = 2\n")
    files = [str(tmp_path / file) if file == "plain.gin" else file for file in others]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(["gin/simclr.gin", protocol(tmp_path, more), *files], settings)
