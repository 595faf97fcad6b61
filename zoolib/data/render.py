"""A small renderer: whole batches of scenes at once, drawn from signed distances, with dense labels. numpy only.

A scene is a list of parts, painted in order. A part is an ellipse, a capsule or a convex polygon, filled or as an
outline, and belongs to one object or to none. The same description yields the image, the instance mask, the boxes and
the keypoints, so labels cannot disagree with pixels. Coordinates are (x, y) in units of the image's side, x to the
right and y down, (0, 0) being the corner of the first pixel.

A pixel of width w whose centre lies at signed distance d from a part's border (negative inside) is covered by it to
the share clip(1/2 - d/w, 0, 1), which is exact for a straight border parallel to an axis.

Pixels are the same on every machine: the arithmetic is +, -, *, / and square roots of single numbers, which IEEE 754
rounds in one way, with no BLAS, whose order of summation differs; sines and cosines are taken in double precision and
rounded to single.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from zoolib.spec import ZoolibError

NONE, ELLIPSE, CAPSULE, POLYGON = range(4)  # kinds of a part; NONE is an empty slot
MAX_CORNERS = 6  # of a polygon; a polygon with fewer repeats its last corner
_CHUNK = 32  # scenes drawn together: their coverages stay in the processor's cache
_FAR = np.float32(1e3)


@dataclass(frozen=True)
class Scenes:
    """N scenes of P part slots and K object slots; random choices were all made before, so drawing adds none."""

    kind: np.ndarray  # (N, P) int8
    points: np.ndarray  # (N, P, MAX_CORNERS, 2) float32; centre of an ellipse, ends of a capsule, corners of a polygon
    radii: np.ndarray  # (N, P, 2) float32; half axes of an ellipse, (radius, -) of a capsule
    angle: np.ndarray  # (N, P) float32; turn of an ellipse in radians, from x towards y
    line: np.ndarray  # (N, P) float32; 0 = filled, else the width of its outline
    colour: np.ndarray  # (N, P, 3) float32 in [0, 1]
    opacity: np.ndarray  # (N, P) float32 in [0, 1]; below 1/2 (shadows, glass) a part leaves the mask as it is
    owner: np.ndarray  # (N, P) int8; index of the object the part belongs to, -1 for clutter and occluders
    label: np.ndarray  # (N,) int64; class of the scene
    fine: np.ndarray  # (N,) int64; fine class of the scene
    objects: np.ndarray  # (N, K) int64; class of each object, -1 for an empty slot
    keypoints: np.ndarray  # (N, K, J, 2) float32; NaN where an object has no such point
    ground: np.ndarray  # (N, 2, 3, G, G) float32 in [0, 1]; two grids behind the procedural background
    light: np.ndarray  # (N, 2) float32; change of brightness from one side to the other, along x and along y
    softness: np.ndarray  # (N,) float32; width of a border in pixels, 1 is sharp
    noise: np.ndarray  # (N,) float32; standard deviation of the noise, in units of the full range
    key: np.ndarray  # (N,) uint32; names the noise of a scene

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: np.ndarray | slice) -> Scenes:
        """Some of the scenes."""
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Rendered:
    """What N scenes look like at S pixels, and where their objects are."""

    images: np.ndarray  # (N, S, S, 3) uint8
    mask: np.ndarray  # (N, S, S) int8; 1 + the index of the object that is seen there, 0 for the background
    boxes: np.ndarray  # (N, K, 4) float32; left, top, right, bottom in pixels, tight around what is seen; NaN for none
    keypoints: np.ndarray  # (N, K, J, 2) float32; x, y in pixels
    visible: np.ndarray  # (N, K, J) bool; inside the image and nothing painted over it


def render(scenes: Scenes, size: int, backgrounds: np.ndarray | None = None) -> Rendered:
    """Draw scenes at `size` pixels over `backgrounds` (N, size, size, 3) uint8, or over procedural ones.

    Each scene is drawn as if it were alone. Raises ZoolibError for backgrounds of another shape or type.
    """
    shape = (len(scenes), size, size, 3)
    if backgrounds is not None and (backgrounds.shape != shape or backgrounds.dtype != np.uint8):
        raise ZoolibError(f"backgrounds are {backgrounds.dtype} {backgrounds.shape}; pass uint8 {shape}")
    images, mask = np.empty(shape, np.uint8), np.zeros(shape[:3], np.int8)
    for start in range(0, len(scenes), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = scenes.take(rows)
        canvas = procedural(part, size) if backgrounds is None else _planes(backgrounds[rows])
        _paint(part, canvas, mask[rows])
        images[rows] = _finish(part, canvas)
    boxes = tight_boxes(mask, scenes.objects.shape[1])
    keypoints = scenes.keypoints * np.float32(size)
    return Rendered(images, mask, boxes, keypoints, _visible(keypoints, mask))


def _planes(images: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def _paint(scenes: Scenes, canvas: np.ndarray, mask: np.ndarray) -> None:
    """Lay the parts over the canvas (B, 3, S, S), in order, and write their owners into the mask (B, S, S)."""
    alpha = coverage(scenes, canvas.shape[-1])  # (B, P, S, S)
    for slot in range(scenes.kind.shape[1]):
        rows = np.flatnonzero(scenes.kind[:, slot])
        if len(rows) == 0:
            continue
        share = alpha[rows, slot]  # (b, S, S)
        solid = rows[scenes.opacity[rows, slot] >= 0.5]
        seen = share[scenes.opacity[rows, slot] >= 0.5] >= 0.5
        mask[solid] = np.where(seen, scenes.owner[solid, slot, None, None] + np.int8(1), mask[solid])
        share *= scenes.opacity[rows, slot, None, None]
        for channel in range(3):
            below = canvas[rows, channel]
            change = scenes.colour[rows, slot, channel, None, None] - below
            change *= share
            below += change
            canvas[rows, channel] = below


# Signed distances -----------------------------------------------------------------------------------------------------


def coverage(scenes: Scenes, size: int) -> np.ndarray:
    """The share of each pixel that each part covers, (N, P, size, size) float32."""
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    out = np.zeros((*scenes.kind.shape, size, size), np.float32)
    for kind, distance in _DISTANCES.items():
        chosen = np.nonzero(scenes.kind == kind)
        for start in range(0, len(chosen[0]), _CHUNK):
            n, p = (index[start : start + _CHUNK] for index in chosen)
            d = distance(scenes.points[n, p], scenes.radii[n, p], scenes.angle[n, p], centres)
            width = scenes.line[n, p, None, None]
            if width.any():
                d = np.where(width > 0, np.abs(d) - width / 2, d)
            d *= (np.float32(-size) / scenes.softness[n])[:, None, None]
            d += np.float32(0.5)
            out[n, p] = np.clip(d, 0, 1, out=d)
    return out


def cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine in float32, equal on every machine (libraries differ in the last digit of what they return)."""
    exact = angle.astype(np.float64)
    return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)


def _linear(normal: np.ndarray, offset: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """normal . p - offset for (B, 2) normals and (B,) offsets at every pixel centre p, (B, S, S)."""
    along_x = normal[:, :1] * centres - offset[:, None]  # (B, S)
    along_y = normal[:, 1:] * centres
    return along_y[:, :, None] + along_x[:, None, :]


def _ellipse(points: np.ndarray, radii: np.ndarray, angle: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Distance to an ellipse, to first order at its border (exact for a circle)."""
    cos, sin = cos_sin(angle)
    k0, k1 = 0.0, 0.0
    for axis, direction in enumerate((np.stack([cos, sin], 1), np.stack([-sin, cos], 1))):
        radius = radii[:, axis, None]
        normal = direction / radius
        square = np.square(_linear(normal, (normal * points[:, 0]).sum(1), centres))
        k0 = k0 + square
        k1 = k1 + square / np.square(radius)[:, :, None]
    k0 = np.sqrt(k0)
    return k0 * (k0 - 1) / np.sqrt(np.maximum(k1, np.float32(1e-12)))


def _capsule(points: np.ndarray, radii: np.ndarray, angle: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Distance to everything within a radius of a segment."""
    start, step = points[:, 0], points[:, 1] - points[:, 0]
    length = np.sqrt(np.square(step).sum(1))
    along = step / np.maximum(length, np.float32(1e-6))[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    t = _linear(along, (along * start).sum(1), centres)
    t -= np.clip(t, 0, length[:, None, None])
    d = _linear(across, (across * start).sum(1), centres)
    return np.sqrt(t * t + d * d) - radii[:, 0, None, None]


def _polygon(points: np.ndarray, radii: np.ndarray, angle: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Distance to the farthest of a convex polygon's edges: exact inside and at the border, less beyond a corner."""
    step = np.roll(points, -1, axis=1) - points  # (B, C, 2)
    length = np.sqrt(np.square(step).sum(-1))
    area = (points[..., 0] * np.roll(points[..., 1], -1, 1) - points[..., 1] * np.roll(points[..., 0], -1, 1)).sum(1)
    turn = np.where(area < 0, np.float32(-1), np.float32(1))[:, None]  # corners may run either way round
    normal = np.stack([step[..., 1], -step[..., 0]], -1) * (turn / np.maximum(length, np.float32(1e-9)))[..., None]
    offset = np.where(length > 1e-6, (normal * points).sum(-1), _FAR)  # a repeated corner makes no edge
    out = _linear(normal[:, 0], offset[:, 0], centres)
    for edge in range(1, points.shape[1]):
        if (length[:, edge] > 1e-6).any():
            np.maximum(out, _linear(normal[:, edge], offset[:, edge], centres), out=out)
    return out


_DISTANCES = {ELLIPSE: _ellipse, CAPSULE: _capsule, POLYGON: _polygon}

# Background, light and noise ------------------------------------------------------------------------------------------


def procedural(scenes: Scenes, size: int) -> np.ndarray:
    """Backgrounds (N, 3, size, size) in [0, 1]: a coarse and a fine grid of random colours, interpolated."""
    grid = scenes.ground.shape[-1]
    coarse = _resample(scenes.ground[:, 0, :, : max(2, grid // 3), : max(2, grid // 3)], size)
    fine = _resample(scenes.ground[:, 1], size)
    return np.clip(coarse + np.float32(0.35) * (fine - np.float32(0.5)), 0, 1)


def _resample(grids: np.ndarray, size: int) -> np.ndarray:
    """(N, 3, G, G) -> (N, 3, size, size), bilinear with the grid's corners at the image's corners."""
    count = grids.shape[-1]
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32((count - 1) / size)
    first = np.minimum(place.astype(np.int64), count - 2)
    share = place - first.astype(np.float32)  # (size,)
    rows = grids[:, :, first]
    rows = rows + share[:, None] * (grids[:, :, first + 1] - rows)  # (N, 3, size, G)
    out: np.ndarray = rows[..., first]
    return out + share * (rows[..., first + 1] - out)


def _finish(scenes: Scenes, canvas: np.ndarray) -> np.ndarray:
    """Light and noise over (B, 3, S, S) in [0, 1], then (B, S, S, 3) uint8."""
    size = canvas.shape[-1]
    across = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    light = 1 + scenes.light[:, 1, None, None] * across[:, None] + scenes.light[:, 0, None, None] * across
    canvas *= light[:, None]
    canvas += scenes.noise[:, None, None, None] * _grain(scenes.key, canvas.shape[1:])
    canvas *= np.float32(255)
    canvas += np.float32(0.5)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8).transpose(0, 2, 3, 1)


def _grain(keys: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Noise (B, *shape) of mean 0 and variance 1 (triangular): a hash of a scene's key and the place in the image."""
    place = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1)
    bits = place + (keys * np.uint32(0x85EBCA6B))[:, None]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # lowbias32, a public-domain integer hash
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    total = (bits & np.uint32(0xFFFF)) + (bits >> np.uint32(16))
    return ((total.astype(np.float32) - np.float32(65535)) * np.float32(6**0.5 / 65536)).reshape(-1, *shape)


# Labels ---------------------------------------------------------------------------------------------------------------


def tight_boxes(mask: np.ndarray, count: int) -> np.ndarray:
    """Left, top, right and bottom of objects 1..count in masks (N, S, S), in pixels; NaN for an object not seen."""
    size = mask.shape[-1]
    seen = mask[:, None] == np.arange(1, count + 1)[:, None, None]  # (N, K, S, S)
    out = np.full((len(mask), count, 4), np.nan, np.float32)
    for place, across in enumerate((np.any(seen, axis=2), np.any(seen, axis=3))):  # columns, then rows: (N, K, S)
        there = across.any(-1)
        out[..., place] = np.where(there, across.argmax(-1), np.nan)
        out[..., place + 2] = np.where(there, size - across[..., ::-1].argmax(-1), np.nan)
    return out


def _visible(keypoints: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether each keypoint (N, K, J, 2) lies in the image, in a pixel that shows its object, or beside one."""
    size = mask.shape[-1]
    known = np.isfinite(keypoints).all(-1)
    place = np.floor(np.where(known[..., None], keypoints, -1)).astype(np.int64)
    inside = known & ((place >= 0) & (place < size)).all(-1)
    scene = np.arange(len(mask))[:, None, None]
    own = np.arange(1, keypoints.shape[1] + 1)[:, None]
    near = np.zeros_like(inside)
    for dy in (-1, 0, 1):  # the tip of a part covers less than half of its pixel
        for dx in (-1, 0, 1):
            x, y = np.clip(place[..., 0] + dx, 0, size - 1), np.clip(place[..., 1] + dy, 0, size - 1)
            near |= mask[scene, y, x] == own
    return inside & near
