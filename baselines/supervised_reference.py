"""The supervised reference: the same encoder, trained from scratch with labels under the same budget."""

import gin
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import ConfigError
from benchmark.losses import full_precision
from benchmark.method import Labelled, Step, Views
from benchmark.nets.encoders import Encoder
from benchmark.randomness import Draws


@full_precision
def smoothed_cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Mean of -sum over c of q[c] log softmax(logits)[c], with q = (1 - smoothing) onehot + smoothing / classes.

    `logits` `(batch, classes)`, `labels` int64 `(batch,)` (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@gin.register
class SupervisedReference(Labelled):
    """Cross-entropy of a linear layer on the pooled features.

    It says what pretraining without labels has to be compared with where all labels are at hand. Every evaluation reads
    its frozen encoder as it reads any other; the linear probe stands for its own classifier.

    Differs from the paper: the recipe is the protocol's, so that cost and optimiser are those of the methods beside it;
    published supervised results train longer, with stronger augmentation; its encoder saw all labels, so that its
    scores on 1 % and 10 % of them compare with nothing.
    """

    n_views = 1

    def __init__(self, encoder: Encoder, classes: int, *, smoothing: float) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ConfigError(f"SupervisedReference.smoothing = {smoothing}: a share of the target from 0 to below 1.")
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.width, classes)
        self.smoothing = smoothing

    def forward(self, views: Views, draws: Draws) -> Step:
        logits = self.classifier(self.encoder(views[0]).pooled)
        loss = smoothed_cross_entropy(logits, self.labels, smoothing=self.smoothing)
        return Step(loss, {"train_top1": (logits.detach().argmax(1) == self.labels).float().mean()})
