"""Datasets that need no file and no network. Each returns uint8 images and labels of one split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoolib.spec import unknown

Split = tuple[np.ndarray, np.ndarray, list[str]]  # images (N, H, W, 3) uint8, labels (N,) int64, class names


def digits(split: str) -> Split:
    """scikit-learn's 8x8 digits, split 75/25 within each class by a fixed seed; images (N, 8, 8, 3)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    rows = np.arange(len(source.target))
    train, test = train_test_split(rows, test_size=450, stratify=source.target, random_state=0)
    chosen = np.sort(train if split == "train" else test)
    grey = np.round(source.images[chosen] * (255 / 16)).astype(np.uint8)
    names = [str(digit) for digit in range(10)]
    return np.repeat(grey[..., None], 3, axis=-1), source.target[chosen].astype(np.int64), names


EMBEDDED: dict[str, Callable[[str], Split]] = {"digits": digits}


def load(name: str, split: str) -> Split:
    """The split ("train" or "test") of an embedded dataset. Raises ZoolibError for an unknown name."""
    if name not in EMBEDDED:
        raise unknown("embedded dataset", name, EMBEDDED)
    return EMBEDDED[name](split)
