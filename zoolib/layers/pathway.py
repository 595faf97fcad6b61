"""Hub-Pathway's parts (NeurIPS 2022): the noisy generator, the top-k route, and sparse dispatch through the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoolib.nets import resnet9
from zoolib.spec import ZoolibError


class PathwayGenerator(nn.Module):
    """G(x) = softmax(G_p(x) + eps * softplus(G_n(x))), eps ~ N(0, 1) per entry in training (eq. 3).

    G_p and G_n are separate 9-layer ResNets: with width 64 that is the 9.8 M parameters by which Hub-Pathway exceeds
    its hub in the paper's complexity table. At test time eps is at its mean, zero, so G_n is not run. A training batch
    of a single image has no variance, so there the batch norms use their running statistics, as in `dispatch`.
    """

    def __init__(self, num_models: int, width: int = 64, size: int = 224) -> None:
        super().__init__()
        self.size = size  # pixels; the image is resized to this square
        self.preference = self._branch(num_models, width)  # G_p
        self.noise = self._branch(num_models, width)  # G_n

    @staticmethod
    def _branch(num_models: int, width: int) -> nn.Sequential:
        trunk = resnet9(width)
        return nn.Sequential(trunk, nn.Linear(trunk.num_features, num_models))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> pathway weights (B, m), float32, each row sums to 1."""
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=False)
        # Channels last: on a CPU a third faster for so few channels, whatever layout the members prefer.
        x = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        if self.training and len(x) == 1:
            with running_statistics(self):
                return self._weights(x)
        return self._weights(x)

    def _weights(self, x: Tensor) -> Tensor:
        logits = self.preference(x).float()  # (B, m)
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise(x).float())
        return logits.softmax(-1)


class RandomPathway(nn.Module):
    """Weights drawn anew for each image, whatever it shows: the ablation "w/ random path" of Hub-Pathway's table 4.

    They are softmax(eps), eps ~ N(0, 1) per entry, in training and at test time.
    """

    def __init__(self, num_models: int) -> None:
        super().__init__()
        self.num_models = num_models

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, ...) -> pathway weights (B, m), float32, each row sums to 1; only B is read of the images."""
        return torch.randn(len(x), self.num_models, device=x.device).softmax(-1)


class TaskPathway(nn.Module):
    """One set of weights for the whole task: eq. 3 with two learned vectors in the place of G_p(x) and G_n(x).

    At test time every image takes the same route, through the k models of the largest preference.
    """

    def __init__(self, num_models: int) -> None:
        super().__init__()
        self.preference = nn.Parameter(torch.zeros(num_models))
        self.noise = nn.Parameter(torch.zeros(num_models))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, ...) -> pathway weights (B, m), float32, each row sums to 1; only B is read of the images."""
        logits = self.preference.float().expand(len(x), -1)
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.noise.float())
        return logits.softmax(-1)


def top_k_mask(weights: Tensor, k: int) -> Tensor:
    """True for the k largest entries of each row of (B, m), exactly k even among ties (eq. 1).

    Raises ValueError when k is not between 1 and m.
    """
    if not 1 <= k <= weights.shape[-1]:
        raise ValueError(f"top_k is {k}; use 1 to {weights.shape[-1]}, the number of models in the hub")
    chosen = weights.topk(k, dim=-1).indices
    return torch.zeros_like(weights, dtype=torch.bool).scatter_(-1, chosen, True)


@contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use (and do not change) their running statistics inside."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def dispatch(models: Sequence[Callable[[Tensor], Tensor]], x: Tensor, active: Tensor) -> Tensor:
    """Pass each sample through its active models only (input-level route I[G(x) > 0]).

    `x` (B, ...), `active` (B, m) bool -> (B, m, C), zeros where inactive. A model that no sample chose is skipped. In
    training a batch norm sees the routed samples only; a sub-batch of a single one has no variance, so there it uses
    its running statistics. Raises ZoolibError for a batch without samples.
    """
    if not len(x):
        raise ZoolibError("a batch without images has no route; pass at least one")
    routes = [active[:, i].nonzero().squeeze(1) for i in range(len(models))]
    outputs: list[Tensor | None] = []
    for model, rows in zip(models, routes, strict=True):
        if len(rows) == 0:
            outputs.append(None)
        elif len(rows) == 1 and isinstance(model, nn.Module) and model.training:
            with running_statistics(model):
                outputs.append(model(x[rows]))
        else:
            outputs.append(model(x if len(rows) == len(x) else x[rows]))
    like = next(out for out in outputs if out is not None)
    full = [
        like.new_zeros(len(x), *like.shape[1:]) if out is None else _scatter(out, rows, len(x))
        for out, rows in zip(outputs, routes, strict=True)
    ]
    return torch.stack(full, dim=1)


def _scatter(out: Tensor, rows: Tensor, count: int) -> Tensor:
    if len(rows) == count:
        return out
    return out.new_zeros(count, *out.shape[1:]).index_copy(0, rows, out)
