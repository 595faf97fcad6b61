"""What Hub-Pathway's sparse routes save: throughput over one model that sees every image."""

from __future__ import annotations

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


def _member(index: int) -> HubModel:
    manifest = MemberManifest(
        name=f"net{index}",
        title="",
        architecture="zoolib:tiny_resnet",  # a label only: the network is built here
        weights="random",
        pretraining="none",
        num_features=128,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_size=SIZE,
        licence="MIT",
    )
    return HubModel(manifest, small_resnet())


def _train_step(method: Method, x: Tensor, target: Tensor) -> Step:
    task = Classification(CLASSES)
    optimiser = sgd(method.param_groups(1e-3))

    def step() -> None:
        method.train()
        optimiser.zero_grad()
        sum(method.loss(method(x), target, task, 0.5).values(), torch.zeros(())).backward()
        optimiser.step()

    return step


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
        count: HubPathway([_member(i) for i in range(count)], task, PathwayGenerator(count, 16, 32), top_k=2)
        for count in GROWTH
    }
    rows = []
    for mode in ("train", "eval"):
        steps = {
            str(count): _train_step(method, x, target) if mode == "train" else _eval_step(method, x)
            for count, method in methods.items()
        }
        times = interleaved(steps, repeats=15, seconds=30)
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
        steps = {
            name: _train_step(method, x, target) if mode == "train" else _eval_step(method, x)
            for name, method in methods.items()
        }
        times = interleaved(steps, repeats=15, seconds=20)
        for name in list(methods)[1:]:
            limit = 1 / int(name[2])
            goal = 0.9 * limit if "without" in name else {1: None, 2: 0.44}[int(name[2])]
            what = f"throughput of hub_pathway over a single model, {name}, {mode}"
            rows.append(Row(what, times["single"] / times[name], limit, goal, higher_is_better=True))
        over = times["k=2 with generator"] / times["single"]
        what = f"time of hub_pathway over a single model, k=2 with generator, {mode}"
        rows.append(Row(what, over, 2.0, TIMES[mode], higher_is_better=False))
    return rows + growth()
