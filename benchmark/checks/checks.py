"""The checks: each gets a method, returns where it holds, and else raises CheckError or AssertionError.

The first paragraph of a docstring is what holds; its oracle follows.
"""

import io
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.checks.imports import files_import_what_they_may
from benchmark.checks.subject import (
    BATCH,
    STEPS,
    NotApplicable,
    Subject,
    attributes_of,
    base_of,
    identity,
    progress,
    require,
    statistics_of,
    weights_of,
)
from benchmark.method import Siamese
from benchmark.nets.momentum import MomentumCopy
from benchmark.nets.queue import KeyQueue
from benchmark.randomness import Draws
from benchmark.training.flops import count_step


def a_step_keeps_the_contract(subject: Subject) -> None:
    """The loss is finite and float32, logs and carry are detached, gradients reach what has `requires_grad` alone, and
    the optimiser's groups hold each such parameter once. The docstring says how the method differs from its paper.
    """
    method = subject.build()
    step = subject.step(method)
    require(step.loss.shape == () and step.loss.dtype == torch.float32, "the loss is not one float32 number")
    require(bool(step.loss.isfinite()), f"the loss is {float(step.loss.detach())}")
    for name, log in step.logs.items():
        require(log.shape == () and bool(log.isfinite()), f"the log {name!r} is not one finite number")
    for name, value in [*step.logs.items(), *step.carry.items()]:
        require(not value.requires_grad, f"{name!r} is not detached")
    step.loss.backward()
    for name, p in method.named_parameters():
        reached = p.grad is not None
        require(reached == p.requires_grad, f"{name} has requires_grad = {p.requires_grad} and {_a(reached)} gradient")
        require(p.grad is None or bool(p.grad.isfinite().all()), f"the gradient of {name} is not finite")
    first = next(p for p in method.encoder.parameters() if p.requires_grad and p.ndim > 1)
    require(first.grad is not None and float(first.grad.abs().max()) > 0, "no gradient reaches the encoder")
    grouped = sorted(id(p) for group in method.param_groups() for p in group.params)
    trained = sorted(id(p) for p in method.parameters() if p.requires_grad)
    require(grouped == trained, "param_groups does not hold each trained parameter once")
    says = re.search(r"Differs from the paper: \w", type(method).__doc__ or "")
    require(says is not None, f"the docstring of {type(method).__name__} has no sentence 'Differs from the paper: ...'")


def forward_is_pure(subject: Subject) -> None:
    """`forward` changes no state, no attribute and no generator of torch, and gives the same loss when called again."""
    method = subject.build()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    written, generator = attributes_of(method), torch.get_rng_state()
    loss = subject.step(method).loss
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    require(changed <= statistics_of(method), f"forward changes {', '.join(sorted(changed - statistics_of(method)))}")
    now = attributes_of(method)
    require(now == written, f"forward writes {', '.join(k for k in now if now[k] != written.get(k))}")
    require(torch.equal(torch.get_rng_state(), generator), "draw by `draws`, not by torch's own generator")
    require(torch.equal(subject.step(method).loss, loss), "a second call gives another loss")


def every_view_matters(subject: Subject) -> None:
    """The loss depends on each view that the recipe makes."""
    method, views = subject.build(), subject.views()
    loss = method(views, Draws(0, 0, BATCH)).loss
    for k in range(len(views)):
        others = [view.roll(5, dims=3) if i == k else view for i, view in enumerate(views)]
        require(not torch.equal(method(others, Draws(0, 0, BATCH)).loss, loss), f"view {k} does not matter")


def momentum_copies_follow(subject: Subject) -> None:
    """A momentum copy is the moving average of encoder and projector after the optimiser's steps, with one momentum a
    step; neither gradients nor statistics of the originals reach it, and it stays in train mode.

    Oracle: the closed form, with a fitted momentum.
    """
    method = subject.build()
    copies = [part for part in method.modules() if isinstance(part, MomentumCopy)]
    if not copies:
        raise NotApplicable("no momentum copy")
    base = base_of(method)
    followed = nn.ModuleList([base.encoder, base.get_submodule("projector")])
    optimiser = subject.optimiser(method)
    expected = weights_of(followed)
    for copy in copies:
        require(torch.equal(weights_of(copy), expected), "a momentum copy does not start at its originals")
    for t in range(STEPS):
        subject.backward(method, t)
        optimiser.step(progress(t))
        written = {copy: [buffer.clone() for buffer in copy.buffers()] for copy in copies}
        method.after_step(t / STEPS)
        gap = weights_of(followed) - expected
        share = float((weights_of(copies[0]) - expected) @ gap / (gap @ gap))
        require(0 < share < 0.5, f"step {t} moves a momentum copy by {share:.3f} of the way")
        expected = expected + share * gap
        for copy in copies:
            torch.testing.assert_close(weights_of(copy), expected, rtol=1e-5, atol=1e-6)
            alike = all(torch.equal(b, before) for b, before in zip(copy.buffers(), written[copy], strict=True))
            require(alike, "after_step changes the statistics of a momentum copy")
            require(all(part.training for part in copy.modules()), "a momentum copy left the train mode")
            reached = any(p.requires_grad or p.grad is not None for p in copy.parameters())
            require(not reached, "a gradient reaches a momentum copy")


def queues_hold_the_last_keys(subject: Subject) -> None:
    """A queue holds the last keys in their order, of length 1, and gets new ones after the backward pass only.

    Oracle: a list of all keys pushed, after what the queue began with; it starts near its end, so that it wraps.
    """
    method = subject.build()
    queues = [part for part in method.modules() if isinstance(part, KeyQueue)]
    if not queues:
        raise NotApplicable("no queue")
    pushed: dict[KeyQueue, list[Tensor]] = {}
    for queue in queues:
        queue.position.fill_(len(queue.keys) - BATCH // 2)
        pushed[queue] = list(queue.keys.roll(-int(queue.position), 0))
        vars(queue)["push"] = _recorded(queue.push, pushed[queue])
    optimiser = subject.optimiser(method)
    for t in range(STEPS):
        counts = [len(keys) for keys in pushed.values()]
        before = [queue.keys.clone() for queue in queues]
        step = method(subject.views(seed=t), Draws(0, t, BATCH))
        step.loss.backward()
        early = [len(keys) for keys in pushed.values()] != counts
        early |= not all(torch.equal(queue.keys, keys) for queue, keys in zip(queues, before, strict=True))
        require(not early, "keys may enter a queue after the backward pass only")
        method.after_backward(step)
        optimiser.step(progress(t))
        method.after_step(t / STEPS)
        for (queue, keys), count in zip(pushed.items(), counts, strict=True):
            held = queue.keys.roll(-int(queue.position), 0)
            require(torch.equal(held, torch.stack(keys[-len(queue.keys) :])), "a queue lost keys or their order")
            torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(len(queue.keys)))
            require(len(keys) >= count + BATCH, "a step pushes fewer keys than images")


def order_of_the_batch_is_irrelevant(subject: Subject, paired: bool = False) -> None:
    """Images and draws in another order give the same loss in float64; the images of one view alone, another one.

    A `paired` method draws pairs of rows: another order is another experiment.
    """
    if paired:
        raise NotApplicable("its draws pair the rows of the batch")
    method = subject.build().double()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    views = subject.views(dtype=torch.float64)
    loss = method(views, Draws(0, 0, BATCH)).loss
    permuted = method([view[order] for view in views], _Permuted(order)).loss
    torch.testing.assert_close(permuted, loss, rtol=1e-10, atol=0)
    if len(views) > 1:
        mismatched = method([views[0][order], *views[1:]], Draws(0, 0, BATCH)).loss
        require(bool((mismatched - loss).abs() > 1e-6 * loss.abs()), "it does not matter which views belong together")


def seed_and_state_decide_every_bit(subject: Subject) -> None:
    """The same seed gives the same bits after three steps, though its state passes a file after two of them into a
    method of another seed, which itself has others. Hooks write registered buffers alone.
    """
    method = subject.build()
    written, optimiser = attributes_of(method), subject.optimiser(method)
    subject.train(method, optimiser)
    method.after_step(0.999)
    kept = attributes_of(method) == written
    require(kept, "keep what after_backward and after_step change in a registered buffer")
    whole = identity(method, optimiser)

    cut, others = subject.build(), subject.of_seed(subject.stage.experiment.seed + 1)
    optimiser = subject.optimiser(cut)
    subject.train(cut, optimiser, stop=2)
    file = io.BytesIO()
    torch.save([cut.state_dict(), optimiser.inner.state_dict()], file)
    other = others.build()
    optimiser = subject.optimiser(other)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other.load_state_dict(state[0])
    optimiser.inner.load_state_dict(state[1])
    subject.train(other, optimiser, start=2)
    other.after_step(0.999)
    require(identity(other, optimiser) == whole, "a run that goes on from its state has other bits")

    other = others.build()
    optimiser = others.optimiser(other)
    others.train(other, optimiser)
    other.after_step(0.999)
    require(identity(other, optimiser) != whole, "another seed has the same bits")


def a_step_has_one_price(subject: Subject) -> None:
    """A step can be counted without values, and costs the same at both ends of a run."""
    stage = subject.stage
    require(count_step(lambda: stage.method()[0], BATCH, stage.sides) > 0, "a step costs nothing")


def loss_has_full_precision(subject: Subject) -> None:
    """Under autocast the loss of the same projections is that outside of it, to the bit."""
    method = base_of(subject.build())
    if not isinstance(method, Siamese):
        raise NotApplicable("its loss is not told apart from its forward pass")
    with torch.autocast("cpu", torch.bfloat16):
        online, targets = method.passes(subject.views(), Draws(0, 0, BATCH))
        inside = method.objective(online, targets)
    alike = torch.equal(inside, method.objective(online, targets))
    require(alike, "decorate the loss with benchmark.losses.full_precision")


def loss_is_float32_under_autocast(subject: Subject) -> None:
    """Under autocast loss and gradients are finite, and the loss is the float32 one to the precision of bfloat16."""
    method = subject.build()
    with torch.autocast("cpu", torch.bfloat16):
        step = subject.step(method)
    step.loss.backward()
    require(step.loss.dtype == torch.float32, f"the loss is {step.loss.dtype}")
    finite = all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
    require(finite, "a gradient is not finite")
    torch.testing.assert_close(step.loss, subject.step(method).loss, rtol=0.05, atol=0.05)


def compiled_equals_eager(subject: Subject, backend: str = "aot_eager") -> None:
    """torch.compile traces the method without a break of meaning: loss and gradients are those without it.

    `aot_eager` traces forward and backward and generates no code.
    """
    method = subject.build()
    encoder = [p for p in method.encoder.parameters() if p.requires_grad]
    loss = subject.step(method).loss
    gradients = torch.autograd.grad(loss, encoder)
    torch._dynamo.reset()
    compiled = torch.compile(method, backend=backend)(subject.views(), Draws(0, 0, BATCH)).loss
    torch.testing.assert_close(compiled, loss, rtol=1e-5, atol=1e-6)
    scale = max(float(g.abs().max()) for g in gradients)
    torch.testing.assert_close(torch.autograd.grad(compiled, encoder), gradients, rtol=1e-3, atol=1e-5 * scale)


def gradient_equals_finite_differences(subject: Subject) -> None:
    """The gradient is the slope of the loss: central differences in float64 along a random direction.

    What a method's `targets` returns without a gradient stays fixed meanwhile.
    """
    method = subject.build().double()
    base = base_of(method)
    if hasattr(base, "targets"):
        vars(base)["targets"] = _Held(base.targets)  # type: ignore[arg-type]
    trained = [p for p in method.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained]
    norm = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
    gradients = torch.autograd.grad(subject.step(method, torch.float64).loss, trained)
    slope = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum() / norm

    ends = []
    with torch.no_grad():
        for distance in (1e-5, -2e-5):
            for p, d in zip(trained, direction, strict=True):
                p.add_(distance * d / norm)
            ends.append(subject.step(method, torch.float64).loss)
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-4, atol=1e-7)


class _Permuted(Draws):
    """Draws whose rows stand in another order."""

    def __init__(self, order: Tensor) -> None:
        super().__init__(0, 0, len(order))
        self.order = order

    def rows(self, name: object, *shape: int) -> Tensor:
        return super().rows(name, *shape)[self.order]


class _Held:
    """Targets that carry no gradient stay what they were at the first call, as their stop-gradient means."""

    def __init__(self, compute: Callable[..., Tensor | dict[int, Tensor]]) -> None:
        self.compute = compute
        self.first: Tensor | dict[int, Tensor] | None = None

    def __call__(self, *args: object) -> Tensor | dict[int, Tensor]:
        self.first = self.compute(*args) if self.first is None else self.first
        targets = [self.first] if isinstance(self.first, Tensor) else self.first.values()
        fixed = not any(target.requires_grad for target in targets)
        return self.first if fixed else self.compute(*args)


def _recorded(push: Callable[[Tensor], None], keys: list[Tensor]) -> Callable[[Tensor], None]:
    """Make `push` add to the list `keys` too."""

    def recorded(new: Tensor) -> None:
        keys.extend(new.clone())
        push(new)

    return recorded


def _a(there_is: bool) -> str:
    return "a" if there_is else "no"


CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        *(a_step_keeps_the_contract, forward_is_pure, every_view_matters, momentum_copies_follow),
        *(queues_hold_the_last_keys, order_of_the_batch_is_irrelevant, seed_and_state_decide_every_bit),
        *(a_step_has_one_price, loss_has_full_precision, loss_is_float32_under_autocast, compiled_equals_eager),
        *(gradient_equals_finite_differences, files_import_what_they_may),
    )
}
