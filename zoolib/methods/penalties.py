"""Networks that fine-tune one member under a regulariser: L2-SP, EWC, DELTA, LwF, BSS, Co-Tuning and Bi-Tuning."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoolib import regularizers
from zoolib.hub import HubModel
from zoolib.method import Output
from zoolib.methods.guided import Guided, Maps, WithHead
from zoolib.tasks import Task

Terms = dict[str, Tensor]


class Anchored(Guided):
    """Weights pulled back to their start: L2-SP, and EWC with a Fisher information for each weight."""

    weight_decay = 0.0

    def __init__(
        self, backbone: HubModel, task: Task, backbone_weight: float, head_weight: float,
        fisher: list[Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backbone, task)
        self.backbone_weight, self.head_weight, self.diagonal = backbone_weight, head_weight, fisher is not None
        for index, parameter in enumerate(backbone.parameters()):
            self.register_buffer(f"anchor{index}", parameter.detach().clone(), persistent=False)
            if fisher is not None:
                self.register_buffer(f"fisher{index}", fisher[index], persistent=False)

    def _kept(self, name: str) -> Iterator[Tensor]:
        return (self.get_buffer(f"{name}{index}") for index, _ in enumerate(self.backbone.parameters()))

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> Terms:
        """task; anchor, the backbone's distance from its start; head, half its squared norm."""
        own = self.backbone.parameters()
        if self.diagonal:
            distance = regularizers.fisher_distance(own, self._kept("anchor"), self._kept("fisher"))
        else:
            distance = regularizers.squared_distance(own, self._kept("anchor"))
        head = regularizers.squared_distance(self.head.parameters())
        terms = super().loss(output, target, task, progress)
        return terms | {"anchor": self.backbone_weight * distance, "head": self.head_weight * head}


class Delta(Guided):
    """Feature maps held near the pretrained ones, filter by filter (Li et al., ICLR 2019)."""

    weight_decay = 0.0

    def __init__(
        self, backbone: HubModel, task: Task, layers: list[str], weights: list[Tensor],
        backbone_weight: float, head_weight: float,
    ) -> None:  # fmt: skip
        super().__init__(backbone, task)
        self.backbone_weight, self.head_weight, self.layers = backbone_weight, head_weight, layers
        source = self.freeze("source", copy.deepcopy(backbone))
        self.own_maps, self.source_maps = Maps(backbone, layers), Maps(source, layers)
        for index, weight in enumerate(weights):
            self.register_buffer(f"attention{index}", weight, persistent=False)

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> Terms:
        """task; behaviour, the distance of the maps; head, half its squared norm."""
        self.ask("source", output.aux["images"])
        attention = [self.get_buffer(f"attention{index}") for index in range(len(self.layers))]
        distance = regularizers.behaviour(self.own_maps.take(), self.source_maps.take(), attention)
        head = regularizers.squared_distance(self.head.parameters())
        terms = super().loss(output, target, task, progress)
        return terms | {"behaviour": self.backbone_weight * distance, "head": self.head_weight * head}


class SourceHead(Guided):
    """A second head, the pretrained one, trained along: the shared part of LwF and Co-Tuning."""

    def __init__(self, backbone: HubModel, source_head: nn.Module, task: Task, trade_off: float) -> None:
        super().__init__(backbone, task)
        self.source_head, self.trade_off = source_head, trade_off


class LwF(SourceHead):
    """Learning without forgetting: the source head answers as the pretrained network did (Li and Hoiem, ECCV 2016)."""

    def __init__(
        self, backbone: HubModel, source_head: nn.Module, task: Task, trade_off: float, temperature: float
    ) -> None:
        super().__init__(backbone, source_head, task, trade_off)
        self.temperature = temperature
        self.freeze("source", WithHead(backbone, source_head))

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> Terms:
        """task; distillation from the pretrained network's source logits."""
        teacher = self.ask("source", output.aux["images"])
        own = self.source_head(output.aux["features"])
        term = self.trade_off * regularizers.distillation(own, teacher, self.temperature)
        return super().loss(output, target, task, progress) | {"distillation": term}


class CoTuning(SourceHead):
    """The source head learns p(source class | target class) (You et al., NeurIPS 2020)."""

    relation: Tensor

    def __init__(
        self, backbone: HubModel, source_head: nn.Module, task: Task, relation: Tensor, trade_off: float
    ) -> None:
        super().__init__(backbone, source_head, task, trade_off)
        self.register_buffer("relation", relation, persistent=False)  # (C, Cs)

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> Terms:
        """task; source, the cross-entropy of the source head to the relation's row of the label."""
        own = self.source_head(output.aux["features"])
        term = self.trade_off * regularizers.soft_cross_entropy(own, self.relation[target])
        return super().loss(output, target, task, progress) | {"source": term}


class BSS(Guided):
    """Batch spectral shrinkage (Chen et al., NeurIPS 2019)."""

    def __init__(self, backbone: HubModel, task: Task, trade_off: float, smallest: int) -> None:
        super().__init__(backbone, task)
        self.trade_off, self.smallest = trade_off, smallest

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> Terms:
        """task; shrinkage of the batch's smallest singular values."""
        term = self.trade_off * regularizers.batch_spectral_shrinkage(output.aux["features"], self.smallest)
        return super().loss(output, target, task, progress) | {"shrinkage": term}


class BiTuning(Guided):
    """Contrastive losses on classifier and projection over queues filled by a slow copy (Zhong et al. 2020).

    The queues hold the last K keys of each class. Copy and queues are part of the state, so that a run can be resumed.
    All that is compared has length 1, rows of the classifier with their bias and features with a 1 appended, as in the
    published code: the temperature is one of cosines. As there, the classifier itself learns from the task alone.
    """

    features: Tensor
    projections: Tensor
    position: Tensor

    def __init__(
        self, backbone: HubModel, task: Task, num_classes: int, trade_off: float, queue: int, momentum: float,
        temperature: float, projection: int,
    ) -> None:  # fmt: skip
        super().__init__(backbone, task)
        self.projector = nn.Linear(backbone.num_features, projection)
        self.trade_off, self.momentum, self.temperature, self.queue = trade_off, momentum, temperature, queue
        self.freeze("keys", copy.deepcopy(nn.ModuleDict({"backbone": backbone, "projector": self.projector})))
        for name, width in (("features", backbone.num_features + 1), ("projections", projection)):
            filled = F.normalize(torch.randn(num_classes, queue, width), dim=-1)
            self.register_buffer(name, filled)  # (C, K, width)
        self.register_buffer("position", torch.zeros(num_classes, dtype=torch.long))

    def get_extra_state(self) -> dict[str, Tensor]:
        """The slow copy, which is not counted as part of the model."""
        return dict(self.__dict__["frozen"]["keys"].state_dict())

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of get_extra_state."""
        self.__dict__["frozen"]["keys"].load_state_dict(state)

    def loss(self, output: Output, target: Tensor, task: Task, progress: float) -> Terms:
        """task; classifier, the label's row of the head against features; projection, between projected features."""
        query, keys = _with_one(output.aux["features"]), self.__dict__["frozen"]["keys"]
        with torch.no_grad():
            self._follow(keys)
            slow = keys["backbone"](output.aux["images"])
            key, slow = _with_one(slow), F.normalize(keys["projector"](slow).float(), dim=1)
            weight, bias = self.head.get_parameter("weight"), self.head.get_parameter("bias")
            rows = F.normalize(torch.cat([weight, bias[:, None]], 1).float(), dim=1)[target]  # (B, D + 1)
        classes, each = len(self.position), self.queue
        positive = torch.arange(classes, device=target.device).repeat_interleave(each) == target[:, None]
        positive = torch.cat([torch.ones_like(positive[:, :1]), positive], 1)  # (B, 1 + C K)
        by_class = _similarities(rows, query, self.features)
        projected = F.normalize(self.projector(output.aux["features"]).float(), dim=1)
        by_key = _similarities(projected, slow, self.projections)
        terms = super().loss(output, target, task, progress)
        terms["classifier"] = self.trade_off * regularizers.contrast(by_class / self.temperature, positive)
        terms["projection"] = self.trade_off * regularizers.contrast(by_key / self.temperature, positive)
        self._enqueue(key, slow, target)
        return terms

    def _follow(self, keys: nn.Module) -> None:
        """Move the slow copy towards the network."""
        for name in ("backbone", "projector"):
            own, other = getattr(self, name), keys.get_submodule(name)
            for mine, slow in zip(own.parameters(), other.parameters(), strict=True):
                slow.lerp_(mine, 1 - self.momentum)
            for now, before in zip(own.buffers(), other.buffers(), strict=True):
                before.copy_(now)

    @torch.no_grad()
    def _enqueue(self, key: Tensor, projected: Tensor, target: Tensor) -> None:
        features, projections = self.features.clone(), self.projections.clone()  # the old ones are in the graph
        for row, label in enumerate(target.tolist()):
            slot = int(self.position[label])
            features[label, slot], projections[label, slot] = key[row], projected[row]
            self.position[label] = (slot + 1) % self.queue
        self.features, self.projections = features, projections


def _with_one(features: Tensor) -> Tensor:
    """(B, D) -> (B, D + 1) of length 1."""
    return F.normalize(F.pad(features.float(), (0, 1), value=1.0), dim=1)


def _similarities(own: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """Products of (B, D) with their own keys (B, D) and with all of the queue (C, K, D) -> (B, 1 + C K)."""
    return torch.cat([(own * key).sum(1, keepdim=True), regularizers.product(own, queue.flatten(0, 1).T)], 1)
