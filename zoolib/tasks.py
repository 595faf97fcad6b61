"""Tasks: the head a backbone gets, the loss, the score."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from zoolib import losses


class Task(Protocol):
    """What a method needs to know of its target task."""

    metric: str

    def head(self, num_features: int) -> nn.Module: ...
    def aggregator(self, num_models: int) -> nn.Module: ...
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor: ...
    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor: ...
    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]: ...


class Classification:
    """Classification into `num_classes`: linear head, cross-entropy, top-1 accuracy in percent."""

    metric = "top1_accuracy"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def head(self, num_features: int) -> nn.Linear:
        """A linear layer (num_features -> num_classes), weights N(0, 0.01), bias 0 (Zoo-Tuning's public code)."""
        layer = nn.Linear(num_features, self.num_classes)
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
        return layer

    def aggregator(self, num_models: int) -> nn.Linear:
        """Hub-Pathway's A: a linear layer from m concatenated weighted logits (B, m*C) to logits (B, C).

        It starts as m identity blocks, the plain sum of the weighted logits; the paper does not say how it starts.
        """
        layer = nn.Linear(num_models * self.num_classes, self.num_classes)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(self.num_classes).repeat(1, num_models))
            layer.bias.zero_()
        return layer

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, C) against labels (B,)."""
        return self.sample_loss(prediction, target).mean()

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of each sample: (B,)."""
        return losses.cross_entropy(prediction, target)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Top-1 accuracy in percent."""
        return {self.metric: 100 * (prediction.argmax(1) == target).double().mean().item()}
