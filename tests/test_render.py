"""The renderer: coverage, masks, boxes and keypoints, each against an oracle of its own."""

import dataclasses
import math

import numpy as np
import pytest

from zoolib.data import aerial, render, scenes, things
from zoolib.data.render import CAPSULE, ELLIPSE, NONE, POLYGON, Scenes
from zoolib.spec import ZoolibError

FAMILIES = {
    "shapes": lambda count: things.shapes(
        np.random.default_rng(1), np.random.default_rng(2).integers(-1, 20, (count, 3))
    ),
    "gliders": lambda count: things.gliders(np.random.default_rng(3), np.arange(count)[:, None] % 12),
    "tiles": lambda count: aerial.tiles(np.random.default_rng(4), np.arange(count) % 16),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> tuple[Scenes, render.Rendered]:
    drawn = FAMILIES[request.param](160)
    return drawn, render.render(drawn, 40)


def still(drawn: Scenes) -> Scenes:
    """The same scenes with even light, sharp borders and no noise."""
    count = len(drawn)
    flat = {"light": np.zeros((count, 2)), "noise": np.zeros(count), "softness": np.ones(count)}
    return dataclasses.replace(drawn, **{name: value.astype(np.float32) for name, value in flat.items()})


def one_part(kind: int, points: list, radii: tuple = (1, 1), angle: float = 0.0, line: float = 0.0) -> Scenes:
    """One scene of one white part that belongs to object 0, on a flat dark background."""
    drawn = still(scenes.blank(np.random.default_rng(0), 1, 1, 1, 1))
    drawn.kind[:], drawn.radii[:], drawn.angle[:], drawn.line[:] = kind, radii, angle, line
    drawn.points[0, 0] = points + points[-1:] * (render.MAX_CORNERS - len(points))
    drawn.colour[:], drawn.owner[:], drawn.objects[:], drawn.ground[:] = 1, 0, 0, 0
    return drawn


def inside(drawn: Scenes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in the only part of a scene, by the textbook's condition."""
    points, (a, b), turn = drawn.points[0, 0].astype(float), drawn.radii[0, 0].astype(float), float(drawn.angle[0, 0])
    if drawn.kind[0, 0] == ELLIPSE:
        dx, dy = x - points[0, 0], y - points[0, 1]
        u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        return (u / a) ** 2 + (v / b) ** 2 <= 1
    if drawn.kind[0, 0] == CAPSULE:
        (sx, sy), (ex, ey) = points[:2]
        t = np.clip(((x - sx) * (ex - sx) + (y - sy) * (ey - sy)) / ((ex - sx) ** 2 + (ey - sy) ** 2), 0, 1)
        return np.hypot(x - sx - t * (ex - sx), y - sy - t * (ey - sy)) <= a
    following = np.roll(points, -1, 0)
    sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in zip(points, following, strict=True)]
    return np.all([side >= 0 for side in sides], 0) | np.all([side <= 0 for side in sides], 0)


# Coverage


@pytest.mark.parametrize(
    "drawn",
    [
        one_part(ELLIPSE, [(0.47, 0.52)], (0.31, 0.31)),
        one_part(ELLIPSE, [(0.47, 0.52)], (0.38, 0.2), angle=0.7),
        one_part(CAPSULE, [(0.2, 0.3), (0.7, 0.62)], (0.11, 0.11)),
        one_part(POLYGON, [(0.1, 0.8), (0.45, 0.12), (0.9, 0.7)]),
        one_part(POLYGON, [(0.1, 0.8), (0.9, 0.7), (0.45, 0.12)]),
        one_part(POLYGON, [(0.2, 0.2), (0.8, 0.3), (0.85, 0.6), (0.6, 0.9), (0.3, 0.8), (0.1, 0.5)]),
    ],
    ids=["circle", "ellipse", "capsule", "triangle", "triangle the other way round", "hexagon"],
)
def test_coverage_agrees_with_the_share_of_sample_points_inside(drawn: Scenes) -> None:
    size, fine = 32, 16
    place = (np.arange(size * fine) + 0.5) / (size * fine)
    exact = inside(drawn, place[None, :], place[:, None]).reshape(size, fine, size, fine).mean((1, 3))
    error = np.abs(render.coverage(drawn, size)[0, 0] - exact)
    border = (exact > 0) & (exact < 1)
    assert border.sum() > 40
    assert error[border].mean() < 0.045  # a border that runs diagonally is the worst case of the formula
    assert (error[~border] < 0.21).all() and error[~border].mean() < 0.002
    assert error.max() < 0.3  # at a polygon's corner


def test_coverage_is_exact_for_borders_parallel_to_the_axes() -> None:
    left, top, right, bottom = 0.21, 0.33, 0.77, 0.81
    drawn = one_part(POLYGON, [(left, top), (right, top), (right, bottom), (left, bottom)])
    edges = np.arange(21) / 20
    wide, high = (
        np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, 1) * 20
        for low, high in ((left, right), (top, bottom))
    )
    found = render.coverage(drawn, 20)[0, 0]
    corners = np.ix_([6, 16], [4, 15])  # the product of two shares there, which the formula is not
    expected = high[:, None] * wide
    found[corners] = expected[corners]
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_outline_is_a_ring_of_its_width() -> None:
    ring = render.coverage(one_part(ELLIPSE, [(0.5, 0.5)], (0.3, 0.3), line=0.1), 64)[0, 0]
    assert ring.sum() / 64**2 == pytest.approx(math.pi * (0.35**2 - 0.25**2), rel=0.01)
    assert ring[32, 32] == 0


@pytest.mark.parametrize("softness", [1.0, 1.8])
def test_softer_borders_keep_the_area(softness: float) -> None:
    drawn = one_part(ELLIPSE, [(0.5, 0.5)], (0.3, 0.3))
    drawn.softness[:] = softness
    assert render.coverage(drawn, 64).sum() / 64**2 == pytest.approx(math.pi * 0.09, rel=0.01)


# Masks, boxes and keypoints


def test_boxes_are_the_bounds_of_what_the_mask_shows(family) -> None:
    _, seen = family
    for mask, boxes in zip(seen.mask, seen.boxes, strict=True):
        for index, box in enumerate(boxes):
            y, x = np.nonzero(mask == index + 1)
            if len(x) == 0:
                assert np.isnan(box).all()
            else:
                assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_the_mask_shows_only_objects_that_are_there(family) -> None:
    drawn, seen = family
    for mask, objects in zip(seen.mask, drawn.objects, strict=True):
        assert set(np.unique(mask)) - {0} <= {k + 1 for k, kind in enumerate(objects) if kind >= 0}


def test_visible_keypoints_lie_in_the_box_of_their_object_and_on_or_beside_its_mask(family) -> None:
    _, seen = family
    n, k, j = np.nonzero(seen.visible)
    assert len(n) > 300
    x, y = seen.keypoints[n, k, j].T
    left, top, right, bottom = seen.boxes[n, k].T
    assert ((x > left - 1.5) & (x < right + 1.5) & (y > top - 1.5) & (y < bottom + 1.5)).all()
    for scene, index, px, py in zip(n, k, x, y, strict=True):
        assert 0 <= px < 40 and 0 <= py < 40
        near = seen.mask[scene, max(0, int(py) - 1) : int(py) + 2, max(0, int(px) - 1) : int(px) + 2]
        assert (near == index + 1).any()


@pytest.mark.parametrize("designs", [things.SHAPE_DESIGNS, things.GLIDER_DESIGNS], ids=["shapes", "gliders"])
def test_every_keypoint_of_every_design_lies_on_the_thing(designs) -> None:
    fine = np.arange(len(designs))[:, None]
    catalogue = scenes.Catalogue.of(designs)
    drawn = things.compose(np.random.default_rng(0), catalogue, fine, turn=0.5, scale=(0.4, 0.45), behind=0)
    drawn.kind[:, -things.OCCLUDERS :] = NONE
    seen = render.render(drawn, 96)
    wrong = [designs[n].keypoints[j][0] + " of " + designs[n].name for n, _, j in np.argwhere(~seen.visible)]
    inside = ((seen.keypoints >= 0) & (seen.keypoints < 96)).all(-1)
    assert not [name for name, (n, k, j) in zip(wrong, np.argwhere(~seen.visible), strict=True) if inside[n, k, j]]
    assert inside.mean() > 0.97


def test_the_left_tip_of_a_glider_is_on_the_left_of_its_nose() -> None:
    drawn = FAMILIES["gliders"](60)
    nose, left, right, tail = drawn.keypoints[:, 0].transpose(1, 2, 0)
    ahead = nose - tail
    side = [ahead[0] * (tip - tail)[1] - ahead[1] * (tip - tail)[0] for tip in (left, right)]
    assert (side[0] < 0).all() and (side[1] > 0).all()


def test_a_turned_mirrored_thing_has_its_keypoints_where_trigonometry_puts_them() -> None:
    pose = scenes.Pose(
        np.array([[[0.4, 0.6]]], np.float32), np.array([[0.25]], np.float32), np.array([[0.3]], np.float32),
        np.array([[-1.0]], np.float32), np.array([[1.1]], np.float32),
    )  # fmt: skip
    design = things.GLIDER_DESIGNS[0]
    drawn = scenes.blank(np.random.default_rng(0), 1, len(design.parts), 1, 4)
    inks = np.full((1, 1, 4, 3), 0.5, np.float32)
    scenes.place(drawn, 0, scenes.Catalogue.of([design]), np.array([[0]]), pose, inks)
    for (_, (x, y)), found in zip(design.keypoints, drawn.keypoints[0, 0], strict=True):
        u, v = 0.25 * -1.1 * x, 0.25 * y
        assert found == pytest.approx(
            [0.4 + u * math.cos(0.3) - v * math.sin(0.3), 0.6 + u * math.sin(0.3) + v * math.cos(0.3)], abs=1e-6
        )


def test_the_mask_is_where_the_object_decides_the_colour(family) -> None:
    drawn = still(family[0])
    owned = (drawn.owner >= 0) & (drawn.kind != NONE)
    black, white = (
        dataclasses.replace(drawn, colour=np.where(owned[..., None], np.float32(level), drawn.colour))
        for level in (0, 1)
    )
    change = render.render(white, 40).images.astype(int) - render.render(black, 40).images
    decided = change.mean(-1) > 127
    mask = render.render(drawn, 40).mask > 0
    assert (decided == mask).mean() > 0.98  # they differ where two parts of one object meet inside a pixel
    assert (decided & mask).sum() > 0.95 * mask.sum()


def test_what_is_painted_later_hides_what_lies_below_and_glass_hides_nothing() -> None:
    circle = one_part(ELLIPSE, [(0.5, 0.5)], (0.3, 0.3))
    fields = {f.name: getattr(circle, f.name) for f in dataclasses.fields(Scenes)}
    per_part = ("kind", "points", "radii", "angle", "line", "colour", "opacity", "owner")
    two = Scenes(**{name: np.repeat(v, 2, 1) if name in per_part else v.copy() for name, v in fields.items()})
    two.owner[0, 1], two.radii[0, 1] = -1, 0.15
    hidden = render.render(two, 64).mask[0]
    assert hidden[32, 32] == 0 and hidden[32, 32 + 15] == 1
    two.opacity[0, 1] = 0.4
    assert render.render(two, 64).mask[0, 32, 32] == 1
    two.opacity[0, 1], two.owner[0, 1] = 1, 0
    assert render.render(two, 64).mask[0, 32, 32] == 1


# Images


def test_photographs_show_through_unchanged_where_nothing_is_painted() -> None:
    drawn = still(FAMILIES["shapes"](20))
    behind = np.random.default_rng(5).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    over = render.render(drawn, 32, behind)
    bare = render.coverage(drawn, 32).max(1) == 0
    assert bare.mean() > 0.2 and np.array_equal(over.images[bare], behind[bare])
    assert np.array_equal(over.mask, render.render(drawn, 32).mask)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 16, 16, 3), np.uint8), np.zeros((4, 32, 32, 3), np.float32), np.zeros((3, 32, 32, 3), np.uint8)],
)
def test_backgrounds_of_another_shape_or_type_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ZoolibError, match=r"pass uint8 \(4, 32, 32, 3\)"):
        render.render(FAMILIES["gliders"](4), 32, wrong)


def test_a_scene_looks_the_same_alone_and_among_others(family) -> None:
    drawn, seen = family
    for row in (0, 31, 32, 159):
        alone = render.render(drawn.take(np.array([row])), 40)
        assert np.array_equal(alone.images[0], seen.images[row]) and np.array_equal(alone.mask[0], seen.mask[row])


def test_a_background_is_interpolated_between_its_grid_points() -> None:
    grid = np.arange(3, dtype=np.float32)[None, None, None] * np.ones((1, 1, 3, 1), np.float32)  # rises along x
    drawn = render._resample(grid, 8)[0, 0]
    assert drawn == pytest.approx(np.tile((np.arange(8) + 0.5) / 8 * 2, (8, 1)), abs=1e-6)


def test_noise_has_mean_zero_and_unit_variance_and_differs_between_scenes() -> None:
    grain = render._grain(np.array([1, 2], np.uint32), (3, 64, 64))
    assert abs(grain.mean()) < 0.02 and grain.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(grain[0].ravel(), grain[1].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(grain[0, 0, :, 1:].ravel(), grain[0, 0, :, :-1].ravel())[0, 1]) < 0.04


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_but_the_object_depends_on_its_class(name: str) -> None:
    fine = {"shapes": (0, 7), "gliders": (0, 11), "tiles": (0, 9)}[name]
    build = {"shapes": things.shapes, "gliders": things.gliders, "tiles": aerial.tiles}[name]
    shape = (30,) if name == "tiles" else (30, 1)
    first, second = (build(np.random.default_rng(8), np.full(shape, value)) for value in fine)
    for field in ("ground", "light", "softness", "noise", "key"):
        assert np.array_equal(getattr(first, field), getattr(second, field)), field
    clutter = (first.owner < 0) & (second.owner < 0)
    assert np.array_equal(first.points[clutter], second.points[clutter])
    assert np.array_equal(first.colour[clutter], second.colour[clutter])
