"""Figures of transferability: tidy frames in, a Figure out. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter
from scipy.optimize import isotonic_regression

from zoolib.palette import method_colour, method_marker, styled
from zoolib.rankings import SCORES
from zoolib.spec import ZoolibError
from zoolib.tables import data_title, title
from zoolib.transferability import weighted_kendall

_WIDTH = 7.0
_HEIGHT = 85.0  # points between the lowest and the highest model of a panel, or so
_ALGORITHMS = {  # name -> label, colour, marker
    "naive": ("naive MacKay iteration", "#D55E00", "o"),
    "optimised": ("optimised", "#E69F00", "s"),
    "fixed_point": ("fixed point", "#56B4E9", "^"),
    "auto": ("default", "#0072B2", "D"),
}
_AXES = {"D": "Dimensions D", "N": "Samples N", "C": "Classes C"}


def _some(frame: pd.DataFrame, what: str) -> None:
    if frame.empty:
        raise ZoolibError(f"nothing to draw: no {what}; compute the runs first, or widen the filters")


@styled
def accuracy_against(joined: pd.DataFrame, score: str = "logme") -> Figure:
    """Mean fine-tuned accuracy of every model against its score, one panel for each dataset, hub and profile.

    `joined` is that of `rankings.pairs`. Raises ZoolibError when it is empty.
    """
    joined = joined[np.isfinite(joined[score].astype(float))]
    _some(joined, f"model with {SCORES[score][0]} and accuracy")
    groups = list(joined.groupby(["dataset", "hub", "profile"], sort=False))
    columns = min(3, len(groups))
    depth = -(-len(groups) // columns)
    figure = Figure(figsize=(_WIDTH if columns > 1 else 3.6, 2.5 * depth), layout="constrained")
    grid = figure.subplots(depth, columns, squeeze=False).ravel()
    for axes in grid[len(groups) :]:
        axes.set_visible(False)
    named = []
    for axes, ((dataset, hub, profile), group) in zip(grid, groups, strict=False):
        means = group.groupby("member", sort=False).agg(score=(score, "first"), accuracy=("accuracy", "mean"))
        axes.plot(
            means["score"], means["accuracy"], "o", color=method_colour("finetune"), ms=6, mec="white", gid="models"
        )
        named.append(_names(axes, means, str(hub)))
        tau = weighted_kendall(means["score"].to_numpy(), means["accuracy"].to_numpy()) if len(means) > 1 else np.nan
        axes.set_title(f"{data_title(str(dataset))}\n{hub}, {profile}: τw = {tau:.2f}", size=8)
        axes.set_xlabel(SCORES[score][0])
        axes.grid(color="0.92")
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=(1, 2, 5, 10)))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.margins(0.15)
    grid[0].set_ylabel("Fine-tuned accuracy (%)")
    figure.draw_without_rendering()  # only a laid-out figure knows how wide its texts are
    for axes, texts in zip(grid, named, strict=False):
        _widen(axes, texts)
    return figure


def _names(axes: Axes, means: pd.DataFrame, hub: str) -> list[Annotation]:
    """The members' names beside their points, moved up or down where they would stand on one another."""
    middle, height = (means["score"].min() + means["score"].max()) / 2, np.ptp(means["accuracy"]) or 1
    own = _HEIGHT * (means["accuracy"].to_numpy() - means["accuracy"].min()) / height
    texts = []
    for (name, row), shift in zip(means.iterrows(), apart(own, 9) - own, strict=True):
        right = row["score"] > middle
        label = title("", str(name), hub).lstrip(", ")
        line = {"arrowstyle": "-", "lw": 0.5, "color": "0.6", "shrinkA": 0, "shrinkB": 2} if abs(shift) > 3 else None
        text = axes.annotate(label, (row["score"], row["accuracy"]), (-7 if right else 7, shift), size=7.5,
                             textcoords="offset points", ha="right" if right else "left", va="center",
                             arrowprops=line)  # fmt: skip
        texts.append(text)
    return texts


def _widen(axes: Axes, texts: list[Annotation]) -> None:
    """Horizontal limits that keep the texts of a laid-out figure in its panel, at most three times as far apart.

    Beyond that nothing helps: texts from both sides that are wider than the panel.
    """
    width, edge = axes.bbox.width, 4 * axes.figure.dpi / 72
    boxes = [text.get_window_extent() for text in texts]
    xs = np.array([text.xy[0] for text in texts])
    pixels = axes.transData.transform([text.xy for text in texts])[:, 0]
    before = pixels - np.array([box.x0 for box in boxes]) + edge  # from the point to the left end
    after = np.array([box.x1 for box in boxes]) - pixels + edge
    low, high = axes.get_xlim()
    widest = 3 * (high - low)
    for _ in range(50):  # wider limits bring the points nearer to each other, and their texts further over the edge
        unit = (high - low) / width
        wider = min(low, *(xs - unit * before)), max(high, *(xs + unit * after))
        if wider[1] - wider[0] > widest:
            break
        low, high = wider
    axes.set_xlim(low, high)


def apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Heights in their order, moved as little as needed (least squares) so that no two are nearer than `gap`."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.empty(len(places))
    moved[order] = isotonic_regression(places[order] - steps).x + steps
    return moved


@styled
def complexity(times: pd.DataFrame) -> Figure:
    """CPU seconds of LogME's algorithms against D, N and C, both axes logarithmic.

    `times` is that of `complexity.times`. Raises ZoolibError when it is empty.
    """
    _some(times, "time")
    axes_shown = [axis for axis in _AXES if axis in set(times["axis"])]
    figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
    grid = figure.subplots(1, len(axes_shown), sharey=True, squeeze=False)[0]
    for axes, axis in zip(grid, axes_shown, strict=True):
        for name, (label, colour, marker) in _ALGORITHMS.items():
            part = times[(times["axis"] == axis) & (times["algorithm"] == name)]
            axes.plot(part["value"], part["seconds"], marker=marker, ms=4.5, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlabel=_AXES[axis])
        axes.set_xticks(sorted(times[times["axis"] == axis]["value"].unique()))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color="0.92")
    grid[0].set_ylabel("CPU time (s)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


@styled
def few_samples(frame: pd.DataFrame, samples: int) -> Figure:
    """The maximum of the log evidence beside what the widely used formula returns, against the dimensions.

    `frame` is that of `complexity.few_samples`. Raises ZoolibError when it is empty.
    """
    _some(frame, "dimension")
    figure = Figure(figsize=(_WIDTH * 0.75, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(frame["dimensions"], frame["wrong"], "s-", ms=4.5, color="#D55E00", label="widely used formula")
    axes.plot(frame["dimensions"], frame["right"], "o-", ms=4.5, color="#0072B2", label="maximum of the log evidence")
    axes.axvline(samples, color="0.35", lw=1, ls=(0, (3, 2)))
    axes.annotate(
        "D = N", (samples, 1), (4, -9), xycoords=("data", "axes fraction"), textcoords="offset points", size=8.5
    )
    axes.set(
        xlabel=f"Dimensions D, for N = {samples} samples", ylabel="Log evidence / N", xscale="log", yscale="symlog"
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(color="0.92")
    axes.legend(loc="upper left")
    return figure


@styled
def label_fractions(found: pd.DataFrame, methods: Mapping[str, str]) -> Figure:
    """Accuracy of every method (name -> title) against the share of labels trained on, and its gain over fine-tuning.

    Means over seeds, with bars of one standard deviation. `found` is that of `tuning_tables.fractions`. Raises
    ZoolibError when it is empty.
    """
    found = found[found["method"].isin(methods)]
    _some(found, "run on a share of the labels")
    figure = Figure(figsize=(_WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [name for name in methods if name in set(found["method"])]
    for index, method in enumerate(shown):
        part = found[found["method"] == method].sort_values("fraction")
        look: dict[str, Any] = {"marker": method_marker(method), "ms": 4.5, "color": method_colour(method)}
        left.plot(100 * part["fraction"], part["mean"], lw=1.2, label=methods[method], **look)
        if method == "finetune":
            right.axhline(0, color=method_colour(method), lw=1.2)
            continue
        shift = 1.2 * (index - len(shown) / 2)  # so that bars do not hide each other
        right.errorbar(100 * part["fraction"] + shift, part["gain"], part["gain_std"].fillna(0), capsize=2, lw=1,
                       ls=":", **look)  # fmt: skip
    for axes in (left, right):
        axes.set_xticks([100 * value for value in sorted(found["fraction"].unique())])
        axes.set_xlabel("Labels trained on (%)")
        axes.grid(color="0.92")
    left.set_ylabel("Test accuracy (%)")
    right.set_ylabel("Points over fine-tuning")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@styled
def triples(table: pd.DataFrame, ranking: pd.DataFrame) -> Figure:
    """Accuracy of every set of teachers in order, with bars of one standard deviation; LogME's own choice is marked.

    `table` is that of `tuning_tables.triple_table`, of the `ranking`, which has the members' titles. Raises ZoolibError
    when it is empty.
    """
    _some(table, "run with teachers")
    titles: Mapping[str, str] = dict(zip(ranking["member"], ranking["title"], strict=True))
    figure = Figure(figsize=(_WIDTH, 0.9 + 0.3 * len(table)), layout="constrained")
    axes = figure.subplots()
    colours = [method_colour("b_tuning") if chosen else "0.55" for chosen in table["chosen"]]
    # Dots: the axis need not start at 0, where no set is anywhere near.
    spread = table["std"].fillna(0)
    axes.hlines(range(len(table)), table["mean"] - spread, table["mean"] + spread, colors=colours, lw=1.2)
    axes.scatter(table["mean"], range(len(table)), c=colours, s=28, zorder=3)
    names = [
        ", ".join(titles[name] for name in names) + (" (LogME's)" if chosen else "")
        for names, chosen in zip(table["teachers"], table["chosen"], strict=True)
    ]
    axes.set_yticks(range(len(table)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.92")
    axes.set_xlabel("Test accuracy (%)")
    return figure
