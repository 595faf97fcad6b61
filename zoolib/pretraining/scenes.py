"""Images and dense labels of the pretexts: photographs of the source classes, and rendered scenes laid over them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoolib.data import aerial, loaders, things
from zoolib.data.loaders import Dataset, Images
from zoolib.data.manifests import dataset as dataset_manifest
from zoolib.data.render import Rendered, Scenes, render
from zoolib.spec import Settings

SIDE = 32  # pixels
SOURCE = "cifar100-source"
SIZES = {"train": 24_000, "val": 1_000, "test": 1_000}  # scenes
_SEED = 9_000  # far from the seeds of the embedded datasets, whose scenes are drawn from the same catalogues


@dataclass(frozen=True)
class Kind:
    """A kind of scene: how it is described and what its labels are."""

    describe: Callable[[np.random.Generator, int], Scenes]  # a generator and a count -> that many scenes
    label: Callable[[Scenes, Rendered], np.ndarray]
    classes: tuple[str, ...]


def photographs(settings: Settings) -> Dataset:
    """The source classes. Raises ZoolibError where their files are absent."""
    return loaders.load(dataset_manifest(SOURCE), settings)


def unmirrored(data: Dataset) -> Dataset:
    """The same images, which the training loop then does not mirror."""
    return dataclasses.replace(data, manifest=data.manifest.model_copy(update={"flip": False}))


def _things(rng: np.random.Generator, count: int) -> Scenes:
    """One to three general things."""
    fine = rng.integers(len(things.SHAPE_DESIGNS), size=(count, 3))
    fine[np.arange(3) >= rng.integers(1, 4, size=(count, 1))] = -1
    return things.shapes(rng, fine)


def _boxes(scenes: Scenes, seen: Rendered) -> np.ndarray:
    """(N, K, 5) float32: class and box; -1 for the class where nothing is to be found."""
    there = (scenes.objects >= 0) & np.isfinite(seen.boxes).all(-1)
    label = np.where(there, scenes.objects, -1).astype(np.float32)
    return np.concatenate([label[..., None], seen.boxes], -1).astype(np.float32)


def _land(rng: np.random.Generator, count: int) -> Scenes:
    """Land from above."""
    return aerial.tiles(rng, rng.integers(len(aerial.LAYOUTS), size=count))


def _pixels(scenes: Scenes, seen: Rendered) -> np.ndarray:
    """(N, S, S) int8: 0 for the background, else 1 + the class of the object in that pixel."""
    table = np.concatenate([np.zeros((len(scenes), 1), np.int64), scenes.objects + 1], 1)
    return table[np.arange(len(scenes))[:, None, None], seen.mask].astype(np.int8)


def _gliders(rng: np.random.Generator, count: int) -> Scenes:
    """One glider."""
    return things.gliders(rng, rng.integers(len(things.GLIDER_DESIGNS), size=(count, 1)))


def _points(scenes: Scenes, seen: Rendered) -> np.ndarray:
    """(N, J, 3) float32 of the first object: x, y in pixels, and 1 where the point is seen."""
    visible = seen.visible[:, 0, :, None]
    return np.concatenate([np.where(visible, seen.keypoints[:, 0], 0), visible], -1).astype(np.float32)


KINDS = {
    "detection": Kind(_things, _boxes, things.SHAPES),
    "segmentation": Kind(_land, _pixels, ("ground", *aerial.ELEMENTS)),
    "keypoints": Kind(_gliders, _points, tuple(name for name, _ in things.GLIDER_DESIGNS[0].keypoints)),
}


@functools.lru_cache(maxsize=1)
def load(kind: str, seed: int, settings: Settings) -> Dataset:
    """Scenes of one kind over photographs of the source classes, split by split: `Images.labels` are dense labels.

    Scenes of val and test lie over photographs that train has not.
    """
    behind = photographs(settings)
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for place, (split, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng([_SEED, seed, place, list(KINDS).index(kind)])
        described = KINDS[kind].describe(rng, count)
        source, rows = behind.split(split)
        chosen = rows[rng.integers(len(rows), size=count)]
        seen = render(described, SIDE, np.ascontiguousarray(source.pixels[chosen]))
        made[split] = seen.images, KINDS[kind].label(described, seen)
    pixels, labels = (np.concatenate([made["train"][i], made["val"][i]]) for i in (0, 1))
    places = {
        "train": np.arange(SIZES["train"]),
        "val": SIZES["train"] + np.arange(SIZES["val"]),
        "test": np.arange(SIZES["test"]),
    }
    train, test = _images(kind, pixels, labels), _images(kind, *made["test"])
    return dataclasses.replace(unmirrored(behind), train=train, test=test, rows=places)


def _images(kind: str, pixels: np.ndarray, labels: np.ndarray) -> Images:
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return Images(pixels, labels, list(KINDS[kind].classes), digest)
