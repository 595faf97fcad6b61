"""Figures of Hub-Pathway's analyses: tidy frames of zoolib.analyses in, a Figure out. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zoolib.analyses import AT_RANDOM, BEST, BY_WEIGHT
from zoolib.data import manifests
from zoolib.palette import MEMBER_COLOURS, member_colours, styled
from zoolib.palette import WIDTH as _WIDTH
from zoolib.spec import ZoolibError

_CHOICES = {BY_WEIGHT: "#009E73", BEST: "#0072B2", AT_RANDOM: "#888888"}


def _datasets(frame: pd.DataFrame) -> list[str]:
    if frame.empty:
        raise ZoolibError("nothing to draw: the frame is empty; compute the runs first")
    return list(dict.fromkeys(frame["dataset"]))


def _titles(names: Sequence[str]) -> list[str]:
    return [manifests.dataset(name).title for name in names]


@styled
def mean_weights(frame: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Figure 3a: the mean pathway weight of every member on every dataset, a dot for each seed.

    `titles` names the members in the hub's order. Raises ZoolibError when the frame is empty.
    """
    datasets, members = _datasets(frame), list(titles)
    figure = Figure(
        figsize=(_WIDTH, 0.9 + 0.17 * len(members) * len(datasets) + 0.3 * len(datasets)), layout="constrained"
    )
    axes = figure.subplots()
    colours, height = member_colours(members), 0.8 / len(members)
    for row, dataset in enumerate(datasets):
        for place, member in enumerate(members):
            values = frame[(frame["dataset"] == dataset) & (frame["member"] == member)]["weight"].to_numpy()
            y = row - 0.4 + (place + 0.5) * height
            axes.barh(y, values.mean(), height=0.9 * height, color=colours[member], gid="mean")
            axes.plot(values, np.full(len(values), y), "o", ms=4.2, mec="white", mew=0.8, color="0.15", gid="seeds")
    axes.axvline(1 / len(members), color="0.35", lw=1, ls=(0, (3, 2)), gid="equal")
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate("equal", (1 / len(members), 1), (3, 1), size=8.5, **where)
    _by_dataset(axes, datasets)
    axes.set_xlim(0)
    axes.set_xlabel("Mean pathway weight")
    handles = [Line2D([], [], color=colours[m], lw=5) for m in members]
    figure.legend(handles, list(titles.values()), loc="outside lower center", ncols=min(5, len(members)))
    return figure


@styled
def quality(frame: pd.DataFrame) -> Figure:
    """Figure 3b: on images that some member gets right, how often the chosen one is; a dot a seed, a bar at the mean.

    Raises ZoolibError when the frame is empty.
    """
    datasets = _datasets(frame)
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.62 * len(datasets)), layout="constrained")
    axes = figure.subplots()
    for row, dataset in enumerate(datasets):
        for place, (choice, colour) in enumerate(_CHOICES.items()):
            values = frame[(frame["dataset"] == dataset) & (frame["choice"] == choice)]["accuracy"].to_numpy()
            y = row + 0.26 * (place - 1)
            axes.plot([values.mean()] * 2, [y - 0.11, y + 0.11], color=colour, lw=2.5, alpha=0.6, gid="mean")
            axes.plot(values, np.full(len(values), y), "o", ms=5, mec="white", mew=0.5, color=colour, gid="seeds")
            axes.annotate(
                f"{values.mean():.1f}", (values.max(), y), (6, 0), textcoords="offset points", va="center", size=8
            )
    _by_dataset(axes, datasets)
    axes.margins(x=0.12)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("Right answers (%) on images that at least one member gets right")
    handles = [Line2D([], [], color=colour, marker="o", lw=0) for colour in _CHOICES.values()]
    figure.legend(handles, list(_CHOICES), loc="outside lower center", ncols=3)
    return figure


def _by_dataset(axes: Axes, datasets: Sequence[str]) -> None:
    axes.set_yticks(range(len(datasets)), _titles(datasets))
    axes.set_ylim(len(datasets) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


@styled
def growth(frame: pd.DataFrame) -> Figure:
    """Time of one step of Hub-Pathway over the number of models in its hub, as multiples of the smallest hub's.

    The band is 15 % either way; dotted is what running all models takes. Raises ZoolibError when the frame is empty.
    """
    if frame.empty:
        raise ZoolibError("nothing to draw: the frame is empty; measure the costs first")
    figure = Figure(figsize=(_WIDTH * 0.7, 2.8), layout="constrained")
    axes = figure.subplots()
    counts = sorted(frame["models"].unique())
    axes.axhspan(0.85, 1.15, color="0.93", lw=0)
    axes.plot(
        counts,
        [count / counts[0] for count in counts],
        color="0.5",
        ls=(0, (1, 1.5)),
        label="all models run",
        gid="all",
    )
    for mode, colour, name in (("train", "#009E73", "training step"), ("eval", "#0072B2", "evaluation")):
        chosen = frame[frame["mode"] == mode]
        axes.plot(chosen["models"], chosen["ratio"], "o-", ms=4.5, color=colour, label=name, gid=mode)
    axes.set_xticks(counts)
    axes.set_ylim(0, max(2.0, 1.15 * frame["ratio"].max()))
    axes.set_xlabel("Models in the hub, of which k = 2 run for an image")
    axes.set_ylabel(f"Time over a hub of {counts[0]}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def sweep(frame: pd.DataFrame, label: str, own: float) -> Figure:
    """Test accuracy over the values of one option: a line through the means, a dot for each seed, `own` marked.

    One panel a dataset. Raises ZoolibError when the frame is empty.
    """
    datasets = _datasets(frame)
    columns = min(3, len(datasets))
    depth = -(-len(datasets) // columns)
    figure = Figure(figsize=(min(_WIDTH, 3.6 * columns), 2.5 * depth), layout="constrained")
    grid = figure.subplots(depth, columns, squeeze=False).ravel()
    for axes in grid[len(datasets) :]:
        axes.set_visible(False)
    for axes, dataset, title, colour in zip(grid, datasets, _titles(datasets), MEMBER_COLOURS * 4, strict=False):
        chosen = frame[frame["dataset"] == dataset]
        values = sorted(chosen["value"].unique())
        places = {value: place for place, value in enumerate(values)}
        means = chosen.groupby("value")["accuracy"].mean()
        axes.plot([places[v] for v in values], means.loc[values], color=colour, gid="mean")
        axes.plot(
            chosen["value"].map(places),
            chosen["accuracy"],
            "o",
            ms=4.5,
            mec="white",
            mew=0.5,
            color=colour,
            gid="seeds",
        )
        if own in places:
            axes.axvline(places[own], color="0.6", lw=1, ls=(0, (3, 2)), gid="own")
        axes.set_xticks(list(places.values()), [f"{value:g}" for value in values])
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylabel("Test accuracy (%)")
        axes.grid(color="0.92")
    return figure
