"""Dataset and hub manifests: one YAML each, checked when read. Torch-free."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoolib.files import atomic
from zoolib.paths import build_dir, data_roots, shared
from zoolib.spec import ZoolibError, unknown

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sizes(_Strict):
    """Rows of each split."""

    train: int = Field(gt=0)
    test: int = Field(gt=0)


class Variant(_Strict):
    """One set of files known under a dataset's name, recognised by its checksums."""

    name: Name
    note: str
    sizes: Sizes
    sha256: dict[Literal["train", "test"], Sha256]
    official: bool = False  # same images, same split and same pixels as the published dataset


class DatasetManifest(_Strict):
    """A dataset: what it is, where it comes from, and how it may be used."""

    name: Name
    title: str
    task: Literal["cls"]
    source: Literal["embedded", "canonical"]
    description: str
    num_classes: int = Field(gt=1)
    sizes: Sizes  # of the published dataset
    protocol: str
    flip: bool  # whether a mirrored image is still an image of its class
    licence: str
    citation: str
    homepage: str
    paper_column: str | None = None  # its column in reference/paper_results.csv
    variants: list[Variant] = []
    of: Name | None = None  # the dataset whose files it takes some classes from
    classes: list[str] = []  # those classes, in the order of their labels here
    apart_from: Name | None = (
        None  # the dataset whose images it must not contain, duplicates under other labels included
    )
    sha256: dict[Literal["train", "test"], Sha256] = {}  # of an embedded dataset's pixels and labels

    @model_validator(mode="after")
    def _subset(self) -> DatasetManifest:
        if (self.of is None) != (not self.classes):
            raise ValueError("of and classes belong together: name the dataset and the classes taken from it")
        if self.of and self.source != "canonical":
            raise ValueError("only classes of a canonical dataset can be taken")
        if self.of and len(set(self.classes)) != self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes} but {len(set(self.classes))} classes are named")
        return self

    @property
    def folder(self) -> str:
        """The folder below a data root that holds its files."""
        return self.of or self.name


class MemberManifest(_Strict):
    """One pretrained model of a hub."""

    name: Name
    title: str
    architecture: str = Field(pattern=r"^(timm|torchvision|zoolib):\w+$")
    weights: str = Field(pattern=r"^(package:[\w.]+|packaged:[\w./-]+|made:[\w./-]+|file:.+|random)$")
    pretraining: str
    num_features: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int = Field(gt=0)  # pixels; the resolution of its pre-training
    fixed_input: bool = False  # True resizes every image to input_size (architectures that accept no other)
    sha256: Sha256 | None = None
    licence: str
    url: str | None = None


class HubManifest(_Strict):
    """A hub: pretrained models that are transferred together."""

    name: Name
    title: str
    description: str
    homogeneous: bool
    members: list[MemberManifest] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> HubManifest:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError("two members share a name")
        if self.homogeneous and len({member.architecture for member in self.members}) > 1:
            raise ValueError("homogeneous is true but the members' architectures differ")
        return self

    def member(self, name: str) -> MemberManifest:
        """The member of that name. Raises ZoolibError for an unknown one."""
        for member in self.members:
            if member.name == name:
                return member
        raise unknown(f"member of hub {self.name!r}", name, [member.name for member in self.members])


M = TypeVar("M", DatasetManifest, HubManifest)


def read(path: Path, kind: type[M]) -> M:
    """One manifest. Raises ZoolibError naming the file and the first field that is wrong."""
    try:
        content = yaml.safe_load(path.read_text())
        manifest = kind.model_validate(content)
    except (yaml.YAMLError, OSError) as error:
        raise ZoolibError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ZoolibError(f"{path}: {where}: {first['msg']}") from None
    if manifest.name != path.stem:
        raise ZoolibError(f"{path}: the name inside is {manifest.name!r}; name the file {manifest.name}.yaml")
    return manifest


@functools.cache
def datasets() -> dict[str, DatasetManifest]:
    """Every dataset manifest by name."""
    files = sorted(shared("data_manifests").glob("datasets/*.yaml"))
    return {path.stem: read(path, DatasetManifest) for path in files}


@functools.cache
def hubs() -> dict[str, HubManifest]:
    """Every hub manifest by name."""
    return {path.stem: read(path, HubManifest) for path in sorted(shared("data_manifests").glob("hubs/*.yaml"))}


def dataset(name: str) -> DatasetManifest:
    """The dataset of that name. Raises ZoolibError for an unknown one."""
    if name not in datasets():
        raise unknown("dataset", name, datasets())
    return datasets()[name]


def hub(name: str) -> HubManifest:
    """The packaged hub of that name, or the hub a YAML file of your own describes.

    Raises ZoolibError for an unknown name or a file that does not fit the schema.
    """
    if name.endswith((".yaml", ".yml")):
        return read(Path(name), HubManifest)
    if name not in hubs():
        raise unknown("hub", name, hubs())
    return hubs()[name]


def find(manifest: DatasetManifest) -> Path:
    """The folder with train.parquet and test.parquet. Raises ZoolibError saying where to put it."""
    roots = data_roots()
    for root in roots:
        folder = root / manifest.folder
        if all((folder / f"{split}.parquet").is_file() for split in ("train", "test")):
            return folder
    places = " or ".join(str(root / manifest.folder) for root in roots)
    raise ZoolibError(
        f"dataset {manifest.name!r} is not on this machine: put train.parquet and test.parquet (columns image, label) "
        f"into {places}, or set ZOOLIB_DATA to the folder that holds {manifest.folder}/"
    )


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


def combined_sha256(train: str, test: str) -> str:
    """One checksum for the two files of a dataset."""
    return hashlib.sha256((train + test).encode()).hexdigest()


def data_sha256(manifest: DatasetManifest) -> str | None:
    """The checksum of a dataset's files as records keep it; None for embedded data and where the files are absent."""
    if manifest.source == "embedded":
        return None
    try:
        folder = find(manifest)
    except ZoolibError:
        return None
    return combined_sha256(*(file_sha256(folder / f"{split}.parquet") for split in ("train", "test")))
