"""Feature-level baselines of Zoo-Tuning's supplement: concatenated features, taken as they are or distilled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoolib import losses
from zoolib.hub import HubModel
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome
from zoolib.tasks import Task


class FeatureExtraction(Method):
    """FE: a linear classifier on the concatenated penultimate features of all members, which stay as they are."""

    def __init__(self, members: Sequence[HubModel], task: Task) -> None:
        super().__init__()
        self.members = nn.ModuleList(members).requires_grad_(False)
        self.head: nn.Module = task.head(sum(member.num_features for member in members))

    def train(self, mode: bool = True) -> FeatureExtraction:
        """As nn.Module.train; the members stay in evaluation."""
        super().train(mode)
        self.members.eval()
        return self

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C)."""
        with torch.no_grad():
            features = torch.cat([member(x) for member in self.members], 1)  # (B, sum of num_features)
        return Output(self.head(features))


class ConcatDistill(Method):
    """CED: one backbone with a head for each member that imitates its features; the classifier reads all the heads."""

    def __init__(
        self, backbone: HubModel, teachers: Sequence[HubModel], task: Task, feature_weight: float = 1.0
    ) -> None:
        super().__init__()
        widths = [teacher.num_features for teacher in teachers]
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Linear(backbone.num_features, width) for width in widths)
        self.classifier: nn.Module = task.head(sum(widths))
        self.teachers = nn.ModuleList(teachers).requires_grad_(False)
        self.feature_weight = feature_weight

    def train(self, mode: bool = True) -> ConcatDistill:
        """As nn.Module.train; the teachers stay in evaluation."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C); aux in training: mimic and features, both (B, sum d_i)."""
        shared = self.backbone(x)
        mimic = torch.cat([head(shared) for head in self.heads], 1)
        if not self.training:
            return Output(self.classifier(mimic))
        with torch.no_grad():
            features = torch.cat([teacher(x) for teacher in self.teachers], 1)
        return Output(self.classifier(mimic), {"mimic": mimic, "features": features})

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """The task loss and the mean squared distance to the members' features."""
        distance = losses.feature_distance(output.aux["mimic"], output.aux["features"])
        return {"task": task.loss(output.prediction, target), "distill": self.feature_weight * distance}

    def inference_parameters(self) -> int:
        """Backbone, heads and classifier; the teachers are done."""
        kept = (self.backbone, self.heads, self.classifier)
        return sum(p.numel() for module in kept for p in module.parameters())


_ROUND = "trained as every other method, on augmented images in batches; the paper does not say how"


def fe(ctx: Context) -> Outcome:
    """A classifier on the features of the pretrained members."""
    return ctx.fit(FeatureExtraction(ctx.hub.models(), ctx.task), [f"the classifier is {_ROUND}"])


def fe_finetuned(ctx: Context) -> Outcome:
    """A classifier on the features of the fine-tuned members."""
    members = [ctx.finetuned(name)[0] for name in ctx.hub.names]
    return ctx.fit(FeatureExtraction(members, ctx.task), [f"the classifier is {_ROUND}"])


def ced(ctx: Context) -> Outcome:
    """The pretrained members' features distilled into the first member."""
    return _ced(ctx, ctx.hub.models())


def ced_finetuned(ctx: Context) -> Outcome:
    """The fine-tuned members' features distilled into the first member."""
    return _ced(ctx, [ctx.finetuned(name)[0] for name in ctx.hub.names])


def _ced(ctx: Context, teachers: Sequence[HubModel]) -> Outcome:
    backbone = ctx.hub.model(ctx.hub.names[0])
    deviations = [
        f"backbone, heads and classifier are {_ROUND}; features and labels are learned at once, with equal weight",
        "the shared backbone starts as the first pretrained member; the paper does not say how it starts",
    ]
    weight = ctx.spec.option("feature_weight")
    return ctx.fit(ConcatDistill(backbone, teachers, ctx.task, weight), deviations)
