"""What a manifest may say of a dataset, of a hub and its members, and of your own images. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from zoolib.spec import unknown

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sizes(_Strict):
    """Rows of each split."""

    train: int = Field(gt=0)
    test: int = Field(gt=0)
    val: int | None = Field(default=None, gt=0)  # of the published validation split, where there is one


class Variant(_Strict):
    """One set of files known under a dataset's name, recognised by its checksums."""

    name: Name
    note: str
    sizes: Sizes
    sha256: dict[Literal["train", "test"], Sha256]
    official: bool = False  # same images, same split and same pixels as the published dataset


class SourceFile(_Strict):
    """One file of a source under its official name, and what is known of it."""

    name: FileName
    urls: list[Url] = []  # mirrors, tried in order; none: it can only be put there by hand
    sha256: Sha256 | None = None
    sha1: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    size: int | None = Field(default=None, gt=0)  # bytes
    note: str = ""

    @property
    def checksums(self) -> dict[str, str]:
        """Algorithm -> digest, for those that are known."""
        known = {"sha256": self.sha256, "sha1": self.sha1, "md5": self.md5}
        return {name: digest for name, digest in known.items() if digest}


class Source(_Strict):
    """One way to a dataset: its files, and the reader that turns them into rows."""

    name: Name
    reader: str
    files: list[SourceFile] = []
    huggingface: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")  # owner/dataset[:config]
    options: dict[str, Any] = {}  # of the reader
    official: bool = True  # same images and same split as the published dataset
    note: str = ""

    @model_validator(mode="after")
    def _has_files(self) -> Source:
        if bool(self.files) == bool(self.huggingface):
            raise ValueError("give either files or huggingface")
        return self


class Landmarks(_Strict):
    """The protocol of a landmark dataset; indices count from 0."""

    points: int = Field(gt=0)
    flip_pairs: list[tuple[int, int]]  # points that change places in a mirrored image
    normaliser: str  # what the distance is called that errors are divided by
    normaliser_points: tuple[int, int]
    sigma: float = Field(gt=0)  # of the heatmap's Gaussian, in heatmap pixels
    box: str  # where the face box comes from
    subsets: list[str] = []  # of the test split
    edges: list[list[int]] = []  # chains of points that a drawing joins

    @model_validator(mode="after")
    def _in_range(self) -> Landmarks:
        every = [index for pair in self.flip_pairs for index in pair]
        drawn = [index for chain in self.edges for index in chain]
        if len(set(every)) != len(every):
            raise ValueError("a point occurs in two flip pairs")
        if any(not 0 <= index < self.points for index in (*every, *self.normaliser_points, *drawn)):
            raise ValueError(f"an index lies outside 0..{self.points - 1}")
        return self


class DatasetManifest(_Strict):
    """A dataset: what it is, where it comes from, and how it may be used."""

    name: Name
    title: str
    task: Literal["cls", "landmarks"]
    source: Literal["embedded", "canonical"]
    description: str
    num_classes: int = Field(default=0, ge=0)  # 0 for landmarks
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
    #: the dataset whose images it must not contain, duplicates under other labels included
    apart_from: Name | None = None
    sha256: dict[Literal["train", "test"], Sha256] = {}  # of an embedded dataset's pixels and labels
    landmarks: Landmarks | None = None
    sources: list[Source] = []  # where fetch gets it, tried in order
    by_hand: str = ""  # what a person has to do where no source can be fetched
    differences: list[str] = []  # between our copy or protocol and what the papers and their code say

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
    def reading(self) -> str:
        """What decides which images and points of the files are taken, and how; "" for all images, mirrored too."""
        taken = [self.flip, self.of, self.classes, self.apart_from]
        plain = "" if taken == [True, None, [], None] else json.dumps(taken)
        points = self.landmarks.model_dump_json(exclude={"edges", "box", "normaliser"}) if self.landmarks else ""
        return plain + points

    @property
    def folder(self) -> str:
        """The folder below a data root that holds its files."""
        return self.of or self.name

    @model_validator(mode="after")
    def _complete(self) -> DatasetManifest:
        if self.task == "cls" and (self.num_classes < 2 or self.landmarks):
            raise ValueError("a classification dataset needs num_classes of 2 or more, and no landmarks")
        if self.task == "landmarks" and (self.num_classes or not self.landmarks):
            raise ValueError("a landmark dataset needs the block landmarks, and no num_classes")
        return self


class OwnData(_Strict):
    """Your own images, as a YAML of a few lines names them; `python -m zoolib import` makes a dataset of them."""

    name: Name
    path: str  # class folders, a .csv or a .parquet; relative to the YAML's folder
    title: str = ""
    licence: str = Field(default="not stated; only its owner can say", min_length=1)
    flip: bool = True  # whether a mirrored image is still an image of its class
    test: float = 0.2  # share of each class that is tested, where the data name no split
    citation: str = "none given"
    homepage: str = "none"


class MemberManifest(_Strict):
    """One pretrained model of a hub."""

    name: Name
    title: str
    architecture: str = Field(pattern=r"^(timm|torchvision|zoolib):[\w.]+$")
    weights: str = Field(pattern=r"^(package:[\w.]+|packaged:[\w./-]+|made:[\w./-]+|file:.+|fetch:[\w.+-]+|random)$")
    download: list[Url] = []  # mirrors of a `fetch:` file, tried in order
    entry: str = ""  # key of the file under which the tensors lie; "" for the file itself
    prefix: str = ""  # of the backbone's tensors; tensors without it belong to other parts and are dropped
    pretraining: str  # in words; "without labels" where it used none
    num_features: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int = Field(gt=0)  # pixels; the resolution of its pre-training
    fixed_input: bool = False  # True resizes every image to input_size (architectures that accept no other)
    sha256: Sha256 | None = None
    sha256_prefix: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")  # where only its start is published
    md5_prefix: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,32}$")
    note: str = ""
    licence: str
    url: str | None = None

    @property
    def own_file(self) -> Path | None:
        """Where weights of the form file:PATH are; None for every other source."""
        kind, _, name = self.weights.partition(":")
        return Path(name).expanduser() if kind == "file" else None

    @property
    def self_supervised(self) -> bool:
        """Whether its pre-training used no labels, as the manifest says."""
        return "without labels" in self.pretraining

    @property
    def source_head(self) -> bool:
        """Whether it brings the classifier of its own pre-training: packaged and random networks bring none."""
        return not (self.architecture.startswith("zoolib:") or self.weights == "random" or self.prefix or self.entry)

    @model_validator(mode="after")
    def _can_be_fetched(self) -> MemberManifest:
        if self.download and not self.weights.startswith("fetch:"):
            raise ValueError("download needs weights of the form fetch:FILE")
        return self


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
