"""Train as a public log was trained, and compare: python tests/acceptance.py moco

`tests/acceptance_logs.csv` has what the logs say, `gin/acceptance` the recipes. What is measured goes to
`results/acceptance.csv`, from which the page `results/acceptance.md` is written; it has the bands. A training that was
stopped goes on from its last checkpoint. The score of an epoch is that of the encoder after its last step on the test
images, as in the logs; nothing is chosen by it. CIFAR-10 is found as in README ("Your data").

    moco             5 epochs, 1.1 PFLOPs: 45 minutes of two cores with native bfloat16, 4 hours with AVX2 alone
    simclr_resnet50  2 epochs, 1.6 PFLOPs: an hour of two cores with native bfloat16, 6 hours with AVX2 alone
    simclr_resnet18  100 epochs, 33 PFLOPs: 6 minutes of an H200 that nothing else uses, 20 beside seven small runs
"""

import argparse
import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmark.config import load as configuration  # noqa: E402
from benchmark.errors import CheckError, ConfigError, reported  # noqa: E402
from benchmark.experiment.environment import environment  # noqa: E402
from benchmark.experiment.stage import Stage  # noqa: E402

LOGS, MEASURED, PAGE = (
    ROOT / name for name in ("tests/acceptance_logs.csv", "results/acceptance.csv", "results/acceptance.md")
)
MEASURES = {"loss": "mean loss", "knn": "kNN", "knn_projection": "kNN on projections", "linear": "linear probe"}
FIELDS = ("run", "seed", "epoch", "measure", "value", "minutes", "hardware", "precision", "torch", "created_utc")


@dataclass(frozen=True)
class Run:
    """A training: its gin files, its epochs, those of them that are scored, and the band of each measure.

    The band of a loss is absolute, that of a score is in points.
    """

    title: str
    files: tuple[str, ...]
    epochs: int
    scored: tuple[int, ...]
    bands: Mapping[str, float]
    remark: str = ""


RUNS = {
    "moco": Run(
        title="MoCo v2 on a ResNet-18: the first 5 of 200 epochs",
        files=("moco.gin", "protocol/cifar10_resnet18.gin", "acceptance/moco.gin"),
        epochs=5,
        scored=(1, 5),
        bands={"loss": 0.15, "knn_projection": 2.0},
        remark=(
            "Why outside: the band, which was set before, is narrower than the spread of seeds. The notebook's recipe, "
            "run again with torchvision's views in bfloat16, has a mean loss of 6.975, 6.790 and 6.702 in its first "
            "epoch with three seeds, and its log 6.957; this recipe has 6.739, between them. So two of the notebook's "
            "three seeds miss the band as well, on the same side."
        ),
    ),
    "simclr_resnet50": Run(
        title="SimCLR on a ResNet-50: the first 2 epochs at a constant rate",
        files=("simclr.gin", "protocol/cifar10.gin", "protocol/resnet50.gin", "acceptance/simclr_resnet50.gin"),
        epochs=2,
        scored=(1, 2),
        bands={"loss": 0.08, "knn": 2.5},
    ),
    "simclr_resnet18": Run(
        title="SimCLR on a ResNet-18: 100 epochs",
        files=("simclr.gin", "protocol/cifar10_resnet18.gin", "acceptance/simclr_resnet18.gin"),
        epochs=100,
        scored=(100,),
        bands={"loss": 0.03, "knn": 1.0, "linear": 1.0},
    ),
}


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, none where it does not exist yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def train(name: str, epochs: int, seed: int, out: Path) -> list[dict[str, object]]:
    """Train the first `epochs` epochs, from the last checkpoint if there is one, and return the rows of `MEASURED`."""
    run = RUNS[name]
    files = [str(ROOT / "gin" / file) for file in run.files]
    whole: Stage = Stage.open(configuration.load(files, [f"experiment.seed={seed}"]), out)
    batch = whole.pretraining.batch_size
    steps = len(whole.outline.pretrain) // batch
    settings = [f"experiment.seed={seed}", f"Budget.amount={epochs * steps * batch}"]
    stage = Stage.open(configuration.load(files, settings), out)
    stage.check()
    stage.folder.mkdir(parents=True, exist_ok=True)
    training = stage.training(checkpoint_seconds=300)
    scored = sorted({epoch for epoch in run.scored if epoch < epochs} | {epochs})
    kept = {steps * epoch: stage.folder / f"epoch-{epoch}.pt" for epoch in scored}

    def keep(_: object, step: int) -> None:
        if step in kept:
            torch.save(training.method.state_dict(), kept[step])

    training.points, training.probe, training.keep = (1 if scored == [epochs] else epochs), None, keep
    outcome = training.run(resume=True)
    if outcome.status != "ok":
        raise CheckError(f"{name}: the training ended with the status {outcome.status!r}.")
    values = [
        (epoch + 1, "loss", f"{loss:.4f}") for epoch, loss in enumerate(training.losses.view(epochs, steps).mean(1))
    ]
    for step, path in kept.items():
        training.method.load_state_dict(torch.load(path, weights_only=True))
        results = stage.evaluate(training.method.encoder, projector=training.method.projection_head())
        scores = {measure: metrics["top1"] for measure, metrics in results.metrics.items()}
        values += [(step // steps, measure, f"{100 * top1:.2f}") for measure, top1 in scores.items()]
    machine = environment(stage.device, stage.pretraining.precision)
    hardware = machine["gpu"] or f"{machine['threads']} threads of {machine['processor']}"
    minutes = f"{training.ledger.train_seconds / 60:.1f}"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = (minutes, hardware, machine["precision"], machine["torch"], now)
    return [dict(zip(FIELDS, (name, seed, *value, *about), strict=True)) for value in values]


def store(rows: list[dict[str, object]]) -> None:
    """Add rows to `MEASURED`; what was measured before stays."""
    is_new = not MEASURED.exists()
    with MEASURED.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def verdicts(name: str) -> list[tuple[str, ...]]:
    """Compare the newest training of a run with its log: epoch, measure, log, ours, difference, band, verdict."""
    measured = [row for row in read(MEASURED) if row["run"] == name]
    newest = max((row["created_utc"] for row in measured), default="")
    ours = {(row["epoch"], row["measure"]): row["value"] for row in measured if row["created_utc"] == newest}
    lines = []
    for row in read(LOGS):
        value = ours.get((row["epoch"], row["measure"]))
        if row["run"] != name or value is None:
            continue
        band, difference = RUNS[name].bands[row["measure"]], float(value) - float(row["value"])
        inside = "inside" if round(abs(difference), 6) <= band else "OUTSIDE"
        unit = "" if row["measure"] == "loss" else " %"
        lines.append(
            (
                row["epoch"],
                MEASURES[row["measure"]],
                row["value"] + unit,
                value + unit,
                f"{difference:+.2f}",
                f"{band:g}",
                inside,
            )
        )
    return lines


def page() -> str:
    """Return the page: for each run the newest training beside its log."""
    parts = [
        "# Acceptance: trainings that public logs tell\n",
        "Each table is one training by the code of this project beside a public log of another code, both on CIFAR-10. "
        "`python tests/acceptance.py NAME` makes it again; its `--help` has the hours. The bands were set before the "
        "trainings; logs of several runs differ by about half of them. Scores are on test images, after the epoch; "
        "nothing was chosen by them. Minutes include what other processes took. Twin trainings beside lightly are in "
        "[CONTRIBUTING.md](../CONTRIBUTING.md#acceptance). Written by `tests/acceptance.py`; not edited by hand.\n",
    ]
    for name, run in RUNS.items():
        source = next(row["source"] for row in read(LOGS) if row["run"] == name)
        parts += [
            f"## {run.title}\n",
            f"`{name}`, from [gin/{run.files[-1]}](../gin/{run.files[-1]}). Log: {source}.\n",
        ]
        parts += [f"{run.remark}\n"] if run.remark else []
        rows = [row for row in read(MEASURED) if row["run"] == name]
        if not rows:
            parts.append("Not trained yet.\n")
            continue
        last = max(rows, key=lambda row: row["created_utc"])
        head = ("epoch", "measure", "log", "ours", "difference", "band", "")
        parts.append(tabulate(verdicts(name), head, tablefmt="github", disable_numparse=True) + "\n")
        parts.append(
            f"Seed {last['seed']}, {last['precision']}, {last['minutes']} minutes on {last['hardware']}, "
            f"torch {last['torch']}, {last['created_utc'][:10]}.\n"
        )
    return "\n".join(parts)


@reported
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"what to train: {', '.join(RUNS)}")
    parser.add_argument("--epochs", type=int, metavar="N", help="train only the first N epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/acceptance"), metavar="DIR", help="checkpoints")
    options = parser.parse_args(arguments)
    for name in options.runs:
        if name not in RUNS:
            raise ConfigError(f"There is no run {name!r}. Choose from {', '.join(RUNS)}.")
        if options.epochs is not None and not 1 <= options.epochs <= RUNS[name].epochs:
            raise ConfigError(f"--epochs {options.epochs}: {name} has 1 to {RUNS[name].epochs} epochs.")
    for name in options.runs:
        store(train(name, options.epochs or RUNS[name].epochs, options.seed, options.out))
    PAGE.write_text(page())
    outside = []
    for name in options.runs:
        lines = verdicts(name)
        print(tabulate(lines, tablefmt="plain", disable_numparse=True))
        outside += [f"{name}: {' '.join(line[:6])}" for line in lines if line[-1] != "inside"]
    if outside:
        raise CheckError("Outside of the band (epoch, measure, log, ours, difference, band):\n" + "\n".join(outside))
    return 0


if __name__ == "__main__":
    sys.exit(main())
