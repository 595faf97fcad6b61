"""Pretexts with dense labels: a decoder over a network's maps, thrown away afterwards, and three tasks for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib.hub import HubModel
from zoolib.method import Method, Output
from zoolib.pretraining import scores
from zoolib.spec import ZoolibError

SIDE = 32  # pixels of a scene


class Pretext:
    """What the training loop asks of a task; a pretext is fitted alone, so it aggregates nothing."""

    metric: str
    outputs: int  # channels of the decoder's last layer
    side: int  # of the decoder's map

    def head(self, num_features: int) -> nn.Module:
        """The decoder's last layer, a 1x1 convolution."""
        return nn.Conv2d(num_features, self.outputs, 1)

    def aggregator(self, num_models: int) -> nn.Module:
        """Raises ZoolibError: several networks are never joined on a pretext."""
        raise ZoolibError("a pretext trains one network; use a classification task to join several")

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean of the samples' losses."""
        return self.sample_loss(prediction, target).mean()

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B,)."""
        raise NotImplementedError

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """The pretext's metric by its name."""
        raise NotImplementedError


class Dense(Method):
    """A backbone, a top-down decoder over its maps up to the task's resolution (Lin et al. 2017), and a head."""

    def __init__(self, backbone: HubModel, task: Pretext, width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        channels: list[int] = list(backbone.backbone.widths)  # type: ignore[arg-type]
        self.first = [SIDE >> (level + 1) for level in range(len(channels))].index(task.side)
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels[self.first :])
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )  # fmt: skip
        self.head = task.head(width)

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, 32, 32) in [0, 1] -> the head's map (B, outputs, side, side)."""
        maps = self.backbone.backbone.maps(self.backbone.normalise(x))[self.first :]  # type: ignore[operator]
        out = self.lateral[-1](maps[-1])
        for lateral, finer in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
            out = lateral(finer) + F.interpolate(out, scale_factor=2, mode="nearest")
        return Output(self.head(self.smooth(out)))


class Segmentation(Pretext):
    """The class of every pixel: targets (B, 32, 32), predictions (B, classes, 16, 16); mean intersection over union."""

    metric, side = "mean_iou", 16

    def __init__(self, classes: int) -> None:
        self.outputs = classes

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of a sample's pixels: (B,)."""
        return F.cross_entropy(self.full(prediction), target.long(), reduction="none").mean((1, 2))

    def full(self, prediction: Tensor) -> Tensor:
        """Logits of every pixel (B, classes, 32, 32)."""
        return F.interpolate(prediction.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)

    def decode(self, prediction: Tensor) -> Tensor:
        """The class of every pixel (B, 32, 32)."""
        return self.full(prediction).argmax(1)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Mean over classes of intersection over union, in percent."""
        return {self.metric: scores.mean_iou(self.decode(prediction).numpy(), target.numpy(), self.outputs)}


class Keypoints(Pretext):
    """Where J named points are: targets (B, J, 3) as x, y in pixels and whether it is seen, predictions (B, J, 16, 16).

    One softmax over places for each point (as in Mask R-CNN's keypoint head, He et al. 2017).
    """

    metric, side = "pck", 16

    def __init__(self, points: int) -> None:
        self.outputs = points

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of the seen points' cells, averaged over a sample's points: (B,)."""
        cell = (target[..., :2] * self.side / SIDE).clamp(0, self.side - 1).nan_to_num(0).long()
        index = cell[..., 1] * self.side + cell[..., 0]  # (B, J)
        each = F.cross_entropy(prediction.float().flatten(2).transpose(1, 2), index, reduction="none")
        return (each * target[..., 2]).sum(1) / target[..., 2].sum(1).clamp(min=1)

    def decode(self, prediction: Tensor) -> Tensor:
        """The points (B, J, 2) in pixels: the mean place of the 3x3 cells around the likeliest one."""
        count, points = prediction.shape[:2]
        p = F.pad(prediction.float().flatten(2).softmax(-1).view(count, points, self.side, self.side), (1, 1, 1, 1))
        best = p[..., 1:-1, 1:-1].flatten(2).argmax(-1)  # (B, J)
        y, x = best // self.side, best % self.side
        total, sums = torch.zeros(count, points), torch.zeros(count, points, 2)
        b, j = torch.arange(count)[:, None], torch.arange(points)[None]
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                share = p[b, j, y + 1 + dy, x + 1 + dx]
                total += share
                sums += share[..., None] * torch.stack([x + dx, y + dy], -1)
        return (sums / total[..., None] + 0.5) * (SIDE / self.side)

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """The share of seen points found within 2 pixels, in percent, and the mean distance in pixels."""
        return scores.keypoint_errors(self.decode(prediction).numpy(), target.numpy())


class Detection(Pretext):
    """Boxes and classes of objects without anchors, as centres on an 8x8 grid (after Zhou et al. 2019, CenterNet).

    Targets (B, K, 5): class, -1 for none, and left, top, right, bottom in pixels. Predictions (B, classes + 4, 8, 8).
    """

    metric, side = "ap50", 8

    def __init__(self, classes: int) -> None:
        self.classes, self.outputs = classes, classes + 4

    def head(self, num_features: int) -> nn.Module:
        """A 1x1 convolution whose class scores start low, since most cells hold no centre."""
        layer = nn.Conv2d(num_features, self.outputs, 1)
        nn.init.normal_(layer.weight, std=0.01)
        with torch.no_grad():
            assert layer.bias is not None
            layer.bias.zero_()
            layer.bias[: self.classes] = -4.0
        return layer

    def sample_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Focal loss of the cells' classes and smooth L1 of the boxes, over the number of objects: (B,)."""
        prediction, stride = prediction.float(), SIDE / self.side
        there = target[..., 0] >= 0  # (B, K)
        boxes = target[..., 1:].nan_to_num(0) / stride
        centre, extent = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=0.1)
        cell = centre.clamp(0, self.side - 1e-3).floor()
        b, k = there.nonzero(as_tuple=True)
        x, y = cell[b, k, 0].long(), cell[b, k, 1].long()
        wanted = torch.zeros_like(prediction[:, : self.classes])
        wanted[b, target[b, k, 0].long(), y, x] = 1.0
        logits = prediction[:, : self.classes]
        crossed = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        focal = (crossed * (wanted - logits.sigmoid()).square()).sum((1, 2, 3))
        goal = torch.cat([centre[b, k] - cell[b, k] - 0.5, (extent[b, k] / 2).log()], 1)  # (objects, 4)
        off = F.smooth_l1_loss(prediction[b, self.classes :, y, x], goal, reduction="none").sum(1)
        return (focal + torch.zeros_like(focal).index_add(0, b, 2 * off)) / there.sum(1).clamp(min=1)

    def decode(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, classes, 8, 8), zero but at peaks of their 3x3 surroundings, and boxes (B, 8, 8, 4) in pixels."""
        prediction, stride = prediction.float(), SIDE / self.side
        p = prediction[:, : self.classes].sigmoid()
        p = p * (p == F.max_pool2d(p, 3, 1, 1))
        cells = torch.arange(self.side, dtype=torch.float32) + 0.5
        offset = prediction[:, self.classes :].permute(0, 2, 3, 1)
        middle = torch.stack([cells.expand(self.side, -1), cells[:, None].expand(-1, self.side)], -1)
        centre, half = middle + offset[..., :2], offset[..., 2:].clamp(-4, 2).exp()
        return p, stride * torch.cat([centre - half, centre + half], -1)

    def detections(self, prediction: Tensor, least: float = 0.05) -> scores.Detections:
        """Every peak of at least that score: image, class, score and box."""
        p, boxes = self.decode(prediction)
        image, label, y, x = (p >= least).nonzero(as_tuple=True)
        found = (image, label, p[image, label, y, x], boxes[image, y, x])
        return scores.Detections(*(part.numpy() for part in found))

    def metrics(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Average precision at an overlap of one half, mean over the classes, in percent."""
        return {self.metric: scores.average_precision(self.detections(prediction), target.numpy(), self.classes)}
