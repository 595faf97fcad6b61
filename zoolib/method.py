"""The training interface: what a transfer method is to the loop that fits it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from zoolib.tasks import Task


@dataclass
class Output:
    """What a method says of a batch: what the task scores, and what a figure may want to see."""

    prediction: Tensor  # logits (B, C)
    aux: dict[str, Tensor] = field(
        default_factory=dict
    )  # "weights" (B, m), "gates" (B, layers, m), "members" (B, m, C), …


class Method(nn.Module, ABC):
    """A module that maps images to an Output and names the terms it minimises."""

    #: aux entries worth keeping for each test sample, and the names along their first dimension after the batch
    recorded: dict[str, list[str]] = {}  # noqa: RUF012 (replaced on the instance, never mutated)

    @abstractmethod
    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> Output."""

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> dict[str, Tensor]:
        """Named scalar terms; their sum is minimised. `progress` runs from 0 to 1 over the fit."""
        return {"task": task.loss(output.prediction, target)}

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser: by default one, at the given rate, as in Zoo-Tuning's protocol."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def inference_parameters(self) -> int:
        """How many numbers must be kept to use the trained method; by default every parameter."""
        return sum(p.numel() for p in self.parameters())
