"""What methods share that fine-tune one member under the eye of frozen networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoolib.hub import HubModel
from zoolib.layers.lateral import stages
from zoolib.method import Method, Output
from zoolib.spec import ZoolibError
from zoolib.tasks import Task


class Guided(Method):
    """A backbone under a new head, and frozen networks that move with it but are no part of it.

    The frozen ones stay in evaluation mode, are neither saved nor counted, and see the same images.
    """

    weight_decay: float | None = None  # None: the profile's

    def __init__(self, backbone: HubModel, task: Task) -> None:
        super().__init__()
        self.backbone = backbone
        self.head: nn.Module = task.head(backbone.num_features)
        self.__dict__["frozen"] = {}

    def forward(self, x: Tensor) -> Output:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C); aux: features (B, D), and in training the images."""
        features = self.backbone(x)
        aux = {"features": features, "images": x} if self.training else {"features": features}
        return Output(self.head(features), aux)

    def freeze(self, name: str, module: nn.Module) -> nn.Module:
        """Keep a frozen network under that name."""
        self.__dict__["frozen"][name] = module.eval().requires_grad_(False)
        return module

    @torch.no_grad()
    def ask(self, name: str, x: Tensor) -> Tensor:
        """What a frozen network says of images."""
        answer: Tensor = self.__dict__["frozen"][name](x)
        return answer

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """One group, with the method's own weight decay where it has one."""
        (group,) = super().param_groups(lr)
        return [group if self.weight_decay is None else group | {"weight_decay": self.weight_decay}]

    def inference_parameters(self) -> int:
        """Backbone and head alone: what else is trained serves the training."""
        return sum(p.numel() for module in (self.backbone, self.head) for p in module.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Guided:
        super()._apply(fn, recurse)
        for module in self.__dict__["frozen"].values():
            module._apply(fn)
        return self


class WithHead(nn.Module):
    """A frozen backbone under its source head: images -> source logits."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = copy.deepcopy(backbone), copy.deepcopy(head)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, Cs)."""
        out: Tensor = self.head(self.backbone(x))
        return out


class Maps:
    """The outputs of named layers of a network, collected while it runs."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.names = list(names)
        self.seen: dict[str, Tensor] = {}
        for name in names:
            network.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self.seen[name] = output

        return hook

    def take(self) -> list[Tensor]:
        """The maps of the last pass, which are forgotten."""
        maps = [self.seen[name] for name in self.names]
        self.seen.clear()
        return maps


def last_convolutions(backbone: nn.Module, x: Tensor, count: int = 4) -> list[str]:
    """Names of the last convolution of each stage, shortcuts aside, at the last `count` resolutions (DELTA).

    For a ResNet these end the last blocks of its layers 1 to 4. Of stages at one resolution the last one counts. Where
    no stage has a convolution, it is the last one at each resolution. Raises ZoolibError for a network without any.
    """
    seen: list[tuple[str, int]] = []  # convolutions in the order in which they run, and the sides of their maps
    handles: list[RemovableHandle] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen.append((name, output.shape[-1]))

        return hook

    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and "downsample" not in name:
            handles.append(module.register_forward_hook(watch(name)))
    with torch.no_grad(), evaluating(backbone):
        backbone(x)
    for handle in handles:
        handle.remove()
    if not seen:
        raise ZoolibError(f"{type(backbone).__name__} has no convolution whose maps could be compared; use l2_sp")
    # Not by resolution alone: a bottleneck's first convolution runs before its stride, at the side of the stage before.
    last = {_stage_of(name, backbone): (name, side) for name, side in seen}
    last.pop("", None)
    return list({side: name for name, side in last.values() or seen}.values())[-count:]


def _stage_of(name: str, backbone: nn.Module) -> str:
    """The stage that a module of that name is in; empty where it is in none."""
    inner, prefix = (backbone.backbone, "backbone.") if isinstance(backbone, HubModel) else (backbone, "")
    try:
        return next((stage for stage in stages(inner) if f"{name}.".startswith(f"{prefix}{stage}.")), "")
    except ZoolibError:
        return ""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A block in which a network is in evaluation mode."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)
