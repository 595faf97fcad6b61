"""Two families of rendered objects: `shapes`, ten general things, and `gliders`, which differ only in small parts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zoolib.data.render import NONE, Scenes
from zoolib.data.scenes import (
    Catalogue,
    Design,
    Part,
    Point,
    Pose,
    blank,
    box,
    capsule,
    clutter,
    ellipse,
    place,
    polygon,
    uniform,
)

BODY, SECOND, DARK, LIGHT = range(4)  # the inks of an object: two random colours, a dark and a light detail
OCCLUDERS = 1  # part slots before the objects

SHAPES = ("house", "tree", "fish", "boat", "car", "mushroom", "flower", "mug", "bird", "key")


def _thing(name: str, coarse: str, parts: Sequence[Part], **keypoints: Point) -> Design:
    named = tuple((key.replace("_", " "), place) for key, place in keypoints.items())
    return Design(name, SHAPES.index(coarse), tuple(parts), named)


_HOUSE = [box(-0.7, -0.15, 0.7, 0.9, BODY), polygon((-0.95, -0.1), (0, -0.9), (0.95, -0.1), ink=SECOND),
          box(-0.45, 0.25, -0.05, 0.9, DARK), box(0.2, 0.15, 0.5, 0.45, LIGHT)]  # fmt: skip
_FISH = [polygon((0.4, 0), (0.95, -0.5), (0.95, 0.5), ink=BODY), ellipse(-0.15, 0, 0.75, 0.45, BODY),
         ellipse(-0.55, -0.1, 0.09, 0.09, DARK)]  # fmt: skip
_BOAT = [polygon((-0.95, 0.4), (0.95, 0.4), (0.6, 0.9), (-0.6, 0.9), ink=BODY),
         capsule((0, 0.4), (0, -0.9), 0.06, DARK),
         polygon((0.12, -0.85), (0.12, 0.25), (0.8, 0.25), ink=SECOND)]  # fmt: skip
_WHEELS = [ellipse(-0.5, 0.55, 0.25, 0.25, DARK), ellipse(0.5, 0.55, 0.25, 0.25, DARK)]
_MUSHROOM = [polygon((-0.22, 0), (0.22, 0), (0.3, 0.9), (-0.3, 0.9), ink=LIGHT),
             polygon((-0.95, 0.1), (-0.7, -0.5), (-0.3, -0.85), (0.3, -0.85), (0.7, -0.5), (0.95, 0.1),
                     ink=BODY)]  # fmt: skip
_PETALS = [ellipse(0.42 * math.sin(a), -0.35 - 0.42 * math.cos(a), 0.27, 0.27, BODY)
           for a in (2 * math.pi * i / 5 for i in range(5))]  # fmt: skip
_FLOWER = [capsule((0, -0.2), (0, 0.9), 0.07, DARK), *_PETALS, ellipse(0, -0.35, 0.25, 0.25, SECOND)]
_MUG = [ellipse(0.5, 0.05, 0.35, 0.38, BODY, line=0.16), box(-0.75, -0.6, 0.5, 0.75, BODY),
        ellipse(-0.125, -0.6, 0.625, 0.2, SECOND)]  # fmt: skip
_BIRD = [polygon((0.3, -0.1), (0.95, -0.35), (0.95, 0.05), ink=SECOND), ellipse(0, 0.05, 0.6, 0.4, BODY),
         polygon((-0.65, -0.5), (-0.95, -0.3), (-0.6, -0.25), ink=LIGHT), ellipse(-0.5, -0.4, 0.27, 0.27, BODY),
         polygon((-0.2, -0.05), (0.5, -0.1), (0.2, 0.3), ink=SECOND)]  # fmt: skip
_KEY = [ellipse(-0.55, 0, 0.36, 0.36, BODY, line=0.2), capsule((-0.15, 0), (0.85, 0), 0.1, BODY),
        box(0.65, 0, 0.85, 0.4, BODY)]  # fmt: skip

_HOUSE_POINTS = {"ridge": (0, -0.9), "left_eave": (-0.95, -0.1), "right_eave": (0.95, -0.1), "door": (-0.25, 0.6)}
_FISH_POINTS = {"mouth": (-0.9, 0), "eye": (-0.55, -0.1), "upper_tail": (0.95, -0.5), "lower_tail": (0.95, 0.5)}
_BOAT_POINTS = {"bow": (0.95, 0.4), "stern": (-0.95, 0.4), "masthead": (0, -0.9), "keel": (0, 0.85)}
_CAR_POINTS = {"front": (-0.95, 0.3), "rear": (0.95, 0.3), "front_wheel": (-0.5, 0.55), "rear_wheel": (0.5, 0.55)}
_CAP_POINTS = {"top": (0, -0.83), "left_rim": (-0.92, 0.08), "right_rim": (0.92, 0.08), "foot": (0, 0.85)}
_FLOWER_POINTS = {"heart": (0, -0.35), "top": (0, -1.0), "foot": (0, 0.9), "stem": (0, 0.45)}
_MUG_POINTS = {"left_rim": (-0.72, -0.6), "right_rim": (0.47, -0.6), "handle": (0.85, 0.05), "base": (-0.125, 0.7)}
_BIRD_POINTS = {"beak": (-0.9, -0.33), "head": (-0.5, -0.4), "tail": (0.92, -0.15), "belly": (0, 0.4)}
_KEY_POINTS = {"bow": (-0.89, 0), "collar": (-0.15, 0), "tip": (0.92, 0), "bit": (0.75, 0.36)}
_TREE_POINTS = {"top": (0, -0.9), "left": (-0.7, 0.05), "right": (0.7, 0.05), "foot": (0, 0.9)}

#: two fine classes of each thing; the second differs from the first by a part
SHAPE_DESIGNS = (
    _thing("house", "house", _HOUSE, **_HOUSE_POINTS),
    _thing("house with a chimney", "house", [box(0.4, -0.95, 0.65, -0.3, DARK), *_HOUSE], **_HOUSE_POINTS),
    _thing("broad-leaved tree", "tree", [box(-0.15, 0.1, 0.15, 0.95, SECOND), ellipse(0, -0.25, 0.75, 0.68, BODY)],
           **_TREE_POINTS | {"left": (-0.73, -0.25), "right": (0.73, -0.25)}),
    _thing("conifer", "tree", [box(-0.15, 0.5, 0.15, 0.95, SECOND),
                               polygon((-0.75, 0.65), (0, -0.25), (0.75, 0.65), ink=BODY),
                               polygon((-0.6, 0.15), (0, -0.95), (0.6, 0.15), ink=BODY)],
           **_TREE_POINTS | {"left": (-0.72, 0.63), "right": (0.72, 0.63)}),
    _thing("fish", "fish", _FISH, **_FISH_POINTS),
    _thing("striped fish", "fish", [*_FISH, capsule((-0.2, -0.3), (-0.2, 0.3), 0.08, SECOND),
                                    capsule((0.15, -0.25), (0.15, 0.25), 0.08, SECOND)], **_FISH_POINTS),
    _thing("boat with one sail", "boat", _BOAT, **_BOAT_POINTS),
    _thing("boat with two sails", "boat", [*_BOAT, polygon((-0.12, -0.6), (-0.12, 0.25), (-0.7, 0.25), ink=SECOND)],
           **_BOAT_POINTS),
    _thing("saloon car", "car", [box(-0.95, 0, 0.95, 0.5, BODY), *_WHEELS,
                                 polygon((-0.6, 0.05), (-0.3, -0.45), (0.35, -0.45), (0.7, 0.05), ink=SECOND)],
           **_CAR_POINTS),
    _thing("pick-up", "car", [box(-0.95, 0, 0.95, 0.5, BODY), *_WHEELS,
                              polygon((-0.6, 0.05), (-0.4, -0.45), (0.05, -0.45), (0.05, 0.05), ink=SECOND)],
           **_CAR_POINTS),
    _thing("plain mushroom", "mushroom", _MUSHROOM, **_CAP_POINTS),
    _thing("spotted mushroom", "mushroom", [*_MUSHROOM, ellipse(-0.4, -0.3, 0.16, 0.12, SECOND),
                                            ellipse(0.1, -0.5, 0.14, 0.11, SECOND),
                                            ellipse(0.45, -0.15, 0.16, 0.12, SECOND)], **_CAP_POINTS),
    _thing("flower", "flower", _FLOWER, **_FLOWER_POINTS),
    _thing("flower with leaves", "flower", [polygon((0, 0.7), (0.55, 0.25), (0.6, 0.5), ink=DARK),
                                            polygon((0, 0.8), (-0.55, 0.4), (-0.6, 0.65), ink=DARK), *_FLOWER],
           **_FLOWER_POINTS),
    _thing("mug", "mug", _MUG, **_MUG_POINTS),
    _thing("mug on a saucer", "mug", [ellipse(-0.1, 0.75, 0.9, 0.2, LIGHT), *_MUG], **_MUG_POINTS),
    _thing("bird", "bird", _BIRD, **_BIRD_POINTS),
    _thing("wading bird", "bird", [capsule((-0.1, 0.4), (-0.1, 0.95), 0.05, DARK),
                                   capsule((0.15, 0.4), (0.15, 0.95), 0.05, DARK), *_BIRD], **_BIRD_POINTS),
    _thing("key with one bit", "key", _KEY, **_KEY_POINTS),
    _thing("key with two bits", "key", [*_KEY, box(0.25, 0, 0.45, 0.35, BODY)], **_KEY_POINTS),
)  # fmt: skip

WINGS, TAILS, TIPS = ("straight", "swept"), ("cross", "vee", "twin"), ("plain", "podded")


def _glider(wing: int, tail: int, tip: int) -> Design:
    """A glider seen from above, nose up. Slots stand for the same part in every design, so designs compare slot by
    slot: fuselage, two wings, canopy, four of the tail, two of the tips."""
    y = -0.15 if wing == 0 else 0.25  # of the wing's end; swept wings point back
    parts = [capsule((0, -0.75), (0, 0.8), 0.1, BODY)]
    parts += [
        polygon((0, -0.32), (s * 0.95, y - 0.08), (s * 0.95, y + 0.08), (0, 0.05), ink=BODY) for s in (-1, 1)
    ]  # fmt: skip
    parts.append(ellipse(0, -0.52, 0.07, 0.16, DARK))
    gone = Part(NONE, ((0.0, 0.0),), BODY)  # a slot that other designs need
    parts += {
        0: [box(-0.45, 0.62, 0.45, 0.82, SECOND), gone, gone, gone],
        1: [polygon((0, 0.5), (s * 0.5, 0.85), (s * 0.42, 1.0), (0, 0.75), ink=SECOND) for s in (-1, 1)] + [gone, gone],
        2: [box(-0.45, 0.62, 0.45, 0.78, SECOND), gone]
        + [box(s * 0.45 - 0.1, 0.45, s * 0.45 + 0.1, 0.99, SECOND) for s in (-1, 1)],
    }[tail]
    parts += [ellipse(s * 0.88, y, 0.12, 0.3, SECOND) if tip else gone for s in (-1, 1)]
    points = (("nose", (0.0, -0.82)), ("left tip", (-0.93, y)), ("right tip", (0.93, y)), ("tail", (0.0, 0.8)))
    return Design(f"{WINGS[wing]}, {TAILS[tail]} tail, {TIPS[tip]} tips", wing, tuple(parts), points)


GLIDER_DESIGNS = tuple(_glider(*which) for which in itertools.product(range(2), range(3), range(2)))
GLIDERS = tuple(design.name for design in GLIDER_DESIGNS)


def _inks(rng: np.random.Generator, count: int, objects: int) -> np.ndarray:
    """(N, K, 4, 3): a body colour, a second one, a dark and a light tone."""
    inks = uniform(rng, 0.1, 0.95, count, objects, 4, 3)
    inks[:, :, DARK] *= np.float32(0.3)
    inks[:, :, LIGHT] = np.float32(0.75) + np.float32(0.25) * inks[:, :, LIGHT]
    return inks


def _spread(rng: np.random.Generator, fine: np.ndarray, turn: float, scale: tuple[float, float]) -> Pose:
    """Poses of (N, K) objects: one stands near the middle, several each in their own part of the image."""
    count, objects = fine.shape
    side = math.ceil(math.sqrt(objects))
    cells = rng.permuted(np.tile(np.arange(side * side), (count, 1)), axis=1)[:, :objects]
    middle = (np.stack([cells % side, cells // side], -1) + 0.5) / side
    size = uniform(rng, *scale, count, objects) / side
    room = np.maximum(0.02, 0.5 / side - size)[..., None]
    centre = middle + room * uniform(rng, -1, 1, count, objects, 2)
    mirror = rng.choice(np.array([-1, 1], np.float32), (count, objects))
    stretch = uniform(rng, 0.85, 1.15, count, objects)
    return Pose(centre.astype(np.float32), size, uniform(rng, -turn, turn, count, objects), mirror, stretch)


def compose(
    rng: np.random.Generator,
    catalogue: Catalogue,
    fine: np.ndarray,
    turn: float,
    scale: tuple[float, float],
    behind: int,
    mirrored: bool = True,
) -> Scenes:
    """Scenes of objects of fine classes (N, K), -1 for none, over `behind` parts of clutter and behind an occluder.

    An object is turned by up to `turn` radians either way, and half of its extent lies within `scale`. Half of the
    objects are mirrored, which symmetric ones must not be: nothing would tell their left point from their right one.

    No draw depends on `fine`: two calls with equal generators differ in nothing but what the classes define.
    """
    count, objects = fine.shape
    slots = objects * catalogue.kind.shape[1]
    scenes = blank(rng, count, behind + slots + OCCLUDERS, objects, catalogue.keypoints.shape[1])
    clutter(scenes, slice(0, behind), rng, (0.1, 0.45))
    pose = _spread(rng, fine, turn, scale)
    if not mirrored:
        pose = replace(pose, mirror=np.ones_like(pose.mirror))
    place(scenes, behind, catalogue, fine, pose, _inks(rng, count, objects))
    clutter(scenes, slice(behind + slots, None), rng, (0.03, 0.12))
    scenes.fine[:] = fine[:, 0]
    scenes.label[:] = scenes.objects[:, 0]
    return scenes


_SHAPES, _GLIDERS = Catalogue.of(SHAPE_DESIGNS), Catalogue.of(GLIDER_DESIGNS)


def shapes(rng: np.random.Generator, fine: np.ndarray, behind: int = 5) -> Scenes:
    """Scenes of general things over `behind` parts of clutter; `fine` (N, K) indexes SHAPE_DESIGNS, -1 for no object.

    The label is the thing of the first object.
    """
    return compose(rng, _SHAPES, fine, turn=0.5, scale=(0.3, 0.46), behind=behind)


def gliders(rng: np.random.Generator, fine: np.ndarray) -> Scenes:
    """Scenes of gliders; `fine` (N, K) indexes GLIDER_DESIGNS and is the label. Clearer views than `shapes`."""
    scenes = compose(rng, _GLIDERS, fine, turn=0.4, scale=(0.4, 0.49), behind=3, mirrored=False)
    scenes.noise[:] *= np.float32(0.5)
    scenes.light[:] *= np.float32(0.6)
    scenes.label[:] = scenes.fine
    return scenes
