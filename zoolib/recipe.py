"""What a recipe works with: the context of one run, and the outcome it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoolib.data.loaders import Dataset
from zoolib.files import atomic
from zoolib.hub import Hub, HubModel, StateDict
from zoolib.method import Method
from zoolib.runtime import code_fingerprint, peak_memory_mb
from zoolib.spec import RunSpec, Settings, ZoolibError
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


@dataclass(frozen=True)
class Finished:
    """A run that another one needs, as it left its work folder."""

    logits: Logits
    cost: dict[str, float]
    work: Path

    def weights(self) -> StateDict:
        """What the run's recipe kept. Raises ZoolibError where it kept nothing, or the file is damaged."""
        weights = load_weights(self.work, code_fingerprint())
        if weights is None:
            raise ZoolibError(f"no weights in {self.work}; set `weights` on the card of the method that needs them")
        return weights


@dataclass
class Context:
    """One run: its spec, its data, its hub, what the runs it needs left, and what a recipe can do with them."""

    spec: RunSpec
    data: Dataset
    hub: Hub
    task: Task
    machine: Machine
    work: Path  # this run's folder for its checkpoint, logits and weights
    progress: Progress | None
    needed: Mapping[str, Finished]  # by member, in the hub's order; empty for a method that needs none

    def fit(
        self,
        method: Method,
        deviations: list[str] | None = None,
        settings: Settings | None = None,
        seed: int | None = None,
        checkpoint: str = "checkpoint",
    ) -> Outcome:
        """Train a method on the target task and evaluate its final state on val and test.

        A recipe that fits several times gives each fit a checkpoint of its own, and settings or a seed where they
        differ from the spec's.
        """
        settings, seed = settings or self.spec.settings, self.spec.seed if seed is None else seed
        self.place(method)
        file = self.work / f"{checkpoint}.pt"
        history = fit(method, self.data, self.task, settings, seed, self.machine, file, progress=self.progress)
        images = (settings.iterations - history.start) * settings.batch_size
        cost = cost_of(method, settings.image_size, self.machine)
        cost["seconds"] = history.seconds
        cost["needed_seconds"] = sum(run.cost["seconds"] for run in self.needed.values())
        if images:
            cost["images_per_second"] = settings.iterations * settings.batch_size / history.seconds
        outcome = score(method, self.data, self.task, self.spec, self.machine)
        outcome.metrics["cost"] = cost
        outcome.curves = pd.DataFrame(history.curve, columns=["iteration", "split", "term", "value"])
        held = f"{settings.val_fraction:.0%} of each class's training images are held out to choose by"
        outcome.deviations = [f"{held}; the papers train on all of them", *(deviations or [])]
        file.unlink(missing_ok=True)
        return outcome

    def place(self, module: nn.Module) -> None:
        """Move a module to the run's device and memory layout."""
        module.to(self.machine.device)
        if self.spec.settings.channels_last:
            module.to(memory_format=torch.channels_last)

    def keep(self, module: nn.Module) -> None:
        """Keep a module's weights for the runs that need this one."""
        save_weights(self.work, module.state_dict(), code_fingerprint())

    def finetuned(self, member: str) -> tuple[HubModel, nn.Module]:
        """Backbone and head of a member as its `finetune` run left them."""
        backbone = self.hub.model(member)
        pair = nn.ModuleDict({"backbone": backbone, "head": self.task.head(backbone.num_features)})
        pair.load_state_dict(self.needed[member].weights())
        return backbone, pair["head"]

    def ranking(self) -> list[str]:
        """The members of the needed runs, best first by accuracy on the validation images (ties: by cross-entropy)."""
        return sorted(self.needed, key=lambda name: _validation(self.needed[name].logits), reverse=True)


def _validation(logits: Logits) -> tuple[float, float]:
    """Accuracy and mean log-probability of the label on the validation images."""
    scores, labels = logits["val"].astype(np.float64), logits["val_labels"]
    shifted = scores - scores.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float((scores.argmax(1) == labels).mean()), float(log_probability[np.arange(len(labels)), labels].mean())


def from_scores(logits: Logits, rows: np.ndarray) -> Outcome:
    """The outcome of a recipe that computes logits from those of other runs: accuracies and one row a test image."""
    metrics = {
        split: {"top1_accuracy": 100 * float((logits[split].argmax(1) == logits[f"{split}_labels"]).mean())}
        for split in ("val", "test")
    }
    return Outcome(metrics, logits, samples=sample_frame(logits["test"], logits["test_labels"], rows))


def sum_costs(trained: Sequence[Mapping[str, float]], used: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Costs of training some networks one after the other and using some of them.

    Throughput adds as its inverse, memory is that of the largest.
    """
    total = {name: sum(cost[name] for cost in used) for name in ("params_m", "gmacs")}
    total["inference_params_m"] = total["params_m"]
    total["trainable_params_m"] = sum(cost["trainable_params_m"] for cost in trained)
    total["seconds"] = sum(cost["seconds"] for cost in trained)
    total["peak_memory_mb"] = max(cost["peak_memory_mb"] for cost in trained)
    total["images_per_second"] = 1 / sum(1 / cost["images_per_second"] for cost in trained)
    return total


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
        "inference_params_m": method.inference_parameters() / 1e6,
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


def save_weights(folder: Path, state: StateDict, code: str, name: str = "weights") -> None:
    """Keep tensors for later runs, in full precision; written whole or not at all."""
    whole = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic(folder / f"{name}.safetensors") as file:
        file.write(to_safetensors(whole, metadata={"code": code}))


def has_weights(folder: Path, code: str, name: str = "weights") -> bool:
    """Whether that code kept weights in a work folder."""
    try:
        with safetensors.safe_open(folder / f"{name}.safetensors", "pt") as file:
            return bool((file.metadata() or {}).get("code") == code)
    except (OSError, safetensors.SafetensorError):
        return False


def load_weights(folder: Path, code: str, name: str = "weights") -> StateDict | None:
    """Kept weights, or None where they are absent, unreadable or of other code."""
    return load_file(folder / f"{name}.safetensors") if has_weights(folder, code, name) else None
