"""What every encoder has to beat: the same network with random weights, and no network at all."""

import hashlib
import time
from collections.abc import Callable

from benchmark import describe
from benchmark.evals import harness
from benchmark.evals.harness import Results
from benchmark.nets.encoders import Encoder
from benchmark.report import record as records
from benchmark.report.record import Record
from benchmark.session import Session
from benchmark.training.budget import Ledger


def measure(session: Session) -> list[Record]:
    """Return the records of the floors under the same rules, from disk where they were measured before."""
    if not session.evaluations:
        return []
    encoder, limits = session.encoder().to(session.device), session.experiment.limits()

    def random_init() -> Results:
        return harness.evaluate_encoder(encoder, session.dataset, session.evaluations, session.device, limits=limits)

    def raw_pixels() -> Results:
        return harness.evaluate_pixels(session.dataset, session.evaluations, limits=limits)

    seed = session.experiment.seed
    tree = session.config.tree["params"]
    return [
        _floor(session, "random init", encoder, seed, tree["encoder"], random_init),
        _floor(session, "raw pixels", encoder, 0, None, raw_pixels),
    ]


def _floor(
    session: Session, name: str, encoder: Encoder, seed: int, built_from: object, evaluate: Callable[[], Results]
) -> Record:
    shared = session.shared(encoder)
    made_by = (shared["code"]["evaluation_sha256"], shared["code"]["protocol_sha256"], shared["environment"]["torch"])
    settings = (name, built_from, session.config.tree["params"]["evaluations"], session.dataset.fingerprint, *made_by)
    key = hashlib.sha256(repr(settings).encode()).hexdigest()
    folder = session.out / "floors"
    for path in sorted(folder.glob(f"*-s{seed}-{key[:8]}-*.json")):
        return records.read(path)
    begin = time.perf_counter()
    results = evaluate()
    seconds = time.perf_counter() - begin
    floor = records.seal(
        shared
        | {
            "status": "ok",
            "division": "floor",
            "board": None,
            "method": {"name": name, "module_sha256": None, "deviations": []},
            "seed": seed,
            "config": {"key": key, "text": session.config.text, "varied": []},
            "budget": None,
            "cost": describe.cost(Ledger(), 0, seconds),
            "training": {
                "loss": None,
                "logs": {},
                "digest": None,
                "collapsed": None,
                "effective_rank": None,
                "feature_std": None,
            },
            "metrics": results.metrics,
            "predictions": None,
            "floors": [],
            "checkpoint": None,
        }
    )
    records.write(floor, folder)
    return floor
