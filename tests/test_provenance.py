"""Provenance: each number of the gin files has a source, planted mistakes are found, the page is current and golden."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.config.provenance import render
from benchmark.errors import CheckError
from benchmark.tables import main

ROOT = Path(__file__).parents[1]

SMALL = {
    "gin/toy.gin": """\
# Toy, arXiv:0000.00000
#   python -m benchmark.run --gin gin/toy.gin     embedded digits
include 'base.gin'
import nowhere

Pretraining.name = 'toy'
Pretraining.method = @Toy
Pretraining.views = @crop_flip   # stated: section 2
Toy.base = @scope/Base()
Toy.weights = (1, 0.5)           # our choice: small,
                                 # and why
Toy.symmetric = False            # stated: Eq. 1: |a|
Toy.parts = (@A, @B)             # nothing to say
Toy.rate = %RATE

# - pooling: the class token; not the mean; inferred: another
#   paper
# A remark.
""",
    "gin/protocol/data.gin": """\
# Data of a kind,
# ten images (arXiv:1111.11111). Given last:
#   python -m benchmark.run --gin gin/toy.gin
# No more.
Images.source = 'hub:owner/data'
ViewLimits.crop_scale = None
RATE = 1.0e-6                    # stated: Table 3
""",
    "gin/protocol/pair.gin": "include 'data.gin'\n",
    "gin/suites/board.gin": "suite.seeds = (0, 1)\n",
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
}
PAGE = """\
| file | stated | inferred | our choice |
| :-- | --: | --: | --: |
| `toy.gin` | 2 | 1 | 1 |
| `protocol/data.gin` | 1 | 0 | 0 |
| all | 3 | 1 | 1 |

## `gin`

### toy.gin

Toy, arXiv:0000.00000

Includes `base.gin`.

`Base` differs from the paper: nothing | at all.

| name | value | status | source |
| :-- | :-- | :-- | :-- |
| `Pretraining.views` | `@crop_flip` | stated | section 2 |
| `Toy.weights` | `(1, 0.5)` | our choice | small, and why |
| `Toy.symmetric` | `False` | stated | Eq. 1: \\|a\\| |

| decision | choice | status | source |
| :-- | :-- | :-- | :-- |
| pooling | the class token; not the mean | inferred | another paper |

## `gin/protocol`

### protocol/data.gin

Data of a kind, ten images (arXiv:1111.11111).

No more.

| name | value | status | source |
| :-- | :-- | :-- | :-- |
| `RATE` | `1e-06` | stated | Table 3 |
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout of one method and two protocols, with an empty folder of records and an empty page."""
    for name, text in (SMALL | {"docs/provenance.md": ""}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "results").mkdir()
    return tmp_path


def test_the_page_is_current_and_no_line_with_a_number_escapes() -> None:
    """Oracle: the committed page, and a regular expression on the gin files, which shares nothing with their parser."""
    page = (ROOT / "docs" / "provenance.md").read_text(encoding="utf-8")
    assert render(ROOT) == page, "run `python -m benchmark.tables`"
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    of_no_run = {*ROOT.glob("gin/suites/*.gin"), *ROOT.glob("gin/cluster/*.gin")}
    for path in sorted({*ROOT.glob("gin/**/*.gin")} - of_no_run):
        text = path.read_text(encoding="utf-8")
        bound = re.findall(r"^([\w./]+) *= *\(*(?:-?[\d.]|True|False)", text, re.MULTILINE)
        bound += re.findall(r"^([\w./]+\.views) *= *\(?@", text, re.MULTILINE)
        rows = re.findall(r"^\| `(.+?)` \|", sections.get(path.relative_to(ROOT / "gin").as_posix(), ""), re.MULTILINE)
        assert sorted(rows) == sorted(bound), path


def test_golden_page(small: Path) -> None:
    """Oracle: the page above, by hand, after the introduction; references, names and pairs of files have no row."""
    page = render(small)
    assert page[page.index("| file") :] == PAGE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# stated: section 2", "", "gin/toy.gin:8: Pretraining.views = @crop_flip does not say where it comes from"),
        ("our choice: small", "small", "gin/toy.gin:10: Toy.weights = (1, 0.5) does not say where it comes from"),
        ("stated: Eq. 1", "Stated: Eq. 1", "'# our choice: why'; got 'Stated: Eq. 1: |a|'"),
        ("stated: Eq. 1: |a|", "stated:", "gin/toy.gin:12: Toy.symmetric = False does not say where it comes from"),
        ("; inferred: another", "", "gin/toy.gin:16: expected '# - name: choice; stated: where'"),
        ("#   paper", "# paper", None),
    ],
)
def test_planted_mistakes_are_found(small: Path, old: str, new: str, message: str | None) -> None:
    """Oracle: one mistake in a file that is accepted without it, told with the other file's; a remark is no mistake."""
    file = small / "gin" / "toy.gin"
    assert SMALL["gin/toy.gin"].count(old) == 1
    file.write_text(SMALL["gin/toy.gin"].replace(old, new), encoding="utf-8")
    if message is None:
        assert "| inferred | another |" in render(small)
        return
    (small / "gin" / "protocol" / "data.gin").write_text("RATE = 1\n", encoding="utf-8")
    with pytest.raises(CheckError) as caught:
        render(small)
    assert message in str(caught.value)
    assert "gin/protocol/data.gin:1: RATE = 1 does not say" in str(caught.value)


def test_command_writes_and_checks_the_page(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit codes 0 and 4; the page follows the gin files, and the leaderboards do not wait for it."""
    results, page, file = small / "results", small / "docs" / "provenance.md", small / "gin" / "toy.gin"
    options = ["--results", str(results)]
    assert main([*options, "--check"]) == 4
    assert main(options) == 0
    assert page.read_text(encoding="utf-8") == render(small)
    assert main([*options, "--check"]) == 0
    file.write_text(SMALL["gin/toy.gin"].replace("section 2", "section 3"), encoding="utf-8")
    capsys.readouterr()
    assert main([*options, "--check"]) == 4
    assert f"{page} is stale. Run `python -m benchmark.tables --results {results}`" in capsys.readouterr().err
    file.write_text(SMALL["gin/toy.gin"].replace("# stated: section 2", ""), encoding="utf-8")
    (results / "README.md").unlink()
    assert main([*options, "--check"]) == 4
    said = capsys.readouterr().err
    assert all(words in said for words in ("gin/toy.gin:8", f"{results / 'README.md'} is stale"))
    assert main(options) == 4
    assert "gin/toy.gin:8" in capsys.readouterr().err
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
    command = [sys.executable, "-c", program, "--results", str(small / "results")]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert finished.stderr.strip() == ""
    assert PAGE in (small / "docs" / "provenance.md").read_text(encoding="utf-8")
