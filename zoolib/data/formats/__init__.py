"""Readers of official dataset layouts. One table names them all; each is imported when it is called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zoolib.spec import ZoolibError, reason, unknown

T = TypeVar("T")

SPLITS = ("train", "val", "test")
#: what mirrors call a split -> its name here
SPLIT_NAMES = {"train": "train", "test": "test", "validation": "val", "val": "val"}

#: reader of a manifest's source -> "module:function" below this package
READERS = {
    "cifar-python": "cifar:cifar_python",
    "class-folders": "folders:class_folders",
    "image-lists": "folders:image_lists",
    "cars-matlab": "matlab:cars",
    "cofw-matlab": "matlab:cofw",
    "tfrecord": "tfrecord:classification",
    "parquet": "columns:parquet",
    "wflw-text": "faces:wflw",
    "pts": "faces:pts",
    "coco-keypoints": "faces:coco_keypoints",
}


@dataclass(frozen=True)
class Row:
    """One image with what is known of it."""

    split: str  # "train", "val" or "test"
    image: bytes  # encoded, as the source holds it; PNG where the source holds bare pixels
    path: str  # its name in the source
    label: int = -1
    landmarks: tuple[float, ...] = ()  # x0, y0, x1, y1, … in pixels, as the source writes them
    center: tuple[float, float] = (0.0, 0.0)  # of the face box, pixels
    scale: float = 0.0  # longer side of the face box in units of 200 px, before any margin
    subset: str = ""  # names of the test subsets it belongs to, separated by spaces
    group: str = ""  # alike for copies of one image
    validation: bool = False  # of the training file: held out to choose by


@dataclass(frozen=True)
class Reading:
    """What a reader returns: class names, and the rows as a stream that is read once."""

    rows: Iterable[Row]
    classes: list[str] = field(default_factory=list)  # in label order; empty where the source names none
    grouped: bool = False  # whether the rows say which of them are copies of one image
    validated: bool = False  # whether the rows of the training file say which of them are held out to choose by


def read(reader: str, files: Mapping[str, Path], options: Mapping[str, Any]) -> Reading:
    """Start a reader on the files of a source, by their official names.

    Raises ZoolibError for an unknown reader or option, for a missing file, and, also while the rows are being read, for
    anything in the files that is not as the layout says.
    """
    if reader not in READERS:
        raise unknown("reader", reader, READERS)
    module, name = READERS[reader].split(":")
    function: Callable[..., Reading] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    check_options(reader, function, options)
    reading = one_line(reader, lambda: function(files, **options))
    return Reading(_guarded(reader, reading.rows), reading.classes)


def check_options(reader: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises ZoolibError for an option that a reader does not have, or lacks."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for name in options:
        if name not in {parameter.name for parameter in parameters}:
            raise unknown(f"option of reader {reader!r}", name, [parameter.name for parameter in parameters])
    lacking = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.name not in options]
    if lacking:
        raise ZoolibError(f"reader {reader!r} needs the option {lacking[0]!r}; add it to the source's options")


def one_line(what: str, action: Callable[[], T]) -> T:
    """The result of an action; anything that goes wrong in it is a ZoolibError of one line."""
    try:
        return action()
    except ZoolibError:
        raise
    except Exception as error:  # files from elsewhere can make libraries raise anything
        raise ZoolibError(f"{what}: {reason(error)}") from None


def _guarded(what: str, rows: Iterable[Row]) -> Iterator[Row]:
    stream = iter(rows)
    while True:
        row = one_line(what, lambda: next(stream, None))
        if row is None:
            return
        yield row


def file(files: Mapping[str, Path], name: str) -> Path:
    """A file of the source by its official name. Raises ZoolibError when the source has none of that name."""
    if name not in files:
        raise unknown("file of this source", name, files)
    return files[name]
