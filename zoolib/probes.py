"""Honest baselines of transferability scores: what a simple classifier on frozen features gets right on new samples."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import minimize

from zoolib.spec import ZoolibError
from zoolib.transferability import as_array, check_features, check_labels, constant, one_hot


def linear_probe(
    features: np.ndarray, labels: np.ndarray, new_features: np.ndarray, new_labels: np.ndarray, penalty: float = 1e-3
) -> float:
    """Accuracy (percent) on new samples of a softmax regression on standardised features.

    `features` (N, D) and `labels` (N,) are learnt from, `new_features` (M, D) and `new_labels` (M,) scored. It
    minimises mean cross-entropy + penalty / 2 |W|^2 by L-BFGS, from zero, to convergence or 200 iterations.

    Raises ZoolibError for a negative penalty, features or labels that `check_features` and `check_labels` refuse, and
    new samples of other dimensions or classes.
    """
    if not (isinstance(penalty, Real) and np.isfinite(penalty) and penalty >= 0):
        raise ZoolibError(f"penalty is {penalty}; use 0 or more")
    x, y, new, new_y = _split(features, labels, new_features, new_labels)
    mean, scale = x.mean(0), x.std(0)
    scale[constant(x)] = 1.0  # else rounding errors would blow up what new samples have there
    x, new = (x - mean) / scale, (new - mean) / scale
    hot = one_hot(y)
    shape = (x.shape[1] + 1, hot.shape[1])

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logits = x @ weights[:-1] + weights[-1]
        logits -= logits.max(1, keepdims=True)
        total = np.log(np.exp(logits).sum(1, keepdims=True))
        error = (np.exp(logits - total) - hot) / len(x)
        gradient = np.vstack([x.T @ error + penalty * weights[:-1], error.sum(0)])
        loss = (total[:, 0] - (logits * hot).sum(1)).mean() + penalty / 2 * (weights[:-1] ** 2).sum()
        return float(loss), gradient.ravel()

    found: Any = minimize(objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    weights = found.x.reshape(shape)
    return 100 * float(((new @ weights[:-1] + weights[-1]).argmax(1) == new_y).mean())


def nearest_neighbours(
    features: np.ndarray, labels: np.ndarray, new_features: np.ndarray, new_labels: np.ndarray, k: int = 5
) -> float:
    """Accuracy (percent) on new samples of the vote of the k samples of highest cosine, each vote its cosine + 1.

    Shapes and errors as those of `linear_probe`; k is a whole number of at least 1.
    """
    if not isinstance(k, int | np.integer) or k < 1:
        raise ZoolibError(f"k is {k}; use a whole number of at least 1 neighbour")
    x, y, new, new_y = _split(features, labels, new_features, new_labels)
    x, new = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-300) for part in (x, new))
    hot, k, right = one_hot(y), min(k, len(x)), 0
    for start in range(0, len(new), 1024):
        cosine = new[start : start + 1024] @ x.T
        near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        votes = ((np.take_along_axis(cosine, near, 1) + 1)[..., None] * hot[near]).sum(1)  # (B, C)
        right += int((votes.argmax(1) == new_y[start : start + 1024]).sum())
    return 100 * right / len(new)


def _split(
    features: np.ndarray, labels: np.ndarray, new_features: np.ndarray, new_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Checked samples to learn from and new ones to score, features as float64.

    Raises ZoolibError for what `check_labels` and `check_features` refuse, and for new labels of no class learnt from.
    """
    labels = check_labels(labels)
    features = check_features(features, len(labels)).astype(np.float64)
    new_labels, classes = as_array(new_labels, "new labels"), int(labels.max()) + 1
    if new_labels.ndim != 1 or not np.issubdtype(new_labels.dtype, np.integer):
        raise ZoolibError(f"new labels are {new_labels.shape} {new_labels.dtype}; pass (N,) whole numbers")
    if len(new_labels) and not 0 <= new_labels.min() <= new_labels.max() < classes:
        raise ZoolibError(
            f"new labels go from {new_labels.min()} to {new_labels.max()}; the classes are 0..{classes - 1}"
        )
    new_features = check_features(new_features, len(new_labels), name="new features").astype(np.float64)
    if new_features.shape[1] != features.shape[1]:
        raise ZoolibError(f"features have {features.shape[1]} dimensions and new features {new_features.shape[1]}")
    return features, labels, new_features, new_labels
