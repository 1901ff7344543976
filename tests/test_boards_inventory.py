"""What there is: shipped files by their names and by the configuration itself, runs and boards made by hand."""

from pathlib import Path

from report_records import floor, make, metrics, run, trial

from benchmark.boards.inventory import Board, Run, take
from benchmark.report.record import write

ROOT = Path(__file__).parents[1]
NOWHERE = Path("nowhere")


def test_a_board_says_what_is_missing() -> None:
    """Oracle: by hand: the division with more runs counts; nothing is said of whole, empty and unplanned boards."""
    assert Board("b", "gin/suites/b.gin", 30, 3, 5).missing == (
        "5 of the 30 runs of this board are made.",
        "python -m benchmark.suite --gin gin/suites/b.gin --tune",
    )
    _, command = Board("b", "gin/suites/b.gin", 30, 5, 3).missing or ("", "")
    assert command == "python -m benchmark.suite --gin gin/suites/b.gin"
    for gin, planned, closed in (("b.gin", 3, 3), ("b.gin", 3, 0), (None, None, 2)):
        assert Board("b", gin, planned, closed, 0).missing is None


def test_methods_are_the_gin_files() -> None:
    """Oracle: the files; one of them by hand. A teacher's lines are in a scope and hide nothing."""
    methods = take(NOWHERE, NOWHERE).methods
    assert [method.gin for method in methods] == sorted(f"gin/{path.name}" for path in ROOT.glob("gin/*.gin"))
    assert all(method.name and method.views and method.about for method in methods)
    by_name = {method.name: method for method in methods}
    assert by_name["simclr"].about == "SimCLR, arXiv:2002.05709"
    assert by_name["mimco"].views == "crop_flip"
    assert by_name["macrl"].gin == "gin/macrl.gin"


def test_protocols_have_data_and_encoder() -> None:
    """Oracle: the name of each file, which joins those of its data and its encoder; both have a file."""
    inventory = take(NOWHERE, NOWHERE)
    protocols = inventory.protocols
    assert all(Path(protocol.gin).stem == f"{protocol.data}_{protocol.encoder}" for protocol in protocols)
    assert all((ROOT / f"gin/protocol/{name}.gin").is_file() for p in protocols for name in (p.data, p.encoder))
    assert len(protocols) == 24
    assert {protocol.budget for protocol in protocols if protocol.data == "digits"} == {"8e+12 flops"}
    assert [(data.name, data.size) for data in inventory.data] == [
        ("ade20k", 448),
        ("bccd", 320),
        ("camvid", 80),
        ("cifar10", 32),
        ("cifar100", 32),
        ("coco", 640),
        ("digits", 16),
        ("imagenet100", 224),
        ("imagenet1k", 224),
        ("imagenette32", 32),
        ("imagenette96", 96),
        ("pennfudan", 320),
        ("stl10", 96),
        ("tiny_imagenet", 64),
        ("voc07_det", 512),
        ("voc12_seg", 448),
    ]


def test_evaluations_are_named_by_file() -> None:
    """Oracle: the tuple of the preset by hand, and the number of presets."""
    by_file = {Path(entry.gin).stem: entry for entry in take(NOWHERE, NOWHERE).evaluations}
    assert by_file["trained"].evaluations == ("FineTune", "one_percent/SemiFineTune", "ten_percent/SemiFineTune")
    assert set(by_file) == {"shared", *(path.stem for path in ROOT.glob("gin/presets/*.gin"))}
    assert by_file["frozen"].about.startswith("Every evaluation of frozen features, on any run or encoder")


def test_records_of_boards(tmp_path: Path) -> None:
    """Oracle: two runs, one of them twice, and a floor; a board of single runs has no suite; trials and what
    failed count apart, and a tuned run counts once, whatever rates its trials chose."""
    swept = "mrcl_mask_ratio"
    texts = [f"alpha.a = 1\nexperiment.seed = {seed}\n" for seed in range(2)]
    for seed, text in enumerate(texts):
        write(run("alpha", seed, 0.5, config__text=text, board=swept), tmp_path / swept)
    again = run("alpha", 0, 0.5, config__text=texts[0], created_utc="2026-02-01T12:00:00Z", board=swept)
    failed = run("alpha", 2, 0.5, config__text="alpha.a = 2\n", status="failed", metrics={}, board=swept)
    for record in (again, failed, floor(0, 0.3), trial(1.0, 0.4, board=swept)):
        write(record, tmp_path / swept)
    tuning = {"recipe": "ab" * 32, "factor": 1.0, "trials": ["0" * 16], "flops": 1.0, "seconds": 1.0}
    write(run("beta", 0, 0.5, board="single"), tmp_path / "single")
    for factor in (0.5, 1.0):
        text = f"beta.b = 1\nexperiment.rate_factor = {factor}\n"
        tuned = {"division": "tuned", "tuning": tuning | {"factor": factor}, "config__text": text}
        write(run("beta", 0, 0.5, **tuned, board="single"), tmp_path / "single")
    write(run("beta", 1, 0.5, division="trial", tuning=tuning | {"trials": []}, board="single"), tmp_path / "single")
    boards = {board.name: board for board in take(NOWHERE, tmp_path).boards}
    assert boards[swept] == Board(swept, "gin/suites/mrcl_mask_ratio.gin", 10, 2, 0, trials=1, failed=1)
    assert boards["single"] == Board("single", None, None, 1, 1, trials=1)


def test_runs_are_finished_or_not(tmp_path: Path) -> None:
    """Oracle: three folders by hand; of two records in one the newer counts; other folders are no runs."""
    folders = {name: tmp_path / name for name in ("a", "b", "c", "teachers")}
    for folder in folders.values():
        folder.mkdir()
    names = "Images.name = 'mine'\nPretraining.name = 'alpha'\nteacher/Pretraining.name = 'old'\n"
    for name in "abc":
        (folders[name] / "config.gin").write_text(f"{names}experiment.seed = 3\n")
    write(make(seed=1, metrics={"linear": metrics(0.9), "knn": metrics(0.8)}), folders["a"])
    later = {"status": "diverged", "created_utc": "2026-02-01T12:00:00Z"}
    write(trial(2.0, 0.0, metrics={"knn": metrics(0.7)}, seed=1, **later), folders["a"])
    write(make(seed=2, metrics={}), folders["b"])
    assert take(tmp_path, NOWHERE).runs == (
        Run(str(folders["a"]), "alpha", "digits", 1, "trial", "diverged", "kNN v1", 0.7),
        Run(str(folders["b"]), "alpha", "digits", 2, "closed", "ok", None, None),
        Run(str(folders["c"]), "alpha", "mine", 3, None, "unfinished", None, None),
    )
