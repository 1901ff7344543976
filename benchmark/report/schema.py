"""What the records of all schemas have; `record` has the present schema, and `schema_1` the first."""

import re
from typing import Annotated, Literal, NotRequired, TypedDict

from benchmark.report.fields import (
    Budget,
    Checkpoint,
    Config,
    Cost,
    Count,
    Dataset,
    Encoder,
    Environment,
    Method,
    Metrics,
    Predictions,
    Pretrained,
    Published,
    Start,
    Teacher,
    Training,
    Tuning,
)


class Common(TypedDict):
    """The fields that the record of a run has in all schemas.

    Every field is required but those that are `NotRequired`, and null only where the type says so. `created_utc` has
    whole seconds, such as 2026-01-31T12:00:00Z, so that its order as text is its order in time. `board` is null for a
    run that is not published, `budget` for a floor (an encoder without pretraining) and for an encoder from elsewhere.
    `pretrained_on` is there where a run was evaluated on other data than it was pretrained on. `floors` has the ids of
    the floors' records. A `trial` was evaluated on a hold-out of the training images, not on the test set.
    `predictions` and `checkpoint` lie in the folder of the run, the files `published` in that of the board.
    """

    id: Annotated[str, re.compile(r"[0-9a-f]{16}", re.ASCII)]
    created_utc: Annotated[str, re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)]
    status: Literal["ok", "diverged", "failed", "overtime", "budget_miss"]
    division: Literal["closed", "tuned", "open", "floor", "trial"]
    board: str | None
    method: Method
    dataset: Dataset
    pretrained_on: NotRequired[Pretrained]
    encoder: Encoder
    seed: Count
    config: Config
    tuning: Tuning | None
    budget: Budget | None
    cost: Cost
    environment: Environment
    training: Training
    metrics: dict[str, Metrics]
    predictions: Predictions | None
    floors: list[str]
    teacher: Teacher | None
    start: NotRequired[Start]
    checkpoint: Checkpoint | None
    published: NotRequired[Published]
