"""Detection: the encoder in a Faster R-CNN, trained on boxes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gin
import torch
from torch import Tensor

from benchmark.annotations import Count, NonNegative, Positive
from benchmark.data.resident import epoch_order
from benchmark.data.streaming import ahead, at_once
from benchmark.errors import ConfigError
from benchmark.evals.average_precision import Detections
from benchmark.evals.detection import BoxBank, Detected, Found, rows_of
from benchmark.evals.detector import faster_rcnn, scaled
from benchmark.evals.features import flags_of
from benchmark.evals.saved import Saved
from benchmark.nets.attention import choose_attention
from benchmark.nets.schedules import half_cosine
from benchmark.randomness import Draws, derive, seed_torch
from benchmark.runtime import progress
from benchmark.runtime.transfer import send
from benchmark.storage.digest import digest
from benchmark.views.colour import normalise

WARMUP = 0.1  # our choice: share of the steps in which the rate rises
EVALUATED = 16  # images that a detector sees at once, at most


@gin.register
@dataclass(frozen=True, kw_only=True)
class Detect:
    """Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) on maps of the encoder, all of it trained for `steps`.

    See `detector.Pyramid` for the maps, and `detector.faster_rcnn` for `width`, `samples` and `proposals`. AdamW has
    one rate for all layers, which rises linearly over a tenth of the steps and falls on a half cosine. Batch norms of
    the encoder use and learn statistics of the batch (He et al. 2020, arXiv:1911.05722, section 4.2). Images are
    flipped at random where the data allow it. Of `rates`, the one with the best average precision on the hold-out
    after `select_steps` on the fitting part is taken for all of train. The row is flagged if it is the smallest or the
    largest of several. `trials` are trainings from other heads and orders, whose scores are averaged.

    Differs from the papers: images are squares of one size, and neither scaled nor cropped at random; a rate is chosen
    for each encoder; AdamW also trains a ResNet; layers of a ViT do not have rates of their own.
    """

    rates: tuple[Positive, ...] = (0.0001, 0.0003, 0.001)
    steps: Count = 1000
    select_steps: Count = 300
    trials: Count = 1
    batch_size: Count = 16
    weight_decay: NonNegative = 0.1
    width: Count = 256
    samples: Count = 512
    proposals: Count = 1000

    name = "detect"
    version = "1.0"
    boxes = True

    def __post_init__(self) -> None:
        if not self.rates:
            raise ConfigError("Detect.rates must have at least one number.")

    def __call__(self, bank: BoxBank) -> Detected:
        """Choose the rate on the hold-out, then train on all of train."""
        network = bank.network
        objects = (torch.cat([each.boxes, each.labels[:, None], each.crowd[:, None]], dim=1) for each in bank.objects)
        start = digest(network.copy().state_dict() | {"objects": torch.cat(list(objects))})
        saved = Saved(self.name, network.folder, (self, self.version, start, bank.dataset, *network.terms))
        rate = self.rates[0]
        if len(self.rates) > 1:
            held = {each: self._held(bank, saved, each) for each in self.rates}
            rate = max(held, key=lambda each: (held[each], -each))  # of equals the smaller rate
        trials = []
        for trial in range(self.trials):
            part = f"trial {trial}"
            if part not in saved.results:
                training = Training(self, bank, rate, self.steps, torch.arange(len(bank.objects)), trial)
                training.run(saved, part)
                saved.finish(part, {"rows": rows_of([training.find(None)])})
            trials.append(_of_rows(saved.results[part]["rows"], len(bank.test_sizes)))
        saved.discard()
        flags = flags_of(rate, self.rates, bank.held)
        if not all(any(len(each.labels) for each in found) for found in trials):
            flags += ("a trial found nothing in any test image",)
        return Detected(tuple(trials), {"rate": rate}, flags)

    def _held(self, bank: BoxBank, saved: Saved, rate: float) -> float:
        """Return the average precision on the hold-out of a detector that is trained on the fitting part."""
        part = f"rate {rate}"
        if part not in saved.results:
            training = Training(self, bank, rate, self.select_steps, bank.fit, 0)
            training.run(saved, part)
            saved.finish(part, {"score": torch.tensor(bank.held_score(training.find(bank.held)), dtype=torch.float64)})
        return float(saved.results[part]["score"])


@dataclass
class Training:
    """The training of one detector on the train images `rows`, and what it finds afterwards.

    A loss that is not finite ends it: it then finds nothing.
    """

    settings: Detect
    bank: BoxBank
    rate: float
    steps: int
    rows: Tensor
    trial: int
    step: int = field(default=0, init=False)
    has_diverged: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        network, settings = self.bank.network, self.settings
        self.size = network.train.shape[-1]
        seed_torch("detect", self.bank.dataset, self.trial)
        encoder = network.copy().cpu()  # so that heads are drawn on the host, whatever the device
        shape = {"width": settings.width, "samples": settings.samples, "proposals": settings.proposals}
        self.model = faster_rcnn(encoder, self.bank.classes, self.size, **shape).to(network.device)
        choose_attention(self.model, network.device, "float32")
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        decays = [each for each in parameters if each.ndim > 1], [each for each in parameters if each.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decays[0]}, {"params": decays[1], "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=self.rate, weight_decay=settings.weight_decay)

    def run(self, saved: Saved, part: str) -> None:
        """Take all steps that are left."""
        if state := saved.begun(part):
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.has_diverged = state["step"], state["has_diverged"]
        self.model.train()
        with _any_order(self.bank.network.device):
            while self.step < self.steps and not self.has_diverged:
                progress.say(f"{part}, step {self.step + 1:,} of {self.steps:,}")
                self._take()
                if saved.is_due:
                    saved.keep(part, self._state())

    def _state(self) -> dict[str, Any]:
        states = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {**states, "step": self.step, "has_diverged": self.has_diverged}

    def _take(self) -> None:
        device = self.bank.network.device
        images, targets = self._batch()
        seed_torch("detect", self.trial, self.step)  # by which proposals are sampled
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = torch.stack(list(self.model(list(images), targets).values())).sum()
        self.has_diverged = not bool(loss.isfinite())
        done = self.step / self.steps
        for group in self.optimiser.param_groups:
            rising = (self.step + 1) / (WARMUP * self.steps)
            group["lr"] = self.rate * (rising if done < WARMUP else half_cosine(done - WARMUP, 1 - WARMUP))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1

    def _batch(self) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Return the normalised images of this step and their boxes; those of crowds are left out."""
        network, size = self.bank.network, min(self.settings.batch_size, len(self.rows))
        epoch, batch = divmod(self.step, len(self.rows) // size)
        order = epoch_order(derive("detect", self.trial), epoch, len(self.rows))
        ids = self.rows[order[batch * size : (batch + 1) * size]]
        (images,) = send(network.device, network.train[ids])
        is_flipped = Draws(derive("detect", self.trial), self.step, len(ids)).rows("flip") < 0.5
        targets = []
        for place, index in enumerate(ids.tolist()):
            objects = self.bank.objects[index]
            boxes = scaled(objects.boxes, objects.size, (self.size, self.size))[~objects.crowd]
            if network.limits.flip and is_flipped[place]:
                images[place] = images[place].flip(2)
                boxes = flipped(boxes, self.size)
            labels = objects.labels[~objects.crowd] + 1  # 0 is the background
            targets.append(dict(zip(("boxes", "labels"), send(network.device, boxes, labels), strict=True)))
        return normalise(images.float() / 255, network.mean, network.std), targets

    @torch.no_grad()
    def find(self, held: Tensor | None) -> Found:
        """Return what the detector finds in the images `held` of train, or in the test images if None."""
        network = self.bank.network
        images = network.test if held is None else network.train
        ids = torch.arange(len(images)) if held is None else held
        sizes = self.bank.test_sizes if held is None else [self.bank.objects[index].size for index in held.tolist()]
        if self.has_diverged:
            return [Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0)) for _ in sizes]
        self.model.eval()
        found: Found = []
        with _any_order(network.device):
            for _, batch in ahead(images, ids, network.device, at_once(images, EVALUATED)):
                for output in self.model(list(normalise(batch.float() / 255, network.mean, network.std))):
                    boxes = scaled(output["boxes"].cpu(), (self.size, self.size), sizes[len(found)])
                    found.append(Detections(boxes, output["labels"].cpu() - 1, output["scores"].cpu()))
        return found


def flipped(boxes: Tensor, size: int) -> Tensor:
    """Return boxes `(n, 4)` in an image of `size` px as boxes in the same image, left and right exchanged."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([size - right, top, size - left, bottom], dim=1)


def _of_rows(rows: Tensor, images: int) -> Found:
    """Return what was found in each image, by the `detection.rows_of` of one trial."""
    each = (rows[rows[:, 1] == image] for image in range(images))
    return [Detections(part[:, 4:], part[:, 2].long(), part[:, 3]) for part in each]


@contextmanager
def _any_order(device: torch.device) -> Iterator[None]:
    """On a GPU, allow sums in any order: the kernels that cut proposals out of maps have no other backward pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before and device.type != "cuda")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
