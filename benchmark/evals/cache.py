"""Features on disk: extracted once per encoder and data set, and never mistaken for those of another."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.data.pixels import Pixels
from benchmark.data.streaming import ahead
from benchmark.storage import tensors
from benchmark.storage.digest import digest

Features = dict[str, Tensor]


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features. `origin` is all that they depend on besides the images: weights, code, preparation."""

    folder: Path
    origin: tuple[object, ...]

    def get(self, images: Pixels, labels: Tensor, make: Callable[[], Features]) -> Features:
        """Return the features of these images in their order; `make` extracts them where the folder has none.

        A file holds the digest of the labels of its rows. If it is damaged or has other labels, it is written again. It
        also holds the order of the features, by which evaluations choose among equals.
        """
        labels_digest = digest({"labels": labels})
        name = hashlib.sha256(repr((self.origin, _content(images))).encode()).hexdigest()
        path = self.folder / f"{name[:32]}.safetensors"
        features = _read(path, labels_digest)
        if features is None:
            features = make()
            tensors.write(path, features, _metadata(features, labels_digest))
        return features


def _content(images: Pixels) -> str:
    """Return the `digest` of the images as one tensor; streamed images are decoded for it once."""
    total = hashlib.sha256(f"images {torch.uint8} {tuple(images.shape)}\n".encode())
    for _, part in ahead(images):
        total.update(part.numpy().data)
    return total.hexdigest()


def _metadata(features: Features, labels: str) -> dict[str, str]:
    return {"labels": labels, "features": digest(features), "names": " ".join(features)}


def _read(path: Path, labels: str) -> Features | None:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            features = {name: file.get_tensor(name) for name in metadata.get("names", "").split()}
    except (OSError, SafetensorError):
        return None
    return features if metadata == _metadata(features, labels) else None
