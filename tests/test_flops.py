"""Counted FLOPs against closed forms worked out from shapes, to the last FLOP."""

import itertools
import json
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyMethod
from tiny import training as tiny_training
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from baselines.macrl import MACRL
from baselines.mae import MAE
from baselines.moco import MoCo
from baselines.mrcl import MRCL
from baselines.simclr import SimCLR
from benchmark.errors import BenchmarkError
from benchmark.method import Method, Step, Views
from benchmark.nets.attention import set_fused
from benchmark.nets.decoder import PixelDecoder
from benchmark.nets.encoders import Encoder, ViT
from benchmark.nets.resnet import ResNet
from benchmark.randomness import Draws
from benchmark.timing.workloads import shipped_trainings
from benchmark.training.flops import ATEN, OUTLINES, RESERVED, FlopCounter, count, count_step
from benchmark.training.loop import Training

BATCH, SIZE, PATCH, TOKENS = 6, 16, 4, 16
WIDTH, DEPTH = 24, 2
VIT = {"name": "vit", "width": WIDTH, "depth": DEPTH, "heads": 3, "patch": PATCH}
DECODER = {"width": 16, "depth": 1, "heads": 2}


class Bare(Method):
    """An encoder and nothing else: its step costs the forward and the backward of one view."""

    n_views = 1

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: Views, draws: Draws) -> Step:
        return Step(self.encoder(views[0]).pooled.sum())


class Growing(Bare):
    """Passes its view twice from the middle of a run on."""

    passes = 1

    def forward(self, views: Views, draws: Draws) -> Step:
        return Step(torch.stack([self.encoder(views[0]).pooled.sum() for _ in range(self.passes)]).sum())

    def after_step(self, progress: float) -> None:
        self.passes = 1 + (progress >= 0.5)


class Scheduled(Bare):
    """Passes its view twice from the middle of a run on, by the progress that the harness sets."""

    passes = 1

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.passes = 1 + (progress >= 0.5)

    def forward(self, views: Views, draws: Draws) -> Step:
        return Step(torch.stack([self.encoder(views[0]).pooled.sum() for _ in range(self.passes)]).sum())


class After(Bare):
    """Passes its encoder once more after the optimiser's step."""

    def forward(self, views: Views, draws: Draws) -> Step:
        self.seen = views[0]
        return super().forward(views, draws)

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            self.encoder(self.seen)


class Peeking(Bare):
    """Asks for the value of its loss."""

    def forward(self, views: Views, draws: Draws) -> Step:
        step = super().forward(views, draws)
        return Step(step.loss * step.loss.item())


def ending(make: Callable[[Tensor], object]) -> Callable[[Encoder], Method]:
    """Return a method that ends its forward pass with what is made of the features."""

    class Ending(Bare):
        def forward(self, views: Views, draws: Draws) -> Step:
            return make(self.encoder(views[0]).pooled)  # type: ignore[return-value]

    return Ending


def product(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def patches(batch: int, tokens: int, patch: int, width: int) -> int:
    return product(batch * tokens, 3 * patch**2, width)


def blocks(batch: int, tokens: int, width: int, depth: int) -> int:
    """Forward of blocks: 12 width^2 multiply-adds a token in linear layers, 2 tokens width in attention."""
    return depth * (product(batch * tokens, 12 * width, width) + 2 * product(batch * tokens, width, tokens))


def head(batch: int, *widths: int) -> int:
    return sum(product(batch, a, b) for a, b in itertools.pairwise(widths))


def training(first: int, rest: int) -> int:
    """Forward plus backward: twice the forward again, but the first layer needs no gradient of its input."""
    return 2 * first + 3 * rest


def vit() -> ViT:
    return ViT(SIZE, **VIT)


def simclr(encoder: Encoder) -> SimCLR:
    return SimCLR(encoder, temperature=0.2, projector_layers=3, projector_hidden=32, projector_width=8)


def mrcl(encoder: Encoder, base: object = simclr) -> MRCL:
    return MRCL(
        encoder,
        base=base,
        decoder=partial(PixelDecoder, **DECODER),
        mask_ratio=0.75,
        masked_weight=1.0,
        visible_weight=1.0,
    )


def simclr_step(tokens: int = TOKENS) -> int:
    rows = 2 * BATCH
    encoder = blocks(rows, 1 + tokens, WIDTH, DEPTH)
    similarity = product(rows, 8, rows)
    return training(patches(rows, TOKENS, PATCH, WIDTH), encoder + head(rows, WIDTH, 32, 32, 8) + similarity)


def decoder_step(batch: int, seen: int) -> int:
    rest = blocks(batch, 1 + TOKENS, 16, 1) + product(batch * (1 + TOKENS), 16, 3 * PATCH**2)
    return 3 * (product(batch * (1 + seen), WIDTH, 16) + rest)


METHODS = {
    "simclr": (simclr, simclr_step()),
    "mrcl_simclr": (mrcl, simclr_step(4) + decoder_step(2 * BATCH, 4)),
    "mae": (
        lambda encoder: MAE(encoder, decoder=partial(PixelDecoder, **DECODER), mask_ratio=0.75),
        training(patches(BATCH, TOKENS, PATCH, WIDTH), blocks(BATCH, 5, WIDTH, DEPTH)) + decoder_step(BATCH, 4),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_step_costs_its_closed_form(name: str) -> None:
    """Oracle: the closed form above, from shapes, and the same step run and counted on a real processor."""
    build, expected = METHODS[name]
    assert count_step(lambda: build(vit()), BATCH, SIZE) == expected
    assert count(build(vit()), BATCH, SIZE, torch.device("cpu")) == expected


def test_vit_tiny_costs_its_closed_form() -> None:
    """Oracle: 197 tokens of width 192 through 12 blocks after 196 patches; 2.507 GFLOP forward."""
    embedding, rest = patches(1, 196, 16, 192), blocks(1, 197, 192, 12)
    assert embedding + rest == 2_506_982_400
    tiny = partial(ViT, 224, name="vit", width=192, depth=12, heads=3, patch=16)
    assert count_step(lambda: Bare(tiny()), 1, 224) == training(embedding, rest)


class Crops(Bare):
    """Passes a view of any size, each by itself."""

    takes_more_views = True

    def forward(self, views: Views, draws: Draws) -> Step:
        return Step(torch.stack([self.encoder(view).pooled.sum() for view in views]).sum())


def test_views_cost_what_their_sizes_cost() -> None:
    """Oracle: the closed forms of one view of 16 tokens and two of 4, and of maps of half the side."""
    parts = [training(patches(BATCH, n, PATCH, WIDTH), blocks(BATCH, 1 + n, WIDTH, DEPTH)) for n in (16, 4, 4)]
    assert count_step(lambda: Crops(vit()), BATCH, [16, 8, 8]) == sum(parts)
    resnet = partial(ResNet, 32, name="resnet18", base_width=8)
    whole, half = (count_step(lambda: Crops(resnet()), BATCH, [side]) for side in (32, 16))
    assert whole == 4 * half
    assert count_step(lambda: Crops(resnet()), BATCH, [32, 16, 16]) == whole + 2 * half


def test_resnet18_costs_its_closed_form() -> None:
    """Oracle: every convolution as positions * kernel * channels in * channels out; 3.628 GFLOP forward."""
    stem = product(112**2, 49 * 3, 64)
    rest, inputs = 0, 64
    for stage, width in enumerate((64, 128, 256, 512)):
        pixels = (56 >> stage) ** 2
        rest += product(pixels, 9 * inputs, width) + 3 * product(pixels, 9 * width, width)
        rest += product(pixels, inputs, width) if stage else 0
        inputs = width
    assert stem + rest == 3_627_122_688
    assert count_step(lambda: Bare(ResNet(224, name="resnet18")), 1, 224) == training(stem, rest)


def test_macrl_pays_one_decoder_pass_to_restore_its_key() -> None:
    """Oracle: the closed form of a decoder on all tokens, without the gradient of its input, which nobody asks for."""
    base = partial(MoCo, temperature=0.2, momentum=0.9, queue_size=BATCH, projector_width=8, symmetric=False, splits=1)
    settings = {"mask_ratio": 0.75, "key_mask_ratio": 0.0, "contrast_weight": 1.0, "masked_weight": 1.0}

    def macrl(restore_key: bool) -> MACRL:
        return MACRL(vit(), base=base, decoder=partial(PixelDecoder, **DECODER), **settings, restore_key=restore_key)

    without, with_key = (count_step(lambda key=key: macrl(key), BATCH, SIZE) for key in (False, True))
    no_gradient = product(BATCH * (1 + TOKENS), WIDTH, 16)
    assert with_key - without == decoder_step(BATCH, TOKENS) - no_gradient


def spent(training: Training, steps: int) -> int:
    with FlopCounterMode(display=False) as counter:
        training.advance(steps)
    return int(counter.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["vit_micro", pytest.param("resnet18", marks=pytest.mark.long)])
def test_real_steps_of_every_method_cost_what_was_counted(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: torch's counter around the loop's own steps: views, autocast, optimiser, momentum and queues included.

    Attention is counted as matrix products, which is how a step in bfloat16 computes it; one in float32 is told to. The
    first step is counted; that the last one costs the same is a check of the battery, on every method too.
    """

    def count_first(build: Callable[[], Method], batch_size: int, sides: list[int]) -> int:
        with torch.device("meta"):
            method = build()
        return count(method, batch_size, sides, torch.device("meta"))

    monkeypatch.setattr("benchmark.experiment.recipe.count_step", count_first)
    protocol = tmp_path / "small.gin"
    shared = Path(f"gin/protocol/digits_{encoder}.gin").resolve()
    shallow = "ViT.depth = 1\n" if encoder == "vit_micro" else ""
    protocol.write_text(f"include '{shared}'\nPretraining.batch_size = 8\n{shallow}")
    trainings = shipped_trainings(str(protocol))
    shipped = {path.stem for path in Path("gin").glob("*.gin") if not path.stem.startswith("report_")}
    assert set(trainings) == shipped if encoder == "vit_micro" else set(trainings) < shipped
    for name, training in trainings.items():
        set_fused(training.method, False)
        assert spent(training, 2) == 2 * training.flops_per_step, name


def normed(*, affine: bool) -> nn.Sequential:
    """Return a net with each normalisation that has an outline, and with products of several kinds."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, device="meta"),
        nn.BatchNorm2d(8, affine=affine, device="meta"),
        nn.Conv2d(8, 8, 1, groups=2, device="meta"),
        nn.Flatten(2),
        nn.LayerNorm([8, 9], elementwise_affine=affine, device="meta"),
        nn.GroupNorm(2, 8, affine=affine, device="meta"),
        nn.TransformerEncoderLayer(9, 3, 6, batch_first=True, device="meta"),
        nn.TransformerEncoderLayer(9, 3, 6, activation="gelu", batch_first=True, device="meta"),
        nn.LogSoftmax(dim=-1),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("mode", ["training", "evaluation", "a frozen norm"])
def test_the_counter_agrees_with_torchs(mode: str, affine: bool, dtype: torch.dtype) -> None:
    """Oracle: torch's counter, and the meta device without outlines: the sum, and what outputs look like."""

    def told(counter: FlopCounter | FlopCounterMode) -> tuple[list[object], int]:
        net = normed(affine=affine).to(dtype).train(mode != "evaluation")
        seen: list[object] = []
        for part in net:
            part.register_forward_hook(lambda _, __, out: seen.append((out.shape, out.dtype, out.stride())))
        if mode == "a frozen norm":
            net[1].requires_grad_(False)
        layout = torch.channels_last if dtype == torch.float32 else torch.contiguous_format
        images = torch.empty(4, 3, 8, 8, device="meta", dtype=dtype, memory_format=layout, requires_grad=True)
        with counter:
            net(images).sum().backward()
            seen.append(F.layer_norm(torch.empty(4, 9, 8, device="meta").transpose(1, 2), [9]).stride())
        tensors = [images.grad, *(parameter.grad for parameter in net.parameters())]
        seen += [None if each is None else (each.shape, each.dtype) for each in tensors]
        return seen, counter.total if isinstance(counter, FlopCounter) else int(counter.get_total_flops())

    assert told(FlopCounter()) == told(FlopCounterMode(display=False))


def test_every_outline_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: each outline gives outputs in a step; without this, counting would be slow and right."""
    used = set()
    for each, outline in OUTLINES.items():

        def told(*arguments: Any, each: Any = each, outline: Any = outline) -> Any:
            outputs = outline(*arguments)
            used.update(() if outputs is None else (each,))
            return outputs

        monkeypatch.setitem(OUTLINES, each, told)
    with FlopCounter():
        logits = normed(affine=True)(torch.empty(4, 3, 8, 8, device="meta"))
        ((logits / logits.detach() - logits * logits).clamp(0, 1) + logits).sum().backward()
    assert used == set(OUTLINES)


KINDS = {
    "plain": ((4, 6), torch.float32, "meta", False),
    "turned": ((4, 6), torch.float32, "meta", True),
    "narrow": ((6,), torch.float32, "meta", False),
    "number": ((), torch.float32, "meta", False),
    "wrong": ((4, 5), torch.float32, "meta", False),
    "half": ((4, 6), torch.bfloat16, "meta", False),
    "whole": ((4, 6), torch.int64, "meta", False),
    "square": ((6, 6), torch.float32, "meta", False),
    "turned square": ((6, 6), torch.float32, "meta", True),
    "turned row": ((4, 1), torch.float32, "meta", True),
    "elsewhere": ((4, 6), torch.float32, "cpu", False),
}
"""Tensors by shape, type, device, and whether they are transposed."""
CALLS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "addmm": (3, ATEN.addmm.default),
    "addmm at half": (3, lambda *x: ATEN.addmm.default(*x, beta=0.5)),
    **{name: (2, getattr(ATEN, name).Tensor) for name in ("add", "sub", "mul", "div")},
    "sum with a part": (2, lambda *x: ATEN.add.Tensor(*x, alpha=2)),
    "add a number": (1, lambda x: ATEN.add.Tensor(x, 0.5)),
    "divide by a number": (1, lambda x: ATEN.div.Tensor(x, 2)),
    "from a number": (1, lambda x: torch.sub(1.0, x)),
    "times a number": (1, lambda x: torch.mul(2, x)),
    "number by": (1, lambda x: torch.div(1, x)),
    "times a complex number": (1, lambda x: x * 1j),
    "a complex part": (2, lambda *x: torch.add(*x, alpha=1j)),
    "clamp without bounds": (1, ATEN.clamp.default),
    "clamp by nothing": (1, lambda x: ATEN.clamp.default(x, None, None)),
    "clamp from above": (1, lambda x: ATEN.clamp.default(x, None, 1)),
    "gelu by a misspelt form": (1, lambda x: F.gelu(x, approximate="tan")),
    "clamp": (1, lambda x: ATEN.clamp.default(x, 0, 0.5)),
    "clamp from below": (1, lambda x: ATEN.clamp.default(x, 0)),
    "gelu": (1, ATEN.gelu.default),
    "gelu by tanh": (1, lambda x: ATEN.gelu.default(x, approximate="tanh")),
    "gelu backward": (2, ATEN.gelu_backward.default),
    "threshold backward": (2, lambda *x: ATEN.threshold_backward.default(*x, 0)),
    **{
        f"{name} of {dtype}": (2, lambda *x, op=op, dtype=dtype: op.default(*x, -1, dtype))
        for name, op in (("softmax", ATEN._softmax_backward_data), ("log softmax", ATEN._log_softmax_backward_data))
        for dtype in (torch.float32, torch.bfloat16)
    },
}
"""Calls of the operators with an outline, by the number of tensors that they take."""


REFUSED = ("a complex part", "clamp without bounds", "clamp by nothing", "gelu by a misspelt form")


@pytest.mark.filterwarnings("ignore:.?Complex32 support is experimental")
@pytest.mark.parametrize("call", CALLS)
def test_outlines_are_those_of_torch(call: str) -> None:
    """Oracle: torch on the meta device, for tensors of many kinds: shape, type and strides, or that it refuses."""
    number, compute = CALLS[call]

    def told(kinds: Sequence[str], counter: AbstractContextManager[object]) -> tuple[object, ...] | None:
        tensors = []
        for kind in kinds:
            shape, dtype, device, is_turned = KINDS[kind]
            tensor = torch.zeros(shape[::-1] if is_turned else shape, dtype=dtype, device=device)
            tensors.append(tensor.mT if is_turned else tensor)
        try:
            with counter:
                output = compute(*tensors)
        except (RuntimeError, ValueError, IndexError):
            return None
        return output.shape, output.dtype, output.stride(), output.device

    expected = {kinds: told(kinds, nullcontext()) for kinds in itertools.product(KINDS, repeat=number)}
    assert {kinds: told(kinds, FlopCounter()) for kinds in expected} == expected
    assert any(expected.values()) is (call not in REFUSED)


def test_an_outline_refuses_what_torch_refuses() -> None:
    """Oracle: torch on the meta device."""
    width_16, whole_numbers = (torch.empty(4, 16, device="meta", dtype=dtype) for dtype in (torch.float32, torch.int64))
    weight = torch.empty(8, device="meta")
    for inputs, shape, weights in ((width_16, [32], []), (width_16, [16], [weight]), (whole_numbers, [16], [])):
        for counter in (nullcontext(), FlopCounter()):
            with counter, pytest.raises(RuntimeError):
                F.layer_norm(inputs, shape, *weights)


def test_a_gradient_by_the_bias_of_a_norm_alone_is_counted() -> None:
    """Oracle: torch's counter: two products forward and their gradients in weight and input."""

    def total(counter: FlopCounter | FlopCounterMode) -> int:
        shift = nn.Linear(16, 16, device="meta")
        with counter:
            images = torch.empty(8, 16, device="meta")
            F.batch_norm(images, None, None, None, shift(shift(images).mean(0)), training=True).sum().backward()
        return counter.total if isinstance(counter, FlopCounter) else int(counter.get_total_flops())

    assert total(FlopCounter()) == total(FlopCounterMode(display=False)) == 2 * 16 * 16 * (8 + 1 + 8 + 1 + 1)


def test_what_inference_mode_makes_is_counted() -> None:
    """Oracle: by hand: products of 4 x 3 and 3 x 5, within and without, two FLOPs a multiply-add; norms have values
    on a real device."""
    with FlopCounter() as counter:
        with torch.inference_mode():
            made, weight = torch.ones(4, 3) * 1, torch.ones(5, 3) * 1
            F.linear(made, weight)
            normalised = F.layer_norm(torch.tensor([[0.0, 2.0]]), [2])
        F.linear(made, weight)
        made @ weight.T
    assert counter.total == 3 * 2 * 4 * 3 * 5
    torch.testing.assert_close(normalised, torch.tensor([[-1.0, 1.0]]))


class Late(TinyMethod):
    """From the second step on, one forward more than was counted."""

    taken = 0

    def forward(self, views: Views, draws: Draws) -> Step:
        if self.taken:
            self.encoder(views[0])
        self.taken += 1
        return super().forward(views, draws)


def test_a_forward_that_comes_later_shows_in_real_steps(tmp_path: Path) -> None:
    """Oracle: two forwards of one view beyond three steps as counted; without the planted ones, none."""
    forward = product(16 * 4, 3 * 4**2, 16)
    for kind, extra in ((TinyMethod, 0), (Late, 2 * forward)):
        training = tiny_training(tmp_path, kind)
        counted = count(tiny_training(tmp_path, kind).method, 16, 8, torch.device("cpu"))
        set_fused(training.method, False)
        assert spent(training, 3) == 3 * counted + extra


def test_counting_takes_no_memory() -> None:
    """Oracle: every parameter of the counted method is on the meta device."""
    built: list[nn.Module] = []

    def build() -> Method:
        built.append(simclr(vit()))
        return built[0]

    count_step(build, BATCH, SIZE)
    assert {p.device.type for p in built[0].parameters()} == {"meta"}


def test_steps_that_break_the_contract_are_refused() -> None:
    """Oracle: the message names the class, the field and what came, before anything is trained."""
    for method, message in (
        (Growing, r"Growing costs [\d,]+ FLOPs at the beginning of a run and [\d,]+ at its end"),
        (Scheduled, r"Scheduled costs [\d,]+ FLOPs at the beginning of a run and [\d,]+ at its end"),
        (Peeking, r"Peeking cannot be priced: .*\.item\(\)"),
        (ending(lambda x: x.sum()), r"Ending\.forward must return a Step, got Tensor"),
        (ending(lambda x: Step(None)), r"Step\.loss must be a tensor, got NoneType"),
        (ending(lambda x: Step(x.sum(0))), r"got float32 of shape \(24,\)"),
        (ending(lambda x: Step(x.sum().bfloat16())), r"got bfloat16 of shape \(\)"),
        (ending(lambda x: Step(x.sum().detach())), r"got float32 of shape \(\) without one"),
        (ending(lambda x: Step(x.sum(), {"loss": x.sum().detach()})), "names 'loss'"),
        (ending(lambda x: Step(x.sum(), {"a": x.detach()})), r"logs\['a'\] must be a detached tensor of one number"),
        (ending(lambda x: Step(x.sum(), {"a": x.sum()})), r"logs\['a'\] must be a detached tensor of one number"),
        (ending(lambda x: Step(x.sum(), carry={"keys": x})), r"carry\['keys'\] must be a detached tensor"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            count_step(lambda method=method: method(vit()), BATCH, SIZE)


def test_names_that_the_loop_logs_are_reserved(tmp_path: Path) -> None:
    """Oracle: the columns of a run's metrics, but for what its method logs."""
    running = tiny_training(tmp_path, points=1, probe=lambda encoder: 0.5)
    running.probe.queries = 1000
    running.run(resume=False)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(line) - set(running.logs) == set(RESERVED)


def test_what_runs_after_a_step_is_counted() -> None:
    """Oracle: a forward is a third of forward and backward, with the gradient of the images, which nobody asks for."""
    bare, after = (count_step(lambda kind=kind: kind(ViT(SIZE, **VIT)), BATCH, SIZE) for kind in (Bare, After))
    assert after - bare == (bare + patches(BATCH, TOKENS, PATCH, WIDTH)) / 3


def test_errors_of_the_harness_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: an error that passes through no line of a method, as it came."""
    monkeypatch.setattr("benchmark.training.flops.set_fused", operator.truediv)
    with pytest.raises(TypeError, match="unsupported operand"):
        count_step(lambda: Bare(ViT(SIZE, **VIT)), BATCH, SIZE)
