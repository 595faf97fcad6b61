"""Widgets of the book: live in JupyterLab with a kernel, and in the static page from the state they were saved with.

Everything that a widget shows is in its traits, taken from records; its script only filters, sorts and draws. So a page
needs no kernel and no network, and a test can compare what the page shows with the records. No torch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import matplotlib as mpl
import numpy as np
import pandas as pd
import traitlets as t
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from zoolib import palette, routes
from zoolib.data import embedded, manifests
from zoolib.results import Result
from zoolib.spec import ZoolibError

_STATIC = Path(__file__).with_name("static")
_SIDE = 96  # pixels of a thumbnail, at most
Explain = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def _script(name: str) -> str:
    return (_STATIC / "common.js").read_text() + (_STATIC / name).read_text()


def png_uri(image: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as a data: address, at most 96 px wide and tall."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(image, np.uint8))
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def test_images(dataset: str, rows: Sequence[int]) -> list[np.ndarray]:
    """Test images (H, W, 3) uint8 of an embedded dataset; grey squares where the pixels are not part of the package."""
    if manifests.dataset(dataset).source != "embedded":
        return [np.full((8, 8, 3), 160, np.uint8)] * len(rows)
    images, _, _ = embedded.load(dataset, "test")
    return [images[row] for row in rows]


def class_names(dataset: str) -> list[str]:
    """The names of a dataset's classes; numbers where they are not part of the package."""
    manifest = manifests.dataset(dataset)
    if manifest.source == "embedded":
        return list(embedded.load(dataset, "test")[2])
    return [f"class {i}" for i in range(manifest.num_classes)]


def _spread(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def _answers(outputs: Mapping[str, Any], names: Sequence[str]) -> list[list[list[list[float]]]]:
    """For each image and each of the named alternatives, the top classes with their probabilities: [N][n][T][2]."""
    columns = [(outputs[f"top:{name}"], outputs[f"probability:{name}"]) for name in names]
    return [
        [[[int(c), round(float(p), 4)] for c, p in zip(top[i], p_top[i], strict=True)] for top, p_top in columns]
        for i in range(len(outputs["label"]))
    ]


class PathwayExplorer(anywidget.AnyWidget):
    """Hub-Pathway on single test images: weights, active models, each model's own answer, the aggregate for every k.

    `selected` is the position of the shown image in `index`, the rows of the test file; observe it, or `k`. See
    `explorer` for one made of a record, and `attach` for images of your own.
    """

    _esm = _script("pathways.js")
    _css = (_STATIC / "widgets.css").read_text()
    thumbs = t.List(t.Unicode()).tag(sync=True)
    index = t.List(t.Int()).tag(sync=True)
    labels = t.List(t.Int()).tag(sync=True)  # -1: an image of your own
    classes = t.List(t.Unicode()).tag(sync=True)
    members = t.List(t.Unicode()).tag(sync=True)
    colours = t.List(t.Unicode()).tag(sync=True)
    weights: t.List[Any] = t.List().tag(sync=True)  # [image][member]
    entropy = t.List(t.Float()).tag(sync=True)  # of the weights, in nats
    own: t.List[Any] = t.List().tag(sync=True)  # [image][member][rank] = [class, probability]
    aggregate: t.List[Any] = t.List().tag(sync=True)  # [image][k - 1][rank] = [class, probability]
    k = t.Int(2).tag(sync=True)
    selected = t.Int(0).tag(sync=True)
    only_class = t.Int(-1).tag(sync=True)
    only = t.Enum(("all", "right", "wrong"), "all").tag(sync=True)
    min_entropy = t.Float(0.0).tag(sync=True)
    live = t.Bool(False).tag(sync=True)  # whether a kernel answers, which the front end asks for
    upload = t.Dict().tag(sync=True)  # {"name", "content": base64}
    message = t.Unicode("").tag(sync=True)

    def attach(self, explain: Explain) -> None:
        """Offer an upload: `explain` takes an image (H, W, 3) uint8 and returns one row of a record's tables.

        Its keys are those of `Result.outputs` (lists of length 1) and `weight:<member>`, as zoolib.own returns them.
        """
        self._explain = explain
        self.observe(self._uploaded, "upload")
        self.on_msg(self._asked)
        self.send({"attached": True})

    def show(self, image: np.ndarray) -> None:
        """Run the attached model on an image (H, W, 3) uint8 and select it."""
        answer = dict(self._explain(image)) | {"label": [-1]}
        names = [name.removeprefix("weight:") for name in answer if name.startswith("weight:")]
        weights = np.array([[float(np.ravel(answer[f"weight:{name}"])[0]) for name in names]])
        with self.hold_sync(), self.hold_trait_notifications():
            self.thumbs = [*self.thumbs, png_uri(image)]
            self.index = [*self.index, -1]
            self.weights = [*self.weights, weights[0].round(4).tolist()]
            self.entropy = [*self.entropy, float(routes.route_entropy(weights)[0])]
            self.own = [*self.own, *_answers(answer, [f"member:{name}" for name in names])]
            self.aggregate = [*self.aggregate, *_answers(answer, [f"k:{i + 1}" for i in range(len(names))])]
            self.only_class, self.only, self.min_entropy = -1, "all", 0.0
            self.labels = [*self.labels, -1]
            self.selected = len(self.labels) - 1

    def _asked(self, _: object, content: object, __: object) -> None:
        """A front end is there: the upload is shown. A page that was saved without one does not offer it."""
        if content == {"ask": "live"}:
            self.live = True

    def _uploaded(self, change: Mapping[str, Any]) -> None:
        from PIL import Image

        from zoolib.data import pictures

        if not change["new"]:
            return
        self.message = ""
        try:
            content = base64.b64decode(change["new"]["content"], validate=True)
            with Image.open(io.BytesIO(content)) as opened:
                image = np.asarray(pictures.picture(opened))  # turned and on white, as training images are
        except Exception:  # Pillow raises many kinds for damaged and for huge images
            self.message = f"{change['new'].get('name', 'the file')} is not a readable image; choose a PNG or JPEG file"
            return
        try:
            self.show(image)
        except ZoolibError as error:
            self.message = str(error)


def explorer(result: Result, titles: Mapping[str, str] | None = None, most: int = 120) -> PathwayExplorer:
    """The explorer of one Hub-Pathway record, of at most `most` of the images that it keeps outputs of.

    Raises ZoolibError when the record keeps none.
    """
    if result.outputs is None or result.samples is None:
        raise ZoolibError(f"{result.spec.label} keeps no outputs of single models; compute it again with zoolib run")
    outputs = result.outputs.iloc[_spread(len(result.outputs), most)]
    images = test_images(result.spec.dataset, outputs["index"].tolist())
    return explorer_of(
        outputs, result.samples, images, class_names(result.spec.dataset), result.spec.option("top_k"), titles
    )


def explorer_of(
    outputs: pd.DataFrame,
    samples: pd.DataFrame,
    images: Sequence[np.ndarray],
    classes: Sequence[str],
    k: int,
    titles: Mapping[str, str] | None = None,
) -> PathwayExplorer:
    """The explorer of a record's tables, or of zoolib.own's; `images` (H, W, 3) uint8, one for each of `outputs`."""
    columns: dict[str, Any] = {str(name): outputs[name].tolist() for name in outputs}
    weights = routes.weights_of(samples.set_index("index").loc[columns["index"]])
    names = list(weights.columns)
    return PathwayExplorer(
        thumbs=[png_uri(image) for image in images],
        index=columns["index"],
        labels=columns["label"],
        classes=list(classes),
        members=[(titles or {}).get(name, name) for name in names],
        colours=list(palette.member_colours(names).values()),
        weights=weights.to_numpy().round(4).tolist(),
        entropy=routes.route_entropy(weights.to_numpy()).round(4).tolist(),
        own=_answers(columns, [f"member:{name}" for name in names]),
        aggregate=_answers(columns, [f"k:{i + 1}" for i in range(len(names))]),
        k=k,
    )


class GateExplorer(anywidget.AnyWidget):
    """Zoo-Tuning's gates, layer by layer: of all images, of a class, or of one image; observe `layer` or `selected`."""

    _esm = _script("gates.js")
    _css = (_STATIC / "widgets.css").read_text()
    thumbs = t.List(t.Unicode()).tag(sync=True)
    index = t.List(t.Int()).tag(sync=True)
    labels = t.List(t.Int()).tag(sync=True)
    classes = t.List(t.Unicode()).tag(sync=True)
    members = t.List(t.Unicode()).tag(sync=True)
    colours = t.List(t.Unicode()).tag(sync=True)
    layers = t.List(t.Unicode()).tag(sync=True)
    gates: t.List[Any] = t.List().tag(sync=True)  # [image][layer][member]
    mean: t.List[Any] = t.List().tag(sync=True)  # [layer][member], over the whole test split
    class_mean = t.Dict().tag(sync=True)  # class -> [layer][member], over the whole test split
    scale = t.List(t.Unicode()).tag(sync=True)  # colours of gates from 0 to 1
    mode = t.Enum(("all", "class", "image"), "all").tag(sync=True)
    only_class = t.Int(0).tag(sync=True)
    layer = t.Int(0).tag(sync=True)
    selected = t.Int(0).tag(sync=True)


def gate_explorer(result: Result, titles: Sequence[str], most: int = 40) -> GateExplorer:
    """The gates of one Zoo-Tuning record: means over the whole test split, and `most` single images.

    Raises ZoolibError when the record holds no gates.
    """
    if result.samples is None:
        raise ZoolibError(f"{result.spec.label} recorded no samples; compute it again with zoolib run")
    gates, layers = routes.gates_of(result.samples)  # (N, L, m)
    labels = result.samples["label"].to_numpy()
    by_class = np.argsort(labels, kind="stable")
    few = result.samples.iloc[by_class[_spread(len(labels), most)]]
    shown = sorted({int(label) for label in few["label"]})
    return GateExplorer(
        thumbs=[png_uri(image) for image in test_images(result.spec.dataset, few["index"].tolist())],
        index=few["index"].tolist(),
        labels=few["label"].tolist(),
        classes=class_names(result.spec.dataset),
        members=list(titles),
        colours=list(palette.member_colours(_member_names(result)).values()),
        layers=layers,
        gates=routes.gates_of(few)[0].round(3).tolist(),
        mean=gates.mean(0).round(4).tolist(),
        class_mean={str(label): gates[labels == label].mean(0).round(4).tolist() for label in shown},
        scale=[to_hex(mpl.colormaps[palette.HEAT](i / 31)) for i in range(32)],
        only_class=shown[0],
    )


def _member_names(result: Result) -> list[str]:
    return [member.name for member in manifests.hub(result.spec.hub).members]


class TableExplorer(anywidget.AnyWidget):
    """A table to sort and filter, whose columns are ours or the paper's; observe `selected`, a row of the frame."""

    _esm = _script("table.js")
    _css = (_STATIC / "widgets.css").read_text()
    columns: t.List[Any] = t.List().tag(sync=True)  # {"name", "group": "" | "ours" | "paper", "numeric"}
    rows: t.List[Any] = t.List().tag(sync=True)  # [row][column] = {"text", "value": number or None}
    sort = t.Int(-1).tag(sync=True)
    descending = t.Bool(False).tag(sync=True)
    query = t.Unicode("").tag(sync=True)
    only = t.Dict().tag(sync=True)  # {column: text}, for columns of few different texts; "" for any
    show = t.Enum(("all", "ours", "paper"), "all").tag(sync=True)
    selected = t.Int(-1).tag(sync=True)


def table_explorer(
    shown: pd.DataFrame, values: Mapping[str, Sequence[float]], groups: Mapping[str, str]
) -> TableExplorer:
    """A table as a reader sees it (texts, its index first), with the numbers behind some columns.

    `values` gives numbers for sorting by column name (nan: missing, always last), `groups` says which columns are
    "ours" or the "paper"'s. Raises ZoolibError for a column that the table lacks, or one value too few.
    """
    flat = shown.reset_index() if shown.index.name else shown
    for name in (*values, *groups):
        if name not in flat.columns:
            raise ZoolibError(f"the table has no column {name!r}; it has {', '.join(map(str, flat.columns))}")
    for name, numbers in values.items():
        if len(numbers) != len(flat):
            raise ZoolibError(f"column {name!r} has {len(numbers)} values for {len(flat)} rows; pass one a row")
    columns = [{"name": str(c), "group": groups.get(str(c), ""), "numeric": str(c) in values} for c in flat.columns]
    rows = [
        [{"text": str(cell), "value": _value(values.get(str(name)), i)} for name, cell in row.items()]
        for i, row in enumerate(flat.to_dict("records"))
    ]
    return TableExplorer(columns=columns, rows=rows)


def _value(numbers: Sequence[float] | None, row: int) -> float | None:
    return None if numbers is None or not np.isfinite(numbers[row]) else float(numbers[row])


def picture(widget: PathwayExplorer | GateExplorer, count: int = 12) -> Figure:
    """What a widget shows, as a figure for print and for readers without JavaScript."""
    if isinstance(widget, GateExplorer):
        gates = pd.DataFrame({f"gates:{n}": list(np.array(widget.gates)[:, i]) for i, n in enumerate(widget.layers)})
        labels = np.array(widget.labels)
        groups = {widget.classes[c]: labels == c for c in np.unique(labels)[:5]}
        return routes.gate_panels(gates, groups, widget.members)
    few = _spread(len(widget.labels), count)
    rows = {
        "label": [widget.labels[i] for i in few],
        "prediction": [widget.aggregate[i][widget.k - 1][0][0] for i in few],
    }
    weights = {f"weight:{n}": [widget.weights[i][m] for i in few] for m, n in enumerate(widget.members)}
    return routes.sample_sheet(
        [_pixels(widget.thumbs[i]) for i in few], pd.DataFrame(rows | weights), widget.k, widget.classes,
        colours=widget.colours,
    )  # fmt: skip


def _pixels(uri: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))
