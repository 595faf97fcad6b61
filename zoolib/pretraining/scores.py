"""Metrics of the dense pretexts and of the trivial answers that they are compared with: arrays in, floats out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 2.0  # pixels; a keypoint this close is found


@dataclass(frozen=True)
class Detections:
    """D boxes that a detector proposes."""

    image: np.ndarray  # (D,) index of the image
    label: np.ndarray  # (D,) class
    score: np.ndarray  # (D,)
    box: np.ndarray  # (D, 4) left, top, right, bottom in pixels


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with others (n, 4): (n,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def average_precision(found: Detections, targets: np.ndarray, classes: int, least: float = 0.5) -> float:
    """Mean over classes of the area under the precision-recall curve, in percent; targets (N, K, 5) as class and box.

    In order of score each box takes the object of its class and image that it overlaps most, if by at least `least`
    and if no better-scored box took it. Precision is made monotone, as in Pascal VOC. Classes without an object are
    left out.
    """
    areas = []
    for label in range(classes):
        there = targets[..., 0] == label  # (N, K)
        if not there.any():
            continue
        taken = ~there
        chosen = np.flatnonzero(found.label == label)
        chosen = chosen[np.argsort(-found.score[chosen], kind="stable")]
        right = np.zeros(len(chosen))
        for place, index in enumerate(chosen):
            image = found.image[index]
            if not there[image].any():
                continue
            shared = np.where(there[image], overlap(found.box[index], np.nan_to_num(targets[image, :, 1:])), -1)
            best = int(shared.argmax())
            if shared[best] >= least and not taken[image, best]:
                taken[image, best], right[place] = True, 1
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        areas.append((precision * right).sum() / there.sum())
    return 100 * float(np.mean(areas))


def mean_boxes(train: np.ndarray, images: int, classes: int) -> Detections:
    """The trivial detector: in every image, one box of each class at its mean place, scored by its frequency."""
    labels = train[..., 0]
    mean = np.stack([np.nanmean(train[labels == label][:, 1:], axis=0) for label in range(classes)])
    share = np.array([(labels == label).mean() for label in range(classes)])
    every = np.tile(np.arange(classes), images)
    return Detections(np.repeat(np.arange(images), classes), every, share[every], mean[every])


def mean_iou(found: np.ndarray, targets: np.ndarray, classes: int) -> float:
    """Mean over the classes that occur of intersection over union of the pixels, in percent; both (N, H, W)."""
    counts = np.bincount((targets.astype(np.int64) * classes + found).ravel(), minlength=classes**2)
    table = counts.reshape(classes, classes)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    occurs = table.sum(1) > 0
    return 100 * float((table.diagonal() / np.maximum(union, 1))[occurs].mean())


def keypoint_errors(found: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Of points (N, J, 2) against targets (N, J, 3): share of the seen ones within 2 pixels (%), mean distance (px)."""
    seen = targets[..., 2] > 0
    apart = np.linalg.norm(found - targets[..., :2], axis=-1)[seen]
    return {"pck": 100 * float((apart <= NEAR).mean()), "mean_error_px": float(apart.mean())}


def neighbours(features: np.ndarray, bank: np.ndarray, count: int, skip_self: bool = False) -> np.ndarray:
    """The rows (n, count) of a bank (m, D) that are nearest to features (n, D), both of unit length, nearest first.

    `skip_self` leaves row i out for feature i, where the bank is the features themselves.
    """
    out = np.empty((len(features), count), np.int64)
    for start in range(0, len(features), 1024):
        near = features[start : start + 1024] @ bank.T
        if skip_self:
            rows = np.arange(len(near))
            near[rows, start + rows] = -np.inf
        top = np.argpartition(-near, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(near, top, 1), axis=1, kind="stable")
        out[start : start + 1024] = np.take_along_axis(top, order, 1)
    return out


def vote(near: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The commonest label (n,) among neighbours (n, k), rows of `labels`; ties go to the lower class."""
    return np.asarray(np.eye(classes, dtype=np.int64)[labels[near]].sum(1).argmax(1))
