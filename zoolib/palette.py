"""One colour and marker for each method, one colour for each member of a hub, and the style that all figures share.

No torch. The colours are those of Okabe and Ito for families of methods, and of Paul Tol's muted scheme for members of
hubs; both stay apart under the common colour blindness. Methods of one family have shades of one colour, and markers
that differ; the regularised fine-tunings, which stand in one figure, have a colour each.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from zoolib.data import manifests

#: the method that gives each family its colour
FAMILY_COLOURS = {
    "scratch": "#222222",
    "finetune": "#0072B2",
    "ensemble": "#56B4E9",
    "oracle": "#5F5F5F",
    "distill": "#CC79A7",
    "model_soups": "#994F00",
    "fe": "#5D3A9B",
    "b_tuning": "#B5A500",
    "zoo_tuning": "#D55E00",
    "lite_zoo_tuning": "#E69F00",
    "hub_pathway": "#009E73",
}
_RELATIVES = {
    "finetune": ("best_single",),
    "ensemble": ("ensemble_top_k", "ensemble_joint"),
    "oracle": ("rank",),
    "distill": ("knowledge_flow", "ced", "ced_finetuned", "feature_distillation"),
    "fe": ("fe_finetuned",),
    "hub_pathway": (
        "hub_pathway_random_path",
        "hub_pathway_no_explore",
        "hub_pathway_no_exploit",
        "hub_pathway_task_level",
    ),
}
#: of Tol's scheme, those furthest from the blue of plain fine-tuning
_REGULARISED = {
    "l2_sp": "#332288",
    "ewc": "#117733",
    "delta": "#882255",
    "lwf": "#44AA99",
    "bss": "#999933",
    "co_tuning": "#CC6677",
    "bi_tuning": "#AA4499",
}
_OTHER = "#6b6b6b"  # methods that the project does not know
_MARKERS = ("o", "D", "s", "^", "v", "P", "X", "<", ">")
#: sand and light blue darker than Tol's, which fade as lines and dots on white
MEMBER_COLOURS = ("#332288", "#C08A1E", "#CC6677", "#117733", "#3D9BCB", "#AA4499", "#999933", "#882255", "#44AA99")
HEAT, DIVERGING = "cividis", "PuOr"
WIDTH = 7.0  # inches
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}
mpl.rcParams["svg.hashsalt"] = "zoolib"  # not in the style: a figure is saved, and its SVG's names made, after that

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give a figure function the book's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def heat_map(axes: Axes, values: pd.DataFrame, colours: str = HEAT, **options: Any) -> QuadMesh:
    """Draw a table as a heat map, its index down the side and its columns along the bottom; the numbers in a small one.

    `options` are those of seaborn.heatmap, such as vmin.
    """
    import seaborn  # a second or more to load, for these figures alone

    small = len(values) <= 25 and values.shape[1] <= 12
    look: dict[str, Any] = {"annot": small, "fmt": ".2f", "annot_kws": {"size": 7.5}, "cbar": False, "cmap": colours}
    look |= {"linewidths": 0.5} if small else {"rasterized": True}  # as cells of an SVG, a large one shows its seams
    seaborn.heatmap(values, ax=axes, **(look | options))
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0, labelsize=8.5 if len(values) <= 20 else 7.5)
    axes.set(xlabel="", ylabel="")
    mesh = axes.collections[0]
    assert isinstance(mesh, QuadMesh)
    return mesh


def _mixed(colour: str, towards: float, share: float) -> str:
    red, green, blue = ((1 - share) * part + share * towards for part in to_rgb(colour))
    return to_hex((red, green, blue))


def shades(colour: str, count: int) -> list[str]:
    """`count` shades of a colour, itself first, then darker and lighter by turns."""
    steps = [0.0, *(0.22 + 0.5 * (i // 2) / max(1, count // 2) for i in range(count - 1))]
    return [_mixed(colour, i % 2 == 0, step) if i else to_hex(colour) for i, step in enumerate(steps)]


def _families() -> dict[str, tuple[str, str]]:
    looks: dict[str, tuple[str, str]] = {}
    for head, colour in FAMILY_COLOURS.items():
        names = (head, *_RELATIVES.get(head, ()))
        looks |= dict(zip(names, zip(shades(colour, len(names)), _MARKERS, strict=False), strict=True))
    own = zip(_REGULARISED.values(), _MARKERS[1:], strict=False)  # the first marker is plain fine-tuning's
    return looks | dict(zip(_REGULARISED, own, strict=True))


_LOOKS = _families()
METHOD_COLOURS = {name: colour for name, (colour, _) in _LOOKS.items()}


def method_colour(method: str) -> str:
    """The colour of a method; grey for one of your own."""
    return _LOOKS[method][0] if method in _LOOKS else _OTHER


def method_marker(method: str) -> str:
    """The marker of a method, which tells it from its family; for one of your own it follows from its name."""
    return _LOOKS[method][1] if method in _LOOKS else _MARKERS[zlib.crc32(method.encode()) % len(_MARKERS)]


@functools.cache
def _fixed() -> dict[str, int]:
    """Member of a packaged hub -> its colour's place: its position in the hub, or the first that no fellow has taken.

    A fellow is a member of any hub that both belong to, so that one place serves a member in all of its hubs.
    """
    hubs = [[member.name for member in hub.members] for hub in manifests.hubs().values()]
    places: dict[str, int] = {}
    for names in sorted(hubs, key=lambda names: (-len(names), names)):
        for i, name in enumerate(names):
            if name not in places:
                taken = {places[fellow] for hub in hubs if name in hub for fellow in hub if fellow in places}
                wanted = [i % len(MEMBER_COLOURS), *range(len(MEMBER_COLOURS))]
                places[name] = next((place for place in wanted if place not in taken), wanted[0])
    return places


def member_colours(members: Sequence[str]) -> dict[str, str]:
    """The colours of a hub's members.

    A member of a packaged hub has one colour everywhere; the first colours that are free go to all others, in order.
    """
    places, taken = {}, set()
    for name in members:
        place = _fixed().get(name)
        if place is not None and place not in taken:
            places[name] = place
            taken.add(place)
    for name in members:
        if name not in places:
            free = [i for i in range(len(MEMBER_COLOURS)) if i not in taken]
            places[name] = free[0] if free else len(places) % len(MEMBER_COLOURS)
            taken.add(places[name])
    return {name: MEMBER_COLOURS[places[name]] for name in members}


def log_ticks(axes: Axes, values: pd.Series, label: str) -> None:
    """A logarithmic horizontal axis with a tick at each value, and a grid."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(values.unique()), [f"{value:g}" for value in sorted(values.unique())])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(color="0.92")
