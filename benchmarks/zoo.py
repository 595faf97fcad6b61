"""What Zoo-Tuning's aggregation costs over one plain network of the same architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Row, Step, interleaved
from zoolib.layers.surgery import aggregate
from zoolib.nets import ResNet

MODELS = 5
HEADROOM = 1.6  # a ratio passes up to this multiple of its limit: memory traffic, which operations do not count


def small_resnet() -> nn.Module:
    """Nine convolutions, 0.3 M parameters, 0.05 G multiply-adds and maps of 32, 16 and 8 pixels for images of 32."""
    return ResNet((32, 64, 128), stem_kernel=3, stem_stride=1, stem_pool=False)


def resnet50() -> nn.Module:
    """torchvision's ResNet-50, randomly initialised, without its head."""
    from torchvision.models import resnet50 as build

    network = build(weights=None)
    network.fc = nn.Identity()
    return network


def train_step(model: nn.Module, x: Tensor) -> Step:
    """Forward and backward of a sum over outputs, and an SGD step."""
    optimiser = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def step() -> None:
        model.train()
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()

    return step


def eval_step(model: nn.Module, x: Tensor) -> Step:
    """Forward without gradients."""

    def step() -> None:
        model.eval()
        with torch.no_grad():
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
    name: str, build: Callable[[], nn.Module], batch: int, size: int, repeats: int, seconds: float
) -> list[Row]:
    """Time over a plain network, in training and evaluation, full and lite.

    Limit: the ratio of operations, counted on matrix products (the counter misjudges grouped convolutions' gradients).
    """
    torch.manual_seed(0)
    networks = [build() for _ in range(MODELS)]
    x = torch.randn(batch, 3, size, size)
    contestants = {
        "plain": networks[0],
        "zoo_tuning": aggregate(networks),
        "lite_zoo_tuning": aggregate(networks, lite=True),
    }
    rows = []
    for mode, make in (("train", train_step), ("eval", eval_step)):
        steps = {key: make(model, x) for key, model in contestants.items()}
        counted = contestants | {"zoo_tuning": aggregate(networks, strategy="unfold")}
        counts = {key: operations(make(model, x), warm=mode == "eval") for key, model in counted.items()}
        times = interleaved(steps, repeats, seconds)
        for key in ("zoo_tuning", "lite_zoo_tuning"):
            limit = counts[key] / counts["plain"]
            what = f"time of {key} over plain, {name} batch {batch}, {mode}"
            rows.append(Row(what, times[key] / times["plain"], limit, HEADROOM * limit, higher_is_better=False))
    return rows


def run(with_resnet50: bool) -> list[Row]:
    """The rows of this benchmark: about 20 seconds, and two to three minutes more with ResNet-50."""
    rows = measure("small ResNet 32 px", small_resnet, 64, 32, repeats=15, seconds=15)
    if with_resnet50:
        rows += measure("ResNet-50 224 px", resnet50, 16, 224, repeats=3, seconds=60)
    return rows
