"""The garbage collector, which large imports and what they leave in memory can do without."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without the garbage collector, which takes up to a fifth of the seconds of torch, torchvision and timm.

    It would go through their hundreds of thousands of objects again and again, nearly all of which stay. Later
    collections leave them out too. Does nothing where torch is imported already, as garbage of a long session would
    stay too.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)
    finally:
        gc.enable()
