"""The numbers of one record, among themselves: what cannot be together, and what no machine does."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from benchmark.report.fields import Curve, Metrics, Training
from benchmark.report.identity import canonical
from benchmark.report.record import Record, pretrained

SLACK = 1e-9  # of a share of whole images: rounding of a sum of floats
TOLERANCE = 0.03  # of a budget in seconds: by how much a run that ended well may have missed it
ONLINE = 5000  # images of train that a curve is measured on, at most; four of five are its bank
COLLAPSED = 0.02, 2  # spread and effective rank of features below which they count as collapsed
FASTEST = 1e16  # FLOPs in a second of one device, more than any has
SLOWEST = {True: 1e10, False: 1e8}  # those that a GPU, or a processor, reaches at least while it trains
STEP_SECONDS, START_SECONDS = 1.0, 600.0  # that a step and a start take at most, whatever they compute
MOST_WATTS = 5000.0  # of one device
FLOAT = 4  # bytes
HEADER = 1_000_000  # bytes of a checkpoint that are no parameters, beside a twentieth: names, buffers
CLOCK = timedelta(days=1)  # by which clocks may differ


def wrong_numbers(record: Record) -> Iterator[str]:
    """Yield the numbers of one record that contradict each other."""
    for name, result in record["metrics"].items():
        yield from (f"metrics.{name}.{problem}" for problem in _wrong_metrics(record, result))
    yield from _wrong_date(record)
    yield from _wrong_machine(record)
    yield from _wrong_ending(record)
    yield from _wrong_training(record, record["training"])
    if curve := record["training"].get("curve"):
        yield from (f"training.curve{problem}" for problem in _wrong_curve(record, curve))
    yield from _wrong_spending(record)
    yield from _implausible(record)


def is_no_share(accuracy: float, n: int) -> bool:
    """Return whether an accuracy is that of no whole number of `n` images."""
    return abs(accuracy * n - round(accuracy * n)) > SLACK * max(1, n)


def _wrong_metrics(record: Record, result: Metrics) -> Iterator[str]:
    n, images = result["n"], record["dataset"]["sizes"]["test"]
    draws = result["draws"] or [result["top1"]]
    if n != images:
        yield f"n: {n:,}, but the test set has {images:,} images (dataset.sizes.test)."
        return
    has_boxes = "ap50" in result["details"]
    is_dense = "mean_iou" in result
    is_of_images = not (is_dense or has_boxes)  # else top-1 is a share of pixels or of objects
    for top1 in draws:
        if is_of_images and is_no_share(top1, n):
            yield f"top1: {top1} is no share of {n:,} images."
    for name, detail in result["details"].items():
        if name.startswith(("k=", "recall_at_")) and is_no_share(detail, n):
            yield f"details: {name}: {detail} is no share of {n:,} images."
    if not math.isclose(result["top1"], math.fsum(draws) / len(draws), rel_tol=1e-9):
        yield "top1: is not the mean of its draws."
    if result["top5"] is not None and result["top5"] < result["top1"]:
        yield "top5: is below top1."
    if (result["top5"] is None) != (record["dataset"]["classes"] < 50 or not is_of_images):
        yield "top5: is recorded from 50 classes up, and only there (dataset.classes)."
    ends = result.get("interval", [0.0, 1.0])
    if is_of_images == ("interval" in result) or len(ends) != 2 or ends[0] > ends[1]:
        yield "interval: expected two numbers in order where masks or boxes are scored, and only there."
    per_class = [value for name, value in result["details"].items() if name.startswith("iou ")]
    if is_dense and per_class and not math.isclose(result["mean_iou"], math.fsum(per_class) / len(per_class)):
        yield "mean_iou: is not the mean of the classes in its details."
    per_class = [value for name, value in result["details"].items() if name.startswith("ap ")]
    mean = math.fsum(per_class) / max(1, len(per_class))
    if has_boxes and not math.isclose(result.get("mean_average_precision", -1), mean, abs_tol=1e-9):
        yield "mean_average_precision: is not the mean of the classes in its details."


def _wrong_date(record: Record) -> Iterator[str]:
    try:
        created = datetime.fromisoformat(record["created_utc"])
    except ValueError:
        yield f"created_utc: {record['created_utc']} is no date."
        return
    if created > datetime.now(UTC) + CLOCK:
        yield f"created_utc: {record['created_utc']} is in the future."


def _wrong_machine(record: Record) -> Iterator[str]:
    environment, cost = record["environment"], record["cost"]
    for name in ("cuda", "driver", "cudnn"):
        if environment["gpu"] is None and environment[name] is not None:
            yield f"environment.gpu: is missing, but environment.{name} is {environment[name]}."
    if environment["tf32"]:
        yield "environment.tf32: expected false, since no run rounds float32 to TF32."
    processes = environment.get("processes", 1) if record["budget"] else 1
    if cost["devices"] != processes:
        yield f"cost.devices: {cost['devices']}, but processes that trained: {processes}."
    joules, seconds = cost["joules"], cost["train_seconds"]
    if joules is not None and (environment["gpu"] is None or environment.get("runs_on_device", 1) > 1):
        yield "cost.joules: expected null, since only a GPU that one run has alone is metered."
    elif joules is not None and joules > MOST_WATTS * seconds:
        yield f"cost.joules: {joules:g} in {seconds:g} s are more than {MOST_WATTS:g} W."


def _wrong_ending(record: Record) -> Iterator[str]:
    """Yield where the status is not that of a run with this loss, these files and these scores."""
    status, training, budget = record["status"], record["training"], record["budget"]
    if budget is None and status != "ok":
        yield f"status: {status}, but nothing was trained."
    if budget is None or training["digest"] is None:
        if status == "failed" and record["metrics"]:
            yield "status: failed, but it was evaluated."
        elif budget is not None and status != "failed":
            yield f"training.digest: is missing, but the status is {status}."
        return
    if status == "failed":
        yield "status: failed, but its training ended (training.digest)."
    elif (status == "diverged") != (training["loss"] is None):
        yield f"training.loss: {training['loss']} does not belong to the status {status}."
    if status in ("overtime", "budget_miss") and budget["kind"] != "device_seconds":
        yield f"status: {status} is that of a budget in seconds, but this one is in {budget['kind']}."
    if pretrained(record) and record["checkpoint"] is None:
        yield "checkpoint: is missing, but the encoder was trained."
    if record["metrics"] and record["predictions"] is None:
        yield "predictions: are missing, but the encoder was evaluated."


def _wrong_training(record: Record, training: Training) -> Iterator[str]:
    spread, rank, width = training["feature_std"], training["effective_rank"], record["encoder"]["width"]
    if spread is None or rank is None:
        return
    if training["collapsed"] != (not (spread >= COLLAPSED[0] and rank >= COLLAPSED[1])):
        yield f"training.collapsed: {training['collapsed']}, with a spread of {spread:g} and a rank of {rank:g}."
    if rank > width * (1 + 1e-5):
        yield f"training.effective_rank: {rank:g} of {width:,} features."


def _wrong_curve(record: Record, curve: Curve) -> Iterator[str]:
    budget, train = record["budget"], record["dataset"]["sizes"]["train"]
    measured = min(ONLINE, train)
    # An encoder that was only evaluated may have been trained on other images.
    if pretrained(record) and (curve["bank"], curve["queries"]) != (measured * 4 // 5, measured - measured * 4 // 5):
        yield f": a bank of {curve['bank']:,} and {curve['queries']:,} queries, of {train:,} images of train."
    for point in curve["points"]:
        if is_no_share(point["knn"], curve["queries"]):
            yield f".points: knn: {point['knn']} after step {point['step']:,} is no share of its queries."
        if budget and point["step"] > budget["steps"]:
            yield f".points: step: a point after step {point['step']:,} of {budget['steps']:,}."
    asked = canonical(record["config"]["text"]).lines.get("experiment.curve_points", "")
    is_whole = record["status"] in ("ok", "budget_miss") and not record["cost"]["resumes"]
    if budget and is_whole and pretrained(record) and asked.isdecimal():
        steps = [point["step"] for point in curve["points"]]
        is_asked = len(steps) == budget["steps"] or (steps and int(asked) % len(steps) == 0)
        if not is_asked or steps != equal_shares(budget["steps"], len(steps)):
            yield f".points: step: {', '.join(map(str, steps))} are no equal shares of {budget['steps']:,} steps."


def equal_shares(steps: int, points: int) -> list[int]:
    """Return the steps after which 1/points, 2/points, ... and all of a budget are spent, rounded up."""
    return [-(-steps * point // points) for point in range(1, points + 1)]


def _wrong_spending(record: Record) -> Iterator[str]:
    """Yield where the cost does not follow from the steps and the price of one, or goes over the budget."""
    budget, cost, teacher, is_ok = record["budget"], record["cost"], record["teacher"], record["status"] == "ok"
    waited, seconds, images = cost["data_wait_seconds"], cost["train_seconds"], cost["images"]
    if waited > seconds:
        yield f"cost.data_wait_seconds: {waited:g} are part of cost.train_seconds, but those are {seconds:g}."
    if budget is None:
        if record["division"] == "floor" and (cost["flops"] or images):
            yield "cost.images, cost.flops: a floor costs nothing, but its cost has images or FLOPs."
        return
    flops = cost["teacher_flops"] + budget["steps"] * cost["flops_per_step"]
    step_images = budget["steps"] * budget["batch_size"]
    if record["status"] in ("diverged", "overtime", "failed"):
        if cost["flops"] > flops:
            yield "cost.flops: a run that ended early cannot have spent more than its steps."
    else:
        if not math.isclose(cost["flops"], flops, rel_tol=1e-12):
            yield f"cost.flops: expected {flops:g} from steps and teacher, got {cost['flops']:g}."
        if images < step_images or (teacher is None and images > step_images):
            least = "" if teacher is None else "at least "
            yield f"cost.images: expected {least}{step_images:,} from steps and batch, got {images:,}."
    kind, amount = budget["kind"], budget["amount"]
    spent = {"flops": cost["flops"], "samples": images, "device_seconds": seconds}[kind]
    if kind != "device_seconds" and spent > amount:
        field = "flops" if kind == "flops" else "images"
        yield f"cost.{field}: {spent:,g} are more than the budget of {amount:,g}."
    if kind == "flops" and is_ok and amount - spent >= cost["flops_per_step"]:
        yield f"cost.flops: {amount - spent:g} of the budget are left, which is enough for another step."
    if kind == "device_seconds" and is_ok and abs(amount - spent) > TOLERANCE * amount:
        yield (
            f"status: expected budget_miss, got ok: {seconds:g} s miss the budget of {amount:g} s by more than "
            f"{100 * TOLERANCE:g} %."
        )
    was_trained = teacher is not None and teacher["key"] is not None
    if was_trained != (cost["teacher_flops"] > 0):
        was = "was" if was_trained else "was not"
        yield f"cost.teacher_flops: {cost['teacher_flops']:g}, but a teacher {was} trained here."


def _implausible(record: Record) -> Iterator[str]:
    """Yield times, memory and sizes of files that no machine can have."""
    cost, budget, checkpoint = record["cost"], record["budget"], record["checkpoint"]
    parameters, seconds = record["encoder"]["parameters"], cost["train_seconds"]
    if record["metrics"] and not cost["evaluation_seconds"] > 0:
        yield "cost.evaluation_seconds: 0, but there are scores."
    if checkpoint and pretrained(record):
        beside = checkpoint["bytes"] / FLOAT - parameters
        if not 0 <= beside <= parameters / 20 + HEADER:
            yield f"checkpoint.bytes: {checkpoint['bytes']:,} do not hold {parameters:,} numbers (encoder.parameters)."
    if budget is None or not cost["flops"]:
        return
    if cost["flops"] > FASTEST * seconds * cost["devices"]:
        yield f"cost.train_seconds: {cost['flops']:g} FLOPs in {seconds:g} s are more than any device computes."
    slowest = SLOWEST[record["environment"]["gpu"] is not None]
    steps = cost["images"] / max(1, budget["batch_size"])
    most = START_SECONDS * (1 + cost["resumes"]) + steps * STEP_SECONDS + cost["flops"] / slowest
    if seconds - cost["data_wait_seconds"] > most:
        yield f"cost.train_seconds: {seconds:g} for {cost['flops']:g} FLOPs; the slowest device takes {most:g}."
    peak, least = cost["peak_memory_bytes"], 2 * FLOAT * parameters
    if peak is not None and peak < least:
        yield f"cost.peak_memory_bytes: {peak:,}; weights and gradients alone take {least:,}."
