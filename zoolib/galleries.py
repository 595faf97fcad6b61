"""What the pre-training of a packaged hub left behind, shown: metrics beside trivial answers, and held-out examples.

Reads provenance.json and the small galleries beside the weights. No torch.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zoolib.data import manifests
from zoolib.palette import MEMBER_COLOURS, styled
from zoolib.paths import made_weights, packaged_weights
from zoolib.spec import ZoolibError

METRICS = {
    "top1_accuracy": "top-1 accuracy (%)",
    "knn_accuracy": "accuracy of the 20 nearest neighbours' vote (%)",
    "ap50": "average precision at an overlap of 0.5 (%)",
    "mean_iou": "mean intersection over union (%)",
    "pck": "keypoints within 2 pixels (%)",
}
_SIDE = 32  # pixels of the images shown
_RIGHT, _WRONG = "#117733", "#CC6677"


def notes(hub: str) -> dict[str, dict[str, Any]]:
    """The provenance of a hub's members by name: all that were made, packaged ones before those in the build folder."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (packaged_weights(hub), made_weights(hub)):
        path = folder / "provenance.json"
        for note in json.loads(path.read_text()) if path.is_file() else []:
            found.setdefault(note["member"], note)
    return found


def summary(hub: str) -> pd.DataFrame:
    """One row a member: pretext metric on held-out images, the trivial answer's, and what it took."""
    known = notes(hub)
    rows = []
    for member in manifests.hub(hub).members:
        note = known.get(member.name)
        if note is None:
            continue
        steps, batch = note["settings"]["iterations"], note["settings"]["batch_size"]
        row = {"Member": member.title, "Metric on held-out images": METRICS[note["metric"]],
               "Reached": f"{note['value']:.1f}", "Trivial": f"{note['baseline']:.1f} ({note['baseline_name']})",
               "Starts from": note["start"] or "random weights", "Steps × batch": f"{steps:,} × {batch}",
               "CPU seconds": f"{note['cpu_seconds']:.0f}"}  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def stamp(hub: str) -> str:
    """Which commits and machines made the hub's weights."""
    made = notes(hub).values()
    commits = sorted({note["commit"][:7] + ("*" if note["dirty"] else "") for note in made})
    machines = sorted({note["machine"]["cpu"] for note in made})
    kinds = sorted({note["precision"] for note in made})
    mark = " (* with local changes)" if any(commit.endswith("*") for commit in commits) else ""
    return f"Made at commit {', '.join(commits)}{mark} on {', '.join(machines)} in {', '.join(kinds)}; seed 0."


@styled
def progress(hub: str) -> Figure:
    """Each member's metric on validation images over its pre-training."""
    figure = Figure(figsize=(6.0, 2.8), layout="constrained")
    axes = figure.subplots()
    titles = {member.name: member.title for member in manifests.hub(hub).members}
    for colour, (name, note) in zip(MEMBER_COLOURS, notes(hub).items(), strict=False):
        points = [
            (step, value) for step, split, term, value in note["curve"] if (split, term) == ("val", note["metric"])
        ]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, "o-", ms=3, color=colour, label=titles[name])
    axes.set_xlabel("Iteration")
    axes.set_ylabel("Pretext metric, validation (%)")
    axes.set_ylim(0, 100)
    axes.grid(color="0.92")
    figure.legend(loc="outside right upper")
    return figure


def gallery(hub: str, member: str) -> dict[str, np.ndarray]:
    """The stored examples of a member. Raises ZoolibError where there are none."""
    for folder in (packaged_weights(hub), made_weights(hub)):
        path = folder / f"{member}.npz"
        if path.is_file():
            with np.load(path) as file:
                return {name: file[name] for name in file.files}
    raise ZoolibError(f"{hub} has no gallery of {member!r}: make it with python -m zoolib pretrain {hub}")


@styled
def examples(hub: str, member: str) -> Figure:
    """Held-out images and what a member's pretext says of them.

    Classes: the predicted ones, the true one below where it differs. Neighbours: five for each of the first images, a
    green frame for the same class. Boxes: true ones white and dashed. Pixels: image, truth, prediction. Keypoints: the
    true ones as circles, the predicted as crosses.

    Raises ZoolibError where there is no gallery.
    """
    shown = gallery(hub, member)
    if "neighbours" in shown:
        return _neighbours(shown)
    if "target" in shown and shown["target"].ndim == 3 and shown["target"].shape[-1] == _SIDE:
        return _pixels(shown)
    figure, axes = _row(shown["images"])
    for index, one in enumerate(axes):
        if "label" in shown:
            truth, found = (str(shown["classes"][shown[key][index]]) for key in ("label", "found"))
            _caption(one, found, truth == found, truth)
        elif "found_box" in shown:
            _boxes(one, shown, index)
        else:
            _points(one, shown, index)
    return figure


def _row(images: np.ndarray, rows: int = 1) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(7.0, 1.05 * rows), layout="constrained")
    axes = figure.subplots(rows, len(images), squeeze=False)
    for one in axes.ravel():
        one.set_axis_off()
    for one, image in zip(axes[0], images, strict=True):
        one.imshow(image, interpolation="nearest")
    return figure, axes[0] if rows == 1 else axes


def _caption(axes: Axes, text: str, right: bool, truth: str) -> None:
    words = text.replace("_", " ") if right else f"{text}\nnot {truth}".replace("_", " ")
    axes.set_title(words, fontsize=7, color=_RIGHT if right else _WRONG, loc="center")


def _frame(axes: Axes, colour: str) -> None:
    axes.add_patch(Rectangle((-0.5, -0.5), _SIDE, _SIDE, fill=False, ec=colour, lw=3))


def _neighbours(shown: dict[str, np.ndarray]) -> Figure:
    count, near = 4, shown["neighbours"].shape[1]
    figure = Figure(figsize=(6.0, 1.05 * count), layout="constrained")
    grid = figure.subplots(count, near + 1)
    for row in range(count):
        for column, axes in enumerate(grid[row]):
            axes.set_axis_off()
            image = shown["images"][row] if column == 0 else shown["neighbours"][row, column - 1]
            axes.imshow(image, interpolation="nearest")
            label = shown["label"][row] if column == 0 else shown["neighbour_label"][row, column - 1]
            axes.set_title(str(shown["classes"][label]).replace("_", " "), fontsize=7, loc="center")
            if column:
                _frame(axes, _RIGHT if label == shown["label"][row] else _WRONG)
    return figure


def _pixels(shown: dict[str, np.ndarray]) -> Figure:
    figure, axes = _row(shown["images"], rows=3)
    classes = list(shown["classes"])
    table = np.array([[0.85] * 3, *([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in MEMBER_COLOURS)])
    for index in range(axes.shape[1]):
        axes[1, index].imshow(table[shown["target"][index]], interpolation="nearest")
        axes[2, index].imshow(table[shown["found"][index]], interpolation="nearest")
    for row, name in enumerate(("image", "truth", "found")):
        axes[row, 0].text(-3, 16, name, rotation=90, ha="right", va="center", fontsize=8)
    used = [i for i in range(len(classes)) if (shown["target"] == i).any() or (shown["found"] == i).any()]
    handles = [Rectangle((0, 0), 1, 1, fc=table[i]) for i in used]
    figure.legend(handles, [classes[i] for i in used], loc="outside lower center", ncols=len(used), fontsize=7.5)
    return figure


def _boxes(axes: Axes, shown: dict[str, np.ndarray], index: int) -> None:
    for label, *box in shown["target"][index]:
        if label >= 0:
            _box(axes, box, "white", "--", "")
    for place in np.flatnonzero(shown["found_image"] == index):
        label = int(shown["found_label"][place])
        _box(axes, shown["found_box"][place], MEMBER_COLOURS[label % len(MEMBER_COLOURS)], "-",
             str(shown["classes"][label]))  # fmt: skip
    axes.set_xlim(-0.5, _SIDE - 0.5)
    axes.set_ylim(_SIDE - 0.5, -0.5)


def _box(axes: Axes, box: Any, colour: str, dashes: str, name: str) -> None:
    left, top, right, bottom = box
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=colour, ls=dashes, lw=1.3)
    )
    if name:  # above the box where the picture has room for its 5 pixels, and from its nearer side inwards
        far = left > _SIDE / 2
        axes.text(min(right, _SIDE - 1) if far else max(left, 0), max(top - 0.5, 5), name, fontsize=6.5, color="white",
                  ha="right" if far else "left", va="bottom", bbox={"fc": colour, "ec": "none", "pad": 0.6},
                  clip_on=True)  # fmt: skip


def _points(axes: Axes, shown: dict[str, np.ndarray], index: int) -> None:
    for number, ((x, y, seen), (fx, fy)) in enumerate(zip(shown["target"][index], shown["found"][index], strict=True)):
        colour = ("#DDCC77", "#88CCEE", "#CC6677", "#44AA99")[number % 4]
        if seen:
            axes.plot(x - 0.5, y - 0.5, "o", mfc="none", mec=colour, ms=8, mew=1.3)
        axes.plot(fx - 0.5, fy - 0.5, "x", color=colour, ms=5, mew=1.5)
