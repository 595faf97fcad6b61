"""Datasets that need no file and no network: small real ones that ship inside packages, and rendered ones.

Each returns uint8 images and labels of one split. What takes a moment is made once and kept under build/cache.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import numpy as np

from zoolib.data import aerial, render, scenes, things
from zoolib.files import atomic
from zoolib.paths import build_dir
from zoolib.spec import ZoolibError, unknown

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


# Patches of real photographs ------------------------------------------------------------------------------------------

#: class -> sample photograph inside scikit-image's wheel, and the factor by which it is reduced first
PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", 1),
    "brick": ("brick.png", 1),
    "cameraman": ("camera.png", 1),
    "cell": ("cell.png", 1),
    "coffee": ("coffee.png", 1),
    "galaxies": ("hubble_deep_field.jpg", 1),
    "grass": ("grass.png", 1),
    "gravel": ("gravel.png", 1),
    "retina": ("retina.jpg", 2),
    "rocket": ("rocket.jpg", 1),
    "tissue": ("ihc.png", 1),
}
PATCH, GAP = 24, 8  # pixels; side of a patch, and what separates the bands of train and test patches
PATCHES = {"train": 180, "test": 90}  # a class
_SEED = 100
_FLAT = 1.0  # grey levels; a patch whose standard deviation is below shows no texture


def colour_photograph(name: str) -> np.ndarray:
    """The photograph of a class (H, W, 3) uint8. Raises ZoolibError where scikit-image lacks it."""
    from PIL import Image

    file, shrink = PHOTOGRAPHS[name]
    try:
        source = resources.files("skimage") / "data" / file
        with source.open("rb") as stream, Image.open(stream) as image:
            rgb = np.asarray(image.convert("RGB"), np.int64)
    except (ModuleNotFoundError, FileNotFoundError):
        raise ZoolibError(f"scikit-image's photograph {file} is missing; reinstall scikit-image") from None
    height, width = (side // shrink for side in rgb.shape[:2])
    blocks = rgb[: height * shrink, : width * shrink].reshape(height, shrink, width, shrink, 3)
    return ((blocks.sum((1, 3)) + shrink**2 // 2) // shrink**2).astype(np.uint8)


def photograph(name: str) -> np.ndarray:
    """The photograph of a class in grey (H, W) uint8. Raises ZoolibError where scikit-image lacks it."""
    rgb = colour_photograph(name).astype(np.int64)
    return ((rgb @ np.array([299, 587, 114]) + 500) // 1000).astype(np.uint8)


def patch_corners(height: int, width: int, split: str) -> np.ndarray:
    """Top and left (n, 2) of every patch of a split: bands of two rows of train patches, a gap, one of test, a gap."""
    tops = []
    for start in range(0, height, 3 * PATCH + 2 * GAP):
        offsets = (0, PATCH) if split == "train" else (2 * PATCH + GAP,)
        tops += [start + offset for offset in offsets if start + offset + PATCH <= height]
    lefts = range(0, width - PATCH + 1, PATCH)
    return np.array([(top, left) for top in tops for left in lefts])


def patch_sources(split: str) -> list[np.ndarray]:
    """The corners (n, 2) of the patches that are used, class by class: some of those with texture, by a fixed seed."""
    found = []
    for index, name in enumerate(PHOTOGRAPHS):
        grey = photograph(name)
        corners = patch_corners(grey.shape[0], grey.shape[1], split)
        textured = corners[[grey[y : y + PATCH, x : x + PATCH].std() >= _FLAT for y, x in corners]]
        rng = np.random.default_rng([_SEED, split == "test", index])
        found.append(rng.permutation(textured)[: PATCHES[split]])
    return found


def textures(split: str) -> Split:
    """Patches (N, 24, 24, 3) of eleven photographs; no two patches share a pixel."""
    images = [
        np.stack([grey[y : y + PATCH, x : x + PATCH] for y, x in corners])
        for grey, corners in zip(map(photograph, PHOTOGRAPHS), patch_sources(split), strict=True)
    ]
    labels = np.repeat(np.arange(len(images)), [len(part) for part in images])
    order = np.random.default_rng([_SEED, split == "test"]).permutation(len(labels))
    grey = np.concatenate(images)[order]
    return np.repeat(grey[..., None], 3, axis=-1), labels[order].astype(np.int64), list(PHOTOGRAPHS)


# Rendered scenes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A rendered dataset: how its scenes are drawn from fine classes, and how many."""

    sample: Callable[[np.random.Generator, np.ndarray], render.Scenes]  # fine classes (N,) -> N scenes
    classes: tuple[str, ...]
    fine_classes: tuple[str, ...]
    object_classes: tuple[str, ...]
    seed: int
    sizes: dict[str, int]  # multiples of the number of fine classes


FAMILIES = {
    "shapes": Family(
        lambda rng, fine: things.shapes(rng, fine[:, None]),
        things.SHAPES,
        tuple(design.name for design in things.SHAPE_DESIGNS),
        things.SHAPES,
        seed=101,
        sizes={"train": 2000, "test": 1000},
    ),
    "gliders": Family(
        lambda rng, fine: things.gliders(rng, fine[:, None]),
        things.GLIDERS,
        things.GLIDERS,
        things.WINGS,
        seed=102,
        sizes={"train": 2016, "test": 1008},
    ),
    "tiles": Family(
        aerial.tiles, aerial.USES, aerial.LAYOUTS, aerial.ELEMENTS, seed=103, sizes={"train": 2000, "test": 1008}
    ),
}
SIZE = 32  # pixels; the side of a rendered image


def described(name: str, split: str) -> render.Scenes:
    """The scenes of a rendered dataset, in the order of its images. Raises ZoolibError for another dataset."""
    if name not in FAMILIES:
        raise unknown("rendered dataset", name, FAMILIES)
    family = FAMILIES[name]
    rng = np.random.default_rng([family.seed, split == "test"])
    fine = rng.permutation(np.arange(family.sizes[split]) % len(family.fine_classes))
    return family.sample(rng, fine)


def _rendered(name: str) -> Callable[[str], Split]:
    def load_split(split: str) -> Split:
        scene = described(name, split)
        return render.render(scene, SIZE).images, scene.label, list(FAMILIES[name].classes)

    return load_split


# All of them ----------------------------------------------------------------------------------------------------------

EMBEDDED: dict[str, Callable[[str], Split]] = {
    "digits": digits,
    "textures": textures,
    **{name: _rendered(name) for name in FAMILIES},
}


@functools.cache
def _version() -> str:
    """Names what decides the pixels: the code that draws, and the packages that hold or compute them."""
    code = [Path(str(module.__file__)).read_bytes() for module in (render, scenes, things, aerial)]
    own = Path(__file__).read_bytes()
    packages = [metadata.version(name) for name in ("numpy", "pillow", "scikit-image", "scikit-learn")]
    return hashlib.sha256(b"".join([*code, own, *(name.encode() for name in packages)])).hexdigest()[:16]


def load(name: str, split: str) -> Split:
    """The split ("train" or "test") of an embedded dataset, from the cache where it was made before.

    Raises ZoolibError for an unknown name.
    """
    if name not in EMBEDDED:
        raise unknown("embedded dataset", name, EMBEDDED)
    cached = build_dir() / "cache" / "embedded" / f"{name}-{split}-{_version()}.npz"
    if not cached.is_file():
        images, labels, classes = EMBEDDED[name](split)
        with atomic(cached) as file:
            np.savez(file, images=images, labels=labels, classes=np.array(classes))
    with np.load(cached) as kept:
        return kept["images"], kept["labels"], kept["classes"].tolist()
