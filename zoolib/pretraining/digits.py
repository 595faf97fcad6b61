"""Three pretexts on digits without their labels: the members of `digits-zoo`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from zoolib.data import loaders
from zoolib.data.loaders import Dataset, Images
from zoolib.data.manifests import dataset as dataset_manifest
from zoolib.spec import Settings

Pretext = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def rotation(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every image turned by 0, 90, 180 and 270 degrees; the label counts the quarter turns (Gidaris et al. 2018)."""
    turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return np.concatenate(turned), np.repeat(np.arange(4), len(images))


def jigsaw(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The quadrants of every image in eight random orders; the label is the order, of 24 (Noroozi and Favaro 2016)."""
    orders = np.array(list(itertools.permutations(range(4))))
    labels = rng.integers(len(orders), size=8 * len(images))
    repeated = np.tile(images, (8, 1, 1, 1))
    half = images.shape[1] // 2
    corners = [(y, x) for y in (0, half) for x in (0, half)]
    quadrants = np.stack([repeated[:, y : y + half, x : x + half] for y, x in corners], axis=1)  # (N, 4, h, h, 3)
    shuffled = np.take_along_axis(quadrants, orders[labels][:, :, None, None, None], axis=1)
    out = np.empty_like(repeated)
    for place, (y, x) in enumerate(corners):
        out[:, y : y + half, x : x + half] = shuffled[:, place]
    return out, labels


def corruption(images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every image as it is, with noise, blurred, and with an erased block; the label says which of the four."""
    noisy = np.clip(images + rng.normal(0, 25, images.shape), 0, 255).astype(np.uint8)
    blurred = sum(np.roll(images.astype(np.float32), (dy, dx), (1, 2)) for dy in (-3, 0, 3) for dx in (-3, 0, 3)) / 9
    erased = images.copy()
    side, block = images.shape[1], images.shape[1] // 3
    for image, (y, x) in zip(erased, rng.integers(side - block, size=(len(images), 2)), strict=True):
        image[y : y + block, x : x + block] = 128
    variants = [images, noisy, np.asarray(blurred).astype(np.uint8), erased]
    return np.concatenate(variants), np.repeat(np.arange(4), len(images))


PRETEXTS: dict[str, Pretext] = {"rotation": rotation, "jigsaw": jigsaw, "corruption": corruption}

SETTINGS = Settings(
    image_size=32,
    decode_size=32,
    batch_size=64,
    iterations=700,
    milestones=(450, 600),
    lr=0.05,
    crop="shift",
    test_crops=1,
    val_fraction=0.2,
    eval_every=100,
)


def pretext_data(pretext: Pretext, seed: int) -> Dataset:
    """The pretext's images and labels, made of those of `digits` split by split; the digits' own labels are unused."""
    digits = loaders.load(dataset_manifest("digits"), SETTINGS)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("train", "val", "test"):
        source, chosen = digits.split(split)
        pixels, labels = pretext(source.pixels[chosen], np.random.default_rng([seed, len(parts)]))
        parts[split] = (pixels, labels)
    pixels, labels = (np.concatenate([parts["train"][i], parts["val"][i]]) for i in (0, 1))
    train = Images(pixels, labels, [], digits.train.sha256)
    count = len(parts["train"][1])
    rows = {
        "train": np.arange(count),
        "val": np.arange(count, len(train.labels)),
        "test": np.arange(len(parts["test"][1])),
    }
    return dataclasses.replace(digits, train=train, test=Images(*parts["test"], [], digits.test.sha256), rows=rows)
