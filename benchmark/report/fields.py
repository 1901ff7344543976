"""The parts of a record, each with the types of its fields."""

import re
from typing import Annotated, Literal, NotRequired, TypedDict

from benchmark.annotations import NonNegative as Amount
from benchmark.annotations import Range

Count = Annotated[int, Range(0, 2**63 - 1)]
Fraction = Annotated[float, Range(0, 1)]
Sha256 = Annotated[str, re.compile(r"[0-9a-f]{64}", re.ASCII)]
Version = Annotated[str, re.compile(r"\d{1,9}\.\d{1,9}", re.ASCII)]


class Method(TypedDict):
    """The method, its source files, and its deviations from the paper, one sentence each.

    `module_sha256` is the hash of the files where they lie outside this project (in schema 1 of all files).
    `supervised` is there, and true, for a reference that learnt from labels.
    """

    name: str
    files: list[str]
    module_sha256: Sha256 | None
    deviations: list[str]
    supervised: NotRequired[Literal[True]]


class Sizes(TypedDict):
    """Number of images in each split."""

    pretrain: Count
    train: Count
    test: Count


class Dataset(TypedDict):
    """The data: fingerprint of its content, image size in pixels, channel means and deviations, unreadable images."""

    name: str
    fingerprint: str
    classes: Count
    sizes: Sizes
    size: Count
    mean: list[float]
    std: list[float]
    unreadable: Count


class Pretrained(TypedDict):
    """The data on which an encoder was pretrained: name, fingerprint, image size in pixels, and number of images."""

    name: str
    fingerprint: str
    size: Count
    images: Annotated[int, Range(1, 2**63 - 1)]


class Inputs(TypedDict):
    """The mean and deviation of the colour channels by which images are normalised."""

    mean: list[float]
    std: list[float]


class Encoder(TypedDict):
    """The encoder that is evaluated; `patch` is null for a CNN, `stem` for a transformer, `width` counts features.

    `inputs` are absent where they are those of the data set. `positions` say from which grid to which those of a
    transformer were interpolated for images of this size, and are absent where they were not.
    """

    name: str
    parameters: Count
    image_size: Count
    patch: Count | None
    stem: str | None
    width: Count
    inputs: NotRequired[Inputs]
    positions: NotRequired[str]


class Config(TypedDict):
    """The complete configuration and its key, which does not depend on the seed and on locations.

    `varied` are the bindings in which the run differs from others of its method on purpose, as in a sweep.
    """

    key: Annotated[str, re.compile(r"[0-9a-f]{8,64}", re.ASCII)]
    text: str
    varied: list[str]


class Tuning(TypedDict):
    """How the learning rate of a run was chosen: it is `factor` times that of the recipe.

    `recipe` is the key that a run shares with its trials; `trials` has their ids, and is empty in a trial itself.
    `flops` and `seconds` are what all trials cost, in addition to the budget of the run. `share` is the part of the
    budget that each trial had. It is absent where the first rule chose: the best of five at a sixteenth.
    """

    recipe: Sha256
    factor: Amount
    trials: list[str]
    flops: Amount
    seconds: Amount
    share: NotRequired[Fraction]


class Checkout(TypedDict):
    """The state of the checkout; all but the version are null outside one. `dirty` says that files were changed."""

    version: str
    commit: str | None
    dirty: bool | None
    diff_sha256: Sha256 | None


class Code(Checkout):
    """The code that ran; `versions` are those of pretraining and of the classes of method and evaluations, by name."""

    versions: dict[str, Version]


class Budget(TypedDict):
    """What the run may spend, in units of its kind, and the optimiser steps that this was converted to."""

    kind: Literal["samples", "flops", "device_seconds"]
    amount: Amount
    steps: Count
    batch_size: Count


class Cost(TypedDict):
    """What the run spent, including its teacher; `teacher_flops` is the teacher's part of `flops`.

    `train_seconds` is the wall time charged to the budget on each of `devices`, without compilation and evaluation.
    """

    images: Count
    views: Count
    flops_per_step: Amount
    flops: Amount
    teacher_flops: Amount
    train_seconds: Amount
    data_wait_seconds: Amount
    compile_seconds: Amount
    evaluation_seconds: Amount
    joules: Amount | None
    peak_memory_bytes: Count | None
    devices: Count
    resumes: Count


class Environment(TypedDict):
    """Versions, hardware and arithmetic of the run.

    `runs_on_device` counts the runs that a suite made at once on the same GPU or processor, which makes each slower; it
    is absent where there was one. `processes` are those of torchrun that trained together; absent where there was one.
    """

    python: str
    torch: str
    torchvision: str
    timm: str
    cuda: str | None
    cudnn: str | None
    driver: str | None
    gpu: str | None
    processor: str
    processor_flags: list[str]
    cores: Count
    threads: Count
    os: str
    precision: str
    deterministic: bool
    tf32: bool
    runs_on_device: NotRequired[Count]
    processes: NotRequired[Count]


class Point(TypedDict):
    """The kNN accuracy `knn` after `step` optimiser steps."""

    step: Count
    knn: Fraction


class Curve(TypedDict):
    """Accuracy during pretraining: `queries` images of train, classified by the labels of `bank` others of train.

    It is neither charged nor ranked. The standard error of 1,000 queries is up to 1.6 points; no test image is seen.
    """

    bank: Count
    queries: Count
    points: list[Point]


class Training(TypedDict):
    """The end of pretraining: last loss and logs, digest of the final state, and measures of collapsed features.

    `curve` is absent where none was measured.
    """

    loss: float | None
    logs: dict[str, float]
    digest: str | None
    collapsed: bool | None
    effective_rank: Amount | None
    feature_std: Amount | None
    curve: NotRequired[Curve]


class Metrics(TypedDict):
    """One evaluation on `n` test images by its `version`, its choices on held-out data, and its warnings (`flags`).

    If it used several draws of its training data, `draws` has the top-1 of each, and the other scores are means.
    `details` are further figures, for instance top-1 under other settings; none of them ranks. `curve` is the accuracy
    on held-out training images after each epoch of an evaluation that trains, and empty for others.

    `mean_average_precision` is there where an image may have several labels, and ranks in place of top-1, which is then
    the share of images whose best class is a label; see `benchmark.evals.scoring` for the others.

    `mean_iou` is there where images have masks, and ranks. `interval` is its 95 % interval over test images, by a
    bootstrap. The other scores are then those of pixels, and macro-F1 is the mean Dice; see `benchmark.evals.dense`.
    Where images have boxes, `mean_average_precision` is COCO's AP, with an `interval` too, and the other scores are
    those of objects; see `benchmark.evals.detection`.
    """

    version: Count
    top1: Fraction
    top5: Fraction | None
    macro_f1: Fraction
    balanced_accuracy: Fraction
    n: Count
    draws: list[Fraction]
    details: dict[str, Amount]
    mean_average_precision: NotRequired[Fraction]
    mean_iou: NotRequired[Fraction]
    interval: NotRequired[list[Fraction]]
    curve: list[Fraction]
    choices: dict[str, object]
    flags: list[str]


class Predictions(TypedDict):
    """The file with the prediction for each test image."""

    file: str
    sha256: Sha256


class Teacher(TypedDict):
    """A teacher pretrained on `share` of the budget; for weights from elsewhere `key` is null and `share` is 0."""

    key: str | None
    share: Fraction
    digest: str | None


class Start(TypedDict):
    """The trained weights from which pretraining went on: their name, what identifies them, and their layout.

    `positions` says how those of a ViT were interpolated to the image size, null where they fit.
    """

    name: str
    digest: Sha256
    layout: str
    positions: str | None


class Checkpoint(TypedDict):
    """The file with the exported encoder."""

    file: str
    sha256: Sha256
    bytes: Count


class PublishedFile(TypedDict):
    """A file beside the records of a board: its place in the board's folder, and what it must be."""

    file: Annotated[str, re.compile(r"(predictions|encoders)/[a-z0-9_][a-z0-9._-]*", re.ASCII)]
    sha256: Sha256
    bytes: Count


class Published(TypedDict):
    """The files that were published with a run; each is absent where there was none, or where it was too large."""

    predictions: NotRequired[PublishedFile]
    encoder: NotRequired[PublishedFile]
