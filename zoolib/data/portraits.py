"""`faces-rendered`: a parametric face in three dimensions with 68 exact points, posed, lit and drawn. No torch.

The 68 points are the 300W markup's. A face is made in units of half its width, x to the right of the picture, y down
and z toward the viewer; shape, expression and pose are drawn at random for all faces at once, then each face is painted
from its own projected points, so that points and pixels cannot disagree.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from zoolib.files import atomic
from zoolib.paths import build_dir
from zoolib.spec import unknown

VERSION = 1  # of the pixels; raise it with every change to what a face looks like
SIZE = 96  # pixels; side of an image
_FINE = 3  # faces are painted this much larger and then reduced
_SEED = 6801
_FOREHEAD = 12  # points over the brows that close the outline of the head; they are no landmarks
_EYES = {"left": slice(36, 42), "right": slice(42, 48)}

Colour = tuple[int, int, int]


def _at(x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
    """One point of every face, (count, 3)."""
    return np.stack(np.broadcast_arrays(x, y, z), -1)


def _eye(x: np.ndarray, y: np.ndarray, wide: np.ndarray, tall: np.ndarray, side: int) -> list[np.ndarray]:
    """Six points around an eye at (x, y), clockwise from its corner at the left of the picture."""
    places = [(-1.0, 0.0), (-0.38, -0.9), (0.38, -0.9), (1.0, 0.0), (0.38, 0.8), (-0.38, 0.8)]
    return [_at(x + a * wide, y + b * tall, 0.28 - 0.12 * side * a) for a, b in places]


def _head(rng: np.random.Generator, count: int) -> np.ndarray:
    """The 68 points and the forehead of `count` heads of random shape and expression, (count, 68 + _FOREHEAD, 3)."""

    def about(mean: float, spread: float) -> np.ndarray:
        return mean + spread * rng.uniform(-1, 1, count)

    chin, square, low = about(1.18, 0.14), about(0.78, 0.12), about(-0.12, 0.05)
    points = []
    for turn in np.linspace(0, np.pi, 17):  # jaw, from ear to ear
        cos, sin = np.cos(turn), np.sin(turn)
        x = -np.sign(cos) * np.abs(cos) ** square
        points.append(_at(x, low + (chin - low) * sin**1.15, 0.25 - 0.6 * cos**2))
    apart, brow, arch, lift = about(0.47, 0.05), about(-0.55, 0.07), about(0.1, 0.05), about(0.0, 0.06)
    for sign in (-1, 1):
        for step in np.linspace(-1, 1, 5):  # brows, from the left of the picture to the right
            across = sign * apart + 0.32 * step
            y = brow + arch * (step * 0.9) ** 2 - 0.5 * arch + sign * step * lift
            points.append(_at(across, y, 0.38 - 0.14 * np.abs(across)))
    nose, flare, tip = about(0.24, 0.06), about(0.2, 0.05), about(0.75, 0.1)
    for step in np.linspace(0, 1, 4):  # bridge
        points.append(_at(0.0, -0.3 + step * (nose + 0.24), 0.4 + step * (tip - 0.4)))
    for step in np.linspace(-1, 1, 5):  # base
        points.append(_at(step * flare, nose + 0.09 - 0.05 * step**2, 0.42 + 0.16 * (1 - step**2)))
    wide, tall = about(0.19, 0.03), np.maximum(0.015, about(0.075, 0.05))
    eyes, level = about(0.45, 0.04), about(-0.26, 0.03)
    points += _eye(-eyes, level, wide, tall, -1) + _eye(eyes, level, wide, tall, 1)
    points += _mouth(rng, count, nose, chin)
    for turn in np.linspace(np.pi, 0, _FOREHEAD + 2)[1:-1]:  # from the right ear over the top to the left one
        y = low - (about(1.1, 0.02)) * np.sin(turn)
        points.append(_at(-1.02 * np.cos(turn), y, 0.2 - 0.6 * np.cos(turn) ** 2))
    head = np.stack(points, 1)
    head[:, :, 0] *= about(0.93, 0.09)[:, None]
    return np.asarray(head + 0.012 * rng.standard_normal(head.shape) * (np.arange(head.shape[1]) < 68)[:, None])


def _mouth(rng: np.random.Generator, count: int, nose: np.ndarray, chin: np.ndarray) -> list[np.ndarray]:
    """Twelve points around the lips and eight around the opening."""
    wide, smile = rng.uniform(0.3, 0.44, count), rng.uniform(-0.07, 0.1, count)
    opened = np.maximum(0, rng.uniform(-0.15, 0.22, count))
    upper, lower = rng.uniform(0.05, 0.11, count), rng.uniform(0.07, 0.14, count)
    middle = nose + 0.09 + (chin - nose - 0.09) * rng.uniform(0.36, 0.46, count)

    def row(places: np.ndarray, rise: np.ndarray) -> list[np.ndarray]:
        """Points at -1..1 of the mouth's half width, at its middle `rise` above the line between the corners."""
        out = []
        for step in places:
            bend = 1 - step**2
            y = middle - smile * step**2 - rise * bend ** (0.6)
            out.append(_at(step * wide, y, 0.34 + 0.16 * bend))
        return out

    outer = np.linspace(-1, 1, 7)
    inner = np.linspace(-0.8, 0.8, 5)
    out = row(outer, upper + opened / 2) + row(outer[-2:0:-1], -(lower + opened / 2))
    return out + row(inner, opened / 2) + row(inner[-2:0:-1], -opened / 2)


def _project(rng: np.random.Generator, heads: np.ndarray) -> np.ndarray:
    """Heads turned at random and seen in weak perspective, (N, P, 3) -> (N, P, 2) in pixels of an image of SIZE."""
    count = len(heads)
    yaw, pitch, roll = (np.radians(limit) * rng.uniform(-1, 1, count) for limit in (30, 18, 20))

    def turn(angle: np.ndarray, first: int, second: int) -> np.ndarray:
        matrix = np.tile(np.eye(3), (count, 1, 1))
        matrix[:, first, first] = matrix[:, second, second] = np.cos(angle)
        matrix[:, first, second], matrix[:, second, first] = np.sin(angle), -np.sin(angle)
        return matrix

    seen = heads @ (turn(roll, 0, 1) @ turn(pitch, 1, 2) @ turn(yaw, 0, 2)).transpose(0, 2, 1)
    flat = seen[..., :2] / (1 - seen[..., 2:] / 7)
    scale = rng.uniform(0.21, 0.29, count) * SIZE
    shift = SIZE / 2 + rng.uniform(-0.08, 0.08, (count, 2)) * SIZE - [0, 0.04 * SIZE]
    return np.asarray(flat * scale[:, None, None] + shift[:, None])


# Painting -------------------------------------------------------------------------------------------------------------


def _shade(colour: np.ndarray, factor: float) -> Colour:
    red, green, blue = (int(v) for v in np.clip(colour * factor, 0, 255))
    return red, green, blue


def _ground(rng: np.random.Generator) -> Image.Image:
    """A soft background of random colours."""
    coarse = rng.integers(20, 236, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIZE * _FINE,) * 2, Image.Resampling.BICUBIC)


def _paint(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """One face from its projected points (68 + _FOREHEAD, 2), in pixels of SIZE: (SIZE, SIZE, 3) uint8."""
    image = _ground(rng)
    draw = ImageDraw.Draw(image)
    p = points * _FINE
    skin = np.array([224.0, 178.0, 150.0]) * rng.uniform(0.38, 1.08) * rng.uniform(0.94, 1.06, 3)
    hair = np.array([120.0, 90.0, 60.0]) * rng.uniform(0.15, 1.6) * rng.uniform(0.8, 1.2, 3)
    _body(rng, draw, p, skin, hair)
    outline = np.concatenate([p[:17], p[68:]])
    draw.polygon(_flat(outline), fill=_shade(skin, 1))
    _nose(rng, draw, p, skin)
    for eye in _EYES.values():
        _paint_eye(rng, draw, p[eye], skin)
    for brow in (p[17:22], p[22:27]):
        draw.line(_flat(brow), fill=_shade(hair, 0.8), width=max(2, int(_span(p) * 0.06)), joint="curve")
    lips = skin * [1.0, 0.66, 0.66] * rng.uniform(0.75, 1.0)
    draw.polygon(_flat(p[48:60]), fill=_shade(lips, 1))
    draw.polygon(_flat(p[60:68]), fill=_shade(skin, 0.25) if rng.random() < 0.6 else (228, 224, 216))
    draw.line(_flat(p[[60, 61, 62, 63, 64]]), fill=_shade(lips, 0.5), width=2)
    _extras(rng, draw, p, hair)
    return _light(rng, image)


def _flat(points: np.ndarray) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points]


def _span(p: np.ndarray) -> float:
    """The distance between the outer eye corners, in painted pixels."""
    return float(np.linalg.norm(p[45] - p[36]))


def _disc(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, fill: Colour) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _body(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, p: np.ndarray, skin: np.ndarray, hair: np.ndarray
) -> None:
    """Hair behind the head, neck and shoulders."""
    middle, down = p[27], p[8] - p[27]
    reach = rng.uniform(1.08, 1.35)
    around = np.concatenate([p[:3], p[14:17], p[68:]])
    if rng.random() < 0.85:
        draw.polygon(_flat(middle + (around[[0, 1, *range(5, len(around)), 4]] - middle) * reach), fill=_shade(hair, 1))
    across = np.array([down[1], -down[0]])
    neck = [p[8] + s * 0.42 * across + d * down for s, d in ((-1, -0.3), (1, -0.3), (1, 1.5), (-1, 1.5))]
    draw.polygon(_flat(np.array(neck)), fill=_shade(skin, 0.72))
    cloth = rng.uniform(30, 220, 3)
    trunk = [
        p[8] + s * across + d * down
        for s, d in ((-0.5, 0.35), (0.5, 0.35), (1.6, 0.8), (1.6, 3), (-1.6, 3), (-1.6, 0.8))
    ]
    draw.polygon(_flat(np.array(trunk)), fill=_shade(cloth, 1))


def _nose(rng: np.random.Generator, draw: ImageDraw.ImageDraw, p: np.ndarray, skin: np.ndarray) -> None:
    side = 31 if rng.random() < 0.5 else 35
    draw.polygon(_flat(p[[27, 28, 29, 30, 33, side]]), fill=_shade(skin, 0.86))
    draw.line(_flat(p[31:36]), fill=_shade(skin, 0.55), width=max(1, int(_span(p) * 0.025)), joint="curve")
    for index in (32, 34):
        _disc(draw, p[index], _span(p) * 0.022, _shade(skin, 0.35))
    draw.line(_flat(p[27:31]), fill=_shade(skin, 1.1), width=max(1, int(_span(p) * 0.02)))


def _paint_eye(rng: np.random.Generator, draw: ImageDraw.ImageDraw, eye: np.ndarray, skin: np.ndarray) -> None:
    draw.polygon(_flat(eye), fill=(238, 236, 232))
    opened = float(np.linalg.norm(eye[1] - eye[5]))
    iris = np.array([90.0, 70.0, 50.0]) * rng.uniform(0.4, 1.8) * rng.uniform(0.7, 1.3, 3)
    radius = min(opened * 0.55, float(np.linalg.norm(eye[3] - eye[0])) * 0.24)
    centre = eye.mean(0)
    _disc(draw, centre, radius, _shade(iris, 1))
    _disc(draw, centre, radius * 0.5, (12, 12, 12))
    draw.line(_flat(eye[:4]), fill=_shade(skin, 0.3), width=2, joint="curve")
    draw.line(_flat(eye[[3, 4, 5, 0]]), fill=_shade(skin, 0.6), width=1)


def _extras(rng: np.random.Generator, draw: ImageDraw.ImageDraw, p: np.ndarray, hair: np.ndarray) -> None:
    """A fringe, glasses, and something in front of the face; none of them moves a point."""
    top = p[68 + 1 : 68 + _FOREHEAD - 1]
    if rng.random() < 0.7:
        depth = rng.uniform(0.15, 0.5)
        low = top + (p[27] - top) * depth * rng.uniform(0.6, 1.0, (len(top), 1))
        draw.polygon(_flat(np.concatenate([p[27] + (top - p[27]) * 1.12, low[::-1]])), fill=_shade(hair, 1))
    if rng.random() < 0.2:
        for eye in _EYES.values():
            centre, radius = p[eye].mean(0), _span(p) * 0.22
            box = (*(centre - radius), *(centre + radius * np.array([1, 0.85])))
            draw.ellipse(tuple(float(v) for v in box), outline=(30, 30, 34), width=3)
    if rng.random() < 0.3:
        centre = p[rng.integers(0, 68)] + rng.normal(0, 0.15, 2) * _span(p)
        half = _span(p) * rng.uniform(0.12, 0.38, 2)
        fill = _shade(rng.uniform(20, 235, 3), 1)
        box = tuple(float(v) for v in (*(centre - half), *(centre + half)))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=fill)


def _light(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Reduce the painting, light it from one side, blur it a little, and add noise."""
    small = image.reduce(_FINE).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.7))))
    pixels = np.asarray(small, np.float32)
    place = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.9)
    ramp = 1 + strength * (np.cos(angle) * place[None, :] + np.sin(angle) * place[:, None])
    pixels = pixels * ramp[..., None] * rng.uniform(0.7, 1.15) + rng.normal(0, rng.uniform(1, 6), pixels.shape)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


# The dataset ----------------------------------------------------------------------------------------------------------


def render(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` faces of a split: images (count, SIZE, SIZE, 3) uint8, and points (count, 68, 2) float32 in pixels."""
    rng = np.random.default_rng([VERSION, _SEED, split == "test"])
    points = _project(rng, _head(rng, count))
    images = np.stack([_paint(rng, face) for face in points])
    return images, points[:, :68].astype(np.float32)


def load(name: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` faces of a split of `faces-rendered`, from the cache where they were made before.

    Raises ZoolibError for an unknown name.
    """
    if name != "faces-rendered":
        raise unknown("embedded landmark dataset", name, ["faces-rendered"])
    key = hashlib.sha256(json.dumps([VERSION, _SEED, SIZE, count]).encode()).hexdigest()[:16]
    cached = build_dir() / "cache" / "embedded" / f"{name}-{split}-{key}.npz"
    if not cached.is_file():
        images, points = render(split, count)
        with atomic(cached) as file:
            np.savez(file, images=images, points=points)
    with np.load(cached) as kept:
        return kept["images"], kept["points"]
