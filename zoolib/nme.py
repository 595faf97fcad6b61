"""Measures of landmark detection: arrays in, numbers out. No torch."""

from __future__ import annotations

import numpy as np


def errors(prediction: np.ndarray, truth: np.ndarray, normaliser: tuple[int, int]) -> np.ndarray:
    """Normalised mean error of each face: (N, K, 2), (N, K, 2) -> (N,).

    The mean distance over the annotated points, over the distance between the two true points of the normaliser. Not
    annotated points (NaN) are left out; a face that lacks a point of the normaliser, or has none at all, gives NaN, as
    does one whose normaliser has no length. The ratio is the same in pixels and in crop coordinates.
    """
    prediction, truth = prediction.astype(np.float64), truth.astype(np.float64)
    known = np.isfinite(truth).all(-1)  # (N, K)
    distance = np.linalg.norm(prediction - np.where(known[..., None], truth, 0), axis=-1)
    distance = np.where(known, np.where(np.isnan(distance), np.inf, distance), 0)  # no prediction is no good one
    first, second = (truth[:, index] for index in normaliser)
    unit = np.linalg.norm(first - second, axis=-1)  # NaN where either is missing
    count = known.sum(1)
    usable = (count > 0) & (unit > 0)
    mean = distance.sum(1) / np.maximum(count, 1)
    return np.where(usable, mean / np.where(usable, unit, 1), np.nan)


def failure_rate(each: np.ndarray, threshold: float) -> float:
    """Share of the faces whose error is above the threshold; NaN errors are left out."""
    return _mean(each[~np.isnan(each)] > threshold)


def auc(each: np.ndarray, threshold: float) -> float:
    """Area under the cumulative error distribution from 0 to the threshold, over the threshold; exact, in [0, 1].

    A face of error e adds the part of the interval above e, so that the area is the mean of max(0, 1 - e / threshold).
    """
    return _mean(np.maximum(0, 1 - each[~np.isnan(each)] / threshold))


def cumulative(each: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The share of the faces whose error is at most each value of `at`."""
    sorted_errors = np.sort(each[~np.isnan(each)])
    return np.searchsorted(sorted_errors, at, side="right") / max(len(sorted_errors), 1)


def summary(each: np.ndarray) -> dict[str, float]:
    """Of errors (N,): mean (nme, %), failure rates at 8 and 10 % (%), and areas up to 8 and 10 % (%)."""
    values = {"nme": 100 * _mean(each[~np.isnan(each)])}
    for threshold in (0.08, 0.10):
        values[f"fr_{100 * threshold:02.0f}"] = 100 * failure_rate(each, threshold)
        values[f"auc_{100 * threshold:02.0f}"] = 100 * auc(each, threshold)
    return values


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
