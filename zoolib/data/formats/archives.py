"""Members of tar and zip archives as streams: nothing is unpacked to disk, escapes or expands unbounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from zoolib.spec import ZoolibError, reason

RATIO = 100  # bytes that an archive may expand to for each of its own
FLOOR = 64 << 20  # bytes that any archive may expand to
MEMBERS = 5_000_000

_MAGIC: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)


class Stream:
    """A member's bytes; a damaged archive is an error of one line here too."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.stream, self.path = stream, path

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        try:
            return self.stream.read(size)
        except ZoolibError:
            raise
        except Exception as error:  # as in `members`
            raise damaged(self.path, error) from None


@dataclass
class Member:
    """One file of an archive or folder; read it before asking for the next."""

    name: str  # below the archive's root, with forward slashes
    size: int
    stream: Stream
    source: Path

    def read(self, limit: int = 1 << 30) -> bytes:
        """The whole content. Raises ZoolibError when it is larger than the limit or not as long as announced."""
        if self.size > limit:
            raise ZoolibError(f"{self.source}: {self.name} has {self.size:,} bytes, more than the {limit:,} allowed")
        content = self.stream.read(self.size + 1)
        if len(content) != self.size:
            raise ZoolibError(f"{self.source}: {self.name} ends after {len(content):,} of {self.size:,} bytes")
        return content


class _Metered(io.RawIOBase):
    """A stream that ends in a ZoolibError where more is read from it than an honest archive holds."""

    def __init__(self, stream: IO[bytes], budget: int, path: Path) -> None:
        super().__init__()
        self.stream, self.left, self.path = stream, budget, path

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = self.left + 1 if size is None or size < 0 else size
        if wanted > self.left + (1 << 20):
            raise bomb(self.path)
        content = self.stream.read(wanted)
        self.left -= len(content)
        if self.left < 0:
            raise bomb(self.path)
        return content


def bomb(path: Path) -> ZoolibError:
    """The error for an archive that expands without bound."""
    return ZoolibError(f"{path}: expands to more than {RATIO} times its size; it is not the dataset's archive")


def damaged(path: Path, error: Exception) -> ZoolibError:
    """The error for an archive that cannot be read to its end."""
    return ZoolibError(f"{path}: damaged archive ({reason(error)}); fetch it again")


def budget(path: Path) -> int:
    """Bytes that an archive may expand to."""
    return max(FLOOR, RATIO * path.stat().st_size)


def safe_name(path: Path, name: str) -> str:
    """A member's name, cleaned of a leading `./`. Raises ZoolibError for one that leads out of the archive's folder."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if "\0" in name or pure.is_absolute() or ".." in pure.parts or (pure.parts and ":" in pure.parts[0]):
        raise ZoolibError(f"{path}: the member {name[:80]!r} escapes the archive's folder; do not use this file")
    return str(pure)


def members(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Member]:
    """The regular files of a tar, a zip or a folder whose names are wanted, in the order in which they lie there.

    Raises ZoolibError for a damaged archive, a member that escapes or is a link or device, and for a bomb.
    """
    if not path.exists():
        raise ZoolibError(f"{path}: no such file")
    kind = _folder if path.is_dir() else _zip if _head(path).startswith(b"PK") else _tar
    try:
        yield from kind(path, wanted)
    except ZoolibError:
        raise
    except Exception as error:  # zipfile, tarfile and the decompressors raise a dozen kinds for damaged files
        raise damaged(path, error) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(6)


def _folder(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and wanted(name):
            with file.open("rb") as stream:
                yield Member(name, file.stat().st_size, Stream(stream, path), path)


def _tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    opened = next((opener(path) for magic, opener in _MAGIC if _head(path).startswith(magic)), None)
    with opened or path.open("rb") as stream:
        metered = _Metered(stream, budget(path), path)
        with tarfile.open(fileobj=metered, mode="r|") as archive:
            for count, entry in enumerate(archive):
                name = safe_name(path, entry.name)
                if count > MEMBERS:
                    raise bomb(path)
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse():
                    raise ZoolibError(f"{path}: the member {name[:80]!r} is a link or a device; do not use this file")
                if wanted(name):
                    content = archive.extractfile(entry)
                    assert content is not None  # regular files have content
                    yield Member(name, entry.size, Stream(content, path), path)
        while metered.read(1 << 16):  # a truncated compressed file shows only at its end
            pass


def _zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MEMBERS or sum(entry.file_size for entry in entries) > budget(path):
            raise bomb(path)
        for entry in entries:
            name = safe_name(path, entry.filename)
            if entry.is_dir():
                continue
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise ZoolibError(f"{path}: the member {name[:80]!r} is a link or a device; do not use this file")
            if wanted(name):
                with archive.open(entry) as stream:
                    yield Member(name, entry.file_size, Stream(stream, path), path)


def texts(path: Path, names: dict[str, str]) -> dict[str, str]:
    """Small text members by key, found by the end of their names: {"train": "lists/train.txt"}.

    Raises ZoolibError naming the first that is missing or is not text.
    """
    found: dict[str, str] = {}
    for member in members(path, lambda name: any(ends(name, wanted) for wanted in names.values())):
        for key, wanted in names.items():
            if ends(member.name, wanted):
                found[key] = text(member.read(1 << 28), f"{path}: {member.name}")
    for key, wanted in names.items():
        if key not in found:
            raise ZoolibError(f"{path}: there is no {wanted} in it; it is not the dataset's archive")
    return found


def text(content: bytes, where: str) -> str:
    """Bytes as UTF-8 text. Raises ZoolibError when they are none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ZoolibError(f"{where}: not a text file") from None


def ends(name: str, tail: str) -> bool:
    """Whether a member's name is `tail` or ends with it as whole path components."""
    return name == tail or name.endswith("/" + tail)
