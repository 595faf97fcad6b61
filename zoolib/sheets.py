"""Sample sheets: what the embedded datasets look like, and the dense labels of the rendered ones.

Drawn from the data themselves. No torch. Each function returns a Figure; `jpeg` gives the picture that a card shows.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from zoolib.data import embedded, manifests, portraits, things
from zoolib.data.render import Rendered, render
from zoolib.spec import unknown

COLOURS = ("#332288", "#DDCC77", "#CC6677", "#117733", "#88CCEE", "#AA4499", "#999933", "#882255", "#44AA99", "#DD7733")
POINTS = ("#FFFFFF", "#FFE14D", "#7CF5FF", "#FF9DF0")  # of the four keypoints, on a dark rim
TRAIN, TEST = "#0072B2", "#E69F00"
_WIDTH = 7.0  # inches
_LARGE = 160  # pixels; the side at which labels are shown


@dataclass(frozen=True)
class Sheet:
    """A picture of a dataset's card."""

    draw: Callable[[], Figure]
    alt: str
    caption: str


def _tiled(images: np.ndarray, gap: int, zoom: int = 1) -> np.ndarray:
    """(R, C, S, S, 3) uint8 -> one picture with white gaps, each pixel enlarged `zoom` times."""
    rows, columns, side = images.shape[:3]
    cell = side * zoom + gap
    out = np.full((rows * cell - gap, columns * cell - gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            large = images[row, column].repeat(zoom, 0).repeat(zoom, 1)
            out[row * cell : row * cell + side * zoom, column * cell : column * cell + side * zoom] = large
    return out


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def samples(name: str, columns: int = 12) -> Figure:
    """The first training images of every class of an embedded dataset, one row a class."""
    images, labels, classes = embedded.load(name, "train")
    shown = np.stack([images[labels == label][:columns] for label in range(len(classes))])
    gap, zoom = 6, max(1, 64 // images.shape[1])
    picture = _tiled(shown, gap, zoom)
    names = [text.replace(", ", ",\n", 1) for text in classes]
    words = 0.22 + 0.066 * max(len(line) for text in names for line in text.splitlines())  # inches that they take
    figure = Figure(
        figsize=(_WIDTH, (_WIDTH - words) * picture.shape[0] / picture.shape[1] + 0.1), layout="constrained"
    )
    axes = figure.subplots()
    axes.imshow(picture, interpolation="antialiased")
    axes.set_anchor("E")
    _bare(axes)
    cell = images.shape[1] * zoom + gap
    axes.set_yticks([cell * row + (cell - gap) / 2 for row in range(len(names))], names, fontsize=7.5)
    axes.tick_params(length=0)
    return figure


def labels(name: str, columns: int = 6) -> Figure:
    """Scenes of a rendered dataset: the image that a model sees, the masks, and the boxes and keypoints, enlarged.

    Raises ZoolibError for a dataset that is not rendered.
    """
    scene = embedded.described(name, "train")
    family = embedded.FAMILIES[name]
    fines = np.linspace(0, len(family.fine_classes) - 1, columns).round().astype(int)
    rows = np.array([np.flatnonzero(scene.fine == fine)[1] for fine in fines])
    chosen = scene.take(rows)
    small, large = render(chosen, embedded.SIZE), render(chosen, _LARGE)
    colours = COLOURS if name == "tiles" else ("#CC6677",) * len(family.object_classes)
    room = 0.3 + 0.12 * max(1 + family.fine_classes[fine].count(", ") for fine in fines)
    figure = _label_rows(small.images, large, chosen.objects, colours, room)
    for axes, fine in zip(figure.axes[:columns], fines, strict=True):
        axes.set_title(family.fine_classes[fine].replace(", ", ",\n"), fontsize=7, pad=3)
    if name == "tiles":
        keys = [Patch(color=colour, label=kind) for colour, kind in zip(COLOURS, family.object_classes, strict=False)]
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=7.5, frameon=False)
    else:
        numbers = [_dot(colour, f"keypoint {j + 1}") for j, colour in enumerate(POINTS)]
        figure.legend(handles=numbers, loc="outside lower center", ncols=4, fontsize=7.5, frameon=False)
    return figure


def over_photographs(columns: int = 6) -> Figure:
    """Scenes of up to three things over photographs, with masks, boxes and keypoints, as pretext tasks need them."""
    rng = np.random.default_rng(7)
    fine = np.where(rng.random((columns, 3)) < 0.2, -1, rng.permuted(np.arange(20))[: columns * 3].reshape(columns, 3))
    scene = things.shapes(rng, fine)
    photographs = [embedded.colour_photograph(name) for name in ("coffee", "astronaut", "rocket")]
    behind = np.stack([_window(photographs[i % 3], rng, 4 * 40) for i in range(columns)])
    large = render(scene, _LARGE, behind)
    small = render(scene, 40, behind.reshape(columns, 40, 4, 40, 4, 3).mean((2, 4)).astype(np.uint8))
    return _label_rows(small.images, large, scene.objects, COLOURS, 0.0)


def _window(image: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    top, left = (rng.integers(extent - side + 1) for extent in image.shape[:2])
    return image[top : top + side, left : left + side]


def _label_rows(
    small: np.ndarray, large: Rendered, objects: np.ndarray, colours: tuple[str, ...], room: float
) -> Figure:
    """Three rows: the images at their own size, masks over the enlarged ones, boxes and keypoints over them.

    `room` is the height in inches for titles and a legend.
    """
    columns, count = objects.shape
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(_WIDTH, _WIDTH / columns * 3 + room), layout=close)
    grid = figure.subplots(3, columns)
    table = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    for column in range(columns):
        image = large.images[column].astype(float) / 255
        kinds = objects[column][large.mask[column] - 1]  # wrong where the mask is 0, and not looked at there
        seen = (large.mask[column] > 0)[..., None]
        grey = 0.35 * image.mean(-1, keepdims=True) + 0.1
        grid[0, column].imshow(small[column], interpolation="nearest")
        grid[1, column].imshow(np.where(seen, 0.75 * table[kinds] + 0.25 * image, grey))
        grid[2, column].imshow(0.25 + 0.75 * image)
        for k in range(count):
            if np.isfinite(large.boxes[column, k]).all():
                _object(grid[2, column], large, column, k, colours[objects[column, k]])
        for row in range(3):
            _bare(grid[row, column])
    for row, text in enumerate(("image", "mask", "box, keypoints")):
        grid[row, 0].set_ylabel(text, fontsize=7.5)
    return figure


def _object(axes: Axes, seen: Rendered, scene: int, k: int, colour: str) -> None:
    """The box and the visible keypoints of one object."""
    left, top, right, bottom = seen.boxes[scene, k] - 0.5  # imshow has pixel centres at whole numbers
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=1.1, gid="box"))
    for j, (x, y) in enumerate(seen.keypoints[scene, k] - 0.5):
        if seen.visible[scene, k, j]:
            size = 3.2 if seen.keypoints.shape[1] < 5 else 1.8
            axes.plot(x, y, "o", ms=size, mfc=POINTS[j], mec="#222222", mew=0.5, gid="keypoint", clip_on=True)


def _dot(colour: str, text: str) -> Line2D:
    return Line2D([], [], ls="", marker="o", ms=4, mfc=colour, mec="#222222", mew=0.5, label=text)


def regions(columns: int = 4) -> Figure:
    """The photographs of `textures`, with the patches that train and those that test."""
    names = list(embedded.PHOTOGRAPHS)
    depth = -(-len(names) // columns)
    figure = Figure(figsize=(_WIDTH, _WIDTH / columns * depth * 0.98), layout="constrained")
    grid = figure.subplots(depth, columns).ravel()
    corners = {colour: embedded.patch_sources(split) for colour, split in ((TRAIN, "train"), (TEST, "test"))}
    for index, (axes, name) in enumerate(zip(grid, names, strict=False)):
        grey = embedded.photograph(name)
        picture = np.repeat(grey[..., None] / 255.0, 3, -1)
        tinted = 0.25 + 0.75 * picture
        for colour, sources in corners.items():
            for y, x in sources[index]:
                window = np.s_[y : y + embedded.PATCH - 1, x : x + embedded.PATCH - 1]
                tinted[window] = 0.55 * picture[window] + 0.45 * np.array(mpl.colors.to_rgb(colour))
        axes.imshow(tinted)
        axes.set_title(name, fontsize=8, pad=3)
    for axes in grid:
        _bare(axes)
    keys = [Patch(color=TRAIN, label="train and validation"), Patch(color=TEST, label="test")]
    grid[-1].legend(handles=keys, loc="center", fontsize=8, frameon=False)
    return figure


def _card(name: str) -> dict[str, Sheet]:
    """The sheets of one embedded dataset."""
    first = Sheet(
        lambda: samples(name),
        f"Sample images of {name}, one row for each class",
        "Training images of every class, enlarged.",
    )
    if name == "textures":
        where = "Where the patches come from. No two share a pixel, and test bands keep apart from the others."
        return {"samples": first, "regions": Sheet(regions, "The photographs with their train and test patches", where)}
    if name not in embedded.FAMILIES:
        return {"samples": first}
    drawn = Sheet(
        lambda: labels(name),
        f"Scenes of {name} with masks, boxes and keypoints",
        "Above: what a model sees. Below, the same scenes drawn larger: the mask of each object, its box, and those of "
        "its four keypoints that are not hidden.",
    )
    return {"samples": first, "labels": drawn}


def faces(columns: int = 8, depth: int = 3) -> Figure:
    """Training images of `faces-rendered`, every second with its 68 points drawn over it."""
    images, points = portraits.load("faces-rendered", "train", manifests.dataset("faces-rendered").sizes.train)
    figure = Figure(figsize=(_WIDTH, _WIDTH / columns * depth), layout="constrained")
    for index, axes in enumerate(figure.subplots(depth, columns).ravel()):
        axes.imshow(images[index])
        if index % 2:
            axes.plot(points[index, :, 0] - 0.5, points[index, :, 1] - 0.5, ".", ms=1.2, color=TEST)
        _bare(axes)
    return figure


_FACES = Sheet(
    faces, "Rendered faces, every second with its 68 points", "Training images; every second shows its 68 points."
)

SHEETS: dict[str, dict[str, Sheet]] = {
    **{name: _card(name) for name in embedded.EMBEDDED},
    "faces-rendered": {"samples": _FACES},
    "rendered": {"photographs": Sheet(over_photographs, "Rendered things over photographs with their labels", "")},
}


@functools.cache
def jpeg(name: str, kind: str) -> bytes:
    """A sheet as a JPEG file, since noise makes a PNG several times as large.

    Raises ZoolibError for a dataset or kind without one.
    """
    if name not in SHEETS or kind not in SHEETS[name]:
        known = [f"{dataset}-{sheet}" for dataset, kinds in SHEETS.items() for sheet in kinds]
        raise unknown("sheet", f"{name}-{kind}", known)
    out = io.BytesIO()
    with mpl.rc_context({"font.size": 8, "figure.facecolor": "white", "savefig.facecolor": "white"}):
        SHEETS[name][kind].draw().savefig(out, format="jpeg", dpi=150, pil_kwargs={"quality": 90})
    return out.getvalue()
