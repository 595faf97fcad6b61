"""What a method costs on one machine: parameters, multiply-adds, memory in steps, speed. Nothing is learned here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from zoolib.data.loaders import Dataset
from zoolib.hub import Hub, HubModel
from zoolib.method import Method
from zoolib.methods import method
from zoolib.paths import build_dir
from zoolib.recipe import Context, Outcome
from zoolib.spec import RunSpec, Settings
from zoolib.tasks import Classification
from zoolib.train import Machine

REPEATS, SECONDS = 7, 60.0  # at most so many measured turns of one kind, and no new one after so long
_MB = 2**20


class Measurement(Context):
    """The context of a recipe whose method is measured where it would be trained.

    Members that a recipe wants fine-tuned are the pretrained ones under fresh heads: as large, and as slow.
    """

    def fit(
        self,
        method: Method,
        deviations: list[str] | None = None,
        settings: Settings | None = None,
        seed: int | None = None,
        checkpoint: str = "checkpoint",
    ) -> Outcome:
        """Measure the method as it is."""
        self.place(method)
        return Outcome({"cost": _measured(method, self)}, {}, pd.DataFrame())

    def keep(self, module: nn.Module) -> None:
        """Nothing is kept."""

    def finetuned(self, member: str) -> tuple[HubModel, nn.Module]:
        """The pretrained member and a fresh head."""
        backbone = self.hub.model(member)
        return backbone, self.task.head(backbone.num_features)

    def ranking(self) -> list[str]:
        """The hub's order."""
        return self.hub.names


def measure(spec: RunSpec, num_classes: int, machine: Machine) -> dict[str, float]:
    """The costs of one method on random images of the spec's size and batch; see `_measured` for their names."""
    nothing: Any = None
    hub, work = Hub(spec.hub), build_dir() / "work" / spec.run_id
    data: Dataset = nothing
    context = Measurement(spec, data, hub, Classification(num_classes), machine, work, None, {})
    outcome: Outcome = method(spec.method).load()(context)
    return outcome.metrics["cost"]


def _measured(method: Method, ctx: Measurement) -> dict[str, float]:
    """Counted: parameters (M) and multiply-adds (G). Measured: memory (MB), iterations, images and seconds.

    `gmacs` are convolutions and matrix products of one image at inference; `gmacs_norm` adds two for each output of a
    batch norm, as the counters behind the published numbers do. In training a batch of b images takes b *
    `train_gmacs` + `step_gmacs`: what is done once a step, such as aligning kernels, is in the second.
    """
    side, batch = ctx.spec.settings.image_size, ctx.spec.settings.batch_size
    layout = torch.channels_last if ctx.spec.settings.channels_last else torch.contiguous_format

    def images(count: int) -> Tensor:
        return torch.rand(count, 3, side, side, device=ctx.machine.device).to(memory_format=layout)

    x, target = images(batch), torch.randint(ctx.task.num_classes, (batch,), device=ctx.machine.device)  # type: ignore[attr-defined]
    found = {
        "params_m": sum(p.numel() for p in method.parameters()) / 1e6,
        "trainable_params_m": sum(p.numel() for p in method.parameters() if p.requires_grad) / 1e6,
        "inference_params_m": method.inference_parameters() / 1e6,
    }
    with ctx.machine.autocast():
        found |= _operations(method, images)
        found |= _memory(method, x)
    return found | _speed(method, x, target, ctx)


# Operations -----------------------------------------------------------------------------------------------------------


def _operations(method: Method, images: Callable[[int], Tensor]) -> dict[str, float]:
    method.eval()
    with torch.no_grad():
        method(images(1))  # what is computed once and kept, such as aligned kernels, is no cost of an image
        matrix, norms = multiply_adds(method, images(1))
        method.train()
        two, four = (sum(multiply_adds(method, images(count))) for count in (2, 4))
    return {
        "gmacs": matrix / 1e9,
        "gmacs_norm": (matrix + norms) / 1e9,
        "train_gmacs": (four - two) / 2e9,
        "step_gmacs": (2 * two - four) / 1e9,
    }


def multiply_adds(module: nn.Module, x: Tensor) -> tuple[float, float]:
    """Multiply-adds of one call: in convolutions and matrix products, and two for each output of a batch norm."""
    norms = 0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal norms
        norms += 2 * output.numel()

    handles = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, _BatchNorm)]
    try:
        with FlopCounterMode(display=False) as counter:
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() / 2, float(norms)


# Memory ---------------------------------------------------------------------------------------------------------------


def _memory(method: Method, x: Tensor) -> dict[str, float]:
    """As in the supplement's table 3: what is loaded, and what forward passes keep for the backward one."""
    method.train()
    loaded = sum(t.numel() * t.element_size() for t in [*method.parameters(), *method.buffers()])
    generator = getattr(method, "generator", None)
    routed = kept_for_backward(generator, x) if isinstance(generator, nn.Module) else 0
    return {
        "load_mb": loaded / _MB,
        "generator_mb": routed / _MB,
        "models_mb": (kept_for_backward(method, x) - routed) / _MB,
    }


def kept_for_backward(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps after a forward pass, parameters and input aside; one storage counts once."""
    own = {t.untyped_storage().data_ptr() for t in [x, *module.parameters(), *module.buffers()]}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed address could be used, and counted, again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    return sum(sizes.values())


# Speed ----------------------------------------------------------------------------------------------------------------


def _speed(method: Method, x: Tensor, target: Tensor, ctx: Measurement) -> dict[str, float]:
    settings, task = ctx.spec.settings, ctx.task
    optimiser = torch.optim.SGD(method.param_groups(1e-6), momentum=settings.momentum)

    def train() -> None:
        with ctx.machine.autocast():
            terms = method.loss(method(x), target, task, 0.5)
        optimiser.zero_grad(set_to_none=True)
        sum(terms.values(), torch.zeros((), device=x.device)).backward()
        optimiser.step()

    def forward(module: nn.Module, images: Tensor) -> Callable[[], object]:
        def step() -> None:
            with torch.no_grad(), ctx.machine.autocast():
                module(images)

        return step

    method.train()
    found = {"train_iterations_per_second": 1 / median(train, x)}
    optimiser.zero_grad(set_to_none=True)
    method.eval()
    found["samples_per_second"] = len(x) / median(forward(method, x), x)
    found["image_seconds"] = median(forward(method, x[:1]), x)
    generator = getattr(method, "generator", None)
    found["generator_seconds"] = median(forward(generator, x[:1]), x) if isinstance(generator, nn.Module) else 0.0
    return found


def median(step: Callable[[], object], x: Tensor) -> float:
    """Median wall-clock seconds of a step after one that is not counted."""
    with _synchronised(x):
        step()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < REPEATS and (not times or time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        with _synchronised(x):
            step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@contextmanager
def _synchronised(x: Tensor) -> Iterator[None]:
    yield
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
