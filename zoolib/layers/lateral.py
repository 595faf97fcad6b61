"""Lateral connections between the stages of several networks: capture feature maps, and mix them into another's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zoolib.spec import ZoolibError

_STAGE = re.compile(r"(layer|stage)\d+")  # torchvision's and this package's residual networks
_CONTAINERS = ("blocks", "stages", "layers", "features")  # timm's and torchvision's other networks


def stages(backbone: nn.Module) -> list[str]:
    """Names of the modules after which resolution or width changes, from input to output.

    Raises ZoolibError for a network in which none can be told.
    """
    children = dict(backbone.named_children())
    named = [name for name in children if _STAGE.fullmatch(name)]
    for container in _CONTAINERS:
        if not named and isinstance(children.get(container), nn.Sequential | nn.ModuleList):
            named = [f"{container}.{name}" for name, _ in children[container].named_children()]
    if not named:
        raise ZoolibError(f"{type(backbone).__name__} has no stages by the names layer1, blocks or features")
    return named


@contextmanager
def _hooked(model: nn.Module, names: Sequence[str], hook: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call hook(index, output) after each named module; what it returns replaces the output."""

    def at(index: int) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
        return lambda module, inputs, output: hook(index, output)

    handles = [model.get_submodule(name).register_forward_hook(at(i)) for i, name in enumerate(names)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def capture(model: nn.Module, names: Sequence[str], x: Tensor, root: nn.Module | None = None) -> list[Tensor]:
    """The outputs of the named modules of `root` (the model itself when left out) when x passes through the model."""
    found: list[Tensor] = []
    with _hooked(root or model, names, lambda index, output: found.append(output)):
        model(x)
    return found


def replaced(
    model: nn.Module, names: Sequence[str], x: Tensor, change: Callable[[int, Tensor], Tensor], root: nn.Module
) -> Tensor:
    """The model's output on x when change(index, output) takes the place of each named module's output."""
    with _hooked(root, names, change):
        out: Tensor = model(x)
    return out


class Lateral(nn.Module):
    """h = w_0 h_student + sum_j w_j Q_j h_teacher_j with w = softmax(scores), one such sum a stage.

    Q_j is a 1x1 convolution without bias that starts at the identity; the scores start equal.
    """

    def __init__(self, channels: Sequence[int], num_teachers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(len(channels), 1 + num_teachers))
        rows = []
        for width in channels:
            transforms = [nn.Conv2d(width, width, 1, bias=False) for _ in range(num_teachers)]
            for transform in transforms:
                nn.init.dirac_(transform.weight)
            rows.append(nn.ModuleList(transforms))
        self.transforms = nn.ModuleList(rows)

    def weights(self) -> Tensor:
        """Normalised weights (L, 1 + m): the student's own first, then the teachers'."""
        return self.scores.softmax(-1)

    def forward(self, index: int, own: Tensor, theirs: Sequence[Tensor]) -> Tensor:
        """The student's map of stage `index` (B, C, H, W) and the teachers' -> the mixed map."""
        weights = self.weights()[index].to(own.dtype)
        mixed = weights[0] * own
        for weight, transform, other in zip(weights[1:], self.transforms[index], theirs, strict=True):  # type: ignore[call-overload]
            mixed = mixed + weight * transform(other)
        return mixed
