"""Committees of fine-tuned members: all of them, the best of them, and the choice that knows the label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zoolib.hub import HubModel
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome, from_scores, sum_costs
from zoolib.spec import ZoolibError
from zoolib.tasks import Classification, Task, softmax


def oracle_choice(members: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The member that is best on each sample: logits (m, N, C), labels (N,) -> member (N,).

    Best is the largest margin, the label's probability minus the highest other one: it is positive exactly where the
    member is right, so that the choice is right wherever any member is.
    """
    probabilities = softmax(members.astype(np.float64))
    of_label = np.eye(members.shape[-1], dtype=bool)[labels]  # (N, C)
    own = probabilities[:, of_label]  # (m, N)
    other = np.where(of_label, -1.0, probabilities).max(-1)
    return np.asarray((own - other).argmax(0))


def ensemble(ctx: Context) -> Outcome:
    """The fine-tuned members of the same seed, combined by mean probability or by vote (the paper's Ensemble votes)."""
    return _combined(ctx, ctx.hub.names)


def ensemble_top_k(ctx: Context) -> Outcome:
    """The k members that validate best, chosen once for the whole task (Hub-Pathway, table 5)."""
    top_k, size = int(ctx.spec.option("top_k")), len(ctx.hub.names)
    if not 1 <= top_k <= size:
        raise ZoolibError(f"top_k is {top_k}; use 1 to {size}, the number of models in the hub")
    outcome = _combined(ctx, ctx.ranking()[:top_k])
    outcome.deviations.append("the k members are chosen on validation images; the paper does not say how")
    return outcome


def _combined(ctx: Context, names: Sequence[str]) -> Outcome:
    """The members of these names, combined as the option `combine` says, in the way of the task."""
    combine, task = str(ctx.spec.option("combine")), ctx.task
    members = {split: _stacked(ctx, names, split) for split in ("val", "test")}
    scores = {split: task.combine(each, combine) for split, each in members.items()}
    outcome = from_scores(scores | _labels(ctx), ctx.data, task)
    if isinstance(task, Classification):
        for split, each in members.items():
            labels = outcome.logits[f"{split}_labels"]
            for name in task.COMBINE:
                right = float((task.combine(each, name).argmax(1) == labels).mean())
                outcome.metrics[split][f"top1_accuracy_{name}"] = 100 * right
    outcome.metrics["cost"] = _costs(ctx, names)
    note = "probabilities are averaged; the paper lets the members vote (recorded as top1_accuracy_votes)"
    outcome.deviations = ctx.deviations(*([note] if combine == "probabilities" else []))
    return outcome


def best_single(ctx: Context) -> Outcome:
    """The fine-tuned member that validates best (Hub-Pathway, table 5)."""
    best = ctx.ranking()[0]
    outcome = from_scores(dict(ctx.needed[best].logits), ctx.data, ctx.task)
    outcome.metrics["cost"] = _costs(ctx, [best])
    outcome.deviations = ctx.deviations("the member is chosen on validation images; the paper does not say how")
    return outcome


def oracle(ctx: Context) -> Outcome:
    """For each image the fine-tuned member that does best on it, chosen with its label (Hub-Pathway, table 5)."""
    scores, labels = {}, _labels(ctx)
    for split in ("val", "test"):
        members = np.stack(_stacked(ctx, ctx.hub.names, split))  # (m, N, C)
        chosen = oracle_choice(members, labels[f"{split}_labels"])
        scores[split] = members[chosen, np.arange(len(chosen))]
    outcome = from_scores(scores | labels, ctx.data, ctx.task)
    outcome.metrics["cost"] = _costs(ctx, ctx.hub.names)
    outcome.deviations = ctx.deviations()
    return outcome


def _stacked(ctx: Context, names: Sequence[str], split: str) -> list[np.ndarray]:
    """Predictions of the members of these names, each (N, ...)."""
    return [ctx.needed[name].logits[split] for name in names]


def _labels(ctx: Context) -> dict[str, np.ndarray]:
    logits = next(iter(ctx.needed.values())).logits
    return {name: logits[name] for name in ("val_labels", "test_labels")}


def _costs(ctx: Context, names: Sequence[str]) -> dict[str, float]:
    """All members are trained, those of these names are used."""
    return sum_costs([run.cost for run in ctx.needed.values()], [ctx.needed[name].cost for name in names])


class JointEnsemble(Method):
    """Members under heads of their own, trained on the loss of their mean probability (Hub-Pathway, supplement A.1)."""

    def __init__(self, members: Sequence[HubModel], task: Task) -> None:
        super().__init__()
        heads = [task.head(member.num_features) for member in members]
        self.members = nn.ModuleList(nn.Sequential(member, head) for member, head in zip(members, heads, strict=True))

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> the logarithm of the mean probability (B, C)."""
        each = torch.stack([member(x).float() for member in self.members])  # (m, B, C)
        return Output(each.log_softmax(-1).logsumexp(0) - math.log(len(each)))


def ensemble_joint(ctx: Context) -> Outcome:
    """All members in one training run."""
    note = "the members' probabilities are averaged before the loss; the paper does not say what is joined, and where"
    return ctx.fit(JointEnsemble(ctx.hub.models(), ctx.task), [note])
