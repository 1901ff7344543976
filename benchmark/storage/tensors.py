"""Files of tensors, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from benchmark.storage.files import atomic_write


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError, as for any file, where it cannot be written."""
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, metadata)
    with atomic_write(path) as partial:
        partial.write_bytes(content)
