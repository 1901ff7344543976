"""Features on disk: extracted once per encoder and data, and never taken for those of another."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.data.pixels import Pixels
from benchmark.data.streaming import ahead
from benchmark.storage.digest import digest
from benchmark.storage.files import written_whole

Features = dict[str, Tensor]


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features. `origin` is all that they depend on but the images: weights, code, preparation."""

    folder: Path
    origin: tuple[object, ...]

    def get(self, images: Pixels, labels: Tensor, make: Callable[[], Features]) -> Features:
        """Return the features of these images in their order, made where the folder has none.

        A file says to which labels its rows belong; one that is damaged, or says otherwise, is made anew.
        """
        belongs = digest({"labels": labels})
        name = hashlib.sha256(repr((self.origin, _content(images))).encode()).hexdigest()
        path = self.folder / f"{name[:32]}.safetensors"
        found = _read(path, belongs)
        if found is None:
            found = make()
            with written_whole(path) as partial:
                save_file(found, partial, {"labels": belongs, "features": digest(found)})
        return found


def _content(images: Pixels) -> str:
    """Return what `digest` says of the images as a tensor; streamed ones are decoded for it once."""
    total = hashlib.sha256(f"images {torch.uint8} {tuple(images.shape)}\n".encode())
    for _, part in ahead(images):
        total.update(part.numpy().data)
    return total.hexdigest()


def _read(path: Path, labels: str) -> Features | None:
    try:
        with safe_open(path, "pt") as file:
            says = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (OSError, SafetensorError):
        return None
    return found if says == {"labels": labels, "features": digest(found)} else None
