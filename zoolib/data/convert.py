"""From a reader's rows to canonical Parquet files; what a manifest promises is checked on the way."""

from __future__ import annotations

import errno
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from zoolib.data.formats import SPLITS, Reading, Row
from zoolib.data.schema import DatasetManifest
from zoolib.spec import ZoolibError, reason

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_BATCH = 64 << 20  # bytes of images that are held before they are written
_ROWS = 512


def schema(manifest: DatasetManifest, classes: list[str], grouped: bool = False, validated: bool = False) -> pa.Schema:
    """The columns of a canonical file and its metadata."""
    if manifest.landmarks is None:
        fields = [("image", _IMAGE), ("label", pa.int64())]
        fields += [("group", pa.string())] if grouped else []
        fields += [("validation", pa.bool_())] if validated else []
        return pa.schema(fields, metadata={"classes": json.dumps(classes, ensure_ascii=False)})
    points = manifest.landmarks.points
    fields = [
        ("image", _IMAGE),
        ("landmarks", pa.list_(pa.float32(), 2 * points)),
        ("center", pa.list_(pa.float32(), 2)),
        ("scale", pa.float32()),
        ("subset", pa.string()),
    ]
    return pa.schema(fields, metadata={"points": str(points)})


class _Writer:
    """One split's file, written as the rows come."""

    def __init__(self, path: Path, columns: pa.Schema) -> None:
        self.file = pq.ParquetWriter(path, columns, compression="none")
        self.columns, self.rows, self.held, self.count = columns, list[dict[str, Any]](), 0, 0

    def add(self, row: Row) -> None:
        entry: dict[str, Any] = {"image": {"bytes": row.image, "path": row.path}}
        if "label" in self.columns.names:
            entry |= {"label": row.label, "group": row.group, "validation": row.validation}
        else:
            entry |= {"landmarks": row.landmarks, "center": row.center, "scale": row.scale, "subset": row.subset}
        self.rows.append(entry)
        self.held, self.count = self.held + len(row.image), self.count + 1
        if self.held > _BATCH or len(self.rows) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, self.columns))
        self.rows, self.held = [], 0

    def close(self) -> None:
        self.flush()
        self.file.close()


def check(row: Row, manifest: DatasetManifest, where: str) -> None:
    """Raises ZoolibError, naming the row, for an image that is none or annotations that do not fit the manifest."""
    try:
        with Image.open(io.BytesIO(row.image)) as image:
            image.size  # noqa: B018  the header has been read; pixels are decoded by the loader
    except Exception as error:  # Pillow raises many kinds for damaged images
        raise ZoolibError(f"{where}: {row.path}: not a readable image ({reason(error)[:60]})") from None
    if manifest.landmarks is None:
        if not 0 <= row.label < manifest.num_classes:
            raise ZoolibError(f"{where}: {row.path}: label {row.label} is outside 0..{manifest.num_classes - 1}")
    elif len(row.landmarks) != 2 * manifest.landmarks.points:
        raise ZoolibError(
            f"{where}: {row.path}: {len(row.landmarks) // 2} points where the manifest says {manifest.landmarks.points}"
        )
    elif not all(map(math.isfinite, (*row.landmarks, *row.center, row.scale))):
        raise ZoolibError(f"{where}: {row.path}: a point or box that is not finite")


def write(manifest: DatasetManifest, reading: Reading, folder: Path, exact: bool = True) -> dict[str, int]:
    """Write train.parquet, test.parquet and, where the source has one, val.parquet; the number of rows of each.

    Raises ZoolibError for a row that does not fit, a split that is absent or, when `exact`, of another size than the
    manifest's, and a full disk. The caller throws the folder away then.
    """
    classes = reading.classes or [str(index) for index in range(manifest.num_classes)]
    if manifest.landmarks is None and len(classes) != manifest.num_classes:
        raise ZoolibError(f"{manifest.name}: the source names {len(classes)} classes, not {manifest.num_classes}")
    columns, writers = schema(manifest, classes, reading.grouped, reading.validated), dict[str, _Writer]()
    try:
        for row in reading.rows:
            if row.split not in SPLITS:
                raise ZoolibError(f"{manifest.name}: {row.path}: unknown split {row.split!r}")
            if row.split not in writers:
                writers[row.split] = _Writer(folder / f"{row.split}.parquet", columns)
            check(row, manifest, f"{manifest.name}: {row.split} row {writers[row.split].count}")
            writers[row.split].add(row)
        for writer in writers.values():
            writer.close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ZoolibError(f"disk full: no space left in {folder.parent} for {manifest.name}") from None
        raise ZoolibError(f"{manifest.name}: {reason(error)}") from None
    counts = {split: writer.count for split, writer in writers.items()}
    _compare(manifest, counts, exact)
    return counts


def _compare(manifest: DatasetManifest, counts: dict[str, int], exact: bool) -> None:
    for split in ("train", "test"):
        if not counts.get(split):
            raise ZoolibError(f"{manifest.name}: the source has no {split} images")
    for split, expected in manifest.sizes.model_dump().items():
        if exact and expected is not None and counts.get(split, 0) != expected:
            found = f"{counts.get(split, 0):,}"
            raise ZoolibError(f"{manifest.name}: the source has {found} {split} images, the manifest says {expected:,}")
