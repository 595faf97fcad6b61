"""Scores of a frozen member: how well it would transfer, before any training."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np

from zoolib import features, probes, transferability
from zoolib.data.loaders import balanced
from zoolib.features import Features
from zoolib.recipe import Context, Outcome
from zoolib.runtime import peak_memory_mb
from zoolib.transferability import LogME


def rank(ctx: Context) -> Outcome:
    """Every score of the member that the spec names: on the train split, the baselines' accuracy on val.

    Raises ZoolibError for a class without an image to train on.
    """
    steps = ctx.spec.settings.iterations  # progress is counted in training steps everywhere

    def note(done: int, total: int) -> None:
        if ctx.progress:
            ctx.progress(min(done * steps // total, steps - 1), steps, f"features of {done}/{total} images")

    member = ctx.hub.manifest.member(ctx.spec.member)
    found = features.extract(member, ctx.data, ctx.spec.settings, ctx.machine, note=note)
    memory = peak_memory_mb(ctx.machine.device)
    result, cost = timed_logme(found.splits["train"], found.labels["train"])
    # LogME reads the training split alone; the validation split is for the baselines.
    cost |= {"features_seconds": found.seconds["train"], "features_mb": found.splits["train"].nbytes / 2**20}
    cost |= {"seconds": found.seconds["train"] + cost["logme_seconds"], "peak_memory_mb": memory}
    cost |= {"images": len(found.labels["train"]), "dimensions": found.splits["train"].shape[1]}
    metrics = {"train": _scores(found, result), "val": _baselines(ctx, found), "cost": cost}
    if ctx.progress:
        ctx.progress(steps, steps, "scored")
    notes = [] if ctx.spec.settings.test_crops == 1 else ["features are those of the central crop alone"]
    return Outcome(metrics, {}, deviations=notes)


def timed_logme(train: np.ndarray, labels: np.ndarray) -> tuple[LogME, dict[str, float]]:
    """LogME with its seconds and the most memory it held at once (MB, the features included)."""
    train = np.asarray(train)
    tracemalloc.start()
    began = time.perf_counter()
    result = transferability.logme(train, labels)
    seconds = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, {"logme_seconds": seconds, "logme_mb": (train.nbytes + peak) / 2**20}


def _scores(found: Features, result: LogME) -> dict[str, float]:
    train, labels = np.asarray(found.splits["train"]), found.labels["train"]
    scores = {"logme": result.score, "h_score": transferability.h_score(train, labels)}
    scores["logme_floor"] = transferability.logme(np.zeros((len(labels), 1)), labels).score
    scores["transrate"] = transferability.transrate(train, labels)
    probabilities = found.source_probabilities("train")
    if probabilities is not None:
        scores["leep"] = transferability.leep(probabilities, labels)
        scores["nce"] = transferability.nce(probabilities.argmax(1), labels)
    return scores


def _baselines(ctx: Context, found: Features) -> dict[str, float]:
    """Accuracy on val of a linear probe and of nearest neighbours; the probe sees a balanced part of a large split."""
    train, labels = np.asarray(found.splits["train"]), found.labels["train"]
    limit = int(ctx.spec.option("probe_images"))
    rows = np.arange(len(labels))
    if len(rows) > limit:
        rows = balanced(labels, rows, max(1, limit // ctx.data.manifest.num_classes))
    new = np.asarray(found.splits["val"]), found.labels["val"]
    return {
        "linear_probe": probes.linear_probe(train[rows], labels[rows], *new),
        "nearest_neighbours": probes.nearest_neighbours(train, labels, *new, k=int(ctx.spec.option("neighbours"))),
    }
