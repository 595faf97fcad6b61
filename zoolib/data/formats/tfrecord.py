"""TFRecord files and tf.train.Example messages without TensorFlow."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoolib.data.formats import Reading, Row, archives, file
from zoolib.spec import ZoolibError

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_BLOCK = 64  # bytes a lane
_MAX_RECORD = 1 << 28

Values = list[bytes] | list[int] | list[float]


class Readable(Protocol):
    """What records are read from."""

    def read(self, size: int, /) -> bytes: ...


# CRC-32C --------------------------------------------------------------------------------------------------------------


@functools.cache
def _table() -> np.ndarray:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(_POLYNOMIAL), values >> 1).astype(np.uint32)
    return values


@functools.cache
def _shift(level: int) -> np.ndarray:
    """(4, 256) tables of what 64 * 2**level zero bytes do to a state, one table for each byte of the state."""
    if level == 0:
        out = np.arange(256, dtype=np.uint32)[None] << np.array([[0], [8], [16], [24]], np.uint32)
        for _ in range(_BLOCK):
            out = _table()[out & 255] ^ (out >> np.uint32(8))
        return out
    return _apply(level - 1, _shift(level - 1))


def _apply(level: int, state: np.ndarray) -> np.ndarray:
    tables = _shift(level)
    return (
        tables[0][state & 255]
        ^ tables[1][(state >> np.uint32(8)) & 255]
        ^ tables[2][(state >> np.uint32(16)) & 255]
        ^ tables[3][state >> np.uint32(24)]
    )


def crc32c(data: bytes) -> int:
    """CRC-32C of a byte string: blocks of 64 bytes side by side, then joined pair by pair."""
    if len(data) < 4:
        short = 0xFFFFFFFF
        for byte in data:
            short = int(_table()[(short ^ byte) & 255]) ^ (short >> 8)
        return short ^ 0xFFFFFFFF
    levels = max(0, (-(-len(data) // _BLOCK) - 1).bit_length())
    padded = np.zeros(_BLOCK << levels, np.uint8)  # zeros in front of a zero state change nothing
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    start = len(padded) - len(data)
    padded[start : start + 4] ^= 255  # the same as starting with all ones
    lanes = padded.reshape(-1, _BLOCK)
    state = np.zeros(len(lanes), np.uint32)
    for column in lanes.T:
        state = _table()[(state ^ column) & 255] ^ (state >> np.uint32(8))
    for level in range(levels):
        state = _apply(level, state[0::2]) ^ state[1::2]
    return int(state[0]) ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# Records and messages -------------------------------------------------------------------------------------------------


def records(stream: Readable, where: str) -> Iterator[bytes]:
    """The records of a TFRecord stream. Raises ZoolibError naming the row that is cut off or fails its checksum."""
    row = 0
    while head := stream.read(12):
        if len(head) < 12:
            raise ZoolibError(f"{where}: row {row}: the file is cut off; fetch it again")
        length, crc = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != crc or length > _MAX_RECORD:
            raise ZoolibError(f"{where}: row {row}: not a TFRecord, or a damaged one; fetch it again")
        content = stream.read(length)
        tail = stream.read(4)
        if len(content) < length or len(tail) < 4:
            raise ZoolibError(f"{where}: row {row}: the file is cut off; fetch it again")
        if masked_crc(content) != struct.unpack("<I", tail)[0]:
            raise ZoolibError(f"{where}: row {row}: checksum mismatch; fetch the file again")
        yield content
        row += 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("a number is cut off")


def _message(value: int | bytes) -> bytes:
    """The bytes of a field that must hold some. Raises ValueError where it holds a number."""
    if isinstance(value, int):
        raise ValueError("a field that should hold bytes holds a number")
    return bytes(value)


def _fields(message: int | bytes) -> Iterator[tuple[int, Any]]:
    """(field number, int or bytes) of a protocol-buffer message. Raises ValueError for what is none."""
    data, at = _message(message), 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data):
            raise ValueError("a field is cut off")
        yield number, data[at : at + length]
        at += length


def _feature(data: bytes) -> Values:
    for kind, content in _fields(data):
        if kind == 1:
            return [_message(value) for number, value in _fields(content) if number == 1]
        if kind == 2:
            packed = [_message(value) for number, value in _fields(content) if number == 1]
            return [float(v) for value in packed for v in np.frombuffer(value, "<f4")]
        if kind == 3:
            return _integers(content)
    return []


def _integers(content: bytes) -> list[int]:
    out: list[int] = []
    for number, value in _fields(content):
        packed = [value] if isinstance(value, int) else []
        at = 0
        while number == 1 and not isinstance(value, int) and at < len(value):
            item, at = _varint(value, at)
            packed.append(item)
        out += [item - (1 << 64) if item >> 63 else item for item in packed]
    return out


def example(record: bytes) -> dict[str, Values]:
    """The features of a tf.train.Example. Raises ValueError for bytes that are none."""
    found: dict[str, Values] = {}
    for _, features in (pair for pair in _fields(record) if pair[0] == 1):
        for _, entry in (pair for pair in _fields(features) if pair[0] == 1):
            parts = dict(_fields(entry))
            found[_message(parts.get(1, b"")).decode()] = _feature(_message(parts.get(2, b"")))
    return found


# The reader -----------------------------------------------------------------------------------------------------------


def classification(
    files: Mapping[str, Path],
    archive: str,
    pattern: str,
    image: str = "image",
    label: str = "label",
    filename: str = "filename",
    classes: list[str] | None = None,
) -> Reading:
    """Images and labels of the TFRecord files in an archive.

    `pattern` is a file's name with {split} in it, such as `dmlab-{split}.tfrecord`; shards of it may follow.
    """
    path = file(files, archive)
    return Reading(_rows(path, pattern, image, label, filename), list(classes or []))


def _rows(path: Path, pattern: str, image: str, label: str, filename: str) -> Iterator[Row]:
    before, _, after = pattern.partition("{split}")
    named = re.compile(rf"(^|/){re.escape(before)}(train|validation|val|test){re.escape(after)}[\w.-]*$")
    seen = set()
    for member in archives.members(path, lambda name: bool(named.search(name))):
        match = named.search(member.name)
        assert match is not None
        split = {"validation": "val"}.get(match[2], match[2])
        seen.add(split)
        where = f"{path}: {member.name}"
        for row, record in enumerate(records(member.stream, where)):
            yield _row(split, record, f"{where}: row {row}", (image, label, filename), row)
    if not {"train", "test"} <= seen:
        raise ZoolibError(f"{path}: there is no {pattern} for train and test in it; it is not the dataset's archive")


def _row(split: str, record: bytes, where: str, names: tuple[str, str, str], number: int) -> Row:
    try:
        features = example(record)
    except (ValueError, UnicodeDecodeError, TypeError) as error:
        raise ZoolibError(f"{where}: not a tf.train.Example ({error})") from None
    content, label = features.get(names[0]), features.get(names[1])
    if not content or not isinstance(content[0], bytes):
        raise ZoolibError(f"{where}: it has no image under {names[0]!r}")
    if not label or not isinstance(label[0], int):
        raise ZoolibError(f"{where}: it has no label under {names[1]!r}")
    name = (features.get(names[2]) or [b""])[0]
    path = name.decode("utf-8", "replace") if isinstance(name, bytes) and name else f"{split}/{number}"
    return Row(split, content[0], path, label[0])
