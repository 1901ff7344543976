"""Self-supervised vision methods, pretrained under one compute budget and scored by one evaluation harness.

Read in this order: `method.py` (what a method is), `baselines/simclr.py` (one of them), `training/budget.py` (what a
run may spend), `training/loop.py` (the run), `evals/harness.py` (how an encoder is scored), `experiment/run.py` (from
seed to record), `report/record.py` (the record), `report/section.py` (what a table shows), `report/leaderboard.py`
(what it claims).

The modules here are the commands, `python -m benchmark.NAME` (run, suite, evaluate, tables, results, list, export,
figures, speed, doctor, battery), and what the author of a method imports (method, losses, annotations, randomness,
errors). All else has a folder. Imports run downward in this list, never up:

    boards/      many runs: what a suite plans, how its runs are started, what `list` finds
    plots/       figures of a run
    timing/      how fast it is: the measurements of `speed`
    checks/      what every method owes the harness: the checks of `battery`
    experiment/  one run from seed to record: data and encoder, stages, teacher, floors, evaluation, record
    training/    the loop, budget, FLOP count, calibration, optimisers and learning rates
    evals/       the harness and its evaluations: kNN, linear probes, fine-tuning, retrieval
    nets/        encoders, heads, momentum copy, queue, masks, decoder, layouts of others' weights
    data/        images from a source, decoded or streamed, hold-out and subsets of labels
    views/       crops, colour, RandAugment: the views of an image
    config/      gin files: parsed, looked up, checked, resolved to one canonical text
    page/        the boards as one page for a browser, and their plots
    report/      records, and tables from them: identity, versions and staleness, statistics, audit
    storage/     files written at once and whole, locks, checkpoints, digests
    runtime/     lines of progress, copies to the device, work side by side
    trackers/    TensorBoard, W&B and trackio, to which a run's numbers are shown
"""

__version__ = "0.1.0"
PRETRAINING_VERSION = "1.0"
"""Major.Minor of all that decides an encoder's weights but the classes of methods, which have versions of their own."""
