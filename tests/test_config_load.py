"""Every rule of strict gin, on toy configurables and a temporary shipped folder.

The oracle is the rule itself, stated in each test's docstring: which object comes out, or which message.
"""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import gin
import pytest

from benchmark.annotations import Location
from benchmark.config import load as configuration
from benchmark.config import parse, registry
from benchmark.config.load import Config, build, load, loads
from benchmark.errors import ConfigError, MissingError


@gin.register
class ToyNet:
    def __init__(self, channels: int, *, width: int = 8, rate: float = 0.1, act: str = "gelu") -> None:
        self.channels, self.width, self.rate, self.act = channels, width, rate, act


@gin.register
@dataclass(frozen=True, kw_only=True)
class ToyStage:
    net: Callable[..., Any]
    kind: Literal["fast", "slow"] = "fast"
    betas: tuple[float, float] = (0.9, 0.999)
    options: dict[str, int] = field(default_factory=dict)


@gin.register
@dataclass(frozen=True, kw_only=True)
class ToyData:
    name: str
    source: Location = "nowhere"


@gin.register
def toy_metric(features: Any, *, k: int | None = None) -> tuple[Any, int | None]:
    return features, k


@gin.register
def toy_loop(*, inner: Callable[..., Any]) -> Any:
    return inner()


@gin.register
def toy_root(
    *,
    data: Callable[..., Any],
    stage: Callable[..., Any] | None = None,
    teacher: Callable[..., Any] | None = None,
    metrics: tuple[Callable[..., Any], ...] = (),
    loop: Callable[..., Any] | None = None,
    default: type = ToyData,
    sizes: list[int] | None = None,
    flag: bool = False,
    anything: Any = None,
    seed: int = 0,
) -> dict[str, Any]:
    if seed < 0:
        raise MissingError("a seed below zero")
    return dict(locals())


@gin.register("toy_twin", module="one")
@gin.register("toy_twin", module="two")
def toy_twin(*, x: int = 0) -> int:
    return x


BASE = "toy_root.data = @ToyData\nToyData.name = 'toy'\n"


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A shipped folder with one protocol; the working directory is beside it and empty."""
    folder = tmp_path / "shipped"
    (folder / "protocol").mkdir(parents=True)
    (folder / "protocol" / "data.gin").write_text(BASE + "UNREAD = 3\nToyNet.width = 16\n")
    (folder / "method.gin").write_text("toy_root.stage = @ToyStage\nToyStage.net = @ToyNet\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(parse, "shipped_folder", lambda: folder)
    monkeypatch.setattr(configuration, "shipped_folder", lambda: folder)
    yield folder
    gin.clear_config()


def write(text: str, name: str = "user.gin") -> str:
    Path(name).write_text(text)
    return name


def read_files(files: Sequence[str], settings: Sequence[str] = (), **options: Any) -> Config:
    return load(files, settings, **{"root": "toy_root", "defaults": {}} | options)


def read(text: str, *settings: str, base: str = BASE) -> Config:
    """Load one user's file that holds `base` (which takes the first two lines) and `text`."""
    return read_files([write(base + text)], settings)


def refusal(text: str, *settings: str, base: str = BASE) -> str:
    """Return what is answered to a file and settings; nothing where they are accepted."""
    try:
        read(text, *settings, base=base)
    except ConfigError as error:
        return str(error)
    return ""


STAGE = "toy_root.stage = @ToyStage\nToyStage.net = @ToyNet\n"


def test_text_tree_and_objects() -> None:
    """Oracle: the canonical text and tree written out by hand for one small configuration."""
    loaded = read(STAGE + "toy_root.metrics = (@toy_metric,)\nToyNet.rate = 1\n")
    assert loaded.text == (
        "ToyData.name = 'toy'\n"
        "ToyNet.rate = 1.0\n"
        "ToyStage.net = @ToyNet\n"
        "toy_root.data = @ToyData\ntoy_root.metrics = (@toy_metric,)\ntoy_root.stage = @ToyStage\n"
        "\n# equal to their defaults\n"
        "ToyNet.act = 'gelu'\nToyNet.width = 8\n"
        "ToyStage.betas = (0.9, 0.999)\nToyStage.kind = 'fast'\nToyStage.options = {}\n"
        "toy_metric.k = None\n"
        "toy_root.anything = None\ntoy_root.default = @ToyData\ntoy_root.flag = False\n"
        "toy_root.loop = None\ntoy_root.sizes = None\ntoy_root.teacher = None\n"
        "\n# the seed, and where things lie\n"
        "ToyData.source = 'nowhere'\ntoy_root.seed = 0\n"
    )
    assert loaded.tree["@"] == "toy_root"
    assert loaded.tree["params"]["metrics"] == [{"@": "toy_metric", "params": {"k": None}}]
    assert loaded.tree["params"]["stage"]["params"]["net"] == {
        "@": "ToyNet",
        "params": {"width": 8, "rate": 1.0, "act": "gelu"},
    }
    assert loaded.tree["params"]["stage"]["params"]["betas"] == [0.9, 0.999]
    assert json.loads(json.dumps(loaded.tree)) == loaded.tree
    result = build(loaded)
    assert isinstance(result["stage"](), ToyStage)
    assert result["stage"]().net(3).rate == 1.0
    assert result["metrics"][0]("features") == ("features", None)
    assert result["default"]().name == "toy", "a registered class that is a default is configured, too"


def test_swapped_lines_and_renamed_macros_are_the_same() -> None:
    """Oracle: equality of text, tree and key; a canonical text that is read again."""
    text = STAGE + "toy_root.teacher = @t/ToyStage\nt/ToyNet.width = 3\ntoy_root.anything = {'a': (1, [2.5])}\n"
    stored = loads(read(text).text, root="toy_root")
    assert (stored.text, stored.tree) == (read(text).text, read(text).tree)
    one = read(STAGE + "W = 4\nToyNet.width = %W\n", base="ToyData.name = 'toy'\ntoy_root.data = @ToyData\n")
    two = read("ToyNet.width = %WIDTH\n" + "".join(reversed(STAGE.splitlines(True))) + "WIDTH = 4\n")
    assert one == two
    assert one.key("data") == two.key("data")


def test_key_depends_on_what_is_computed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: seed, location, a new option and a value that its default has do not change the key; another value and
    other data do."""
    key = read(STAGE).key("data")
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert read(STAGE + "toy_root.seed = 7\nToyData.source = '/elsewhere'\n").key("data") == key
    assert read(STAGE + "ToyNet.width = 8\nToyNet.rate = 0.1\n").key("data") == key
    assert read(STAGE + "ToyNet.width = 9\n").key("data") != key
    assert read(STAGE).key("other data") != key
    known = registry.parameters
    new = {"option": registry.Parameter(bool, False)}
    monkeypatch.setattr(registry, "parameters", lambda selector: known(selector) | new)
    assert "ToyNet.option = False" in read(STAGE).text
    assert read(STAGE).key("data") == key
    assert read(STAGE + "ToyNet.option = True\n").key("data") != key


REFUSED = [
    ("ToyNett.width = 1", ":3: no class or function ToyNett", "mean ToyNet?"),
    ("ToyNet.widht = 1", ":3: ToyNet has no parameter 'widht'", "mean width?"),
    ("ToyNet.zzz = 1", "no parameter 'zzz'", "It has: width, rate, act."),
    ("ToyNet.channels = 1", ":3: ToyNet.channels is positional"),
    ("toy_root.stage = @toystage", ":3: no class or function toystage", "mean ToyStage?"),
    ("toy_root.stage = @toy_twin", ":3: toy_twin is ambiguous", "one.toy_twin, two.toy_twin"),
    ("toy_root.stage = @gin.singleton", ":3: no class or function gin.singleton"),
    ("toy_root.flag = %FLAAG\nFLAG = True", ":3: the macro %FLAAG is not defined", "mean FLAG?"),
    ("toy_root.flag = %A\nA = %B\nB = %A", "%A refers back to itself"),
    ("toy_root.stage = @ToyStage()", ":3: @ToyStage() would be built", "Write @ToyStage,"),
    ("toy_root.metrics = (@toy_metric(),)", "@toy_metric() would be built"),
    ("toy_root.stage = @ToyStage", "ToyStage.net must be bound", ":3: toy_root.stage"),
    ("toy_root.loop = @toy_loop\ntoy_loop.inner = @toy_loop", ":4: toy_loop.inner: toy_loop refers back"),
    ("toy_root.anything = 2j", ":3: 2j (complex)"),
    ("ToyData.source = '\\ud800'", ":3: '\\ud800' has a character that no file can hold."),
    ("toy_root.anything = {(1, 2): 3}", ":3: the key (1, 2) of a dict"),
    ("toy_root.anything = 1e999", ":3: inf (float)"),
    ("toy_root.seed = 1\ntoy_root.seed = 2", ":4: toy_root.seed is bound already in line 3."),
    ("toy_root.flag = true", ":3: true is no value", "('true')", "True"),
    ("ToyData.name = vit", ":3: vit is no value", "('vit')"),
    ("toy_root.anything = 0.05 * 4", ":3: the line goes on after its value."),
    ("toy_root.metrics = (@toy_metric,", "left open"),
    ("toy_root.anything = " + "[" * 21 + "]" * 21, ":3: a value has at most 20 brackets inside each other."),
    ("toy_root.anything = " + "[" * 5000 + "]" * 5000, "brackets are nested too deeply"),
    ("toy_root.flag", ":3: "),
    # without effect, of which gin alone says nothing
    ("ToyNet.width = 1", ":3: toy_root does not use ToyNet, so ToyNet.width has no effect."),
    ("EPOCHS = 5", ":3: nothing that toy_root uses reads the macro %EPOCHS."),
    ("W = 1\nToyNet.width = %W", "reads the macro %W."),
    (STAGE + "x/ToyNet.width = 1", ":5: ToyNet is not used in the scope 'x'"),
    (
        STAGE.replace("@ToyStage", "@t/ToyStage") + "ToyNet.width = 1\nt/ToyNet.width = 2",
        ":5: lines for narrower scopes take the place of ToyNet.width",
    ),
    # against the annotation, all of which gin alone accepts
    (STAGE + "ToyNet.width = 1.5", "ToyNet.width expected int, got 1.5 (float)."),
    (STAGE + "ToyNet.width = True", "expected int, got True (bool)."),
    (STAGE + "ToyNet.rate = False", "expected float, got False (bool)."),
    (STAGE + "ToyNet.width = @ToyNet", "expected int, got @ToyNet (Reference)."),
    (STAGE + "ToyNet.width = %WIDE\nWIDE = 'w'", "expected int, got 'w' (str)", "%WIDE is set in user.gin:6."),
    (STAGE + "ToyStage.kind = 'fest'", "expected one of 'fast', 'slow', got 'fest' (str)."),
    (STAGE + "ToyStage.betas = (0.9,)", "expected tuple[float, float], got (0.9,) (tuple)."),
    (STAGE + "ToyStage.betas = [0.9, 0.9]", "expected tuple[float, float], got [0.9, 0.9] (list)."),
    (STAGE + "ToyStage.betas = (0.9, %B)\nB = 'b'", "got (0.9, 'b') (tuple)."),
    (STAGE + "ToyStage.options = {'a': 'b'}", "expected dict[str, int], got {'a': 'b'} (dict)."),
    ("toy_root.metrics = ('knn',)", "expected tuple[a reference (@Name), ...], got ('knn',) (tuple)."),
    ("toy_root.sizes = (1, 2)", "expected list[int] or None, got (1, 2) (tuple)."),
    ("toy_root.flag = 1", "expected bool, got 1 (int)."),
    ("ToyData.source = 3", "expected str, got 3 (int)."),
]
"""Lines after the first two of a file, and words of the answer."""


def test_lines_that_cannot_be_meant() -> None:
    """Oracle: the file and, where it matters, the line; what is wrong; the nearest name or what is expected."""
    for line, *words in REFUSED:
        message = refusal(line)
        assert "user.gin:" in message, line
        assert all(word in message for word in words), (line, message)


def test_a_factory_makes_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the names by hand of what makes a thing: by its class, by what a function returns, by a protocol's
    fields, and for all that no annotation tells, which passes."""

    class Scorer(Protocol):
        version: str

        def __call__(self) -> object: ...

    class Scores:
        version = "1.0"

        def __call__(self) -> object: ...

    class Started:
        def __init__(self, version: str) -> None:
            self.version = version

    class Told(Started):
        def __init__(self) -> None:
            super().__init__("1.0")

        def __call__(self) -> object: ...

    def wide(net: object) -> object: ...

    def pairs(net: object) -> tuple[ToyNet, ...]: ...

    def unknown(net: object): ...  # type: ignore[no-untyped-def]

    functions = {"wide": wide, "pairs": pairs, "unknown": unknown}
    things = {"ToyNet": ToyNet, "ToyData": ToyData, "Scores": Scores, "Told": Told} | functions
    entries = {name: SimpleNamespace(wrapped=thing) for name, thing in things.items()}
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", entries)
        for kind, expected in (
            (ToyNet, ["ToyNet", "unknown", "wide"]),
            (tuple[ToyNet, ...], ["pairs", "unknown", "wide"]),
            (Scorer, ["Scores", "Told", "unknown", "wide"]),
            (Any, sorted(things)),
        ):
            assert sorted(name for name in things if registry.makes(name, kind)) == expected, kind
    hint = tuple[Callable[[], ToyData], ...] | None
    known = registry.parameters
    monkeypatch.setattr(registry, "parameters", lambda name: known(name) | {"anything": registry.Parameter(hint, None)})
    message = refusal("toy_root.anything = (@ToyData, @ToyNet)")
    assert "user.gin:3: toy_root.anything expected one of " in message
    assert "@ToyData, " in message
    assert message.splitlines()[0].endswith("got @ToyNet.")
    assert refusal("toy_root.anything = (@ToyData, @toy_twin)").startswith("user.gin:3: toy_twin is ambiguous")
    assert refusal("toy_root.anything = (@ToyData,)") == ""


def test_settings_that_cannot_be_meant() -> None:
    """Oracle: what is wrong, and the setting; the words as they were given."""
    for setting, *words in (
        ("toy_root.flag", "expected one binding"),
        ("toy_root.flag=", "expected one binding"),
        ("toy_root.flag=True\nimport os", "expected one binding"),
        ("#x = 0", "expected one binding"),
        ("toy_root.anything=two words", "two is no value"),
        ("toy_root.flga=True", "no parameter 'flga'", "mean flag?"),
        ("WIDHT=3", "no file defines a macro WIDHT", "mean WIDTH?"),
        ("toy_root.seed=x", "toy_root.seed expected int, got 'x' (str)."),
        ("toy_metric.k=3", "toy_root does not use toy_metric"),
    ):
        message = refusal("toy_root.seed = %WIDTH\nWIDTH = 3\n", setting)
        assert message.startswith(f"--set {setting!r}: "), (setting, message)
        assert all(word in message for word in words), (setting, message)


def test_parameters_without_an_annotation_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: file, line, class, parameter and what to write; `Any`, which is a choice, is accepted.

    The last case: one annotation of a positional parameter that cannot be read takes none from the others.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, signature, answer in (
        ("bare", "*, weight=1.0", "untyped_bare.py, line 4: the parameter weight of Untyped_bare has no type"),
        ("given", "*, depth=3", "Write depth: int"),
        ("text", "*, weight: 'Wieght' = 1.0", "an unreadable annotation, 'Wieght'"),
        ("any", "*, weight: Any = 1.0, other: 'int' = 2", ""),
        ("early", "early: 'Wieght', *, weight: Any = 1.0", ""),
    ):
        Path(f"untyped_{name}.py").write_text(
            "from typing import Any\nimport gin\n\n@gin.register\n"
            f"class Untyped_{name}:\n    def __init__(self, {signature}):\n        pass\n"
        )
        file = write(f"import untyped_{name}\n{BASE}toy_root.stage = @Untyped_{name}\n")
        if answer:
            with pytest.raises(ConfigError, match=re.escape(answer)):
                read_files([file], allow_imports=True)
        else:
            loaded = read_files([file], allow_imports=True)
            assert f"Untyped_{name}.weight = 1.0" in loaded.text


def test_defaults_that_gin_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: they stay out of the text, and the tree names them without an address in memory."""
    monkeypatch.setattr(registry, "_parameters", registry._parameters.__wrapped__)  # defaults change below
    build(read("toy_root.anything = 3\n"))
    for default, shown in ((float("inf"), "inf"), (functools.partial(write), "functools.partial(<function write>)")):
        monkeypatch.setitem(toy_root.__kwdefaults__, "anything", default)
        loaded = read("")
        assert "anything" not in loaded.text
        assert loaded.tree["params"]["anything"] == shown
        assert build(loaded)["anything"] is default


def test_values_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: ints fit floats and become floats, so that 1 and 1.0 are one configuration; macros inside macros."""
    monkeypatch.setattr(registry, "_parameters", registry._parameters.__wrapped__)  # defaults change below
    loaded = read(
        STAGE + "ToyNet.rate = 1\nToyStage.betas = (0, 1)\ntoy_root.sizes = %ALL\nALL = [1, %LAST]\nLAST = 2\n"
    )
    stage = loaded.tree["params"]["stage"]["params"]
    assert type(stage["net"]["params"]["rate"]) is float
    monkeypatch.setitem(ToyNet.__init__.__kwdefaults__, "rate", 1)
    assert read(STAGE).key("data") == read(STAGE + "ToyNet.rate = 1\n").key("data")
    assert [type(beta) for beta in stage["betas"]] == [float, float]
    assert build(loaded)["sizes"] == [1, 2]


def test_idle_lines_are_allowed_in_protocols_and_presets_only(shipped: Path) -> None:
    """Oracle: the shipped protocol binds an unread macro and an unused class and loads, as does a preset of which a
    setting leaves a part; a method file may not."""
    loaded = read_files(["protocol/data.gin"])
    assert "ToyNet" not in loaded.text
    (shipped / "presets").mkdir()
    (shipped / "presets" / "some.gin").write_text(
        "toy_root.metrics = (@toy_metric,)\ntoy_metric.k = 3\ntoy_root.seed = 4\n"
    )
    some = read_files(["protocol/data.gin", "presets/some.gin"], ["toy_root.metrics = ()"])
    assert "toy_root.seed = 4" in some.text
    assert "UNREAD" not in loaded.text
    (shipped / "method.gin").write_text("toy_metric.k = 3\n")
    with pytest.raises(ConfigError, match=r"gin/method.gin:1: toy_root does not use toy_metric"):
        read_files(["protocol/data.gin", "method.gin"])
    with pytest.raises(ConfigError, match="--set 'UNREAD=4': nothing that toy_root uses reads"):
        read_files(["protocol/data.gin"], ["UNREAD=4"])


def test_scopes_hold_for_factories_called_later() -> None:
    """Oracle: gin's inheritance of scopes, which for us also holds after the configurable returned."""
    loaded = read(
        STAGE + "toy_root.teacher = @t/ToyStage\n"
        "ToyNet.act = 'relu'\nt/ToyNet.width = 3\nt/ToyStage.kind = 'slow'\ntoy_root.loop = @a/b/toy_loop\n"
        "toy_loop.inner = @ToyStage\na/ToyNet.width = 4\ntoy_root.anything = @a/ToyStage\n"
        "a/ToyStage.kind = 'fast'\na/b/ToyStage.kind = 'slow'\na/b/ToyNet.rate = 0.5\n"
    )
    result = build(loaded)
    student, teacher, inner = result["stage"](), result["teacher"](), result["loop"]()
    assert (student.kind, teacher.kind, inner.kind) == ("fast", "slow", "slow")
    assert (student.net(1).width, teacher.net(1).width, inner.net(1).width) == (8, 3, 4)
    assert (teacher.net(1).act, inner.net(1).rate) == ("relu", 0.5)
    assert type(teacher) is ToyStage
    assert loaded.tree["params"]["teacher"]["scope"] == "t"
    assert loaded.tree["params"]["teacher"]["params"]["net"]["scope"] == "t"


def test_a_scoped_reference_leaves_the_scope_around_it() -> None:
    """Oracle: gin itself, which replaces the active scope when a reference has its own."""
    text = BASE + "toy_root.loop = @a/toy_loop\ntoy_loop.inner = @b/toy_twin_free\nb/toy_twin_free.x = 2\n"
    gin.parse_config(text + "a/b/toy_twin_free.x = 1\n")
    assert gin.get_configurable("toy_root")()["loop"]() == 2
    assert build(read(text, base=""))["loop"]() == 2
    with pytest.raises(ConfigError, match="not used in the scope 'a/b'"):
        read(text + "a/b/toy_twin_free.x = 1\n", base="")


@gin.register
def toy_twin_free(*, x: int = 0) -> int:
    return x


def test_defaults_are_read_first_and_said(shipped: Path) -> None:
    """Oracle: the note, and a given file that wins over the default file."""
    defaults = {"toy_root.data": "protocol/data.gin"}
    method = write(STAGE + "ToyNet.width = 5\n")
    loaded = read_files([method], defaults=defaults)
    assert loaded.notes == ("No file binds toy_root.data: using gin/protocol/data.gin",)
    assert loaded.tree["params"]["stage"]["params"]["net"]["params"]["width"] == 5
    assert read_files([write(BASE)], defaults=defaults).notes == ()
    assert read_files([], ["toy_root.data=@ToyData", "ToyData.name=x"], defaults=defaults).notes == ()
    write(BASE, "inner.gin")
    assert read_files([write("include 'inner.gin'\n")], defaults=defaults).notes == ()


def test_later_files_win() -> None:
    """Oracle: the last value; a setting comes after all files."""
    files = [write(BASE + "toy_root.seed = 1\n", "first.gin"), write("toy_root.seed = 2\n", "second.gin")]
    assert read_files(files).tree["params"]["seed"] == 2
    files[1] = write("toy_root.seed = 2\ntoy_root.flag = True\n", "second.gin")
    loaded = read_files(files, ["toy_root.seed=3", "toy_root.seed = 4"])
    assert loaded.tree["params"]["seed"] == 4


def test_includes(shipped: Path) -> None:
    """Oracle: the file beside wins over the shipped one; twice, late and missing includes are refused with a line."""
    Path("sub").mkdir()
    write("ToyData.name = 'beside'\n", "sub/method.gin")
    top = write("include 'method.gin'\ninclude 'gin/protocol/data.gin'\n", "sub/top.gin")
    assert read_files([top]).tree["params"]["data"]["params"]["name"] == "toy"
    top = write("include 'gin/protocol/data.gin'\ninclude 'method.gin'\n", "sub/top.gin")
    assert read_files([top]).tree["params"]["data"]["params"]["name"] == "beside"
    for text, match in (
        ("include 'method.gin'\ninclude 'twice.gin'\n", r"sub/twice.gin:1: sub/method.gin is included twice"),
        ("include 'top.gin'\n", r"sub/top.gin:1: sub/top.gin is included twice"),
        ("ToyData.name = 'x'\ninclude 'method.gin'\n", r"sub/top.gin:2: includes must stand before all bindings"),
        ("include 'protocol/dota.gin'\n", r"sub/top.gin:1: there is no file .* mean gin/protocol/data.gin\?"),
        ("include 'gin'\n", r"sub/top.gin:1: there is no file 'gin'"),
    ):
        write("include 'method.gin'\n", "sub/twice.gin")
        with pytest.raises(ConfigError, match=match):
            read_files([write(text, "sub/top.gin")])


def test_files_that_cannot_be_meant(shipped: Path) -> None:
    """Oracle: the file by its name, and what is wrong: without effect, of another root with the command that takes it,
    or missing, with the nearest shipped file, of those of one name the one in the nearest folder, and none for a name
    that has the suffix alone in common. `gin/x.gin` is found from any working directory."""
    for folder in ("paper", "presets"):
        (shipped / folder).mkdir()
        (shipped / folder / "method.gin").write_text("ToyStage.steps = 1\n")
    assert read_files(["gin/protocol/data.gin"]).tree["params"]["data"]["@"] == "ToyData"
    write(BASE, "first.gin")
    write(BASE + "toy_root.flag = True\n", "second.gin")
    write("toy_root.flag = True\n", "flag.gin")
    write("# nothing\n", "empty.gin")
    write(BASE + "Pretraining.method = @ToyMethod\n", "method.gin")
    write("Pretraining.method = @Other\n", "other.gin")
    write("suite.seeds = (0,)\n", "plan.gin")
    Path("bad.gin").write_bytes(b"ToyData.name = '\xff'\n")
    for files, *words in (
        ("first.gin second.gin", "--gin first.gin is without effect"),
        ("first.gin flag.gin", "--gin flag.gin is without effect"),
        ("first.gin ./first.gin", "--gin ./first.gin is given twice"),
        ("first.gin empty.gin", "--gin empty.gin binds nothing"),
        ("first.gin plan.gin", "plan.gin is a suite", "python -m benchmark.suite --gin plan.gin"),
        (
            "method.gin other.gin",
            "--gin method.gin (@ToyMethod) and --gin other.gin (@Other)",
            "python -m benchmark.suite",
        ),
        ("gin/protocol/dota.gin", "'gin/protocol/dota.gin'", "mean gin/protocol/data.gin?"),
        ("gin/methd.gin", "mean gin/method.gin?"),
        ("gin/presets/methd.gin", "mean gin/presets/method.gin?"),
        ("/nowhere/methd.gin", "mean gin/method.gin?"),
        ("method", "mean gin/method.gin?"),
        ("protocol", "--gin: 'protocol' is a folder"),
        ("gin/xyz.gin", "there is no file 'gin/xyz.gin'."),
        ("bad.gin", "bad.gin cannot be read"),
    ):
        settings = ["toy_root.flag=no"] if "flag.gin" in files else []
        with pytest.raises(ConfigError) as refused:
            read_files(files.split(), settings)
        assert all(word in str(refused.value) for word in words), refused.value
        assert ("mean" in str(refused.value)) == ("mean" in words[-1])
    with pytest.raises(ConfigError, match=r"first.gin is no suite"):
        read_files(["first.gin"], root="suite", defaults={})


def test_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a foreign module is executed only when allowed, found beside its file, and part of the text."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    write("import gin\n\n@gin.register\ndef toy_beside(*, x: int = 1):\n    return x\n", "toy_beside_module.py")
    text = "import toy_beside_module\nimport benchmark.errors\n" + BASE + "toy_root.anything = @toy_beside\n"
    with pytest.raises(ConfigError, match=r"user.gin:1: a gin file executes the modules .* --allow-imports"):
        read_files([write(text)])
    assert "toy_beside_module" not in sys.modules
    loaded = read_files([write(text)], allow_imports=True)
    assert loaded.text.startswith("import benchmark.errors\nimport toy_beside_module\n\nToyData")
    assert build(loaded)["anything"]() == 1
    assert loads(loaded.text, root="toy_root", allow_imports=True) == loaded
    with pytest.raises(ConfigError, match="stored configuration:2: a gin file executes"):
        loads(loaded.text, root="toy_root")
    with pytest.raises(ConfigError, match=r"user.gin:1: cannot import benchmark.nothing: "):
        read_files([write("import benchmark.nothing\n" + BASE)])


def test_a_name_that_no_file_can_have() -> None:
    """Oracle: the line of the include, and an answer of a terminal's length."""
    message = refusal(f"include '{'x' * 5000}'\n", base="")
    assert message.startswith("user.gin:1: no file can have the name 'xxx")
    assert "File name too long" in message
    with pytest.raises(ConfigError, match="no file can have the name"):
        load(["x" * 5000 + ".gin"], root="toy_root", defaults={})


def test_settings_are_quoted() -> None:
    """Oracle: what the user of a shell means."""
    for value, expected in {
        "folder:/data/x": "folder:/data/x",
        "mrcl-bt_2.0": "mrcl-bt_2.0",
        "/a/b~c": "/a/b~c",
        "'quoted text'": "quoted text",
        "5": 5,
        "1e-3": 0.001,
        "true": True,
        "FALSE": False,
        "none": None,
        "(1, 2)": [1, 2],
    }.items():
        assert read("", f"toy_root.anything={value}").tree["params"]["anything"] == expected


def test_settings_of_macros_and_scopes() -> None:
    """Oracle: the values, and a note where a setting stops at a scope."""
    text = STAGE + "W = 3\nToyNet.width = %W\n"
    assert read(text, "W=5").tree["params"]["stage"]["params"]["net"]["params"]["width"] == 5
    scoped_text = STAGE + "toy_root.teacher = @t/ToyStage\nt/ToyNet.width = 3\n"
    loaded = read(scoped_text, "ToyNet.width=5")
    assert loaded.notes == ("--set 'ToyNet.width=5' does not reach t/ToyNet.width (user.gin:6)",)
    assert read(scoped_text, "t/ToyNet.width=5").notes == ()


def test_reading_leaves_gin_alone() -> None:
    """Oracle: factories handed out by one build keep their values while another configuration is read; errors of the
    root have type and message as raised, without gin's list of calls."""
    result = build(read(STAGE + "ToyNet.width = 5\n"))
    read(STAGE + "ToyNet.width = 6\n")
    assert result["stage"]().net(1).width == 5
    assert build(read(STAGE))["stage"]().net(1).width == 8
    with pytest.raises(MissingError, match=r"^a seed below zero$"):
        build(read("toy_root.seed = -1\n"))
