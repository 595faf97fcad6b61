"""Which learning rate each method wants, read from the records of every rate that was tried. No torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from zoolib import rates
from zoolib.data import manifests
from zoolib.palette import log_ticks, method_colour, styled
from zoolib.results import ResultStore
from zoolib.spec import RunSpec, ZoolibError
from zoolib.tables import NOT_RUN, at_an_end, title


def rates_tried(specs: Iterable[RunSpec], store: ResultStore) -> pd.DataFrame:
    """Validation and test accuracy (%) of every run: hub, dataset, method, member, lr, val, test."""
    rows = [
        {"hub": r.spec.hub, "dataset": r.spec.dataset, "method": r.spec.method, "member": r.spec.member,
         "lr": r.spec.settings.lr, "val": r.metrics["val"]["top1_accuracy"], "test": r.metrics["test"]["top1_accuracy"]}
        for r in store.records(list(specs))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["hub", "dataset", "method", "member", "lr", "val", "test"])


def by_rate(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean validation accuracy over members, then over targets: one row a method, one column a rate."""
    each = frame.groupby(["method", "dataset", "lr"], sort=False)["val"].mean()
    means = each.groupby(level=["method", "lr"], sort=False).mean().unstack("lr")
    return means.reindex(frame["method"].drop_duplicates()).sort_index(axis=1)


def best_rates(frame: pd.DataFrame) -> dict[str, float]:
    """Each method's rate of the highest mean validation accuracy; the smallest of several equal ones."""
    return {str(method): float(str(row.idxmax())) for method, row in by_rate(frame).iterrows()}


def rate_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`by_rate` in text: in bold the rate that each method has in the profiles (`rates.CHOSEN`)."""
    rows = []
    for method, row in by_rate(frame).iterrows():
        cells = {f"{lr:g}": NOT_RUN if np.isnan(value) else f"{value:.1f}" for lr, value in row.items()}
        chosen = f"{rates.rate(rates.CHOSEN_IN, str(frame['hub'].iloc[0]), str(method)):g}"
        rows.append({"Method": title(str(method), "")} | cells | {chosen: f"**{cells.get(chosen, NOT_RUN)}**"})
    return pd.DataFrame(rows)


def rate_note(frame: pd.DataFrame) -> str:
    """Where these records would choose otherwise than was chosen, in one sentence; empty where they would not."""
    hub, best = str(frame["hub"].iloc[0]), best_rates(frame)
    other = {name: lr for name, lr in best.items() if lr != rates.rate(rates.CHOSEN_IN, hub, name)}
    words = [f"{title(name, '')} ({lr:g})" for name, lr in other.items()]
    reason = "The rate was chosen on committed records and is kept; by this machine's another validates best for "
    return f"{reason}{', '.join(words)}." if words else ""


def ends(frame: pd.DataFrame) -> str:
    """`tables.at_an_end` of the rates that the methods have in the profiles."""
    hub, tried = str(frame["hub"].iloc[0]), by_rate(frame)
    chosen = {
        title(str(method), ""): (rates.rate(rates.CHOSEN_IN, hub, str(method)), list(row.dropna().index))
        for method, row in tried.iterrows()
    }
    return at_an_end("rate", chosen)


@styled
def rate_figure(frame: pd.DataFrame) -> Figure:
    """Validation accuracy against the learning rate: a panel a target, a line a method (the mean over members).

    Raises ZoolibError when the frame is empty.
    """
    if frame.empty:
        raise ZoolibError("nothing to draw: no run has a record yet")
    names = list(frame["dataset"].unique())
    figure = Figure(figsize=(3.1 * len(names) + 1.4, 3.0), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=True):
        part = frame[frame["dataset"] == name]
        for method in part["method"].unique():
            means = part[part["method"] == method].groupby("lr")["val"].mean()
            axes.plot(means.index, means, "o-", ms=4, color=method_colour(str(method)), label=title(str(method), ""))
        log_ticks(axes, part["lr"], "Learning rate")
        axes.set_title(manifests.dataset(str(name)).title)
    panels[0].set_ylabel("Validation accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure
