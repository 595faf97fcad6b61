"""Experiments of this project's own, read from records: routing with a known answer; targets with few labels; ancestry.

No torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from zoolib import stats
from zoolib.data import manifests
from zoolib.palette import log_ticks, method_colour, styled
from zoolib.results import ResultStore
from zoolib.spec import RunSpec, ZoolibError
from zoolib.tables import NOT_RUN, plus_minus, title

#: the classes of `mixture` that each member is the right source of
RIGHT = {"detection": range(0, 8), "segmentation": range(8, 16)}
HALVES = ("things", "land")

# Routing --------------------------------------------------------------------------------------------------------------


def half_accuracies(specs: Iterable[RunSpec], store: ResultStore) -> pd.DataFrame:
    """Test accuracy (%) of every fine-tuned member on each half of the target: member, seed, things, land."""
    rows = []
    for result in store.records(list(specs), method="finetune"):
        assert result.samples is not None
        right = (result.samples["label"] == result.samples["prediction"]).to_numpy()
        halves = _halves(result.samples)
        values = {name: 100 * right[halves == index].mean() for index, name in enumerate(HALVES)}
        rows.append({"member": result.spec.member, "seed": result.spec.seed} | values)
    return pd.DataFrame(rows, columns=["member", "seed", *HALVES])


def routes(specs: Iterable[RunSpec], store: ResultStore) -> pd.DataFrame:
    """One row a Hub-Pathway run: its accuracy and how often its weights name the right member.

    Columns hub, top_k, seed, accuracy, routed (%: the right member has the largest weight of all), uniform (%: what a
    member drawn at random reaches), preferred (%: of the two known members the right one weighs more; a coin reaches
    50), and, of the whole weight on the two, the share that `detection` has on either half.
    """
    rows = []
    for result in store.records(list(specs), method="hub_pathway"):
        assert result.samples is not None
        weights, halves = _weights(result.samples), _halves(result.samples)
        known = [list(weights.columns).index(name) for name in RIGHT]
        values = weights.to_numpy(dtype=np.float64)
        own = values[np.arange(len(values)), np.array(known)[halves]]
        other = values[np.arange(len(values)), np.array(known)[1 - halves]]
        share = _share(values[:, known[0]], values[:, known[1]])
        rows.append({
            "hub": result.spec.hub, "top_k": result.spec.option("top_k"), "seed": result.spec.seed,
            "accuracy": result.metrics["test"]["top1_accuracy"],
            "routed": 100 * float((values.argmax(1) == np.array(known)[halves]).mean()),
            "uniform": 100 / values.shape[1],
            "preferred": 100 * float((own > other).mean() + 0.5 * (own == other).mean()),
            **{f"share on {name}": float(share[halves == index].mean()) for index, name in enumerate(HALVES)},
        })  # fmt: skip
    return pd.DataFrame(rows)


def _share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The first of two weights over both, (N,); a half where both vanish, so neither is preferred."""
    both = first + second
    return np.divide(first, both, out=np.full(len(both), 0.5), where=both > 0)


def _weights(samples: pd.DataFrame) -> pd.DataFrame:
    found = samples.filter(like="weight:")
    if found.empty:
        raise ZoolibError("these samples hold no pathway weights; pass the samples of a hub_pathway run")
    return found.rename(columns=lambda name: str(name).removeprefix("weight:"))


def _halves(samples: pd.DataFrame) -> np.ndarray:
    """0 for samples whose right source is the first of RIGHT, 1 for those of the second."""
    return (samples["label"] >= next(iter(RIGHT.values())).stop).to_numpy().astype(int)


def routing_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of every column of `routes`, one row a hub and k; text."""
    rows = []
    for (hub, k), part in frame.groupby(["hub", "top_k"], sort=False):
        rows.append({
            "Hub": manifests.hub(str(hub)).title, "k": k, "Accuracy": _spread(part["accuracy"]),
            "Right member on top": _spread(part["routed"]), "At random": f"{part['uniform'].iloc[0]:.1f}",
            "Right one of the two": _spread(part["preferred"]), "By a coin": "50.0", "Seeds": len(part),
        })  # fmt: skip
    return pd.DataFrame(rows)


def half_table(frame: pd.DataFrame, hub: str = "mini-zoo") -> pd.DataFrame:
    """Mean and standard deviation over seeds of `half_accuracies`, one row a member; text."""
    rows = []
    for member in manifests.hub(hub).members:
        part = frame[frame["member"] == member.name]
        if len(part):
            rows.append({"Fine-tuned member": member.title} | {h.capitalize(): _spread(part[h]) for h in HALVES})
    return pd.DataFrame(rows)


def _spread(values: pd.Series) -> str:
    return plus_minus(values.mean(), values.std())


def _seeds(counts: Iterable[int]) -> str:
    """How many seeds the cells of a row have, such as `3` or `1 to 3`; empty cells do not count."""
    known = [count for count in counts if count]
    return "" if not known else str(known[0]) if len(set(known)) == 1 else f"{min(known)} to {max(known)}"


def half_note(frame: pd.DataFrame) -> str:
    """Whether the member that was pre-trained on a half of the images leads there, in one sentence a half."""
    parts = []
    for half, right in zip(HALVES, RIGHT, strict=True):
        means = frame.groupby("member")[half].mean()
        best, ours = str(means.idxmax()), means[right]
        words = f"On {half} the {right} member leads ({ours:.1f} %), so the right answer is known"
        if best != right:
            words = f"On {half} the {right} member does not lead ({ours:.1f} % against {means[best]:.1f} % of {best}): "
            words += "there *right* means the nearest relative, and not the better model"
        parts.append(words)
    return ". ".join(parts) + "."


@styled
def routing_figure(specs: Iterable[RunSpec], store: ResultStore) -> Figure:
    """How the weight on the two known members divides between them, by half of the target, for each hub and k.

    Raises ZoolibError when no run has a record.
    """
    groups: dict[tuple[str, int], list[pd.DataFrame]] = {}
    for result in store.records(list(specs), method="hub_pathway"):
        assert result.samples is not None
        groups.setdefault((result.spec.hub, result.spec.option("top_k")), []).append(result.samples)
    if not groups:
        raise ZoolibError("nothing to draw: no run of hub_pathway has a record yet")
    figure = Figure(figsize=(7.0, 2.0 * -(-len(groups) // 2) + 0.3), layout="constrained")
    panels = figure.subplots(-(-len(groups) // 2), 2, squeeze=False, sharex=True).ravel()
    for axes, ((hub, k), samples) in zip(panels, groups.items(), strict=False):
        every = pd.concat(samples)
        weights, halves = _weights(every), _halves(every)
        first, second = (weights[name].to_numpy(dtype=np.float64) for name in RIGHT)
        for index, (colour, dashes) in enumerate((("#CC6677", "-"), ("#117733", (0, (3, 1))))):
            share = _share(first, second)[halves == index]
            look: dict[str, Any] = {"histtype": "step", "lw": 1.6, "ec": colour, "ls": dashes}
            axes.hist(share, bins=np.linspace(0, 1, 26), label=HALVES[index], **look)
        axes.axvline(0.5, color="0.35", lw=1, ls=(0, (3, 2)))
        axes.set_title(f"{manifests.hub(hub).title}, k = {k}")
        axes.set_yticks([])
    for axes in panels[-2:]:
        axes.set_xlabel("Weight of detection over that of both")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


# Targets --------------------------------------------------------------------------------------------------------------


def by_target(specs: Iterable[RunSpec], store: ResultStore) -> pd.DataFrame:
    """Accuracy of every run: dataset, hub, method, member, seed, accuracy (test), val."""
    rows = [
        {"dataset": r.spec.dataset, "hub": r.spec.hub, "method": r.spec.method, "member": r.spec.member,
         "seed": r.spec.seed, "accuracy": r.metrics["test"]["top1_accuracy"], "val": r.metrics["val"]["top1_accuracy"]}
        for r in store.records(list(specs))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["dataset", "hub", "method", "member", "seed", "accuracy", "val"])


def target_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method or fine-tuned member, one column a target: mean and standard deviation over seeds; their number.

    Bold is significantly best of its column (`stats.best`: paired over seeds).
    """
    named = frame.assign(key=frame["method"] + "/" + frame["member"])
    best = {
        name: stats.best(part.pivot_table(index="seed", columns="key", values="accuracy"))
        for name, part in named.groupby("dataset")
    }
    rows = []
    for method, member in frame[["method", "member"]].drop_duplicates().itertuples(index=False):
        row, counts = {"": title(method, member, frame["hub"].iloc[0])}, []
        for name in frame["dataset"].unique():
            part = frame[(frame[["dataset", "method", "member"]] == [name, method, member]).all(axis=1)]
            text = _spread(part["accuracy"]) if len(part) else NOT_RUN
            row[manifests.dataset(name).title] = f"**{text}**" if best[name] == f"{method}/{member}" else text
            counts.append(len(part))
        rows.append(row | {"Seeds": _seeds(counts)})
    return pd.DataFrame(rows)


def margin_table(frame: pd.DataFrame) -> pd.DataFrame:
    """For each target the best fine-tuned member beside training from scratch: their difference and its spread; text.

    Validation images choose the member, by the mean over seeds. The spread is the larger standard deviation over seeds
    of the two.
    """
    rows = []
    for name, part in frame.groupby("dataset", sort=False):
        singles = part[part["method"] == "finetune"]
        scratch = part[part["method"] == "scratch"]["accuracy"]
        if singles.empty or scratch.empty:
            continue
        member = str(singles.groupby("member")["val"].mean().idxmax())
        best = singles[singles["member"] == member]["accuracy"]
        margin, spread = best.mean() - scratch.mean(), max(best.std(), scratch.std())
        rows.append({
            "Target": manifests.dataset(str(name)).title,
            "Best member": manifests.hub(str(part["hub"].iloc[0])).member(member).title,
            "Its accuracy": _spread(best), "From scratch": _spread(scratch), "Margin": f"{margin:+.1f}",
            "Margin over spread": f"{margin / spread:.1f}" if spread > 0 else "", "Seeds": len(best),
        })  # fmt: skip
    return pd.DataFrame(rows)


# Ancestry -------------------------------------------------------------------------------------------------------------


def lengths(specs: Iterable[RunSpec], store: ResultStore) -> pd.DataFrame:
    """Accuracy of every run with the steps of its training: hub, method, member, seed, steps, accuracy (test), val."""
    rows = [
        {"hub": r.spec.hub, "method": r.spec.method, "member": r.spec.member, "seed": r.spec.seed,
         "steps": r.spec.settings.iterations, "accuracy": r.metrics["test"]["top1_accuracy"],
         "val": r.metrics["val"]["top1_accuracy"]}
        for r in store.records(list(specs))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["hub", "method", "member", "seed", "steps", "accuracy", "val"])


def best_single(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the fine-tuned members of a hub and length replaced by the one that validation images choose."""
    single = frame[frame["method"] == "finetune"]
    means = single.groupby(["hub", "steps", "member"])["val"].mean()
    best = set(means.groupby(level=[0, 1]).idxmax())
    keep = [key in best for key in zip(single["hub"], single["steps"], single["member"], strict=True)]
    return pd.concat([frame[frame["method"] != "finetune"], single[keep]])


def ancestry_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method, one column a zoo and length: mean and standard deviation over seeds, and their number."""
    chosen, rows = best_single(frame), []
    for method in chosen["method"].unique():
        row, counts = {"Method": "Best single member" if method == "finetune" else title(method, "")}, []
        for hub in chosen["hub"].unique():
            for steps in sorted(chosen["steps"].unique()):
                of = chosen[(chosen["method"] == method) & (chosen["hub"] == hub) & (chosen["steps"] == steps)]
                name = "independent" if "independent" in hub else "common"
                row[f"{name}, {steps} steps"] = _spread(of["accuracy"]) if len(of) else NOT_RUN
                counts.append(len(of))
        rows.append(row | {"Seeds": _seeds(counts)})
    return pd.DataFrame(rows)


@styled
def ancestry_figure(frame: pd.DataFrame) -> Figure:
    """Accuracy over the length of training, a line a method; solid with common ancestry, dashed without.

    Raises ZoolibError when the frame is empty.
    """
    if frame.empty:
        raise ZoolibError("nothing to draw: no run has a record yet")
    chosen = best_single(frame)
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for (method, hub), part in chosen.groupby(["method", "hub"], sort=False):
        means = part.groupby("steps")["accuracy"].mean()
        independent = "independent" in str(hub)
        name = "Best single member" if method == "finetune" else title(str(method), "")
        axes.plot(means.index, means, "o--" if independent else "o-", ms=4, color=method_colour(str(method)),
                  mfc="white" if independent else None,
                  label=f"{name}, independent" if independent else name)  # fmt: skip
    log_ticks(axes, chosen["steps"], "Training steps")
    axes.set_ylabel("Test accuracy (%)")
    figure.legend(loc="outside right upper")
    return figure
