"""Figures and the table of the landmark pages: tidy frames and arrays in, a Figure or a frame out. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from zoolib import nme
from zoolib.data.faces import Faces
from zoolib.data.schema import Landmarks
from zoolib.figures import _band, line_look
from zoolib.palette import WIDTH as _WIDTH
from zoolib.palette import styled
from zoolib.results import Result
from zoolib.spec import ZoolibError
from zoolib.tables import order, title

_TRUE, _FOUND = "#56B4E9", "#D55E00"  # true and predicted points


def face_errors(records: Sequence[Result]) -> pd.DataFrame:
    """The error of every test face of every run, a share of the normaliser: hub, method, member, options, seed, nme.

    Raises ZoolibError where a record has no errors, as one of another task.
    """
    parts = []
    for result in records:
        if result.samples is None or "nme" not in result.samples:
            raise ZoolibError(f"{result.spec.label} recorded no landmark errors; pass records of the task landmarks")
        spec = result.spec
        head = {"hub": spec.hub, "method": spec.method, "member": spec.member, "options": result.options}
        parts.append(pd.DataFrame({**head, "seed": spec.seed, "nme": result.samples["nme"].to_numpy()}))
    columns = ["hub", "method", "member", "options", "seed", "nme"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def measures(frame: pd.DataFrame, normaliser: str) -> pd.DataFrame:
    """Every measure of every method on the test split, mean ± standard deviation (n - 1) over seeds, in percent.

    One column a measure: NME (over the named normaliser), failure rates (FR) and areas under the cumulative error curve
    (AUC) at an error of 8 and of 10 %, and the NME on each subset. The last row is the mean training face.
    """
    test = frame[frame["split"] == "test"]
    plain = {"nme": f"NME (% of {normaliser})"}
    plain |= {f"{name.lower()}_{at:02}": f"{name} at {at} % (%)" for name in ("FR", "AUC") for at in (8, 10)}
    subsets = [m for m in test["metric"].unique() if m.startswith("nme_") and m != "nme_mean_face"]
    names = plain | {metric: f"NME, {metric.removeprefix('nme_')} (%)" for metric in subsets}
    rows: dict[str, dict[str, str]] = {}
    for method, member, options in order(test):
        chosen = test[(test[["method", "member", "options"]] == [method, member, options]).all(axis=1)]
        values = chosen.groupby("metric")["value"]
        row = {}
        for metric, heading in names.items():
            found = values.get_group(metric) if metric in values.groups else pd.Series(dtype=float)
            spread = f" ± {found.std():.2f}" if len(found) > 1 else ""
            row[heading] = f"{found.mean():.2f}{spread}" if len(found) else "—"
        rows[title(method, member, chosen["hub"].iloc[0])] = row
    mean_face = test[test["metric"] == "nme_mean_face"]["value"]
    if len(mean_face):
        first, *others = names.values()
        rows["Mean face"] = {first: f"{mean_face.mean():.2f}"} | dict.fromkeys(others, "—")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


@styled
def cumulative_errors(errors: pd.DataFrame, limit: float = 0.2) -> Figure:
    """The share of test faces whose error is at most each value; the mean over seeds, one line a method.

    `limit` is a share of the normaliser, as the errors are; the axis is in percent. Vertical lines mark 8 and 10 %,
    beyond which a face counts as failed. Raises ZoolibError for an empty frame.
    """
    if errors.empty:
        raise ZoolibError("nothing to draw: no errors; compute the runs first")
    at = np.linspace(0, limit, 201)
    figure = Figure(figsize=(_WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    for place, (method, member, options) in enumerate(order(errors)):
        chosen = errors[(errors[["method", "member", "options"]] == [method, member, options]).all(axis=1)]
        each = [nme.cumulative(run["nme"].to_numpy(), at) for _, run in chosen.groupby("seed")]
        hub = chosen["hub"].iloc[0]
        look = line_look(method, member, hub, place)
        axes.plot(100 * at, 100 * np.mean(each, axis=0), label=title(method, member, hub), **look)
    for threshold in (8, 10):
        axes.axvline(threshold, color="0.6", lw=0.8, ls=(0, (3, 2)))
    axes.set_xlim(0, 100 * limit)
    axes.set_ylim(0, 100)
    axes.grid(color="0.92")
    axes.set_xlabel("Error of a face (% of the normaliser)")
    axes.set_ylabel("Faces with at most that error (%)")
    figure.legend(loc="outside lower center", ncols=3, handlelength=2.6)
    return figure


@styled
def nme_curves(curves: pd.DataFrame) -> Figure:
    """Validation NME over training (Zoo-Tuning, supplement, figure 2): mean over seeds in a band from min to max.

    Raises ZoolibError where no curve holds an NME.
    """
    shown = curves[(curves["split"] == "val") & (curves["term"] == "nme")].assign(options="")
    if shown.empty:
        raise ZoolibError("nothing to draw: no validation NME in these curves; compute the runs first")
    figure = Figure(figsize=(_WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    hub = shown["hub"].iloc[0]
    for place, (method, member, _) in enumerate(order(shown)):
        line = _band(axes, shown[(shown["method"] == method) & (shown["member"] == member)], method, member, hub, place)
        if line is not None:
            line.set_label(title(method, member, hub))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("Iteration")
    axes.set_ylabel("Validation NME (%)")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(color="0.92", which="both")
    axes.margins(x=0.01)
    figure.legend(loc="outside lower center", ncols=3, handlelength=2.6)
    return figure


@styled
def face_sheet(faces: Faces, landmarks: Landmarks, samples: pd.DataFrame, columns: int = 8) -> Figure:
    """Test faces with their true and predicted points, from the best to the worst, each with its error in percent.

    `samples` is one run's, which holds the points of some faces. Raises ZoolibError where it holds none.
    """
    kept = samples[[points is not None for points in samples["points"]]] if "points" in samples else samples[:0]
    if kept.empty:
        raise ZoolibError("these samples hold no predicted points; pass the samples of a landmark run")
    kept = kept.sort_values("nme")
    rows = -(-len(kept) // columns)
    figure = Figure(figsize=(_WIDTH, rows * _WIDTH / columns * 1.16 + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    crops = faces.crops(kept["index"].to_numpy())
    for axes, crop, (_, sample) in zip(grid, crops, kept.iterrows(), strict=False):
        size = len(crop)
        axes.imshow(crop, extent=(0, size, size, 0))
        _points(axes, faces.points[sample["index"]] * size, landmarks, _TRUE)
        _points(axes, np.reshape(sample["points"], (-1, 2)) * size, landmarks, _FOUND)
        axes.set_title(f"{100 * sample['nme']:.1f} %", loc="center", pad=2, size=8)
        axes.set_xlim(0, size)
        axes.set_ylim(size, 0)
    for axes in grid:
        axes.axis("off")
    handles = [Line2D([], [], ls="", marker=".", color=c, label=n) for c, n in ((_TRUE, "true"), (_FOUND, "predicted"))]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _points(axes: Axes, points: np.ndarray, landmarks: Landmarks, colour: str) -> None:
    for chain in landmarks.edges:
        axes.plot(*points[chain].T, color=colour, lw=0.5, alpha=0.8)
    axes.plot(*points.T, ".", color=colour, ms=1.6)
