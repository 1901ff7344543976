"""Whether torch.compile has the compiler that it needs."""

import os
import shutil
import sys

import torch

from benchmark.errors import MissingError


def require_compiler(device: torch.device) -> None:
    """Raise MissingError if there is no compiler, before torch.compile fails for lack of it."""
    if device.type == "cpu":
        language, variable, usual = "C++", "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    else:  # Triton compiles the code that launches its kernels
        language, variable, usual = "C", "CC", ["gcc", "clang"]
    names = [os.environ[variable]] if variable in os.environ else usual
    if not any(map(shutil.which, names)):
        raise MissingError(
            f"Pretraining.compiled = True: torch.compile needs a {language} compiler on a {device.type.upper()} "
            f"device, and {' or '.join(names)} is not found. Install one, name another in the environment variable "
            f"{variable}, or leave Pretraining.compiled at False."
        )
