"""What a method costs on one machine: parameters, multiply-adds, memory in steps, speed. Nothing is learned here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from zoolib.recipe import Context, Outcome, as_defined, even_routes
from zoolib.spec import RunSpec, Settings
from zoolib.tasks import Classification
from zoolib.train import Machine, sgd

GROWTH, GROWTH_BATCH = (2, 3, 5, 10, 20), 128  # models; images, so that each of twenty gets a dozen
REPEATS, SECONDS = 7, 60.0  # at most so many measured turns of one kind, and no new one after so long
_MB = 2**20


@dataclass
class Measurement(Context):
    """The context of a recipe whose method is measured where it would be trained.

    Members that a recipe wants fine-tuned are the pretrained ones under fresh heads: as large, and as slow.
    """

    num_classes: int = 0

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
    context = Measurement(
        spec, data, hub, Classification(num_classes), machine, work, None, {}, num_classes=num_classes
    )
    outcome: Outcome = method(spec.method).load()(context)
    if spec.method == "hub_pathway" and spec.profile != "paper":
        outcome.metrics["cost"] |= _growth(context)
    return outcome.metrics["cost"]


class _Repeated:
    """A hub of any size, made of one hub's first member over and over: only the number of models changes."""

    def __init__(self, hub: Hub, count: int) -> None:
        self.hub, self.count = hub, count

    @property
    def names(self) -> list[str]:
        return self.hub.names[:1] * self.count

    def models(self) -> list[HubModel]:
        """Every member, freshly built."""
        return [self.hub.model(name) for name in self.names]


class _Growing(Measurement):
    """A measurement that keeps the method, to be timed beside others."""

    def fit(self, method: Method, *args: Any, **kwargs: Any) -> Outcome:
        """Keep the method."""
        self.place(method)
        self.built = method
        return Outcome({"cost": {}}, {})


def _growth(ctx: Measurement) -> dict[str, float]:
    """Seconds of a training and an evaluation step of GROWTH_BATCH images as a hub grows, measured by turns.

    They are CPU seconds where a CPU computes, so that who else is on the machine hardly counts.
    """
    steps: dict[str, Callable[[], object]] = {}
    for count in GROWTH:
        growing = _Growing(**{**vars(ctx), "hub": _Repeated(ctx.hub, count)})
        method(ctx.spec.method).load()(growing)
        train, evaluate = _steps(growing.built, *_batch(ctx, GROWTH_BATCH), ctx)
        steps |= {f"growth_train_{count}": train, f"growth_eval_{count}": evaluate}
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = _clock(ctx.machine.device)
    for turn in range(1 + REPEATS):
        for name, step in steps.items():
            start = clock()
            with _synchronised(ctx.machine.device):
                step()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _measured(method: Method, ctx: Measurement) -> dict[str, float]:
    """Counted: parameters (M) and multiply-adds (G). Measured: memory (MB), iterations, images and seconds.

    `gmacs` are convolutions and matrix products of one image at inference, Zoo-Tuning's `as_defined`, with routes the
    mean over `even_routes`; `gmacs_norm` adds two for each output of a batch norm, as the counters behind the published
    numbers do. In training a batch of b images takes b * `train_gmacs` + `step_gmacs`: what is done once a step, such
    as aligning kernels, is in the second.
    """
    x, target = _batch(ctx)

    found = {
        "params_m": sum(p.numel() for p in method.parameters()) / 1e6,
        "trainable_params_m": sum(p.numel() for p in method.parameters() if p.requires_grad) / 1e6,
        "inference_params_m": method.inference_parameters() / 1e6,
    }
    with ctx.machine.autocast():
        found |= _operations(method, x)
        found |= _memory(method, x)
    return found | _speed(method, x, target, ctx)


def _batch(ctx: Measurement, count: int = 0) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, S, S) and labels (B,) where the method is; B is the spec's batch size unless given."""
    side, batch, device = ctx.spec.settings.image_size, count or ctx.spec.settings.batch_size, ctx.machine.device
    x = torch.rand(batch, 3, side, side, device=device)
    x = x.to(memory_format=torch.channels_last) if ctx.spec.settings.channels_last else x
    return x, torch.randint(ctx.num_classes, (batch,), device=device)


# Operations -----------------------------------------------------------------------------------------------------------


def _operations(method: Method, x: Tensor) -> dict[str, float]:
    method.eval()
    with torch.no_grad():
        method(x[:1])  # what is computed once and kept, such as aligned kernels, is no cost of an image
        counts = []
        for _ in even_routes(method):
            with as_defined(method):
                method.eval()
                one = multiply_adds(method, x[:1])
                method.train()
                counts.append((*one, *(sum(multiply_adds(method, x[:count])) for count in (2, 4))))
    matrix, norms, two, four = (statistics.mean(column) for column in zip(*counts, strict=True))
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

    def pack(tensor: Tensor) -> None:
        """Count it and let the graph keep nothing: an operation that keeps its own output would never be freed."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):
        module(x)
    return sum(sizes.values())


# Speed ----------------------------------------------------------------------------------------------------------------


def _steps(
    method: Method, x: Tensor, target: Tensor, ctx: Measurement
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step and an evaluation of one batch."""
    optimiser = sgd(method.param_groups(1e-6), ctx.spec.settings.momentum)

    def train() -> None:
        method.train()
        with ctx.machine.autocast():
            terms = method.loss(method(x), target, ctx.task, 0.5)
        optimiser.zero_grad(set_to_none=True)
        sum(terms.values(), torch.zeros((), device=x.device)).backward()
        optimiser.step()

    def evaluate() -> None:
        method.eval()
        with torch.no_grad(), ctx.machine.autocast():
            method(x)

    return train, evaluate


def _speed(method: Method, x: Tensor, target: Tensor, ctx: Measurement) -> dict[str, float]:
    train, evaluate = _steps(method, x, target, ctx)
    _, one = _steps(method, x[:1], target[:1], ctx)
    found = {"train_iterations_per_second": 1 / median(train, x.device)}
    found["samples_per_second"] = len(x) / median(evaluate, x.device)
    found["image_seconds"] = median(one, x.device)
    generator = getattr(method, "generator", None)

    def generate() -> None:
        with torch.no_grad(), ctx.machine.autocast():
            generator(x[:1])  # type: ignore[misc]

    found["generator_seconds"] = median(generate, x.device) if isinstance(generator, nn.Module) else 0.0
    return found


def median(step: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a step after one that is not counted; on a CPU those that the process computed."""
    clock = _clock(device)
    with _synchronised(device):
        step()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < REPEATS and (not times or time.perf_counter() - began < SECONDS):
        start = clock()
        with _synchronised(device):
            step()
        times.append(clock() - start)
    return statistics.median(times)


def _clock(device: torch.device) -> Callable[[], float]:
    """On a CPU the process's own time, so that who else is on the machine hardly counts; else that of the wall."""
    return time.process_time if device.type == "cpu" else time.perf_counter


@contextmanager
def _synchronised(device: torch.device) -> Iterator[None]:
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
