"""The encoder slot of the agent's network: what a transfer method changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib import losses
from zoolib.layers import surgery
from zoolib.layers.pathway import dispatch, top_k_mask
from zoolib.spec import ZoolibError

FEATURES = 576  # 64 channels of 3 x 3
MemberLoss = Callable[[Tensor], Tensor]  # features (B, m, 576) -> the task loss of each model and sample (B, m)


class Convolutions(nn.Module):
    """Data-Efficient Rainbow's two convolutions: 32 and 64 filters of 5 x 5, stride 5, no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 32, 5, 5)
        self.conv2 = nn.Conv2d(32, 64, 5, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, 84, 84) in [0, 1] -> (B, 64, 3, 3)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class Encoder(nn.Module):
    """Observations (B, 4, 84, 84) in [0, 1] -> features (B, 576), and named tensors to record or to penalise."""

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and aux."""
        raise NotImplementedError

    def penalties(self, aux: dict[str, Tensor], member_loss: MemberLoss, progress: Tensor) -> dict[str, Tensor]:
        """Named scalar terms beside the task loss; `progress` runs from 0 to 1 over the run."""
        return {}

    def shown(self, aux: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a figure shows of one observation: named scalars, such as `weight:seaquest`."""
        return {}


class Plain(Encoder):
    """Two convolutions, random or from one source."""

    def __init__(self, convolutions: Convolutions | None = None) -> None:
        super().__init__()
        self.convolutions = convolutions or Convolutions()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 4, 84, 84) -> (B, 576)."""
        return self.convolutions(x).flatten(1), {}


class Aggregated(Encoder):
    """Zoo-Tuning (ICML 2021, supplement 1.1): the sources' two convolutions aggregated, one gate a sample and layer.

    The gate of the first convolution sees the mean greys of four nearly equal frames through two ReLU units without a
    bias: a unit whose weights sum below zero as drawn would be zero on almost every frame. Its sign is flipped.
    """

    def __init__(self, sources: Sequence[Convolutions], names: Sequence[str], alignment: str = "all") -> None:
        super().__init__()
        self.convolutions = surgery.aggregate(sources, alignment, strategy="stacked")
        self._wake(self.convolutions.get_parameter("conv1.gate.0.weight"))
        self.names = list(names)

    @staticmethod
    @torch.no_grad()
    def _wake(weight: Tensor) -> None:
        """Flip the units (rows) of weight (h, 4) that are dead on equal positive inputs; draws nothing.

        The weights are drawn symmetrically, so this is their distribution given that the sum is positive.
        """
        weight.mul_(torch.where(weight.sum(1, keepdim=True) < 0, -1.0, 1.0))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 4, 84, 84) -> (B, 576); aux: gates (B, 2, m)."""
        features = self.convolutions(x).flatten(1)
        return features, {"gates": torch.stack(list(surgery.gates(self.convolutions).values()), 1)}

    def shown(self, aux: dict[str, Tensor]) -> dict[str, Tensor]:
        """`gate:conv1:<source>` and `gate:conv2:<source>`."""
        layers = list(surgery.gate_layers(self.convolutions))
        return {
            f"gate:{layer}:{name}": aux["gates"][0, row, column]
            for row, layer in enumerate(layers)
            for column, name in enumerate(self.names)
        }


class RouteGenerator(nn.Module):
    """Hub-Pathway's G (eq. 3) for observations: softmax(G_p(x) + eps * softplus(G_n(x))), eps ~ N(0, 1) in training.

    G_p and G_n are the agent's own two convolutions at a small width and a linear layer: the paper does not say what
    generates the pathway weights of its control experiments.
    """

    def __init__(self, num_models: int, width: int) -> None:
        super().__init__()
        self.preference, self.noise = (self._branch(num_models, width) for _ in range(2))

    @staticmethod
    def _branch(num_models: int, width: int) -> nn.Sequential:
        convolutions = [nn.Conv2d(4, width, 5, 5), nn.ReLU(), nn.Conv2d(width, 2 * width, 5, 5), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(18 * width, num_models))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, 84, 84) in [0, 1] -> pathway weights (B, m), each row sums to 1."""
        logits = self.preference(x)
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(x))
        return logits.softmax(-1)


class Pathways(Encoder):
    """Hub-Pathway (NeurIPS 2022): each observation passes the k source encoders that G weighs highest (eq. 1 and 2).

    The aggregator is a 1x1 convolution of the concatenated weighted feature maps that starts as their sum. Raises
    ZoolibError for a k outside 1 to m.
    """

    def __init__(
        self,
        sources: Sequence[Convolutions],
        names: Sequence[str],
        top_k: int = 1,
        explore_weight: float = 0.3,
        generator_width: int = 8,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= len(sources):
            raise ZoolibError(f"top_k is {top_k}; use 1 to {len(sources)}, the number of source policies")
        self.sources, self.names = nn.ModuleList(sources), list(names)
        self.generator = RouteGenerator(len(sources), generator_width)
        self.aggregator = nn.Conv2d(64 * len(sources), 64, 1)
        with torch.no_grad():
            self.aggregator.weight.copy_(torch.eye(64).repeat(1, len(sources))[..., None, None])
            nn.init.zeros_(self.aggregator.bias)  # type: ignore[arg-type]
        self.top_k, self.explore_weight = top_k, explore_weight

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 4, 84, 84) -> (B, 576); aux: weight (B, m), active (B, m), members (B, m, 64, 3, 3)."""
        weights = self.generator(x)  # (B, m)
        active = top_k_mask(weights, self.top_k)
        members = self._members(x, active)  # (B, m, 64, 3, 3), zeros where inactive
        kept = torch.where(active, weights, torch.zeros_like(weights))  # not renormalised
        features = self.aggregator((kept[..., None, None, None] * members).flatten(1, 2))
        return features.flatten(1), {"weight": weights, "active": active, "members": members}

    def _members(self, x: Tensor, active: Tensor) -> Tensor:
        """Routed sparsely; a compiled function needs fixed shapes, so there inactive ones are computed and masked."""
        if torch.compiler.is_compiling():
            dense = torch.stack([source(x) for source in self.sources], 1)
            return torch.where(active[..., None, None, None], dense, dense.new_zeros(()))
        return dispatch(list(self.sources), x, active)

    def penalties(self, aux: dict[str, Tensor], member_loss: MemberLoss, progress: Tensor) -> dict[str, Tensor]:
        """explore (eq. 4) and exploit (eq. 5): the agent's loss on each active encoder's own features."""
        chosen = aux["active"].float().topk(self.top_k, dim=1).indices  # (B, k)
        members = aux["members"].flatten(2)  # (B, m, 576)
        passed = members.gather(1, chosen[..., None].expand(-1, -1, FEATURES))  # (B, k, 576)
        each = member_loss(passed)
        return {
            "explore": self.explore_weight * losses.explore(aux["weight"]),
            "exploit": losses.exploit(each, torch.ones_like(each, dtype=torch.bool)),
        }

    def shown(self, aux: dict[str, Tensor]) -> dict[str, Tensor]:
        """`weight:<source>`."""
        return {f"weight:{name}": aux["weight"][0, column] for column, name in enumerate(self.names)}


class KnowledgeFlow(Encoder):
    """Knowledge Flow (Liu et al. 2019): a new network beside frozen sources, mixed layer by layer.

    Layer l passes on p_0 s_l + sum_i p_i Q_i t_il with p = softmax of learned logits; s is the student's layer, t_il
    source i's, and Q_i a 1x1 convolution that starts at the identity. The dependency loss -sum_l log p_0 grows with
    progress, so that the student is pushed to stand on its own; what mixture is left at the end is kept in evaluation.
    """

    def __init__(self, sources: Sequence[Convolutions], names: Sequence[str], dependency_weight: float = 0.1) -> None:
        super().__init__()
        self.student = Convolutions()
        self.sources = nn.ModuleList(sources).requires_grad_(False)
        self.names, self.dependency_weight = list(names), dependency_weight
        self.logits = nn.Parameter(torch.zeros(2, 1 + len(sources)))  # a row a layer; the student comes first
        self.maps = nn.ModuleList(nn.ModuleList(self._identity(channels) for _ in sources) for channels in (32, 64))

    @staticmethod
    def _identity(channels: int) -> nn.Conv2d:
        layer = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return layer

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 4, 84, 84) -> (B, 576); aux: share (2, 1 + m)."""
        share = self.logits.softmax(-1)
        student, taught = x, [x] * len(self.sources)
        for row, (layer, maps) in enumerate(zip(("conv1", "conv2"), self.maps, strict=True)):
            student = share[row, 0] * F.relu(self.student.get_submodule(layer)(student))
            with torch.no_grad():
                taught = [
                    F.relu(source.get_submodule(layer)(t)) for source, t in zip(self.sources, taught, strict=True)
                ]
            for column, (adapt, t) in enumerate(zip(maps, taught, strict=True), start=1):  # type: ignore[call-overload]
                student = student + share[row, column] * adapt(t)
        return student.flatten(1), {"share": share}

    def penalties(self, aux: dict[str, Tensor], member_loss: MemberLoss, progress: Tensor) -> dict[str, Tensor]:
        """The dependency loss."""
        return {"dependency": -self.dependency_weight * progress * aux["share"][:, 0].log().sum()}

    def shown(self, aux: dict[str, Tensor]) -> dict[str, Tensor]:
        """`gate:conv1:student`, `gate:conv1:<source>`, …"""
        return {
            f"gate:{layer}:{name}": aux["share"][row, column]
            for row, layer in enumerate(("conv1", "conv2"))
            for column, name in enumerate(["student", *self.names])
        }
