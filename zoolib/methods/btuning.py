"""Several teachers for one model: B-Tuning, and plain feature distillation as its baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from zoolib import features, regularizers
from zoolib.grid import check_option
from zoolib.hub import HubModel
from zoolib.method import Output
from zoolib.methods.guided import Guided
from zoolib.recipe import Context, Outcome
from zoolib.spec import split_names
from zoolib.tasks import Task
from zoolib.transferability import LogME, logme, softmax_weights


class BTuning(Guided):
    """The member's Bayesian linear prediction follows the teachers', weighted by LogME (You et al., JMLR 2022)."""

    def __init__(
        self, backbone: HubModel, task: Task, own: np.ndarray, teachers: Sequence[tuple[nn.Module, np.ndarray]],
        weights: Sequence[float], trade_off: float,
    ) -> None:  # fmt: skip
        super().__init__(backbone, task)
        self.weights, self.trade_off = list(weights), trade_off
        self.register_buffer("posterior", _float(own), persistent=False)  # (D, C)
        for index, (teacher, posterior) in enumerate(teachers):
            self.freeze(f"teacher{index}", teacher)
            self.register_buffer(f"posterior{index}", _float(posterior), persistent=False)  # (D_k, C)

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """task; bayesian, the squared distance of the posterior predictions in the space of the labels."""
        own = regularizers.product(output.aux["features"], self.get_buffer("posterior"))
        theirs = [
            regularizers.product(
                self.ask(f"teacher{index}", output.aux["images"]), self.get_buffer(f"posterior{index}")
            )
            for index in range(len(self.weights))
        ]
        term = self.trade_off * regularizers.bayesian(own, theirs, self.weights)
        return super().loss(output, target, task, progress) | {"bayesian": term}


class FeatureDistillation(Guided):
    """1/K sum_k |phi_k(x) - W_k phi_t(x)|^2 with a learned W_k a teacher (slides, the KD baseline of B-Tuning)."""

    def __init__(self, backbone: HubModel, task: Task, teachers: Sequence[HubModel], trade_off: float) -> None:
        super().__init__(backbone, task)
        self.trade_off = trade_off
        width = backbone.num_features
        self.maps = nn.ModuleList(nn.Linear(width, teacher.num_features, bias=False) for teacher in teachers)
        for index, teacher in enumerate(teachers):
            self.freeze(f"teacher{index}", teacher)

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """task; distillation, the mean over teachers of the distance of mapped features."""
        each = [
            regularizers.feature_distance(linear(output.aux["features"]), self.ask(f"teacher{i}", output.aux["images"]))
            for i, linear in enumerate(self.maps)
        ]
        term = self.trade_off * torch.stack(each).mean()
        return super().loss(output, target, task, progress) | {"distillation": term}


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float()


def posteriors(ctx: Context, names: Sequence[str]) -> dict[str, LogME]:
    """LogME of those members on the training split, from cached features."""
    found = {}
    for name in names:
        member = ctx.hub.manifest.member(name)
        kept = features.extract(member, ctx.data, ctx.spec.settings, ctx.machine, splits=("train",))
        found[name] = logme(kept.splits["train"], kept.labels["train"])
    return found


def choose_teachers(asked: str, ranked: dict[str, LogME]) -> list[str]:
    """The K members of highest LogME for a number K, or the members of a comma-separated list.

    Raises ZoolibError for a number outside 1..m, an unknown name, or a name given twice.
    """
    check_option("teachers", asked, "cls", list(ranked))
    names = split_names(asked)
    if len(names) == 1 and names[0].isdigit():
        return sorted(ranked, key=lambda name: -ranked[name].score)[: int(names[0])]
    return names


_SMALL = (
    "settings of this profile; the published ones are learning rate 1e-3 (head 1e-2), 9,050 iterations, a step at 6,000"
)


def b_tuning(ctx: Context) -> Outcome:
    """The teachers are the top K by LogME or those named; their weights are the softmax of LogME / temperature."""
    ranked = posteriors(ctx, ctx.hub.names)
    names = choose_teachers(str(ctx.spec.option("teachers")), ranked)
    weights = softmax_weights({name: ranked[name].score for name in names}, float(ctx.spec.option("temperature")))
    teachers = [(ctx.hub.model(name), ranked[name].weights) for name in names]
    own, trade_off = ranked[ctx.spec.member].weights, float(ctx.spec.option("trade_off"))
    method = BTuning(ctx.hub.model(ctx.spec.member), ctx.task, own, teachers, list(weights.values()), trade_off)
    shown = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    notes = [
        f"teachers and their weights: {shown}",
        _SMALL,
    ]
    return ctx.fit(method, notes)


def feature_distillation(ctx: Context) -> Outcome:
    """The same teachers, all alike, through learned linear maps of features."""
    asked = str(ctx.spec.option("teachers"))
    ranked = posteriors(ctx, ctx.hub.names)
    names = choose_teachers(asked, ranked)
    trade_off = float(ctx.spec.option("trade_off"))
    method = FeatureDistillation(
        ctx.hub.model(ctx.spec.member), ctx.task, [ctx.hub.model(name) for name in names], trade_off
    )
    notes = [f"teachers: {', '.join(names)}", "squared distance averaged over dimensions, not summed", _SMALL]
    return ctx.fit(method, notes)
