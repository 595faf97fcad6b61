"""How fast the packaged zoo's network trains, and what the gradient of depthwise kernels costs on small maps."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import Row, Step, interleaved
from benchmarks.zoo import train_step
from zoolib.hub import architecture
from zoolib.layers.depthwise import quicken
from zoolib.nets import mini_resnet
from zoolib.runtime import native_bfloat16
from zoolib.train import sgd

BATCH, SIZE, CLASSES = 64, 32, 50
TARGET = 1000.0  # images a second
EFFICIENTNET = "timm:tf_efficientnet_lite0"


def _step(lower: bool) -> Step:
    network = mini_resnet()
    model = nn.Sequential(network, nn.Linear(network.num_features, CLASSES)).to(memory_format=torch.channels_last)
    optimiser = sgd([{"params": list(model.parameters()), "lr": 0.1}], nesterov=True)
    x = torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    target = torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimiser.step()

    return step


def run() -> list[Row]:
    """Images a second of CPU time in float32 and, where the processor has it, bfloat16; the faster has the target."""
    return [*_packaged(), *_depthwise()]


def _packaged() -> list[Row]:
    torch.manual_seed(0)
    steps = {"float32": _step(False)} | ({"bfloat16": _step(True)} if native_bfloat16() else {})
    speeds = {name: BATCH / seconds for name, seconds in interleaved(steps, repeats=15, seconds=15).items()}
    best = max(speeds, key=lambda name: speeds[name])
    return [
        Row(f"images/s of training mini_resnet, batch {BATCH}, {name}", speed, float("nan"),
            TARGET if name == best else None, higher_is_better=True)
        for name, speed in speeds.items()
    ]  # fmt: skip


def _depthwise() -> list[Row]:
    """An EfficientNet on images of 64 pixels, whose last maps are smaller than their kernels, with and without help."""
    torch.manual_seed(0)
    plain = architecture(EFFICIENTNET)
    x = torch.rand(32, 3, 64, 64).to(memory_format=torch.channels_last)
    steps = {}
    for name, network in (("plain", plain), ("quickened", quicken(copy.deepcopy(plain)))):
        steps[name] = train_step(network.to(memory_format=torch.channels_last), x)  # type: ignore[call-overload]
    times = interleaved(steps, repeats=15, seconds=20)
    what = "speed of training efficientnet_lite0 at 64 px over torch's gradient of depthwise kernels"
    return [Row(what, times["plain"] / times["quickened"], float("nan"), 1.1, higher_is_better=True)]
