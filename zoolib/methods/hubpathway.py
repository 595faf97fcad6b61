"""Hub-Pathway (NeurIPS 2022): data-dependent top-k routes through a hub of different pretrained models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoolib import losses
from zoolib.hub import HubModel
from zoolib.layers.pathway import PathwayGenerator, dispatch, top_k_mask
from zoolib.method import Method, Output
from zoolib.recipe import Context, Outcome
from zoolib.spec import ZoolibError
from zoolib.tasks import Task


class HubPathway(Method):
    """A([G(x)_i * Theta_i(x)]_i) over the k models that G(x) weighs highest (eq. 1 and 2)."""

    def __init__(
        self,
        members: list[HubModel],
        task: Task,
        generator: nn.Module,
        top_k: int = 2,
        explore_weight: float = 0.3,
        frozen_bn: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= len(members):
            raise ZoolibError(f"top_k is {top_k}; use 1 to {len(members)}, the number of models in the hub")
        heads = [task.head(member.num_features) for member in members]
        self.members = nn.ModuleList(nn.Sequential(member, head) for member, head in zip(members, heads, strict=True))
        self.generator = generator
        self.aggregator = task.aggregator(len(members))
        self.top_k = top_k
        self.explore_weight = explore_weight  # lambda
        self.frozen_bn = frozen_bn
        self.recorded = {"weight": [member.name for member in members]}

    def train(self, mode: bool = True) -> HubPathway:
        """As nn.Module.train; with `frozen_bn` the members' batch norms stay at their running statistics."""
        super().train(mode)
        if mode and self.frozen_bn:
            for module in self.members.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C); aux: weight (B, m), active (B, m), members (B, m, C)."""
        weights = self.generator(x)  # (B, m), rows sum to 1
        active = top_k_mask(weights, self.top_k)
        logits = dispatch(list(self.members), x, active)  # (B, m, C), zeros where inactive
        kept = torch.where(active, weights, torch.zeros_like(weights))  # eq. 1; not renormalised
        prediction = self.aggregator((kept[..., None] * logits).flatten(1))
        return Output(prediction, {"weight": weights, "active": active, "members": logits})

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """The terms of eq. 6, all in one backward pass.

        explore depends on G alone and exploit on the members alone, so their sum with the task loss gives both
        arg-mins: G and A descend task + lambda explore, the members descend task + exploit.
        """
        members = output.aux["members"]  # (B, m, C)
        batch, count = members.shape[:2]
        repeated = target.repeat_interleave(count, dim=0)
        each = task.sample_loss(members.flatten(0, 1), repeated).view(batch, count)
        return {
            "task": task.loss(output.prediction, target),
            "explore": self.explore_weight * losses.explore(output.aux["weight"]),
            "exploit": losses.exploit(each, output.aux["active"]),
        }


def hub_pathway(ctx: Context) -> Outcome:
    """Hub-Pathway with the spec's k, lambda and generator."""
    option = ctx.spec.option
    members = ctx.hub.models()
    generator = PathwayGenerator(len(members), option("generator_width"), option("generator_size"))
    method = HubPathway(members, ctx.task, generator, option("top_k"), option("explore_weight"))
    deviations = [
        "the aggregator starts as the sum of the weighted logits; the paper does not say how it starts",
        "momentum is Nesterov's and weight decay 5e-4, as in Zoo-Tuning's code; the paper names neither",
    ]
    if (option("generator_width"), option("generator_size")) != (64, 224):
        small = f"width {option('generator_width')} on {option('generator_size')} px"
        deviations.append(
            f"the generator is a 9-layer ResNet of {small}, not of width 64 on 224 px, to fit a small machine"
        )
    return ctx.fit(method, deviations)
