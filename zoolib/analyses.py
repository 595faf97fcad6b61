"""Hub-Pathway's analyses from records alone: mean weights, their quality, and sweeps over k and lambda. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zoolib import tables
from zoolib.data import manifests
from zoolib.grid import grid, usual_options
from zoolib.plans import sweep
from zoolib.profiles import PROFILES
from zoolib.results import Result, ResultStore
from zoolib.spec import RunSpec, ZoolibError

BY_WEIGHT, AT_RANDOM, BEST = "highest weight", "random member", "best member on validation"


def specs_of(hub: str, datasets: Sequence[str], profile: str, methods: str, seeds: int = 0) -> list[RunSpec]:
    """The runs of some methods on several datasets."""
    return [spec for name in datasets for spec in grid("cls", name, hub, methods, profile, seeds)]


def mean_weights(records: Sequence[Result]) -> pd.DataFrame:
    """Figure 3a: the mean pathway weight of each member over a test split: dataset, seed, member, weight."""
    rows = []
    for result in records:
        for member, weights in _weights(result).items():
            mean = float(weights.mean())
            rows.append({"dataset": result.spec.dataset, "seed": result.spec.seed, "member": member, "weight": mean})
    return pd.DataFrame(rows, columns=["dataset", "seed", "member", "weight"])


def _weights(result: Result) -> pd.DataFrame:
    """Pathway weights (N, m), float64. Raises ZoolibError where the record has none."""
    samples = result.samples
    found = pd.DataFrame() if samples is None else samples.set_index("index").filter(like="weight:")
    if found.empty:
        raise ZoolibError(f"{result.spec.label} recorded no pathway weights; use the records of hub_pathway")
    return found.rename(columns=lambda name: str(name).removeprefix("weight:")).astype(float)


def quality(routed: Result, members: Sequence[Result]) -> pd.DataFrame:
    """Figure 3b: on the test images that at least one fine-tuned member gets right, how often a chosen member is right.

    `routed` is a hub_pathway run and `members` the finetune runs of its seed. Rows, in percent: the member with the
    highest weight; a member drawn at random (the expectation, not a draw); the member that validates best, for all
    images alike. Columns: dataset, seed, choice, accuracy, images, share (of the split that is kept, in percent).

    Raises ZoolibError when a member's run is missing or was scored on other images.
    """
    weights = _weights(routed)
    by_member = {result.spec.member: result for result in members}
    if missing := [name for name in weights if name not in by_member]:
        raise ZoolibError(f"no fine-tuned {missing[0]} beside {routed.spec.label}; compute finetune with the same seed")
    right = np.stack([_right(by_member[str(name)], weights.index) for name in weights], 1)  # (N, m)
    any_right = right.any(1)
    best = max(range(right.shape[1]), key=lambda i: _validation(by_member[str(weights.columns[i])]))
    top = weights.to_numpy().argmax(1)
    chosen = {
        BY_WEIGHT: right[np.arange(len(right)), top][any_right],
        AT_RANDOM: right[any_right].mean(1),
        BEST: right[any_right, best],
    }
    return pd.DataFrame(
        {
            "dataset": routed.spec.dataset,
            "seed": routed.spec.seed,
            "choice": name,
            "accuracy": 100 * float(np.mean(values)),
            "images": int(any_right.sum()),
            "share": 100 * float(any_right.mean()),
        }
        for name, values in chosen.items()
    )


def _right(member: Result, rows: pd.Index) -> np.ndarray:
    """Whether a fine-tuned member is right on each of these test images, (N,)."""
    samples = None if member.samples is None else member.samples.set_index("index")
    if samples is None or set(samples.index) != set(rows):
        raise ZoolibError(f"{member.spec.label} was scored on other test images; compute both with the same settings")
    ordered = samples.loc[rows]
    return (ordered["label"] == ordered["prediction"]).to_numpy()


def _validation(result: Result) -> float:
    return float(result.metrics["val"]["top1_accuracy"] or 0.0)


def qualities(store: ResultStore, specs: Sequence[RunSpec]) -> pd.DataFrame:
    """`quality` of every hub_pathway record among these runs whose members were all fine-tuned."""
    parts = []
    for routed in store.records(specs, method="hub_pathway"):
        alike = [
            s for s in specs if (s.dataset, s.seed, s.method) == (routed.spec.dataset, routed.spec.seed, "finetune")
        ]
        members = store.records(alike)
        if len(members) == len(manifests.hub(routed.spec.hub).members):
            parts.append(quality(routed, members))
    columns = ["dataset", "seed", "choice", "accuracy", "images", "share"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def sweeps(hub: str, datasets: Sequence[str], profile: str) -> list[RunSpec]:
    """The runs of Hub-Pathway over k and over lambda."""
    plans = [plan for name in datasets for plan in sweep(name, hub)]
    return [s for p in plans for s in grid("cls", p.dataset, p.hub, p.methods, profile, 0, **dict(p.options))]


def swept(store: ResultStore, option: str, hub: str, datasets: Sequence[str], profile: str) -> pd.DataFrame:
    """Accuracy of Hub-Pathway over one option: dataset, seed, value, accuracy. lambda = 0 is hub_pathway_no_explore.

    `option` is "top_k" (figure 3c) or "explore_weight" (supplement, figure 1a). A dataset's points are all of the same
    seeds, those that every value with a record has.
    """
    if option not in ("top_k", "explore_weight"):
        raise ZoolibError(f"option is {option!r}; use 'top_k' or 'explore_weight'")
    own = usual_options("hub_pathway", PROFILES[profile], models=len(tables.members(hub)))
    default = {name: own[name] for name in ("top_k", "explore_weight")}
    rows = []
    for result in store.records(sweeps(hub, datasets, profile)):
        options = {"explore_weight": 0.0, **dict(result.spec.options)}
        others = all(options[name] == value for name, value in default.items() if name != option)
        if others and not (option == "top_k" and result.spec.method != "hub_pathway"):
            accuracy = result.metrics["test"]["top1_accuracy"]
            row = (result.spec.dataset, result.spec.seed, float(options[option]), accuracy)
            rows.append(row)
    frame = pd.DataFrame(rows, columns=["dataset", "seed", "value", "accuracy"])
    values = frame.groupby("dataset")["value"].transform("nunique")
    frame = frame[frame.groupby(["dataset", "seed"])["value"].transform("nunique") == values]
    return frame.sort_values(["dataset", "value", "seed"], ignore_index=True)
