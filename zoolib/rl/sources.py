"""The source policies that ship with the package: which runs make them, and how they are packed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save

from zoolib import games
from zoolib.files import atomic
from zoolib.paths import packaged_weights
from zoolib.results import ResultStore
from zoolib.rl.loop import random_scores
from zoolib.spec import RunSpec, ZoolibError

_KEPT = ("commit", "dirty", "code", "versions", "machine", "threads", "compiled", "started", "seconds")


def specs() -> list[RunSpec]:
    """The runs that make the sources: Data-Efficient Rainbow from scratch at the papers' 100k steps, seed 0."""
    return [spec for name in games.SOURCES for spec in games.grid(name, "scratch", "lab", [0], {})]


def ship(
    runs: Sequence[RunSpec],
    store: ResultStore,
    work_dir: Callable[[RunSpec], Path],
    folder: Path | None = None,
    episodes: int = 10,
    max_frames: int = 108_000,
) -> list[dict[str, Any]]:
    """Write the final policies of finished runs (mean weights, float16) and one provenance file; return the latter.

    The noise scales stay behind: a source is transferred without noise. Raises ZoolibError for a run without a record
    or policy.
    """
    folder = folder or packaged_weights("atari")
    notes = []
    for spec in runs:
        record = store.load(spec)
        policy = work_dir(spec) / games.POLICY
        if not policy.is_file():
            raise ZoolibError(f"no policy of {spec.label} at {policy}; make it: python -m zoolib pretrain {games.HUB}")
        state = load(policy.read_bytes())
        kept = {k: v.half().contiguous() for k, v in state.items() if k.endswith((".weight", ".bias"))}
        content = save(kept)
        with atomic(folder / f"{spec.dataset}.safetensors") as file:
            file.write(content)
        random = random_scores(spec.dataset, episodes, spec.seed, max_frames=max_frames)
        test = record.metrics["test"]
        note: dict[str, Any] = {"game": spec.dataset, "sha256": hashlib.sha256(content).hexdigest()}
        note |= {"score": test["score"], "score_std": test["score_std"], "episodes": test["episodes"]}
        note |= {"random_score": float(np.mean(random)), "run_id": spec.run_id, "spec": spec.to_dict()}
        notes.append(note | {name: record.provenance.get(name) for name in _KEPT})
    with atomic(folder / "provenance.json") as file:
        file.write((json.dumps(notes, indent=1) + "\n").encode())
    return notes
