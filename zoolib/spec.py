"""Run specifications: what is to be computed, written down so completely that its hash is the run's name.

Standard library only, so that the workflow, the command line and the notebooks can plan without importing torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Options = tuple[tuple[str, Any], ...]


class ZoolibError(Exception):
    """A mistake in the input; its message is one line that names the fix."""

    def _render_traceback_(self) -> list[str]:  # what a notebook shows of it
        return [f"{type(self).__name__}: {self}"]


#: packages that the core is installed without, and what to do where a command needs one
BOOK_PACKAGES = ("anywidget", "ipywidgets", "matplotlib", "nbformat", "papermill", "seaborn", "snakemake", "traitlets")
INSTALL_BOOK = "install the book's packages: pip install 'zoolib[book]', or in a checkout: make .venv/.ready"


def split_names(names: str) -> list[str]:
    """The names of a comma-separated parameter."""
    return [name.strip() for name in names.split(",") if name.strip()]


_LISTED = 100  # names that an error may list


def unknown(kind: str, name: object, known: Iterable[str]) -> ZoolibError:
    """The error for a name that is not in a table: it names the nearest valid one and lists the rest, or a few."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=5, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    shown = names if len(names) <= _LISTED else [*near, f"{len(names)} names"]
    return ZoolibError(f"unknown {kind} {name!r}{hint}; known: {', '.join(shown) or 'none'}")


def reason(error: BaseException) -> str:
    """An exception as one line of printable text."""
    text = " ".join(str(error).split())
    shown = "".join(c if c.isprintable() else "?" for c in text)[:200]
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


@dataclass(frozen=True)
class Settings:
    """Everything about data and optimisation that changes a number.

    The defaults are the Zoo-Tuning protocol (ICML 2021, official code): SGD with Nesterov momentum, 15,000 iterations
    of 48 images, square 256 -> RandomResizedCrop 224, ten-crop test with summed logits (here
    averaged: the same classes).
    """

    image_size: int = 224  # pixels; side of the square that enters the model
    decode_size: int = 256  # pixels; side of the square that is decoded once and cropped from
    batch_size: int = 48
    iterations: int = 15_000
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = (6_000, 12_000)  # iterations at which lr is multiplied by gamma
    gamma: float = 0.1
    crop: str = "resized"  # "resized" | "shift" | "none"
    crop_scale: tuple[float, float] = (0.08, 1.0)  # area range of RandomResizedCrop
    test_crops: int = 10  # 1 = centre, 10 = corners + centre and their flips, logits averaged
    train_per_class: int = 0  # training images kept per class; 0 = all
    train_fraction: float = 1.0  # share of those images that is trained on, class by class, the same for every method
    test_limit: int = 0  # test images scored (a fixed class-balanced subset); 0 = all
    val_fraction: float = 0.1  # share of each class's training images held out for choosing; never trained on
    eval_every: int = 1_000  # iterations between validation points of the curve
    precision: str = "auto"  # "auto" | "float32" | "bfloat16"
    channels_last: bool = True
    optimiser: str = "sgd"  # "sgd" | "adam" (which reads neither momentum nor nesterov)
    train_limit: int = 0  # training faces kept in all; 0 = all (landmarks)
    heatmap_size: int = 64  # side of the predicted heatmaps (landmarks)
    head_channels: int = 256  # channels of the landmark head's transpose convolutions
    scaling: float = 0.0  # boxes of faces are scaled by a factor from 1 - scaling to 1 + scaling (landmarks)
    rotation: float = 0.0  # degrees; faces are turned by up to this angle either way (landmarks)
    rotation_share: float = 0.6  # share of training faces that are turned (landmarks)

    def __post_init__(self) -> None:
        choices = {
            "crop": ("resized", "shift", "none"),
            "precision": ("auto", "float32", "bfloat16"),
            "optimiser": ("sgd", "adam"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if self.test_crops not in (1, 10):
            raise ZoolibError(f"test_crops is {self.test_crops}; use 1 (centre) or 10 (corners, centre and flips)")
        if min(self.image_size, self.decode_size, self.batch_size, self.iterations) < 1:
            raise ZoolibError("image_size, decode_size, batch_size and iterations must be at least 1")
        if self.decode_size < self.image_size:
            raise ZoolibError(
                f"decode_size {self.decode_size} is below image_size {self.image_size}; raise decode_size"
            )
        if not (isinstance(self.train_fraction, float | int) and 0 < self.train_fraction <= 1):
            raise ZoolibError(f"train_fraction is {self.train_fraction}; use a share above 0 and up to 1, such as 0.15")
        if not 0 < self.val_fraction < 1:
            raise ZoolibError(f"val_fraction is {self.val_fraction}; use a share between 0 and 1, such as 0.1")
        if not 0 <= self.scaling < 1:
            raise ZoolibError(f"scaling is {self.scaling}; use a share from 0 to below 1, such as 0.25")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types. A setting that came later is left out at its default, so that older runs keep their ids."""
        values = dataclasses.asdict(self)
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        kept = {k: v for k, v in values.items() if k not in _LATER or v != defaults[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


#: settings that were added after the first records
_LATER = {
    "train_fraction",
    "optimiser",
    "train_limit",
    "heatmap_size",
    "head_channels",
    "scaling",
    "rotation",
    "rotation_share",
}


@dataclass(frozen=True)
class ControlSettings:
    """Everything about environment and optimisation of an Atari run that changes a number.

    The defaults are Data-Efficient Rainbow's (van Hasselt et al. 2019, appendix), which both papers use.
    """

    steps: int = 100_000  # agent steps of 4 frames each
    replay_start: int = 1_600  # steps before the first learning step
    n_step: int = 20
    discount: float = 0.99
    batch_size: int = 32
    target_every: int = 2_000  # steps between copies of the online to the target network
    capacity: int = 100_000  # steps that the replay holds
    priority_exponent: float = 0.5
    priority_beta: float = 0.4  # rises to 1 linearly from replay_start to the end
    lr: float = 1e-4
    adam_eps: float = 1.5e-4
    clip_norm: float = 10.0
    atoms: int = 51
    value_min: float = -10.0
    value_max: float = 10.0
    noisy_sigma: float = 0.1
    hidden: int = 256
    max_noops: int = 30
    max_frames: int = 108_000  # emulator frames after which a game is cut
    eval_every: int = 10_000  # steps between evaluations of the curve; the last step is always evaluated
    eval_episodes: int = 10
    eval_epsilon: float = 0.001
    compile: str = "auto"  # "auto" | "on" | "off": torch.compile for the loss; auto is on for long runs

    def __post_init__(self) -> None:
        if self.compile not in ("auto", "on", "off"):
            raise unknown("compile", self.compile, ("auto", "on", "off"))
        if min(self.steps, self.n_step, self.batch_size, self.eval_every, self.eval_episodes) < 1:
            raise ZoolibError("steps, n_step, batch_size, eval_every and eval_episodes must be at least 1")
        if not self.n_step + 4 < self.replay_start <= self.steps:
            raise ZoolibError(
                f"replay_start is {self.replay_start}; use more than n_step + 4 = {self.n_step + 4} "
                f"and at most steps = {self.steps}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @property
    def iterations(self) -> int:
        """What a progress bar counts: agent steps."""
        return self.steps


@dataclass(frozen=True)
class RunSpec:
    """One run: a method on a dataset from a hub with a seed. Its canonical JSON is hashed into `run_id`."""

    task: str
    dataset: str
    hub: str
    method: str
    member: str  # the hub member for per-member methods (finetune), else ""
    seed: int
    profile: str
    settings: Any  # Settings; ControlSettings where the task is atari
    options: Options = ()

    @property
    def run_id(self) -> str:
        """Sixteen hexadecimal digits that name this specification."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """A short human name, such as `digits/imagenet-lite/finetune[efficientnet_lite0]/seed 0`."""
        member = f"[{self.member}]" if self.member else ""
        return f"{self.dataset}/{self.hub}/{self.method}{member}/seed {self.seed}"

    @property
    def stem(self) -> str:
        """The record's path below a store, without its ending."""
        member = f"-{self.member}" if self.member else ""
        dataset, hub = PurePath(self.dataset).stem, PurePath(self.hub).stem  # your own are named by the paths of YAMLs
        folder = f"{self.task}/{dataset}/{hub}/{self.profile}"
        return f"{folder}/{self.method}{member}-s{self.seed}-{self.run_id}"

    def option(self, name: str) -> Any:
        """The value of one method option. Raises KeyError where the method has none of that name."""
        return dict(self.options)[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads them back."""
        out = dataclasses.asdict(self)
        out["settings"] = self.settings.to_dict()
        out["options"] = dict(self.options)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`. Raises ZoolibError when a field is missing or unknown."""
        try:
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["settings"].items()}
            rest = {k: v for k, v in data.items() if k not in ("settings", "options")}
            kind = ControlSettings if data["task"] == "atari" else Settings
            return cls(settings=kind(**settings), options=tuple(sorted(data["options"].items())), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ZoolibError(f"not a run specification ({error}); make it with zoolib.grid.grid") from None
