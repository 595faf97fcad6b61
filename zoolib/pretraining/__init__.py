"""Make the packaged hubs again: `python -m zoolib pretrain HUB`.

Every member is fitted by the one training loop; nothing here knows how to train. A stopped command goes on where it
was when it is given again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from zoolib import runtime
from zoolib.checkpoints import load_in_order, read_weights
from zoolib.data.manifests import hub as hub_manifest
from zoolib.files import atomic
from zoolib.hub import build
from zoolib.paths import build_dir, made_weights, packaged_weights
from zoolib.pretraining.recipes import RECIPES
from zoolib.spec import Settings, ZoolibError, unknown
from zoolib.train import Machine, evaluate, fit

__all__ = ["folder_of", "pretrain", "require"]

Progress = Callable[[str, int, int, str], None]  # member, iteration, iterations, a word about it


def require(hub: str, member: str = "") -> list[str]:
    """The members that are made here: all of a hub, or the one named. Raises ZoolibError for an unknown name."""
    if hub not in RECIPES:
        raise unknown("hub to pretrain", hub, RECIPES)
    if member and member not in RECIPES[hub]:
        raise unknown(f"member of {hub} to pretrain", member, RECIPES[hub])
    return [member] if member else list(RECIPES[hub])


def folder_of(hub: str) -> Path:
    """Where a hub's weights go: into the package where its manifest says so, else into the build folder."""
    packaged = any(member.weights.startswith(f"packaged:{hub}/") for member in hub_manifest(hub).members)
    return packaged_weights(hub) if packaged else made_weights(hub)


def pretrain(
    hub: str, member: str = "", folder: Path | None = None, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Train the members of a hub (or one), write weights in float16, galleries and provenance.json; return the notes.

    A member that starts from another one needs that one's weights in the folder, or in the package. Raises ZoolibError
    for an unknown name or absent data.
    """
    names, folder = require(hub, member), folder or folder_of(hub)
    origin = runtime.commit()  # before this command itself changes files
    work = build_dir() / "work" / f"pretrain-{hub}"
    notes = []
    for name in names:
        done = work / f"{name}.json"
        if member or not done.is_file():
            note = _make(hub, name, folder, seed, work, progress)
            note["commit"], note["dirty"] = origin
            _remember(folder / "provenance.json", note, list(RECIPES[hub]))
            with atomic(done) as file:
                file.write(json.dumps(note).encode())
        notes.append(json.loads(done.read_text()))
    if member:
        for left in (work / f"{member}.json", work / f"{member}.pt"):
            left.unlink(missing_ok=True)
    else:
        shutil.rmtree(work, ignore_errors=True)
    return notes


def _make(hub: str, name: str, folder: Path, seed: int, work: Path, progress: Progress | None) -> dict[str, Any]:
    recipe, member = RECIPES[hub][name], hub_manifest(hub).member(name)
    runtime.keep_freed_memory()
    runtime.seed_everything(zlib.crc32(f"{name}/{seed}".encode()))  # members must not share an initialisation
    device = runtime.device()
    settings = _precise(recipe.settings, device)
    machine = Machine(device, runtime.precision(settings.precision, device))
    data, backbone = recipe.load(seed, settings), build(member, pretrained=False)
    task = recipe.task(data)
    baseline = recipe.baseline(data, build(member, pretrained=False), settings, machine)
    if recipe.start:
        file = next((f for f in (folder, packaged_weights(hub)) if (f / f"{recipe.start}.safetensors").is_file()), None)
        if file is None:
            raise ZoolibError(f"{name} starts from {recipe.start}: run python -m zoolib pretrain {hub} first")
        file = file / f"{recipe.start}.safetensors"
        load_in_order(backbone.backbone, read_weights(file), str(file))
    method = recipe.method(backbone, task).to(device)
    if settings.channels_last:
        method.to(memory_format=torch.channels_last)
    step = None if progress is None else lambda at, total, word: progress(name, at, total, word)
    began = time.process_time()
    history = fit(method, data, task, settings, seed, machine, work / f"{name}.pt", progress=step)
    seconds = time.process_time() - began
    metrics = task.metrics(*evaluate(method, data, "test", settings, machine)[:2])
    if recipe.gallery:
        with atomic(folder / f"{name}.npz") as out:
            np.savez_compressed(out, **recipe.gallery(method, task, data, settings, machine))  # type: ignore[arg-type]
    note = {
        "member": name,
        "metric": task.metric,
        "value": metrics[task.metric],
        "metrics": metrics,
        "baseline": baseline,
        "baseline_name": recipe.baseline_name,
        "start": recipe.start,
        "seed": seed,
        "data": data.manifest.name,
        "classes": data.train.classes,
        "data_sha256": data.sha256,
        "sha256": _save(backbone.backbone, folder / f"{name}.safetensors"),
        "curve": history.curve,
        "settings": dataclasses.asdict(settings),
        "cpu_seconds": round(seconds, 1),
        "train_images_per_second": round(settings.iterations * settings.batch_size / history.seconds, 1),
    }
    return note | runtime.conditions(device, machine.precision) | runtime.computed_under([history.past])


def _precise(settings: Settings, device: torch.device) -> Settings:
    """bfloat16 where the processor has instructions for it and the recipe does not say otherwise."""
    fast = settings.precision == "auto" and device.type == "cpu" and runtime.native_bfloat16()
    return dataclasses.replace(settings, precision="bfloat16") if fast else settings


def _save(network: torch.nn.Module, path: Path) -> str:
    """Write a network's floating-point tensors as float16; return the file's sha256."""
    state = {k: v.half().contiguous().cpu() for k, v in network.state_dict().items() if v.is_floating_point()}
    content: bytes = save(state)
    with atomic(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def _remember(path: Path, note: dict[str, Any], order: list[str]) -> None:
    """Put a member's note into the hub's provenance file, in place of its former one."""
    notes = {n["member"]: n for n in (json.loads(path.read_text()) if path.is_file() else [])} | {note["member"]: note}
    kept = sorted((n for n in notes.values() if n["member"] in order), key=lambda n: order.index(n["member"]))
    with atomic(path) as file:
        file.write((json.dumps(kept, indent=1) + "\n").encode())
