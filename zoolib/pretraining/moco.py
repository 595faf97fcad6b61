"""MoCo (He et al. 2020): learn features by telling two views of one image from the views of other images."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib.data import augment
from zoolib.hub import HubModel
from zoolib.method import Method, Output
from zoolib.pretraining import scores
from zoolib.pretraining.dense import Pretext


def _projector(features: int, dim: int) -> nn.Sequential:
    """Two layers with batch norms (as in MoCo v3): without them all first embeddings point the same way."""
    return nn.Sequential(
        nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU(),
        nn.Linear(features, dim, bias=False), nn.BatchNorm1d(dim, affine=False),
    )  # fmt: skip


class MoCo(Method):
    """A query encoder trained by InfoNCE against a queue of keys, which its moving average has encoded.

    A view's positive is the other view of its image; its negatives are the queue's keys, of earlier images. The keys'
    batch norms see the batch shuffled and in parts, so that shared statistics do not give the pairs away.
    """

    queue: Tensor
    place: Tensor

    def __init__(
        self,
        backbone: HubModel,
        dim: int = 64,
        length: int = 2048,
        momentum: float = 0.99,
        temperature: float = 0.1,
        parts: int = 4,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = _projector(backbone.num_features, dim)
        self.key_backbone, self.key_projector = copy.deepcopy(backbone), copy.deepcopy(self.projector)
        for parameter in [*self.key_backbone.parameters(), *self.key_projector.parameters()]:
            parameter.requires_grad_(False)
        self.momentum, self.temperature, self.parts = momentum, temperature, parts
        self.register_buffer("queue", F.normalize(torch.randn(length, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, S, S) in [0, 1] -> in training logits (B, 1 + length), the positive first; else features (B, D)
        of unit length.
        """
        if not self.training:
            return Output(F.normalize(self.backbone(x).float(), dim=1))
        query = F.normalize(self.projector(self.backbone(view(x))).float(), dim=1)  # (B, dim)
        with torch.no_grad():
            self._follow()
            key = self._encode(view(x))
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ self.queue.clone().T], 1) / self.temperature
        self._enqueue(key)
        return Output(logits)

    @torch.no_grad()
    def _follow(self) -> None:
        """key <- m key + (1 - m) query, parameter by parameter."""
        for own, keys in ((self.backbone, self.key_backbone), (self.projector, self.key_projector)):
            for parameter, moving in zip(own.parameters(), keys.parameters(), strict=True):
                moving.lerp_(parameter, 1 - self.momentum)

    def _encode(self, x: Tensor) -> Tensor:
        order = torch.randperm(len(x))
        encoded = [self.key_projector(self.key_backbone(x[rows])) for rows in order.chunk(self.parts)]
        return F.normalize(torch.cat(encoded)[order.argsort()].float(), dim=1)

    @torch.no_grad()
    def _enqueue(self, key: Tensor) -> None:
        rows = (self.place + torch.arange(len(key))) % len(self.queue)
        self.queue[rows] = key
        self.place.add_(len(key)).remainder_(len(self.queue))


def view(x: Tensor) -> Tensor:
    """A random crop of each image (B, 3, S, S), mirrored or not, with changed brightness, contrast and saturation."""
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
    size = x.shape[-1]
    out = augment.crop_resize(x, augment.random_boxes(len(x), size, (0.2, 1.0), generator), size)
    drawn = torch.rand(5, len(x), 1, 1, 1, generator=generator)
    out = torch.where(drawn[0] < 0.5, out.flip(-1), out)
    brightness, contrast, saturation = 0.6 + 0.8 * drawn[1:4]
    grey = out.mean(1, keepdim=True)
    out = grey + torch.where(drawn[4] < 0.2, torch.zeros_like(saturation), saturation) * (out - grey)
    middle = out.mean((1, 2, 3), keepdim=True)
    return (brightness * (middle + contrast * (out - middle))).clamp(0, 1).contiguous(memory_format=torch.channels_last)


class Contrast(Pretext):
    """InfoNCE in training; judged by k-nearest-neighbour classification, each feature against all the others."""

    metric = "knn_accuracy"

    def __init__(self, classes: int, neighbours: int = 20) -> None:
        self.classes, self.neighbours = classes, neighbours

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of finding the positive, which is first (InfoNCE): (B,)."""
        return F.cross_entropy(prediction, torch.zeros_like(target), reduction="none")

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Accuracy of the neighbours' vote over features (N, D), in percent."""
        features, labels = prediction.numpy(), target.numpy()
        near = scores.neighbours(features, features, self.neighbours, skip_self=True)
        return {self.metric: 100 * float((scores.vote(near, labels, self.classes) == labels).mean())}
