"""Facial landmarks: WFLW's lines of text, 300W's .pts files, and annotations in COCO's keypoint format."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoolib.data.formats import Reading, Row, archives, file
from zoolib.data.formats.folders import is_image
from zoolib.spec import ZoolibError

Annotation = tuple[str, np.ndarray, str]  # split, points (K, 2), subsets
WFLW_SUBSETS = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")


def tight_box(points: np.ndarray) -> tuple[tuple[float, float], float]:
    """Centre and scale of the whole-pixel box around points (K, 2); scale is its longer side in units of 200 px.

    As the public landmark protocol of HRNet derives them where a set names no box.
    """
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    middle = (low + high) / 2
    return (float(middle[0]), float(middle[1])), float((high - low).max() / 200)


def _row(annotation: Annotation, content: bytes, name: str) -> Row:
    split, points, subset = annotation
    center, scale = tight_box(points)
    flat = tuple(points.astype(np.float32).reshape(-1).tolist())
    return Row(split, content, name, landmarks=flat, center=center, scale=scale, subset=subset)


def _points(values: Sequence[str], count: int, where: str) -> np.ndarray:
    try:
        points = np.array([float(value) for value in values], np.float64).reshape(count, 2)
    except ValueError:
        raise ZoolibError(f"{where}: not {count} points") from None
    if not np.isfinite(points).all():
        raise ZoolibError(f"{where}: a point that is not finite")
    return points


# WFLW -----------------------------------------------------------------------------------------------------------------


def wflw(
    files: Mapping[str, Path],
    images: str,
    annotations: str,
    train: str = "list_98pt_rect_attr_train.txt",
    test: str = "list_98pt_rect_attr_test.txt",
    points: int = 98,
) -> Reading:
    """One face a line: 98 points, four numbers of a detected box, six attributes, the image's name.

    An image with several faces becomes several rows.
    """
    path = file(files, annotations)
    texts = archives.texts(path, {"train": train, "test": test})
    by_image: dict[str, list[Annotation]] = {}
    for split, content in texts.items():
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                where = f"{path}: {split}: line {number}"
                parts = line.split()
                if len(parts) != 2 * points + 11:
                    raise ZoolibError(f"{where}: {len(parts)} columns where {2 * points + 11} are needed")
                flags = [name for name, flag in zip(WFLW_SUBSETS, parts[-7:-1], strict=True) if flag == "1"]
                entry = (split, _points(parts[: 2 * points], points, where), " ".join(flags))
                by_image.setdefault(parts[-1], []).append(entry)
    return Reading(_by_name(file(files, images), by_image))


def _by_name(path: Path, by_image: dict[str, list[Annotation]]) -> Iterator[Row]:
    """Rows of the members whose names end with an annotated image's name."""
    missing = set(by_image)
    for member in archives.members(path, is_image):
        parts = member.name.split("/")
        key = next((k for k in ("/".join(parts[i:]) for i in range(len(parts))) if k in by_image), None)
        if key is not None:
            missing.discard(key)
            content = member.read()
            for annotation in by_image[key]:
                yield _row(annotation, content, member.name)
    if missing:
        raise ZoolibError(f"{path}: {len(missing)} annotated images are not in it, such as {min(missing)}")


# 300W -----------------------------------------------------------------------------------------------------------------


def pts(files: Mapping[str, Path], parts: dict[str, dict[str, str]], points: int = 68) -> Reading:
    """Archives with one .pts file beside each image.

    `parts` maps an archive to {folder in it: "split" or "split subset"}; the folder "" takes every other member.
    """
    return Reading(row for name, folders in parts.items() for row in _pts_rows(file(files, name), folders, points))


def _part(name: str, folders: dict[str, str]) -> tuple[str, str]:
    inside = (use for folder, use in folders.items() if folder and f"/{folder}/" in f"/{name}")
    use = next(inside, folders.get("", ""))
    split, _, subset = use.partition(" ")
    return split, subset


def _pts_rows(path: Path, folders: dict[str, str], points: int) -> Iterator[Row]:
    annotated: dict[str, np.ndarray] = {}
    for member in archives.members(path, lambda name: name.endswith(".pts")):
        where = f"{path}: {member.name}"
        annotated[member.name.removesuffix(".pts")] = read_pts(
            archives.text(member.read(1 << 20), where), points, where
        )
    missing = {name for name in annotated if _part(name, folders)[0]}
    for member in archives.members(path, is_image):
        stem = member.name.rsplit(".", 1)[0]
        split, subset = _part(member.name, folders)
        if not split:
            continue
        if stem not in annotated:
            raise ZoolibError(f"{path}: {member.name} has no .pts file beside it")
        missing.discard(stem)
        yield _row((split, annotated[stem], subset), member.read(), f"{path.name.split('.')[0]}/{member.name}")
    if missing:
        raise ZoolibError(f"{path}: {len(missing)} annotated images are not in it, such as {min(missing)}")


def read_pts(text: str, points: int, where: str) -> np.ndarray:
    """The (K, 2) coordinates of a .pts file, as it writes them. Raises ZoolibError for another number of points."""
    match = re.search(r"n_points:\s*(\d+)\s*\{([^}]*)\}", text)
    if not match or int(match[1]) != points:
        raise ZoolibError(f"{where}: not a .pts file of {points} points")
    return _points(match[2].split(), points, where)


# COCO's keypoint format -----------------------------------------------------------------------------------------------


def coco_keypoints(
    files: Mapping[str, Path],
    annotations: str,
    images: list[str],
    lists: dict[str, str],
    points: int,
) -> Reading:
    """JSON files of images and keypoints inside an archive, images in others.

    `lists` maps a split, or "split subset", to the JSON's name. An image archive's own name without its ending counts
    as a folder, so that `afw/1.jpg` is found as `1.jpg` in afw.zip.
    """
    path = file(files, annotations)
    texts = archives.texts(path, lists)
    by_image: dict[str, list[Row]] = {}
    for use, content in texts.items():
        split, _, subset = use.partition(" ")
        for name, row in _keypoints(content, f"{path}: {lists[use]}", points, split, subset):
            by_image.setdefault(name, []).append(row)
    return Reading(_coco_rows([file(files, name) for name in images], by_image))


def _keypoints(text: str, where: str, points: int, split: str, subset: str) -> Iterator[tuple[str, Row]]:
    try:
        content = json.loads(text)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        entries: list[dict[str, Any]] = list(content["annotations"])
    except (ValueError, KeyError, TypeError):
        raise ZoolibError(f"{where}: not annotations in COCO's format") from None
    for number, entry in enumerate(entries):
        try:
            coordinates = np.asarray(entry["keypoints"], np.float64).reshape(points, 3)[:, :2]
            box = tight_box(coordinates)
            center, scale = entry.get("center", box[0]), float(np.max(entry.get("scale", box[1])))
            name = str(names[entry["image_id"]])
            middle = (float(center[0]), float(center[1]))
        except (ValueError, KeyError, TypeError, IndexError):
            raise ZoolibError(f"{where}: row {number}: not {points} keypoints of a listed image") from None
        if not (np.isfinite(coordinates).all() and math.isfinite(scale) and all(map(math.isfinite, middle))):
            raise ZoolibError(f"{where}: row {number}: a point or box that is not finite")
        flat = tuple(coordinates.astype(np.float32).reshape(-1).tolist())
        yield name, Row(split, b"", name, landmarks=flat, center=middle, scale=scale, subset=subset)


def _coco_rows(paths: list[Path], by_image: dict[str, list[Row]]) -> Iterator[Row]:
    missing = set(by_image)
    for path in paths:
        for member in archives.members(path, is_image):
            full = [path.name.split(".")[0], *member.name.split("/")]
            key = next((k for k in ("/".join(full[i:]) for i in range(len(full))) if k in missing), None)
            if key is not None:
                missing.discard(key)
                content = member.read()
                for row in by_image[key]:
                    yield Row(row.split, content, row.path, -1, row.landmarks, row.center, row.scale, row.subset)
    if missing:
        where = " and ".join(path.name for path in paths)
        raise ZoolibError(f"{where}: {len(missing)} annotated images are not there, such as {min(missing)}")
