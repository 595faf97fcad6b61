"""One file from several mirrors: resumed where it was cut, verified before it gets its name, kept aside when wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoolib.data.schema import SourceFile
from zoolib.spec import ZoolibError, reason

TRIES = 3  # connections in a row that bring nothing new before a mirror is given up
PAUSE = 0.5  # seconds before the second connection; it doubles from one to the next
TIMEOUT = 60.0
CHUNK = 1 << 16  # bytes; what a cut connection loses at most


class _Stop(Exception):
    """A mirror that another connection will not help."""


def mismatch(path: Path, file: SourceFile) -> str:
    """What is wrong with a file by size or checksum, in a few words; "" when nothing is, as far as it is known."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"it has {size:,} bytes, not {file.size:,}"
    for algorithm, known in file.checksums.items():
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, algorithm).hexdigest()
        if not digest.startswith(known):
            return f"its {algorithm} is {digest[: max(12, len(known))]}, not {known}"
    return ""


def keep_aside(path: Path) -> Path:
    """Move a wrong file where nothing reads it, and return its new path."""
    folder = path.parent / "rejected"
    folder.mkdir(exist_ok=True)
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    aside = folder / f"{path.name.lstrip('.')}.{digest[:12]}"
    os.replace(path, aside)
    return aside


def download(file: SourceFile, target: Path, report: Callable[[str], None] = lambda line: None) -> str:
    """Bring a file to `target`, verified, and return the address that gave it.

    What a cut connection or a killed process left is gone on with. Raises ZoolibError with every address tried.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        part = target.with_name(f".{target.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
        try:
            _persist(url, part)
            wrong = mismatch(part, file)
        except ZoolibError:
            raise
        except Exception as error:  # requests, urllib3 and the system each raise their own
            if _full(error):  # every other mirror would end there, too
                raise
            failures.append(f"{url} ({reason(error)})")
            report(failures[-1])
            continue
        _validator(part).unlink(missing_ok=True)
        if wrong:
            failures.append(f"{url} ({wrong}; kept aside as {keep_aside(part)})")
            report(failures[-1])
            continue
        os.replace(part, target)
        return url
    raise ZoolibError(f"{file.name}: {'; '.join(failures) or 'no address is known'}")


def _persist(url: str, part: Path) -> None:
    """Connect until the whole file is there, or until several connections in a row bring nothing new."""
    idle = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _get(url, part)
            return
        except _Stop:
            raise
        except Exception as error:
            if _full(error):
                raise
            after = part.stat().st_size if part.is_file() else 0
            idle = 0 if after > before else idle + 1
            if idle >= TRIES:
                raise
            time.sleep(PAUSE * 2**idle)


def _full(error: Exception) -> bool:
    """Whether the disk has no room for the file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _get(url: str, part: Path) -> None:
    """One connection: from where the partial file ends, when the server can, else from the start."""
    import pooch

    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        with contextlib.suppress(OSError):
            headers["If-Range"] = _validator(part).read_text()
    total: dict[str, int] = {}
    with part.open("ab") as out:

        def look(response: Any, *_: object, **__: object) -> None:
            status = response.status_code
            if response.is_redirect:
                return
            known = response.headers.get("Content-Range", "").rpartition("/")[2]
            if status == 416 and known == str(start):  # everything is there already
                raise _Complete
            if status in (200, 416):  # the server starts again, or our part is longer than its file
                out.truncate(0)
            if status == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise _Stop("the server resumes elsewhere than it was asked to")
                total["bytes"] = int(known) if known.isdecimal() else 0
            elif status == 200:
                total["bytes"] = int(response.headers.get("Content-Length", 0))
                tag = response.headers.get("ETag", "") or response.headers.get("Last-Modified", "")
                if tag and not tag.startswith("W/"):
                    _validator(part).write_text(tag)
            elif 400 <= status < 500 and status not in (408, 416, 429):
                raise _Stop(f"status {status}")

        fetcher = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(), chunk_size=CHUNK, headers=headers, timeout=TIMEOUT,
            hooks={"response": look},
        )  # fmt: skip
        try:
            fetcher(url, out, None)
        except _Complete:
            return
    size = part.stat().st_size
    if total.get("bytes") and size != total["bytes"]:
        raise OSError(f"cut off after {size:,} of {total['bytes']:,} bytes")


class _Complete(Exception):
    """The partial file is whole."""
