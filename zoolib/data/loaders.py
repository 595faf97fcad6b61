"""From a manifest to batches: decode every image once to uint8, split, and serve by iteration number."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoolib.data import augment, embedded
from zoolib.data import landmarks as faces
from zoolib.data.manifests import combined_sha256, data_sha256, dataset, fetched_from, file_sha256, find
from zoolib.data.schema import DatasetManifest, Variant
from zoolib.files import atomic
from zoolib.paths import build_dir, data_roots
from zoolib.spec import Settings, ZoolibError, reason


@dataclass(frozen=True)
class Images:
    """Decoded images of one split and their labels."""

    pixels: np.ndarray  # (N, S, S, 3) uint8, possibly memory-mapped
    labels: np.ndarray  # (N,) int64
    classes: list[str]
    sha256: str  # of the file they came from; of the pixels for embedded data
    groups: np.ndarray | None = None  # (N,) int64, alike for copies of one image; None where nothing is known of them
    validation: np.ndarray | None = None  # (N,) bool, held out by the data themselves; None where they leave that to us

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, S, S, 3) uint8 and labels (B,) of those rows."""
        return torch.from_numpy(np.ascontiguousarray(self.pixels[rows])), torch.from_numpy(self.labels[rows])

    def training(
        self, rows: np.ndarray, settings: Settings, flip: bool, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, S, S) in [0, 1] and labels (B,)."""
        images, labels = self.take(rows)
        return augment.train_batch(images, settings, flip, generator), labels

    def views(self, rows: np.ndarray, settings: Settings, flip: bool) -> tuple[list[Tensor], Tensor]:
        """The test views of those rows, each (B, 3, S, S), and labels (B,)."""
        images, labels = self.take(rows)
        return augment.test_crops(images, settings, flip), labels


Source = Any  # what a split is read from: Images, or FaceImages of a landmark dataset


@dataclass(frozen=True)
class Dataset:
    """A dataset at hand: decoded splits and the rows that train, choose (val) and score (test)."""

    manifest: DatasetManifest
    train: Source
    test: Source
    rows: dict[str, np.ndarray]
    variant: str

    def split(self, name: str) -> tuple[Source, np.ndarray]:
        """The images behind "train", "val" or "test", and the rows of them that the split takes."""
        return (self.test if name == "test" else self.train), self.rows[name]

    def subsets(self, name: str) -> dict[str, np.ndarray]:
        """Named parts of the test split, (n,) bool over its rows; none of other splits and of labelled images."""
        if name != "test" or isinstance(self.test, Images):
            return {}
        return {subset: members[self.rows["test"]] for subset, members in self.test.faces.subsets.items()}

    @property
    def brings_validation(self) -> bool:
        """Whether the data themselves say which images are the val rows."""
        marked = getattr(self.train, "validation", None)
        return marked is not None and bool(marked.any())

    @property
    def sha256(self) -> str:
        """One checksum over both files and over what the manifest takes of them."""
        return combined_sha256(self.manifest, self.train.sha256, self.test.sha256)


def _square(image: Image.Image, side: int) -> np.ndarray:
    """RGB, resized to a square (bilinear, antialiased when it shrinks), (side, side, 3) uint8."""
    rgb = image.convert("RGB")
    if rgb.size != (side, side):
        rgb = rgb.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def decode(path: Path, side: int, num_classes: int, taken: Sequence[str] = ()) -> Images:
    """The images of a canonical Parquet file as (N, side, side, 3) uint8, decoded once and kept under build/cache.

    The file has `num_classes` classes. Only the images of the classes `taken` stay, and their labels count in that
    order; nothing taken means everything. Raises ZoolibError naming file and row for an image that cannot be read or
    a label out of range, and for a class that the file lacks.
    """
    digest = file_sha256(path)
    try:
        columns = pq.read_schema(path)
        optional = {"group", "validation"} & set(columns.names)
        table = pq.read_table(path, columns=["image", "label", *optional])
    except Exception as error:  # pyarrow raises many kinds; each means that this file is not what it should be
        raise ZoolibError(f"{path}: not a readable canonical Parquet file ({reason(error)})") from None
    _check_types(path, columns)
    labels = table["label"].to_numpy().astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ZoolibError(f"{path}: row {wrong[0]}: label {labels[wrong[0]]} is outside 0..{num_classes - 1}")
    names = (table.schema.metadata or {}).get(b"classes")
    classes = json.loads(names) if names else [str(index) for index in range(num_classes)]
    rows, part = np.arange(len(labels)), ""
    groups = _numbered(table["group"].to_pylist()) if "group" in optional else None
    validation = np.array([bool(v) for v in table["validation"].to_pylist()]) if "validation" in optional else None
    if taken:
        rows, labels, classes = _taken(path, labels, classes, taken)
        part = "-" + hashlib.sha256("\n".join(classes).encode()).hexdigest()[:8]
    cached = build_dir() / "cache" / "decoded" / f"{path.parent.name}-{path.stem}-{digest[:16]}{part}-{side}.npy"
    if not cached.is_file():
        if file_sha256(path) != digest:  # or its pixels would lie in the cache under another file's checksum
            raise ZoolibError(f"{path}: it changed while it was read; start again")
        _decode_into(cached, path, table["image"], rows, side)
    told = (of_file if of_file is None else of_file[rows] for of_file in (groups, validation))
    return Images(np.load(cached, mmap_mode="r"), labels, classes, digest, *told)


def _check_types(path: Path, columns: pa.Schema) -> None:
    """Raises ZoolibError for labels that are no whole numbers, and a validation column that is not true or false."""
    label = columns.field("label").type
    if not pa.types.is_integer(label):
        raise ZoolibError(f"{path}: labels are of type {label}; write them as int64, 0 to num_classes - 1")
    if "validation" in columns.names and not pa.types.is_boolean(given := columns.field("validation").type):
        raise ZoolibError(f"{path}: the column validation is of type {given}; write it as bool")


def _numbered(names: Sequence[str | None]) -> np.ndarray:
    """A number for each name, (N,) int64; a row without one is a group of its own."""
    known = [f"row {row}" if name is None else f"group {name}" for row, name in enumerate(names)]
    return np.unique(known, return_inverse=True)[1]


def _taken(
    path: Path, labels: np.ndarray, classes: list[str], taken: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The rows of the taken classes, their labels in the order of `taken`, and `taken`."""
    if missing := [name for name in taken if name not in classes]:
        raise ZoolibError(f"{path}: its metadata name no class {missing[0]!r}; use the dataset's canonical file")
    new = np.full(len(classes), -1)
    new[[classes.index(name) for name in taken]] = np.arange(len(taken))
    rows = np.flatnonzero(new[labels] >= 0)
    return rows, new[labels[rows]], list(taken)


def _decode_into(cached: Path, path: Path, column: pa.ChunkedArray, numbers: np.ndarray, side: int) -> None:
    """Decode the images of those rows of a column.

    One by one, because Arrow can put no more than 2 GiB of them into one piece.
    """
    pixels = np.empty((len(numbers), side, side, 3), np.uint8)
    for row, number in enumerate(numbers.tolist()):
        try:
            with Image.open(io.BytesIO(column[number].as_py()["bytes"])) as image:
                pixels[row] = _square(image, side)
        except (UnidentifiedImageError, OSError, TypeError, ValueError, SyntaxError):
            fix = "not a readable image; replace or drop that row"
            raise ZoolibError(f"{path}: row {number}: {fix}") from None
    with atomic(cached) as file:
        np.save(file, pixels)


def balanced(labels: np.ndarray, rows: np.ndarray, per_class: int) -> np.ndarray:
    """The first `per_class` of `rows` of each class, in ascending order; all of them for 0."""
    if per_class <= 0:
        return rows
    chosen = [rows[labels[rows] == value][:per_class] for value in np.unique(labels[rows])]
    return np.sort(np.concatenate(chosen))


def split_rows(
    labels: np.ndarray, settings: Settings, groups: np.ndarray | None = None, validation: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Stratified train and val rows of the training file; the seed is fixed, as the split is no part of the run.

    Rows of one group (N,), the copies of an image, are on one side, and every class keeps an image to train on. Where
    the data mark their own `validation` images (N,), these are the val rows, and all others are there to train on.
    Raises ZoolibError where no class has an image to spare for val.
    """
    shuffled = np.random.default_rng(0).permutation(len(labels))
    groups = np.arange(len(labels)) if groups is None else groups
    pairs = np.unique(np.stack([groups, labels]), axis=1)[0]  # each group once for every label that it has
    both = np.isin(groups, pairs[1:][pairs[1:] == pairs[:-1]])  # copies under two labels
    val, train = [], []
    for value in np.unique(labels):
        of_class = shuffled[labels[shuffled] == value]
        if validation is not None and validation.any():
            of_class, held = of_class[np.argsort(~validation[of_class], kind="stable")], int(validation[of_class].sum())
        else:
            wanted = max(1, round(settings.val_fraction * len(of_class)))
            of_class, held = _hold_out(of_class, groups, both[of_class], wanted)
        val.append(of_class[:held])
        kept = min(len(of_class) - held, settings.train_per_class or len(of_class))
        share = max(1, round(settings.train_fraction * kept))
        train.append(of_class[held:][:share])  # a share holds every smaller one
    rows = {"train": np.sort(np.concatenate(train)), "val": np.sort(np.concatenate(val))}
    if len(rows["train"]) == 0:
        raise ZoolibError("every training image is one of the data's validation images; leave some to train on")
    if len(rows["val"]) == 0:
        raise ZoolibError("no class has two different training images, one of them to validate on; add images")
    return rows


def _hold_out(rows: np.ndarray, groups: np.ndarray, never: np.ndarray, wanted: int) -> tuple[np.ndarray, int]:
    """The rows of a class with those to hold out first, and how many these are.

    They are as many whole groups as give `wanted` rows, without those of `never` (N,) bool, and never all.
    """
    free = rows[~never]
    _, first, group = np.unique(groups[free], return_index=True, return_inverse=True)
    free = free[np.argsort(first[group], kind="stable")]  # groups in the order of their first rows
    sizes = np.bincount(group, minlength=len(first))[np.argsort(first)]
    count = min(int(np.searchsorted(sizes.cumsum(), wanted)) + 1, len(sizes) - (not never.any()))
    return np.concatenate([free, rows[never]]), int(sizes[:count].sum())


def variant_of(manifest: DatasetManifest, train: Source, test: Source) -> str:
    """Which known set of files this is, recognised by checksum, or the source that they were fetched from.

    "unknown files" with the first digits of their checksums otherwise.
    """
    if manifest.source == "embedded":
        same = manifest.sha256 in ({}, {"train": train.sha256, "test": test.sha256})
        return "embedded" if same else f"embedded, other pixels {train.sha256[:8]}/{test.sha256[:8]}"
    known: list[Variant] = manifest.variants
    for variant in known:
        if variant.sha256 == {"train": train.sha256, "test": test.sha256}:
            return variant.name
    with contextlib.suppress(ZoolibError):
        if source := fetched_from(find(manifest), {"train": train.sha256, "test": test.sha256}):
            return source
    return f"unknown files {train.sha256[:8]}/{test.sha256[:8]}"


def load(manifest: DatasetManifest, settings: Settings) -> Dataset:
    """Find, check, decode and split a dataset; the last two are remembered.

    Raises ZoolibError for absent or damaged files, and where no image is left to train on.
    """
    return _load(manifest.model_dump_json(), settings, tuple(data_roots()), data_sha256(manifest))


@functools.lru_cache(maxsize=2)
def _load(manifest_json: str, settings: Settings, roots: tuple[Path, ...], files: str | None) -> Dataset:
    """`files` is the checksum of the files as they are now: images that change are read again."""
    manifest = DatasetManifest.model_validate_json(manifest_json)
    if manifest.task == "landmarks":
        return _load_faces(manifest, settings)
    if manifest.source == "embedded":
        train, test = (_embedded(manifest.name, split, settings.decode_size) for split in ("train", "test"))
    else:
        folder = find(manifest)
        classes = dataset(manifest.of).num_classes if manifest.of else manifest.num_classes
        train, test = (
            decode(folder / f"{split}.parquet", settings.decode_size, classes, manifest.classes)
            for split in ("train", "test")
        )
    if manifest.apart_from:
        train, test = _apart((train, test), load(dataset(manifest.apart_from), settings))
    rows = split_rows(train.labels, settings, train.groups, train.validation)
    every = np.random.default_rng(1).permutation(len(test.labels))
    per_class = settings.test_limit and max(1, settings.test_limit // manifest.num_classes)
    rows["test"] = np.sort(balanced(test.labels, every, per_class))
    return Dataset(manifest, train, test, rows, variant_of(manifest, train, test))


def content_hashes(images: Images) -> list[bytes]:
    """A hash of each image's pixels, by which the same image is found again under another label."""
    return [hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest() for image in images.pixels]


def _apart(parts: Sequence[Images], other: Dataset) -> list[Images]:
    """The images (in memory) that the other dataset has in neither split."""
    hidden = {*content_hashes(other.train), *content_hashes(other.test)}
    out = []
    for part in parts:
        keep = np.array([row for row, content in enumerate(content_hashes(part)) if content not in hidden], np.int64)
        if not len(keep):
            raise ZoolibError(f"{other.manifest.name} has every image of this dataset, which is to be apart from it")
        told = {
            name: of_part[keep] for name in ("groups", "validation") if (of_part := getattr(part, name)) is not None
        }
        out.append(dataclasses.replace(part, pixels=part.pixels[keep], labels=part.labels[keep], **told))
    return out


def _load_faces(manifest: DatasetManifest, settings: Settings) -> Dataset:
    train, test = (faces.load_split(manifest, split, settings.decode_size) for split in ("train", "test"))
    shuffled = np.random.default_rng(1).permutation(len(test.faces))
    rows = train.split_rows(settings) | {"test": np.sort(shuffled[: settings.test_limit or None])}
    return Dataset(manifest, train, test, rows, variant_of(manifest, train, test))


def _embedded(name: str, split: str, side: int) -> Images:
    pixels, labels, classes = embedded.load(name, split)
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    resized = np.stack([_square(Image.fromarray(image), side) for image in pixels])
    return Images(resized, labels, classes, digest)


def batch_rows(rows: np.ndarray, batch_size: int, seed: int, iteration: int) -> np.ndarray:
    """The rows of training batch `iteration` (0-based): epochs of shuffled rows laid end to end.

    A pure function of its arguments, so that a resumed run continues with the very batch it would have had.
    """
    start, chosen = iteration * batch_size, np.empty(0, np.int64)
    while len(chosen) < batch_size:
        epoch, offset = divmod(start + len(chosen), len(rows))
        order = _epoch(len(rows), seed, epoch)
        chosen = np.concatenate([chosen, rows[order[offset : offset + batch_size - len(chosen)]]])
    return chosen


@functools.lru_cache(maxsize=4)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def train_batch(data: Dataset, settings: Settings, seed: int, iteration: int) -> tuple[Tensor, Tensor]:
    """Augmented images (B, 3, S, S) in [0, 1] and labels (B,), or points (B, K, 2), of one training iteration."""
    rows = batch_rows(data.rows["train"], settings.batch_size, seed, iteration)
    # Torch's generator on the CPU looks at 32 bits of its seed; 2^32 over the golden ratio keeps seeds apart.
    generator = torch.Generator().manual_seed((seed * 2654435769 + iteration) % 2**32)
    return data.train.training(rows, settings, data.manifest.flip, generator)


def eval_batches(
    data: Dataset, split: str, settings: Settings, batch_size: int = 128
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Batches of a split in order: the test views, each (B, 3, S, S), and labels (B,) or points (B, K, 2)."""
    source, rows = data.split(split)
    for start in range(0, len(rows), batch_size):
        yield source.views(rows[start : start + batch_size], settings, data.manifest.flip)
