"""Pieces of the cards that say where files come from: sources, what is known of checksums, landmark protocols."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from zoolib.data import manifests
from zoolib.data.schema import DatasetManifest, MemberManifest, Source, SourceFile
from zoolib.spec import ZoolibError

STATES = {
    "embedded": "comes with the installed packages",
    "present": "on this machine",
    "fetchable": "`python -m zoolib fetch` brings it",
    "by hand": "a person has to put its files there",
}


def state(manifest: DatasetManifest) -> str:
    """A key of STATES: what it takes to have a dataset here."""
    if manifest.source == "embedded":
        return "embedded"
    try:
        manifests.find(manifest)
        return "present"
    except ZoolibError:
        parent = manifests.dataset(manifest.folder) if manifest.folder != manifest.name else manifest
        return "fetchable" if any(can_fetch(source) for source in parent.sources) else "by hand"


def can_fetch(source: Source) -> bool:
    """Whether every file of a source has an address."""
    return bool(source.huggingface) or all(file.urls for file in source.files)


def known_sum(file: SourceFile) -> str:
    """What is known of a file's checksum, in words."""
    sums = [f"{name} `{digest}`" for name, digest in file.checksums.items()]
    return "; ".join(sums) or "not known; the first download or use records its own"


def sources(manifest: DatasetManifest) -> list[str]:
    """The section on a dataset's sources; empty where its manifest names none."""
    if not manifest.sources:
        return []
    parts = ["## Sources\n", f"`python -m zoolib fetch {manifest.name}` tries them in this order.\n"]
    for source in manifest.sources:
        note = f" {source.note[0].upper()}{source.note[1:]}." if source.note else ""
        how = "" if can_fetch(source) else " **Not all of its files can be fetched.**"
        parts.append(f"### {source.name}\n\nRead by `{source.reader}`.{note}{how}\n")
        parts.append(_files(source))
    if manifest.by_hand:
        place = (
            f"They belong into `originals/{manifest.name}/` below a data root; `fetch` then verifies and converts them."
        )
        parts.append(f":::{{note}}\n{manifest.by_hand}\n{place}\n:::\n")
    return parts


def _files(source: Source) -> str:
    lines = ["| file | from | checksum |", "|---|---|---|"]
    if source.huggingface:
        name = source.huggingface
        lines.append(
            f"| Parquet shards | Hugging Face dataset `{name}` | not published; the first download records it |"
        )
    for file in source.files:
        places = " ".join(f"<{url}>" for url in file.urls) or "by hand"
        note = f" ({file.note})" if file.note else ""
        lines.append(f"| `{file.name}` | {places} | {known_sum(file)}{note} |")
    return "\n".join(lines) + "\n"


def differences(manifest: DatasetManifest) -> list[str]:
    """The section on what differs from the papers and their code; empty where nothing is recorded."""
    if not manifest.differences:
        return []
    return ["## What to know\n", "\n".join(f"- {text}" for text in manifest.differences) + "\n"]


def member_facts(member: MemberManifest) -> dict[str, object]:
    """The rows on a fetched weights file."""
    published = member.sha256_prefix or member.md5_prefix
    kind = "SHA-256" if member.sha256_prefix else "MD5"
    return {
        "mirrors": " ".join(f"<{url}>" for url in member.download),
        "checksum": f"{kind} begins with `{published}`; no more of it is published" if published else "",
        "tensors": f"those that begin with `{member.prefix}`; all others are dropped" if member.prefix else "",
        "inside": f"under `{member.entry}`" if member.entry else "",
        "note": member.note,
    }


def sample_sheet(manifest: DatasetManifest, columns: int = 8, rows: int = 3, side: int = 72) -> bytes | None:
    """A JPEG of training images spread over a present dataset, of its own classes; None where absent or embedded."""
    from PIL import Image

    if manifest.source != "canonical":
        return None
    try:
        file = pq.ParquetFile(manifests.find(manifest) / "train.parquet")
        images = file.read_row_group(0, columns=["image"])["image"]
        numbers = np.arange(len(images))
        if manifest.classes:
            names = json.loads(file.schema_arrow.metadata[b"classes"])
            taken = [names.index(name) for name in manifest.classes]
            numbers = np.flatnonzero(np.isin(file.read_row_group(0, columns=["label"])["label"].to_numpy(), taken))
        sheet = Image.new("RGB", (columns * side, rows * side), "white")
        for place, row in enumerate(_spread(len(numbers), columns * rows)):
            with Image.open(io.BytesIO(images[int(numbers[row])].as_py()["bytes"])) as image:
                small = image.convert("RGB").resize((side - 2, side - 2))
            sheet.paste(small, (place % columns * side + 1, place // columns * side + 1))
    except (ZoolibError, OSError, ValueError, KeyError, TypeError):
        return None
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return out.getvalue()


def _spread(total: int, count: int) -> Sequence[int]:
    count = min(total, count)
    return [index * total // count for index in range(count)]
