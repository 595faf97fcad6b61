"""Figures of the book: each function takes a tidy frame and returns a Figure, which the caller shows or saves.

No torch. A method, and a member of a hub, has the same colour in every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from zoolib.data import manifests
from zoolib.palette import FAMILY_COLOURS, heat_map, member_colours, method_colour, method_marker, styled
from zoolib.palette import WIDTH as _WIDTH
from zoolib.provenance import with_needed
from zoolib.spec import ZoolibError
from zoolib.tables import order, title

_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2)))  # members of one method
_COST_AXES = {
    "gmacs": "Multiply-adds for one image (G, log scale)",
    "params_m": "Parameters (M, log scale)",
    "seconds": "Training time with the runs it builds on (s, log scale)",
}
_TERMS = {"task": "Task loss", "loss": "Total loss", "explore": "λ × exploration loss", "exploit": "Exploitation loss"}


def _single(frame: pd.DataFrame, *names: str) -> None:
    if frame.empty:
        raise ZoolibError("nothing to draw: the frame is empty; compute the runs first, or widen its filters")
    for name in names:
        if frame[name].nunique() > 1:
            raise ZoolibError(f"a figure shows one {name}, not {', '.join(frame[name].unique())}; filter the frame")


@styled
def accuracies(
    frame: pd.DataFrame,
    metric: str = "top1_accuracy",
    chance: float | None = None,
    label: str = "Test accuracy (%)",
    reference: str = "chance",
) -> Figure:
    """Test accuracy of every method: a dot for each seed, a bar for their mean, a line for chance (percent).

    Another metric takes a label of its own, and another name for the reference that `chance` is. A reference far above
    every value is written at the edge instead of drawn, so that the values keep the width.

    Raises ZoolibError when the frame is empty or mixes datasets, hubs or profiles.
    """
    frame = frame[(frame["metric"] == metric) & (frame["split"] == "test")]
    _single(frame, "dataset", "hub", "profile")
    rows = order(frame)
    several = frame.groupby(["method", "member"])["options"].nunique()
    far = chance is not None and chance > 1.3 * frame["value"].max()
    digits = 1 if metric == "top1_accuracy" else 2
    figure = Figure(figsize=(_WIDTH, 0.75 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (method, member, options) in enumerate(rows):
        chosen = frame[(frame[["method", "member", "options"]] == [method, member, options]).all(axis=1)]
        values = chosen.sort_values("seed")["value"].to_numpy()
        colour, mean = method_colour(method), values.mean()
        spread = (
            y + np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [y]
        )  # so that equal seeds stay visible
        axes.plot(
            [mean, mean], [y - 0.34, y + 0.34], color=colour, lw=2.5, alpha=0.55, solid_capstyle="butt", gid="mean"
        )
        axes.plot(values, spread, method_marker(method), ms=5.5, mec="white", mew=0.6, color=colour, gid="seeds")
        axes.annotate(
            f"{mean:.{digits}f}", (values.max(), y), (7, 0), textcoords="offset points", va="center", size=8.5
        )
    names = [title(m, k, frame["hub"].iloc[0]) + (f" ({o})" if several[m, k] > 1 else "") for m, k, o in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_xlim(*_room(frame["value"].to_numpy(), None if far else chance))
    axes.set_xlabel(label)
    if far:
        edge = f"{reference} {chance:.1f} \N{RIGHTWARDS ARROW}"
        axes.annotate(edge, (1, 1), (0, 1), xycoords="axes fraction", textcoords="offset points", ha="right", size=8.5)
    elif chance is not None:
        axes.axvline(chance, color="0.35", lw=1, ls=(0, (3, 2)), gid="chance")
        axes.annotate(
            reference, (chance, 1), (3, 1), xycoords=("data", "axes fraction"), textcoords="offset points", size=8.5
        )
    return figure


def _room(values: np.ndarray, chance: float | None) -> tuple[float, float]:
    """Axis limits that start at zero where chance is shown and leave room for the labels of the means."""
    low = 0.0 if chance is not None else max(0.0, values.min() - 0.1 * (np.ptp(values) + 1))
    high = max(values.max(), chance or 0.0)
    return low, high + 0.09 * (high - low) + 0.1


@styled
def training_curves(curves: pd.DataFrame) -> Figure:
    """Validation accuracy and every recorded loss term over training: the mean over seeds, in a band from min to max.

    Raises ZoolibError when the frame is empty or mixes datasets, hubs or profiles.
    """
    _single(curves, "dataset", "hub", "profile")
    curves = curves.assign(options="")
    train, rows, hub = curves[curves["split"] == "train"], order(curves), curves["hub"].iloc[0]
    panels = [("val", "top1_accuracy", "Validation accuracy (%)")]
    found = set(train["term"])
    terms = [*(term for term in _TERMS if term in found), *sorted(found - _TERMS.keys())]
    if "task" in terms and "loss" in terms and len(terms) == 2:
        terms.remove("loss")  # the same curve twice
    panels += [("train", term, _TERMS.get(term, f"Loss term: {term.replace('_', ' ')}")) for term in terms]
    panels = [panel for panel in panels if len(_of(curves, *panel[:2]))]
    columns = min(2, len(panels))
    depth = -(-len(panels) // columns)
    figure = Figure(figsize=(_WIDTH, 2.5 * depth + 0.22 * -(-len(rows) // 3)), layout="constrained")
    grid = figure.subplots(depth, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles: dict[str, Line2D] = {}
    for axes, (split, term, heading) in zip(grid, panels, strict=False):
        shown = _of(curves, split, term)
        for place, (method, member, _) in enumerate(rows):
            chosen = shown[(shown["method"] == method) & (shown["member"] == member)]
            line = _band(axes, chosen, method, member, hub, place)
            handles |= {title(method, member, hub): line} if line is not None else {}
        axes.set_title(heading)
        axes.set_xlabel("Iteration")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(color="0.92")
        axes.margins(x=0.01)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=min(3, len(handles)), handlelength=2.6
    )
    return figure


def _of(curves: pd.DataFrame, split: str, term: str) -> pd.DataFrame:
    return curves[(curves["split"] == split) & (curves["term"] == term)]


def _band(axes: Axes, chosen: pd.DataFrame, method: str, member: str, hub: str, place: int) -> Line2D | None:
    if chosen.empty:
        return None
    seeds = chosen.groupby("iteration")["value"].agg(["mean", "min", "max"])
    axes.fill_between(seeds.index, seeds["min"], seeds["max"], color=method_colour(method), alpha=0.15, lw=0)
    look = line_look(method, member, hub, place)
    return axes.plot(seeds.index, seeds["mean"], label=f"{method}/{member}", **look)[0]


def line_look(method: str, member: str, hub: str, place: int) -> dict[str, Any]:
    """How the `place`-th line of a figure is drawn: the method's colour, the member's dashes, a relative's markers.

    The method that gives a family its colour has no markers; its relatives have those of the dot plots, since the
    shades of a colour alone do not tell thin lines apart.
    """
    names = [m.name for m in manifests.hub(hub).members]
    dashes = _DASHES[names.index(member) % len(_DASHES)] if member in names else "-"
    look: dict[str, Any] = {"color": method_colour(method), "ls": dashes}
    if method not in FAMILY_COLOURS:
        every = (0.02 + 0.03 * (place % 6), 0.18)  # shares of the diagonal: lines that meet have markers by turns
        look |= {"marker": method_marker(method), "ms": 5.5, "mec": "white", "mew": 0.6, "markevery": every}
    return look


def _weights(samples: pd.DataFrame) -> pd.DataFrame:
    """The pathway weights of each sample, one column a member in the hub's order. Raises ZoolibError without any."""
    found = samples.filter(like="weight:")
    if found.empty:
        raise ZoolibError("these samples hold no pathway weights; pass the samples of a hub_pathway run")
    return found.rename(columns=lambda name: str(name).removeprefix("weight:"))


@styled
def pathway_weights(
    samples: pd.DataFrame, classes: Sequence[str] | None = None, titles: Sequence[str] | None = None
) -> Figure:
    """Hub-Pathway's mean weight of every member: over the whole test split, and for each class.

    `samples` has one row a test sample (several seeds concatenated), `titles` names the members in the hub's order.
    Raises ZoolibError when the samples hold no `weight:<member>` columns.
    """
    weights = _weights(samples)
    names = list(titles or weights.columns)
    labels = samples["label"].to_numpy()
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    overall = weights.mean()
    colours = [member_colours(list(weights.columns))[name] for name in weights.columns]
    left.barh(names, overall, color=colours, height=0.6)
    left.axvline(1 / len(names), color="0.35", lw=1, ls=(0, (3, 2)))
    left.annotate(
        "equal",
        (1 / len(names), 1),
        (3, 1),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        size=8.5,
    )
    for y, value in enumerate(overall):
        left.annotate(f"{value:.2f}", (value, y), (4, 0), textcoords="offset points", va="center", size=8.5,
                      bbox={"fc": "white", "ec": "none", "pad": 0.8})  # fmt: skip
    left.invert_yaxis()
    left.set_xlim(0, max(overall.max(), 1 / len(names)) * 1.25)
    left.tick_params(axis="y", length=0)
    left.set_xlabel("Mean weight")
    by_class = weights.groupby(labels).mean()
    few = len(by_class) <= 20
    if few and classes:
        by_class.index = pd.Index([classes[i] for i in by_class.index])
    image = heat_map(right, by_class.set_axis(names, axis=1), vmin=0, yticklabels=True if few else 20)
    _slant(right)
    right.set_ylabel("Class" if few else f"Class (0 to {labels.max()})")
    figure.colorbar(image, ax=right, label="Mean weight", pad=0.02).outline.set_visible(False)
    return figure


@styled
def gating_heatmap(samples: pd.DataFrame, titles: Sequence[str] | None = None) -> Figure:
    """Zoo-Tuning's mean gate of every member in every layer, from the input (top) to the output.

    `samples` has one row a test sample and one list column `gates:<layer>` a layer, with a gate in (0, 1) for each
    member. Raises ZoolibError when it has none.
    """
    layers = [str(name) for name in samples.columns if str(name).startswith("gates:")]
    if not layers:
        raise ZoolibError("these samples hold no gates; pass the samples of a zoo_tuning run")
    gates = np.stack([np.stack(list(samples[name])).astype(float).mean(0) for name in layers])  # (L, M)
    names = list(titles or (f"member {i + 1}" for i in range(gates.shape[1])))
    figure = Figure(
        figsize=(_WIDTH * 0.8, 1.5 + (0.24 if len(layers) <= 20 else 0.15) * len(layers)), layout="constrained"
    )
    axes = figure.subplots()
    rows = [name.removeprefix("gates:") for name in layers]
    image = heat_map(axes, pd.DataFrame(gates, rows, names), yticklabels=True)
    _slant(axes)
    axes.set_ylabel("Layer")
    figure.colorbar(image, ax=axes, label="Mean gate", pad=0.02).outline.set_visible(False)
    return figure


def _slant(axes: Axes) -> None:
    """Turn the names along the bottom where there are many."""
    if len(axes.get_xticklabels()) > 2:
        for label in axes.get_xticklabels():
            label.set(rotation=20, ha="right", rotation_mode="anchor")


@styled
def pareto(frame: pd.DataFrame, cost: str = "gmacs", metric: str = "top1_accuracy") -> Figure:
    """Test accuracy against a cost metric: the mean over seeds with a bar of one standard deviation.

    The line is the frontier: no other point beats one of it in both. `cost` is a metric of the "cost" split of which
    less is better, such as gmacs, params_m or seconds. Raises ZoolibError when the frame is empty or mixes datasets,
    hubs or profiles, or no run recorded that cost.
    """
    _single(frame, "dataset", "hub", "profile")
    keys = ["method", "member", "options"]
    score = frame[(frame["metric"] == metric) & (frame["split"] == "test")].groupby(keys)["value"].agg(["mean", "std"])
    frame = with_needed(frame)
    spent = frame[(frame["metric"] == cost) & (frame["split"] == "cost")].groupby(keys)["value"].mean().rename("cost")
    points = (
        score.join(spent, how="inner")
        .dropna(subset=["mean", "cost"])
        .sort_values(["cost", "mean"], ascending=[True, False])
    )
    if points.empty:
        raise ZoolibError(f"no run recorded {cost!r} beside {metric!r}; use one of {', '.join(_COST_AXES)}")
    figure = Figure(figsize=(_WIDTH, 3.2 + 0.2 * -(-len(points) // 3)), layout="constrained")
    axes, hub = figure.subplots(), frame["hub"].iloc[0]
    best = points[points["mean"] > points["mean"].cummax().shift(fill_value=-np.inf)]
    axes.plot(best["cost"], best["mean"], color="0.6", lw=1, zorder=1, gid="frontier", drawstyle="steps-post")
    short = _short([str(options) for options in points.index.get_level_values("options")])
    variants = points.groupby(["method", "member"]).size()
    rows: dict[tuple[Any, ...], Any] = {tuple(row[:3]): row for row in points.reset_index().itertuples(index=False)}
    for method, member, options in order(points.reset_index().assign(hub=hub)):
        row = rows[method, member, options]
        look: dict[str, Any] = {
            "fmt": method_marker(method),
            "color": method_colour(method),
            "ms": 6.5,
            "mec": "white",
            "mew": 0.6,
        }
        name = title(method, member, hub) + (f" ({short[options]})" if variants[method, member] > 1 else "")
        spread = 0.0 if pd.isna(row.std) else row.std
        axes.errorbar(row.cost, row.mean, yerr=spread, elinewidth=1, capsize=2, label=name, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(_COST_AXES.get(cost, cost))
    axes.set_ylabel("Test accuracy (%)")
    axes.grid(color="0.92")
    axes.margins(x=0.12)
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    return figure


def _short(options: Sequence[str]) -> dict[str, str]:
    """Options in words, without those that are the same wherever they occur."""
    pairs = {text: dict(part.split("=", 1) for part in text.split(", ")) if text else {} for text in set(options)}
    values: dict[str, set[str]] = {}
    for chosen in pairs.values():
        for name, value in chosen.items():
            values.setdefault(name, set()).add(value)
    return {t: ", ".join(f"{n}={v}" for n, v in c.items() if len(values[n]) > 1) for t, c in pairs.items()}
