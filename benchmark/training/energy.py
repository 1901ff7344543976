"""The energy that a GPU uses, by its own meter."""

import torch

from benchmark.runtime import ranks, sharing


def meter(device: torch.device) -> float | None:
    """Return the joules that a GPU has used since its driver was loaded.

    None without a GPU, without the package nvidia-ml-py, where the GPU has no such meter (before Volta), where other
    runs of a suite share it, or where a run has several.
    """
    if device.type != "cuda" or sharing.on_device() > 1 or ranks.size() > 1:
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000  # from millijoules
    except Exception:  # whatever is wrong with a meter, the run goes on
        return None


def between(before: float | None, after: float | None) -> float | None:
    """Return the joules between two readings, None if one is missing."""
    return None if before is None or after is None else after - before
