"""Parquet mirrors: files with a column of encoded images and a column of labels, in shards named by split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoolib.data.formats import SPLIT_NAMES, Reading, Row
from zoolib.spec import ZoolibError, reason, unknown


def parquet(
    files: Mapping[str, Path],
    image: str = "image",
    label: str = "label",
    splits: dict[str, str] | None = None,
    classes: list[str] | None = None,
) -> Reading:
    """Shards named `SPLIT.parquet` or `SPLIT-anything.parquet`, in the order of their names.

    `splits` renames the mirror's splits ({"validation": "val"}); class names come from the columns' metadata where the
    shards carry them.
    """
    renamed = {**SPLIT_NAMES, **(splits or {})}
    shards: list[tuple[str, Path]] = []
    for name in sorted(files):
        split = name.removesuffix(".parquet").split("-")[0]
        if split not in renamed:
            raise unknown(f"split of the mirror's file {name}", split, renamed)
        shards.append((renamed[split], files[name]))
    if not {"train", "test"} <= {split for split, _ in shards}:
        raise ZoolibError("the mirror has no train and test split; name its own in the source's option splits")
    found = classes or _names(shards[0][1], label)
    return Reading(_rows(shards, image, label), found)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise ZoolibError(f"{path}: not a readable Parquet file ({reason(error)})") from None


def _names(path: Path, label: str) -> list[str]:
    """Class names in a schema's metadata: ours (`classes`), or the `huggingface` key that its libraries write."""
    metadata = _open(path).schema_arrow.metadata or {}
    try:
        if b"classes" in metadata:
            return [str(name) for name in json.loads(metadata[b"classes"])]
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in feature["names"]]
    except (KeyError, ValueError, TypeError):
        return []


def _check(path: Path, schema: pa.Schema, image: str, label: str) -> None:
    for name in (image, label):
        if name not in schema.names:
            raise ZoolibError(f"{path}: there is no column {name!r} in it; it has {', '.join(schema.names)}")
    kind = schema.field(image).type
    if not (pa.types.is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
        raise ZoolibError(f"{path}: column {image!r} holds {kind}, not encoded images")
    if not pa.types.is_integer(schema.field(label).type):
        raise ZoolibError(f"{path}: column {label!r} holds {schema.field(label).type}, not whole numbers")


def _rows(shards: list[tuple[str, Path]], image: str, label: str) -> Iterator[Row]:
    for split, path in shards:
        with _open(path) as source:
            _check(path, source.schema_arrow, image, label)
            row = 0
            for batch in source.iter_batches(256, columns=[image, label]):
                for entry, value in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                    content = entry.get("bytes") if isinstance(entry, dict) else entry
                    name = (entry.get("path") if isinstance(entry, dict) else "") or f"{split}/{row}"
                    if content is None or value is None:
                        raise ZoolibError(f"{path}: row {row}: it has no {'image' if content is None else 'label'}")
                    yield Row(split, content, name, value)
                    row += 1
