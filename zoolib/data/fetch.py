"""Fetch a dataset or a weights file: mirrors in order, resumed, verified, converted once, visible when whole."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from zoolib import __version__, files
from zoolib.data import convert, download, formats, manifests
from zoolib.data.manifests import SOURCE
from zoolib.data.schema import DatasetManifest, HubManifest, MemberManifest, Source, SourceFile
from zoolib.files import atomic
from zoolib.paths import data_roots, made_weights
from zoolib.spec import ZoolibError, reason

Report = Callable[[str], None]
ORIGINALS = "originals"  # folder below a data root: downloaded archives, and those put there by hand
WEIGHTS = "weights"


def silent(line: str) -> None:
    """A report that goes nowhere."""


def originals(manifest: DatasetManifest, root: Path) -> Path:
    """Where a dataset's archives lie, downloaded or put there by hand."""
    return root / ORIGINALS / manifest.name


@contextlib.contextmanager
def locked(root: Path, name: str, report: Report) -> Iterator[None]:
    """Only one process at a time works on a name below a root; the others wait."""
    with contextlib.ExitStack() as stack:
        try:
            busy = functools.partial(report, f"{name}: another process is fetching it; waiting")
            stack.enter_context(files.locked(root / f".{name}.lock", busy))
        except OSError as error:
            raise ZoolibError(
                f"{root}: cannot be written ({error.strerror}); set ZOOLIB_DATA to a folder of yours"
            ) from None
        yield


def fetch(manifest: DatasetManifest, root: Path | None = None, report: Report = silent) -> Path:
    """The folder of a dataset's canonical files, fetched and converted first where they are absent.

    `root` is a data root, the first of `data_roots()` by default. Raises ZoolibError when no source gives the dataset:
    it says what was tried and where to put files by hand.
    """
    if manifest.source == "embedded":
        raise ZoolibError(f"dataset {manifest.name!r} is embedded: there is nothing to fetch")
    if manifest.folder != manifest.name:  # some classes of another dataset's files
        return fetch(manifests.dataset(manifest.folder), root, report)
    with contextlib.suppress(ZoolibError):
        return manifests.find(manifest)
    root = root or data_roots()[0]
    with locked(root, manifest.name, report):
        with contextlib.suppress(ZoolibError):
            return manifests.find(manifest, [root])
        for stale in root.glob(f".{manifest.name}.*.partial"):
            shutil.rmtree(stale, ignore_errors=True)
        return _first_source(manifest, root, report)


def _first_source(manifest: DatasetManifest, root: Path, report: Report) -> Path:
    tried: list[str] = []
    for source in manifest.sources:
        try:
            files = gather(manifest, source, root, report)
            return _convert(manifest, source, files, root, report)
        except ZoolibError as error:
            tried.append(f"{source.name}: {error}")
            report(f"{manifest.name}: {tried[-1]}")
    what = "; ".join(tried) or "its manifest names no source"
    names = sorted({file.name for source in manifest.sources for file in source.files})
    place = f"put {', '.join(names)} into {originals(manifest, root)} and run it again; " if names else ""
    raise ZoolibError(
        f"dataset {manifest.name!r} could not be fetched ({what}); {place}"
        f"or put train.parquet and test.parquet into {root / manifest.name}"
    )


# Archives -------------------------------------------------------------------------------------------------------------


def gather(manifest: DatasetManifest, source: Source, root: Path, report: Report) -> dict[str, Path]:
    """The verified files of a source by name. Raises ZoolibError naming those that cannot be had."""
    folder = originals(manifest, root)
    wanted = source.files or _listed(source, folder, report)
    absent = [file.name for file in wanted if not file.urls and not (folder / file.name).is_file()]
    if absent:
        raise ZoolibError(f"{', '.join(absent)} can only be put into {folder} by hand")
    return {file.name: _verified(file, folder, report) for file in wanted}


def _listed(source: Source, folder: Path, report: Report) -> list[SourceFile]:
    """The Parquet files of a Hugging Face dataset, from its public list; those at hand where that cannot be had."""
    repository, _, config = (source.huggingface or "").partition(":")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    listing = folder / f".{source.name}.json"
    listing.unlink(missing_ok=True)
    try:
        download.download(
            SourceFile(name="listing.json", urls=[f"{endpoint}/api/datasets/{repository}/parquet"]), listing
        )
        content = json.loads(listing.read_bytes())
        if config or len(content) > 1:
            content = {"": content[config or "default"]}
        splits: dict[str, list[str]] = next(iter(content.values()))
        needed = {*formats.SPLIT_NAMES, *source.options.get("splits", {})}
        if {"train", "test"} <= set(splits):  # what a mirror holds besides, such as distorted images, is left there
            splits = {name: urls for name, urls in splits.items() if name in needed}
        return [
            SourceFile(name=f"{split}-{index:05d}.parquet", urls=[url])
            for split, urls in splits.items()
            for index, url in enumerate(urls)
        ]
    except ZoolibError:
        if here := sorted(folder.glob("*.parquet")):
            report(f"{source.name}: its list cannot be had; taking the Parquet files at hand")
            return [SourceFile(name=path.name) for path in here]
        raise
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise ZoolibError(f"{endpoint}: the list of {repository}'s Parquet files is not what it should be") from None
    finally:
        listing.unlink(missing_ok=True)


def _verified(file: SourceFile, folder: Path, report: Report) -> Path:
    """A file that is there and right: taken as it lies, or downloaded."""
    path, notes = folder / file.name, folder / "checksums.json"
    known = _notes(notes)
    if path.is_file():
        recorded = file if file.checksums else file.model_copy(update=known.get(file.name, {}))
        wrong = download.mismatch(path, recorded)
        if not wrong:
            if file.name not in known:
                _note(notes, file, path, "put there by hand")
            return path
        aside = download.keep_aside(path)
        report(f"{file.name}: {wrong}; kept aside as {aside}")
        if not file.urls:
            raise ZoolibError(f"{path}: {wrong}; kept aside as {aside}, put the right file there")
    report(f"{file.name}: downloading")
    url = download.download(file, path, report)
    _note(notes, file, path, url)
    return path


def _notes(path: Path) -> dict[str, dict[str, Any]]:
    """sha256 by file name, as the first verified download or the first use recorded it."""
    try:
        content = json.loads(path.read_bytes())
        return {str(name): {"sha256": str(entry["sha256"])} for name, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(path: Path, file: SourceFile, stored: Path, origin: str) -> None:
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
    content[file.name] = {
        "sha256": manifests.file_sha256(stored),
        "origin": origin,
        "checked_against": sorted(file.checksums) or "nothing: no checksum is published",
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with atomic(path) as out:
        out.write((json.dumps(content, indent=1) + "\n").encode())


# Conversion -----------------------------------------------------------------------------------------------------------


def _convert(manifest: DatasetManifest, source: Source, files: dict[str, Path], root: Path, report: Report) -> Path:
    report(f"{manifest.name}: converting to Parquet")
    partial = root / f".{manifest.name}.{secrets.token_hex(4)}.partial"
    partial.mkdir()
    try:
        reading = formats.read(source.reader, files, source.options)
        counts = convert.write(manifest, reading, partial)
        digests = {split: _sha256(partial / f"{split}.parquet") for split in counts}
        note = {
            "dataset": manifest.name,
            "source": source.name,
            "rows": counts,
            "sha256": digests,
            "originals": {name: manifests.file_sha256(path) for name, path in files.items()},
            "note": source.note,
            "zoolib": __version__,
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        (partial / SOURCE).write_text(json.dumps(note, indent=1) + "\n")
        return publish(partial, root / manifest.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, target: Path) -> Path:
    """Make a finished folder visible in one step; a folder that is there already receives train.parquet last."""
    try:
        partial.rename(target)
    except OSError:
        for name in sorted((file.name for file in partial.iterdir()), key=lambda name: name == "train.parquet"):
            os.replace(partial / name, target / name)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(manifest: DatasetManifest, folder: Path | None = None) -> str:
    """One line on a dataset at hand: its variant or source, and that its files are unchanged.

    Raises ZoolibError when it is absent, a file is unreadable or changed since it was written, or a count is wrong.
    """
    if manifest.source == "embedded":
        return f"{manifest.name}: embedded, nothing to verify"
    folder = folder or manifests.find(manifest)
    digests = {split: _sha256(folder / f"{split}.parquet") for split in ("train", "test")}
    rows = {}
    for split in digests:
        try:
            rows[split] = pq.ParquetFile(folder / f"{split}.parquet").metadata.num_rows
        except Exception as error:  # pyarrow raises many kinds for damaged files
            raise ZoolibError(f"{folder / split}.parquet: not a readable Parquet file ({reason(error)})") from None
    counted = f"{rows['train']:,} train and {rows['test']:,} test rows"
    for variant in manifest.variants:
        if variant.sha256 == digests:
            return f"{manifest.name}: {variant.name}, {counted}; checksums are the manifest's"
    try:
        note = json.loads((folder / SOURCE).read_bytes())
        recorded = {split: str(note["sha256"][split]) for split in digests}
    except (OSError, ValueError, KeyError, TypeError):
        if manifest.variants and (folder / "imported.json").is_file():
            raise ZoolibError(f"{folder}: changed since it was imported; import it again") from None
        named = manifest.sizes  # nothing but the counts can be compared, and for some of a dataset's classes not they
        if not manifest.of and (rows["train"], rows["test"]) != (named.train, named.test):
            counted += f", where the manifest has {named.train:,} and {named.test:,}"
        return f"{manifest.name}: {counted}; files of unknown origin ({folder})"
    for split, digest in digests.items():
        if recorded[split] != digest:
            raise ZoolibError(
                f"{folder / split}.parquet: changed since it was fetched; "
                f"delete {folder} and fetch {manifest.name} again"
            )
    return f"{manifest.name}: from {note.get('source', 'unknown')}, {counted}; unchanged since it was fetched"


# Weights --------------------------------------------------------------------------------------------------------------


def weights_name(member: MemberManifest) -> str:
    """The file name of a member whose weights are fetched; "" for the others."""
    kind, _, name = member.weights.partition(":")
    return name if kind == "fetch" else ""


def weights_sum(member: MemberManifest) -> SourceFile:
    """A member's weights as a file to verify; published starts of checksums count as far as they go."""
    return SourceFile.model_construct(
        name=weights_name(member) or "weights",
        urls=member.download,
        sha256=member.sha256 or member.sha256_prefix,
        md5=member.md5_prefix,
    )


def stored_weights(member: MemberManifest) -> Path | None:
    """Where a fetched member's file lies below a data root; None where it is absent."""
    paths = [root / WEIGHTS / weights_name(member) for root in data_roots()]
    return next((path for path in paths if path.is_file()), None)


def hub_state(manifest: HubManifest) -> str:
    """`present` when every member's weights are on this machine, else `to make`, `fetchable` or `by hand`."""
    words = []
    for member in manifest.members:
        kind, _, name = member.weights.partition(":")
        if kind == "fetch":
            words.append("present" if stored_weights(member) else "fetchable" if member.download else "by hand")
        elif kind == "file":
            words.append("present" if Path(name).expanduser().is_file() else "by hand")
        elif kind == "package":
            words.append("present" if importlib.util.find_spec(name) else "by hand")
        elif kind == "made":
            words.append("present" if made_weights(name).is_file() else "to make")
        else:
            words.append("present")
    return next((word for word in ("by hand", "fetchable", "to make") if word in words), "present")


def fetch_weights(member: MemberManifest, root: Path | None = None, report: Report = silent) -> Path:
    """A member's weights file, downloaded first where it is absent. Raises ZoolibError when no mirror gives it."""
    if path := stored_weights(member):
        return path
    root = root or data_roots()[0]
    name = weights_name(member)
    with locked(root, f"weights-{name}", report):
        if not (root / WEIGHTS / name).is_file():
            report(f"{name}: downloading")
            download.download(weights_sum(member), root / WEIGHTS / name, report)
    return root / WEIGHTS / name
