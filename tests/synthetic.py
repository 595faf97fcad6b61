"""Made-up records with known numbers, for the tests of everything that reads records."""

from __future__ import annotations

import dataclasses
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


def face_error(spec: RunSpec) -> float:
    """The made-up test NME in percent: 10 for an accuracy of 50, less for more, plus a tenth of the seed."""
    members = [member.name for member in manifests.hub(spec.hub).members]
    return (
        15 - LEVEL.get(spec.method, 88.0) / 10 - (members.index(spec.member) / 4 if spec.member else 0) + spec.seed / 10
    )


def landmark_result(spec: RunSpec) -> Result:
    """A record of a landmark run: error as above, curves of three points, 60 faces of which 6 keep their points."""
    whole, rng, mean = (
        result(dataclasses.replace(spec, task="cls", dataset="digits")),
        np.random.default_rng(0),
        face_error(spec),
    )
    each = mean / 100 * np.linspace(0.5, 1.5, 60)
    points = [rng.random(136).astype(np.float32) if i % 12 == 0 or i == 59 else None for i in range(60)]
    samples = pd.DataFrame({"index": np.arange(60), "nme": each.astype(np.float32), "points": points})
    recorded = whole.samples.filter(regex="^(weight|gates):").iloc[:40]
    samples = pd.concat([samples, pd.concat([recorded, recorded.iloc[:20]], ignore_index=True)], axis=1)
    values = {"nme": mean, "fr_08": 10.0, "auc_08": 40.0, "fr_10": 5.0, "auc_10": 50.0, "nme_mean_face": 18.0}
    curves = whole.curves
    if curves is not None:
        validated = curves["split"] == "val"
        curves = curves.assign(
            term=np.where(validated, "nme", curves["term"]),
            value=np.where(validated, mean + 10 / curves["iteration"], curves["value"]),
        )
    metrics = {"test": values, "val": values, "cost": whole.metrics["cost"]}
    return Result(spec, metrics, whole.provenance, whole.deviations, curves, samples)


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
        "hub_sha256": manifests.hub_sha256(spec.hub),
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
    task = manifests.dataset(dataset).task
    specs = grid(task, dataset, hub, methods, profile)
    for spec in specs:
        store.save(result(spec) if task == "cls" else landmark_result(spec))
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
    metrics = {"test": {"score": level, "score_std": 2.5, "episodes": 2.0}, "cost": {"seconds": 60.0, "params_m": 1.1}}
    provenance = {
        "commit": "0123456789abcdef",
        "code": runtime.code_fingerprint("atari"),
        "machine": {"cpu": "Test CPU", "gpu": ""},
        "data_sha256": envs.data_sha256(spec) if spec.method in ("random", "scratch") else None,
    }
    curves = pd.DataFrame(rows, columns=["iteration", "split", "term", "value"])
    return Result(spec, metrics, provenance, curves=curves, samples=None if spec.method == "random" else samples)
