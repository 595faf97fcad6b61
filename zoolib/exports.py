"""Tuned networks as files of torch.export, which need torch alone to run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from zoolib.layers.pathway import top_k_mask
from zoolib.methods.hubpathway import HubPathway
from zoolib.methods.single import Single
from zoolib.spec import ZoolibError

CLASSES = "classes.json"  # the names of the classes, a list in JSON beside the program in each exported file


class Router(nn.Module):
    """Hub-Pathway without data-dependent control flow, for export: all members run, and inactive ones count zero."""

    def __init__(self, method: HubPathway) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C), pathway weights (B, m)."""
        weights = self.method.generator(x)
        active = top_k_mask(weights, self.method.top_k)
        logits = torch.stack([member(x) for member in self.method.members], 1)
        return self.method._join(weights, active, logits), weights


class Logits(nn.Module):
    """One network, images (B, 3, H, W) in [0, 1] -> logits (B, C), for export."""

    def __init__(self, method: Single) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, C)."""
        logits: Tensor = self.method(x).prediction
        return logits


def export(method: nn.Module, side: int, classes: Sequence[str], folder: Path | str) -> dict[str, Path]:
    """Save a trained method by torch.export; name -> file.

    Hub-Pathway becomes `router.pt2` (all of it) and `path-<member>.pt2` (each single path), one model `model.pt2`. Each
    takes images (B, 3, side, side) in [0, 1], and holds the names of the classes as `classes.json`. Raises ZoolibError
    for another method.
    """
    if isinstance(method, HubPathway):
        named = zip(method.recorded["weight"], method.members, strict=True)
        parts: dict[str, nn.Module] = {"router": Router(method)} | {f"path-{name}": member for name, member in named}
    elif isinstance(method, Single):
        parts = {"model": Logits(method)}
    else:
        raise ZoolibError(f"{type(method).__name__} cannot be exported; tune one model, or a hub by Hub-Pathway")
    example = torch.rand(2, 3, side, side)
    extra = {CLASSES: json.dumps([str(name) for name in classes])}
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for name, module in parts.items():
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},), strict=False)
        files[name] = Path(folder) / f"{name}.pt2"
        torch.export.save(program, files[name], extra_files=extra)
    return files
