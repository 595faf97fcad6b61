"""What a recipe works with: the context of one run, and the outcome it returns."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from zoolib.checkpoints import StateDict
from zoolib.data import loaders, manifests
from zoolib.data.loaders import Dataset
from zoolib.deviations import held_out
from zoolib.files import atomic
from zoolib.hub import Hub, HubModel
from zoolib.layers.adaagg import AdaAggConv2d
from zoolib.method import Method
from zoolib.runtime import Past, code_fingerprint, peak_memory_mb
from zoolib.spec import RunSpec, Settings, ZoolibError
from zoolib.tasks import TargetTask
from zoolib.train import Machine, Progress, evaluate, fit

Logits = dict[str, np.ndarray]  # split -> predictions as the task keeps them; "val_labels", "test_labels" -> targets

OUTPUT_IMAGES = 200  # test images of which a record keeps every member's own prediction: some kilobytes a run


@dataclass
class Outcome:
    """What a recipe computed."""

    metrics: dict[str, dict[str, float]]  # split ("test", "val", "cost") -> name -> value
    logits: Logits
    curves: pd.DataFrame | None = None  # iteration, split, term, value
    samples: pd.DataFrame | None = None  # one row a test image
    outputs: pd.DataFrame | None = None  # a few test images: what each member, and each k, says of them
    deviations: list[str] = field(default_factory=list)  # from the paper, each with its reason


@dataclass(frozen=True)
class Finished:
    """A run that another one needs, as it left its work folder."""

    logits: Logits
    cost: dict[str, float]
    work: Path
    origin: str = ""  # of what the work folder keeps

    def weights(self) -> StateDict:
        """What the run's recipe kept. Raises ZoolibError where it kept nothing, or the file is damaged."""
        weights = load_weights(self.work, self.origin)
        if weights is None:
            raise ZoolibError(f"no weights in {self.work}; set `weights` on the card of the method that needs them")
        return weights


@dataclass
class Context:
    """One run: its spec, its data, its hub, what the runs it needs left, and what a recipe can do with them."""

    spec: RunSpec
    data: Dataset
    hub: Hub
    task: TargetTask
    machine: Machine
    work: Path  # this run's folder for its checkpoint, logits and weights
    progress: Progress | None
    needed: Mapping[str, Finished]  # by member, in the hub's order; empty for a method that needs none
    pasts: list[Past] = field(default_factory=list)  # of every fit: where it was computed

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
        self.pasts.append(history.past)
        images = (settings.iterations - history.start) * settings.batch_size
        cost = cost_of(method, settings.image_size, self.machine)
        cost["seconds"] = history.seconds
        cost["needed_seconds"] = sum(run.cost["seconds"] for run in self.needed.values())
        if images:
            cost["images_per_second"] = settings.iterations * settings.batch_size / history.seconds
        outcome = score(method, self.data, self.task, settings, self.machine)
        outcome.metrics["cost"] = cost
        outcome.curves = pd.DataFrame(history.curve, columns=["iteration", "split", "term", "value"])
        outcome.deviations = self.deviations(*(deviations or []))
        file.unlink(missing_ok=True)
        return outcome

    def deviations(self, *own: str) -> list[str]:
        """What every run that trains, or uses runs that did, does otherwise than the papers, and a recipe's own."""
        brought = len(self.data.rows["val"]) if self.data.brings_validation else 0
        return [held_out(self.spec.task, self.spec.settings.val_fraction, brought), *own]

    @property
    def origin(self) -> str:
        """Of what code, data and hub the tensors are that this run keeps for others."""
        return origin_of(self.data.sha256, manifests.hub_sha256(self.spec.hub))

    def place(self, module: nn.Module) -> None:
        """Move a module to the run's device and memory layout."""
        module.to(self.machine.device)
        if self.spec.settings.channels_last:
            module.to(memory_format=torch.channels_last)

    def keep(self, module: nn.Module) -> None:
        """Keep a module's weights for the runs that need this one."""
        save_weights(self.work, module.state_dict(), self.origin)

    def finetuned(self, member: str) -> tuple[HubModel, nn.Module]:
        """Backbone and head of a member as its `finetune` run left them."""
        backbone = self.hub.model(member)
        pair = nn.ModuleDict({"backbone": backbone, "head": self.task.head(backbone.num_features)})
        pair.load_state_dict(self.needed[member].weights())
        return backbone, pair["head"]

    def ranking(self) -> list[str]:
        """The members of the needed runs, best first by the task's metric on validation data (ties: by its loss)."""
        return sorted(self.needed, key=lambda name: _validation(self.needed[name].logits, self.task), reverse=True)


def _validation(logits: Logits, task: TargetTask) -> tuple[float, float]:
    """Metric and minus the mean loss on the validation data, both the higher the better."""
    prediction, target = torch.from_numpy(logits["val"]), torch.from_numpy(logits["val_labels"])
    value = task.metrics(prediction, target)[task.metric]
    return value if task.higher_is_better else -value, -task.loss(prediction.double(), target).item()


def from_scores(logits: Logits, data: Dataset, task: TargetTask) -> Outcome:
    """The outcome of a recipe that computes predictions from those of other runs: metrics, one row a test image."""
    found = {name: torch.from_numpy(values) for name, values in logits.items()}
    metrics = {split: judge(found[split], found[f"{split}_labels"], data, split, task) for split in ("val", "test")}
    kept = {name: task.kept(found[name]) if name in metrics else values for name, values in logits.items()}
    return Outcome(metrics, kept, samples=sample_frame(found["test"], found["test_labels"], data, task))


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


def score(method: Method, data: Dataset, task: TargetTask, settings: Settings, machine: Machine) -> Outcome:
    """Evaluate a trained method on val and test."""
    metrics: dict[str, dict[str, float]] = {}
    logits: Logits = {}
    for split in ("val", "test"):
        prediction, target, aux = evaluate(method, data, split, settings, machine)
        metrics[split] = judge(prediction, target, data, split, task)
        logits |= {split: task.kept(prediction), f"{split}_labels": target.numpy()}
    samples = sample_frame(prediction, target, data, task)  # of the last split, test
    for name, columns in method.recorded.items():
        values = aux[name].numpy().astype(np.float16)
        if values.ndim == 2:  # (N, m): one column each
            for index, column in enumerate(columns):
                samples[f"{name}:{column}"] = values[:, index]
        else:  # (N, layers, m): one list column for each layer
            for index, column in enumerate(columns):
                samples[f"{name}:{column}"] = list(values[:, index])
    outputs = None if task.spatial else output_frame(method, data, settings, machine)
    return Outcome(metrics, logits, samples=samples, outputs=outputs)


def _few_rows(data: Dataset, count: int) -> np.ndarray:
    """About `count` of the scored test rows: as many of each class, or evenly spread where there are more classes."""
    source, rows = data.split("test")
    chosen = loaders.balanced(source.labels, rows, max(1, count // len(source.classes)))
    return chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)]


@torch.no_grad()
def output_frame(
    method: Method, data: Dataset, settings: Settings, machine: Machine, count: int = OUTPUT_IMAGES, top: int = 3
) -> pd.DataFrame | None:
    """The `top` classes, and their probabilities, of each of a method's alternatives on a few test images.

    Columns: index (row of the test file), label, and two lists for each alternative, `top:<name>` and
    `probability:<name>`. None for a method without alternatives. As everywhere, logits are averaged over the test
    views.
    """
    method.eval()
    few = dataclasses.replace(data, rows=data.rows | {"test": _few_rows(data, count)})
    parts: dict[str, list[Tensor]] = {}
    labels = []
    for views, target in loaders.eval_batches(few, "test", settings):
        labels.append(target)
        sums: dict[str, Tensor] = {}
        for view in views:
            with machine.autocast():
                for name, logits in method.alternatives(view.to(machine.device)).items():
                    sums[name] = sums.get(name, 0) + logits.float().cpu()
        if not sums:
            return None
        for name, logits in sums.items():
            parts.setdefault(name, []).append(logits / len(views))
    frame: dict[str, object] = {"index": few.rows["test"].astype(np.int32), "label": torch.cat(labels).numpy()}
    for name, logits in ((name, torch.cat(part)) for name, part in parts.items()):
        best = logits.softmax(-1).topk(min(top, logits.shape[-1]))  # (N, top)
        frame[f"top:{name}"] = list(best.indices.numpy().astype(np.int32))
        frame[f"probability:{name}"] = list(best.values.numpy().astype(np.float16))
    return pd.DataFrame(frame)


def judge(prediction: Tensor, target: Tensor, data: Dataset, split: str, task: TargetTask) -> dict[str, float]:
    """The task's metrics on a split, its references, and the metrics on each named subset, such as `nme_large-pose`."""
    found = task.metrics(prediction, target) | task.references(target)
    for name, members in data.subsets(split).items():
        if members.any():
            chosen = torch.from_numpy(members)
            found |= {f"{key}_{name}": value for key, value in task.metrics(prediction[chosen], target[chosen]).items()}
    return found


def sample_frame(prediction: Tensor, target: Tensor, data: Dataset, task: TargetTask) -> pd.DataFrame:
    """One row a test image: its row in the test file, and what the task has to say of it."""
    return pd.DataFrame({"index": data.rows["test"].astype(np.int32), **task.samples(prediction, target)})


def even_routes(method: Method) -> Iterator[None]:
    """One turn for a method without routes, else one for each of m routes that together take every model k times.

    Within a turn all images take its route, so that what is counted depends neither on weights nor on images.
    """
    generator = getattr(method, "generator", None)
    if not isinstance(generator, nn.Module):
        yield
        return
    for first, _ in enumerate(method.get_submodule("members").children()):

        def prefer(module: nn.Module, inputs: object, weights: Tensor, first: int = first) -> Tensor:
            models = weights.shape[-1]
            rank = (torch.arange(models, device=weights.device) - first) % models
            return (models - rank).to(weights.dtype).softmax(-1).expand_as(weights)

        handle = generator.register_forward_hook(prefer)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def as_defined(method: Method) -> Iterator[None]:
    """Inside, Zoo-Tuning's layers compute as they are defined, one aggregated kernel an image, to be counted.

    Elsewhere they take the way that is fastest for a shape and a machine, and one of these trades operations for time.
    """
    layers = [module for module in method.modules() if isinstance(module, AdaAggConv2d) and module.strategy == "auto"]
    for layer in layers:
        layer.strategy = "unfold"
    try:
        yield
    finally:
        for layer in layers:
            layer.strategy = "auto"


@torch.no_grad()
def cost_of(method: Method, image_size: int, machine: Machine) -> dict[str, float]:
    """Parameters (millions), multiply-adds of one image at inference (billions), peak memory of the process (MB).

    Where images are routed, the multiply-adds are the mean over routes that take every model equally often.
    """
    method.eval()
    image = torch.rand(1, 3, image_size, image_size, device=machine.device)
    method(image)  # what is computed once and kept, such as aligned kernels, is no cost of an image
    counts = []
    for _ in even_routes(method):
        with as_defined(method), FlopCounterMode(display=False) as counter:
            method(image)
        counts.append(counter.get_total_flops() / 2e9)
    return {
        "params_m": sum(p.numel() for p in method.parameters()) / 1e6,
        "trainable_params_m": sum(p.numel() for p in method.parameters() if p.requires_grad) / 1e6,
        "inference_params_m": method.inference_parameters() / 1e6,
        "gmacs": sum(counts) / len(counts),
        "peak_memory_mb": peak_memory_mb(machine.device),
    }


def origin_of(data_sha256: str, hub_sha256: str | None) -> str:
    """What tensors in a work folder come from: this code, those images, and the files of a hub of one's own."""
    return f"{code_fingerprint()} {data_sha256} {hub_sha256 or ''}".strip()


def logits_sha256(logits: Logits) -> str:
    """A checksum of a run's predictions: runs that were built on them name it, and it is that of the run's record."""
    digest = hashlib.sha256()
    for name in sorted(logits):
        digest.update(name.encode() + np.ascontiguousarray(logits[name]).tobytes())
    return digest.hexdigest()


def save_logits(folder: Path, logits: Logits, code: str) -> None:
    """Keep a run's logits for the runs that need them; written whole or not at all."""
    with atomic(folder / "logits.npz") as file:
        np.savez(file, **logits, code=np.array(code))  # type: ignore[arg-type]


def load_logits(folder: Path, code: str) -> Logits | None:
    """A run's logits, or None where they are absent, unreadable or of other code."""
    try:
        with (folder / "logits.npz").open("rb") as content, np.load(content) as file:
            if str(file["code"]) != code:
                return None
            return {name: file[name] for name in file.files if name != "code"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
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
