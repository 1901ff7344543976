"""Provenance: the table agrees with every gin file, planted mistakes are found, and the page is current and golden."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmark.errors import CheckError
from benchmark.tables import main, provenance_page

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "gin" / "provenance.toml"

SMALL = {
    "gin/toy.gin": """\
# Toy, arXiv:0000.00000
#   python -m benchmark.run --gin gin/toy.gin     embedded digits
include 'base.gin'
import nowhere

Pretraining.name = 'toy'
Pretraining.method = @Toy
Pretraining.views = @crop_flip   # section 2
Toy.base = @scope/Base()
Toy.weights = (1, 0.5)           # our choice: small
Toy.symmetric = False            # Eq. 1
Toy.parts = (@A, @B)
Toy.rate = %RATE
""",
    "gin/protocol/data.gin": """\
# Data of a kind,
# ten images (arXiv:1111.11111). Given last:
#   python -m benchmark.run --gin gin/toy.gin
# No more.
Images.source = 'hub:owner/data'
ViewLimits.crop_scale = None
RATE = 1.0e-6                    # Table 3
""",
    "gin/protocol/pair.gin": "include 'data.gin'\n",
    "baselines/toy.py": '''\
import nowhere

class Base:
    """A base.

    Differs from the paper: nothing | at
    all.

    Raises ValueError.
    """

class A:
    """A part."""
''',
    "gin/provenance.toml": """\
["toy.gin"]
"Pretraining.views" = { value = "@crop_flip", status = "stated", source = "section 2" }
"Toy.weights" = { value = [1, 0.5], status = "our choice", source = "small" }
"Toy.symmetric" = { value = false, status = "stated", source = "Eq. 1: |a|" }

["toy.gin".decisions]
"pooling" = { choice = "the class token", status = "inferred", source = "another paper" }

["protocol/data.gin"]
"RATE" = { value = 1e-6, status = "stated", source = "Table 3" }
""",
}
PAGE = """\
| file | stated | inferred | our choice |
| --- | --- | --- | --- |
| `toy.gin` | 2 | 1 | 1 |
| `protocol/data.gin` | 1 | 0 | 0 |
| all | 3 | 1 | 1 |

## `gin`

### toy.gin

Toy, arXiv:0000.00000

Includes `base.gin`.

`Base` differs from the paper: nothing | at all.

| name | value | status | source |
| --- | --- | --- | --- |
| `Pretraining.views` | `"@crop_flip"` | stated | section 2 |
| `Toy.weights` | `[1, 0.5]` | our choice | small |
| `Toy.symmetric` | `false` | stated | Eq. 1: \\|a\\| |

| decision | choice | status | source |
| --- | --- | --- | --- |
| pooling | the class token | inferred | another paper |

## `gin/protocol`

### protocol/data.gin

Data of a kind, ten images (arXiv:1111.11111).

No more.

| name | value | status | source |
| --- | --- | --- | --- |
| `RATE` | `1e-06` | stated | Table 3 |
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout of one method and two protocols, with an empty folder of records; its provenance table."""
    for name, text in SMALL.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "results").mkdir()
    return tmp_path / "gin" / "provenance.toml"


def refusal(table: Path, text: str) -> str:
    """Return the message that refuses `text` as the table."""
    table.write_text(text, encoding="utf-8")
    with pytest.raises(CheckError) as caught:
        provenance_page(table)
    return str(caught.value)


def test_every_number_has_an_entry_and_the_page_is_current() -> None:
    """Oracle: the gin files by the project's parser, and the committed page. A failure shows the lines to add."""
    page = ROOT / "docs" / "provenance.md"
    assert provenance_page(TABLE) == page.read_text(encoding="utf-8"), "run `python -m benchmark.tables`"


def test_no_line_with_a_number_escapes() -> None:
    """Oracle: a regular expression on the lines of the gin files, which shares nothing with their parser."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    for path in sorted({*TABLE.parent.rglob("*.gin")} - {*TABLE.parent.glob("suites/*.gin")}):
        name = path.relative_to(TABLE.parent).as_posix()
        text = path.read_text(encoding="utf-8")
        bound = re.findall(r"^([\w./]+) *= *\(?(?:-?[\d.]|True|False)", text, re.MULTILINE)
        bound += re.findall(r"^([\w./]+\.views) *= *\(?@", text, re.MULTILINE)
        assert set(bound) == set(table.get(name, {})) - {"decisions"}, name


def test_golden_page(small: Path) -> None:
    """Oracle: the page above, by hand, after the introduction; references, names and pairs of files have no row."""
    page = provenance_page(small)
    assert page[page.index("| file") :] == PAGE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1, 0.5]", "[1, 0.6]", "'Toy.weights': expected value = [1, 0.5] as in gin/toy.gin, got [1, 0.6]."),
        ("[1, 0.5]", "[1.0, 0.5]", "'Toy.weights': expected value = [1, 0.5]"),
        ("value = false", "value = 0", "'Toy.symmetric': expected value = false"),
        ("@crop_flip", "@strong_colour", "'Pretraining.views': expected value = \"@crop_flip\""),
        ('"inferred"', '"guess"', "'pooling': expected the status 'stated', 'inferred', 'our choice'; got 'guess'."),
        ('"small"', '" "', "'Toy.weights': expected a source in words, got ' '."),
        (', source = "small"', "", "'Toy.weights': expected { value = ..., status = ..., source = ... }, got"),
        ('"our choice"', '"stated"', "its comment in gin/toy.gin is 'our choice: small'"),
        ('"stated", source = "Table 3"', '"our choice", source = "x"', "its comment in gin/protocol/data.gin is 'Tab"),
        ('"RATE"', '"RATES"', "'RATES': gin/protocol/data.gin binds it to no number, switch or recipe"),
        ('["protocol/data.gin"]', '["data.gin"]', "['data.gin'] is not the table of a gin file; remove it."),
        ('"RATE" = ', "RATE : ", "is no TOML"),
    ],
)
def test_planted_mistakes_are_found(small: Path, old: str, new: str, message: str) -> None:
    """Oracle: one mistake in a table that is accepted without it, and what the message must say about it."""
    accepted = small.read_text(encoding="utf-8")
    assert accepted.count(old) == 1
    assert message in refusal(small, accepted.replace(old, new))


def test_missing_entries_are_given_as_lines_to_add(small: Path) -> None:
    """Oracle: the lines complete a table once a status is settled; all problems come in one message."""
    message = refusal(small, '["toy.gin".decisions]\n')
    data, toy = message.split("['toy.gin'] lacks entries.")
    assert '"RATE" = { value = 1e-06, status = "stated | inferred", source = "Table 3" }' in data
    assert '"Toy.weights" = { value = [1, 0.5], status = "our choice", source = "small" }' in toy
    lines = [line for line in toy.splitlines() if line.startswith('"')]
    settled = "\n".join(['["toy.gin"]', *lines]).replace("stated | inferred", "stated")
    assert "toy.gin" not in refusal(small, settled).partition("disagree:")[2]


def test_command_writes_and_checks_the_page(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit codes 0 and 4; the page follows the table, and the leaderboards do not wait for it."""
    results, page = small.parents[1] / "results", small.parents[1] / "docs" / "provenance.md"
    options = ["--results", str(results)]
    assert main([*options, "--check"]) == 4
    assert main(options) == 0
    assert page.read_text(encoding="utf-8") == provenance_page(small)
    assert main([*options, "--check"]) == 0
    small.write_text(SMALL["gin/provenance.toml"].replace("Table 3", "Table 4"), encoding="utf-8")
    capsys.readouterr()
    assert main([*options, "--check"]) == 4
    assert f"{page} is stale. Run `python -m benchmark.tables --results {results}`" in capsys.readouterr().err
    small.write_text("", encoding="utf-8")
    (results / "README.md").unlink()
    assert main(options) == 4
    assert "['toy.gin'] lacks entries" in capsys.readouterr().err
    assert (results / "README.md").exists()


def test_command_leaves_other_folders_alone(tmp_path: Path) -> None:
    """Oracle: records that lie outside a checkout, as those of an installed package do, get their leaderboards only."""
    results = tmp_path / "results"
    results.mkdir()
    assert main(["--results", str(results)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_page_needs_no_torch(small: Path) -> None:
    """Oracle: the modules loaded by a fresh interpreter that wrote the page."""
    heavy = "{'torch', 'torchvision', 'timm', 'datasets', 'sklearn'} & set(sys.modules)"
    program = f"import sys; from benchmark.tables import main; sys.exit(main(sys.argv[1:]) or str({heavy} or ''))"
    command = [sys.executable, "-c", program, "--results", str(small.parents[1] / "results")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert finished.stderr.strip() == ""
    assert (small.parents[1] / "docs" / "provenance.md").exists()
