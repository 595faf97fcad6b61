"""Hub-Pathway (NeurIPS 2022): data-dependent top-k routes through a hub of different pretrained models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoolib import losses
from zoolib.deviations import OPTIMISER
from zoolib.hub import HubModel
from zoolib.layers.pathway import PathwayGenerator, RandomPathway, TaskPathway, dispatch, top_k_mask
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
        exploit: bool = True,
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
        self.exploit = exploit
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
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C); aux: weight (B, m), active (B, m), members (B, m, C).

        Where the task predicts heatmaps, C stands for their (K, h, w).
        """
        weights = self.generator(x)  # (B, m), rows sum to 1
        active = top_k_mask(weights, self.top_k)
        logits = dispatch(list(self.members), x, active)  # (B, m, C), zeros where inactive
        return Output(self._join(weights, active, logits), {"weight": weights, "active": active, "members": logits})

    def _join(self, weights: Tensor, active: Tensor, logits: Tensor) -> Tensor:
        """A of the weighted logits of the active members: (B, m), (B, m), (B, m, C) -> (B, C)."""
        kept = torch.where(active, weights, torch.zeros_like(weights))  # eq. 1; not renormalised
        kept = kept.view(*kept.shape, *[1] * (logits.dim() - 2))  # (B, m, 1, ...)
        joined = (kept * logits).flatten(1, 2)  # concatenated over the members
        prediction: Tensor = self.aggregator(joined.to(next(self.aggregator.parameters()).dtype))
        return prediction

    def alternatives(self, x: Tensor) -> dict[str, Tensor]:
        """Every member's own logits (B, C), `member:<name>`, and the aggregate for every k, `k:<k>`, all from one pass.

        The weights do not change with k, so `k:<top_k>` is what forward predicts. None for random weights, which
        another draw would replace.
        """
        if isinstance(self.generator, RandomPathway):
            return {}
        weights = self.generator(x)  # (B, m)
        logits = dispatch(list(self.members), x, torch.ones_like(weights, dtype=torch.bool))  # (B, m, C)
        named = {f"member:{name}": logits[:, i] for i, name in enumerate(self.recorded["weight"])}
        counts = range(1, len(self.members) + 1)
        return named | {f"k:{k}": self._join(weights, top_k_mask(weights, k), logits) for k in counts}

    def summary(self, aux: dict[str, Tensor]) -> dict[str, float]:
        """Of weights (N, m): entropy of their mean (eq. 4, in nats), and mean weight and load of each member.

        The load is the share of images whose route the member is on; the loads add up to k. A hub has collapsed when
        k loads are near 1 and the others near 0, or the entropy is near 0.
        """
        weights = aux["weight"].float()
        mean, load = weights.mean(0), top_k_mask(weights, self.top_k).float().mean(0)
        numbers = {"entropy": losses.entropy(mean).item()}
        for i, name in enumerate(self.recorded["weight"]):
            numbers |= {f"weight:{name}": mean[i].item(), f"load:{name}": load[i].item()}
        return numbers

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """The terms of eq. 6, all in one backward pass.

        explore depends on G alone and exploit on the members alone, so their sum with the task loss gives both
        arg-mins: G and A descend task + lambda explore, the members descend task + exploit. A term that an ablation
        leaves out is not there.
        """
        terms = {"task": task.loss(output.prediction, target)}
        if self.explore_weight:
            terms["explore"] = self.explore_weight * losses.explore(output.aux["weight"])
        if not self.exploit:
            return terms
        members = output.aux["members"]  # (B, m, C)
        batch, count = members.shape[:2]
        repeated = target.repeat_interleave(count, dim=0)
        each = task.sample_loss(members.flatten(0, 1), repeated).view(batch, count)
        return terms | {"exploit": losses.exploit(each, output.aux["active"])}


_START = "the aggregator starts as the sum of the weighted logits; the paper does not say how it starts"


def hub_pathway(ctx: Context) -> Outcome:
    """Hub-Pathway with the spec's k, lambda and generator."""
    return _learned(ctx, explore_weight=ctx.spec.option("explore_weight"))


def no_explore(ctx: Context) -> Outcome:
    """Without the exploration loss, which is lambda = 0; the generator keeps its noise (table 4)."""
    return _learned(ctx, explore_weight=0.0)


def no_exploit(ctx: Context) -> Outcome:
    """Without the loss of each activated member on its own (table 4)."""
    return _learned(ctx, explore_weight=ctx.spec.option("explore_weight"), exploit=False)


def random_path(ctx: Context) -> Outcome:
    """Weights that are drawn and not learned, in training and at test time (table 4)."""
    note = (
        "the random weights are softmax(N(0, 1)), drawn for each image in training and testing; the paper defines none"
    )
    return _fit(ctx, RandomPathway(len(ctx.hub.names)), [note], explore_weight=0.0)


def task_level(ctx: Context) -> Outcome:
    """One learned set of weights for the whole task in the place of the generator."""
    return _fit(ctx, TaskPathway(len(ctx.hub.names)), [], explore_weight=ctx.spec.option("explore_weight"))


def _learned(ctx: Context, **options: Any) -> Outcome:
    """Hub-Pathway with a generator of the spec's size."""
    width, size = ctx.spec.option("generator_width"), ctx.spec.option("generator_size")
    generator = PathwayGenerator(len(ctx.hub.names), width, size)
    small = (
        f"the generator is a 9-layer ResNet of width {width} on {size} px, not of width 64 on 224 px, "
        "to fit a small machine"
    )
    return _fit(ctx, generator, [] if (width, size) == (64, 224) else [small], **options)


def _fit(ctx: Context, generator: nn.Module, deviations: list[str], **options: Any) -> Outcome:
    method = HubPathway(ctx.hub.models(), ctx.task, generator, ctx.spec.option("top_k"), **options)
    if ctx.spec.settings.optimiser == "sgd":
        deviations = [OPTIMISER, *deviations]
    return ctx.fit(method, [_START, *deviations])
