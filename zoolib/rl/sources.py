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
from zoolib.files import atomic, locked
from zoolib.paths import build_dir, packaged_weights
from zoolib.results import ResultStore
from zoolib.rl.envs import source_notes
from zoolib.rl.loop import random_scores
from zoolib.spec import RunSpec, ZoolibError, unknown

_KEPT = (
    "commit", "dirty", "code", "data_sha256", "versions", "machine", "threads", "compiled", "resumed_from", "started",
    "seconds",
)  # fmt: skip


def specs(member: str = "") -> list[RunSpec]:
    """The runs that make the sources, or the one named: Data-Efficient Rainbow from scratch for 100k steps, seed 0.

    Raises ZoolibError for an unknown name.
    """
    if member and member not in games.SOURCES:
        raise unknown(f"member of {games.HUB} to pretrain", member, games.SOURCES)
    return [spec for name in games.SOURCES if member in ("", name) for spec in games.grid(name, "scratch", "lab", [0])]


def ship(
    runs: Sequence[RunSpec],
    store: ResultStore,
    work_dir: Callable[[RunSpec], Path],
    folder: Path | None = None,
    episodes: int = 10,
    max_frames: int = 108_000,
) -> list[dict[str, Any]]:
    """Write the final policies of finished runs (mean weights, float16) and their notes; return the latter.

    One provenance file has the notes of all sources: those of other runs stay in it. The noise scales stay behind: a
    source is transferred without noise. Raises ZoolibError for a run without a record or policy, and for a damaged
    provenance file.
    """
    folder = folder or packaged_weights("atari")
    provenance = folder / "provenance.json"
    notes, contents = [], dict[str, bytes]()
    for spec in runs:
        record = store.load(spec)
        policy = work_dir(spec) / games.POLICY
        if not policy.is_file():
            raise ZoolibError(f"no policy of {spec.label} at {policy}; make it: python -m zoolib pretrain {games.HUB}")
        state = load(policy.read_bytes())
        kept = {k: v.half().contiguous() for k, v in state.items() if k.endswith((".weight", ".bias"))}
        content = save(kept)
        contents[spec.dataset] = content
        random = random_scores(spec.dataset, episodes, spec.seed, max_frames=max_frames)
        test = record.metrics["test"]
        note: dict[str, Any] = {"game": spec.dataset, "sha256": hashlib.sha256(content).hexdigest()}
        note |= {"score": test["score"], "score_std": test["score_std"], "episodes": test["episodes"]}
        note |= {"random_score": float(np.mean(random)), "run_id": spec.run_id, "spec": spec.to_dict()}
        notes.append(note | {name: record.provenance[name] for name in _KEPT if name in record.provenance})
    with locked(build_dir() / f"{games.HUB}.lock", lambda: None):  # of two processes neither loses the other's notes
        before = source_notes(folder) if provenance.is_file() else []
        made = {note["game"]: note for note in [*before, *notes]}
        for game, content in contents.items():  # last and together: in between, weights and notes do not agree
            with atomic(folder / f"{game}.safetensors") as file:
                file.write(content)
        with atomic(provenance) as file:
            file.write((json.dumps([made[name] for name in games.SOURCES if name in made], indent=1) + "\n").encode())
    return notes
