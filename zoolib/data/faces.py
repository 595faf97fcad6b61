"""Faces with landmarks: read, checked, and decoded once to a square around each face. No torch.

Coordinates are continuous: the first pixel of an image covers [0, 1] in x and in y, and its centre is (0.5, 0.5).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from zoolib.data import portraits
from zoolib.data.manifests import file_sha256, find
from zoolib.data.schema import DatasetManifest, Landmarks
from zoolib.files import atomic
from zoolib.paths import build_dir
from zoolib.spec import ZoolibError, reason

#: side of the decoded square over that of the crop: room to turn by 30 degrees a box that is a quarter larger
CONTEXT = 1.75
MARGIN = 1.25  # side of the crop over the longer side of the box, as HRNet's code widens it
UNIT = 200  # pixels in the unit of the column scale


@dataclass(frozen=True)
class Faces:
    """The faces of one split. A point p of an image has crop coordinates (p - centre) / side + 1/2."""

    pixels: np.ndarray  # (N, D, D, 3) uint8, possibly memory-mapped; the square of side CONTEXT * side around centre
    points: np.ndarray  # (N, K, 2) float32, x and y in crop coordinates; NaN where a point is not annotated
    centre: np.ndarray  # (N, 2) float64, of the crop, in pixels of the image
    side: np.ndarray  # (N,) float64, of the crop, in pixels of the image
    groups: np.ndarray | None  # (N,) int64; faces of one person share a number; None where people are not known
    subsets: dict[str, np.ndarray]  # name -> (N,) bool
    sha256: str  # of the file they came from; of pixels and points for embedded data

    def __len__(self) -> int:
        return len(self.points)

    def to_image(self, points: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Crop coordinates (n, K, 2) of those rows -> pixels of their images, without rounding."""
        moved: np.ndarray = self.centre[rows, None] + self.side[rows, None, None] * (points - 0.5)
        return moved

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """The crops themselves, neither turned nor scaled, (n, c, c, 3) uint8 at the decoded resolution."""
        full = self.pixels.shape[1]
        edge = round(full * (1 - 1 / CONTEXT) / 2)
        return np.asarray(self.pixels[rows, edge : full - edge, edge : full - edge])


# Annotations ----------------------------------------------------------------------------------------------------------


def missing_to_nan(points: np.ndarray) -> np.ndarray:
    """Points (..., 2) with NaN for what is not annotated: NaN in either coordinate, or both of them -1."""
    absent = np.isnan(points).any(-1) | (points == -1).all(-1)
    return np.where(absent[..., None], np.nan, points)


def boxes_around(points: np.ndarray, where: str) -> np.ndarray:
    """Boxes (N, 4), left, top, right, bottom, tight around points (N, K, 2). Raises ZoolibError where none is known."""
    known = np.isfinite(points).all(-1)
    if not known.any(1).all():
        raise ZoolibError(f"{where}: row {int(np.argmin(known.any(1)))}: every point is missing; drop that row")
    low = np.where(known[..., None], points, np.inf).min(1)
    high = np.where(known[..., None], points, -np.inf).max(1)
    return np.concatenate([low, high], 1)


def squares(centre: np.ndarray, longer: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre (N, 2) and side (N,) of the square crops: MARGIN times the longer side of the boxes (N,).

    Raises ZoolibError naming the row for a box that is not finite or has no size.
    """
    wrong = ~(np.isfinite(centre).all(1) & np.isfinite(longer) & (longer > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        box = f"a box around {centre[row].tolist()} of {longer[row]:g} pixels"
        raise ZoolibError(f"{where}: row {row}: {box} has no size; correct or drop that row")
    return centre, MARGIN * longer


def _points_of(column: pa.ChunkedArray, count: int, where: str) -> np.ndarray:
    """The landmarks column as (N, count, 2) float64. Raises ZoolibError for a row with another number of values."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    wrong = np.flatnonzero(lengths != 2 * count)
    if len(wrong):
        has = int(lengths[wrong[0]])
        raise ZoolibError(f"{where}: row {wrong[0]}: {has} values are not {count} points (x, y); correct that row")
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    return missing_to_nan(np.asarray(flat, np.float64).reshape(-1, count, 2))


def _boxes_of(table: pa.Table, points: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre and longer side of each box: from the columns center and scale, else tight around the points."""
    if not {"center", "scale"} <= set(table.column_names):
        boxes = boxes_around(points, where)
        return (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1)
    lengths = pc.fill_null(pc.list_value_length(table["center"]), 0).to_numpy()
    if (lengths != 2).any():
        raise ZoolibError(f"{where}: row {int(np.argmax(lengths != 2))}: a center is x, y; correct or drop that row")
    centre = pc.list_flatten(table["center"]).to_numpy(zero_copy_only=False)
    scale = table["scale"].to_numpy(zero_copy_only=False)
    return np.asarray(centre, np.float64).reshape(-1, 2), UNIT * np.asarray(scale, np.float64)


# Reading --------------------------------------------------------------------------------------------------------------


def load(manifest: DatasetManifest, split: str, size: int) -> Faces:
    """One split ("train" or "test") of a landmark dataset, its squares decoded at `size` pixels.

    Raises ZoolibError for absent or damaged files.
    """
    assert manifest.landmarks is not None  # the manifest has checked it
    if manifest.source == "embedded":
        images, points = portraits.load(manifest.name, split, manifest.sizes.model_dump()[split])
        return from_arrays(images, points, size)
    return read(find(manifest) / f"{split}.parquet", manifest.landmarks, size)


def at_hand(manifest: DatasetManifest, split: str, size: int) -> Faces | None:
    """The same, or None where the dataset is not on this machine."""
    try:
        return load(manifest, split, size)
    except ZoolibError:
        return None


def read(path: Path, spec: Landmarks, size: int) -> Faces:
    """The faces of a canonical Parquet file, their squares decoded once at `size` pixels and kept under build/cache.

    Columns: image, landmarks (list of 2K floats, x0, y0, x1, ...); where there are any, center (x, y) and scale (longer
    side of the box over 200 pixels), person, and subset (names, separated by spaces). Raises ZoolibError naming file
    and row for an image that cannot be read, a wrong number of points, a box without size, a face outside its image.
    """
    try:
        table = pq.read_table(path)
        column = table["landmarks"]
        images = table["image"]
    except Exception as error:  # pyarrow raises many kinds; each means that this file is not what it should be
        raise ZoolibError(f"{path}: not a readable canonical Parquet file ({reason(error)})") from None
    points = _points_of(column, spec.points, str(path))
    centre, side = squares(*_boxes_of(table, points, str(path)), str(path))
    digest = file_sha256(path)
    shape = hashlib.sha256(f"{MARGIN}|{CONTEXT}".encode()).hexdigest()[:8]
    cached = build_dir() / "cache" / "decoded" / f"{path.parent.name}-{path.stem}-{digest[:16]}-{shape}-{size}.npy"
    if not cached.is_file():
        _decode_into(cached, path, images, centre, side, size)
    people = table["person"].to_pylist() if "person" in table.column_names else None
    groups = None if people is None else np.unique([str(name) for name in people], return_inverse=True)[1]
    named = table["subset"].to_pylist() if "subset" in table.column_names else [""] * len(points)
    subsets = {name: np.array([name in (row or "").split() for row in named]) for name in spec.subsets}
    pixels = np.load(cached, mmap_mode="r")
    return Faces(pixels, _relative(points, centre, side), centre, side, groups, subsets, digest)


def from_arrays(images: np.ndarray, points: np.ndarray, size: int) -> Faces:
    """The faces of images (N, S, S, 3) uint8 with points (N, K, 2) in their pixels, boxes tight around them."""
    boxes = boxes_around(points, "embedded faces")
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    centre, side = squares((boxes[:, :2] + boxes[:, 2:]) / 2, longer, "embedded faces")
    pixels = np.stack(
        [_square(Image.fromarray(i), c, float(s), size) for i, c, s in zip(images, centre, side, strict=True)]
    )
    digest = hashlib.sha256(images.tobytes() + points.tobytes()).hexdigest()
    return Faces(pixels, _relative(points, centre, side), centre, side, None, {}, digest)


def _relative(points: np.ndarray, centre: np.ndarray, side: np.ndarray) -> np.ndarray:
    return ((points - centre[:, None]) / side[:, None, None] + 0.5).astype(np.float32)


def _square(image: Image.Image, centre: np.ndarray, side: float, size: int) -> np.ndarray:
    """The square of side CONTEXT * side around centre, (size, size, 3) uint8; black where the image ends."""
    low, high = centre - CONTEXT * side / 2, centre + CONTEXT * side / 2
    left, top = (int(v) for v in np.floor(low))
    right, bottom = (int(v) for v in np.ceil(high))
    window = image.convert("RGB").crop((left, top, right, bottom))
    box = (float(low[0]) - left, float(low[1]) - top, float(high[0]) - left, float(high[1]) - top)
    return np.asarray(window.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _decode_into(
    cached: Path, path: Path, column: pa.ChunkedArray, centre: np.ndarray, side: np.ndarray, size: int
) -> None:
    pixels = np.empty((len(centre), size, size, 3), np.uint8)
    for row, entry in enumerate(column.to_pylist()):
        reach = side[row] / MARGIN / 2
        try:
            with Image.open(io.BytesIO(entry["bytes"])) as image:
                width, height = image.size
                outside = (centre[row] - reach >= (width, height)).any() or (centre[row] + reach <= 0).any()
                if not outside:
                    pixels[row] = _square(image, centre[row], float(side[row]), size)
        except (UnidentifiedImageError, OSError, TypeError, ValueError, SyntaxError):
            raise ZoolibError(f"{path}: row {row}: not a readable image; replace or drop that row") from None
        if outside:
            where = f"a box around {np.round(centre[row], 1).tolist()}, an image of {width} x {height} pixels"
            raise ZoolibError(f"{path}: row {row}: the face is outside the image ({where}); correct or drop that row")
    with atomic(cached) as file:
        np.save(file, pixels)
