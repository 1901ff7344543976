"""The training images as one uint8 tensor on the compute device, read in an order that is a function of the step.

There is no iterator and therefore no position to save: a resumed run reads the same batches as an uninterrupted one.
"""

import torch
from torch import Tensor

from benchmark.data.pixels import Pixels
from benchmark.errors import ConfigError
from benchmark.randomness import derive
from benchmark.runtime import ranks
from benchmark.runtime.transfer import send


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Return the permutation of `n` sample ids that epoch `epoch` of a run visits, int64 `(n,)` on the host."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))


class Resident:
    """Batches of uint8 images `(n, 3, height, width)` that are all on `device`.

    The incomplete last batch of an epoch is dropped; which images it would have held changes from epoch to epoch.
    Raises ConfigError if `batch_size` is not in 1 .. n.
    """

    def __init__(self, images: Pixels, batch_size: int, seed: int, device: torch.device | str) -> None:
        if not 1 <= batch_size <= len(images):
            raise ConfigError(
                f"Pretraining.batch_size = {batch_size}: a batch has at least 1 image and at most all of those to "
                f"pretrain on, here {len(images)}. The largest that fits: --set Pretraining.batch_size={len(images)}"
            )
        self.images = images.to(device)
        self.device = device
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = len(images) // batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the ids, int64 `(batch,)`, and the images, uint8 `(batch, 3, height, width)`, of a step from 0.

        Both are on the device. The result depends on `step` alone, not on earlier calls. Of several ranks each gets all
        ids and the images of its own rows.
        """
        ids = self.ids(step)
        return ids, self.images[ranks.rows(ids)]

    def ids(self, step: int) -> Tensor:
        """Return the ids of a step on the device."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            # One copy per epoch: a copy per step would make the host wait for the device.
            (self._order,) = send(self.device, epoch_order(self.seed, epoch, len(self.images)))
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]
