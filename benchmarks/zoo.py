"""What Zoo-Tuning's aggregation costs over one plain network, and over the plain way to write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Row, Step, interleaved
from benchmarks.grouped import aggregate_grouped
from zoolib.layers.surgery import aggregate
from zoolib.nets import ResNet, mini_resnet
from zoolib.train import sgd

MODELS = 5
# The worst ratio that passes, by network, mode and method; over the grouped baseline by precision.
SMALL = {("train", "zoo_tuning"): 2.0}
RESNET50 = {
    ("train", "zoo_tuning"): 1.5,
    ("eval", "zoo_tuning"): 1.7,
    ("train", "lite_zoo_tuning"): 1.3,
    ("eval", "lite_zoo_tuning"): 1.3,
}
OVER_GROUPED = {"float32": 1.25, "bfloat16": 2.0}


def small_resnet() -> nn.Module:
    """Nine convolutions, 0.3 M parameters, 0.05 G multiply-adds and maps of 32, 16 and 8 pixels for images of 32."""
    return ResNet((32, 64, 128), stem_kernel=3, stem_stride=1, stem_pool=False)


def resnet50() -> nn.Module:
    """torchvision's ResNet-50, randomly initialised, without its head."""
    from torchvision.models import resnet50 as build

    network = build(weights=None)
    network.fc = nn.Identity()
    return network


def train_step(model: nn.Module, x: Tensor, precision: str = "float32") -> Step:
    """Forward and backward of a sum over outputs, and an SGD step."""
    optimiser = sgd([{"params": list(model.parameters()), "lr": 1e-4}])

    def step() -> None:
        model.train()
        optimiser.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(x).float().square().mean()
        loss.backward()
        optimiser.step()

    return step


def eval_step(model: nn.Module, x: Tensor, precision: str = "float32") -> Step:
    """Forward without gradients."""

    def step() -> None:
        model.eval()
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            model(x)

    return step


def operations(step: Step, warm: bool) -> int:
    """Floating-point operations of one call, where `warm` after one that fills caches."""
    if warm:
        step()
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def measure(
    name: str,
    build: Callable[[], nn.Module],
    batch: int,
    size: int,
    repeats: int,
    seconds: float,
    targets: Mapping[tuple[str, str], float],
    precision: str = "float32",
    layout: torch.memory_format = torch.contiguous_format,
) -> list[Row]:
    """Time over a plain network, in training and evaluation, full and lite, and of the grouped baseline over the full.

    Limit: the ratio of operations, counted on matrix products (the counter misjudges grouped convolutions' gradients).
    """
    torch.manual_seed(0)
    networks = [build().to(memory_format=layout) for _ in range(MODELS)]  # type: ignore[call-overload]
    x = torch.randn(batch, 3, size, size).to(memory_format=layout)
    contestants = {
        "plain": networks[0],
        "zoo_tuning": aggregate(networks),
        "lite_zoo_tuning": aggregate(networks, lite=True),
        "grouped": aggregate_grouped(networks),
    }
    where = f"{name} batch {batch}, {precision}"
    rows = []
    for mode, make in (("train", train_step), ("eval", eval_step)):
        steps = {key: make(model, x, precision) for key, model in contestants.items()}
        counted = contestants | {"zoo_tuning": aggregate(networks, strategy="unfold")}
        limits = {key: operations(make(counted[key], x), warm=mode == "eval") for key in list(counted)[:3]}
        times = interleaved(steps, repeats, seconds)
        for key in ("zoo_tuning", "lite_zoo_tuning"):
            what = f"time of {key} over plain, {where}, {mode}"
            goal = targets.get((mode, key)) if precision == "float32" else None
            rows.append(Row(what, times[key] / times["plain"], limits[key] / limits["plain"], goal, False))
        what = f"speed of zoo_tuning over the grouped baseline, {where}, {mode}"
        goal = OVER_GROUPED[precision] if targets is RESNET50 and mode == "train" else None
        rows.append(Row(what, times["grouped"] / times["zoo_tuning"], float("nan"), goal, True))
    return rows


def run(with_resnet50: bool) -> list[Row]:
    """The rows of this benchmark: about a minute, and five to ten minutes more with ResNet-50."""
    rows = measure("packaged ResNet 32 px", mini_resnet, 64, 32, 15, 20, SMALL, layout=torch.channels_last)
    rows += measure("wider ResNet 32 px", small_resnet, 64, 32, 15, 20, SMALL)
    if with_resnet50:
        for precision in ("float32", "bfloat16"):
            rows += measure("ResNet-50 224 px", resnet50, 16, 224, 3, 60, RESNET50, precision)
    return rows
