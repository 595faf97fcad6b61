"""Find and read the manifests of datasets and hubs: one YAML each, checked when read. Torch-free."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from zoolib.data.schema import DatasetManifest, HubManifest, MemberManifest, OwnData
from zoolib.files import atomic
from zoolib.paths import build_dir, data_roots, made_weights, shared
from zoolib.spec import ZoolibError, unknown

SOURCE = "source.json"  # in a dataset's folder: where fetch had its files from
M = TypeVar("M", DatasetManifest, HubManifest, OwnData)


def read(path: Path, kind: type[M]) -> M:
    """One manifest. Raises ZoolibError naming the file and the first field that is wrong."""
    try:
        content = yaml.safe_load(path.read_text())
        manifest = kind.model_validate(content)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ZoolibError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ZoolibError(f"{path}: {where}: {first['msg']}") from None
    if manifest.name != path.stem:
        raise ZoolibError(f"{path}: the name inside is {manifest.name!r}; name the file {manifest.name}.yaml")
    return manifest


def parse(fields: dict[str, Any]) -> OwnData:
    """Your own images from single values. Raises ZoolibError naming the first that is wrong or missing."""
    try:
        return OwnData.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ZoolibError(f"--{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


@functools.cache
def datasets() -> dict[str, DatasetManifest]:
    """Every dataset manifest by name."""
    files = sorted(shared("data_manifests").glob("datasets/*.yaml"))
    return {path.stem: read(path, DatasetManifest) for path in files}


@functools.cache
def hubs() -> dict[str, HubManifest]:
    """Every hub manifest by name."""
    return {path.stem: _hub(path) for path in sorted(shared("data_manifests").glob("hubs/*.yaml"))}


def _hub(path: Path) -> HubManifest:
    """A hub with its `file:` weights looked for beside its YAML first."""
    found = read(path, HubManifest)
    return found.model_copy(update={"members": [_beside(path, member) for member in found.members]})


def own() -> dict[str, DatasetManifest]:
    """Datasets of your own by name: the manifests that an import left below the data roots, beside their images."""
    found: dict[str, DatasetManifest] = {}
    for path in (path for root in data_roots() for path in sorted(root.glob("*/*.yaml"))):
        named = path.stem == path.parent.name and not path.parent.name.startswith(".")
        if named and path.stem not in found and (path.parent / "train.parquet").is_file():  # not another program's
            found[path.stem] = read(path, DatasetManifest)
    return found


def _keys(path: Path) -> set[str]:
    """The top-level keys of a YAML file; none where it is unreadable."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, OSError, ValueError):
        return set()
    return set(map(str, content)) if isinstance(content, dict) else set()


def is_hub(name: str) -> bool:
    """Whether a YAML file describes a hub."""
    return "members" in _keys(Path(name))


def own_data(path: Path) -> OwnData | None:
    """What a YAML file says of your own images; None when it is the whole manifest of a dataset."""
    return read(path, OwnData) if "path" in _keys(path) else None


def dataset(name: str) -> DatasetManifest:
    """The dataset of that name: the project's, an imported one, or what a YAML file of your own describes.

    Raises ZoolibError for an unknown name, a file that does not fit the schema, or images that were not imported yet.
    """
    if not isinstance(name, str):
        raise unknown("dataset", name, {**datasets(), **own()})
    if name in datasets():
        return datasets()[name]
    if name.endswith((".yaml", ".yml")):
        short = own_data(Path(name))
        if short is None:
            return read(Path(name), DatasetManifest)
        if short.name not in own():
            raise ZoolibError(f"{short.name!r} was not imported yet; run `python -m zoolib import {name}` once")
        return own()[short.name]
    if name not in own():
        raise unknown("dataset", name, {**datasets(), **own()})
    return own()[name]


def hub(name: str) -> HubManifest:
    """The packaged hub of that name, or the hub a YAML file of your own describes.

    There, `file:` weights with a relative path are looked for beside the YAML first, then in the working folder. Raises
    ZoolibError for an unknown name or a file that does not fit the schema.
    """
    if not isinstance(name, str):
        raise unknown("hub", name, hubs())
    if name.endswith((".yaml", ".yml")):
        return _hub(Path(name))
    if name not in hubs():
        raise unknown("hub", name, hubs())
    return hubs()[name]


def _beside(path: Path, member: MemberManifest) -> MemberManifest:
    near = path.parent / member.own_file if member.own_file else None
    return member.model_copy(update={"weights": f"file:{near}"}) if near and near.is_file() else member


def of_project(name: str) -> bool:
    """Whether everything of a hub ships with the package or is published: its weights are tested with it."""
    return name in hubs() and not any(_own_weights(member) for member in hub(name).members)


def _own_weights(member: MemberManifest) -> Path | None:
    """The file of weights that do not ship and that nobody publishes."""
    kind, _, name = member.weights.partition(":")
    return made_weights(name) if kind == "made" else member.own_file


_WORDS = {"weights", "title", "pretraining", "note", "licence", "url", "download"}


def hub_sha256(name: str) -> str | None:
    """A checksum of what a hub's manifest says that can change a number, and of its files where they do not ship.

    None for a name that is no hub's, such as that of the games.
    """
    if not name.endswith((".yaml", ".yml")) and name not in hubs():
        return None
    digest = hashlib.sha256()
    for member in hub(name).members:
        digest.update(member.model_dump_json(exclude=_WORDS).encode())
        file = _own_weights(member)
        digest.update((file_sha256(file) if file and file.is_file() else member.weights).encode())
    return digest.hexdigest()


def whole(manifest: DatasetManifest) -> DatasetManifest:
    """The dataset whose files it reads: itself, or the one that it takes some classes of."""
    return dataset(manifest.of) if manifest.of else manifest


def find(manifest: DatasetManifest, roots: list[Path] | None = None) -> Path:
    """The folder with train.parquet and test.parquet. Raises ZoolibError saying how to get it, or where to put it."""
    roots = roots or data_roots()
    for root in roots:
        folder = root / manifest.folder
        if all((folder / f"{split}.parquet").is_file() for split in ("train", "test")):
            return folder
    places = " or ".join(str(root / manifest.folder) for root in roots)
    column = "label" if manifest.task == "cls" else "landmarks"
    fetch = f"run `python -m zoolib fetch {manifest.folder}`, or " if whole(manifest).sources else ""
    raise ZoolibError(
        f"dataset {manifest.name!r} is not on this machine: {fetch}put train.parquet and test.parquet (columns image, "
        f"{column}) into {places}, or set ZOOLIB_DATA to the folder that holds {manifest.folder}/"
    )


def fetched_from(folder: Path, sha256: dict[str, str]) -> str | None:
    """The name of the source that a folder's files were fetched from; None where it is unknown or they have changed."""
    try:
        note = json.loads((folder / SOURCE).read_bytes())
        same = all(note["sha256"][split] == digest for split, digest in sha256.items())
        return str(note["source"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_sha256(path: Path) -> str:
    """sha256 of a file, remembered beside the decoded cache by path, size and time of change."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:24]
    note = build_dir() / "cache" / "sha256" / key
    if note.is_file() and len(text := note.read_text()) == 64:
        return text
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    with atomic(note) as file:
        file.write(digest.encode())
    return digest


def combined_sha256(manifest: DatasetManifest, train: str, test: str) -> str:
    """One checksum for the two files of a dataset and for what its manifest takes of them.

    A dataset that it is kept apart from adds its files where they are others than these.
    """
    other = dataset(manifest.apart_from) if manifest.apart_from else manifest
    apart = (data_sha256(other) or "") if other.folder != manifest.folder else ""
    return hashlib.sha256((train + test + manifest.reading + apart).encode()).hexdigest()


def data_sha256(manifest: DatasetManifest) -> str | None:
    """The checksum of a dataset's files as records keep it; None for embedded data and where the files are absent."""
    if manifest.source == "embedded":
        return None
    try:
        folder = find(manifest)
    except ZoolibError:
        return None
    return combined_sha256(manifest, *(file_sha256(folder / f"{split}.parquet") for split in ("train", "test")))
