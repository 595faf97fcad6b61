"""fit() and evaluate(): the only supervised loop."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoolib.data import loaders
from zoolib.data.loaders import Dataset
from zoolib.files import atomic
from zoolib.method import Method, Output
from zoolib.runtime import Past, code_fingerprint, conditions, restoring
from zoolib.spec import Settings, ZoolibError
from zoolib.tasks import Task

CHECKPOINT_SECONDS = 60.0
Row = tuple[int, str, str, float]  # iteration, split, term, value
Progress = Callable[[int, int, str], None]  # iteration, iterations, a word about it


@dataclass(frozen=True)
class Machine:
    """Where and how the arithmetic is done."""

    device: torch.device
    precision: str  # "float32" | "bfloat16"

    def autocast(self) -> torch.autocast:
        """The context of every forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass
class History:
    """What fit() leaves behind besides the trained method."""

    curve: list[Row] = field(default_factory=list)
    seconds: float = 0.0  # in training steps alone, over all resumptions
    start: int = 0  # iteration this process began with
    past: Past = field(default_factory=Past)  # of the processes before it; in the end its own part is added
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def for_the_next(self, machine: Machine, done: int) -> dict[str, Any]:
        """What a checkpoint after `done` iterations says of the processes up to this one."""
        seconds = (datetime.datetime.now(datetime.UTC) - self.began).total_seconds()
        now = conditions(machine.device, machine.precision)
        return self.past.then(self.began.isoformat(timespec="seconds"), seconds, now, done - self.start)


def fit(
    method: Method,
    data: Dataset,
    task: Task,
    settings: Settings,
    seed: int,
    machine: Machine,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress: Progress | None = None,
) -> History:
    """Train a method by SGD or Adam with a stepped learning rate; resume from `checkpoint` where that file exists.

    A run that was killed and resumed has the same numbers, to the bit on a CPU with as many threads, as one that was
    not; a checkpoint of other code or data is left aside, and the run starts afresh. Raises ZoolibError when a loss
    term stops being finite, naming step and term, or when the checkpoint belongs to another architecture.
    """
    optimiser = _optimiser(method, settings)
    history = History()
    origin = {"code": code_fingerprint(), "data": data.sha256} if checkpoint else {}
    if checkpoint and checkpoint.is_file():
        _resume(checkpoint, method, optimiser, history, machine, origin)
    saved = time.monotonic()
    for iteration in range(history.start, settings.iterations):
        began = time.perf_counter()
        terms = _step(method, optimiser, data, task, settings, seed, machine, iteration)
        history.seconds += time.perf_counter() - began
        done = iteration + 1
        if done % settings.eval_every == 0 or done == settings.iterations:
            history.curve += [(done, "train", name, value) for name, value in terms.items()]
            logits, labels, aux = evaluate(method, data, "val", settings, machine)
            numbers = task.metrics(logits, labels) | method.summary(aux)
            history.curve += [(done, "val", name, value) for name, value in numbers.items()]
        if checkpoint and done < settings.iterations and time.monotonic() - saved >= checkpoint_seconds:
            save_checkpoint(checkpoint, method, optimiser, history, done, origin, machine)
            saved = time.monotonic()
        if progress:
            progress(done, settings.iterations, f"loss {sum(terms.values()):.3f}")
    own = conditions(machine.device, machine.precision)
    history.past.parts = history.past.with_part(own, settings.iterations - history.start)
    return history


def _optimiser(method: Method, settings: Settings) -> torch.optim.Optimizer:
    groups = [{**group, "base_lr": group["lr"]} for group in method.param_groups(settings.lr)]
    if settings.optimiser == "adam":
        return torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=True)
    return sgd(groups, settings.momentum, settings.nesterov, settings.weight_decay)


def sgd(
    groups: Iterable[Any], momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Torch's fused SGD for groups that have their `lr`, also where a gradient comes later than others.

    That step fails where some parameters have a momentum and others, of a model that no image was routed to yet, have
    none. From zero the first momentum is the first gradient, as it is where there is none.
    """
    found = torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True)
    if momentum:
        for parameter in (parameter for group in found.param_groups for parameter in group["params"]):
            found.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return found


def _step(
    method: Method,
    optimiser: torch.optim.Optimizer,
    data: Dataset,
    task: Task,
    settings: Settings,
    seed: int,
    machine: Machine,
    iteration: int,
) -> dict[str, float]:
    """One batch, one backward pass, one update; the values of the loss terms."""
    decay = settings.gamma ** sum(iteration >= milestone for milestone in settings.milestones)
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * decay
    images, labels = _to(machine, settings, *loaders.train_batch(data, settings, seed, iteration))
    method.train()
    with machine.autocast():
        terms = method.loss(method(images), labels, task, iteration / settings.iterations)
    values = dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))
    for name, value in values.items():
        if not abs(value) < float("inf"):
            raise ZoolibError(
                f"loss term {name!r} is {value} at step {iteration + 1}; lower the learning rate ({settings.lr})"
            )
    optimiser.zero_grad(set_to_none=True)
    sum(terms.values(), torch.zeros((), device=machine.device)).backward()
    optimiser.step()
    return values


def _to(machine: Machine, settings: Settings, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return images.to(machine.device, memory_format=layout, non_blocking=True), labels.to(
        machine.device, non_blocking=True
    )


@torch.no_grad()
def evaluate(
    method: Method, data: Dataset, split: str, settings: Settings, machine: Machine
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Predictions and recorded aux averaged over the test views, and targets: (N, ...), on the CPU.

    The mean of the logits keeps their scale, which a softmax of them depends on.
    """
    method.eval()
    predictions, targets, kept = [], [], {name: [] for name in method.recorded}  # type: ignore[var-annotated]
    for views, labels in loaders.eval_batches(data, split, settings):
        outputs: list[Output] = []
        for view in views:
            images, _ = _to(machine, settings, view, labels)
            with machine.autocast():
                outputs.append(method(images))
        predictions.append(torch.stack([out.prediction.float() for out in outputs]).mean(0).cpu())
        targets.append(labels)
        for name in kept:
            kept[name].append(torch.stack([out.aux[name].float() for out in outputs]).mean(0).cpu())
    return torch.cat(predictions), torch.cat(targets), {name: torch.cat(parts) for name, parts in kept.items()}


def save_checkpoint(
    path: Path,
    method: Method,
    optimiser: torch.optim.Optimizer,
    history: History,
    done: int,
    origin: dict[str, str],
    machine: Machine,
) -> None:
    """Write model, optimiser, random state, curve, position and machine; the file is the old one or the new one.

    `origin` names the code and the data that they come from.
    """
    device = next(method.parameters()).device
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []  # of the run's own device alone
    state: dict[str, Any] = {
        "model": method.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": cuda,
        "curve": history.curve,
        "seconds": history.seconds,
        "iteration": done,
        "origin": origin,
        "past": history.for_the_next(machine, done),
    }
    with atomic(path) as file:
        torch.save(state, file)


def _resume(
    path: Path,
    method: Method,
    optimiser: torch.optim.Optimizer,
    history: History,
    machine: Machine,
    origin: dict[str, str],
) -> None:
    with restoring(path, "not a checkpoint of this run ({reason})"):
        state = torch.load(path, map_location=machine.device, weights_only=True)
        if state.get("origin") != origin:  # half a run of one code and half of another is a run of neither
            return
        method.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["rng"].cpu())
    if state["cuda_rng"] and machine.device.type == "cuda":
        place = min(machine.device.index or 0, len(state["cuda_rng"]) - 1)  # older checkpoints hold every device's
        torch.cuda.set_rng_state(state["cuda_rng"][place].cpu(), machine.device)
    history.curve = [tuple(row) for row in state["curve"]]
    history.seconds, history.start = state["seconds"], state["iteration"]
    history.past = Past(**state.get("past", {}))  # absent from older checkpoints
