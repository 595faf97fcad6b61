"""MATLAB annotation files: Stanford Cars (up to version 7.2) and COFW (version 7.3, which is HDF5)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoolib.data.formats import Reading, Row, archives, file
from zoolib.data.formats.cifar import to_png
from zoolib.data.formats.faces import tight_box
from zoolib.spec import ZoolibError, reason

# Stanford Cars --------------------------------------------------------------------------------------------------------


def cars(files: Mapping[str, Path], train: str, test: str, devkit: str, test_annotations: str) -> Reading:
    """cars_train.tgz, cars_test.tgz, the development kit, and the test annotations with labels."""
    kit = file(files, devkit)
    meta = _loadmat(_member(kit, "cars_meta.mat"), f"{kit}: cars_meta.mat")
    names = [str(name) for name in np.atleast_1d(meta.get("class_names", []))]
    if not names:
        raise ZoolibError(f"{kit}: cars_meta.mat has no class_names")
    labels = {
        "train": _labels(_member(kit, "cars_train_annos.mat"), f"{kit}: cars_train_annos.mat"),
        "test": _labels(file(files, test_annotations).read_bytes(), str(file(files, test_annotations))),
    }
    return Reading(_car_rows({"train": file(files, train), "test": file(files, test)}, labels), names)


def _member(path: Path, name: str, limit: int = 1 << 28) -> bytes:
    for member in archives.members(path, lambda found: archives.ends(found, name)):
        return member.read(limit)
    raise ZoolibError(f"{path}: there is no {name} in it; it is not the dataset's archive")


def _loadmat(content: bytes, where: str) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        return dict(loadmat(io.BytesIO(content), squeeze_me=True))
    except Exception as error:  # scipy raises many kinds for damaged files
        raise ZoolibError(f"{where}: not a readable MATLAB file ({reason(error)})") from None


def _labels(content: bytes, where: str) -> dict[str, int]:
    """File name -> 0-based label."""
    table = _loadmat(content, where).get("annotations")
    if table is None or not {"fname", "class"} <= set(getattr(table, "dtype", np.dtype("u1")).names or ()):
        raise ZoolibError(f"{where}: it has no annotations with fname and class")
    entries = np.atleast_1d(table)
    return {str(name): int(label) - 1 for name, label in zip(entries["fname"], entries["class"], strict=True)}


def _car_rows(paths: dict[str, Path], labels: dict[str, dict[str, int]]) -> Iterator[Row]:
    for split, path in paths.items():
        missing = set(labels[split])
        for member in archives.members(path, lambda name: name.lower().endswith((".jpg", ".png"))):
            name = member.name.rsplit("/", 1)[-1]
            if name not in labels[split]:
                raise ZoolibError(f"{path}: {member.name} has no annotation")
            missing.discard(name)
            yield Row(split, member.read(), member.name, labels[split][name])
        if missing:
            raise ZoolibError(f"{path}: {len(missing)} annotated images are not in it, such as {min(missing)}")


# COFW -----------------------------------------------------------------------------------------------------------------


def cofw(
    files: Mapping[str, Path],
    archive: str,
    train: str = "COFW_train_color.mat",
    test: str = "COFW_test_color.mat",
    points: int = 29,
) -> Reading:
    """IsTr/phisTr and IsT/phisT of the colour files: images, then x of all points, y of all, occlusion of all."""
    path = file(files, archive)
    return Reading(_cofw_rows(path, {"train": (train, "Tr"), "test": (test, "T")}, points))


def _cofw_rows(path: Path, parts: dict[str, tuple[str, str]], points: int) -> Iterator[Row]:
    import h5py

    for split, (name, ending) in parts.items():
        where = f"{path}: {name}"
        content = _member(path, name, 1 << 32)
        try:
            source = h5py.File(io.BytesIO(content), "r")
            images, values = source[f"Is{ending}"], np.asarray(source[f"phis{ending}"], np.float64)
        except Exception as error:  # h5py raises many kinds for damaged files
            raise ZoolibError(f"{where}: not a readable MATLAB 7.3 file ({reason(error)})") from None
        references = np.asarray(images).reshape(-1)
        if values.shape != (3 * points, len(references)):
            raise ZoolibError(f"{where}: phis{ending} is {values.shape}, not {(3 * points, len(references))}")
        for row, reference in enumerate(references):
            pixels = np.asarray(source[reference])  # HDF5 holds MATLAB's arrays transposed: (channels,) width, height
            if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
                raise ZoolibError(f"{where}: row {row}: not a readable image")
            landmarks = values[: 2 * points, row].reshape(2, points).T  # (points, 2)
            center, scale = tight_box(landmarks)
            flat = tuple(landmarks.astype(np.float32).reshape(-1).tolist())
            image = to_png(np.ascontiguousarray(pixels.T))
            yield Row(split, image, f"{split}/{row:05d}.png", landmarks=flat, center=center, scale=scale)
        source.close()
