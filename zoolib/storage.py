"""Files of a record store: tables as compact Parquet, and writes that happen whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoolib.spec import ZoolibError

_KEYS = ("run_id", "spec", "metrics", "provenance", "deviations", "files")  # of a record
_HALF = ("confidence", "weight:", "gate", "probability:")  # columns kept as float16


def corrupt(path: Path, why: str) -> ZoolibError:
    """The error for a damaged record; it names the file and the fix."""
    return ZoolibError(f"corrupt record {path}: {why}; delete it, and it will be recomputed")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of a record. Raises ZoolibError when it is damaged."""
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise corrupt(path, f"not JSON ({error})") from None
    lacking = [key for key in _KEYS if not isinstance(record, dict) or key not in record]
    if lacking:
        raise corrupt(path, f"it lacks {', '.join(lacking)}")
    if any(set(file) != {"name", "sha256"} for file in record["files"].values()):
        raise corrupt(path, "its list of files is malformed")
    return dict(record)


def to_json(record: Mapping[str, Any]) -> bytes:
    """Strict JSON: numpy becomes plain, and a number that is not finite becomes null."""
    return (json.dumps(_plain(record), indent=1, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def to_parquet(table: pd.DataFrame) -> bytes:
    """The table as zstd Parquet: confidences, weights and gates in half precision, other floats in single."""
    arrays = {}
    for name in table.columns:
        half = str(name).startswith(_HALF)
        column = table[name]
        if half and column.dtype == object:  # lists of gates or probabilities
            arrays[name] = pa.array([np.asarray(v, np.float16) for v in column], pa.list_(pa.float16()))
        elif pd.api.types.is_float_dtype(column):
            arrays[name] = pa.array(column.to_numpy(np.float16 if half else np.float32))
        elif pd.api.types.is_integer_dtype(column):
            arrays[name] = pa.array(column.to_numpy(np.int32))
        else:
            arrays[name] = pa.array(column.tolist())
    out = io.BytesIO()
    pq.write_table(pa.table(arrays), out, compression="zstd")
    return out.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """The inverse of `to_parquet`; half precision comes back as single."""
    table = pq.read_table(io.BytesIO(content)).to_pandas()
    return table.astype({c: np.float32 for c in table.columns if table[c].dtype == np.float16})


def token(content: bytes) -> str:
    """Twelve hexadecimal digits for the name of a file with this content; no two calls return the same."""
    return hashlib.sha256(content + secrets.token_bytes(16)).hexdigest()[:12]


def commit(path: Path, record: bytes, parquet: Mapping[str, bytes], what: str) -> None:
    """Write the Parquet files, then the JSON that names them, then drop the files of the record it replaced.

    Raises ZoolibError when the disk is full; whatever stood there before still stands.
    """
    written: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _files_of(path)
        for name, content in parquet.items():
            if not (path.parent / name).exists():
                written.append(path.parent / name)
                _write(path.parent / name, content)
        _write(path, record)
    except OSError as error:
        for file in written:
            file.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ZoolibError(
                f"disk full: no space left in {path.parent} for the record of {what}; "
                "nothing was lost, free some space and run it again"
            ) from None
        raise
    for name in before - set(parquet):
        (path.parent / name).unlink(missing_ok=True)
    _sweep(path)


def _files_of(path: Path) -> set[str]:
    try:
        return {file["name"] for file in read_json(path)["files"].values()}
    except (OSError, ZoolibError):
        return set()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary one in the same folder, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path, older_than: float = 3600.0) -> None:
    """Remove what killed writers of this run have left: files that no record names, an hour old or more."""
    named = _files_of(path)
    for pattern in (f"{escape(path.stem)}.*.parquet", f".{escape(path.stem)}.*.tmp"):
        for file in path.parent.glob(pattern):
            try:
                if file.name not in named and time.time() - file.stat().st_mtime > older_than:
                    file.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
