"""Features of frozen hub members on a dataset: extracted once, in batches, and kept by model and data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zoolib.checkpoints import weights_file
from zoolib.data import loaders
from zoolib.data.loaders import Dataset
from zoolib.data.manifests import file_sha256
from zoolib.data.schema import MemberManifest
from zoolib.files import atomic
from zoolib.hub import split
from zoolib.paths import build_dir
from zoolib.runtime import code_fingerprint
from zoolib.spec import Settings, ZoolibError
from zoolib.train import Machine

_BATCH = 128
Note = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Features:
    """What one member makes of a dataset."""

    splits: dict[str, np.ndarray]  # split -> (N, D) float32, memory-mapped
    labels: dict[str, np.ndarray]  # split -> (N,)
    head: tuple[np.ndarray, np.ndarray] | None  # the source head's weights (Cs, D) and bias (Cs,)
    seconds: dict[str, float]  # that the extraction of each split took when it was done
    cached: bool

    def source_probabilities(self, split: str) -> np.ndarray | None:
        """The source head's softmax (N, Cs) of a split; None for a member without one."""
        if self.head is None:
            return None
        logits = self.splits[split] @ self.head[0].T + self.head[1]
        logits = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(logits / logits.sum(1, keepdims=True))


def key(member: MemberManifest, data: Dataset, settings: Settings, split: str, precision: str) -> str:
    """The name of the cached features: everything that they depend on, hashed."""
    weights = member.sha256 or (member.weights if member.weights == "random" else file_sha256(weights_file(member)))
    fields = ["architecture", "mean", "std", "num_features", "fixed_input", "input_size"]
    fields += ["prefix", "entry"]  # which tensors of the file
    what: dict[str, Any] = {name: getattr(member, name) for name in fields}
    what |= {"weights": weights, "name": member.name if weights == "random" else "", "code": code_fingerprint()}
    what |= {"data": data.sha256, "split": split, "rows": hashlib.sha256(data.rows[split].tobytes()).hexdigest()}
    what |= {"image_size": settings.image_size, "decode_size": settings.decode_size, "precision": precision}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def every_class(data: Dataset) -> None:
    """Raises ZoolibError for a class without an image to train on, of which no score can say anything."""
    counts = np.bincount(data.train.labels[data.rows["train"]], minlength=data.manifest.num_classes)
    if len(lacking := np.flatnonzero(counts == 0)):
        raise ZoolibError(
            f"class {data.train.classes[lacking[0]]!r} of {data.manifest.name} has no image to train on, so no score "
            "can be computed; give it images, or leave the class out"
        )


def extract(
    member: MemberManifest,
    data: Dataset,
    settings: Settings,
    machine: Machine,
    splits: Sequence[str] = ("train", "val"),
    note: Note | None = None,
) -> Features:
    """The pooled features of a pretrained member on the central crops of each split.

    Computed in batches and kept below build/cache/features; a member whose weights, images and sizes are the same is
    not run again, whatever its hub. Raises ZoolibError for weights that are missing or damaged, and for a class without
    an image to train on.
    """
    if data.manifest.task == "cls" and "train" in splits:
        every_class(data)
    folder = build_dir() / "cache" / "features"
    keys = {name: key(member, data, settings, name, machine.precision) for name in splits}
    found = {name: kept for name in splits if (kept := _kept(folder / keys[name]))}
    lacking = [name for name in splits if name not in found]
    if lacking:
        backbone, head = split(member)
        backbone.to(machine.device).eval()
        total, before = sum(len(data.rows[name]) for name in lacking), 0
        for name in lacking:
            _run(backbone, head, data, name, settings, machine, folder / keys[name], note, before, total)
            before += len(data.rows[name])
            found[name] = _load(folder / keys[name])
    labels = {name: source.labels[rows] for name in splits for source, rows in [data.split(name)]}
    features, seconds = {name: found[name][0] for name in splits}, {name: found[name][1] for name in splits}
    return Features(features, labels, _head(folder / keys[splits[0]]), seconds, not lacking)


def _load(path: Path) -> tuple[np.ndarray, float]:
    """Cached features and the seconds that they took."""
    note = json.loads(path.with_suffix(".json").read_text())
    if note["head"]:
        _head(path)
    return np.load(path.with_suffix(".npy"), mmap_mode="r"), float(note["seconds"])


def _head(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The source head kept beside features; None for a member without one."""
    file = path.with_name(f"{path.name}.head.npz")
    if not json.loads(path.with_suffix(".json").read_text())["head"]:
        return None
    with file.open("rb") as opened, np.load(opened) as kept:
        return kept["weight"], kept["bias"]


def _kept(path: Path) -> tuple[np.ndarray, float] | None:
    """The same, or None where they are missing, incomplete or damaged."""
    try:
        return _load(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


@torch.no_grad()
def _run(
    backbone: nn.Module,
    head: nn.Linear | None,
    data: Dataset,
    name: str,
    settings: Settings,
    machine: Machine,
    path: Path,
    note: Note | None,
    before: int,
    total: int,
) -> None:
    """Extract one split and write array, head and, last, the note that marks them complete."""
    began, parts, done = time.perf_counter(), [], 0
    centre = dataclasses.replace(settings, test_crops=1)
    for (image,), labels in loaders.eval_batches(data, name, centre, _BATCH):
        with machine.autocast():
            parts.append(backbone(image.to(machine.device)).float().cpu().numpy())
        done += len(labels)
        if note:
            note(before + done, total)
    seconds = time.perf_counter() - began
    with atomic(path.with_suffix(".npy")) as file:
        np.save(file, np.concatenate(parts))
    if head is not None:
        bias = head.weight.new_zeros(head.out_features) if head.bias is None else head.bias
        pieces = {"weight": head.weight.detach().cpu().numpy(), "bias": bias.detach().cpu().numpy()}
        with atomic(path.with_name(f"{path.name}.head.npz")) as file:
            np.savez(file, **pieces)  # type: ignore[arg-type]
    with atomic(path.with_suffix(".json")) as file:
        file.write(json.dumps({"seconds": seconds, "split": name, "head": head is not None}).encode())
