"""What every encoder has to beat: the same network with random weights, and no network at all."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from timm.models import create_model

from benchmark.data.dataset import Dataset
from benchmark.evals import harness
from benchmark.evals.evaluation import Results
from benchmark.evals.linear import rank
from benchmark.experiment import describe
from benchmark.experiment.session import Session
from benchmark.nets.encoders import Encoder
from benchmark.report import record as records
from benchmark.report.cells import OF_RANDOM_INIT, OF_RAW_PIXELS, RANDOM_INIT, RAW_PIXELS, START, versions_of
from benchmark.report.identity import digest
from benchmark.report.record import Record
from benchmark.runtime import progress
from benchmark.storage.files import exclusive, remove_partials
from benchmark.training.budget import Ledger

MOST_BYTES = 3 * 2**28  # of raw pixels as features: 60,000 images of 32 px take 0.69 GiB, and the evaluation 3 GiB
MOST_SIDE = 4096  # rows of the matrix that the linear probe decomposes: 2 minutes of one core; 32 px have 3,072


def measure(session: Session, *, waits: bool = True) -> list[Record]:
    """Return the records of the floors under the same rules; those that were measured before are read from disk.

    Without `waits`, raises Held where another process is measuring one.

    Raw pixels are features as wide as an image. Every evaluation holds all of them, and the linear probe decomposes a
    square matrix with a row for each value of an image, or for each image where these are at most half as many. Raw
    pixels are left out past 0.75 GiB or 4,096 rows: 2,000 images of 96 px are measured.
    """
    if not session.evaluations or session.experiment.is_trial:
        return []
    encoder = _untrained(session).to(session.device)
    random_init = partial(session.evaluate, encoder, folder=session.out / "floors" / "evaluations")
    floors = [_floor(session, RANDOM_INIT, encoder, session.experiment.seed, OF_RANDOM_INIT, random_init, waits)]
    if session.start:
        trained = session.initial()[0].to(session.device)
        start = partial(session.evaluate, trained, folder=session.out / "floors" / "evaluations")
        name = f"{START} {session.start.name}"
        floors.append(_floor(session, name, trained, 0, OF_RANDOM_INIT, start, waits, session.start.digest))
    if session.dataset.has_boxes:
        print("raw pixels left out: a detector is trained on an encoder")
        return floors
    if reason := "" if session.dataset.has_masks else _too_large(session.dataset):
        print(f"raw pixels left out: {reason}")
        return floors
    limits = session.experiment.limits()
    raw_pixels = partial(harness.evaluate_pixels, session.dataset, session.evaluations, limits=limits)
    return [*floors, _floor(session, RAW_PIXELS, encoder, 0, OF_RAW_PIXELS, raw_pixels, waits)]


def _too_large(data: Dataset) -> str:
    """Return why raw pixels are too many to be evaluated; empty where they are not."""
    n, *shape = data.train.images.shape
    dim = math.prod(shape)
    size, side = 4 * dim * (n + len(data.test.images)), rank(n, dim)
    if size > MOST_BYTES:
        return f"as features they take {size / 2**30:.1f} GiB; the most is {MOST_BYTES / 2**30:g} GiB"
    if side > MOST_SIDE:
        probe = f"the linear probe of {n:,} images of {dim:,} values decomposes a matrix of {side:,} rows"
        return f"{probe}; the most is {MOST_SIDE:,}"
    return ""


def _untrained(session: Session) -> Encoder:
    """Build the encoder with random weights, even if its configuration fetches trained ones."""
    encoder = session.encoder()
    if encoder.is_trained:
        encoder.statistics = None
        encoder.net = create_model(encoder.spec.architecture, **encoder.spec.arguments)
    return session.fitted(encoder)


def _floor(
    session: Session,
    name: str,
    encoder: Encoder,
    seed: int,
    depends_on: Sequence[str],
    evaluate: Callable[[], Results],
    waits: bool,
    *weights: str,
) -> Record:
    key = digest(session.config.canonical.part(depends_on), session.dataset.fingerprint, *weights)
    code = session.versions, str(torch.__version__)
    folder = session.out / "floors"
    with exclusive(folder / f"{key[:8]}-s{seed}", waits=waits):
        remove_partials(folder)  # a kill may have come between the record's appearance and the end of its writing
        for path in sorted(folder.glob(f"*-s{seed}-{key[:8]}-*.json")):
            record = records.read(path)
            if record["method"]["name"] == name and (versions_of(record), record["environment"]["torch"]) == code:
                return record
        print(f"evaluating {name}, a floor, once; it is kept in {folder}", flush=True)
        begin = time.perf_counter()
        with progress.doing(f"evaluating {name}"):
            results = evaluate()
        seconds = time.perf_counter() - begin
        floor = describe.record(
            session,
            encoder,
            session.versions,
            division="floor",
            method=describe.method(name),
            key=key,
            seed=seed,
            cost=describe.cost(Ledger(), 0, seconds),
            metrics=results.metrics,
        )
        records.write(floor, folder)
        return floor
