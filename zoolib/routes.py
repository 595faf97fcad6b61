"""Figures of pathways and gates: which models an image, a class or a whole hub uses. No torch.

A frame of samples has one row a test image: `label`, `prediction`, and `weight:<member>` (Hub-Pathway) or one list
column `gates:<layer>` (Zoo-Tuning). The colour of a member is that of every other figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from zoolib.palette import DIVERGING, HEAT, WIDTH, heat_map, member_colours, styled
from zoolib.results import Result
from zoolib.spec import ZoolibError, unknown

PROJECTIONS = ("pca", "tsne")


def weights_of(samples: pd.DataFrame) -> pd.DataFrame:
    """Pathway weights (N, m), one column a member in the hub's order. Raises ZoolibError where there are none."""
    found = samples.filter(like="weight:")
    if found.empty:
        raise ZoolibError("these samples hold no pathway weights; pass the samples of a hub_pathway run")
    return found.rename(columns=lambda name: str(name).removeprefix("weight:")).astype(float)


def gates_of(samples: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Gates (N, L, m) and the names of the L layers. Raises ZoolibError where there are none."""
    layers = [str(name) for name in samples.columns if str(name).startswith("gates:")]
    if not layers or samples.empty:
        raise ZoolibError("these samples hold no gates; pass the samples of a zoo_tuning run")
    gates = np.stack([np.stack(list(samples[name])).astype(float) for name in layers], 1)
    return gates, [name.removeprefix("gates:") for name in layers]


def active(weights: np.ndarray, k: int) -> np.ndarray:
    """Which members are on each route: True for the k largest of each row of (N, m); among equals the first ones."""
    if not 1 <= k <= weights.shape[1]:
        raise ZoolibError(f"k is {k}; use 1 to {weights.shape[1]}, the number of models in the hub")
    ranks = np.argsort(np.argsort(-weights, axis=1, kind="stable"), axis=1)
    return np.asarray(ranks < k)


def route_entropy(weights: np.ndarray) -> np.ndarray:
    """The entropy (N,) in nats of each row of weights (N, m): 0 for one model alone, log m for all alike."""
    safe = np.where(weights > 0, weights, 1.0)
    return np.asarray(-(weights * np.log(safe)).sum(1))


def flow(samples: pd.DataFrame, k: int) -> pd.DataFrame:
    """How many images of each class (rows) have each member (columns) on their route of k models; a row sums to k n."""
    weights = weights_of(samples)
    chosen = pd.DataFrame(active(weights.to_numpy(), k), columns=weights.columns)
    return chosen.groupby(samples["label"].to_numpy()).sum().astype(int)


# Figures --------------------------------------------------------------------------------------------------------------


@styled
def routing_flow(
    samples: pd.DataFrame, k: int, classes: Sequence[str] | None = None, titles: Sequence[str] | None = None
) -> Figure:
    """From classes to models: a band is as thick as the number of test images of the class that use the model.

    Classes run down the left, members down the right, both as tall as their number of routes. Raises ZoolibError
    without pathway weights or for a k outside the hub.
    """
    counts = flow(samples, k)
    members, total = list(counts.columns), int(counts.to_numpy().sum())
    colours, gap = member_colours(members), 0.012
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    left, right = counts.sum(axis=1).to_numpy() / total, counts.sum(axis=0).to_numpy() / total
    starts = _stack(left, gap if len(left) <= 40 else 0.001)
    ends = _stack(right, 0.05)
    scale = max(starts[-1] + left[-1], ends[-1] + right[-1])
    from_, to = starts.copy(), ends.copy()
    for row, values in enumerate(counts.to_numpy()):
        for column, value in enumerate(values):
            if value:
                thick = value / total
                _band(axes, from_[row], to[column], thick, colours[members[column]])
                from_[row] += thick
                to[column] += thick
    for y, height, label in zip(starts, left, counts.index, strict=True):
        axes.add_patch(Rectangle((-0.012, y), 0.012, height, color="0.35", lw=0))
        if len(left) <= 40:
            name = classes[label] if classes else str(label)
            axes.text(-0.022, y + height / 2, name, ha="right", va="center", size=8)
    for y, height, name, label in zip(ends, right, members, titles or members, strict=True):
        axes.add_patch(Rectangle((1, y), 0.03, max(height, 0.002), color=colours[name], lw=0))
        share = counts[name].sum() / len(samples)
        axes.text(1.045, y + height / 2, f"{label}\n{share:.0%} of images", ha="left", va="center", size=8.5)
    if len(left) > 40:
        axes.text(-0.03, scale / 2, f"{len(left)} classes", ha="right", va="center", rotation=90)
    axes.set_xlim(-0.14, 1.32)
    axes.set_ylim(scale + 0.01, -0.01)
    axes.axis("off")
    return figure


def _stack(heights: np.ndarray, gap: float) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(heights[:-1] + gap)])


def _band(axes: Axes, y0: float, y1: float, thick: float, colour: str) -> None:
    points = [(0, y0), (0.5, y0), (0.5, y1), (1, y1), (1, y1 + thick), (0.5, y1 + thick), (0.5, y0 + thick)]
    points += [(0, y0 + thick), (0, y0)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    axes.add_patch(PathPatch(Path(points, codes), facecolor=colour, alpha=0.55, lw=0, gid="flow"))


def project(values: np.ndarray, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Points (N, 2) of rows (N, D): their two principal components, or a t-SNE of them.

    Raises ZoolibError for an unknown method.
    """
    if method not in PROJECTIONS:
        raise unknown("projection", method, PROJECTIONS)
    centred = values - values.mean(0)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = float(min(30, max(2, (len(values) - 1) // 3)))
        fitted = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(centred.astype(np.float32))
        return np.asarray(fitted)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2].sum(1, keepdims=True) + 1e-12)  # one sign, whatever the library's
    points = centred @ axes.T
    return np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))


@styled
def route_map(
    samples: pd.DataFrame,
    method: str = "pca",
    classes: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Every test image as a point by its route: its pathway weights, or all of its gates, in two dimensions.

    Coloured on the left by class (up to ten, else by label), on the right by the member with the highest weight (mean
    gate); a cross is an image that was predicted wrongly. Raises ZoolibError for samples without routes.
    """
    if any(str(name).startswith("gates:") for name in samples.columns):
        gates, _ = gates_of(samples)
        values, strength = gates.reshape(len(gates), -1), gates.mean(1)
        names = list(titles or (f"member {i + 1}" for i in range(strength.shape[1])))
        colours = list(member_colours(names).values())
    else:
        weights = weights_of(samples)
        values = strength = weights.to_numpy()
        names, colours = list(titles or weights.columns), list(member_colours(list(weights.columns)).values())
    points, labels = project(values, method), samples["label"].to_numpy()
    right = labels == samples["prediction"].to_numpy()
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    by_class, by_member = figure.subplots(1, 2)
    shown = np.unique(labels)
    if len(shown) <= 10:
        from matplotlib import colormaps

        wheel = colormaps["tab10"].colors  # type: ignore[attr-defined]
        groups = [(labels == c, wheel[i], classes[c] if classes else str(c)) for i, c in enumerate(shown)]
    else:
        groups = [(labels == c, _along(i / (len(shown) - 1)), "") for i, c in enumerate(shown)]
    _scatter(by_class, points, right, groups)
    best = strength.argmax(1)
    _scatter(by_member, points, right, [(best == i, colours[i], name) for i, name in enumerate(names)])
    for axes, heading in ((by_class, "By class"), (by_member, "By the member weighed highest")):
        axes.set_title(heading)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel({"pca": "First component", "tsne": "t-SNE"}[method])
    by_class.set_ylabel({"pca": "Second component", "tsne": ""}[method])
    return figure


def _along(share: float) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    return colormaps[HEAT](share)


def _scatter(
    axes: Axes, points: np.ndarray, right: np.ndarray, groups: Sequence[tuple[np.ndarray, object, str]]
) -> None:
    handles = []
    for mask, colour, name in groups:
        for of, marker, size in ((mask & right, "o", 12), (mask & ~right, "x", 22)):
            axes.scatter(
                points[of, 0],
                points[of, 1],
                s=size,
                marker=marker,
                color=colour,
                alpha=0.75,
                lw=0.9 if marker == "x" else 0,
            )
        if name:
            handles.append(Line2D([], [], color=colour, marker="o", ls="", ms=4.5, label=name))  # type: ignore[arg-type]
    if handles:
        columns = 5 if max(len(str(handle.get_label())) for handle in handles) <= 3 else 3
        close = {"columnspacing": 0.9, "handletextpad": 0.2, "borderaxespad": 0}
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=columns, **close)


@styled
def gate_panels(samples: pd.DataFrame, groups: Mapping[str, np.ndarray], titles: Sequence[str] | None = None) -> Figure:
    """Zoo-Tuning's gates, layers by members: their mean over all samples, and how groups of samples differ from it.

    `groups` names rows of `samples` by a mask or positions: the images of a class, or one image. Raises ZoolibError
    without gates or groups.
    """
    gates, layers = gates_of(samples)
    if not groups:
        raise ZoolibError("no group of samples was named; pass at least one, such as {'class 3': samples.label == 3}")
    names = list(titles or (f"member {i + 1}" for i in range(gates.shape[2])))
    mean = gates.mean(0)  # (L, m)
    parts = {name: gates[np.asarray(rows)].mean(0) - mean for name, rows in groups.items()}
    limit = max(1e-6, max(float(np.abs(part).max()) for part in parts.values()))
    tall = 1.5 + (0.22 if len(layers) <= 20 else 0.13) * len(layers)
    figure = Figure(figsize=(WIDTH, tall), layout="constrained")
    grid = figure.subplots(1, 1 + len(parts), sharey=True, squeeze=False)[0]
    wide: dict[str, Any] = {"annot": False, "linewidths": 0, "yticklabels": True}
    first = heat_map(grid[0], pd.DataFrame(mean, layers, names), **wide)
    for axes, (name, part) in zip(grid[1:], parts.items(), strict=True):
        last = heat_map(axes, pd.DataFrame(part, layers, names), DIVERGING, vmin=-limit, vmax=limit, **wide)
        axes.set_title(name)
    grid[0].set_title("Mean")
    for axes in grid:
        axes.tick_params(axis="x", rotation=90, labelsize=7.5)
        axes.tick_params(axis="y", labelsize=7.5 if len(layers) <= 20 else 6)
    figure.colorbar(first, ax=grid, label="Mean gate", location="left", pad=0.02, shrink=0.8)
    figure.colorbar(last, ax=grid, label="Difference from the mean", pad=0.02, shrink=0.8)
    return figure


@styled
def sample_sheet(
    images: Sequence[np.ndarray],
    samples: pd.DataFrame,
    k: int,
    classes: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    colours: Sequence[str] | None = None,
) -> Figure:
    """Test images with their pathway weights as bars (Hub-Pathway figure 4); the k on the route are filled.

    `images` are (H, W, 3) uint8, one for each row of `samples`. A title in italics marks a wrong prediction. Raises
    ZoolibError when their numbers differ or the samples hold no weights.
    """
    weights = weights_of(samples)
    if len(images) != len(samples):
        raise ZoolibError(f"{len(images)} images for {len(samples)} samples; pass one image a row")
    names, colours = list(titles or weights.columns), colours or list(member_colours(list(weights.columns)).values())
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(WIDTH, 1.75 * rows + 0.35), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1.4] * rows)
    for axes in grid.ravel():
        axes.axis("off")
    on = active(weights.to_numpy(), k)
    for i, (image, row) in enumerate(zip(images, samples.to_dict("records"), strict=True)):
        picture, bars = grid[2 * (i // columns), i % columns], grid[2 * (i // columns) + 1, i % columns]
        picture.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "bilinear")
        said, is_ = (classes[row[key]] if classes else str(row[key]) for key in ("prediction", "label"))
        wrong = row["prediction"] != row["label"]
        picture.set_title(f"{said}, not {is_}" if wrong else is_, size=8, style="italic" if wrong else "normal", pad=2)
        fills = [colour if chosen else "none" for colour, chosen in zip(colours, on[i], strict=True)]
        bars.barh(range(len(names)), weights.to_numpy()[i], color=fills, edgecolor=colours, height=0.7, lw=0.8)
        bars.set_xlim(0, 1)
        bars.invert_yaxis()
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours]
    figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)))
    return figure


@styled
def hub_over_training(curves: Mapping[str, pd.DataFrame], titles: Mapping[str, str] | None = None) -> Figure:
    """Entropy of the mean pathway weights, and each member's load, over training: one column of panels a variant.

    `curves` names variants (such as "λ = 0.3" and "λ = 0"); seeds are averaged. A hub has collapsed when k loads
    are near 1 while the others are near 0, or the entropy is near 0; the dashed line is the entropy of equal use,
    log m. Raises ZoolibError for curves that recorded no load.
    """
    loads = {name: _terms(frame, "load:") for name, frame in curves.items()}
    if not loads or any(frame.empty for frame in loads.values()):
        raise ZoolibError("these curves recorded no load of the hub; pass the curves of hub_pathway runs")
    members = list(next(iter(loads.values())).columns)
    colours = member_colours(members)
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    grid = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False)
    for column, (name, frame) in enumerate(curves.items()):
        top, bottom = grid[:, column]
        entropy = _terms(frame, "entropy")
        top.plot(entropy.index, entropy["entropy"], color="0.2", gid="entropy")
        top.axhline(np.log(len(members)), color="0.35", lw=1, ls=(0, (3, 2)))
        top.set_title(name)
        for member in members:
            bottom.plot(loads[name].index, loads[name][member], color=colours[member], gid=f"load:{member}")
        bottom.set_xlabel("Iteration")
        bottom.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axes in (top, bottom):
            axes.grid(color="0.92")
    grid[0, 0].set_ylabel("Entropy (nats)")
    grid[0, 0].set_ylim(0, 1.12 * np.log(len(members)))
    grid[1, 0].set_ylabel("Load: share of images")
    grid[1, 0].set_ylim(-0.03, 1.03)
    handles = [Line2D([], [], color=colours[name]) for name in members]
    figure.legend(handles, [(titles or {}).get(n, n) for n in members], loc="outside lower center", ncols=5)
    return figure


def by_explore_weight(records: Sequence[Result], k: int) -> dict[str, pd.DataFrame]:
    """The curves of Hub-Pathway runs with k active models that recorded the hub's load, by λ, the largest first."""
    found: dict[float, list[pd.DataFrame]] = {}
    for result in records:
        options = dict(result.spec.options)
        curves = result.curves
        if options.get("top_k") == k and curves is not None and curves["term"].str.startswith("load:").any():
            found.setdefault(float(options.get("explore_weight", 0.0)), []).append(curves)
    return {f"λ = {weight:g}": pd.concat(found[weight]) for weight in sorted(found, reverse=True)}


def _terms(curves: pd.DataFrame, start: str) -> pd.DataFrame:
    """Validation terms that start so: mean over seeds, iterations down, terms across without their prefix."""
    chosen = curves[(curves["split"] == "val") & curves["term"].str.startswith(start)]
    table = chosen.pivot_table(index="iteration", columns="term", values="value", aggfunc="mean", sort=False)
    return table.rename(columns=lambda name: str(name).removeprefix("load:"))
