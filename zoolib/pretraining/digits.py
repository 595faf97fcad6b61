"""Make the packaged zoo again: one small network, three pretext tasks on images without labels.

The pretext data are written out and handed to the one training loop; nothing here knows how to train.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from zoolib import runtime
from zoolib.data import loaders
from zoolib.data.loaders import Dataset, Images
from zoolib.data.manifests import dataset as dataset_manifest
from zoolib.data.manifests import hub as hub_manifest
from zoolib.files import atomic
from zoolib.hub import build
from zoolib.methods.single import Single
from zoolib.paths import packaged_weights
from zoolib.spec import Settings, unknown
from zoolib.tasks import Classification
from zoolib.train import Machine, Progress, evaluate, fit

Pretext = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def rotation(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every image turned by 0, 90, 180 and 270 degrees; the label counts the quarter turns (Gidaris et al. 2018)."""
    turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return np.concatenate(turned), np.repeat(np.arange(4), len(images))


def jigsaw(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The quadrants of every image in eight random orders; the label is the order, of 24 (Noroozi and Favaro 2016)."""
    orders = np.array(list(itertools.permutations(range(4))))
    labels = rng.integers(len(orders), size=8 * len(images))
    repeated = np.tile(images, (8, 1, 1, 1))
    half = images.shape[1] // 2
    corners = [(y, x) for y in (0, half) for x in (0, half)]
    quadrants = np.stack([repeated[:, y : y + half, x : x + half] for y, x in corners], axis=1)  # (N, 4, h, h, 3)
    shuffled = np.take_along_axis(quadrants, orders[labels][:, :, None, None, None], axis=1)
    out = np.empty_like(repeated)
    for place, (y, x) in enumerate(corners):
        out[:, y : y + half, x : x + half] = shuffled[:, place]
    return out, labels


def corruption(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every image as it is, with noise, blurred, and with an erased block; the label says which of the four."""
    noisy = np.clip(images + rng.normal(0, 25, images.shape), 0, 255).astype(np.uint8)
    blurred = sum(np.roll(images.astype(np.float32), (dy, dx), (1, 2)) for dy in (-3, 0, 3) for dx in (-3, 0, 3)) / 9
    erased = images.copy()
    side, block = images.shape[1], images.shape[1] // 3
    for image, (y, x) in zip(erased, rng.integers(side - block, size=(len(images), 2)), strict=True):
        image[y : y + block, x : x + block] = 128
    variants = [images, noisy, np.asarray(blurred).astype(np.uint8), erased]
    return np.concatenate(variants), np.repeat(np.arange(4), len(images))


PRETEXTS: dict[str, Pretext] = {"rotation": rotation, "jigsaw": jigsaw, "corruption": corruption}

SETTINGS = Settings(
    image_size=32,
    decode_size=32,
    batch_size=64,
    iterations=700,
    milestones=(450, 600),
    lr=0.05,
    crop="shift",
    test_crops=1,
    val_fraction=0.2,
    eval_every=100,
)


def pretext_data(pretext: Pretext, seed: int) -> Dataset:
    """The pretext's images and labels, made of those of `digits` split by split; the digits' own labels are unused."""
    digits = loaders.load(dataset_manifest("digits"), SETTINGS)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("train", "val", "test"):
        source, chosen = digits.split(split)
        pixels, labels = pretext(source.pixels[chosen], np.random.default_rng([seed, len(parts)]))
        parts[split] = (pixels, labels)
    pixels, labels = (np.concatenate([parts["train"][i], parts["val"][i]]) for i in (0, 1))
    train = Images(pixels, labels, [], digits.train.sha256)
    count = len(parts["train"][1])
    rows = {
        "train": np.arange(count),
        "val": np.arange(count, len(train.labels)),
        "test": np.arange(len(parts["test"][1])),
    }
    return dataclasses.replace(digits, train=train, test=Images(*parts["test"], [], digits.test.sha256), rows=rows)


def require(hub: str) -> None:
    """Raises ZoolibError for a hub that is not made here."""
    if hub != "digits-zoo":
        raise unknown("hub to pretrain", hub, ["digits-zoo"])


def pretrain(
    hub: str, folder: Path | None = None, seed: int = 0, progress: Progress | None = None
) -> list[dict[str, object]]:
    """Train every member of `digits-zoo`, write its weights (float16) and a provenance file; return the provenance.

    Raises ZoolibError for a hub that is not made here.
    """
    require(hub)
    folder = folder or packaged_weights(hub)
    device = runtime.device()
    notes = []
    for member in hub_manifest(hub).members:
        runtime.seed_everything(seed)
        data = pretext_data(PRETEXTS[member.name], seed)
        classes = int(data.train.labels.max()) + 1
        method = Single(build(member, pretrained=False), Classification(classes)).to(device)
        machine = Machine(device, runtime.precision(SETTINGS.precision, device))
        history = fit(method, data, Classification(classes), SETTINGS, seed, machine, progress=progress)
        logits, labels, _ = evaluate(method, data, "test", SETTINGS, machine)
        accuracy = Classification(classes).metrics(logits, labels)["top1_accuracy"]
        state = {
            k: v.half().contiguous() for k, v in method.backbone.backbone.state_dict().items() if v.is_floating_point()
        }
        with atomic(folder / f"{member.name}.safetensors") as file:
            file.write(save({k: v.cpu() for k, v in state.items()}))
        notes.append(_note(member.name, classes, accuracy, history.curve[-2:], seed, data))
    with atomic(folder / "provenance.json") as file:
        file.write((json.dumps(notes, indent=1) + "\n").encode())
    return notes


def _note(
    name: str, classes: int, accuracy: float, last: list[tuple[int, str, str, float]], seed: int, data: Dataset
) -> dict[str, object]:
    commit, dirty = runtime.commit()
    return {
        "member": name,
        "pretext_accuracy": accuracy,
        "chance": 100 / classes,
        "last_points": last,
        "seed": seed,
        "data_sha256": data.sha256,
        "settings": dataclasses.asdict(SETTINGS),
        "commit": commit,
        "dirty": dirty,
        "versions": runtime.versions(),
        "machine": runtime.machine(),
        "threads": torch.get_num_threads(),
    }
