"""The page of the paper profile's rehearsal, from the record that `make rehearse` leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoolib.paths import CHECKOUT
from zoolib.reference import published
from zoolib.spec import ZoolibError

RECORD = CHECKOUT / "results" / "rehearsal.json"


def read(path: Path = RECORD) -> dict[str, Any] | None:
    """The record; None where the rehearsal has not been run. Raises ZoolibError when it is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        for key in ("about", "chains", "faces", "members", "memory"):
            content[key]
    except (ValueError, KeyError, TypeError):
        raise ZoolibError(f"corrupt record {path}; run `make rehearse` again") from None
    return dict(content)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def page(path: Path = RECORD) -> str:
    """The tables in Markdown, or that it was not run."""
    record = read(path)
    if record is None:
        return "The rehearsal was **not run** here: `make rehearse`.\n"
    return "\n".join([_chains(record), _faces(record), _members(record), _memory(record), _about(record)])


def _chains(record: dict[str, Any]) -> str:
    rows = [
        (
            f"`{c['dataset']}`", f"`{c['hub']}`", f"`{c['method']}`", f"`{c['reader']}`",
            f"{c['rows']['train']} / {c['rows']['test']}", f"{c['image_size']} px", f"{c['test_crops']}",
            f"{c['params_m']:.1f}", f"{c['gmacs']:.2f}", f"{c['cpu_seconds']:.0f}", f"{c['seconds']:.0f}",
        )
        for c in record["chains"]
    ]  # fmt: skip
    header = ("dataset", "hub", "method", "reader", "train / test images", "input", "crops", "parameters (M)",
              "multiply-adds (G)", "CPU seconds", "seconds")  # fmt: skip
    routed = (
        "Multiply-adds of Hub-Pathway are those of the routes that the two test images happen to take: from members of "
        "several architectures they differ by a factor of nearly five.\n"
    )
    return "## The whole chain\n\n" + _table(header, rows) + "\n" + routed


def _faces(record: dict[str, Any]) -> str:
    if not record["faces"]:
        return ""
    rows = [(f"`{f['dataset']}`", f"`{f['reader']}`", f["rows"]["train"], f["rows"]["test"]) for f in record["faces"]]
    intro = "What their archives hold; their chains, from the zoo of one architecture as in the paper, stand above.\n\n"
    return "## Landmark datasets\n\n" + intro + _table(("dataset", "reader", "train", "test"), rows)


def _members(record: dict[str, Any]) -> str:
    rows = [
        (
            f"`{m['hub']}`", f"`{m['member']}`", m["architecture"].replace(":", " "), f"{m['params_m']:.3f}",
            f"{m['published_params_m']:.3f}", f"{m['size']}", f"{m['gmacs']:.3f}", f"{m['published_gmacs']:.3f}",
            f"{m['gmacs_224']:.3f}",
        )
        for m in record["members"]
    ]  # fmt: skip
    header = ("hub", "member", "network", "parameters (M)", "published", "at px", "multiply-adds (G)", "published",
              "at 224 px, without head")  # fmt: skip
    text = (
        "With the head of 1,000 classes, beside what torchvision publishes with the weights. The papers count a head "
        "of 100 classes: "
    )
    return "## Members\n\n" + text + _papers(record) + "\n\n" + _table(header, rows)


def _papers(record: dict[str, Any]) -> str:
    """Our ResNet-50 with 100 classes and the whole methods beside the numbers of Hub-Pathway's supplement."""
    frame = published("supp_table1_complexity", column="cifar100")

    def theirs(name: str, metric: str) -> str:
        found = frame[(frame["method"] == name) & (frame["metric"] == metric)]["value"]
        return f"{found.iloc[0]:g}" if len(found) else "none"

    resnet = next((m for m in record["members"] if m["architecture"] == "torchvision:resnet50"), None)
    parts = []
    if resnet:
        ours = resnet["backbone_params_m"] + (2048 + 1) * 100 / 1e6
        macs = resnet["gmacs_224"] + 2048 * 100 / 1e9
        parts.append(
            f"ResNet-50 {ours:.2f} M and {macs:.2f} G here, "
            f"{theirs('imagenet', 'params')} M and {theirs('imagenet', 'flops')} G there"
        )
    whole = [
        c
        for c in record["chains"]
        if (c["dataset"], c["hub"], c["method"]) == ("cifar100", "resnet50-zoo", "hub_pathway")
    ]
    if whole:
        parts.append(
            f"Hub-Pathway {whole[0]['params_m']:.2f} M and {whole[0]['gmacs']:.2f} G here, "
            f"{theirs('hub_pathway', 'params')} M and {theirs('hub_pathway', 'flops')} G there"
        )
    return (
        "; ".join(parts)
        + ". Operations of batch norms are not counted here; *What it costs* counts them as the papers do."
    )


def _memory(record: dict[str, Any]) -> str:
    rows = [
        (f"`{m['hub']}`", f"`{m['method']}`", m["precision"], f"{m['static_gb']:.1f}", f"{m['mean_gb']:.1f}",
         f"{m['worst_gb']:.1f}")
        for m in record["memory"]
    ]  # fmt: skip
    batch = record["about"]["paper_batch"]
    text = (
        f"Estimated, not measured on a GPU: weights, gradients and momentum, and {batch} times what the backward pass "
        "of one image keeps, counted on a CPU tensor by tensor. Hub-Pathway routes each image through two members: the "
        "expected number takes all members equally often, the worst the two that keep most. Workspaces of the GPU's "
        "libraries come on top.\n\n"
    )
    header = ("hub", "method", "precision", "weights and optimiser (GB)", f"batch {batch}, expected (GB)", "worst (GB)")
    gpu = record.get("gpu")
    ran = "" if gpu else "\n50 real steps with bfloat16 on a GPU, and their images per second: **not run**.\n"
    return f"## Memory at batch {batch}\n\n" + text + _table(header, rows) + ran


def _about(record: dict[str, Any]) -> str:
    about = record["about"]
    machine, versions = about["machine"], about["versions"]
    dirty = " with local changes" if about["dirty"] else ""
    return (
        f"Batch {about['batch']}, {about['steps']} steps, {about['threads']} thread; {machine['cpu']}, "
        f"{machine['cores']} cores; torch {versions['torch']}; commit `{about['commit'][:12]}`{dirty}, "
        f"{about['when']}. "
        "The machine was shared: seconds exceed CPU seconds where it waited.\n"
    )
