"""Tasks: what a method needs to know of its target: the head a backbone gets, the loss, the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib import heatmaps, losses, nme
from zoolib.data.schema import Landmarks
from zoolib.spec import unknown

SHOWN = 24  # test faces whose predicted points a record keeps


class Task(Protocol):
    """What training a method takes; predictions are (B, ...) as the head makes them."""

    metric: str  # the one that methods are compared by

    def head(self, num_features: int) -> nn.Module: ...
    def aggregator(self, num_models: int) -> nn.Module: ...
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor: ...
    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor: ...
    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]: ...


class TargetTask(Task, Protocol):
    """What comparing methods on a target takes besides: joining predictions, and keeping what a record shows."""

    higher_is_better: bool
    spatial: bool  # whether heads read a backbone's last feature map (B, C, h, w), not its mean (B, C)

    def soft_target(self, predictions: Sequence[Tensor], temperature: float) -> Tensor: ...
    def distillation(self, prediction: Tensor, soft_target: Tensor, temperature: float) -> Tensor: ...
    def combine(self, members: Sequence[np.ndarray], how: str) -> np.ndarray: ...
    def references(self, target: Tensor) -> dict[str, float]: ...
    def kept(self, prediction: Tensor) -> np.ndarray: ...
    def samples(self, prediction: Tensor, target: Tensor) -> dict[str, Any]: ...


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def average(members: Sequence[np.ndarray]) -> np.ndarray:
    """Mean probability of the members: m logits (N, C) -> (N, C)."""
    return np.asarray(np.mean([softmax(logits) for logits in members], axis=0))


def votes(members: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the members' votes, ties broken by the mean probability: m logits (N, C) -> (N, C)."""
    chosen = np.mean([np.eye(logits.shape[-1])[logits.argmax(-1)] for logits in members], axis=0)  # (N, C)
    return np.asarray(chosen + average(members) / (2 * len(members)))  # less than half a vote


class Classification:
    """Classification into `num_classes`: linear head, cross-entropy, top-1 accuracy in percent."""

    metric, higher_is_better, spatial = "top1_accuracy", True, False
    COMBINE = {"probabilities": average, "votes": votes}  # noqa: RUF012 (a constant)

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

    def soft_target(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """Mean over the teachers of softmax(z / T): logits (B, C) each -> (B, C), float32."""
        return torch.stack([(logits.float() / temperature).softmax(-1) for logits in predictions]).mean(0)

    def distillation(self, prediction: Tensor, soft_target: Tensor, temperature: float) -> Tensor:
        """T^2 KL of logits (B, C) from a soft target (B, C): see zoolib.losses.distillation."""
        return losses.distillation(prediction, soft_target, temperature)

    def combine(self, members: Sequence[np.ndarray], how: str) -> np.ndarray:
        """Logits of m members (N, C) -> the logarithm of their mean probability, or share of votes, (N, C) float32.

        Raises ZoolibError for an unknown way to combine.
        """
        if how not in self.COMBINE:
            raise unknown("combine", how, self.COMBINE)
        return np.log(self.COMBINE[how](members)).astype(np.float32)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Top-1 accuracy in percent."""
        return {self.metric: 100 * (prediction.argmax(1) == target).double().mean().item()}

    def references(self, target: Tensor) -> dict[str, float]:
        """None: what guessing scores follows from the number of classes."""
        return {}

    def kept(self, prediction: Tensor) -> np.ndarray:
        """Logits as they are kept for the runs that need them."""
        return prediction.numpy()

    def samples(self, prediction: Tensor, target: Tensor) -> dict[str, Any]:
        """Columns of a record's samples: label, prediction, and the prediction's probability."""
        logits = prediction.numpy()
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return {
            "label": target.numpy().astype(np.int32),
            "prediction": logits.argmax(1).astype(np.int32),
            "confidence": (shifted.max(1) / shifted.sum(1)).astype(np.float16),
        }


class HeatmapHead(nn.Module):
    """Three 4x4 transpose convolutions of stride 2, each with batch norm and ReLU, and a 1x1 convolution to K heatmaps.

    Zoo-Tuning, supplement 1.2. Feature map (B, C, h, w) -> (B, K, 8h, 8w), resampled bilinearly to (B, K, size, size)
    where a backbone's stride gives another side. The papers do not give the number of channels; 256 is that of Xiao,
    Wu and Wei (2018), whose head this is.
    """

    def __init__(self, num_features: int, points: int, channels: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (num_features, channels, channels):
            up = nn.ConvTranspose2d(before, channels, 4, 2, 1, bias=False)
            nn.init.normal_(up.weight, std=0.001)
            layers += [up, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.up = nn.Sequential(*layers)
        self.out = nn.Conv2d(channels, points, 1)
        nn.init.normal_(self.out.weight, std=0.001)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, size, size)."""
        maps: Tensor = self.out(self.up(features))
        if maps.shape[-2:] != (self.size, self.size):
            maps = F.interpolate(maps, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return maps


class LandmarkDetection:
    """Landmarks by heatmaps: mean squared error against Gaussians, normalised mean error in percent.

    Targets are points (B, K, 2) in crop coordinates, NaN where not annotated. `mean_face` (K, 2), the mean of the
    training faces, is the reference that a detector must beat.
    """

    metric, higher_is_better, spatial = "nme", False, True

    def __init__(self, landmarks: Landmarks, heatmap_size: int, head_channels: int, mean_face: Tensor) -> None:
        self.landmarks, self.mean_face = landmarks, mean_face
        self.heatmap_size, self.head_channels = heatmap_size, head_channels

    def head(self, num_features: int) -> HeatmapHead:
        """Last feature map (B, num_features, h, w) -> heatmaps (B, K, size, size)."""
        return HeatmapHead(num_features, self.landmarks.points, self.head_channels, self.heatmap_size)

    def aggregator(self, num_models: int) -> nn.Conv2d:
        """Hub-Pathway's A for heatmaps: a 1x1 convolution from m concatenated weighted sets (B, m*K, h, w) to K.

        It is the linear layer of classification at every place, and starts as the sum of the weighted heatmaps; the
        paper does not give A for landmarks.
        """
        points = self.landmarks.points
        layer = nn.Conv2d(num_models * points, points, 1)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(points).repeat(1, num_models)[..., None, None])
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return layer

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of heatmaps (B, K, h, w) against the Gaussians of points (B, K, 2)."""
        return self.sample_loss(prediction, target).mean()

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each face over its annotated points: (B,)."""
        return heatmaps.squared_error(prediction, target, self.landmarks.sigma)

    def soft_target(self, predictions: Sequence[Tensor], temperature: float) -> Tensor:
        """The teachers' mean heatmaps, (B, K, h, w) each -> (B, K, h, w); heatmaps have no temperature."""
        return torch.stack([maps.float() for maps in predictions]).mean(0)

    def distillation(self, prediction: Tensor, soft_target: Tensor, temperature: float) -> Tensor:
        """Mean squared error of heatmaps against a soft target, both (B, K, h, w)."""
        return F.mse_loss(prediction.float(), soft_target)

    def combine(self, members: Sequence[np.ndarray], how: str) -> np.ndarray:
        """Heatmaps of m members (N, K, h, w) -> their mean, float32. Raises ZoolibError for another way to combine."""
        if how != "heatmaps":
            raise unknown("combine", how, ["heatmaps"])
        total = members[0].astype(np.float32)
        for heatmap in members[1:]:
            total += heatmap
        return total / np.float32(len(members))

    def _errors(self, prediction: Tensor, target: Tensor) -> np.ndarray:
        """Normalised mean error of each face, (N,), from heatmaps (N, K, h, w) or points (N, K, 2)."""
        points = heatmaps.decode(prediction) if prediction.dim() == 4 else prediction
        return nme.errors(points.numpy(), target.numpy(), self.landmarks.normaliser_points)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Mean error (nme), failure rates and areas, in percent: see zoolib.nme.summary."""
        return nme.summary(self._errors(prediction, target))

    def references(self, target: Tensor) -> dict[str, float]:
        """nme_mean_face: the error of showing the mean training face everywhere."""
        return {"nme_mean_face": nme.summary(self._errors(self.mean_face.expand(len(target), -1, -1), target))["nme"]}

    def kept(self, prediction: Tensor) -> np.ndarray:
        """Heatmaps as they are kept for the runs that need them: in half precision."""
        return prediction.half().numpy()

    def samples(self, prediction: Tensor, target: Tensor) -> dict[str, Any]:
        """Columns of a record's samples: each face's error, and for some faces the predicted points.

        `nme` is a share, not in percent. `points` holds x0, y0, x1, ... in crop coordinates for SHOWN faces, evenly
        spaced from the best to the worst, and None for the others.
        """
        each = self._errors(prediction, target)
        order = np.argsort(each)  # NaN comes last
        ranks = np.linspace(0, max(int(np.isfinite(each).sum()) - 1, 0), min(SHOWN, len(each))).astype(int)
        points: list[np.ndarray | None] = [None] * len(each)
        for row in order[ranks]:
            points[row] = heatmaps.decode(prediction[row]).float().numpy().ravel()
        return {"nme": each.astype(np.float32), "points": points}
