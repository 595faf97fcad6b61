"""Turn m models of one architecture into one model whose convolutions are AdaAgg layers (Zoo-Tuning, ICML 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoolib.layers.adaagg import AdaAggConv2d
from zoolib.layers.depthwise import DepthwiseConv2d
from zoolib.spec import ZoolibError, unknown

ALIGNMENTS = ("authors", "all", "none")
_TF_SAME = ("Conv2dSame", "Conv2dSameExport")  # timm's convolutions that pad to ceil(input / stride) at run time


class ArchitectureError(ZoolibError, ValueError):
    """Models that cannot be aggregated position by position; the message names the model and the module."""


def aggregate(
    models: Sequence[nn.Module],
    alignment: str = "authors",
    lite: bool = False,
    gate_momentum: float = 0.1,
    strategy: str = "auto",
    recompute: bool = False,
) -> nn.Module:
    """A copy of the first model in which every Conv2d is an AdaAggConv2d over all models.

    Zoo-Tuning (ICML 2021), section 3 and supplement 1.2. Batch normalisation is shared: its affine parameters start at
    the models' mean, its running mean at 0 and variance at 1. Every other parameter and floating-point buffer is the
    models' mean (the paper's zoos have none below the head).

    Args:
        models: modules of one architecture; they are left as they are.
        alignment: kernels that get an alignment T_i: "authors", larger than 1x1 and outside layer1 and layer2 (the
            authors' code: 10 of ResNet-50's 53); "all", every kernel larger than 1x1 (the paper's text); "none".
        lite, gate_momentum, strategy, recompute: see AdaAggConv2d.

    Raises ArchitectureError (a ZoolibError and a ValueError) when the models differ or a convolution is not supported.
    """
    if alignment not in ALIGNMENTS:
        raise unknown("alignment", alignment, ALIGNMENTS)
    if not models:
        raise ArchitectureError("no models to aggregate; give at least one")
    check_same_architecture(models)
    _check_convolutions(models[0])
    positions = [dict(model.named_modules(remove_duplicate=False)) for model in models]
    holder = nn.ModuleDict({"model": copy.deepcopy(models[0])})  # so that the root itself can be replaced
    _average(holder["model"], models)
    made: dict[int, AdaAggConv2d] = {}  # a convolution that is used twice stays one layer
    for name, module in list(holder["model"].named_modules(remove_duplicate=False)):
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()  # mean 0, variance 1
        if not isinstance(module, nn.Conv2d):
            continue
        if id(module) not in made:
            made[id(module)] = AdaAggConv2d.from_convs(
                [position[name] for position in positions],
                padding="same" if type(module).__name__ in _TF_SAME else None,
                align=_is_aligned(name, module, alignment),
                lite=lite,
                gate_momentum=gate_momentum,
                strategy=strategy,
                recompute=recompute,
            ).train(module.training)
        parent, _, child = f"model.{name}".rstrip(".").rpartition(".")
        setattr(holder.get_submodule(parent), child, made[id(module)])
    return holder["model"]


def check_same_architecture(models: Sequence[nn.Module], names: Sequence[str] = ()) -> None:
    """Compare module names, types, settings and tensor shapes. Raises ArchitectureError at the first difference."""
    labels = list(names) or [f"model {index}" for index in range(len(models))]
    first = _blueprint(models[0])
    for label, model in zip(labels[1:], models[1:], strict=True):
        other = _blueprint(model)
        for name in [*first, *(name for name in other if name not in first)]:
            mine, theirs = first.get(name, "missing"), other.get(name, "missing")
            if mine != theirs:
                where = f"{labels[0]} and {label} differ at {name or 'the root'!r}"
                raise ArchitectureError(f"{where}: {mine} and {theirs}; aggregate models of one architecture")


def gate_layers(module: nn.Module) -> dict[str, AdaAggConv2d]:
    """The AdaAgg layers by name, in the order in which they are defined."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, AdaAggConv2d)}


def gates(module: nn.Module) -> dict[str, Tensor]:
    """The gates of the last forward pass, (B, m) for each AdaAgg layer that has run."""
    found = {name: layer.last_gates for name, layer in gate_layers(module).items()}
    return {name: gate for name, gate in found.items() if gate is not None}


def _blueprint(model: nn.Module) -> dict[str, str]:
    """Module name -> type, settings and the shapes of its own tensors."""
    lines: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        shapes = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors)
        lines[name] = f"{type(module).__name__}({module.extra_repr()})" + (f" [{shapes}]" if shapes else "")
    return lines


def _check_convolutions(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if type(module) not in (nn.Conv2d, DepthwiseConv2d) and type(module).__name__ not in _TF_SAME:
            raise ArchitectureError(f"{type(module).__name__} at {name!r} is not supported; use torch.nn.Conv2d")
        if module.padding_mode != "zeros":
            raise ArchitectureError(f"padding_mode {module.padding_mode!r} at {name!r} is not supported; use 'zeros'")


def _is_aligned(name: str, conv: nn.Conv2d, alignment: str) -> bool:
    if alignment == "none" or conv.kernel_size == (1, 1):
        return False
    return alignment == "all" or not {"layer1", "layer2"} & set(name.split("."))


@torch.no_grad()
def _average(target: nn.Module, models: Sequence[nn.Module]) -> None:
    """Set every floating-point tensor of the target to the models' mean."""
    states = [model.state_dict() for model in models]
    for name, tensor in target.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([state[name].to(tensor.device) for state in states]).mean(0))
