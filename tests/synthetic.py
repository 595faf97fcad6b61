"""Made-up records with known numbers, for the tests of everything that reads records."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from zoolib import games, runtime
from zoolib.data import manifests
from zoolib.grid import grid
from zoolib.methods import METHODS
from zoolib.results import Result, ResultStore
from zoolib.rl import envs
from zoolib.spec import RunSpec

LEVEL = {"scratch": 50.0, "finetune": 80.0, "ensemble": 85.0, "zoo_tuning": 84.0, "lite_zoo_tuning": 82.0}
LAYERS = ("stem", "layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2")


def accuracy(spec: RunSpec) -> float:
    """The made-up test accuracy: a level for each method and member, plus the seed."""
    members = [member.name for member in manifests.hub(spec.hub).members]
    return LEVEL.get(spec.method, 88.0) + 2 * (members.index(spec.member) if spec.member else 0) + spec.seed


def result(spec: RunSpec) -> Result:
    """A whole record: accuracy as above, curves of three points, samples of four test images in each class."""
    rng = np.random.default_rng(spec.seed)
    members = [member.name for member in manifests.hub(spec.hub).members]
    classes = manifests.dataset(spec.dataset).num_classes
    top = accuracy(spec)
    terms = ("task", "explore", "exploit") if spec.method == "hub_pathway" else ("task",)
    rows = [(i, "val", "top1_accuracy", top - 10 / i) for i in (1, 2, 4)]
    rows += [(i, "train", term, (2 + n) / i) for i in (1, 2, 4) for n, term in enumerate(terms)]
    labels = np.repeat(np.arange(classes), 4)
    samples = pd.DataFrame({"index": np.arange(len(labels)), "label": labels, "prediction": labels, "confidence": 0.75})
    if spec.method.startswith("hub_pathway"):
        raw = rng.random((len(labels), len(members))) + np.eye(len(members))[labels % len(members)]
        samples[[f"weight:{name}" for name in members]] = raw / raw.sum(1, keepdims=True)
    if spec.method in ("zoo_tuning", "lite_zoo_tuning"):
        for i, layer in enumerate(LAYERS):
            samples[f"gates:{layer}"] = list(np.clip(0.2 * i + 0.1 * rng.random((len(labels), len(members))), 0, 1))
    metrics = {
        "test": {"top1_accuracy": top},
        "val": {"top1_accuracy": top - 1},
        "cost": {"seconds": 60.0 + spec.seed, "params_m": 3.4, "gmacs": 0.4, "images_per_second": 128.0},
    }
    provenance = {
        "commit": "0123456789abcdef",
        "dirty": False,
        "code": runtime.code_fingerprint(),
        "machine": {"cpu": "Test CPU", "cores": 2, "gpu": ""},
        "threads": 1,
        "started": "2026-11-21T10:00:00+00:00",
        "data_variant": "",
    }
    return Result(
        spec,
        metrics,
        provenance,
        ["the generator is smaller than the paper's"] if spec.method == "hub_pathway" else [],
        None
        if not METHODS[spec.method].trains
        else pd.DataFrame(rows, columns=["iteration", "split", "term", "value"]),
        samples,
    )


def fill(
    store: ResultStore, dataset: str, hub: str, methods: str | Sequence[str] = "core", profile: str = "mini"
) -> list[RunSpec]:
    """Save a record of every run of a grid, and return its specifications."""
    specs = grid("cls", dataset, hub, methods, profile)
    for spec in specs:
        store.save(result(spec))
    return specs


def game_result(spec: RunSpec) -> Result:
    """A whole record of a game: 100 for each method's place in the table and 10 for each seed, and a short episode."""
    level = 100.0 * list(games.METHODS).index(spec.method) + 10 * spec.seed
    steps = spec.settings.steps
    rows = [(i, "eval", "score", level * i / steps + d) for i in (steps // 2, steps) for d in (-1.0, 1.0)]
    picture = io.BytesIO()
    Image.new("RGB", (160, 210)).save(picture, "png")
    samples = pd.DataFrame({"step": range(5), "action": 0, "reward": 1.0, "frame": [picture.getvalue(), *[None] * 4]})
    if spec.method == "hub_pathway":
        samples[[f"weight:{name}" for name in games.SOURCES]] = [0.75, 0.25]
    if spec.method == "zoo_tuning":
        samples[[f"gate:{layer}:{name}" for layer in ("conv1", "conv2") for name in games.SOURCES]] = 0.5
    metrics = {"test": {"score": level, "episodes": 2.0}, "cost": {"seconds": 60.0, "params_m": 1.1}}
    provenance = {
        "commit": "0123456789abcdef",
        "code": runtime.code_fingerprint(),
        "machine": {"cpu": "Test CPU", "gpu": ""},
        "data_sha256": envs.data_sha256(spec) if spec.method in ("random", "scratch") else None,
    }
    curves = pd.DataFrame(rows, columns=["iteration", "split", "term", "value"])
    return Result(spec, metrics, provenance, curves=curves, samples=None if spec.method == "random" else samples)
