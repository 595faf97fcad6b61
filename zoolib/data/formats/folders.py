"""Archives of images whose class is a folder's name, and archives that list their images in text files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from zoolib.data.formats import SPLITS, Reading, Row, archives, file
from zoolib.spec import ZoolibError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


def is_image(name: str) -> bool:
    """Whether a member is an image by its ending, and no shadow file of another system."""
    pure = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in pure.parts)
    return pure.suffix.lower() in IMAGES and not hidden


def _key(name: str) -> str:
    """`class/file` of a member."""
    return "/".join(PurePosixPath(name).parts[-2:])


def class_folders(
    files: Mapping[str, Path],
    archive: str,
    lists: dict[str, str] | None = None,
    sizes: dict[str, int] | None = None,
) -> Reading:
    """Images in folders named after their classes; labels follow the alphabetical order of the names.

    The split comes from text files of the source with one `class/file` a line (`lists`), or from `sizes`: the first so
    many images in the order of the SHA-256 of `class/file`, the next so many, and so on; or, without either, from
    folders named train, val and test above the classes.
    """
    path = file(files, archive)
    names = [member.name for member in archives.members(path, is_image)]
    wrong = next((name for name in names if len(PurePosixPath(name).parts) < 2), None)
    if wrong or not names:
        raise ZoolibError(f"{path}: {f'{wrong} lies in no class folder' if wrong else 'there is no image in it'}")
    classes = sorted({PurePosixPath(name).parts[-2] for name in names})
    if lists:
        splits = _listed(files, lists)
    elif sizes:
        splits = _hashed(names, sizes)
    else:
        splits = {}
    return Reading(_class_rows(path, classes, splits, by_folder=not (lists or sizes)), classes)


def _listed(files: Mapping[str, Path], lists: dict[str, str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, name in lists.items():
        path = file(files, name)
        for line in archives.text(path.read_bytes(), str(path)).splitlines():
            if line.strip():
                key = _key(line.strip())
                if splits.setdefault(key, split) != split:
                    raise ZoolibError(f"{path}: {key} is listed for {splits[key]} and for {split}")
    return splits


def _hashed(names: list[str], sizes: dict[str, int]) -> dict[str, str]:
    ordered = sorted({_key(name) for name in names}, key=lambda key: hashlib.sha256(key.encode()).digest())
    splits: dict[str, str] = {}
    at = 0
    for split, count in sizes.items():
        splits |= dict.fromkeys(ordered[at : at + count], split)
        at += count
    return splits


def _class_rows(path: Path, classes: list[str], splits: dict[str, str], by_folder: bool) -> Iterator[Row]:
    missing = set(splits)
    for member in archives.members(path, is_image):
        parts = PurePosixPath(member.name).parts
        if by_folder:
            split = parts[-3] if len(parts) > 2 else ""
            if split not in SPLITS:
                raise ZoolibError(f"{path}: {member.name} lies in none of the folders train, val and test")
        elif (key := _key(member.name)) in splits:
            split = splits[key]
            missing.discard(key)
        else:
            continue  # official lists leave images out
        yield Row(split, member.read(), member.name, classes.index(parts[-2]))
    if missing:
        raise ZoolibError(f"{path}: {len(missing)} listed images are not in it, such as {min(missing)}")


def image_lists(
    files: Mapping[str, Path],
    archive: str,
    classes: str,
    lists: dict[str, str],
    images: str = "{}",
    label: str = "index",
) -> Reading:
    """An archive with text files of classes and of images, one `image class` a line.

    `images` turns the first column into the end of a member's name; `label` says whether the second is a class's name
    ("name") or its 0-based position ("index"); the lists' members are found by the ends of their names.
    """
    if label not in ("name", "index"):
        raise ZoolibError(f"label is {label!r}; use 'name' or 'index'")
    path = file(files, archive)
    texts = archives.texts(path, {"classes": classes, **lists})
    names = [line.strip() for line in texts["classes"].splitlines() if line.strip()]
    wanted: dict[str, tuple[str, int]] = {}  # member -> split, label
    for split, member in lists.items():
        for number, line in enumerate(texts[split].splitlines(), 1):
            if line.strip():
                name, value = _entry(line, f"{path}: {member}: line {number}", names, label)
                wanted[images.format(name)] = (split, value)
    return Reading(_listed_rows(path, wanted), names)


def _entry(line: str, where: str, names: list[str], label: str) -> tuple[str, int]:
    parts = line.strip().split(None, 1) if label == "name" else line.strip().rsplit(None, 1)
    if len(parts) != 2:
        raise ZoolibError(f"{where}: not an image and a class")
    image, value = parts
    if label == "name":
        if value not in names:
            raise ZoolibError(f"{where}: unknown class {value[:60]!r}")
        return image, names.index(value)
    if not value.isdecimal():
        raise ZoolibError(f"{where}: the class {value[:60]!r} is not a whole number")
    return image, int(value)


def _listed_rows(path: Path, wanted: dict[str, tuple[str, int]]) -> Iterator[Row]:
    missing = set(wanted)
    for member in archives.members(path, is_image):
        parts = PurePosixPath(member.name).parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        key = next((tail for tail in tails if tail in wanted), None)
        if key is not None:
            missing.discard(key)
            yield Row(wanted[key][0], member.read(), member.name, wanted[key][1])
    if missing:
        raise ZoolibError(f"{path}: {len(missing)} listed images are not in it, such as {min(missing)}")
