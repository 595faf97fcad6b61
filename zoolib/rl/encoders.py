"""The encoder slot of the agent's network: what a transfer method changes."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

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
