"""The evaluation harness: an encoder and labelled data go in, numbers come out.

An evaluation chooses on a hold-out of train and hands in a ranking of classes per test image. It never holds the test
labels: `scoring.SealedLabels` reads them once per evaluation, after every choice. The evaluations named here are those
that gin files may bind.
"""

from benchmark.evals.dense_knn import DenseKNN
from benchmark.evals.detect import Detect
from benchmark.evals.finetune import ConvNetTuning, FineTune, ViTTuning
from benchmark.evals.knn import KNN, KNNProjection
from benchmark.evals.linear import Linear
from benchmark.evals.linear_sgd import LinearSGD
from benchmark.evals.multilabel import MultiLabel
from benchmark.evals.retrieval import Retrieval
from benchmark.evals.seg_linear import SegLinear
from benchmark.evals.semi_finetune import SemiFineTune
from benchmark.evals.semi_probe import SemiProbe

__all__ = [
    "KNN",
    "ConvNetTuning",
    "DenseKNN",
    "Detect",
    "FineTune",
    "KNNProjection",
    "Linear",
    "LinearSGD",
    "MultiLabel",
    "Retrieval",
    "SegLinear",
    "SemiFineTune",
    "SemiProbe",
    "ViTTuning",
]
