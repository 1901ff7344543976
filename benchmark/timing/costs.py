"""What an image costs under each method, and how many one budget buys: why equal epochs are not equal compute."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path

from benchmark.config import load as configuration
from benchmark.config.parse import shipped_folder
from benchmark.errors import CheckError, ConfigError
from benchmark.experiment.environment import usable_cores
from benchmark.experiment.setup import Experiment, Pretraining
from benchmark.method import Method
from benchmark.report.text import inserted, markdown
from benchmark.training.flops import count_step

CLASSES = 10  # of a method that learns from labels; what they cost does not show beside an encoder
BUDGET = 1e16  # FLOPs
PROCESSES = 4  # at most: each imports all libraries, in 5 seconds and 0.7 GB
PROTOCOLS = ("gin/protocol/cifar10_vit_tiny.gin", "gin/protocol/cifar10_resnet18.gin")


def update(page: Path, *, check: bool) -> None:
    """Write the table of all shipped methods between the marks of a page, or raise CheckError where it is stale.

    Raises ConfigError for a page that does not exist or has no marks.
    """
    if not page.is_file():
        raise ConfigError(f"There is no page {page}. Give the one with the table of costs by --page.")
    old = page.read_text(encoding="utf-8")
    new = inserted(old, "costs", "python -m benchmark.speed costs", table(counted(shipped_methods()), PROTOCOLS))
    if not check:
        page.write_text(new, encoding="utf-8")
    elif new != old:
        raise CheckError(f"The table of costs in {page} is stale. Run `python -m benchmark.speed costs` and commit it.")


def shipped_methods() -> list[Path]:
    """Return the files of all methods, without `report_*`: these are two of them in the recipes of others."""
    return [path for path in sorted(shipped_folder().glob("*.gin")) if not path.stem.startswith("report_")]


def counted(methods: Sequence[Path]) -> dict[str, list[float | None]]:
    """Return the training FLOPs per image of each method under each of `PROTOCOLS`, counted in `PROCESSES`.

    They are new processes, since a fork would inherit the threads of torch.
    """
    pairs = list(product(map(str, methods), PROTOCOLS))
    with ProcessPoolExecutor(min(PROCESSES, usable_cores()), mp_context=get_context("spawn")) as pool:
        costs = pool.map(flops_per_image, *zip(*pairs, strict=True))
        return {method.stem: list(islice(costs, len(PROTOCOLS))) for method in methods}


def flops_per_image(method: str, protocol: str) -> float | None:
    """Return the training FLOPs per image that a method's file spends, None where it refuses the encoder.

    With a teacher, the images of both stages count, which share the budget as configured.
    """
    config = configuration.load((method, protocol))
    experiment: Experiment = configuration.build(config)
    size = config.tree["params"]["data"]["params"]["size"]
    assert experiment.pretraining is not None
    try:
        if experiment.teacher is None:
            return _flops_of_stage(experiment, experiment.pretraining(), size, encoders=1)
        student = _flops_of_stage(experiment, experiment.pretraining(), size, encoders=2)
        teacher = _flops_of_stage(experiment, experiment.teacher(), size, encoders=1)
    except ConfigError:
        return None
    return 1 / (experiment.teacher_share / teacher + (1 - experiment.teacher_share) / student)


def _flops_of_stage(experiment: Experiment, stage: Pretraining, size: int, *, encoders: int) -> float:
    def build() -> Method:
        classes = [CLASSES] if stage.needs_labels else []
        return stage.method(*(experiment.encoder(size) for _ in range(encoders)), *classes)

    sides = [view.side(size) for view in stage.views(experiment.limits())]
    return count_step(build, stage.batch_size, sides) / stage.batch_size


def table(costs: Mapping[str, Sequence[float | None]], protocols: Sequence[str]) -> str:
    """Return a Markdown table: a line for each method, the cheapest first; for each protocol two columns."""
    names = [Path(protocol).stem for protocol in protocols]
    heads = [head for name in names for head in (f"GFLOPs an image, {name}", "images for 10 PFLOPs")]
    cheapest_first = sorted(costs.items(), key=lambda item: [value or 0.0 for value in item[1]])
    lines = [[f"`{name}`", *(cell for value in values for cell in _cells(value))] for name, values in cheapest_first]
    return markdown(["method", *heads], "l" + "r" * len(heads), lines)


def _cells(value: float | None) -> tuple[str, str]:
    return ("n/a", "n/a") if value is None else (f"{value / 1e9:.3f}", f"{BUDGET / value:,.0f}")
