"""What moved between the outcomes of two trees, and whether a raised version explains it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.errors import CheckError
from benchmark.report.cells import PRETRAINING
from benchmark.report.code import VersionedClass

LOSS, WEIGHTS, IMAGES = 1e-5, 1e-4, 1e-3
"""What a Minor may move: losses and weights, relative, and the classes that are predicted, as a share of the images.

Other kernels for the same formulas (AVX2 in place of AVX-512) move losses by 2e-7, weights by 2e-5 and no class.
"""


@dataclass(frozen=True)
class Outcome:
    """What a command wrote: its record, the metrics of its floors, losses by step, encoder and predicted classes."""

    record: Mapping[str, Any] = field(default_factory=dict)
    floors: Mapping[str, Any] = field(default_factory=dict)
    losses: Sequence[float | None] = ()
    encoder: Mapping[str, np.ndarray] = field(default_factory=dict)
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Move:
    """A part whose numbers moved, by what, whether a Minor is enough, and the versions of which one must be raised."""

    part: str
    what: str
    is_small: bool
    causes: frozenset[str]


def compare(old: Outcome, new: Outcome, known: Mapping[str, VersionedClass]) -> list[Move]:
    """Return what moved in one job. The scores of an encoder that moved are not compared, those of its floors are."""
    text, name = old.record["config"]["text"], old.record["method"]["name"]
    encoder = old.record["encoder"]["name"]
    evaluations = named(re.findall(r"^experiment\.evaluations = .*", text, re.MULTILINE)[-1])
    evaluated = ", ".join(evaluations)
    if new.failure:
        return [Move(f"{name} on {encoder}, {evaluated}", f"does not run: {new.failure}", False, frozenset())]
    moves = []
    subjects: dict[str, tuple[Any, ...]] = {
        f"floor '{floor}'": (metrics, new.floors.get(floor, {}), {}, {}) for floor, metrics in old.floors.items()
    }
    if found := training_moved(old, new):
        moves.append(Move(f"pretraining of {name} on {encoder}", *found, causes(named(text), known, "baselines/")))
    else:
        subjects["encoder"] = old.record["metrics"], new.record["metrics"], old.predictions, new.predictions
    for subject, scores in subjects.items():
        if found := scores_moved(*scores):
            moves.append(Move(f"{evaluated} of the {subject}", *found, causes(evaluations, known, "benchmark/")))
    return moves


def training_moved(old: Outcome, new: Outcome) -> tuple[str, bool] | None:
    """Say by how much pretraining moved, and whether a Minor is enough; None if its final state is the same."""
    if old.record["training"]["digest"] == new.record["training"]["digest"]:
        return None
    shapes = [{name: tensor.shape for name, tensor in side.encoder.items()} for side in (old, new)]
    if shapes[0] != shapes[1] or len(old.losses) != len(new.losses):
        return "another number of steps, or other tensors in the encoder", False
    loss = max(_distance([a], [b]) for a, b in zip(old.losses, new.losses, strict=True))
    weights = _distance(*(_weights(side.encoder) for side in (old, new)))
    share = _share_of_classes(old.predictions, new.predictions)
    what = f"losses by {loss:.1e} and the encoder by {weights:.1e}, relative, and {share:.2%} of the predicted classes"
    if not (loss or weights or share):
        what = "the digest of the final state, not losses, weights and predictions"
    return what, loss <= LOSS and weights <= WEIGHTS and share <= IMAGES


def _weights(encoder: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return weights and running statistics, without biases and gains.

    A bias before a normalisation has no gradient but rounding, of which Adam makes a full step in a random direction.
    """
    kept = [tensor for name, tensor in encoder.items() if tensor.ndim > 1 or ".running_" in name]
    return np.concatenate([tensor.ravel() for tensor in kept])


def _distance(old: Any, new: Any) -> float:
    """Return the length of the difference relative to the old vector's; infinite where a number is missing."""
    before, after = np.asarray(old, float), np.asarray(new, float)
    if np.array_equal(before, after, equal_nan=True):
        return 0.0
    distance = np.linalg.norm(after - before) / np.linalg.norm(before)
    return float(distance) if np.isfinite(distance) else float("inf")


def _share_of_classes(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> float:
    """Return the largest share of the test images, over the evaluations, for which another class is predicted."""
    if {name: classes.shape for name, classes in old.items()} != {name: classes.shape for name, classes in new.items()}:
        return 1.0
    return max((float(np.mean(classes[..., 0] != new[name][..., 0])) for name, classes in old.items()), default=0.0)


def scores_moved(old: Any, new: Any, old_classes: Any, new_classes: Any) -> tuple[str, bool] | None:
    """Say which score moved most, and whether a Minor is enough; None if all scores and predictions are the same."""
    before, after = _leaves(old), _leaves(new)
    if before.keys() != after.keys():
        return f"on one side only: {', '.join(sorted(before.keys() ^ after.keys())[:3])}", False
    share = _share_of_classes(old_classes, new_classes)
    others = [name for name in before if before[name] != after[name]]
    if not others and not share and all(np.array_equal(a, new_classes[name]) for name, a in old_classes.items()):
        return None
    sizes = {name: _change(before[name], after[name]) for name in others if ".choices." not in name}
    worst = max(sizes, key=lambda name: sizes[name], default=others[0] if others else None)
    what = [f"{worst} from {before[worst]} to {after[worst]}"] if worst else []
    what += [f"{share:.2%} of the predicted classes"] if old_classes else []
    return " and ".join(what), max([share, *sizes.values()]) <= IMAGES


def _change(old: Any, new: Any) -> float:
    return abs(old - new) if isinstance(old, int | float) and isinstance(new, int | float) else float("inf")


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Return the numbers and texts of nested metrics by their path, without versions and measured seconds."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = (_leaves(part, f"{name}.{key}" if name else str(key)) for key, part in items)
        return {path: leaf for part in parts for path, leaf in part.items()}
    return {} if re.search(r"\.version$|\.seconds_", name) else {name: value}


def named(text: str) -> list[str]:
    """Return the classes and functions that a gin text refers to, without scope and module."""
    return [name.rpartition(".")[2] for name in re.findall(r"@(?:\w+/)*([\w.]+)", text)]


def causes(names: Iterable[str], known: Mapping[str, VersionedClass], folder: str) -> frozenset[str]:
    """Return whose version may explain a move: pretraining, and the named classes of a folder with their bases."""
    found, waiting = {PRETRAINING}, list(names)
    while waiting:
        name = waiting.pop()
        if name in known and known[name].file.startswith(folder) and name not in found:
            found.add(name)
            waiting += known[name].bases
    return frozenset(found)


def verdict(
    moves: Iterable[Move], old: Mapping[str, str], new: Mapping[str, str], known: Mapping[str, VersionedClass]
) -> str:
    """Return what to print where every move has its version raised; raise CheckError for the others."""
    worst: dict[str, Move] = {}
    for move in moves:
        if move.part not in worst or worst[move.part].is_small:
            worst[move.part] = move
    lines = {
        move: f"{move.part}: {move.what}. Needs a raised {'Minor' if move.is_small else 'Major'} of "
        f"{' or '.join(sorted(move.causes, key=lambda name: (name == PRETRAINING, name))) or 'nothing: mend it'}"
        for move in worst.values()
    }
    missing = [move for move in lines if not any(_is_raised(old, new, name, move.is_small) for name in move.causes)]
    for move, line in lines.items():
        if move not in missing:
            print(f"raised: {line}")
    if not missing:
        return "All numbers are those of the published code." if not lines else "All that moved has its version raised."
    places = [
        f"{name} is {new.get(name, '1.0')}: "
        + (f"`version` in {known[name].file}" if name in known else "PRETRAINING_VERSION in benchmark/__init__.py")
        for name in sorted({name for move in missing for name in move.causes})
    ]
    raise CheckError(
        f"{len(missing)} parts moved without a raised version:\n  "
        + "\n  ".join([*(lines[move] for move in missing), *places])
        + "\nRaise the narrowest version that explains the change. If no number should have moved, mend the code. "
        "Evaluations are compared on an encoder that the published code trained."
    )


def _is_raised(old: Mapping[str, str], new: Mapping[str, str], name: str, is_small: bool) -> bool:
    before, after = ([int(part) for part in side.get(name, "1.0").split(".")] for side in (old, new))
    return after > before if is_small else after[0] > before[0]
