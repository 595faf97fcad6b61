"""Which multiple of its published trade-off each regulariser wants, read from records. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from zoolib import tradeoffs
from zoolib.grid import usual_options
from zoolib.profiles import profile
from zoolib.results import Result
from zoolib.spec import RunSpec
from zoolib.tables import NOT_RUN, at_an_end, title

_COLUMNS = ["method", "factor", "seed", "val", "first", "last"]
_NOTHING = 1e-6  # rounding of eigenvalues that are zero, which may be negative
_OF_THE_TASK = ("task", "head")  # terms that are no pull: the task loss, and the weight decay of the new head


def tried(records: Iterable[Result]) -> pd.DataFrame:
    """One row a run with a trade-off: method, factor, seed, val (accuracy in %), first and last; no test accuracy.

    `first` and `last` are the regulariser's term over the task loss, means of the first and of the last stretch of the
    training curve; NaN without a curve.
    """
    rows = [
        {"method": r.spec.method, "factor": factor_of(r.spec), "seed": r.spec.seed,
         "val": r.metrics["val"]["top1_accuracy"], **dict(zip(("first", "last"), _weight(r.curves), strict=True))}
        for r in records if r.spec.method in tradeoffs.OPTION
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=_COLUMNS)


def factor_of(spec: RunSpec) -> float:
    """A run's trade-off over the published one, with three digits."""
    name = tradeoffs.OPTION[spec.method]
    return float(f"{spec.option(name) / usual_options(spec.method, profile(spec.profile))[name]:.3g}")


def _weight(curves: pd.DataFrame | None) -> tuple[float, float]:
    if curves is None:
        return np.nan, np.nan
    train = curves[curves["split"] == "train"].pivot_table(index="iteration", columns="term", values="value")
    pull = train.drop(columns=[name for name in _OF_THE_TASK if name in train]).sum(axis=1)
    ratio = (pull / train["task"]).sort_index()
    return float(ratio.iloc[0]), float(ratio.iloc[-1])


def pulls(records: Iterable[Result]) -> dict[str, str]:
    """Method -> its terms over the task loss at the first and at the last step of the curve, means over the records."""
    rows = [(r.spec.method, *_weight(r.curves)) for r in records]
    frame = pd.DataFrame(rows, columns=["method", "first", "last"])
    return {str(method): _ratio(part) for method, part in frame.groupby("method", sort=False)}


def validation(frame: pd.DataFrame) -> dict[str, dict[float, float]]:
    """Method -> multiple -> validation accuracy, the mean over the seeds that all multiples of the method have."""
    found = {}
    for method, part in frame.groupby("method", sort=False):
        by_seed = _complete(part)
        found[str(method)] = {float(str(factor)): float(value) for factor, value in by_seed.mean().dropna().items()}
    return found


def _complete(part: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy of one method, one column a multiple, of the seeds that were run at all of them."""
    return part.pivot_table(index="seed", columns="factor", values="val").dropna()


def best(frame: pd.DataFrame) -> dict[str, float]:
    """The multiple that the validation images choose for each method."""
    return {method: tradeoffs.best(values) for method, values in validation(frame).items() if values}


def table(frame: pd.DataFrame, profile_name: str, dataset: str, methods: Iterable[str]) -> pd.DataFrame:
    """One row a method, one column a multiple of its published value: validation accuracy; in bold what is used; text.

    An empty cell is a multiple that is not tried. Beside them the published value (λ), and the term over the task loss
    with it at the first and at the last step of the recorded curve.
    """
    chosen = [name for name in methods if name in tradeoffs.OPTION]
    columns = sorted({factor for name in chosen for factor in tradeoffs.FACTORS[name]})
    means, rows = validation(frame), []
    for name in chosen:
        used = tradeoffs.factor(profile_name, dataset, name)
        option = tradeoffs.OPTION[name]
        row: dict[str, Any] = {
            "Method": title(name),
            "λ": f"{usual_options(name, profile(profile_name))[option]:g}",
        }
        for factor in columns:
            value = means.get(name, {}).get(factor)
            text = NOT_RUN if value is None else f"{value:.1f}"
            row[heading(factor)] = "" if factor not in tradeoffs.FACTORS[name] else text
            if factor == used and value is not None:
                row[heading(factor)] = f"**{text}**"
        here = frame[frame["method"] == name]
        row["seeds"] = str(len(_complete(here))) if len(here) else ""
        row["term / task"] = _ratio(here[here["factor"] == 1])
        rows.append(row)
    return pd.DataFrame(rows)


def heading(factor: float) -> str:
    """How tables call a multiple, such as `× 0.1`, on one line."""
    return f"×\u00a0{factor:g}"


def named(methods: Iterable[str], profile_name: str, dataset: str) -> Mapping[str, str]:
    """Method -> its title, with the multiple of the published trade-off that the tables of a dataset have it at."""
    factors = {name: tradeoffs.factor(profile_name, dataset, name) for name in methods}
    return {name: title(name) + ("" if factor == 1 else f", {heading(factor)}") for name, factor in factors.items()}


def note(frame: pd.DataFrame, profile_name: str, dataset: str) -> str:
    """Where these records would choose otherwise than was chosen, in one sentence; empty where they would not."""
    other = {n: f for n, f in best(frame).items() if f != tradeoffs.factor(profile_name, dataset, n)}
    words = ", ".join(f"{title(name)} ({heading(factor)})" for name, factor in other.items())
    return f"The values used were chosen on committed records; by the records at hand: {words}." if words else ""


def ends(profile_name: str, dataset: str, methods: Iterable[str]) -> str:
    """`tables.at_an_end` of the multiples that a dataset's tables have."""
    chosen = {
        title(name): (tradeoffs.factor(profile_name, dataset, name), tradeoffs.FACTORS[name])
        for name in methods
        if name in tradeoffs.OPTION
    }
    return at_an_end("multiple", chosen)


def _ratio(part: pd.DataFrame) -> str:
    first, last = part["first"].mean(), part["last"].mean()
    if np.isnan(first):
        return ""
    return " → ".join("0" if abs(value) < _NOTHING else f"{value:.2g}" for value in (first, last))
