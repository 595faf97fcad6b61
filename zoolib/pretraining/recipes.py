"""What each member of the packaged hubs is pre-trained on, how, and what its gallery shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoolib.data.loaders import Dataset
from zoolib.hub import HubModel
from zoolib.method import Method
from zoolib.methods.single import Single
from zoolib.pretraining import digits, scenes, scores
from zoolib.pretraining.dense import Dense, Detection, Keypoints, Pretext, Segmentation
from zoolib.pretraining.moco import Contrast, MoCo
from zoolib.spec import Settings
from zoolib.tasks import Classification
from zoolib.train import Machine, evaluate

Gallery = dict[str, np.ndarray]
SHOWN = 8  # held-out images in a gallery


@dataclass(frozen=True)
class Recipe:
    """How one member is made: data, task, method around its backbone, settings, and the trivial answer's score."""

    settings: Settings
    load: Callable[[int, Settings], Dataset]  # seed, settings
    task: Callable[[Dataset], Pretext | Classification]
    method: Callable[[HubModel, Pretext | Classification], Method]
    baseline_name: str
    baseline: Callable[[Dataset, HubModel, Settings, Machine], float]  # of a backbone with random weights
    gallery: Callable[[Method, Pretext | Classification, Dataset, Settings, Machine], Gallery] | None = None
    start: str = ""  # the member whose weights it starts from


# Classification -------------------------------------------------------------------------------------------------------


def _classes(data: Dataset) -> Classification:
    return Classification(int(data.train.labels.max()) + 1)


def _single(backbone: HubModel, task: Pretext | Classification) -> Method:
    return Single(backbone, task)


def _chance(data: Dataset, backbone: HubModel, settings: Settings, machine: Machine) -> float:
    return 100 / (int(data.train.labels.max()) + 1)


def _first(data: Dataset, tensors: dict[str, Tensor]) -> Gallery:
    """The first held-out images and what is said about them."""
    source, rows = data.split("test")
    return {"images": np.ascontiguousarray(source.pixels[rows[:SHOWN]])} | {k: v.numpy() for k, v in tensors.items()}


def _predicted(
    method: Method, task: Pretext | Classification, data: Dataset, settings: Settings, machine: Machine
) -> Gallery:
    """Held-out images with their classes and the predicted ones."""
    logits, labels, _ = evaluate(method, data, "test", settings, machine)
    return _first(data, {"label": labels[:SHOWN], "found": logits[:SHOWN].argmax(1)}) | {
        "classes": np.array(data.train.classes)
    }


# MoCo -----------------------------------------------------------------------------------------------------------------


def _mirrored_by_the_method(seed: int, settings: Settings) -> Dataset:
    return scenes.unmirrored(scenes.photographs(settings))


def _contrast(data: Dataset) -> Contrast:
    return Contrast(int(data.train.labels.max()) + 1)


def _random_features(data: Dataset, backbone: HubModel, settings: Settings, machine: Machine) -> float:
    """The neighbours' vote over features of random weights whose batch norms have seen some images."""
    method, task = MoCo(backbone).to(machine.device), _contrast(data)
    images, _ = data.train.take(data.rows["train"][:512])
    with torch.no_grad():
        backbone.train()(images.permute(0, 3, 1, 2).float().to(machine.device) / 255)
    features, labels, _ = evaluate(method, data, "test", settings, machine)
    return task.metrics(features, labels)[task.metric]


def _neighbours(
    method: Method, task: Pretext | Classification, data: Dataset, settings: Settings, machine: Machine
) -> Gallery:
    """Held-out images and, among all other held-out ones, the five nearest by their features."""
    features, labels, _ = evaluate(method, data, "test", settings, machine)
    near = scores.neighbours(features.numpy(), features.numpy(), 5, skip_self=True)[:SHOWN]
    source, rows = data.split("test")
    return _first(data, {"label": labels[:SHOWN]}) | {
        "neighbours": np.ascontiguousarray(source.pixels[rows[near]]),  # (n, 5, S, S, 3)
        "neighbour_label": labels.numpy()[near],
        "classes": np.array(data.train.classes),
    }


# Dense labels ---------------------------------------------------------------------------------------------------------


def _loader(kind: str) -> Callable[[int, Settings], Dataset]:
    return lambda seed, settings: scenes.load(kind, seed, settings)


def _dense(backbone: HubModel, task: Pretext | Classification) -> Method:
    assert isinstance(task, Pretext)
    return Dense(backbone, task)


def _targets(data: Dataset, split: str) -> np.ndarray:
    source, rows = data.split(split)
    return source.labels[rows]


def _mean_box(data: Dataset, backbone: HubModel, settings: Settings, machine: Machine) -> float:
    train, test, classes = _targets(data, "train"), _targets(data, "test"), len(data.train.classes)
    return scores.average_precision(scores.mean_boxes(train, len(test), classes), test, classes)


def _majority(data: Dataset, backbone: HubModel, settings: Settings, machine: Machine) -> float:
    test = _targets(data, "test")
    commonest = np.bincount(_targets(data, "train").ravel()).argmax()
    return scores.mean_iou(np.full(test.shape, commonest), test, len(data.train.classes))


def _mean_place(data: Dataset, backbone: HubModel, settings: Settings, machine: Machine) -> float:
    train, test = _targets(data, "train"), _targets(data, "test")
    mean = (train[..., :2] * train[..., 2:]).sum(0) / train[..., 2:].sum(0)  # (J, 2)
    return scores.keypoint_errors(np.broadcast_to(mean, test[..., :2].shape), test)["pck"]


def _dense_gallery(
    method: Method, task: Pretext | Classification, data: Dataset, settings: Settings, machine: Machine
) -> Gallery:
    """Held-out scenes, their labels and the decoded predictions."""
    prediction, target, _ = evaluate(method, data, "test", settings, machine)
    out = _first(data, {"target": target[:SHOWN]}) | {"classes": np.array(data.train.classes)}
    if isinstance(task, Detection):
        found = task.detections(prediction[:SHOWN], least=0.3)
        return out | {f"found_{field}": value for field, value in dataclasses.asdict(found).items()}
    assert isinstance(task, Segmentation | Keypoints)
    return out | {"found": task.decode(prediction[:SHOWN]).numpy()}


# The hubs -------------------------------------------------------------------------------------------------------------

_SUPERVISED = Settings(
    image_size=32, decode_size=32, batch_size=128, iterations=2500, milestones=(1700, 2250), lr=0.1, crop="shift",
    test_crops=1, eval_every=500,
)  # fmt: skip
_DENSE = Settings(
    image_size=32, decode_size=32, batch_size=64, iterations=1500, milestones=(1000, 1350), lr=0.05, crop="none",
    test_crops=1, eval_every=300,
)  # fmt: skip

_SHORTER = dataclasses.replace(_DENSE, iterations=900, milestones=(600, 800))

SUPERVISED = Recipe(
    _SUPERVISED, lambda seed, settings: scenes.photographs(settings), _classes, _single, "chance", _chance, _predicted
)
MOCO = Recipe(
    dataclasses.replace(_SUPERVISED, crop="none", lr=0.06, iterations=1300, milestones=(900, 1200), eval_every=400),
    _mirrored_by_the_method,
    _contrast,
    lambda backbone, task: MoCo(backbone),
    "features of random weights",
    _random_features,
    _neighbours,
)
DETECTION = Recipe(
    _DENSE, _loader("detection"), lambda data: Detection(len(data.train.classes)), _dense,
    "every class's mean box", _mean_box, _dense_gallery, start="supervised",
)  # fmt: skip
SEGMENTATION = Recipe(
    _SHORTER, _loader("segmentation"), lambda data: Segmentation(len(data.train.classes)), _dense,
    "the commonest class everywhere", _majority, _dense_gallery, start="supervised",
)  # fmt: skip
KEYPOINTS = Recipe(
    _SHORTER, _loader("keypoints"), lambda data: Keypoints(len(data.train.classes)), _dense,
    "every point's mean place", _mean_place, _dense_gallery, start="supervised",
)  # fmt: skip

_ZOO = {
    "supervised": SUPERVISED,
    "moco": MOCO,
    "detection": DETECTION,
    "segmentation": SEGMENTATION,
    "keypoints": KEYPOINTS,
}


def _with(recipe: Recipe, start: str | None = None, **changes: object) -> Recipe:
    settings = dataclasses.replace(recipe.settings, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(recipe, settings=settings, start=recipe.start if start is None else start)


def _digits(name: str) -> Recipe:
    return Recipe(
        digits.SETTINGS, lambda seed, settings: digits.pretext_data(digits.PRETEXTS[name], seed), _classes, _single,
        "chance", _chance,
    )  # fmt: skip


RECIPES: dict[str, dict[str, Recipe]] = {
    "digits-zoo": {name: _digits(name) for name in digits.PRETEXTS},
    "mini-zoo": _ZOO,
    "mini-zoo-independent": {name: _with(recipe, start="") for name, recipe in _ZOO.items() if recipe.start},
    "mini-hub": {
        "residual": _with(SUPERVISED, iterations=800, milestones=(550, 730)),
        "inverted": _with(SUPERVISED, iterations=700, milestones=(480, 640), precision="float32"),
        "window": _with(SUPERVISED, iterations=700, milestones=(480, 640), lr=0.05),
        "convnext": _with(SUPERVISED, iterations=700, milestones=(480, 640), lr=0.05),
    },
}
