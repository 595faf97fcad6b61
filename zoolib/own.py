"""Your own hub and your own images, from Python: rank the models, tune, look, export, predict. No manifest is needed.

For runs that are recorded, resumed and compared over seeds, describe hub and dataset in a YAML file each instead (the
book's pages "Add a hub" and "Add a dataset").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from zoolib import exports, recipe, runtime
from zoolib.checkpoints import behead
from zoolib.data import augment, embedded, loaders, pictures
from zoolib.data import items as gathered
from zoolib.data.formats.folders import is_image
from zoolib.data.loaders import Dataset, Images
from zoolib.data.schema import DatasetManifest, HubManifest, MemberManifest, Sizes
from zoolib.features import every_class
from zoolib.hub import HubModel, architecture, build
from zoolib.layers.pathway import PathwayGenerator
from zoolib.method import Method
from zoolib.methods.hubpathway import HubPathway
from zoolib.methods.single import Single
from zoolib.spec import Settings, ZoolibError, reason, unknown
from zoolib.tasks import Classification
from zoolib.train import Machine, fit

SETTINGS = Settings(image_size=64, decode_size=64, batch_size=32, iterations=60, milestones=(40,), crop="shift",
                    test_crops=1, val_fraction=0.2, eval_every=20, precision="float32")  # fmt: skip


def hub(
    names: Sequence[str],
    weights: Mapping[str, str] | str = "timm",
    prefix: Mapping[str, str] | str = "",
    entry: Mapping[str, str] | str = "",
) -> HubManifest:
    """A hub of timm models by name.

    `weights`, for all or by name (of more models than these, too): "timm" (downloaded by timm once, then cached),
    "package:MODULE", "file:PATH" or "random". `prefix` stands before the names of a checkpoint's tensors ("module."
    after DataParallel), `entry` is the key that they lie below ("state_dict"), each for all or by name.

    Raises ZoolibError for no name, a name given twice, an unknown architecture, or other weights.
    """
    import timm

    if isinstance(names, str) or not names or len({*names}) < len(names):
        raise ZoolibError(f"names are {names!r}; pass a list of different timm models, such as ['resnet18']")
    for kind, given in (("weights", weights), ("a prefix", prefix), ("an entry", entry)):
        for name in () if isinstance(given, str) else given:
            if name not in names and not timm.is_model(name):  # a slip, after which its model would be downloaded
                raise unknown(f"model with {kind}", name, names)
    members = []
    for name in names:
        network = architecture(f"timm:{name}")
        source = weights if isinstance(weights, str) else weights.get(name, "timm")
        taken = behead(network)
        features = _inputs(taken[0]) if taken else network.num_features
        config: dict[str, Any] = dict(network.pretrained_cfg)  # type: ignore[arg-type]
        members.append(
            _member(
                name=name.replace(".", "_").lower(), title=name, architecture=f"timm:{name}",
                weights="random" if source == "timm" else source, pretraining="timm" if source == "timm" else source,
                num_features=features, mean=config["mean"], std=config["std"],
                input_size=config["input_size"][-1], fixed_input=bool(config.get("fixed_input_size")),
                licence=str(config.get("license") or "see timm"),
                prefix=prefix if isinstance(prefix, str) else prefix.get(name, ""),
                entry=entry if isinstance(entry, str) else entry.get(name, ""),
            )
        )  # fmt: skip
    same = len({member.architecture for member in members}) == 1
    return HubManifest(name="own-hub", title="Your hub", description="from Python", homogeneous=same, members=members)


def _inputs(head: nn.Module) -> int:
    """How many features a head reads."""
    features: int = getattr(head, "in_channels" if isinstance(head, nn.Conv2d) else "in_features")
    return features


def _member(**fields: Any) -> MemberManifest:
    try:
        return MemberManifest(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ZoolibError(
            f"{fields['title']}: {field} is {fields[field]!r}; weights are timm, package:MODULE, file:PATH or random"
            if field == "weights"
            else f"{fields['title']}: {field}: {first['msg']}"
        ) from None


def models(own: HubManifest) -> list[HubModel]:
    """The members of a hub from `hub`, freshly built with their weights."""
    return [_timm(member) if member.pretraining == "timm" else build(member) for member in own.members]


def _timm(member: MemberManifest) -> HubModel:
    import timm

    name = member.architecture.removeprefix("timm:")
    try:
        return HubModel(member, timm.create_model(name, pretrained=True, num_classes=0))
    except Exception as error:  # the network, the hub client and timm each raise their own
        raise ZoolibError(
            f"timm cannot load the weights of {name} ({reason(error)}); connect once, or name weights "
            "that are here: package:MODULE, file:PATH or random"
        ) from None


def folder(path: Path | str, settings: Settings = SETTINGS, test_share: float = 0.25) -> Dataset:
    """A folder of class folders of images as a dataset, split into train, val and test within each class.

    The split depends on the files' contents alone, not on their names or order, and copies of a file stay in one part.
    Where folders train and test, and val if you like, lie above the classes, theirs is the split and `test_share` has
    no part in it.

    Raises ZoolibError for fewer than two classes, a class of fewer than four different images, a file that is no
    image, and folders train without test.
    """
    if not Path(path).is_dir():
        raise ZoolibError(f"{path} is no folder; pass one that holds a folder of images for each class")
    if not 0 < test_share < 1:
        raise ZoolibError(f"test_share is {test_share}; use a share between 0 and 1, such as 0.25")
    place = Path(path)
    shadows = (".", "__MACOSX")  # of other systems
    folders = [d.name for d in place.iterdir() if d.is_dir() and not d.name.startswith(shadows)]
    parted = bool(folders) and {*folders} <= {*gathered.SPLIT_NAMES}  # train and test lie above the classes
    if len(folders) < 2 and not parted:
        raise ZoolibError(
            f"{place} holds {len(folders)} folders; make one folder of images for each of two or more classes"
        )
    for name in [] if parted else sorted(folders):  # an empty class would not be seen below
        if not any(is_image(file.name) for file in (place / name).iterdir()):
            raise ZoolibError(f"{place / name} holds 0 images; a class needs at least four")
    items = gathered.read_items(place)
    classes = gathered.class_order({item.label for item in items})
    if len(classes) < 2:
        raise ZoolibError(f"{place} holds one class, {classes[0]}; a dataset needs two or more")
    gathered.add_digests(items)
    given = items[0].split != ""
    if not given:
        for name in classes:
            different = {item.digest for item in items if item.label == name}
            if len(different) < 4:
                raise ZoolibError(f"{place / name} holds {len(different)} images; a class needs at least four")
        gathered.assign_splits(items, test_share, kept=2)
        if not any(item.split == "test" for item in items):
            raise ZoolibError(f"{place}: every image is in two classes, so none can be tested; keep each in one")
        items.sort(key=lambda item: (item.label, item.digest, item.path))  # whatever the files are called
    train, test = (
        _images(place, [item for item in items if (item.split == "test") == tested], classes, settings.decode_size)
        for tested in (False, True)
    )
    manifest = DatasetManifest(
        name="own-images", title=place.name, task="cls", source="canonical", description="a folder of images",
        num_classes=len(classes), sizes=Sizes(train=len(train.labels), test=len(test.labels)),
        protocol="split by the folders" if given else "split by content within each class", flip=False,
        licence="yours", citation="none", homepage="", differences=gathered.notices(items),
    )  # fmt: skip
    rows = loaders.split_rows(train.labels, settings, train.groups, train.validation)
    return Dataset(manifest, train, test, rows | {"test": np.arange(len(test.labels))}, "own")


def _images(place: Path, items: list[gathered.Item], classes: list[str], side: int) -> Images:
    pixels = np.stack([read_image(place / item.path, side) for item in items])
    labels = np.array([classes.index(item.label) for item in items])
    groups = np.unique([item.digest for item in items], return_inverse=True)[1]
    validation = np.array([item.split == "val" for item in items])
    given = validation if validation.any() else None
    return Images(pixels, labels, classes, hashlib.sha256(pixels.tobytes()).hexdigest(), groups, given)


def read_image(path: Path | str, side: int = SETTINGS.decode_size) -> np.ndarray:
    """An image file as (side, side, 3) uint8. Raises ZoolibError for a file that is no image."""
    try:
        with Image.open(path) as picture:
            return np.asarray(pictures.picture(picture).resize((side, side), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow raises many kinds for damaged and for huge images
        raise ZoolibError(f"{path}: not a readable image ({error}); remove it or save it again") from None


def write_folder(dataset: str, path: Path | str, per_class: int = 30) -> Path:
    """Write images of an embedded dataset as a folder of class folders, to try the rest with; the folder."""
    images, labels, names = embedded.load(dataset, "train")
    for label, name in enumerate(names):
        target = Path(path) / name
        target.mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(labels == label)[:per_class]:
            Image.fromarray(images[row]).save(target / f"{row}.png")
    return Path(path)


@torch.no_grad()
def rank(own: HubManifest, data: Dataset, settings: Settings = SETTINGS) -> pd.DataFrame:
    """Every model's LogME on the training images, the most promising first, before any training; higher is better.

    NaN, and last, where features fit the labels exactly: where images are few, and one of them is there twice. Raises
    ZoolibError for a class without an image to train on.
    """
    from zoolib.transferability import logme

    every_class(data)
    scores = []
    for member, model in zip(own.members, models(own), strict=True):
        parts, labels = [], []
        for views, target in loaders.eval_batches(data, "train", settings):
            parts.append(model.eval()(views[0]).float())
            labels.append(target)
        score = logme(torch.cat(parts).numpy(), torch.cat(labels).numpy()).score
        scores.append({"model": member.title, "LogME": float(score) if np.isfinite(score) else float("nan")})
    return pd.DataFrame(scores).sort_values("LogME", ascending=False, ignore_index=True)


@dataclass
class Tuned:
    """A method after training on your images."""

    method: Method
    data: Dataset
    settings: Settings
    outcome: recipe.Outcome

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the test images, in percent."""
        return self.outcome.metrics["test"]["top1_accuracy"]

    @torch.no_grad()
    def predict(self, image: np.ndarray) -> tuple[str, float]:
        """The class of an image (H, W, 3) uint8 and its probability. Raises ZoolibError for another array."""
        views = [self.method.eval()(view).prediction for view in self._views(image)]
        best = torch.stack(views).mean(0).softmax(-1)[0].max(0)
        return self.data.train.classes[int(best.indices)], float(best.values)

    @torch.no_grad()
    def explain(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What `PathwayExplorer.attach` wants of an image: weights, and the answers of each member and each k.

        Raises ZoolibError for an array that is no image, and for a method other than Hub-Pathway.
        """
        if not isinstance(self.method, HubPathway):
            raise ZoolibError("only a hub has pathways to explain; tune without naming a model")
        batch = self._views(image)[0]
        output, named = self.method.eval()(batch), self.method.alternatives(batch)
        weights = zip(self.method.recorded["weight"], output.aux["weight"][0], strict=True)
        answer = {f"weight:{name}": np.array([float(weight)]) for name, weight in weights}
        for name, logits in named.items():
            best = logits.softmax(-1).topk(min(3, logits.shape[-1]))
            answer |= {f"top:{name}": best.indices.numpy(), f"probability:{name}": best.values.numpy()}
        return answer

    def _views(self, image: np.ndarray) -> list[Tensor]:
        """What the accuracy was measured on, of this image: (1, 3, S, S) each."""
        shape, kind = np.shape(image), getattr(image, "dtype", type(image).__name__)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
            raise ZoolibError(f"an image of {kind} and shape {shape}; pass (H, W, 3) of uint8, as read_image gives it")
        side = self.settings.decode_size
        square = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
        return augment.test_crops(torch.from_numpy(square.copy())[None], self.settings, self.data.manifest.flip)


def tune(
    own: HubManifest, data: Dataset, model: str = "", k: int = 2, settings: Settings = SETTINGS, seed: int = 0
) -> Tuned:
    """Fine-tune one model of the hub (`model`, its name), or all of them by Hub-Pathway when none is named.

    On a GPU where there is one (ZOOLIB_DEVICE chooses); the result lies on the CPU.
    """
    runtime.seed_everything(seed)
    task = Classification(data.manifest.num_classes)
    members = models(own)
    method: Method
    if model:
        own.member(model.replace(".", "_").lower())  # refuses an unknown one
        method = Single(next(m for m in members if m.name == model.replace(".", "_").lower()), task)
    else:
        method = HubPathway(members, task, PathwayGenerator(len(members), 16, 32), min(k, len(members)))
    machine = Machine(runtime.device(), "float32")
    method.to(machine.device)
    fit(method, data, task, settings, seed, machine)
    outcome = recipe.score(method, data, task, settings, machine)
    return Tuned(method.cpu(), data, settings, outcome)


def export(tuned: Tuned, folder: Path | str) -> dict[str, Path]:
    """Save what was tuned by torch.export; name -> file. They need torch alone.

    A hub becomes `router.pt2` (all of it) and `path-<member>.pt2` (each single path), one model `model.pt2`. Each takes
    images (B, 3, S, S) in [0, 1] of the size that it was tuned at, and holds the names of the classes:
    `torch.export.load(file, extra_files=names)` fills in `names = {"classes.json": ""}`. Raises ZoolibError for another
    method.
    """
    return exports.export(tuned.method, tuned.settings.image_size, tuned.data.train.classes, folder)
