"""What a recipe works with: the context of one run, and the outcome it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoolib.data.loaders import Dataset
from zoolib.files import atomic
from zoolib.hub import Hub
from zoolib.method import Method
from zoolib.runtime import peak_memory_mb
from zoolib.spec import RunSpec
from zoolib.tasks import Task
from zoolib.train import Machine, Progress, evaluate, fit

Logits = dict[str, np.ndarray]  # split -> (N, C) float32; "val_labels" and "test_labels" -> (N,)


@dataclass
class Outcome:
    """What a recipe computed."""

    metrics: dict[str, dict[str, float]]  # split ("test", "val", "cost") -> name -> value
    logits: Logits
    curves: pd.DataFrame | None = None  # iteration, split, term, value
    samples: pd.DataFrame | None = None  # one row a test image
    deviations: list[str] = field(default_factory=list)  # from the paper, each with its reason


@dataclass
class Context:
    """One run: its spec, its data, its hub, and the two things a recipe can do with them."""

    spec: RunSpec
    data: Dataset
    hub: Hub
    task: Task
    machine: Machine
    work: Path  # this run's folder for its checkpoint and logits
    progress: Progress | None
    outcome_of: Callable[[str], tuple[Logits, dict[str, float]]]  # member -> logits and cost of its `needs` run

    def fit(self, method: Method, deviations: list[str] | None = None) -> Outcome:
        """Train a method on the target task and evaluate its final state on val and test."""
        spec, device = self.spec, self.machine.device
        method.to(device)
        if spec.settings.channels_last:
            method.to(memory_format=torch.channels_last)
        checkpoint = self.work / "checkpoint.pt"
        history = fit(
            method, self.data, self.task, spec.settings, spec.seed, self.machine, checkpoint, progress=self.progress
        )
        images = (spec.settings.iterations - history.start) * spec.settings.batch_size
        cost = cost_of(method, spec.settings.image_size, self.machine)
        cost["seconds"] = history.seconds
        if images:
            cost["images_per_second"] = spec.settings.iterations * spec.settings.batch_size / history.seconds
        outcome = score(method, self.data, self.task, spec, self.machine)
        outcome.metrics["cost"] = cost
        outcome.curves = pd.DataFrame(history.curve, columns=["iteration", "split", "term", "value"])
        held = f"{spec.settings.val_fraction:.0%} of each class's training images are held out to choose by"
        outcome.deviations = [f"{held}; the papers train on all of them", *(deviations or [])]
        checkpoint.unlink(missing_ok=True)
        return outcome


def score(method: Method, data: Dataset, task: Task, spec: RunSpec, machine: Machine) -> Outcome:
    """Evaluate a trained method on val and test."""
    metrics, logits = {}, {}
    aux: dict[str, Tensor] = {}
    for split in ("val", "test"):
        prediction, target, aux = evaluate(method, data, split, spec.settings, machine)
        metrics[split] = task.metrics(prediction, target)
        logits[split] = prediction.numpy()
        logits[f"{split}_labels"] = target.numpy()
    samples = sample_frame(logits["test"], logits["test_labels"], data.rows["test"])
    for name, columns in method.recorded.items():
        values = aux[name].numpy().astype(np.float16)
        if values.ndim == 2:  # (N, m): one column each
            for index, column in enumerate(columns):
                samples[f"{name}:{column}"] = values[:, index]
        else:  # (N, layers, m): one list column for each layer
            for index, column in enumerate(columns):
                samples[f"{name}:{column}"] = list(values[:, index])
    return Outcome(metrics, logits, samples=samples)


def sample_frame(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """One row a test image: its row in the test file, label, prediction and the prediction's probability."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (shifted.max(1) / shifted.sum(1)).astype(np.float16)
    frame = {"index": rows, "label": labels, "prediction": logits.argmax(1)}
    return pd.DataFrame({**{k: v.astype(np.int32) for k, v in frame.items()}, "confidence": confidence})


@torch.no_grad()
def cost_of(method: Method, image_size: int, machine: Machine) -> dict[str, float]:
    """Parameters (millions), multiply-adds of one image at inference (billions), peak memory of the process (MB)."""
    method.eval()
    image = torch.rand(1, 3, image_size, image_size, device=machine.device)
    method(image)  # what is computed once and kept, such as aligned kernels, is no cost of an image
    with FlopCounterMode(display=False) as counter:
        method(image)
    return {
        "params_m": sum(p.numel() for p in method.parameters()) / 1e6,
        "trainable_params_m": sum(p.numel() for p in method.parameters() if p.requires_grad) / 1e6,
        "gmacs": counter.get_total_flops() / 2e9,
        "peak_memory_mb": peak_memory_mb(machine.device),
    }


def save_logits(folder: Path, logits: Logits, code: str) -> None:
    """Keep a run's logits for the runs that need them; written whole or not at all."""
    with atomic(folder / "logits.npz") as file:
        np.savez(file, **logits, code=np.array(code))  # type: ignore[arg-type]


def load_logits(folder: Path, code: str) -> Logits | None:
    """A run's logits, or None where they are absent, unreadable or of other code."""
    try:
        with np.load(folder / "logits.npz") as file:
            if str(file["code"]) != code:
                return None
            return {name: file[name] for name in file.files if name != "code"}
    except (OSError, ValueError, KeyError, EOFError):
        return None
