"""The `paper` profile rehearsed: `python -m benchmarks.rehearse [--only DATASET/HUB]`, or `make rehearse`.

For each dataset and each hub of the papers the whole chain runs at the real input size with the real architectures: a
tiny archive in the official layout, the project's manifest, canonical Parquet, the papers' transforms, a hub of random
weights from files with the official names and keys, three steps, ten-crop evaluation, a record. What the numbers say is
that everything fits together and what it costs; the accuracies mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import checkpoints, layouts
from zoolib import experiment, runtime
from zoolib.data import fetch, manifests
from zoolib.data.schema import DatasetManifest, HubManifest, MemberManifest
from zoolib.files import atomic
from zoolib.grid import allowed, grid
from zoolib.hub import architecture, build
from zoolib.methods import method
from zoolib.paths import CHECKOUT
from zoolib.results import ResultStore
from zoolib.spec import RunSpec

HUBS = ("resnet50-zoo", "heterogeneous")
METHODS = ("hub_pathway", "zoo_tuning")
BATCH, STEPS, CLASSES = 4, 3, (0, 1)
PAPER_BATCH = 48
#: published by torchvision with the weights: million parameters, billion multiply-adds, at this size
_PUBLISHED = {
    "resnet50": ("ResNet50_Weights", 224),
    "mobilenet_v3_large": ("MobileNet_V3_Large_Weights", 224),
    "efficientnet_b3": ("EfficientNet_B3_Weights", 300),
    "swin_t": ("Swin_T_Weights", 224),
    "convnext_tiny": ("ConvNeXt_Tiny_Weights", 224),
}


# Data and hubs --------------------------------------------------------------------------------------------------------


def tiny(manifest: DatasetManifest, root: Path) -> DatasetManifest:
    """Write a tiny archive in a dataset's official layout; the manifest with its sizes and without checksums."""
    splits = ("val", "test") if manifest.sizes.val else ("test",)
    points = manifest.landmarks.points if manifest.landmarks else 0
    classes = (0,) if points else CLASSES
    size = {"cifar100": (32, 32), "eurosat": (64, 64), "dmlab": (480, 360)}.get(manifest.name, (300, 220))
    items = layouts.samples(4, ("train",), classes, size, points)
    items += layouts.samples(3 if points else 1, splits, classes, size, points, 1)
    source = next(s for s in manifest.sources if s.files)
    builder = layouts.eurosat if manifest.name == "eurosat" else layouts.BUILDERS[manifest.name]
    folder = fetch.originals(manifest, root)
    folder.mkdir(parents=True, exist_ok=True)
    builder(folder, items, manifest.num_classes)
    sizes: dict[str, int | None] = {
        split: sum(i.split == split for i in items) or None for split in ("train", "test", "val")
    }
    options = dict(source.options)
    if manifest.name == "eurosat":  # its archive has no split: one image of each absent class is in it
        sizes = {"train": 12, "val": 4, "test": 2}
        options["sizes"] = sizes
    unknown = [
        f.model_copy(update={"sha256": None, "sha1": None, "md5": None, "size": None, "urls": []}) for f in source.files
    ]
    source = source.model_copy(update={"files": unknown, "options": options})
    update = {"sizes": manifest.sizes.model_copy(update=sizes), "sources": [source]}
    return manifest.model_copy(update=update)


def hub_file(name: str, root: Path) -> str:
    """The papers' hub from files of random weights below a data root, as a YAML of its own."""
    manifest = checkpoints.write_hub(manifests.hub(name), root / fetch.WEIGHTS)
    path = root / f"{name}.yaml"
    path.write_text(manifest.model_dump_json())
    return str(path)


# The chain ------------------------------------------------------------------------------------------------------------


def chain(task: str, dataset: str, hub: str, name: str, store: ResultStore) -> dict[str, Any]:
    """Three steps of a method and its evaluation under the paper profile, of classes on ten crops; what was seen."""
    (spec,) = grid(task, dataset, hub, [name], "paper", [0])
    changes = {"iterations": STEPS, "milestones": (2,), "batch_size": BATCH, "eval_every": STEPS}
    spec = dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, **changes))
    began, cpu = time.perf_counter(), time.process_time()
    experiment.run(spec, store)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"method": name, "seconds": seconds, "cpu_seconds": cpu, **_seen(spec, store)}


def _seen(spec: RunSpec, store: ResultStore) -> dict[str, Any]:
    """What the record of a run says, read back from disk."""
    record = store.load(spec)
    losses = record.curves[record.curves["split"] == "train"]
    assert record.samples is not None and losses["value"].notna().all()
    cost = record.metrics["cost"]
    return {
        "image_size": spec.settings.image_size,
        "test_crops": spec.settings.test_crops,
        "test_images": len(record.samples),
        "losses": {str(row.term): float(row.value) for row in losses.itertuples()},
        "params_m": cost["params_m"],
        "gmacs": cost["gmacs"],
        "peak_memory_mb": cost["peak_memory_mb"],
    }


# Cost -----------------------------------------------------------------------------------------------------------------


def saved_bytes(network: nn.Module, images: Tensor, precision: torch.dtype | None) -> int:
    """Bytes that one training pass keeps for its backward pass, parameters not counted; each storage counts once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    network.train()
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision is not None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), half:
        out = network(images)
    del out
    return sum(seen.values())


@torch.no_grad()
def _gmacs(network: nn.Module, size: int) -> float:
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, size, size))
    return float(counter.get_total_flops() / 2e9)


def member_row(member: MemberManifest, hub: str) -> dict[str, Any]:
    """Parameters, multiply-adds and activation bytes of one member beside what torchvision publishes of its network."""
    import torchvision

    kind = member.architecture.partition(":")[2]
    enum, size = _PUBLISHED[kind]
    published = getattr(torchvision.models, enum).IMAGENET1K_V1.meta
    whole = architecture(member.architecture)
    model = build(member.model_copy(update={"weights": "random", "download": []}))
    per_image = {
        key: saved_bytes(model, torch.rand(3, 3, 224, 224), dtype)
        - saved_bytes(model, torch.rand(2, 3, 224, 224), dtype)
        for key, dtype in (("float32", None), ("bfloat16", torch.bfloat16))
    }
    return {
        "hub": hub,
        "member": member.name,
        "architecture": member.architecture,
        "params_m": sum(p.numel() for p in whole.parameters()) / 1e6,
        "published_params_m": published["num_params"] / 1e6,
        "size": size,
        "gmacs": _gmacs(whole, size),
        "published_gmacs": published["_ops"],
        "backbone_params_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "gmacs_224": _gmacs(model, 224),
        "activation_bytes": per_image,
    }


def memory_rows(hub: HubManifest, members: Sequence[dict[str, Any]], params: dict[str, float]) -> list[dict[str, Any]]:
    """Estimated memory of training at batch 48: weights, gradients and momentum, and what the backward pass keeps."""
    from zoolib.layers.pathway import PathwayGenerator
    from zoolib.layers.surgery import aggregate

    rows = []
    for name, params_m in params.items():
        for key, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
            if name == "hub_pathway":
                generator = PathwayGenerator(len(hub.members), 64, 224)
                x = [torch.rand(n, 3, 224, 224) for n in (2, 3)]
                extra = saved_bytes(generator, x[1], dtype) - saved_bytes(generator, x[0], dtype)
                routed = sorted(row["activation_bytes"][key] for row in members)
                per_image = {"mean": extra + 2 * sum(routed) / len(routed), "worst": extra + sum(routed[-2:])}
            else:
                net = aggregate(
                    [build(m.model_copy(update={"weights": "random", "download": []})) for m in hub.members]
                )
                more, less = (saved_bytes(net, torch.rand(n, 3, 224, 224), dtype) for n in (3, 2))
                per_image = {"mean": more - less, "worst": more - less}
            static = params_m * 1e6 * (12 + (2 if dtype else 0))  # bf16 autocast keeps a copy of the weights
            row = {"hub": hub.name, "method": name, "precision": key, "static_gb": static / 1e9}
            rows.append(row | {f"{case}_gb": (static + PAPER_BATCH * size) / 1e9 for case, size in per_image.items()})
    return rows


# All of it ------------------------------------------------------------------------------------------------------------


def rehearse(only: str, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Every pair of dataset and hub (or the one that `only` names), and the costs; saved after each pair."""
    wanted_set, _, wanted_hub = only.partition("/")
    commit, dirty = runtime.commit()
    about = {
        "commit": commit, "dirty": dirty, "machine": runtime.machine(), "versions": runtime.versions(),
        "threads": torch.get_num_threads(), "batch": BATCH, "steps": STEPS, "paper_batch": PAPER_BATCH,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    found: dict[str, Any] = {"about": about, "chains": [], "faces": [], "members": [], "memory": [], "gpu": None}
    papers = [m for m in manifests.datasets().values() if m.paper_column and m.sources]
    with tempfile.TemporaryDirectory(prefix="zoolib-rehearsal-") as folder:
        root = Path(folder)
        os.environ |= {"ZOOLIB_DATA": str(root), "ZOOLIB_BUILD": str(root / "build")}
        files = {name: hub_file(name, root) for name in HUBS if wanted_hub in ("", name)}
        found["members"] = [member_row(m, name) for name in files for m in manifests.hub(name).members]
        for manifest in sorted(papers, key=lambda m: m.task):
            if wanted_set in ("", manifest.name):
                _pairs(manifest, files, root, found, save)
    return found


def _pairs(
    manifest: DatasetManifest,
    files: dict[str, str],
    root: Path,
    found: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """One dataset with every hub and method."""
    began = time.perf_counter()
    made = fetch.fetch(tiny(manifest, root), root)
    read = {
        "dataset": manifest.name,
        "rows": json.loads((made / fetch.SOURCE).read_text())["rows"],
        "reader": next(source for source in manifest.sources if source.files).reader,
        "read_seconds": time.perf_counter() - began,
    }
    faces = manifest.task != "cls"
    if faces:
        found["faces"].append(read)
    for name, path in files.items():
        hub = manifests.hub(name)
        if faces and not hub.homogeneous:
            continue  # the papers detect landmarks from the zoo of one architecture alone (Hub-Pathway, table 3)
        for which in (which for which in METHODS if allowed(method(which), hub)):
            row = {
                **read,
                "hub": name,
                **chain(manifest.task, manifest.name, path, which, ResultStore(root / "records")),
            }
            found["chains"].append(row)
            if not faces and not any((m["hub"], m["method"]) == (name, which) for m in found["memory"]):
                members = [m for m in found["members"] if m["hub"] == name]
                found["memory"] += memory_rows(hub, members, {which: row["params_m"]})
            save(found)


def main() -> None:
    """Rehearse, and keep results/rehearsal.json up to date unless only one pair was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearse", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="DATASET/HUB", help="one pair; it is printed, nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("ZOOLIB_THREADS", "1")))

    def save(found: dict[str, Any]) -> None:
        last = (found["chains"] or found["faces"])[-1]
        print(json.dumps(last), flush=True)
        if not options.only:
            with atomic(CHECKOUT / "results" / "rehearsal.json") as file:
                file.write((json.dumps(found, indent=1) + "\n").encode())

    found = rehearse(options.only, save)
    if options.only:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
