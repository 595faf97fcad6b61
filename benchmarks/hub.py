"""What Hub-Pathway's sparse routes save: throughput over one model that sees every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks import Row, Step, interleaved
from benchmarks.zoo import small_resnet
from zoolib.data.schema import MemberManifest
from zoolib.hub import HubModel
from zoolib.layers.pathway import PathwayGenerator
from zoolib.method import Method
from zoolib.methods.hubpathway import HubPathway
from zoolib.methods.single import Single
from zoolib.nets import mini_resnet
from zoolib.tasks import Classification
from zoolib.train import sgd

MODELS, BATCH, SIZE, CLASSES = 5, 64, 32, 10


class EvenRoutes(nn.Module):
    """A generator that costs nothing: fixed weights that send each sample to k models, all models equally often."""

    def __init__(self, num_models: int) -> None:
        super().__init__()
        order = torch.arange(BATCH)[:, None] - torch.arange(num_models)
        self.register_buffer("weights", (order % num_models).float().neg().softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, m)."""
        return self.get_buffer("weights")[: len(x)]


def _member(index: int, build: Callable[[], nn.Module] = small_resnet) -> HubModel:
    network = build()
    manifest = MemberManifest(
        name=f"net{index}",
        title="",
        architecture="zoolib:tiny_resnet",  # a label only: the network is built here
        weights="random",
        pretraining="none",
        num_features=network.num_features,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_size=SIZE,
        licence="MIT",
    )
    return HubModel(manifest, network)


def _train_step(method: Method, x: Tensor, target: Tensor) -> Step:
    task = Classification(CLASSES)
    optimiser = sgd(method.param_groups(1e-3))

    def step() -> None:
        method.train()
        optimiser.zero_grad()
        sum(method.loss(method(x), target, task, 0.5).values(), torch.zeros(())).backward()
        optimiser.step()

    return step


def _times(methods: Mapping[str, Method], mode: str, x: Tensor, target: Tensor, seconds: float) -> dict[str, float]:
    """CPU seconds of a training step, or of an evaluation, of each method."""
    steps = {
        name: _train_step(method, x, target) if mode == "train" else _eval_step(method, x)
        for name, method in methods.items()
    }
    return interleaved(steps, repeats=15, seconds=seconds)


def _eval_step(method: Method, x: Tensor) -> Step:
    def step() -> None:
        method.eval()
        with torch.no_grad():
            method(x)

    return step


TIMES = {"train": 2.3, "eval": None}  # the most that hub_pathway at k = 2, generator included, may cost
GROWTH, FLAT = (2, 5, 10, 20), 1.15


def growth() -> list[Row]:
    """Time of hub_pathway at k = 2 as the hub grows, over that of the smallest hub; about a minute. Limit: 1."""
    torch.manual_seed(0)
    task = Classification(CLASSES)
    x, target = torch.rand(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,))
    methods = {
        str(count): HubPathway([_member(i) for i in range(count)], task, PathwayGenerator(count, 16, 32), top_k=2)
        for count in GROWTH
    }
    rows = []
    for mode in ("train", "eval"):
        times = _times(methods, mode, x, target, seconds=30)
        for count in GROWTH[1:]:
            what = f"time of hub_pathway, k=2 of {count} models over k=2 of {GROWTH[0]}, {mode}"
            rows.append(Row(what, times[str(count)] / times[str(GROWTH[0])], 1.0, FLAT, higher_is_better=False))
    return rows


def run() -> list[Row]:
    """Throughput over a single model for k = 1, 2, with and without the generator; about 30 seconds. Limit: 1 / k."""
    torch.manual_seed(0)
    task = Classification(CLASSES)
    x, target = torch.rand(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,))
    methods: dict[str, Method] = {"single": Single(_member(0), task)}
    for k in (1, 2):
        for name, generator in (("without", EvenRoutes(MODELS)), ("with", PathwayGenerator(MODELS, 16, 32))):
            members = [_member(index) for index in range(MODELS)]
            methods[f"k={k} {name} generator"] = HubPathway(members, task, generator, top_k=k)
    rows = []
    for mode in ("train", "eval"):
        times = _times(methods, mode, x, target, seconds=20)
        for name in list(methods)[1:]:
            limit = 1 / int(name[2])
            goal = 0.9 * limit if "without" in name else {1: None, 2: 0.44}[int(name[2])]
            what = f"throughput of hub_pathway over a single model, {name}, {mode}"
            rows.append(Row(what, times["single"] / times[name], limit, goal, higher_is_better=True))
        over = times["k=2 with generator"] / times["single"]
        what = f"time of hub_pathway over a single model, k=2 with generator, {mode}"
        rows.append(Row(what, over, 2.0, TIMES[mode], higher_is_better=False))
    return rows + packaged() + growth()


def packaged() -> list[Row]:
    """k = 2 with the network of the packaged zoo, channels last, as it trains there; about 20 seconds. Limit: 2."""
    torch.manual_seed(0)
    task, layout = Classification(CLASSES), torch.channels_last
    x = torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=layout)
    target = torch.randint(CLASSES, (BATCH,))
    members = [_member(index, mini_resnet) for index in range(MODELS)]
    methods: dict[str, Method] = {
        "single": Single(_member(0, mini_resnet), task),
        "routed": HubPathway(members, task, PathwayGenerator(MODELS, 16, 32), top_k=2),
    }
    for method in methods.values():
        method.to(memory_format=layout)  # type: ignore[call-overload]
    rows = []
    for mode in ("train", "eval"):
        times = _times(methods, mode, x, target, seconds=10)
        what = f"time of hub_pathway over a single model, packaged ResNet, k=2 with generator, {mode}"
        rows.append(Row(what, times["routed"] / times["single"], 2.0, TIMES[mode], higher_is_better=False))
    return rows
