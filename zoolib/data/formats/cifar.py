"""CIFAR's python batches, read by an unpickler that can build numbers, text and byte arrays and nothing else."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoolib.data.formats import Reading, Row, archives, file
from zoolib.spec import ZoolibError, reason

_REFUSED = {
    "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID",
    "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class _Class:
    """Stands for numpy.ndarray where a pickle names it as an argument; it cannot be called."""

    def __init__(self, *_: object) -> None:
        raise pickle.UnpicklingError("an array may not be called")


class _Dtype:
    """Stands for numpy.dtype; knows unsigned bytes only."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError("an array of another type than unsigned bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing to a byte."""


class _Array:
    """What a pickled array becomes."""

    def __init__(self, *_: object) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of another type than unsigned bytes")
        flat = np.frombuffer(content, np.uint8)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """What Python 3 writes for bytes in old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("an encoding other than latin1")
    return text.encode("latin1")


_STANDINS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Class,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Resolves the five names above to inert stand-ins of our own, and no other name to anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDINS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}"[:120])
        return _STANDINS[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside")


def unpickle(content: bytes, where: str) -> Any:
    """Numbers, text, bytes, lists, dicts and uint8 arrays of a pickle; nothing that it names is imported or called.

    Raises ZoolibError for anything else: a callable, a damaged stream, a memo index meant to exhaust memory.
    """
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _REFUSED:
                raise pickle.UnpicklingError(f"it makes objects ({opcode.name})")
            if opcode.name in _MEMO and int(argument or 0) > len(content):
                raise pickle.UnpicklingError("its memo is larger than itself")
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a hostile stream can make the unpickler raise anything
        raise ZoolibError(f"{where}: refused pickle ({reason(error)})") from None


def to_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) or (H, W) uint8 as a PNG, which is lossless."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def cifar_python(
    files: Mapping[str, Path],
    archive: str,
    labels: str = "fine_labels",
    names: str = "fine_label_names",
    side: int = 32,
) -> Reading:
    """`train`, `test` and `meta` of cifar-100-python.tar.gz; rows keep their order."""
    path = file(files, archive)
    meta = _dict(path, "meta")
    classes = meta.get(names.encode())
    if not isinstance(classes, list) or not all(isinstance(name, bytes | str) for name in classes):
        raise ZoolibError(f"{path}: meta has no list of names under {names!r}")
    decoded = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in classes]
    return Reading(_rows(path, labels.encode(), side), decoded)


def _dict(path: Path, name: str) -> dict[Any, Any]:
    for member in archives.members(path, lambda found: archives.ends(found, name)):
        content = unpickle(member.read(), f"{path}: {member.name}")
        if not isinstance(content, dict):
            raise ZoolibError(f"{path}: {member.name} holds no dictionary")
        return content
    raise ZoolibError(f"{path}: there is no {name} in it; it is not the dataset's archive")


def _rows(path: Path, key: bytes, side: int) -> Iterator[Row]:
    for split in ("train", "test"):
        batch = _dict(path, split)
        array, labels, names = batch.get(b"data"), batch.get(key), batch.get(b"filenames")
        pixels: Any = array.value if isinstance(array, _Array) else None
        if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3 * side * side:
            raise ZoolibError(f"{path}: {split} has no array data of {3 * side * side} bytes a row")
        if not isinstance(labels, list) or len(labels) != len(pixels):
            raise ZoolibError(f"{path}: {split} has not one label for each of its {len(pixels)} images")
        for index, (row, label) in enumerate(zip(pixels, labels, strict=True)):
            if type(label) is not int:
                raise ZoolibError(f"{path}: {split}: row {index}: its label is not a whole number")
            named = names[index] if isinstance(names, list) and index < len(names) else b""
            name = named.decode("utf-8", "replace") if isinstance(named, bytes) else str(named)
            image = to_png(row.reshape(3, side, side).transpose(1, 2, 0))
            yield Row(split, image, name or f"{split}/{index}.png", label)
