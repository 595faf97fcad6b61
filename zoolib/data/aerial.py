"""`tiles`: rendered land seen from above in eight uses, two layouts of each. numpy only.

Colours of ground, roofs and plants overlap between the uses, so that the arrangement tells them apart. Every building,
tree, vehicle, road, water or crop row is an object of its own, made of one part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoolib.data.render import CAPSULE, ELLIPSE, NONE, POLYGON, Scenes, cos_sin
from zoolib.data.scenes import axis_ends, blank, uniform

USES = ("houses", "halls", "orchard", "forest", "crops", "road", "river", "parking")
LAYOUTS = (
    "houses in rows", "scattered houses", "halls", "halls with skylights", "orchard in a square grid",
    "orchard in a staggered grid", "closed forest", "forest with a clearing", "narrow crop rows", "wide crop rows",
    "road", "crossing", "river", "river under a bridge", "full car park", "car park, half empty",
)  # fmt: skip
ELEMENTS = ("building", "tree", "vehicle", "road", "water", "crop row")
BUILDING, TREE, VEHICLE, ROAD, WATER, ROW = range(len(ELEMENTS))
SLOTS = 20  # parts, and objects, of a scene
PALETTES = {
    "ground": ((0.33, 0.42, 0.22), (0.45, 0.42, 0.30), (0.55, 0.50, 0.40), (0.40, 0.40, 0.38)),
    "roof": ((0.60, 0.30, 0.24), (0.50, 0.46, 0.44), (0.70, 0.68, 0.64), (0.38, 0.36, 0.38), (0.52, 0.40, 0.30)),
    "plant": ((0.18, 0.32, 0.14), (0.28, 0.40, 0.18), (0.22, 0.28, 0.18), (0.40, 0.42, 0.20)),
    "car": ((0.75, 0.75, 0.75), (0.20, 0.22, 0.28), (0.60, 0.20, 0.18), (0.24, 0.34, 0.55), (0.85, 0.82, 0.75)),
    "asphalt": ((0.42, 0.42, 0.44), (0.52, 0.50, 0.50), (0.34, 0.34, 0.36), (0.58, 0.54, 0.48)),
    "water": ((0.20, 0.30, 0.38), (0.28, 0.36, 0.32), (0.36, 0.38, 0.30), (0.30, 0.34, 0.40)),
}


class _Land:
    """The parts of the scenes of one use while they are laid out, in units of half the image's side around (0, 0)."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self.rng, self.count, self.used = rng, count, 0
        self.kind = np.full((count, SLOTS), NONE, np.int8)
        self.points = np.zeros((count, SLOTS, 6, 2), np.float32)
        self.radii = np.full((count, SLOTS, 2), 0.01, np.float32)
        self.colour = np.zeros((count, SLOTS, 3), np.float32)
        self.element = np.full((count, SLOTS), -1)

    def draw(self, low: float, high: float, *shape: int) -> np.ndarray:
        return uniform(self.rng, low, high, self.count, *shape)

    def pick(self, palette: str, number: int, spread: float = 0.05) -> np.ndarray:
        """Colours (N, number, 3): one of the palette for each scene, varied a little for each part."""
        table = np.array(PALETTES[palette], np.float32)
        base = table[self.rng.integers(len(table), size=self.count)][:, None]
        return base + self.draw(-0.06, 0.06, 1, 1) + self.draw(-spread, spread, number, 3)

    def _slots(self, number: int) -> slice:
        self.used += number
        return slice(self.used - number, self.used)

    def boxes(self, centre: np.ndarray, half: np.ndarray, turn: np.ndarray, colour: np.ndarray, element: int) -> None:
        """Rectangles: centres and half sides (N, n, 2), turns (N, n)."""
        slots = self._slots(centre.shape[1])
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, 1), (-1, 1)], np.float32) * half[:, :, None]
        cos, sin = (part[..., None] for part in cos_sin(turn))
        x, y = corners[..., 0], corners[..., 1]
        self.points[:, slots] = centre[:, :, None] + np.stack([cos * x - sin * y, sin * x + cos * y], -1)
        self.kind[:, slots], self.colour[:, slots], self.element[:, slots] = POLYGON, colour, element

    def ovals(self, centre: np.ndarray, radii: np.ndarray, colour: np.ndarray, element: int) -> None:
        """Ellipses: centres and half axes (N, n, 2)."""
        slots = self._slots(centre.shape[1])
        self.points[:, slots], self.radii[:, slots] = centre[:, :, None], radii
        self.kind[:, slots], self.colour[:, slots], self.element[:, slots] = ELLIPSE, colour, element

    def strips(self, ends: np.ndarray, width: np.ndarray, colour: np.ndarray, element: int) -> None:
        """Capsules: ends (N, n, 2, 2), half widths (N, n)."""
        slots = self._slots(ends.shape[1])
        self.points[:, slots] = ends[:, :, [0, 1, 1, 1, 1, 1]]
        self.radii[:, slots] = width[..., None]
        self.kind[:, slots], self.colour[:, slots], self.element[:, slots] = CAPSULE, colour, element

    def drop(self, wanted: np.ndarray) -> None:
        """Empty the slots where `wanted` (N, SLOTS) is false."""
        self.kind[~wanted] = NONE


def _grid(columns: int, rows: int, pitch: float) -> np.ndarray:
    """(columns * rows, 2) points around (0, 0)."""
    y, x = np.mgrid[:rows, :columns]
    points = np.stack([x.ravel() - (columns - 1) / 2, y.ravel() - (rows - 1) / 2], -1)
    return (points * pitch).astype(np.float32)


def _xy(x: float, y: float) -> np.ndarray:
    return np.array([x, y], np.float32)


def _along(land: _Land, x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Ends (N, n, 2, 2) of strips parallel to y at x (N, n)."""
    y = np.broadcast_to(np.array([low, high], np.float32), (*x.shape, 2))
    return np.stack([np.broadcast_to(x[..., None], y.shape), y], -1)


def _houses(land: _Land, second: np.ndarray) -> None:
    places = np.concatenate([_grid(2, 5, 0.46) * _xy(1.9, 1), _grid(1, 5, 0.46) + _xy(1.3, 0)])[None]
    jitter = np.where(second, 0.14, 0.03)[:, None, None] * land.draw(-1, 1, 15, 2)
    land.strips(
        _along(land, land.draw(-0.06, 0.06, 1), -1.6, 1.6), land.draw(0.06, 0.1, 1), land.pick("asphalt", 1), ROAD
    )
    turn = np.where(second, 0.8, 0.05)[:, None] * land.draw(-1, 1, 15)
    half = land.draw(0.11, 0.17, 15, 2) * _xy(1.2, 0.9)
    land.boxes(places + jitter, half, turn, land.pick("roof", 15, 0.1), BUILDING)
    wanted = np.ones((land.count, SLOTS), bool)
    wanted[:, 1:16] = (land.draw(0, 1, 15) < 0.65) | ~second[:, None]
    land.drop(wanted)


def _halls(land: _Land, second: np.ndarray) -> None:
    centre = _grid(1, 3, 0.72)[None] + land.draw(-0.12, 0.12, 3, 2)
    half = np.stack([land.draw(0.45, 0.85, 3), land.draw(0.2, 0.3, 3)], -1)
    land.boxes(centre, half, land.draw(-0.04, 0.04, 3), land.pick("roof", 3, 0.1), BUILDING)
    places = np.linspace(-0.6, 0.6, 4, dtype=np.float32)
    offset = np.stack([half[:, :, None, 0] * places, np.zeros((land.count, 3, 4), np.float32)], -1)
    light = (centre[:, :, None] + offset).reshape(land.count, 12, 2)
    size = np.repeat(half[..., 1] * 0.6, 4, 1)
    ends = np.stack([light + np.stack([0 * size, s * size], -1) for s in (-1, 1)], 2)
    land.strips(ends, land.draw(0.03, 0.05, 12), land.pick("car", 12), BUILDING)
    wanted = np.ones((land.count, SLOTS), bool)
    wanted[:, 3:15] = second[:, None]
    land.drop(wanted)


def _orchard(land: _Land, second: np.ndarray) -> None:
    grid = _grid(4, 5, 0.44)
    shift = np.where(second, 0.11, 0.0)[:, None] * np.where(np.arange(20) // 4 % 2, 1, -1)
    centre = grid[None] * land.draw(0.9, 1.15, 1, 1) + np.stack([shift, 0 * shift], -1) + land.draw(-0.03, 0.03, 20, 2)
    radius = land.draw(0.11, 0.17, 1, 1) * land.draw(0.85, 1.15, 20, 2)
    land.ovals(centre, radius, land.pick("plant", 20), TREE)


def _forest(land: _Land, second: np.ndarray) -> None:
    centre = (_grid(4, 5, 0.5) * _xy(1.15, 0.9))[None] + land.draw(-0.24, 0.24, 20, 2)
    radius = land.draw(0.12, 0.3, 20, 1) * land.draw(0.85, 1.15, 20, 2)
    land.ovals(centre, radius, land.pick("plant", 20, 0.08), TREE)
    clearing = np.linalg.norm(centre - land.draw(-0.5, 0.5, 1, 2), axis=-1) < 0.45
    land.drop(~clearing | ~second[:, None])


def _crops(land: _Land, second: np.ndarray) -> None:
    pitch = np.where(second, 0.36, 0.2)[:, None] * land.draw(0.9, 1.1, 1)
    x = (np.arange(16, dtype=np.float32) - 7.5) * pitch + land.draw(-0.1, 0.1, 1)
    land.strips(_along(land, x, -1.6, 1.6), pitch * land.draw(0.22, 0.32, 1), land.pick("plant", 16, 0.02), ROW)


def _road(land: _Land, second: np.ndarray) -> None:
    asphalt = land.pick("asphalt", 1, 0)
    across = _along(land, land.draw(-0.25, 0.25, 1), -1.6, 1.6)[..., ::-1]
    width = land.draw(0.18, 0.3, 1)
    land.strips(across, width * 0.8, asphalt, ROAD)
    x = land.draw(-0.3, 0.3, 1)
    land.strips(_along(land, x, -1.6, 1.6), width, asphalt, ROAD)
    side = np.where(land.draw(0, 1, 4) < 0.5, -0.45, 0.45) * width
    y = np.linspace(-0.9, 0.9, 4, dtype=np.float32) + land.draw(-0.2, 0.2, 4)
    half = np.stack([land.draw(0.045, 0.06, 4), land.draw(0.09, 0.13, 4)], -1)
    land.boxes(np.stack([x + side, y], -1), half, land.draw(-0.05, 0.05, 4), land.pick("car", 4, 0.2), VEHICLE)
    _trees(land, 8, 0.55)
    wanted = np.ones((land.count, SLOTS), bool)
    wanted[:, 0] = second
    land.drop(wanted)


def _trees(land: _Land, number: int, clear: float) -> None:
    """Scattered trees at least `clear` beside the line x = 0."""
    x = np.where(land.draw(0, 1, number) < 0.5, -1, 1) * land.draw(clear, 1.2, number)
    radius = land.draw(0.08, 0.16, number, 1) * land.draw(0.85, 1.15, number, 2)
    land.ovals(np.stack([x, land.draw(-1.1, 1.1, number)], -1), radius, land.pick("plant", number), TREE)


def _river(land: _Land, second: np.ndarray) -> None:
    y = np.linspace(-1.5, 1.5, 9, dtype=np.float32)
    bend = land.draw(0.12, 0.35, 1) * cos_sin(land.draw(1.5, 2.6, 1) * y + land.draw(0, 6.3, 1))[1]
    points = np.stack([bend, np.broadcast_to(y, bend.shape)], -1)  # (N, 9, 2)
    width = land.draw(0.15, 0.3, 1) * np.ones(8, np.float32)
    land.strips(np.stack([points[:, :-1], points[:, 1:]], 2), width, land.pick("water", 1, 0), WATER)
    bridge = _along(land, land.draw(-0.4, 0.4, 1), -1.6, 1.6)[..., ::-1]
    land.strips(bridge, land.draw(0.07, 0.11, 1), land.pick("asphalt", 1), ROAD)
    _trees(land, 8, 0.6)
    wanted = np.ones((land.count, SLOTS), bool)
    wanted[:, 8] = second
    land.drop(wanted)


def _parking(land: _Land, second: np.ndarray) -> None:
    land.boxes(land.draw(-0.05, 0.05, 1, 2), land.draw(0.8, 0.95, 1, 2), land.draw(-0.05, 0.05, 1),
               land.pick("asphalt", 1), ROAD)  # fmt: skip
    places = (_grid(6, 3, 0.26) * _xy(1, 2))[None] + land.draw(-0.02, 0.02, 18, 2)
    half = np.stack([land.draw(0.075, 0.095, 18), land.draw(0.15, 0.19, 18)], -1)
    land.boxes(places, half, land.draw(-0.06, 0.06, 18), land.pick("car", 18, 0.25), VEHICLE)
    wanted = np.ones((land.count, SLOTS), bool)
    wanted[:, 1:19] = land.draw(0, 1, 18) < np.where(second, 0.5, 0.95)[:, None]
    land.drop(wanted)


_LAY: tuple[Callable[[_Land, np.ndarray], None], ...] = (
    _houses, _halls, _orchard, _forest, _crops, _road, _river, _parking
)  # fmt: skip


def tiles(rng: np.random.Generator, fine: np.ndarray) -> Scenes:
    """Scenes of land; `fine` (N,) indexes LAYOUTS, the label is the use. Object k is what part slot k draws."""
    count = len(fine)
    scenes = blank(rng, count, SLOTS, SLOTS, 4)
    scenes.fine[:], scenes.label[:] = fine, fine // 2
    ground = np.array(PALETTES["ground"], np.float32)[rng.integers(4, size=count)][:, None, :, None, None]
    scenes.ground[:] = ground + np.float32(0.35) * (scenes.ground - np.float32(0.5))
    scenes.ground[:, 1] += np.float32(0.5) - ground[:, 0]  # the fine grid varies around 1/2
    turn, scale = uniform(rng, 0, 2 * np.pi, count), uniform(rng, 0.42, 0.58, count)
    shift = uniform(rng, 0.42, 0.58, count, 1, 1, 2)
    for use, lay in enumerate(_LAY):
        land = _Land(rng, count)  # every use is laid out for all scenes, so that no draw depends on the labels
        lay(land, fine % 2 == 1)
        here = np.flatnonzero(scenes.label == use)
        cos, sin = (part[:, None, None] for part in cos_sin(turn[here]))
        x, y = land.points[here, ..., 0], land.points[here, ..., 1]
        turned = np.stack([cos * x - sin * y, sin * x + cos * y], -1)
        scenes.points[here] = turned * scale[here, None, None, None] + shift[here]
        scenes.radii[here] = land.radii[here] * scale[here, None, None]
        scenes.kind[here], scenes.colour[here] = land.kind[here], np.clip(land.colour[here], 0, 1)
        scenes.objects[here] = np.where(land.kind[here] == NONE, -1, land.element[here])
    scenes.angle[:] = turn[:, None]
    scenes.owner[:] = np.where(scenes.kind == NONE, -1, np.arange(SLOTS))
    ends = axis_ends(scenes.kind, scenes.points, scenes.radii, scenes.angle)
    scenes.keypoints[:] = np.where((scenes.kind == NONE)[..., None, None], np.nan, ends)
    return scenes
