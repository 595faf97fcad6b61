"""What the default LogME saves over the published fixed point written class by class, and what memory it takes."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import Row, interleaved
from zoolib.runtime import forget_peak_memory, peak_memory_mb
from zoolib.transferability import logme

SAMPLES, WIDTH, CLASSES = 10_000, 2_048, 100
AGREEMENT = 1e-9


def per_class(features: np.ndarray, labels: np.ndarray, tolerance: float = 1e-8) -> float:
    """Algorithm 3 of the slides, line by line: one truncated decomposition, then one loop for each class."""
    count = len(features)
    left, sigma, right = np.linalg.svd(features, full_matrices=False)
    kept = sigma > 1e-10
    left, sigma, right = left[:, kept], sigma[kept], right[kept]
    total = 0.0
    for c in range(labels.max() + 1):
        y = (labels == c).astype(np.float64)
        z2 = (left.T @ y) ** 2
        rest = max((y**2).sum() - z2.sum(), 0.0)
        t, alpha, beta = 1.0, 1.0, 1.0
        while True:
            size = (sigma**2 * z2 / (t + sigma**2) ** 2).sum()
            gamma = (sigma**2 / (t + sigma**2)).sum()
            residual = (z2 / (1 + sigma**2 / t) ** 2).sum() + rest
            alpha, beta = gamma / size, (count - gamma) / residual
            before, t = t, alpha / beta
            if abs(t - before) <= tolerance * t:
                break
        mean = right.T @ (sigma / (t + sigma**2) * (left.T @ y))
        size, residual = mean @ mean, ((features @ mean - y) ** 2).sum()
        volume = np.log(alpha + beta * sigma**2).sum() + (features.shape[1] - len(sigma)) * np.log(alpha)
        evidence = features.shape[1] * np.log(alpha) + count * np.log(beta / (2 * np.pi)) - volume
        total += (evidence - beta * residual - alpha * size) / (2 * count)
    return total / (labels.max() + 1)


def made_up() -> tuple[np.ndarray, np.ndarray]:
    """Features with a decaying spectrum whose class means differ, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(SAMPLES) % CLASSES
    scale = 1 / np.sqrt(1 + np.arange(WIDTH))
    return (rng.normal(size=(SAMPLES, WIDTH)) + rng.normal(size=(CLASSES, WIDTH))[labels]) * scale, labels


def run() -> list[Row]:
    """CPU time, agreement and memory at N = 10,000, D = 2,048, C = 100 in float64: about two minutes."""
    features, labels = made_up()
    scores: dict[str, float] = {}

    def ours() -> None:
        scores["ours"] = logme(features, labels).score

    def theirs() -> None:
        scores["theirs"] = per_class(features, labels)

    times = interleaved({"ours": ours, "theirs": theirs}, repeats=1, seconds=60)
    here = torch.device("cpu")
    forget_peak_memory(here)
    before = peak_memory_mb(here)
    ours()
    peak = features.nbytes + (peak_memory_mb(here) - before) * 2**20  # resident: what LAPACK takes counts too
    n, d, c = SAMPLES, WIDTH, CLASSES
    limit = (6 * n * d**2 + 20 * d**3 + 6 * n * d * c) / (n * d**2 + 9 * d**3 + 2 * n * d * c)  # leading operations
    size = f"N={SAMPLES:,} D={WIDTH:,} C={CLASSES}"
    return [
        Row(f"speed of logme over the published fixed point, class by class, {size}",
            times["theirs"] / times["ours"], limit, 2.5, higher_is_better=True),
        Row(f"difference of the two scores, in units of {AGREEMENT:g}",
            abs(scores["ours"] - scores["theirs"]) / AGREEMENT, 0.0, 1.0, higher_is_better=False),
        Row("memory of logme, features included, over that of the features",
            peak / features.nbytes, 1.0, 2.0, higher_is_better=False),
    ]  # fmt: skip
