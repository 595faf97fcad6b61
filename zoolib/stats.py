"""Statistics over seeds: mean, spread, interval, paired tests. Arrays and frames in, numbers out; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats would take two seconds to load, on every page

from zoolib.spec import ZoolibError

LEVEL = 0.95  # of intervals; tests use 1 - LEVEL
SEEDS = 3  # that two methods must share before one of them is called better
ROUNDING = 1e-12  # a spread that is no larger, relative to the values, is that of rounding alone


@dataclass(frozen=True)
class Summary:
    """Mean of n values, standard deviation (n - 1), Student's interval of the mean; nan where n does not allow it."""

    n: int
    mean: float
    std: float
    low: float
    high: float


def summarise(values: Iterable[float], level: float = LEVEL) -> Summary:
    """mean ± t_{n-1} s / sqrt(n): the interval that holds the mean of many runs in `level` of all experiments."""
    array = np.asarray(list(values), float)
    array = array[~np.isnan(array)]
    if len(array) == 0:
        return Summary(0, np.nan, np.nan, np.nan, np.nan)
    if len(array) == 1:
        return Summary(1, float(array[0]), np.nan, np.nan, np.nan)
    mean, std = float(array.mean()), float(array.std(ddof=1))
    half = float(stdtrit(len(array) - 1, (1 + level) / 2)) * std / np.sqrt(len(array))
    return Summary(len(array), mean, std, mean - half, mean + half)


@dataclass(frozen=True)
class Paired:
    """Difference a - b over the n units that both have, its interval, and the two-sided p of Student's paired test."""

    n: int
    difference: float
    low: float
    high: float
    p: float


def paired(a: pd.Series, b: pd.Series) -> Paired:
    """Compare two methods on the seeds (or datasets and seeds) that index both.

    p is nan below two common units, and where all differences are the same number: t divides by their spread.

    Raises ZoolibError for an index that names a unit twice, which could be paired in several ways.
    """
    if not (a.index.is_unique and b.index.is_unique):
        raise ZoolibError("a seed occurs twice; give each pair of dataset and seed one value before pairing")
    difference = (a - b).dropna()
    found = summarise(difference)
    if found.n < 2 or found.std <= ROUNDING * max(1.0, float(np.nanmax(np.abs([*a, *b])))):
        p = np.nan
    else:
        p = float(2 * stdtr(found.n - 1, -abs(found.mean) / (found.std / np.sqrt(found.n))))
    return Paired(found.n, found.mean, found.low, found.high, p)


def best(values: pd.DataFrame, level: float = LEVEL) -> str | None:
    """The column that is significantly the highest of all, or None: one row a seed, one column a method.

    Every column with a value competes. The one with the highest mean must beat each other one in a paired test over
    the seeds that both have, at least `SEEDS`, with Holm's correction for their number.
    """
    run = values.loc[:, values.notna().any()]
    if run.shape[1] < 2:
        return None
    leader = run.mean().idxmax()
    tests = [paired(run[leader], run[other]) for other in run if other != leader]
    if any(test.n < SEEDS or np.isnan(test.p) or test.difference <= 0 for test in tests):
        return None
    p = sorted(test.p for test in tests)
    thresholds = [(1 - level) / (len(p) - i) for i in range(len(p))]
    return str(leader) if all(value <= limit for value, limit in zip(p, thresholds, strict=True)) else None
