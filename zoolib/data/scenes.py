"""From templates to scenes: what an object is made of, where it stands, and what surrounds it. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoolib.data.render import CAPSULE, ELLIPSE, MAX_CORNERS, NONE, POLYGON, Scenes, cos_sin

Point = tuple[float, float]
GRID = 9  # cells along a side of the finer grid behind a procedural background


@dataclass(frozen=True)
class Part:
    """One part of a template in the object's own frame: x to the right, y down, the object inside [-1, 1]."""

    kind: int
    points: tuple[Point, ...]
    ink: int  # which of the object's colours
    radii: Point = (0.0, 0.0)
    line: float = 0.0


def ellipse(x: float, y: float, a: float, b: float, ink: int, line: float = 0.0) -> Part:
    """An ellipse with half axes a and b, or its outline of width `line`."""
    return Part(ELLIPSE, ((x, y),), ink, (a, b), line)


def capsule(start: Point, end: Point, radius: float, ink: int) -> Part:
    """Everything within `radius` of a segment."""
    return Part(CAPSULE, (start, end), ink, (radius, radius))


def polygon(*corners: Point, ink: int) -> Part:
    """A convex polygon of up to six corners."""
    return Part(POLYGON, corners, ink)


def box(left: float, top: float, right: float, bottom: float, ink: int) -> Part:
    """An upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom), ink=ink)


@dataclass(frozen=True)
class Design:
    """One fine class: its parts in painting order and its keypoints (name, place)."""

    name: str
    coarse: int
    parts: tuple[Part, ...]
    keypoints: tuple[tuple[str, Point], ...]


@dataclass(frozen=True)
class Catalogue:
    """The designs of a family as arrays, indexed by fine class."""

    kind: np.ndarray  # (F, Q) int8
    points: np.ndarray  # (F, Q, MAX_CORNERS, 2)
    radii: np.ndarray  # (F, Q, 2)
    line: np.ndarray  # (F, Q)
    ink: np.ndarray  # (F, Q)
    keypoints: np.ndarray  # (F, J, 2)
    coarse: np.ndarray  # (F,)

    @classmethod
    def of(cls, designs: Sequence[Design]) -> Catalogue:
        """Designs with fewer parts than others end in empty slots."""
        slots = max(len(design.parts) for design in designs)
        shape = (len(designs), slots)
        out = cls(
            np.full(shape, NONE, np.int8), np.zeros((*shape, MAX_CORNERS, 2), np.float32),
            np.ones((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int64),
            np.array([[place for _, place in design.keypoints] for design in designs], np.float32),
            np.array([design.coarse for design in designs]),
        )  # fmt: skip
        for f, design in enumerate(designs):
            for q, part in enumerate(design.parts):
                out.kind[f, q], out.ink[f, q], out.line[f, q] = part.kind, part.ink, part.line
                out.points[f, q] = part.points + part.points[-1:] * (MAX_CORNERS - len(part.points))
                out.radii[f, q] = part.radii
        return out


@dataclass(frozen=True)
class Pose:
    """Where each of N x K objects stands."""

    centre: np.ndarray  # (N, K, 2) in units of the image's side
    scale: np.ndarray  # (N, K) half the object's extent, same unit
    turn: np.ndarray  # (N, K) radians
    mirror: np.ndarray  # (N, K) 1 or -1
    stretch: np.ndarray  # (N, K) factor along the object's own x axis

    def matrix(self) -> np.ndarray:
        """(N, K, 2, 2): stretch and mirror first, then turn and scale."""
        cos, sin = cos_sin(self.turn)
        wide = self.stretch * self.mirror
        rows = np.stack([np.stack([cos * wide, -sin], -1), np.stack([sin * wide, cos], -1)], -2)
        return self.scale[..., None, None] * rows


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    """Uniform draws as float32."""
    return rng.uniform(low, high, shape).astype(np.float32)


def blank(rng: np.random.Generator, count: int, parts: int, objects: int, keypoints: int) -> Scenes:
    """Scenes without parts, each with its own background, light, softness and noise."""
    shape = (count, parts)
    ground = uniform(rng, 0.1, 0.9, count, 2, 3, GRID, GRID)
    ground = ground.mean(2, keepdims=True) * np.float32(0.6) + ground * np.float32(0.4)  # mostly grey
    return Scenes(
        np.full(shape, NONE, np.int8), np.zeros((*shape, MAX_CORNERS, 2), np.float32),
        np.ones((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32),
        np.zeros((*shape, 3), np.float32), np.ones(shape, np.float32), np.full(shape, -1, np.int8),
        np.zeros(count, np.int64), np.zeros(count, np.int64), np.full((count, objects), -1),
        np.full((count, objects, keypoints, 2), np.nan, np.float32), ground, uniform(rng, -0.5, 0.5, count, 2),
        uniform(rng, 1.0, 1.8, count), uniform(rng, 0.01, 0.05, count),
        rng.integers(2**32, size=count, dtype=np.uint32),
    )  # fmt: skip


def place(scenes: Scenes, first: int, catalogue: Catalogue, fine: np.ndarray, pose: Pose, inks: np.ndarray) -> None:
    """Write K objects of fine classes (N, K), -1 for none, into the part slots from `first` on, in painting order.

    `inks` (N, K, I, 3) are the colours that a template's ink numbers stand for.
    """
    there = fine >= 0
    known = np.where(there, fine, 0)
    slots = catalogue.kind.shape[1]
    matrix = pose.matrix()
    for k in range(fine.shape[1]):
        here = slice(first + k * slots, first + (k + 1) * slots)
        f = known[:, k]
        scenes.kind[:, here] = np.where(there[:, k, None], catalogue.kind[f], NONE)
        scenes.points[:, here] = _moved(catalogue.points[f], matrix[:, k], pose.centre[:, k])
        radii = catalogue.radii[f] * pose.scale[:, k, None, None]
        radii[..., 0] *= np.where(catalogue.kind[f] == ELLIPSE, pose.stretch[:, k, None], 1)
        scenes.radii[:, here], scenes.angle[:, here] = radii, pose.turn[:, k, None]
        scenes.line[:, here] = catalogue.line[f] * pose.scale[:, k, None]
        scenes.colour[:, here] = np.take_along_axis(inks[:, k], catalogue.ink[f][..., None], 1)
        scenes.owner[:, here] = k
        points = _moved(catalogue.keypoints[f], matrix[:, k], pose.centre[:, k])
        scenes.keypoints[:, k] = np.where(there[:, k, None, None], points, np.nan)
    scenes.objects[:] = np.where(there, catalogue.coarse[known], -1)


def _moved(points: np.ndarray, matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Points (N, ..., 2) through one matrix (2, 2) and one shift for each of the N."""
    between = (1,) * (points.ndim - 2)
    x, y = points[..., 0], points[..., 1]
    m = matrix.reshape(-1, *between, 2, 2)
    moved = np.stack([m[..., 0, 0] * x + m[..., 0, 1] * y, m[..., 1, 0] * x + m[..., 1, 1] * y], -1)
    return moved + centre.reshape(-1, *between, 2)


def clutter(scenes: Scenes, slots: slice, rng: np.random.Generator, reach: tuple[float, float]) -> None:
    """Random ellipses, capsules and triangles that belong to no object, each of a size within `reach`."""
    count, parts = scenes.kind[:, slots].shape
    scenes.kind[:, slots] = rng.integers(NONE, POLYGON + 1, size=(count, parts))
    centre = uniform(rng, 0, 1, count, parts, 1, 2)
    size = uniform(rng, *reach, count, parts, 1, 1)
    corners = uniform(rng, -1, 1, count, parts, MAX_CORNERS, 2)
    corners[:, :, 3:] = corners[:, :, 2:3]
    scenes.points[:, slots] = centre + size * corners
    thin = np.where(scenes.kind[:, slots] == CAPSULE, 0.25, 1.0)[..., None]
    scenes.radii[:, slots] = size[..., 0] * uniform(rng, 0.3, 1, count, parts, 2) * thin
    scenes.angle[:, slots] = uniform(rng, 0, np.pi, count, parts)
    scenes.colour[:, slots] = uniform(rng, 0.05, 0.95, count, parts, 3)
    scenes.opacity[:, slots] = uniform(rng, 0.3, 1, count, parts)
    scenes.owner[:, slots] = -1


def axis_ends(kind: np.ndarray, points: np.ndarray, radii: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Four points on the border of single parts (..., 4, 2): the ends of the long axis, then of the short one.

    Polygons are taken as rectangles of four corners in order; arguments are those of `Scenes`.
    """
    a, b = points[..., 0, :], points[..., 1, :]
    cos, sin = cos_sin(angle)
    along = np.stack([cos, sin], -1) * radii[..., :1]
    across = np.stack([-sin, cos], -1) * radii[..., 1:]
    oval = np.stack([a - along, a + along, a - across, a + across], -2)
    step = (b - a) / np.maximum(np.linalg.norm(b - a, axis=-1, keepdims=True), 1e-6) * radii[..., :1]
    side = np.stack([-step[..., 1], step[..., 0]], -1)
    rod = np.stack([a - step, b + step, (a + b) / 2 - side, (a + b) / 2 + side], -2)
    corners = points[..., :4, :]
    middles = (corners + np.roll(corners, -1, -2)) / 2
    quad = middles[..., [3, 1, 0, 2], :]
    kind = kind[..., None, None]
    return np.where(kind == ELLIPSE, oval, np.where(kind == CAPSULE, rod, quad)).astype(np.float32)
