"""Committees of independently trained networks."""

from __future__ import annotations

import numpy as np

from zoolib.recipe import Context, Outcome, sample_frame
from zoolib.spec import unknown


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def average(members: np.ndarray) -> np.ndarray:
    """Mean probability of the members: logits (m, N, C) -> (N, C)."""
    return np.asarray(softmax(members.astype(np.float64)).mean(0))


def votes(members: np.ndarray) -> np.ndarray:
    """Share of the members' votes, ties broken by the mean probability: logits (m, N, C) -> (N, C)."""
    chosen = np.eye(members.shape[-1])[members.argmax(-1)].mean(0)  # (N, C)
    return np.asarray(chosen + average(members) / (2 * len(members)))  # less than half a vote


COMBINE = {"probabilities": average, "votes": votes}


def ensemble(ctx: Context) -> Outcome:
    """The fine-tuned members of the same seed, combined by mean probability or by vote (the paper's Ensemble votes)."""
    combine = str(ctx.spec.option("combine"))
    if combine not in COMBINE:
        raise unknown("combine", combine, COMBINE)
    found = [ctx.outcome_of(name) for name in ctx.hub.names]
    scores, metrics = {}, {}
    for split in ("val", "test"):
        labels = found[0][0][f"{split}_labels"]
        stacked = np.stack([logits[split] for logits, _ in found])  # (m, N, C)
        scores[split] = np.log(COMBINE[combine](stacked)).astype(np.float32)
        scores[f"{split}_labels"] = labels
        metrics[split] = {"top1_accuracy": 100 * float((scores[split].argmax(1) == labels).mean())}
        for name, function in COMBINE.items():
            metrics[split][f"top1_accuracy_{name}"] = 100 * float((function(stacked).argmax(1) == labels).mean())
    metrics["cost"] = _sum_costs([cost for _, cost in found])
    samples = sample_frame(scores["test"], scores["test_labels"], ctx.data.rows["test"])
    note = "probabilities are averaged; the paper lets the members vote (recorded as top1_accuracy_votes)"
    return Outcome(metrics, scores, samples=samples, deviations=[note] if combine == "probabilities" else [])


def _sum_costs(costs: list[dict[str, float]]) -> dict[str, float]:
    """Costs of running every member; throughput adds as its inverse, memory is that of the largest."""
    total = {name: sum(cost[name] for cost in costs) for name in ("params_m", "trainable_params_m", "gmacs", "seconds")}
    total["peak_memory_mb"] = max(cost["peak_memory_mb"] for cost in costs)
    total["images_per_second"] = 1 / sum(1 / cost["images_per_second"] for cost in costs)
    return total
