"""One network: from scratch, or fine-tuned from one member of the hub."""

from __future__ import annotations

from torch import Tensor, nn

from zoolib.hub import HubModel
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome
from zoolib.tasks import Task


class Single(Method):
    """A backbone under a new head."""

    def __init__(self, backbone: HubModel, task: Task) -> None:
        super().__init__()
        self.backbone = backbone
        self.head: nn.Module = task.head(backbone.num_features)

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C)."""
        return Output(self.head(self.backbone(x)))


def scratch(ctx: Context) -> Outcome:
    """The first member's architecture, randomly initialised by the run's seed."""
    return ctx.fit(Single(ctx.hub.model(ctx.hub.names[0], pretrained=False), ctx.task))


def finetune(ctx: Context) -> Outcome:
    """All weights of the member that the spec names; they are kept for the methods that start from them."""
    method = Single(ctx.hub.model(ctx.spec.member), ctx.task)
    outcome = ctx.fit(method)
    ctx.keep(method)
    return outcome
