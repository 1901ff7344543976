"""What a tracker is told of a run beside its log: what describes it, and what it came to."""

from benchmark.experiment.stage import Stage
from benchmark.report.identity import without_paths
from benchmark.report.record import Record
from benchmark.report.section import ranking_score


def of(stage: Stage, division: str) -> dict[str, str | float]:
    """Return what describes a run in a tracker, without absolute paths."""
    budget = stage.whole_budget
    return {
        "method": stage.pretraining.name,
        "data": stage.dataset.name,
        "seed": stage.experiment.seed,
        "division": division,
        "budget": f"{budget.amount:g} {budget.kind}",
        "steps": stage.steps,
        "batch_size": stage.pretraining.batch_size,
        "precision": stage.pretraining.precision,
        "configuration": without_paths(stage.config.text),
    }


def final(record: Record) -> dict[str, float | None]:
    """Return the scores and costs of a record, for a tracker."""
    cost = record["cost"]
    scores = {f"final/{name}": ranking_score(metrics) for name, metrics in record["metrics"].items()}
    spent = {name: cost[name] for name in ("images", "flops", "train_seconds", "evaluation_seconds", "joules")}
    return scores | {f"final/{name}": value for name, value in spent.items()}
