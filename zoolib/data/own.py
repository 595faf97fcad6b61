"""Your own images as a dataset: class folders, a CSV or a Parquet file become canonical files and a manifest."""

from __future__ import annotations

import collections
import csv
import functools
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from PIL import Image

from zoolib.data import convert, manifests, pictures
from zoolib.data.fetch import locked, publish, silent
from zoolib.data.formats import SPLITS, Reading, Row
from zoolib.data.formats.folders import is_image
from zoolib.data.manifests import file_sha256
from zoolib.data.schema import DatasetManifest, OwnData
from zoolib.paths import data_roots
from zoolib.spec import ZoolibError, reason, unknown

_SOURCE = "imported.json"  # where a dataset was imported from, and the state of the files then
_FORMAT = 2  # of what an import writes: 1 kept validation images apart, where no run saw them
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


@dataclass
class Imported:
    """What an import made, and what it noticed."""

    folder: Path
    manifest: DatasetManifest
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # images of train, val and test


def read_items(path: Path) -> list[Item]:
    """The images of class folders (below train and test, or not), a CSV or a Parquet file.

    Raises ZoolibError naming what is missing.
    """
    if not path.exists():
        raise ZoolibError(f"{path}: no such folder or file; import class folders, a .csv or a .parquet")
    if path.is_dir():
        items = _from_folder(path)
    elif path.suffix == ".csv":
        items = _from_csv(path)
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
    for file in _files(path):
        parts = file.relative_to(path).parts
        if not (file.is_file() and is_image("/".join(parts))):
            continue
        if len(parts) != (3 if split_first else 2):
            raise ZoolibError(f"{file}: lies in no class folder; put images into {path}/CLASS/ or {path}/train/CLASS/")
        split = SPLIT_NAMES[parts[0]] if split_first else ""
        items.append(Item("/".join(parts), parts[-2], file.read_bytes, split))
    return items


def _files(path: Path) -> list[Path]:
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


def _from_csv(path: Path) -> list[Item]:
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


def _order(labels: set[str]) -> list[str]:
    """Class names in label order: whole numbers by value, text by alphabet."""
    numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return sorted(labels, key=(lambda label: int(label)) if numbers else None)


# Import ---------------------------------------------------------------------------------------------------------------


def import_data(own: OwnData, root: Path | None = None, base: Path | None = None) -> Imported:
    """Write your images as the dataset `own.name` below a data root, with a manifest beside them.

    Importing again replaces the earlier import of that name. Raises ZoolibError for a name of the project, a folder in
    its place that no import made, an image that cannot be read, fewer than two classes, or a file that is not what its
    ending says.
    """
    if own.name in manifests.datasets():
        raise ZoolibError(f"{own.name!r} is a dataset of the project; import yours under another name")
    if not 0 < own.test < 1:
        raise ZoolibError(f"test is {own.test}; use a share between 0 and 1, such as 0.2")
    path = ((base or Path()) / Path(own.path).expanduser()).resolve()
    root = root or data_roots()[0]
    target = root / own.name
    _refuse_others_files(target)
    items = read_items(path)
    classes = _order({item.label for item in items})
    if len(classes) < 2:
        raise ZoolibError(f"{path}: one class only, {classes[0]!r}; a dataset needs two or more")
    add_digests(items)
    hashed = items[0].split == ""
    if hashed:
        assign_splits(items, own.test)
    notes = notices(items)
    others = (
        [file.name for file in _files(path) if file.name[0] != "." and not is_image(file.name)] if path.is_dir() else []
    )
    if others:
        notes.append(f"{len(others)} files are no images by their endings and were not taken, such as {others[0]!r}")
    with locked(root, own.name, silent):
        _sweep(root, target)
        partial = root / f".{own.name}.{secrets.token_hex(4)}.partial"
        partial.mkdir()
        try:
            manifest = _write(own, path, items, classes, notes, hashed, partial)
            _refuse_others_files(target)
            before = partial.with_suffix(".before")
            if target.is_dir():
                target.rename(before)
            try:
                publish(partial, target)
            except BaseException:
                if before.is_dir():
                    before.rename(target)
                raise
            shutil.rmtree(before, ignore_errors=True)
            return Imported(target, manifest, notes, {s: sum(i.split == s for i in items) for s in SPLITS})
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _sweep(root: Path, target: Path) -> None:
    """What a killed import left: an earlier import that it had moved goes back, unfinished folders go away."""
    for before in sorted(root.glob(f".{target.name}.*.before")):
        if target.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(target)
    for partial in root.glob(f".{target.name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_others_files(folder: Path) -> None:
    """Raises ZoolibError where a folder that an import is about to replace holds anything but an earlier import."""
    if not folder.exists():
        return
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {folder.name}
    made = {_SOURCE, f"{folder.name}.yaml", *(f"{split}.parquet" for split in SPLITS)}
    strange = sorted(names - made) or (sorted(names) if _SOURCE not in names else [])
    if strange:
        raise ZoolibError(
            f"{folder} holds {strange[0]!r}, which no import made, and an import replaces that whole folder; choose "
            "another name, or another place by --into"
        )


def _write(
    own: OwnData, path: Path, items: list[Item], classes: list[str], notes: list[str], hashed: bool, folder: Path
) -> DatasetManifest:
    counts = collections.Counter(item.split for item in items)
    if missing := [split for split in ("train", "test") if not counts[split]]:
        raise ZoolibError(f"{path}: too few images to have a {missing[0]} split; add some")
    share = f"{own.test:.0%} of each class are tested, chosen by the hash of their pixels" if hashed else "as given"
    chosen_on = f"the {counts['val']} of its val split" if counts["val"] else "held out of the training split"
    fields: dict[str, Any] = {
        "name": own.name,
        "title": own.title or own.name,
        "task": "cls",
        "source": "canonical",
        "description": f"Imported from {path.name}.",
        "num_classes": len(classes),
        "sizes": {"train": counts["train"] + counts["val"], "test": counts["test"]},
        "protocol": f"Split: {share}; validation images are {chosen_on}.",
        "flip": own.flip,
        "licence": own.licence,
        "citation": own.citation,
        "homepage": own.homepage,
        "differences": notes,
    }
    rows = (
        Row(  # one file holds what runs learn from and what they choose by
            "test" if i.split == "test" else "train", i.load(), i.path, classes.index(i.label), group=i.digest,
            validation=i.split == "val",
        )
        for i in items
    )  # fmt: skip
    manifest = DatasetManifest.model_validate(fields)
    copies = len({item.digest for item in items}) < len(items)
    convert.write(manifest, Reading(rows, classes, grouped=copies, validated=counts["val"] > 0), folder)
    variant = {
        "name": "imported",
        "note": f"imported from {path.name}",
        "sizes": fields["sizes"],
        "sha256": {split: file_sha256(folder / f"{split}.parquet") for split in ("train", "test")},
    }
    (folder / _SOURCE).write_text(json.dumps({"path": str(path), "state": _state(path), "format": _FORMAT}))
    (folder / f"{own.name}.yaml").write_text(yaml.safe_dump({**fields, "variants": [variant]}, sort_keys=False))
    return DatasetManifest.model_validate({**fields, "variants": [variant]})


def _state(path: Path) -> str:
    """A checksum of the files that an import reads: names, sizes and times of change."""
    files = [path] if path.is_file() else [file for file in _files(path) if file.is_file()]
    if path.suffix == ".csv":
        with suppress(ZoolibError):  # a CSV that cannot be read any more is another state than before
            files += [path.parent / item.path for item in _from_csv(path)]
    listing = [(os.path.relpath(file, path.parent), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def ensure(name: str) -> str:
    """The name of the dataset that a YAML file describes, imported first where it is new or its images have changed.

    Other names as given. Raises ZoolibError where the name stands for images of another place.
    """
    if not name.endswith((".yaml", ".yml")) or (own := manifests.own_data(Path(name))) is None:
        return name
    if own.name in manifests.own():
        path = (Path(name).parent / Path(own.path).expanduser()).resolve()
        try:
            before = json.loads((manifests.find(manifests.own()[own.name]) / _SOURCE).read_text())
        except (OSError, ValueError):  # imported by hand into its place
            return own.name
        if before["path"] != str(path):
            raise ZoolibError(
                f"{own.name!r} was imported from {before['path']}; give {name} another name, or run "
                f"`python -m zoolib import {name}` to replace it"
            )
        same = before["state"] == _state(path) and before.get("format") == _FORMAT
        if not path.exists() or same:
            return own.name
    import_data(own, base=Path(name).parent)
    return own.name
