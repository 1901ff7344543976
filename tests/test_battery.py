"""What every method owes the harness. Each gin/*.gin and baselines/*.py is found by itself: a new method needs no line.

`pytest -k simclr` runs the checks of one method, on a tiny encoder and small random views.
"""

import ast
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from benchmark.config import load as configuration
from benchmark.experiment.stage import Stage
from benchmark.method import Container, Labelled, Method, Siamese, Step
from benchmark.nets.encoders import Encoder
from benchmark.nets.momentum import MomentumCopy
from benchmark.nets.queue import KeyQueue
from benchmark.randomness import Draws
from benchmark.storage.digest import digest, flatten
from benchmark.training.flops import count_step
from benchmark.training.optim import Optimiser

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {path.stem: path for path in sorted((ROOT / "gin").glob("*.gin"))}
METHODS = {path.stem: path for path in sorted((ROOT / "baselines").glob("*.py")) if path.stem != "__init__"}
TINY = ("ViT.width=32", "ViT.depth=1", "ViT.heads=2")
BATCH, STEPS = 8, 3

FORWARDS = {
    "SimCLR": 1,
    "BarlowTwins": 2,
    "VICReg": 2,
    "SimSiam": 2,
    "BYOL": 4,
    "MoCo": 2,
    "MoCoV3": 4,
    "MAE": 1,
    "MimCo": 2,
    "SupervisedReference": 1,
}
"""Encoder forwards per step by class, the momentum copy's among them; SimCLR joins its views, MoCo is asymmetric."""
FORWARDS_ADDED: dict[str, Callable[[Container], int]] = {
    "MRCL": lambda _: 0,
    "MACRL": lambda _: 0,
    "Mixture": lambda mixture: len(mixture.mixers),
}
"""What a container adds to its base."""
COMPILED = {"macrl", "mae", "mixmask_simclr"}
"""Kinds of step: a masked query with a momentum copy, a queue and a decoder; one view; a joint forward and mixtures."""
TRACED: set[type] = set()
"""Classes of this project and of the methods that an experiment before has traced."""
PAIRED = {"Mixture"}
"""Methods whose draws pair the rows of a batch: another order is another experiment."""
ALLOWED = (
    *("torch", "gin", "timm", "benchmark.annotations", "benchmark.errors"),
    *("benchmark.method", "benchmark.losses", "benchmark.nets", "benchmark.randomness", "benchmark.views.recipes"),
)


@pytest.fixture(scope="module", params=EXPERIMENTS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """One experiment on the digits; gin's state is global, so it lives until the next one is opened."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield Stage.open(configuration.load([str(EXPERIMENTS[request.param])], TINY), Path())
    torch.use_deterministic_algorithms(deterministic)


def built(stage: Stage) -> Method:
    method = stage.method()[0].train()
    if isinstance(method, Labelled):
        method.labels = torch.zeros(BATCH, dtype=torch.int64)  # equal, since some tests reorder the images
    return method


@pytest.fixture
def method(stage: Stage) -> Method:
    return built(stage)


def batch(method: Method, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    side = method.encoder.image_size
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(method.n_views, BATCH, 3, side, side, generator=generator).to(dtype))


def first_step(method: Method, dtype: torch.dtype = torch.float32) -> Step:
    return method(batch(method, dtype=dtype), Draws(0, 0, BATCH))


def optimiser(stage: Stage, method: Method) -> Optimiser:
    return stage.pretraining.optimiser().build(method.param_groups(), BATCH)


def train(stage: Stage, method: Method, optimiser: Optimiser, start: int = 0, stop: int = STEPS) -> None:
    for t in range(start, stop):
        step = method(batch(method, seed=t), Draws(stage.experiment.seed, t, BATCH))
        step.loss.backward()
        method.after_backward(step)
        optimiser.step((t + 1) / (STEPS + 1))  # not t / STEPS: warm-up starts at a rate of 0
        method.after_step(t / STEPS)


def identity(method: Method, optimiser: Optimiser) -> str:
    state = {"method": method.state_dict(), "optimiser": optimiser.inner.state_dict()}
    return digest(flatten(state))


def statistics(method: Method) -> set[str]:
    """Names of the buffers that a batch norm writes in its forward."""
    return {
        f"{name}.{buffer}"
        for name, part in method.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        for buffer, _ in part.named_buffers()
    }


def attributes(method: Method) -> dict[str, str]:
    """Every attribute of every module, but for what the state dict holds."""
    held = {"_parameters", "_buffers", "_modules"}
    return {
        f"{name}.{key}": repr(value)
        for name, part in method.named_modules()
        for key, value in vars(part).items()
        if key not in held
    }


def test_a_step_keeps_the_contract(method: Method) -> None:
    """Oracle: a finite float32 loss with a gradient; logs and carry are detached, logs are scalars. Gradients reach
    what has `requires_grad` alone, all of which the optimiser's groups hold once. The docstring has its sentence."""
    step = first_step(method)
    assert (step.loss.shape, step.loss.dtype) == ((), torch.float32)
    assert step.loss.isfinite()
    assert all(log.shape == () and log.isfinite() for log in step.logs.values())
    assert not any(value.requires_grad for value in [*step.logs.values(), *step.carry.values()])
    step.loss.backward()
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name for name, p in method.named_parameters() if p.grad is not None} == trainable
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    first = next(p for p in method.encoder.parameters() if p.requires_grad and p.ndim > 1)
    assert first.grad.abs().max() > 0
    grouped = [id(p) for group in method.param_groups() for p in group.params]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    assert re.search(r"Differs from the paper: \w", type(method).__doc__ or ""), "the docstring does not say it"


def test_forward_is_pure(method: Method) -> None:
    """Oracle: state, attributes and torch's generator before and after, and the same loss when called again."""
    before = {name: value.clone() for name, value in method.state_dict().items()}
    written, generator = attributes(method), torch.get_rng_state()
    loss = first_step(method).loss
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= statistics(method)
    assert attributes(method) == written
    assert torch.equal(torch.get_rng_state(), generator), "draw by `draws`, not by torch's own generator"
    assert torch.equal(first_step(method).loss, loss)


def test_every_view_has_a_recipe_and_matters(stage: Stage, method: Method) -> None:
    """Oracle: one recipe for each view that the method declares; another view gives another loss."""
    assert len(stage.method()[1]) == method.n_views
    views = batch(method)
    for k in range(method.n_views):
        others = [view.roll(5, dims=3) if i == k else view for i, view in enumerate(views)]
        assert not torch.equal(method(others, Draws(0, 0, BATCH)).loss, method(views, Draws(0, 0, BATCH)).loss)


def test_momentum_copies_are_weighted_sums_of_the_past(stage: Stage, method: Method) -> None:
    """Oracle: the closed form of the moving average of encoder and projector, with one fitted momentum a step.

    The copy follows the weights after the optimiser's step; neither gradient nor statistics of the originals reach it.
    """
    copies = [part for part in method.modules() if isinstance(part, MomentumCopy)]
    if not copies:
        pytest.skip("no momentum copy")
    siamese = method.base if isinstance(method, Container) else method
    followed = nn.ModuleList([siamese.encoder, siamese.projector])
    inner = optimiser(stage, method)
    for copy in copies:
        assert torch.equal(weights(copy), weights(followed))
    expected = weights(followed)
    for t in range(STEPS):
        step = method(batch(method, seed=t), Draws(0, t, BATCH))
        step.loss.backward()
        method.after_backward(step)
        inner.step((t + 1) / (STEPS + 1))
        written = {copy: [buffer.clone() for buffer in copy.buffers()] for copy in copies}
        method.after_step(t / STEPS)
        gap = weights(followed) - expected
        share = float((weights(copies[0]) - expected) @ gap / (gap @ gap))
        assert 0 < share < 0.5
        expected = expected + share * gap
        for copy in copies:
            torch.testing.assert_close(weights(copy), expected, rtol=1e-5, atol=1e-6)
            assert all(torch.equal(b, before) for b, before in zip(copy.buffers(), written[copy], strict=True))
            assert all(part.training for part in copy.modules())
            assert not any(p.requires_grad or p.grad is not None for p in copy.parameters())


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


def test_queues_hold_the_last_keys_in_order(stage: Stage, method: Method) -> None:
    """Oracle: a list of all keys pushed, after what the queue began with; it starts near its end, so that it wraps."""
    queues = [part for part in method.modules() if isinstance(part, KeyQueue)]
    if not queues:
        pytest.skip("no queue")
    pushed: dict[KeyQueue, list[Tensor]] = {}
    for queue in queues:
        queue.position.fill_(len(queue.keys) - BATCH // 2)
        pushed[queue] = list(queue.keys.roll(-int(queue.position), 0))
        queue.push = record(queue.push, pushed[queue])
    inner = optimiser(stage, method)
    for t in range(STEPS):
        counts = [len(keys) for keys in pushed.values()]
        before = [queue.keys.clone() for queue in queues]
        step = method(batch(method, seed=t), Draws(0, t, BATCH))
        step.loss.backward()
        assert [len(keys) for keys in pushed.values()] == counts, "keys may enter a queue after the backward pass only"
        assert all(torch.equal(queue.keys, keys) for queue, keys in zip(queues, before, strict=True))
        method.after_backward(step)
        inner.step((t + 1) / (STEPS + 1))
        method.after_step(t / STEPS)
        for queue, keys in pushed.items():
            assert torch.equal(queue.keys.roll(-int(queue.position), 0), torch.stack(keys[-len(queue.keys) :]))
            torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(len(queue.keys)))
        assert all(len(keys) >= count + BATCH for keys, count in zip(pushed.values(), counts, strict=True))


def record(push: Callable[[Tensor], None], keys: list[Tensor]) -> Callable[[Tensor], None]:
    """Make `push` add to the list `keys` too."""

    def recorded(new: Tensor) -> None:
        keys.extend(new.clone())
        push(new)

    return recorded


class Permuted(Draws):
    """Draws whose rows stand in another order."""

    def __init__(self, order: Tensor) -> None:
        super().__init__(0, 0, len(order))
        self.order = order

    def rows(self, name: object, *shape: int) -> Tensor:
        return super().rows(name, *shape)[self.order]


def test_order_of_the_batch_is_irrelevant(method: Method) -> None:
    """Oracle: the loss itself in float64, with images and draws permuted together; images alone give another loss."""
    if type(method).__name__ in PAIRED:
        pytest.skip("its draws pair the rows of the batch")
    method.double()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    views = batch(method, dtype=torch.float64)
    loss = method(views, Draws(0, 0, BATCH)).loss
    permuted = method([view[order] for view in views], Permuted(order)).loss
    torch.testing.assert_close(permuted, loss, rtol=1e-10, atol=0)
    if method.n_views > 1:
        mismatched = method([views[0][order], *views[1:]], Draws(0, 0, BATCH)).loss
        assert (mismatched - loss).abs() > 1e-6 * loss.abs()


def test_seed_and_state_decide_every_bit(stage: Stage, method: Method) -> None:
    """Oracle: the digest of all state after three steps, which the same seed has again though its state passes a file
    after two of them into a method of another seed; that seed has another. A checkpoint holds parameters and buffers
    alone, so attributes are as before."""
    written = attributes(method)
    whole = optimiser(stage, method)
    train(stage, method, whole)
    method.after_step(0.999)
    assert attributes(method) == written, "keep what after_backward and after_step change in a registered buffer"

    cut, others = built(stage), replace(stage, experiment=replace(stage.experiment, seed=1))
    inner = optimiser(stage, cut)
    train(stage, cut, inner, stop=2)
    file = io.BytesIO()
    torch.save([cut.state_dict(), inner.inner.state_dict()], file)
    other = built(others)
    resumed = optimiser(stage, other)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other.load_state_dict(state[0])
    resumed.inner.load_state_dict(state[1])
    train(stage, other, resumed, start=2)
    other.after_step(0.999)
    assert identity(other, resumed) == identity(method, whole)

    other = built(others)
    inner = optimiser(others, other)
    train(others, other, inner)
    other.after_step(0.999)
    assert identity(other, inner) != identity(method, whole)


def test_a_step_has_one_price(stage: Stage) -> None:
    """Oracle: the count itself, which refuses a step that needs values, or that costs more or less on the way."""
    assert count_step(lambda: stage.method()[0], BATCH, stage.dataset.size) > 0


def test_loss_has_full_precision_under_autocast(method: Method) -> None:
    """Oracle: the same loss of the same projections outside of autocast, to the bit."""
    siamese = method.base if isinstance(method, Container) else method
    if not isinstance(siamese, Siamese):
        pytest.skip("its loss is not told apart from its forward pass")
    with torch.autocast("cpu", torch.bfloat16):
        online, targets = siamese.passes(batch(method), Draws(0, 0, BATCH))
        inside = siamese.objective(online, targets)
    outside = siamese.objective(online, targets)
    assert torch.equal(inside, outside), "decorate the loss with benchmark.losses.full_precision"


def test_loss_is_float32_under_autocast(method: Method) -> None:
    """Oracle: the float32 loss, to the precision of bfloat16; gradients stay finite."""
    with torch.autocast("cpu", torch.bfloat16):
        step = first_step(method)
    step.loss.backward()
    assert step.loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    torch.testing.assert_close(step.loss, first_step(method).loss, rtol=0.05, atol=0.05)


def stated_forwards(method: Method) -> int | None:
    """Look up the encoder forwards of a step; None where a class is unknown."""
    name = type(method).__name__
    if not isinstance(method, Container):
        return FORWARDS.get(name)
    own = stated_forwards(method.base)
    added = FORWARDS_ADDED.get(name)
    return None if own is None or added is None else own + added(method)


def test_encoder_forwards_are_as_few_as_stated(method: Method) -> None:
    """Oracle: the tables above, for the classes that they know."""
    expected = stated_forwards(method)
    if expected is None:
        pytest.skip(f"the forwards of {type(method).__name__} are not stated")
    forwards: list[nn.Module] = []
    hook = register_module_forward_hook(lambda part, *_: forwards.append(part) if isinstance(part, Encoder) else None)
    first_step(method)
    hook.remove()
    assert len(forwards) == expected


@pytest.mark.filterwarnings("error:Dynamo does not know how to trace")
def test_compiled_method_equals_eager(method: Method, request: pytest.FixtureRequest) -> None:
    """Oracle: the eager loss and its gradient. One experiment of each kind of step is traced forward and backward by
    `aot_eager`, which generates no code; the others forward alone, and only where they have a class that none before
    had: tracing takes seconds."""
    stem = request.node.callspec.params["stage"]
    classes = {type(part) for part in [*method.modules(), *getattr(method, "mixers", ())]}
    if classes <= TRACED and stem not in COMPILED:
        pytest.skip("all of its classes are traced in other experiments")
    TRACED.update(classes)
    encoder = [p for p in method.encoder.parameters() if p.requires_grad]
    loss = first_step(method).loss
    gradients = torch.autograd.grad(loss, encoder)
    torch._dynamo.reset()
    backend = "aot_eager" if stem in COMPILED else "eager"
    compiled = torch.compile(method, backend=backend)(batch(method), Draws(0, 0, BATCH)).loss
    torch.testing.assert_close(compiled, loss, rtol=1e-5, atol=1e-6)
    scale = max(float(g.abs().max()) for g in gradients)
    torch.testing.assert_close(torch.autograd.grad(compiled, encoder), gradients, rtol=1e-3, atol=1e-5 * scale)


class Held:
    """Targets that carry no gradient stay what they were at the first call, as their stop-gradient means."""

    def __init__(self, siamese: Siamese) -> None:
        self.compute = siamese.targets
        self.first: dict[int, Tensor] | None = None

    def __call__(self, *args: object) -> dict[int, Tensor]:
        self.first = self.compute(*args) if self.first is None else self.first
        fixed = not any(target.requires_grad for target in self.first.values())
        return self.first if fixed else self.compute(*args)


def test_gradient_equals_finite_differences(method: Method) -> None:
    """Oracle: central differences in float64 along a random direction through all trained parameters."""
    method.double()
    siamese = method.base if isinstance(method, Container) else method
    if isinstance(siamese, Siamese):
        siamese.targets = Held(siamese)
    trained = [p for p in method.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained]
    norm = sum(d.square().sum() for d in direction) ** 0.5
    gradients = torch.autograd.grad(first_step(method, torch.float64).loss, trained)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)) / norm

    ends = []
    with torch.no_grad():
        for distance in (1e-5, -2e-5):
            for p, d in zip(trained, direction, strict=True):
                p += distance * d / norm
            ends.append(first_step(method, torch.float64).loss)
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-4, atol=1e-7)


def imports(path: Path) -> list[str]:
    """Names of the modules that a file imports; packages of our own by their modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in ("benchmark", "baselines"):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "." * node.level)
    return found


@pytest.mark.parametrize("stem", METHODS)
def test_method_is_one_small_file(stem: str) -> None:
    """Oracle: the rules: 180 lines, imports of the layers below and of at most one other method, one gin file."""
    path = METHODS[stem]
    assert len(path.read_text().splitlines()) <= 180
    others = [name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names]
    siblings = {name for name in others if name.startswith("baselines.")}
    assert len(siblings) <= 1
    foreign = [n for n in others if n not in siblings and not any(n == a or n.startswith(f"{a}.") for a in ALLOWED)]
    assert not foreign, f"{path.name} imports {foreign}"
    assert any(f"import baselines.{stem}\n" in gin.read_text() for gin in EXPERIMENTS.values())
