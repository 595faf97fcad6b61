"""Your own images as a dataset: class folders, a CSV or a Parquet file become canonical files and a manifest."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zoolib.data import convert, manifests
from zoolib.data.fetch import locked, publish, silent
from zoolib.data.formats import SPLITS, Reading, Row
from zoolib.data.formats.folders import is_image
from zoolib.data.items import Item, add_digests, assign_splits, class_order, files_below, from_csv, notices, read_items
from zoolib.data.manifests import file_sha256
from zoolib.data.schema import DatasetManifest, OwnData
from zoolib.paths import data_roots
from zoolib.spec import ZoolibError

_SOURCE = "imported.json"  # where a dataset was imported from, and the state of the files then
_FORMAT = 2  # of what an import writes: 1 kept validation images apart, where no run saw them


@dataclass
class Imported:
    """What an import made, and what it noticed."""

    folder: Path
    manifest: DatasetManifest
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # images of train, val and test


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
    classes = class_order({item.label for item in items})
    if len(classes) < 2:
        raise ZoolibError(f"{path}: one class only, {classes[0]!r}; a dataset needs two or more")
    add_digests(items)
    hashed = items[0].split == ""
    if hashed:
        assign_splits(items, own.test)
    notes = notices(items)
    files = files_below(path) if path.is_dir() else []
    others = [file.name for file in files if file.name[0] != "." and not is_image(file.name)]
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
    files = [path] if path.is_file() else [file for file in files_below(path) if file.is_file()]
    if path.suffix == ".csv":
        with suppress(ZoolibError):  # a CSV that cannot be read any more is another state than before
            files += [path.parent / item.path for item in from_csv(path)]
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
