"""Images of your own, one by one: read from class folders, a CSV or a Parquet file, checked, and split."""

from __future__ import annotations

import collections
import csv
import functools
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from zoolib.data import pictures
from zoolib.data.formats import SPLITS
from zoolib.data.formats.folders import is_image
from zoolib.spec import ZoolibError, reason, unknown

#: what a folder or a column of yours may call a split -> its name here
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_COLUMNS = {"image": ("image", "path", "file", "filename", "file_name"), "label": ("label", "class", "class_name")}


@dataclass
class Item:
    """One image of yours; its bytes are read when they are needed."""

    path: str
    label: str
    load: Callable[[], bytes]
    split: str = ""
    digest: str = ""  # of its pixels, so that a copy in another format is recognised


def read_items(path: Path) -> list[Item]:
    """The images of class folders (below train and test, or not), a CSV or a Parquet file.

    Raises ZoolibError naming what is missing.
    """
    if not path.exists():
        raise ZoolibError(f"{path}: no such folder or file; import class folders, a .csv or a .parquet")
    if path.is_dir():
        items = _from_folder(path)
    elif path.suffix == ".csv":
        items = from_csv(path)
    elif path.suffix == ".parquet":
        items = _from_parquet(path)
    else:
        raise ZoolibError(f"{path}: neither a folder of class folders nor a .csv nor a .parquet")
    if not items:
        raise ZoolibError(f"{path}: there is no image in it")
    given = {item.split for item in items}
    if given != {""} and "" in given:
        bare = next(item.path for item in items if not item.split)
        raise ZoolibError(f"{path}: {bare} has no split and others have one; give every image one, or none")
    if given != {""} and not {"train", "test"} <= given:
        raise ZoolibError(f"{path}: it names the splits {', '.join(sorted(given))}; give train and test, or none")
    return items


def _from_folder(path: Path) -> list[Item]:
    top = {d.name for d in path.iterdir() if d.is_dir() and not d.name.startswith((".", "__MACOSX"))}
    split_first = bool(top) and top <= set(SPLIT_NAMES)
    items = []
    for file in files_below(path):
        parts = file.relative_to(path).parts
        if not (file.is_file() and is_image("/".join(parts))):
            continue
        if len(parts) != (3 if split_first else 2):
            raise ZoolibError(f"{file}: lies in no class folder; put images into {path}/CLASS/ or {path}/train/CLASS/")
        split = SPLIT_NAMES[parts[0]] if split_first else ""
        items.append(Item("/".join(parts), parts[-2], file.read_bytes, split))
    return items


def files_below(path: Path) -> list[Path]:
    """All files below a folder, those of linked folders too. Raises ZoolibError where a link leads back to a parent."""
    files = []
    for top, folders, names in os.walk(path, followlinks=True):
        folders.sort()
        files += [Path(top) / name for name in names]
        for link in (Path(top) / name for name in folders if (Path(top) / name).is_symlink()):
            if link.resolve() in {parent.resolve() for parent in link.absolute().parents}:
                raise ZoolibError(f"{link}: a link to a folder that it lies in; remove it")
    return sorted(files)


def _column(path: Path, names: list[str], kind: str) -> str:
    found = next((name for name in _COLUMNS[kind] if name in names), None)
    if found is None:
        raise ZoolibError(f"{path}: no column for the {kind}: name one {' or '.join(_COLUMNS[kind])}; it has {names}")
    return found


def _split(path: Path, value: object, row: int) -> str:
    text = str(value if value is not None else "").strip().lower()
    if text and text not in SPLIT_NAMES:
        raise unknown(f"split in {path}, row {row}:", text, SPLIT_NAMES)
    return SPLIT_NAMES.get(text, "")


def from_csv(path: Path) -> list[Item]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ZoolibError(f"{path}: not a readable CSV file ({reason(error)})") from None
    if not rows:
        return []
    names = [name for name in rows[0] if name]
    image, label = _column(path, names, "image"), _column(path, names, "label")
    items = []
    for number, row in enumerate(rows):
        named = path.parent / str(row[image])
        if not row[image] or not row[label] or not named.is_file():
            raise ZoolibError(f"{path}: row {number}: no image file {row[image]!r}, or no label")
        items.append(Item(str(row[image]), str(row[label]), named.read_bytes, _split(path, row.get("split"), number)))
    return items


def _from_parquet(path: Path) -> list[Item]:
    try:
        table = pq.read_table(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise ZoolibError(f"{path}: not a readable Parquet file ({reason(error)})") from None
    image, label = _column(path, table.column_names, "image"), _column(path, table.column_names, "label")
    columns = {name: table[name] for name in table.column_names}

    def loader(row: int) -> Callable[[], bytes]:
        def load() -> bytes:
            value = columns[image][row].as_py()
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise ValueError("no encoded image in this row")
            return content

        return load

    labels = table[label].to_pylist()
    splits = table["split"].to_pylist() if "split" in columns else [None] * len(labels)
    for row, value in enumerate(labels):
        if value is None:
            raise ZoolibError(f"{path}: row {row}: no label")
    return [
        Item(f"{path.stem}/{row}", str(value), loader(row), _split(path, splits[row], row))
        for row, value in enumerate(labels)
    ]


# Splitting ------------------------------------------------------------------------------------------------------------


def add_digests(items: list[Item]) -> None:
    """Decode every image once, as a viewer shows it. Raises ZoolibError naming the first that cannot be read."""
    for item in items:
        try:
            with Image.open(io.BytesIO(item.load())) as image:
                pixels = pictures.picture(image)
                item.digest = hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()
                if not pictures.stored_as_shown(image):
                    item.load = functools.partial(pictures.shown, item.load)
        except Exception as error:  # Pillow raises many kinds for damaged images
            raise ZoolibError(f"{item.path}: not a readable image ({reason(error)[:60]}); replace or drop it") from None


def assign_splits(items: list[Item], test: float, kept: int = 1) -> None:
    """Give every item a split: in each class the images with the lowest hashes are tested, copies stay together.

    The same images always fall into the same split, whatever their names and order. An image that occurs in two
    classes is trained on, so that no copy of it is tested, and so are `kept` different images of each class.
    """
    classes = collections.defaultdict(set)
    for item in items:
        classes[item.digest].add(item.label)
    by_class: dict[str, dict[str, list[Item]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for item in items:
        by_class[item.label][item.digest].append(item)
    for groups in by_class.values():
        wanted = max(1, round(test * sum(map(len, groups.values()))))
        tested, left = 0, len(groups) - kept  # images that are tested, and groups of copies that still may be
        for digest in sorted(groups):
            chosen = tested < wanted and len(classes[digest]) == 1 and left > 0
            tested, left = tested + len(groups[digest]) * chosen, left - chosen
            for item in groups[digest]:
                item.split = "test" if chosen else "train"


def notices(items: list[Item]) -> list[str]:
    """What a reader of the numbers should know: copies across splits, copies in two classes, classes untested."""
    by_digest: dict[str, list[Item]] = collections.defaultdict(list)
    for item in items:
        by_digest[item.digest].append(item)
    across = [group for group in by_digest.values() if len({item.split for item in group}) > 1]
    conflicting = [group for group in by_digest.values() if len({item.label for item in group}) > 1]
    copies = sum(len(group) - 1 for group in by_digest.values())
    notes = [f"{copies} images are copies of another"] if copies else []
    for groups, what in ((across, "occur in more than one split"), (conflicting, "occur in more than one class")):
        if groups:
            example = " = ".join(item.path for item in groups[0][:2])
            notes.append(f"{len(groups)} images {what}, such as {example}")
    for split in SPLITS if any(item.split == "val" for item in items) else ("train", "test"):
        absent = {item.label for item in items} - {item.label for item in items if item.split == split}
        if absent:
            notes.append(f"{len(absent)} classes have no {split} image, such as {min(absent)!r}")
    return notes


def class_order(labels: set[str]) -> list[str]:
    """Class names in label order: whole numbers by value, text by alphabet."""
    numbers = all(label.removeprefix("-").isdecimal() for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if numbers else None)
