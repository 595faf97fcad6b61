"""How LogME's algorithms scale, and what a widely used implementation returns for few samples. NumPy only."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from zoolib import evidence
from zoolib.transferability import ALGORITHMS, logme, one_hot

BASE = {"N": 1000, "D": 128, "C": 10}
SIZES = {"N": (250, 500, 1000, 2000, 4000), "D": (32, 64, 128, 256, 512), "C": (2, 5, 10, 20, 50)}


def made_up(samples: int, dimensions: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian features (N, D) whose means differ a little between classes, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    means = rng.normal(size=(classes, dimensions)) / np.sqrt(dimensions)
    return rng.normal(size=(samples, dimensions)) + 2 * means[labels], labels


def times(sizes: dict[str, Sequence[int]] | None = None, repeats: int = 2) -> pd.DataFrame:
    """CPU seconds, of all threads, of every algorithm while one of N, D and C changes and the others stay at BASE.

    Columns: axis, value, algorithm, seconds (the fastest of `repeats`).
    """
    rows = []
    for axis, values in (sizes or SIZES).items():
        for value in values:
            size = BASE | {axis: value}
            features, labels = made_up(size["N"], size["D"], size["C"])
            for algorithm in (*ALGORITHMS, "auto"):
                taken = []
                for _ in range(repeats):
                    began = time.process_time()
                    logme(features, labels, algorithm)
                    taken.append(time.process_time() - began)
                rows.append((axis, value, algorithm, min(taken)))
    return pd.DataFrame(rows, columns=["axis", "value", "algorithm", "seconds"])


def few_samples(
    samples: int = 100, dimensions: Sequence[int] = (10, 20, 40, 60, 80, 95, 105, 120, 150, 200, 300, 400, 600, 800)
) -> pd.DataFrame:
    """The maximum of the log evidence / N, and what the widely used formula returns at that maximum, against D.

    The first dimensions of one set of made-up features of four classes. Columns: dimensions, right, wrong.
    """
    features, labels = made_up(samples, max(dimensions), 4)
    features[:, :10] += 0.7 * np.random.default_rng(1).normal(size=(4, 10))[labels]
    rows = []
    for width in dimensions:
        spectrum, maximum, _ = evidence.solve(features[:, :width], one_hot(labels))
        wrong = evidence.without_prior_term(spectrum, maximum, width)
        kept = np.isfinite(wrong)
        rows.append(
            (width, maximum.log_evidence.mean() / samples, wrong[kept].mean() / samples if kept.any() else np.nan)
        )
    return pd.DataFrame(rows, columns=["dimensions", "right", "wrong"])
