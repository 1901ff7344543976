"""Plant known mistakes one at a time and see whether the tests notice: `python tests/mutations.py [group ...]`.

Each mutation replaces one exact text in a copy of the tree and runs the tests of its group until the first failure.
A mutation whose text is not found exactly once, or that no test can even import, is an error: the list has aged.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OBJECTIVES = "benchmark/objectives.py"
MOMENTUM = "benchmark/nets/momentum.py"
QUEUE = "benchmark/nets/queue.py"
SPLIT = "benchmark/nets/split_norm.py"
MIXING = "benchmark/nets/mixing.py"
MIXMASK = "baselines/mixmask.py"
MACRL = "baselines/macrl.py"
MRCL = "baselines/mrcl.py"
ENCODERS = "benchmark/nets/encoders.py"
CLASSIFIER = "benchmark/evals/classifier.py"
HARNESS = "benchmark/evals/harness.py"

TESTS = {
    "momentum": ("test_nets_momentum",),
    "queue": ("test_nets_queue",),
    "split_norm": ("test_nets_split_norm",),
    "restoration": ("test_nets_restoration",),
    "attention": ("test_nets_attention",),
    "encoders": ("test_nets_encoders",),
    "decoder": ("test_nets_decoder",),
    "moco": ("test_moco", "test_objectives"),
    "moco_v3": ("test_moco_v3",),
    "byol": ("test_byol", "test_objectives"),
    "simsiam": ("test_simsiam",),
    "mae": ("test_mae", "test_objectives"),
    "simclr": ("test_simclr", "test_objectives"),
    "barlow_twins": ("test_barlow_twins", "test_objectives"),
    "mrcl": ("test_mrcl", "test_moco", "test_method"),
    "mimco": ("test_mimco", "test_nets_frozen", "test_nets_masking", "test_objectives"),
    "teacher": ("test_teacher", "test_training_budget"),
    "mixing": ("test_nets_mixing",),
    "mixmask": ("test_mixmask",),
    "macrl": ("test_macrl", "test_views_recipes"),
    "finetune": ("test_evals_finetune",),
    "harness": ("test_evals_harness",),
}


@dataclass(frozen=True)
class Mutation:
    """One mistake: in `file`, `old` becomes `new`."""

    group: str
    mistake: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "momentum", "momentum and its complement exchanged", MOMENTUM, "originals, 1 - momentum", "originals, momentum"
    ),
    Mutation(
        "momentum",
        "running statistics averaged too",
        MOMENTUM,
        """*encoder.parameters(), *projector.parameters()]
        copies: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]""",
        """*encoder.parameters(), *(t for t in projector.state_dict().values() if t.is_floating_point())]
        copies: list[Tensor] = [
            *self.encoder.parameters(), *(t for t in self.projector.state_dict().values() if t.is_floating_point())
        ]""",
    ),
    Mutation(
        "momentum",
        "copy in eval mode",
        MOMENTUM,
        "        projection: Tensor =",
        "        self.eval()\n        projection: Tensor =",
    ),
    Mutation(
        "momentum",
        "head is not a copy",
        MOMENTUM,
        "copy.deepcopy(projector)",
        "copy.deepcopy(projector).apply(lambda m: m.reset_parameters() if isinstance(m, nn.Linear) else None)",
    ),
    Mutation(
        "momentum",
        "head does not follow",
        MOMENTUM,
        """*encoder.parameters(), *projector.parameters()]
        copies: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]""",
        """*encoder.parameters()]
        copies: list[Tensor] = [*self.encoder.parameters()]""",
    ),
    Mutation(
        "momentum",
        "copy wants a gradient",
        MOMENTUM,
        "copy.deepcopy(encoder).requires_grad_(False)",
        "copy.deepcopy(encoder)",
    ),
    Mutation(
        "momentum", "original shared, not copied", MOMENTUM, "copy.deepcopy(encoder).requires", "encoder.requires"
    ),
    Mutation("momentum", "visible tokens forgotten", MOMENTUM, "self.encoder(view, visible)", "self.encoder(view)"),
    Mutation(
        "momentum", "momentum rises on a line", MOMENTUM, "(math.cos(math.pi * progress) + 1) / 2", "(1 - progress)"
    ),
    Mutation(
        "momentum",
        "momentum falls",
        MOMENTUM,
        "(math.cos(math.pi * progress) + 1)",
        "(1 - math.cos(math.pi * progress))",
    ),
    Mutation("queue", "first keys stay, not last", QUEUE, "keys[-size:].to", "keys[:size].to"),
    Mutation(
        "queue",
        "position restarts",
        QUEUE,
        "(self.position + len(keys)) % size)",
        "(self.position * 0 + len(keys)) % size)",
    ),
    Mutation(
        "queue",
        "overflow dropped and position reset at the end",
        QUEUE,
        "        self.keys[places[-size:]]",
        "        keys, places = keys[: size - int(self.position)], places[: size - int(self.position)]\n"
        "        self.keys[places[-size:]]",
    ),
    Mutation(
        "queue",
        "position not saved",
        QUEUE,
        "torch.zeros((), dtype=torch.long))",
        "torch.zeros((), dtype=torch.long), persistent=False)",
    ),
    Mutation(
        "queue",
        "keys not saved",
        QUEUE,
        "F.normalize(torch.randn(size, dim), dim=1))",
        "F.normalize(torch.randn(size, dim), dim=1), persistent=False)",
    ),
    Mutation(
        "queue",
        "start normalised over the wrong dimension",
        QUEUE,
        "torch.randn(size, dim), dim=1",
        "torch.randn(size, dim), dim=0",
    ),
    Mutation(
        "split_norm",
        "contiguous parts",
        SPLIT,
        "        parts = images.reshape(",
        "        images = images.view(self.splits, -1, channels, height, width).transpose(0, 1)\n"
        "        parts = images.reshape(",
    ),
    Mutation(
        "split_norm",
        "statistics of the first part",
        SPLIT,
        "mean.view(self.splits, channels).mean(0)",
        "mean.view(self.splits, channels)[0]",
    ),
    Mutation(
        "split_norm",
        "one part",
        SPLIT,
        "        batch, channels, height, width = images.shape",
        "        return super().forward(images)\n        batch, channels, height, width = images.shape",
    ),
    Mutation(
        "split_norm",
        "parts in eval mode",
        SPLIT,
        "        if not self.training:\n            return super().forward(images)\n",
        "",
    ),
    Mutation(
        "split_norm",
        "state of the replaced norm lost",
        SPLIT,
        "            split.load_state_dict(child.state_dict())\n",
        "",
    ),
    Mutation("split_norm", "nested norms skipped", SPLIT, "found = split_batch_norms(child, splits) or found", "pass"),
    Mutation("split_norm", "eps forgotten", SPLIT, "self.momentum or 0.0, self.eps)", "self.momentum or 0.0, 1e-5)"),
    Mutation(
        "restoration",
        "visible patches taken for masked",
        "benchmark/nets/restoration.py",
        "            masked_tokens(features.visible, len(view), self.tokens, view.device),",
        "            1 - masked_tokens(features.visible, len(view), self.tokens, view.device),",
    ),
    Mutation(
        "restoration",
        "weights exchanged",
        "benchmark/nets/restoration.py",
        "self.masked_weight, self.visible_weight = masked_weight, visible_weight",
        "self.visible_weight, self.masked_weight = masked_weight, visible_weight",
    ),
    Mutation(
        "restoration",
        "raw pixels by default",
        "benchmark/nets/restoration.py",
        "standardised: bool = True",
        "standardised: bool = False",
    ),
    Mutation(
        "restoration",
        "offered ratio leaves nothing",
        "benchmark/nets/restoration.py",
        "math.floor(1000 - 1000 / self.tokens) / 1000",
        "round(1 - 1 / self.tokens, 3)",
    ),
    Mutation(
        "attention", "table inverted", "benchmark/nets/attention.py", "set_fused(module, not (", "set_fused(module, ("
    ),
    Mutation("attention", "device ignored", "benchmark/nets/attention.py", 'device.type == "cpu" and ', ""),
    Mutation(
        "attention",
        "setting has no effect",
        "benchmark/nets/attention.py",
        "part.fused_attn = fused",
        "part.fused = fused",
    ),
    Mutation(
        "moco",
        "temperature twice",
        OBJECTIVES,
        "    positive = (queries * keys)",
        "    queries = queries / temperature\n    positive = (queries * keys)",
    ),
    Mutation(
        "moco",
        "positive left out of the denominator",
        OBJECTIVES,
        "    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))",
        "    return (logits[:, 1:].logsumexp(1) - logits[:, 0]).mean()",
    ),
    Mutation(
        "moco",
        "queries not normalised",
        OBJECTIVES,
        "queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)",
        "keys = F.normalize(keys, dim=1)",
    ),
    Mutation(
        "moco",
        "keys pushed before the logits",
        "baselines/moco.py",
        "        return keys\n",
        "        self.queue.push(self.carry(keys)['keys'])\n        return keys\n",
    ),
    Mutation(
        "moco",
        "keys pushed before the backward pass",
        "baselines/moco.py",
        '        return {"keys": F',
        '        self.queue.push(F.normalize(keys, dim=1))\n        return {"keys": F',
    ),
    Mutation("moco", "keys never pushed", "baselines/moco.py", 'self.queue.push(step.carry["keys"])', "pass"),
    Mutation(
        "moco",
        "keys of one view pushed",
        "baselines/moco.py",
        "targets[k].float() for k in self.target_views]",
        "targets[k].float() for k in self.target_views[:1]]",
    ),
    Mutation("moco", "pushed keys not normalised", "baselines/moco.py", "F.normalize(keys, dim=1)}", "keys}"),
    Mutation(
        "moco",
        "queries pushed for keys",
        "baselines/moco.py",
        "keys[k] = self.target(view, ids)\n",
        "keys[k] = online[0].projection.detach() if online else self.target(view, ids)\n",
    ),
    Mutation("moco", "keys left shuffled", "baselines/moco.py", "[order.argsort()]", ""),
    Mutation("moco", "keys shuffled twice", "baselines/moco.py", "[order.argsort()]", "[order]"),
    Mutation(
        "moco", "keys not shuffled", "baselines/moco.py", "            if self.shuffled:", "            if False:"
    ),
    Mutation("moco", "one order for both views", "baselines/moco.py", '("shuffle", k)', '"shuffle"'),
    Mutation(
        "moco",
        "batch norms not split",
        "baselines/moco.py",
        "splits > 1 and split_batch_norms(encoder, splits)",
        "splits > 1",
    ),
    Mutation(
        "moco",
        "directions averaged",
        "baselines/moco.py",
        "for a, b in self.directions]).sum()",
        "for a, b in self.directions]).mean()",
    ),
    Mutation(
        "moco",
        "view contrasted with its own key",
        "baselines/moco.py",
        "(0,), (1,), ((0, 1),)",
        "(0,), (0,), ((0, 0),)",
    ),
    Mutation(
        "moco",
        "momentum for its complement",
        "baselines/moco.py",
        "self.projector, self.momentum)",
        "self.projector, 1 - self.momentum)",
    ),
    Mutation(
        "moco",
        "copy never moves",
        "baselines/moco.py",
        "self.target.follow(self.encoder, self.projector, self.momentum)",
        "pass",
    ),
    Mutation("moco", "batch norm in the head", "baselines/moco.py", "batch_norm=False", "batch_norm=True"),
    Mutation("moco_v3", "factor 2 T forgotten", "baselines/moco_v3.py", "2 * self.temperature * info_nce", "info_nce"),
    Mutation(
        "moco_v3", "factor 2 without T", "baselines/moco_v3.py", "2 * self.temperature * info_nce", "2 * info_nce"
    ),
    Mutation(
        "moco_v3",
        "predictor in the copy",
        "baselines/moco_v3.py",
        "MomentumCopy(self.encoder, self.projector)",
        "MomentumCopy(self.encoder, __import__('torch').nn.Sequential(projector, predictor))",
    ),
    Mutation(
        "moco_v3",
        "momentum constant",
        "baselines/moco_v3.py",
        "cosine_momentum(self.momentum, progress)",
        "self.momentum",
    ),
    Mutation(
        "moco_v3",
        "views contrasted with themselves",
        "baselines/moco_v3.py",
        "prediction, targets[1]) + self.compare(online[1].prediction, targets[0])",
        "prediction, targets[0]) + self.compare(online[1].prediction, targets[1])",
    ),
    Mutation(
        "moco_v3",
        "keys contrasted with all queries",
        "baselines/moco_v3.py",
        "info_nce(prediction, target,",
        "info_nce(target, prediction,",
    ),
    Mutation(
        "moco_v3",
        "projection for prediction",
        "baselines/moco_v3.py",
        "self.compare(online[0].prediction, targets[1])",
        "self.compare(online[0].projection, targets[1])",
    ),
    Mutation(
        "moco_v3", "one direction", "baselines/moco_v3.py", " + self.compare(online[1].prediction, targets[0])", ""
    ),
    Mutation(
        "moco_v3",
        "predictor without last batch norm",
        "baselines/moco_v3.py",
        "layers=2, last_batch_norm=True",
        "layers=2",
    ),
    Mutation(
        "moco_v3",
        "online network for the copy",
        "baselines/moco_v3.py",
        "k: self.target(views[k], None if visible is None else visible[k])",
        "k: online[k].projection.detach()",
    ),
    Mutation(
        "byol",
        "directions averaged",
        "baselines/byol.py",
        "return self.compare(online[0].prediction, targets[1]) + self.compare(online[1].prediction, targets[0])",
        "return (self.compare(online[0].prediction, targets[1]) + self.compare(online[1].prediction, targets[0])) / 2",
    ),
    Mutation(
        "byol",
        "view predicts its own target",
        "baselines/byol.py",
        "prediction, targets[1]) + self.compare(online[1].prediction, targets[0])",
        "prediction, targets[0]) + self.compare(online[1].prediction, targets[1])",
    ),
    Mutation(
        "byol", "half the squared distance", "baselines/byol.py", "2 + 2 * negative_cosine", "1 + negative_cosine"
    ),
    Mutation(
        "byol",
        "no predictor",
        "baselines/byol.py",
        "mlp(projector_width, head_hidden, projector_width, layers=2)",
        "None",
    ),
    Mutation(
        "byol",
        "online network for the copy",
        "baselines/byol.py",
        "k: self.target(views[k], None if visible is None else visible[k])",
        "k: online[k].projection.detach()",
    ),
    Mutation(
        "byol",
        "copy of the predictor",
        "baselines/byol.py",
        "MomentumCopy(self.encoder, self.projector)",
        "MomentumCopy(self.encoder, __import__('torch').nn.Sequential(projector, self.predictor))",
    ),
    Mutation(
        "byol", "momentum constant", "baselines/byol.py", "cosine_momentum(self.momentum, progress)", "self.momentum"
    ),
    Mutation(
        "byol",
        "vectors not normalised",
        OBJECTIVES,
        "-(F.normalize(predictions, dim=1) * F.normalize(targets, dim=1))",
        "-(predictions * targets)",
    ),
    Mutation(
        "byol",
        "targets detached inside the shared loss",
        OBJECTIVES,
        "* F.normalize(targets, dim=1)).sum(1)",
        "* F.normalize(targets.detach(), dim=1)).sum(1)",
    ),
    Mutation(
        "simsiam", "no stop-gradient", "baselines/simsiam.py", "online[k].projection.detach()", "online[k].projection"
    ),
    Mutation(
        "simsiam",
        "gradient stopped on the wrong side",
        "baselines/simsiam.py",
        "return negative_cosine(prediction, target)",
        "return negative_cosine(prediction.detach(), target)",
    ),
    Mutation("simsiam", "sum for mean", "baselines/simsiam.py", "return both / 2", "return both"),
    Mutation(
        "simsiam",
        "predictor's rate decays",
        "baselines/simsiam.py",
        "list(self.predictor.parameters()), scheduled=False",
        "list(self.predictor.parameters())",
    ),
    Mutation(
        "simsiam",
        "all rates constant",
        "baselines/simsiam.py",
        "[p for p in rest if p.requires_grad]",
        "[p for p in rest if p.requires_grad], scheduled=False",
    ),
    Mutation(
        "simsiam",
        "predictor's rate constant after warm-up only",
        "benchmark/training/optim.py",
        '(factor if group["scheduled"] else 1.0)',
        '(factor if group["scheduled"] else min(1.0, progress / self.warmup))',
    ),
    Mutation("simsiam", "projection not standardised", "baselines/simsiam.py", ", last_batch_norm=True", ""),
    Mutation(
        "simsiam",
        "prediction for target",
        "baselines/simsiam.py",
        "online[k].projection.detach()",
        "online[k].prediction.detach()",
    ),
    Mutation(
        "simsiam",
        "view predicts itself",
        "baselines/simsiam.py",
        "prediction, targets[1]) + self.compare(online[1].prediction, targets[0])",
        "prediction, targets[0]) + self.compare(online[1].prediction, targets[1])",
    ),
    Mutation("simsiam", "bias of the prediction forgotten", "baselines/simsiam.py", "layers=2, bias=True", "layers=2"),
    Mutation(
        "mae",
        "mask convention inverted",
        "benchmark/nets/masking.py",
        "torch.ones(batch, tokens, device=device).scatter(1, visible, 0.0)",
        "torch.zeros(batch, tokens, device=device).scatter(1, visible, 1.0)",
    ),
    Mutation(
        "mae", "loss on all patches", "baselines/mae.py", "masked_weight=1.0)", "masked_weight=1.0, visible_weight=1.0)"
    ),
    Mutation(
        "mae",
        "raw pixels as targets",
        "baselines/mae.py",
        "masked_weight=1.0)",
        "masked_weight=1.0, standardised=False)",
    ),
    Mutation(
        "mae",
        "biased variance",
        OBJECTIVES,
        "torch.var_mean(patches, dim=-1, keepdim=True)",
        "torch.var_mean(patches, dim=-1, keepdim=True, correction=0)",
    ),
    Mutation(
        "mae",
        "one mask for the batch",
        "baselines/mae.py",
        'draws.rows(("mask", 0), self.restore.tokens)',
        'draws.rows(("mask", 0), self.restore.tokens)[:1].expand(len(views[0]), -1)',
    ),
    Mutation(
        "mae",
        "encoder sees what is masked",
        "baselines/mae.py",
        "self.encoder(views[0], visible)",
        "self.encoder(views[0])",
    ),
    Mutation(
        "mae",
        "visible ratio for mask ratio",
        "baselines/mae.py",
        "self.restore.tokens), self.mask_ratio)",
        "self.restore.tokens), 1 - self.mask_ratio)",
    ),
    Mutation("mae", "pixels summed", "baselines/mae.py", "masked_weight=1.0)", "masked_weight=1.0, reduction='sum')"),
    Mutation("mae", "own draw of masks", "baselines/mae.py", '("mask", 0)', '"mask"'),
    Mutation("mae", "nothing masked accepted", "baselines/mae.py", "if mask_ratio == 0:", "if mask_ratio < 0:"),
    Mutation("simclr", "similarity with itself kept", OBJECTIVES, '.masked_fill(itself, float("-inf"))', ""),
    Mutation(
        "simclr", "temperature twice", OBJECTIVES, "    n = len(z)\n", "    z = z / temperature**0.5\n    n = len(z)\n"
    ),
    Mutation(
        "simclr",
        "sum of both halves",
        OBJECTIVES,
        "return F.cross_entropy(logits, torch.arange(n, device=z.device).roll(n // 2))",
        "return 2 * F.cross_entropy(logits, torch.arange(n, device=z.device).roll(n // 2))",
    ),
    Mutation("simclr", "wrong positives", OBJECTIVES, "roll(n // 2))", "roll(1))"),
    Mutation(
        "simclr",
        "negatives of the other view only",
        "baselines/simclr.py",
        "return nt_xent(online[0]",
        "return info_nce(online[0]",
    ),
    Mutation(
        "simclr", "stop-gradient", "baselines/simclr.py", "targets[1], temperature", "targets[1].detach(), temperature"
    ),
    Mutation(
        "simclr",
        "view against itself",
        "baselines/simclr.py",
        "nt_xent(online[0].projection, targets[1]",
        "nt_xent(online[0].projection, targets[0]",
    ),
    Mutation(
        "simclr",
        "batch norm of each view by itself",
        "baselines/simclr.py",
        "features.visible, self.projector(features.pooled))",
        "features.visible, torch.cat([self.projector(half) for half in features.pooled.chunk(len(views))]))",
    ),
    Mutation("barlow_twins", "unbiased variance", OBJECTIVES, "z.var(0, unbiased=False)", "z.var(0)"),
    Mutation(
        "barlow_twins",
        "diagonal counted as redundancy",
        OBJECTIVES,
        "correlation.square().sum() - diagonal.square().sum()",
        "correlation.square().sum()",
    ),
    Mutation("barlow_twins", "not divided by the batch", OBJECTIVES, "_standardise(b) / len(a)", "_standardise(b)"),
    Mutation(
        "barlow_twins",
        "correlation over images",
        OBJECTIVES,
        "_standardise(a).T @ _standardise(b) / len(a)",
        "_standardise(a) @ _standardise(b).T / len(a)",
    ),
    Mutation("barlow_twins", "stop-gradient", "baselines/barlow_twins.py", "targets[1])", "targets[1].detach())"),
    Mutation("barlow_twins", "view against itself", "baselines/barlow_twins.py", "targets[1])", "targets[0])"),
    Mutation(
        "barlow_twins",
        "both directions summed",
        "baselines/barlow_twins.py",
        "return self.compare(online[0].projection, targets[1])",
        "return self.compare(online[0].projection, targets[1]) + self.compare(online[1].projection, targets[0])",
    ),
    Mutation("barlow_twins", "two layers", "baselines/barlow_twins.py", "layers=3", "layers=2"),
    Mutation(
        "mrcl",
        "second view restored from the first's features",
        "baselines/mrcl.py",
        "self.restore(views[k], branch.features)",
        "self.restore(views[k], online[0].features)",
    ),
    Mutation(
        "mrcl", "one mask for both views", "baselines/mrcl.py", 'draws.rows(("mask", k)', 'draws.rows(("mask", 0)'
    ),
    Mutation(
        "mrcl",
        "weights exchanged",
        "baselines/mrcl.py",
        "            masked_weight=masked_weight,\n            visible_weight=visible_weight,",
        "            masked_weight=visible_weight,\n            visible_weight=masked_weight,",
    ),
    Mutation(
        "mrcl",
        "views averaged",
        "baselines/mrcl.py",
        "for k, branch in online.items()]).sum()",
        "for k, branch in online.items()]).mean()",
    ),
    Mutation(
        "mrcl",
        "base sees whole views",
        "baselines/mrcl.py",
        "self.base.passes(views, draws, visible)",
        "self.base.passes(views, draws)",
    ),
    Mutation("mrcl", "base's loss forgotten", "baselines/mrcl.py", "Step(base + restored,", "Step(restored,"),
    Mutation("mrcl", "base's keys not carried", "baselines/mrcl.py", ", self.base.carry(targets))", ")"),
    Mutation(
        "mrcl",
        "target sees whole views",
        "benchmark/method.py",
        "self.targets(views, online, draws, visible)",
        "self.targets(views, online, draws)",
    ),
    Mutation(
        "mrcl",
        "base's copy does not move",
        "benchmark/method.py",
        "            self.base.after_step(progress)",
        "            pass",
    ),
    Mutation(
        "mrcl",
        "decoder built before the base",
        "benchmark/method.py",
        "        self.base = None if base is None else base(encoder)",
        "        torch.rand(3)\n        self.base = None if base is None else base(encoder)",
    ),
    Mutation("mixing", "mask inverted", MIXING, "own = ~_mend(", "own = _mend("),
    Mutation("mixing", "empty and full masks kept", MIXING, "~_mend(replaced, uniform[1])", "~replaced"),
    Mutation(
        "mixing",
        "empty blocked masks kept",
        MIXING,
        "own = ~_mend(replaced, uniform[1])",
        'own = ~(replaced if self.pattern == "blocked" else _mend(replaced, uniform[1]))',
    ),
    Mutation("mixing", "a cell of every mask turned", MIXING, "alike & (cells ==", "(cells =="),
    Mutation("mixing", "always the first cell turned", MIXING, "(uniform * replaced.numel()).floor()", "0"),
    Mutation("mixing", "rectangles of at least 4 cells", MIXING, ".clamp(1, 4)", ".clamp(4, 4)"),
    Mutation(
        "mixing",
        "ratio at the middle of its range",
        MIXING,
        "(self.high - self.low) * uniform[0]",
        "(self.high - self.low) * 0.5",
    ),
    Mutation("mixing", "more cells than asked", MIXING, " & ((block & ~covered).sum() <= room)", ""),
    Mutation("mixing", "squares only", MIXING, "(0.5 - uniform[:, 1])", "(0 * uniform[:, 1])"),
    Mutation("mixing", "wide rectangles only", MIXING, "(0.5 - uniform[:, 1])", "(1 - uniform[:, 1])"),
    Mutation(
        "mixing",
        "all rectangles at the left",
        MIXING,
        "draw[2:, None] *",
        "draw[2:, None] * torch.tensor([[1.0], [0.0]]) *",
    ),
    Mutation("mixing", "last place never reached", MIXING, "grid - size + 1", "grid - size"),
    Mutation(
        "mixing",
        "last rectangle only",
        MIXING,
        "covered = covered | (block & fits)",
        "covered = torch.where(fits, block, covered)",
    ),
    Mutation("mixing", "cells tiled over the image", MIXING, "* self.grid // self.side", "% self.grid"),
    Mutation("mixing", "kept share for replaced share", MIXING, "(uniform[2:] < ratio)", "(uniform[2:] >= ratio)"),
    Mutation(
        "mixing",
        "impossible ratios accepted",
        MIXING,
        "if not 0 < self.low <= self.high < 1:",
        "if self.low > self.high:",
    ),
    Mutation("mixing", "side of the square for its area", MIXING, "(1 - uniform[0]).sqrt()", "(1 - uniform[0])"),
    Mutation("mixing", "square twice as long", MIXING, ".floor() / 2).floor()", ".floor()).floor()"),
    Mutation("mixing", "own share inside the square", MIXING, "return 1 - (inside", "return (inside"),
    Mutation("mixing", "square on the diagonal", MIXING, "uniform[1:]).floor()", "uniform[1:2]).floor().expand(2)"),
    Mutation("mixmask", "partner for its inverse", MIXMASK, "own.mean(), partner.argsort())", "own.mean(), partner)"),
    Mutation(
        "mixmask",
        "images paired with themselves",
        MIXMASK,
        "torch.arange(len(view) - 1, -1, -1, device=view.device)",
        "torch.arange(len(view), device=view.device)",
    ),
    Mutation(
        "mixmask",
        "nominal share for the actual one",
        MIXMASK,
        "own.mean(), partner.argsort())",
        "own.new_tensor(0.5), partner.argsort())",
    ),
    Mutation(
        "mixmask",
        "shares exchanged",
        MIXMASK,
        "mixed.own_share * own + (1 - mixed.own_share) * other",
        "(1 - mixed.own_share) * own + mixed.own_share * other",
    ),
    Mutation("mixmask", "mixtures not put back", MIXMASK, "prediction[mixed.inverse]", "prediction"),
    Mutation(
        "mixmask",
        "targets of the mixture",
        MIXMASK,
        "self.base.encode([mixed.view])\n",
        "self.base.encode([mixed.view])\n"
        "            targets = self.base.targets([mixed.view] * 2, {0: branch, 1: branch}, draws)\n",
    ),
    Mutation("mixmask", "second view mixed", MIXMASK, "mixer(views[0], draws", "mixer(views[1], draws"),
    Mutation("mixmask", "base's loss forgotten", MIXMASK, "loss, logs = base, {", "loss, logs = 0 * base, {"),
    Mutation("mixmask", "last term only", MIXMASK, "loss = loss + self._term", "loss = base + self._term"),
    Mutation("mixmask", "targets detached", MIXMASK, "targets[k], mixed)", "targets[k].detach(), mixed)"),
    Mutation(
        "mixmask",
        "all targets whatever is asked",
        MIXMASK,
        "self.compared = target_views",
        "self.compared = self.base.target_views",
    ),
    Mutation(
        "mixmask",
        "base's keys not carried",
        MIXMASK,
        "(loss - base).detach()}, self.base.carry(targets))",
        "(loss - base).detach()})",
    ),
    Mutation(
        "mixmask",
        "mixture and clean view in one forward",
        MIXMASK,
        "(branch,) = self.base.encode([mixed.view])",
        "_, branch = self.base.encode([views[0], mixed.view])",
    ),
    Mutation("mixmask", "one permutation for all mixers", MIXMASK, '("mixer", place, "partner")', '"partner"'),
    Mutation(
        "mixmask",
        "one mask for all mixers",
        MIXMASK,
        'draws.shared(("mixer", place, "mask"), self.mask.numbers))\n        return _mix',
        'draws.shared("mask", self.mask.numbers))\n        return _mix',
    ),
    Mutation("mixmask", "erased pixels kept", MIXMASK, "erased = own * view", "erased = (1 - own) * view"),
    Mutation(
        "mixmask",
        "erasing weighs by the share",
        MIXMASK,
        "            return own\n",
        "            return mixed.own_share * own\n",
    ),
    Mutation("mixmask", "noise on what is kept", MIXMASK, "(1 - own) * (-2", "(-2"),
    Mutation(
        "mixmask",
        "noise uniform",
        MIXMASK,
        "(-2 * torch.log1p(-radius)).sqrt() * (2 * torch.pi * angle).cos()",
        "(radius - 0.5)",
    ),
    Mutation("mixmask", "blend and square exchanged", MIXMASK, "uniform[0] < self", "uniform[0] >= self"),
    Mutation(
        "mixmask",
        "share of the square before clipping",
        MIXMASK,
        "expand_as(box), box)\n        return _mix(view, own, self.permutation, draws, place)",
        "expand_as(box), box)\n        mixed = _mix(view, own, self.permutation, draws, place)\n"
        "        return Mixed(mixed.view, uniform[1], mixed.inverse)",
    ),
    Mutation(
        "macrl", "key masked as the query", MACRL, "enumerate(self.mask_ratios)", "enumerate(self.mask_ratios[:1] * 2)"
    ),
    Mutation(
        "macrl", "ratios exchanged", MACRL, "enumerate(self.mask_ratios)", "enumerate(reversed(self.mask_ratios))"
    ),
    Mutation("macrl", "one draw for both masks", MACRL, '("mask", k)', '("mask", 0)'),
    Mutation("macrl", "key's view restored", MACRL, "self.restore(views[0],", "self.restore(views[1],"),
    Mutation(
        "macrl",
        "contrast of whole views",
        MACRL,
        "self.base.passes(views, draws, visible)",
        "self.base.passes(views, draws)",
    ),
    Mutation("macrl", "squared error by default", MACRL, '= "l1",', '= "l2",'),
    Mutation("macrl", "kind of error ignored", MACRL, "            kind=kind,\n", ""),
    Mutation("macrl", "raw pixels by default", MACRL, "standardised: bool = True", "standardised: bool = False"),
    Mutation(
        "macrl",
        "weights of the errors exchanged",
        MACRL,
        "            masked_weight=masked_weight,\n            visible_weight=visible_weight,",
        "            masked_weight=visible_weight,\n            visible_weight=masked_weight,",
    ),
    Mutation(
        "macrl", "contrast not weighted", MACRL, "self.contrast_weight * contrast + restored", "contrast + restored"
    ),
    Mutation(
        "macrl",
        "contrast's weight on everything",
        MACRL,
        "self.contrast_weight * contrast + restored",
        "self.contrast_weight * (contrast + restored)",
    ),
    Mutation("macrl", "keys not carried", MACRL, ", self.base.carry(targets))", ")"),
    Mutation("macrl", "nominal ratio recorded", MACRL, "1 - kept(tokens, ratio) / tokens)", "ratio)"),
    Mutation("macrl", "symmetric base accepted", MACRL, "if self.base.directions != ((0, 1),):", "if False:"),
    Mutation(
        "macrl",
        "key's ratio unchecked",
        MACRL,
        'self.restore.check(key_mask_ratio, "MACRL.key_mask_ratio")',
        "key_mask_ratio",
    ),
    Mutation(
        "macrl",
        "key branch with gradient",
        MOMENTUM,
        """        self.projector = copy.deepcopy(projector).requires_grad_(False)

    @torch.no_grad()
""",
        "        self.projector = copy.deepcopy(projector)\n\n",
    ),
    Mutation(
        "macrl",
        "weak query and strong key",
        "benchmark/views/recipes.py",
        "return symmetric_blur(limits)[0], crop_flip(limits)[0]",
        "return crop_flip(limits)[0], symmetric_blur(limits)[0]",
    ),
    Mutation(
        "mimco",
        "teacher in train mode",
        "benchmark/nets/frozen.py",
        "return super().train(False)",
        "return super().train(mode)",
    ),
    Mutation(
        "mimco",
        "teacher wants a gradient",
        "benchmark/nets/frozen.py",
        "self.encoder = encoder.requires_grad_(False)",
        "self.encoder = encoder",
    ),
    Mutation(
        "mimco",
        "patch negatives from another image",
        "benchmark/objectives.py",
        "keys.transpose(1, 2)",
        "keys.roll(1, 0).transpose(1, 2)",
    ),
    Mutation(
        "mimco",
        "temperature applied twice to patches",
        "benchmark/objectives.py",
        "logits = queries @ keys.transpose(1, 2) / _positive(temperature)",
        "logits = queries @ keys.transpose(1, 2) / _positive(temperature) ** 2",
    ),
    Mutation(
        "mimco",
        "mask convention inverted",
        "baselines/mimco.py",
        "torch.zeros(len(view), (self.squares * self.mask_unit) ** 2, device=view.device).scatter(1, ids, 1.0)",
        "torch.ones(len(view), (self.squares * self.mask_unit) ** 2, device=view.device).scatter(1, ids, 0.0)",
    ),
    Mutation(
        "mimco",
        "teacher's patches in another order",
        "baselines/mimco.py",
        "pick(seen.tokens, ids), temperature",
        "pick(seen.tokens, ids.flip(1)), temperature",
    ),
    Mutation(
        "mimco",
        "image loss at the patches' temperature",
        "baselines/mimco.py",
        "temperature=self.image_temperature",
        "temperature=self.patch_temperature",
    ),
    Mutation(
        "mimco",
        "weights exchanged",
        "baselines/mimco.py",
        "self.patch_weight * patches + self.image_weight * images",
        "self.image_weight * patches + self.patch_weight * images",
    ),
    Mutation(
        "mimco",
        "floor of the squares",
        "benchmark/nets/masking.py",
        "math.ceil(rows * columns * ratio - 1e-9)",
        "math.floor(rows * columns * ratio + 1e-9)",
    ),
    Mutation(
        "mimco",
        "squares side by side overlap",
        "benchmark/nets/masking.py",
        "chosen % columns * unit",
        "chosen % columns",
    ),
    Mutation(
        "mimco",
        "one mask for all images",
        "baselines/mimco.py",
        'draws.rows("mask", self.squares, self.squares)',
        'draws.shared("mask", 1, self.squares, self.squares).expand(len(view), -1, -1)',
    ),
    Mutation(
        "teacher",
        "student gets the whole budget",
        "benchmark/session.py",
        "return whole.without(self.teacher.steps, self.teacher.price)",
        "return whole",
    ),
    Mutation(
        "teacher",
        "untrained teacher handed over",
        "benchmark/experiment.py",
        "session.training(checkpoint_seconds, teacher.encoder)",
        "session.training(checkpoint_seconds)",
    ),
    Mutation(
        "teacher", "teacher not charged", "benchmark/experiment.py", "teacher.ledger if teacher else None", "None"
    ),
    Mutation(
        "teacher",
        "teacher's name forgets its settings",
        "benchmark/session.py",
        '("teacher", "encoder", "limits", "rate_factor")',
        '("encoder", "limits", "rate_factor")',
    ),
    Mutation(
        "teacher",
        "foreign weights in the closed division",
        "benchmark/experiment.py",
        '"open" if experiment.teacher_weights else "closed"',
        '"closed"',
    ),
    Mutation(
        "teacher",
        "reuse counted as an interruption",
        "benchmark/training/loop.py",
        "self.ledger.resumes += self.step < self.steps",
        "self.ledger.resumes += 1",
    ),
    Mutation(
        "teacher",
        "foreign weights not in the key",
        "benchmark/session.py",
        'self.dataset.fingerprint + ("" if taught is None else digest_of(taught))',
        "self.dataset.fingerprint",
    ),
    Mutation(
        "teacher",
        "student's seed is the teacher's",
        "benchmark/session.py",
        'seed=derive(root.seed, "teacher")',
        "seed=root.seed",
    ),
    Mutation(
        "moco",
        "keys' batch norms not split",
        "baselines/moco.py",
        """        self.shuffled = splits > 1 and split_batch_norms(encoder, splits)
        projector = mlp(encoder.width, encoder.width, projector_width, layers=2, batch_norm=False, bias=True)
        super().__init__(encoder, projector)
        self.target = MomentumCopy(self.encoder, self.projector)
""",
        """        projector = mlp(encoder.width, encoder.width, projector_width, layers=2, batch_norm=False, bias=True)
        super().__init__(encoder, projector)
        self.target = MomentumCopy(self.encoder, self.projector)
        self.shuffled = splits > 1 and split_batch_norms(encoder, splits)
""",
    ),
    Mutation(
        "momentum",
        "quarter of a cosine",
        MOMENTUM,
        "(math.cos(math.pi * progress) + 1) / 2",
        "math.cos(math.pi * progress / 2)",
    ),
    Mutation(
        "simsiam",
        "projector not trained",
        "baselines/simsiam.py",
        "rest = [*self.encoder.parameters(), *self.projector.parameters()]",
        "rest = [*self.encoder.parameters()]",
    ),
    Mutation(
        "encoders",
        "positions in the order of what is kept",
        ENCODERS,
        """        tokens = tokens + net.pos_embed[:, 1:]
        if visible is not None:
            tokens = pick(tokens, visible)
""",
        """        if visible is not None:
            tokens = pick(tokens, visible)
        tokens = tokens + net.pos_embed[:, 1 : 1 + tokens.shape[1]]
""",
    ),
    Mutation(
        "encoders",
        "mask tokens without a position",
        ENCODERS,
        """        if fill is not None:
            mask, token = fill
            tokens = torch.where(mask.bool()[..., None], token.to(tokens.dtype), tokens)
        tokens = tokens + net.pos_embed[:, 1:]
""",
        """        tokens = tokens + net.pos_embed[:, 1:]
        if fill is not None:
            mask, token = fill
            tokens = torch.where(mask.bool()[..., None], token.to(tokens.dtype), tokens)
""",
    ),
    Mutation("decoder", "last patch dropped for the class token", "benchmark/nets/decoder.py", "[:, 1:]", "[:, :-1]"),
    Mutation(
        "mrcl", "target sees the other view's mask", "baselines/byol.py", "else visible[k])", "else visible[1 - k])"
    ),
    Mutation(
        "mrcl",
        "base's groups merged",
        "benchmark/method.py",
        "        if self.base is None:\n            return super().param_groups()",
        "        if True:\n            return super().param_groups()",
    ),
    Mutation("mrcl", "reduction ignored", MRCL, "            reduction=reduction,\n", ""),
    Mutation("mrcl", "raw pixels never", MRCL, "            standardised=standardised,\n", ""),
    Mutation(
        "mixmask",
        "square's share is the draw of the kind",
        MIXMASK,
        "box_map(uniform[1:], self",
        "box_map(uniform[:3], self",
    ),
    Mutation(
        "mixmask",
        "Un-Mix pairs in reverse only",
        MIXMASK,
        "uniform[1].expand_as(box), box)\n        return _mix(view, own, self.permutation,",
        "uniform[1].expand_as(box), box)\n        return _mix(view, own, 'reverse',",
    ),
    Mutation(
        "mixmask",
        "pattern of mixtures ignored",
        MIXMASK,
        "pattern=pattern, ratio=mask_ratio)\n        self.permutation",
        "pattern='discrete', ratio=mask_ratio)\n        self.permutation",
    ),
    Mutation(
        "mixmask",
        "pattern of erasing ignored",
        MIXMASK,
        "pattern=pattern, ratio=mask_ratio)\n        self.fill",
        "pattern='discrete', ratio=mask_ratio)\n        self.fill",
    ),
    Mutation(
        "mixmask",
        "erased cells the same for all mixers",
        MIXMASK,
        '("mixer", place, "mask"), self.mask.numbers))\n        erased',
        '("mixer", 0, "mask"), self.mask.numbers))\n        erased',
    ),
    Mutation("mixmask", "one box for all mixers", MIXMASK, '("mixer", place, "box")', '("mixer", 0, "box")'),
    Mutation(
        "mixmask", "noise of the mask's numbers", MIXMASK, '("mixer", place, "noise")', '("mixer", place, "mask")'
    ),
    Mutation(
        "mixmask",
        "one noise for all images",
        MIXMASK,
        'draws.rows(("mixer", place, "noise"), 2, *view.shape[1:]).unbind(1)',
        'draws.shared(("mixer", place, "noise"), 2, *view.shape[1:]).unbind(0)',
    ),
    Mutation("macrl", "raw pixels never", MACRL, "            standardised=standardised,\n", ""),
    Mutation(
        "mimco",
        "unit length over patches",
        OBJECTIVES,
        "F.normalize(queries, dim=2), F.normalize(keys, dim=2)",
        "F.normalize(queries), F.normalize(keys)",
    ),
    Mutation(
        "finetune",
        "images never mixed",
        CLASSIFIER,
        "label_smoothing=recipe.smoothing,",
        "prob=0.0, label_smoothing=recipe.smoothing,",
    ),
    Mutation(
        "finetune",
        "mixup and cutmix exchanged",
        CLASSIFIER,
        "Mixup(recipe.mixup, recipe.cutmix,",
        "Mixup(recipe.cutmix, recipe.mixup,",
    ),
    Mutation(
        "finetune",
        "labels mixed, images not",
        CLASSIFIER,
        "images, targets = self.mix(images, labels)",
        "_, targets = self.mix(images * 1, labels)",
    ),
    Mutation("finetune", "no RandAugment", CLASSIFIER, "            self.recipe.magnitude,\n", "            0.0,\n"),
    Mutation(
        "finetune",
        "no path dropped",
        CLASSIFIER,
        "        drop_paths_(self.classifier.encoder, recipe.drop_path)\n",
        "",
    ),
    Mutation("finetune", "looks in train mode", CLASSIFIER, "        self.classifier.eval()\n", ""),
    Mutation(
        "finetune",
        "looks not normalised",
        CLASSIFIER,
        "normalise(images.float() / 255, self.network.mean, self.network.std)",
        "images.float() / 255",
    ),
    Mutation(
        "finetune",
        "one rate for all groups",
        CLASSIFIER,
        'group["lr"] = rate * group["scale"]',
        'group["lr"] = rate',
    ),
    Mutation(
        "finetune",
        "seconds of the last step only",
        CLASSIFIER,
        "        self.step += 1\n        self.seconds +=",
        "        self.step += 1\n        self.seconds =",
    ),
    Mutation(
        "finetune",
        "seconds lost in an interruption",
        CLASSIFIER,
        "        self.step, self.seconds, self.looks, self.times = (",
        "        self.step, _, self.looks, self.times = (",
    ),
    Mutation(
        "harness", "network of the data's statistics", HARNESS, "        mean=mean,\n", "        mean=dataset.mean,\n"
    ),
    Mutation(
        "harness",
        "network tested on train",
        HARNESS,
        "        test=dataset.test.images,\n        mean",
        "        test=dataset.train.images,\n        mean",
    ),
    Mutation(
        "harness",
        "projections of any head kept",
        HARNESS,
        ' | (projector.state_dict(prefix="projector.") if projector else {})',
        "",
    ),
    Mutation("harness", "features of any layers kept", HARNESS, "repr(encoder), mean", "mean"),
    Mutation("harness", "limits of views ignored", HARNESS, "limits.apply(View(crop_scale=(0.08, 1.0)))", "View()"),
    Mutation("harness", "flags not recorded", HARNESS, "list(ranking.flags)", "[]"),
    Mutation("harness", "kernel of training kept", HARNESS, 'choose_attention(encoder, device, "float32")', "pass"),
)


def test(tree: Path, group: str) -> tuple[int, str]:
    """Run the tests of a group in `tree`; return pytest's exit code and the first failure or the end of its output."""
    files = [f"tests/{name}.py" for name in TESTS[group]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    fresh = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # a cached module of the same second and size would be stale
    run = subprocess.run(command, cwd=tree, env=fresh, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) \S*?tests/(\S+)", run.stdout, re.MULTILINE)
    return run.returncode, failed[1] if failed else run.stdout[-2000:]


def plant(tree: Path, mutation: Mutation) -> tuple[int, str]:
    """Run the tests of a mutation's group with its mistake in `tree`, which is left as it was."""
    path = tree / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.mistake}: {mutation.file} holds its text {text.count(mutation.old)} times, not once."
        )
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        return test(tree, mutation.group)
    finally:
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(TESTS)}; all by default")
    groups = parser.parse_args().groups or list(TESTS)
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "results")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for group in groups:
            code, output = test(tree, group)
            if code:
                raise SystemExit(f"Without any mutation the tests of {group} fail:\n{output}")
        for number, mutation in enumerate(MUTATIONS, 1):
            if mutation.group not in groups:
                continue
            code, failed = plant(tree, mutation)
            if code not in (0, 1):
                raise SystemExit(f"M{number} {mutation.mistake}: pytest ended with {code}:\n{failed}")
            survived += code == 0
            verdict = f"caught    {failed}" if code else "SURVIVED"
            print(f"M{number:<4}{mutation.group:<13} {mutation.mistake:<48} {verdict}", flush=True)
    print(f"{survived} survived")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
