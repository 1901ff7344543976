"""Two steps of methods on the ranks of torchrun, or on one process: python tests/ranks.py OUT CASE ...

A case is METHOD/ENCODER or METHOD/ENCODER/PLANTED, with a mistake that is planted first. Rank 0 writes to OUT what the
steps of each case leave, in float64, and the features that the ranks extract together.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import TinyEncoder
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmark.config import load as configuration  # noqa: E402
from benchmark.errors import BenchmarkError  # noqa: E402
from benchmark.evals.features import extract  # noqa: E402
from benchmark.experiment.stage import Stage  # noqa: E402
from benchmark.runtime import ranks  # noqa: E402
from benchmark.training import parallel  # noqa: E402

PLAIN = ("Pretraining.optimiser=@SGD", "SGD.base_rate=0.1", "SGD.weight_decay=0.0", "SGD.warmup=0.0")
"""Steps in proportion to gradients: those of AdamW would make rounding of a gradient that is 0 as large as any."""
SETTINGS = {
    "vit_micro": (*PLAIN, "ViT.width=32", "ViT.depth=1", "ViT.heads=2"),
    "resnet_micro": (*PLAIN, "ResNet.base_width=4"),
    "swin_micro": (*PLAIN, "SGD.clip=0.5", "Swin.width=8", "Swin.depths=(1, 1, 1)"),
}
BATCH, STEPS = 16, 2


def gather_without_gradient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranks._Whole, "backward", staticmethod(lambda ctx, gradient: torch.zeros_like(ranks.rows(gradient))))


def mean_in_place_of_sum(patch: pytest.MonkeyPatch) -> None:
    whole = ranks.sum_

    def mean_(tensors: list[torch.Tensor]) -> None:
        whole(tensors)
        for tensor in tensors:
            tensor /= ranks.size()

    patch.setattr(ranks, "sum_", mean_)


def batch_norm_of_own_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parallel, "_batch_norm", F.batch_norm)


def statistics_without_gradient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranks, "_summed", lambda gradient: gradient)


def all_parts_of_split_batch_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parallel, "SplitBatchNorm2d", type("None", (), {}))


def mask_token_of_own_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranks, "shared", lambda tensor: tensor)


def rows_in_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranks, "rows", lambda tensor: tensor.chunk(ranks.size())[ranks.rank()])


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    planted.__name__: planted
    for planted in (
        *(gather_without_gradient, mean_in_place_of_sum, batch_norm_of_own_rows, statistics_without_gradient),
        *(all_parts_of_split_batch_norm, mask_token_of_own_rows, rows_in_blocks),
    )
}


def steps(method: str, encoder: str) -> dict[str, torch.Tensor]:
    """Return what two steps of a method leave: losses, gradients of both, weights and buffers, and if ranks agree."""
    files, settings = [str(ROOT / f"gin/{file}.gin") for file in (method, f"protocol/{encoder}")], SETTINGS[encoder]
    stage: Stage = Stage.open(configuration.load(files, [f"Pretraining.batch_size={BATCH}", *settings]), Path())
    teacher = stage.encoder() if stage.pretraining.needs_teacher else None
    training = stage._training(STEPS, 1, 600.0, 600.0, teacher)
    training.method.double()
    in_float32 = training.batch
    training.batch = lambda step: [view.double() for view in in_float32(step)]  # type: ignore[method-assign]
    training.losses = training.losses.double()
    training.method.train()
    left: dict[str, torch.Tensor] = {}
    update = training.optimiser.step

    def step(progress: float) -> None:
        for name, parameter in training.method.named_parameters():
            if parameter.grad is not None:
                left[f"gradient {training.step} {name}"] = parameter.grad.clone()
        update(progress)

    training.optimiser.step = step  # type: ignore[method-assign]
    for _ in range(STEPS):
        training._take()
    left["losses"] = training.losses
    left |= {f"state {name}": value for name, value in training.method.state_dict().items()}
    try:
        parallel.require_alike(training.method, STEPS)
        left["alike"] = torch.tensor(True)
    except BenchmarkError:
        left["alike"] = torch.tensor(False)
    return {name: value.clone() for name, value in left.items()}


def features() -> dict[str, torch.Tensor]:
    """Return features by one rank, by all of them, and how many batches each rank has encoded for these."""
    torch.manual_seed(0)
    encoder, images = TinyEncoder(), torch.randint(0, 256, (330, 3, 8, 8), dtype=torch.uint8)  # 5 batches and 10 images
    sizes: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    cpu = torch.device("cpu")
    kinds = [
        extract(encoder, images, lambda batch, ids: batch / 255, cpu, divided=divided) for divided in (False, True)
    ]
    alone, together = (kind["pooled"] for kind in kinds)
    return {"alone": alone, "together": together, "batches": torch.tensor(ranks.all_words(len(sizes) - 6))}


def main(out: str, *cases: str) -> None:
    """Write what the steps of some cases leave."""
    ranks.join(torch.device("cpu"))
    torch.set_num_threads(1)
    left = {"features": features()}
    for case in cases:
        method, encoder, *planted = case.split("/")
        with pytest.MonkeyPatch.context() as patch:
            for name in planted:
                PLANTED[name](patch)
            left[case] = steps(method, encoder)
    if ranks.rank() == 0:
        torch.save(left, out)
    ranks.part()


if __name__ == "__main__":
    main(*sys.argv[1:])
