"""What the claims ask of the records: each query returns effects, one a case (a dataset and a hub). No torch.

Seeds of one dataset and hub share their images and models, so they are one case, whose effect is their mean.
A side of a comparison is `{method, member, options}`: `member` is "best" (of the best mean test value: who beats every
member beats that one), "chosen" (by mean validation value), "mean" or "median" (over members) or "" for methods of the
whole hub; `options` are those that differ from the profile's own. Hubs with random weights are left out unless a query
says `random_hubs`. A query that says `games` asks the runs of games instead, those of the papers' full length alone,
and counts scores in percent of a human's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from zoolib import analyses, games, routes
from zoolib.data import manifests
from zoolib.grid import usual_options
from zoolib.profiles import PROFILES
from zoolib.results import Result, ResultStore
from zoolib.spec import ControlSettings, RunSpec
from zoolib.tables import members

Side = Mapping[str, Any]
Run = tuple[str, str, int]  # dataset, hub, seed
RESOLVED = 10  # evaluations of a curve, from which on it may say how fast a run was
HUB_FILTERS = ("homogeneous", "random_hubs", "games")


@dataclass
class Effects:
    """What a query found: one number a case, or what it lacks."""

    values: list[float] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    lacks: str = ""


@dataclass
class Records:
    """The records of one profile, read once for all claims."""

    store: ResultStore
    profile: str

    def __post_init__(self) -> None:
        found = self.store.records(profile=self.profile, standard=True)
        # Costs are measured of a hub's first member alone, which stands for the others where they are alike.
        alike = {name: hub.homogeneous for name, hub in manifests.hubs().items()}
        self.all: list[Result] = [
            r for r in found if r.spec.task != games.TASK and (r.spec.task != "cost" or alike.get(r.spec.hub, False))
        ]
        self.games = [r for r in found if r.spec.task == games.TASK and r.spec.settings == ControlSettings()]

    def of(
        self, side: Side, homogeneous: bool | None = None, random_hubs: bool = False, games: bool = False
    ) -> list[Result]:
        """The records of one side of a comparison, on hubs of the wanted kind, or of games."""
        if games:
            return [result for result in self.games if result.spec.method == side["method"]]
        found = []
        for result in self.all:
            spec = result.spec
            if spec.method == side["method"] and _has_options(spec, side.get("options", {}), self.profile):
                hub = manifests.hubs().get(spec.hub)
                pretrained = hub is not None and all(member.weights != "random" for member in hub.members)
                alike = homogeneous is None or (hub is not None and hub.homogeneous == homogeneous)
                if alike and (pretrained or random_hubs):
                    found.append(result)
        return found


def _has_options(spec: RunSpec, changed: Mapping[str, Any], profile: str) -> bool:
    models = len(members(spec.hub))
    return dict(spec.options) == {**usual_options(spec.method, PROFILES[profile], spec.task, models), **changed}


def _run(spec: RunSpec) -> Run:
    return spec.dataset, spec.hub, spec.seed


def _value(result: Result, metric: str) -> float | None:
    for split in ("test", "cost", "train", "val"):
        if (value := result.metrics.get(split, {}).get(metric)) is not None:
            return float(value)
    return None


def _side(records: Records, side: Side, metric: str, lower: bool, **hubs: Any) -> dict[Run, float]:
    """The value of a side for each dataset, hub and seed; members are reduced as the side says."""
    values = [(r.spec, _value(r, metric), r.metrics.get("val", {}).get(metric)) for r in records.of(side, **hubs)]
    if hubs.get("games"):  # scores of different games have different scales
        values = [(s, v if v is None else 100 * games.game(s.dataset).human_normalised(v), None) for s, v, _ in values]
    rows = [(*_run(spec), spec.member, value, val) for spec, value, val in values if value is not None]
    frame = pd.DataFrame(rows, columns=["dataset", "hub", "seed", "member", "value", "val"])
    by = {"best": "value", "chosen": "val"}.get(side.get("member", ""))
    if by and len(frame):
        members = frame.groupby(["dataset", "hub", "member"])[by].mean().reset_index()
        best = members.loc[members.groupby(["dataset", "hub"])[by].agg("idxmin" if lower else "idxmax")]
        frame = frame.merge(best[["dataset", "hub", "member"]], on=["dataset", "hub", "member"])
    typical = "median" if side.get("member") == "median" else "mean"
    means = frame.groupby(["dataset", "hub", "seed"])["value"].agg(typical).reset_index()
    return {(str(d), str(h), int(s)): float(v) for d, h, s, v in means.itertuples(index=False)}


def _pairs(
    left: Mapping[Run, float], right: Mapping[Run, float], of: Callable[[float, float], float], names: Sequence[str]
) -> Effects:
    if missing := [name for name, side in zip(names, (left, right), strict=True) if not side]:
        return Effects(lacks=f"no record of {' or '.join(dict.fromkeys(missing))}")
    found = {run: of(left[run], right[run]) for run in left if run in right}
    return _effects(found, f"no dataset, hub and seed with records of both {names[0]} and {names[1]}")


def _effects(found: Mapping[Run, float], lacks: str) -> Effects:
    """The effects of runs, averaged over the seeds of a dataset and hub; `lacks` where there are none."""
    cases: dict[tuple[str, str], dict[int, float]] = {}
    for (dataset, hub, seed), value in found.items():
        if np.isfinite(value):
            cases.setdefault((dataset, hub), {})[seed] = value
    words = [
        f"{dataset} from {hub}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
        for (dataset, hub), seeds in cases.items()
    ]
    return Effects([float(np.mean(list(seeds.values()))) for seeds in cases.values()], words, "" if words else lacks)


def _name(side: Side) -> str:
    changed = ", ".join(f"{name}={value}" for name, value in side.get("options", {}).items())
    return side["method"] + (f" ({changed})" if changed else "")


# Queries --------------------------------------------------------------------------------------------------------------


def difference(records: Records, metric: str, left: Side, right: Side, lower: bool = False, **hubs: Any) -> Effects:
    """By how much the left side is better than the right one, paired seed by seed; `lower` where less is better."""
    sign = -1 if lower else 1
    ours, theirs = (_side(records, side, metric, lower, **hubs) for side in (left, right))
    return _pairs(ours, theirs, lambda a, b: sign * (a - b), [_name(left), _name(right)])


def ratio(records: Records, metric: str, left: Side, right: Side, times_members: bool = False, **hubs: Any) -> Effects:
    """The left side's value over the right one's; `times_members` multiplies the right one by the size of the hub."""
    over, under = (_side(records, side, metric, True, **hubs) for side in (left, right))
    if times_members:
        under = {run: value * len(manifests.hub(run[1]).members) for run, value in under.items()}
    return _pairs(over, under, lambda a, b: a / b, [_name(left), _name(right)])


def last_of_curve(records: Records, term: str, left: Side, right: Side, **hubs: Any) -> Effects:
    """The difference of a validation term at the end of training."""
    sides = []
    for side in (left, right):
        found = {}
        for result in records.of(side, **hubs):
            curve = _curve(result, term)
            if len(curve):
                found[_run(result.spec)] = float(curve.iloc[-1])
        sides.append(found)
    return _pairs(sides[0], sides[1], lambda a, b: a - b, [f"{_name(side)} with {term}" for side in (left, right)])


def _curve(result: Result, term: str) -> pd.Series[float]:
    if result.curves is None:
        return pd.Series(dtype=float)
    chosen = result.curves[(result.curves["split"] == "val") & (result.curves["term"] == term)]
    return chosen.set_index("iteration")["value"].sort_index()


def time_to_share(
    records: Records, term: str, left: Side, right: Side, share: float = 0.95, lower: bool = False, **hubs: Any
) -> Effects:
    """The ratio of iterations that each side needs to come within `share` of its own best validation value.

    For errors (`lower`) that is the best value divided by `share`. Several members are averaged. Curves of fewer than
    `RESOLVED` evaluations are passed over: counted in so few steps, every ratio is drawn to 1.
    """
    sides = []
    for side in (left, right):
        found: dict[Run, list[float]] = {}
        for result in records.of(side, **hubs):
            curve = _curve(result, term)
            if len(curve) >= RESOLVED:
                reached = curve <= curve.min() / share if lower else curve >= curve.max() * share
                found.setdefault(_run(result.spec), []).append(
                    float(curve.index.to_numpy()[reached.to_numpy().argmax()])
                )
        sides.append({run: float(np.mean(values)) for run, values in found.items()})
    return _pairs(
        sides[0],
        sides[1],
        lambda a, b: a / b,
        [f"{_name(side)} with a curve of {RESOLVED} evaluations or more" for side in (left, right)],
    )


def weight_quality(records: Records, left: Side, right: Side, **hubs: Any) -> Effects:
    """Hub-Pathway figure 3(b): of samples that some fine-tuned member gets right, the share that the member with the
    highest pathway weight gets right, less the share that a member at random does; in points."""
    tuned: dict[Run, dict[str, Result]] = {}
    for result in records.of(right, **hubs):
        if result.samples is not None:
            tuned.setdefault(_run(result.spec), {})[result.spec.member] = result
    found = {}
    for routed in records.of(left, **hubs):
        members = tuned.get(_run(routed.spec), {})
        if routed.samples is None or "label" not in routed.samples:  # right or wrong: a question of classes
            continue
        if set(members) == {member.name for member in manifests.hub(routed.spec.hub).members}:
            shares = analyses.quality(routed, list(members.values())).set_index("choice")["accuracy"]
            found[_run(routed.spec)] = float(shares[analyses.BY_WEIGHT] - shares[analyses.AT_RANDOM])
    return _effects(found, f"no dataset, hub and seed with samples of {_name(left)} and of every {_name(right)}")


def _strengths(result: Result) -> np.ndarray | None:
    """What a run gives each member in the mean over its test images: pathway weights or gates, (m,)."""
    if result.samples is None:
        return None
    if any(str(name).startswith("weight:") for name in result.samples):
        return np.asarray(routes.weights_of(result.samples).to_numpy().mean(0))
    return np.asarray(routes.gates_of(result.samples)[0].mean((0, 1)))


def rank_agreement(
    records: Records, left: Side, metric: str, right: Side, right_metric: str = "", **hubs: Any
) -> Effects:
    """Kendall's tau over the members of a hub: of what the left side gives each, and of the right side's metric.

    The left side is one run for each member with `metric`, or (metric "strength") one run of the whole hub, whose mean
    gates or weights are taken. One that is run for one seed alone serves all. Hubs of two members say nothing.
    """
    scores: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for result in records.of(left, **hubs):
        spec, names = result.spec, [member.name for member in manifests.hub(result.spec.hub).members]
        found = scores.setdefault((spec.dataset, spec.hub), {}).setdefault(spec.seed, {})
        if metric == "strength":
            strength = _strengths(result)
            found |= {} if strength is None else dict(zip(names, strength.tolist(), strict=True))
        elif (value := _value(result, metric)) is not None:
            found[spec.member] = value
    theirs: dict[Run, dict[str, float]] = {}
    for result in records.of(right, **hubs):
        if (value := _value(result, right_metric or "top1_accuracy")) is not None:
            theirs.setdefault(_run(result.spec), {})[result.spec.member] = value
    taus = {}
    for run, accuracy in theirs.items():
        seeds = scores.get(run[:2], {})
        ours = seeds.get(run[2]) or (next(iter(seeds.values())) if len(seeds) == 1 else {})
        shared = [name for name in accuracy if name in ours]
        if len(shared) > 2:
            taus[run] = _tau([ours[n] for n in shared], [accuracy[n] for n in shared])
    return _effects(taus, f"no hub with records of {_name(left)} and of every {_name(right)}")


def _tau(x: Sequence[float], y: Sequence[float]) -> float:
    pairs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in combinations(range(len(x)), 2)]
    return float(np.mean(pairs))


def weights_between_datasets(records: Records, left: Side, **hubs: Any) -> Effects:
    """For each hub, the mean over pairs of datasets: how far apart their mean pathway weights are (total variation, 0
    to 1), less how far apart the seeds of one dataset are. Pairs share their datasets, so a hub is one case."""
    means: dict[str, dict[str, list[np.ndarray]]] = {}
    for result in records.of(left, **hubs):
        if (strength := _strengths(result)) is not None:
            means.setdefault(result.spec.hub, {}).setdefault(result.spec.dataset, []).append(strength)
    values, cases = [], []
    for hub, sets in means.items():
        beyond = []
        for a, b in combinations(sets, 2):
            apart = np.mean([_variation(x, y) for x in sets[a] for y in sets[b]])
            if within := [_variation(x, y) for name in (a, b) for x, y in combinations(sets[name], 2)]:
                beyond.append(float(apart - np.mean(within)))
        if beyond:
            values.append(float(np.mean(beyond)))
            cases.append(f"{', '.join(sets)} from {hub}")
    return Effects(values, cases, "" if values else f"no hub with {_name(left)} on two datasets and two seeds")


def _variation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.abs(x - y).sum() / 2)


KINDS: dict[str, Callable[..., Effects]] = {
    query.__name__: query
    for query in (
        difference, ratio, last_of_curve, time_to_share, weight_quality, rank_agreement, weights_between_datasets,
    )
}  # fmt: skip
