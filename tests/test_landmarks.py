"""Heatmaps, errors and the geometry between image, crop and heatmap, against hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zoolib import heatmaps, nme
from zoolib.data.faces import CONTEXT, Faces
from zoolib.data.landmarks import FaceImages, Similarity, draw, swapped
from zoolib.data.manifests import combined_sha256, dataset
from zoolib.hub import Hub
from zoolib.methods.hubpathway import HubPathway
from zoolib.spec import Settings, ZoolibError
from zoolib.tasks import HeatmapHead, LandmarkDetection

FACES = ("faces68", "faces-rendered")


def one_peak(y: int, x: int, around: dict[tuple[int, int], float], height: int = 5, width: int = 6) -> torch.Tensor:
    """A heatmap that is 1 at (y, x) and has the given values elsewhere."""
    out = torch.zeros(height, width)
    out[y, x] = 1.0
    for place, value in around.items():
        out[place] = value
    return out


def decoded(heatmap: torch.Tensor) -> list[float]:
    """The decoded point in heatmap pixels."""
    return (heatmaps.decode(heatmap) * torch.tensor([heatmap.shape[1], heatmap.shape[0]])).tolist()


# Decoding: (x, y) in heatmap pixels, the first pixel covering [0, 1]


@pytest.mark.parametrize(
    ("heatmap", "point"),
    [
        (one_peak(2, 3, {(2, 4): 0.5, (2, 2): 0.4, (1, 3): 0.3, (3, 3): 0.1}), (3.75, 2.25)),  # right and up
        (one_peak(2, 3, {(2, 4): 0.4, (2, 2): 0.5, (1, 3): 0.1, (3, 3): 0.3}), (3.25, 2.75)),  # left and down
        (one_peak(2, 3, {}), (3.5, 2.5)),  # equal neighbours: stays
        (one_peak(2, 3, {(2, 4): 0.2}), (3.75, 2.5)),  # one axis alone
        (one_peak(0, 3, {(0, 4): 0.5, (1, 3): 0.5}), (3.5, 0.5)),  # top border
        (one_peak(4, 3, {(4, 4): 0.5}), (3.5, 4.5)),  # bottom border
        (one_peak(2, 0, {(1, 0): 0.5}), (0.5, 2.5)),  # left border
        (one_peak(2, 5, {(1, 5): 0.5}), (5.5, 2.5)),  # right border
        (one_peak(4, 5, {}), (5.5, 4.5)),  # corner
        (one_peak(2, 1, {(2, 4): 1.0}), (1.5, 2.5)),  # of equal peaks the first in reading order
        (torch.zeros(5, 6), (0.5, 0.5)),  # empty: its first pixel
        (one_peak(2, 3, {(2, 4): 0.5}) - 3, (3.75, 2.5)),  # only the order of the values counts
    ],
)
def test_decoding_agrees_with_hand_made_cases(heatmap, point):
    assert decoded(heatmap) == pytest.approx(point, abs=1e-6)
    assert decoded(heatmap.half()) == pytest.approx(point, abs=1e-6)


def test_decoding_a_batch_is_decoding_each_map():
    maps = torch.rand(3, 4, 7, 9, generator=torch.Generator().manual_seed(0))
    every = heatmaps.decode(maps)
    assert every.shape == (3, 4, 2)
    assert torch.equal(every[2, 1], heatmaps.decode(maps[2, 1]))


def test_a_gaussian_has_peak_1_at_its_point_and_the_values_of_its_formula():
    maps = heatmaps.gaussians(torch.tensor([[2.5 / 8, 4.5 / 8]]), 8, 8, sigma=1.5)
    assert maps.shape == (1, 8, 8) and maps[0, 4, 2] == 1
    assert maps[0, 5, 4].item() == pytest.approx(math.exp(-(1 + 4) / (2 * 1.5**2)))
    between = heatmaps.gaussians(torch.tensor([[3.0 / 8, 4.5 / 8]]), 8, 8, sigma=1.0)[0]
    assert between[4, 2] == between[4, 3] == pytest.approx(math.exp(-0.125))  # it is not rounded to a pixel


def test_a_missing_point_has_no_target_and_no_share_in_the_loss():
    points = torch.tensor([[[0.5, 0.5], [math.nan, math.nan]], [[0.5, 0.5], [0.25, 0.25]]])
    target = heatmaps.gaussians(points, 8, 8, 1.0)
    assert target[0, 1].abs().sum() == 0 and torch.isfinite(target).all()
    off = target.clone()
    off[0, 1] += 100.0  # a prediction for the missing point
    assert heatmaps.squared_error(off, points, 1.0).tolist() == pytest.approx([0, 0])
    off[:, 0] += 0.5  # one of one known points, one of two
    assert heatmaps.squared_error(off, points, 1.0).tolist() == pytest.approx([0.25, 0.125])
    nothing = torch.full((1, 2, 2), math.nan)
    assert heatmaps.squared_error(off[:1], nothing, 1.0).tolist() == [0]


def test_the_gradient_of_the_loss_is_finite_with_missing_points():
    maps = torch.zeros(1, 2, 8, 8, requires_grad=True)
    heatmaps.squared_error(maps, torch.tensor([[[0.5, 0.5], [math.nan, 0.5]]]), 1.0).sum().backward()
    assert torch.isfinite(maps.grad).all() and maps.grad[0, 1].abs().sum() == 0 and maps.grad[0, 0].abs().sum() > 0


# Errors


def test_errors_agree_with_hand_computed_cases():
    truth = np.array([[[0, 0], [10, 0], [5, 5]], [[0, 0], [0, 5], [1, 1]]], float)
    prediction = truth + np.array([[[3, 4], [0, 0], [0, 1]], [[0, 0], [0, 0], [0, 0]]])
    assert nme.errors(prediction, truth, (0, 1)).tolist() == pytest.approx([(5 + 0 + 1) / 3 / 10, 0], abs=1e-6)
    assert nme.errors(prediction, truth, (0, 2))[0] == pytest.approx(2 / math.hypot(5, 5), abs=1e-6)


def test_missing_points_are_left_out_and_never_averaged_in():
    truth = np.array([[[0, 0], [10, 0], [np.nan, np.nan]], [[np.nan, 0], [10, 0], [5, 5]]])
    prediction = np.zeros_like(truth)
    each = nme.errors(prediction, truth, (0, 1))
    assert each[0] == pytest.approx((0 + 10) / 2 / 10, abs=1e-6)  # over two points, not three
    assert np.isnan(each[1])  # a point of the normaliser is missing: the face has no error
    assert nme.summary(each)["nme"] == pytest.approx(50, abs=1e-6)
    assert np.isnan(nme.errors(prediction[:1], np.full((1, 3, 2), np.nan), (0, 1)))


def test_a_prediction_that_is_not_a_number_counts_as_infinitely_wrong():
    truth = np.array([[[0.0, 0], [10, 0]]])
    each = nme.errors(np.full_like(truth, np.nan), truth, (0, 1))
    assert each[0] == np.inf and nme.failure_rate(each, 0.1) == 1 and nme.auc(each, 0.1) == 0


def test_failure_rate_area_and_cumulative_curve_by_hand():
    each = np.array([0.02, 0.08, 0.09, 0.5, np.nan])
    assert nme.failure_rate(each, 0.08) == 0.5  # an error equal to the threshold is no failure
    assert nme.auc(each, 0.1) == pytest.approx((0.8 + 0.2 + 0.1 + 0) / 4, abs=1e-6)
    at = np.linspace(0, 0.1, 100_001)
    assert nme.auc(each, 0.1) == pytest.approx(np.trapezoid(nme.cumulative(each, at), at) / 0.1, abs=1e-4)
    assert nme.cumulative(each, np.array([0.01, 0.02, 0.085, 1])).tolist() == [0, 0.25, 0.5, 1]
    assert set(nme.summary(each)) == {"nme", "fr_08", "auc_08", "fr_10", "auc_10"}


def test_the_error_is_the_same_in_pixels_and_in_crop_coordinates():
    rng = np.random.default_rng(0)
    truth, prediction = rng.random((4, 68, 2)), rng.random((4, 68, 2))
    faces = Faces(np.empty(0), truth, rng.random((4, 2)) * 50, 20 + 100 * rng.random(4), None, {}, "")
    in_pixels = nme.errors(faces.to_image(prediction), faces.to_image(truth), (36, 45))
    assert np.allclose(in_pixels, nme.errors(prediction, truth, (36, 45)))


# Geometry


def settings(**changes) -> Settings:
    return Settings(image_size=64, decode_size=112, batch_size=4, **changes)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [-30, -7, 0, 18, 30, 90])
@pytest.mark.parametrize("scale", [0.75, 1.0, 1.25])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_true_points_come_back_within_half_a_heatmap_pixel(degrees, scale, mirrored, size):
    pairs = dataset("faces68").landmarks.flip_pairs
    face = 0.25 + 0.5 * torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(size))
    view = Similarity(torch.tensor([math.radians(degrees)]), torch.tensor([scale]), torch.tensor([mirrored]))
    seen = view.points(face, pairs)
    inside = ((seen > 1.5 / size) & (seen < 1 - 1.5 / size)).all(-1)  # a peak at the border stays there
    assert inside.float().mean() > 0.7
    found = view.back(heatmaps.decode(heatmaps.gaussians(seen, size, size, 1.0)), pairs)
    back = inside[:, swapped(68, pairs)] if mirrored else inside
    off = (found - face).norm(dim=-1) * size * scale  # in pixels of the heatmap
    assert off[back].max() < 0.5


def test_back_projection_to_the_image_keeps_fractions_of_a_pixel():
    faces = Faces(np.empty(0), np.empty((1, 1, 2)), np.array([[100.25, 50.5]]), np.array([64.0]), None, {}, "")
    assert faces.to_image(np.array([[[0.5, 0.5]]])).tolist() == [[[100.25, 50.5]]]
    assert faces.to_image(np.array([[[0.5 + 0.3 / 64, 0.0]]])).ravel().tolist() == pytest.approx([100.55, 18.5])


@pytest.mark.parametrize("name", FACES)
def test_flipping_twice_is_the_identity_and_pairs_are_left_and_right_of_each_other(name):
    pairs = dataset(name).landmarks.flip_pairs
    order = swapped(68, pairs)
    assert torch.equal(order[order], torch.arange(68))
    assert {i for i in range(68) if order[i] == i} == {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}  # on the middle line
    face = torch.rand(2, 68, 2)
    mirror = Similarity(torch.zeros(2), torch.ones(2), torch.ones(2, dtype=torch.bool))
    once = mirror.points(face, pairs)
    assert torch.allclose(once[:, 36], torch.stack([1 - face[:, 45, 0], face[:, 45, 1]], -1))
    assert torch.allclose(mirror.points(once, pairs), face, atol=1e-6)
    square = torch.randint(0, 255, (2, 112, 112, 3), dtype=torch.uint8)
    plain = Similarity.identity(2).images(square, 64)
    assert torch.allclose(mirror.images(square, 64), plain.flip(-1), atol=1e-5)


def test_an_untouched_crop_has_the_very_pixels_of_the_decoded_square():
    square = torch.randint(0, 255, (1, 112, 112, 3), dtype=torch.uint8)
    view = Similarity.identity(1).images(square, 64)
    assert torch.allclose(view[0], square[0, 24:88, 24:88].permute(2, 0, 1) / 255, atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (30, 0.8), (-25, 1.25), (90, 1.0)])
def test_image_and_points_move_together(degrees, scale, mirrored):
    """A bright dot painted at a point is seen where the point is said to be."""
    face = torch.tensor([[[0.3, 0.4]]])
    full = 224
    square = torch.zeros(1, full, full, 3, dtype=torch.uint8)
    place = ((face[0, 0] - 0.5) / CONTEXT + 0.5) * full
    x, y = (int(v) for v in place.round())
    square[0, y - 3 : y + 3, x - 3 : x + 3] = 255
    view = Similarity(torch.tensor([math.radians(degrees)]), torch.tensor([scale]), torch.tensor([mirrored]))
    image = view.images(square, 128)[0, 0]
    centres = (torch.arange(128) + 0.5) / 128
    seen = torch.stack([(image.sum(0) * centres).sum(), (image.sum(1) * centres).sum()]) / image.sum()
    assert torch.allclose(seen, view.points(face, [])[0, 0], atol=0.006)


def test_draws_respect_the_settings_and_repeat():
    chosen = settings(rotation=30.0, scaling=0.25)
    view = draw(4000, chosen, True, torch.Generator().manual_seed(1))
    assert view.scale.min() >= 1 / 1.25 and view.scale.max() <= 1 / 0.75 and view.scale.std() > 0.1
    assert view.angle.abs().max() <= math.radians(30)
    assert (view.angle != 0).float().mean().item() == pytest.approx(0.6, abs=0.03)
    assert view.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.03)
    again = draw(4000, chosen, True, torch.Generator().manual_seed(1))
    assert torch.equal(view.angle, again.angle)
    assert not draw(50, chosen, False, torch.Generator()).mirrored.any()


def test_people_are_never_split_between_training_and_validation():
    groups = np.repeat(np.arange(20), 5)
    face = Faces(np.zeros((100, 4, 4, 3), np.uint8), np.zeros((100, 68, 2), np.float32), np.zeros((100, 2)),
                 np.ones(100), groups, {}, "")  # fmt: skip
    rows = FaceImages(face, dataset("faces68").landmarks).split_rows(settings(val_fraction=0.2))
    assert not set(groups[rows["train"]]) & set(groups[rows["val"]])
    assert len(rows["val"]) == 20 and len(rows["train"]) == 80
    few = FaceImages(face, dataset("faces68").landmarks).split_rows(settings(val_fraction=0.2, train_limit=7))
    assert len(few["train"]) == 7 and np.array_equal(few["val"], rows["val"])


# The task


def task(size: int = 16) -> LandmarkDetection:
    return LandmarkDetection(dataset("faces68").landmarks, size, 8, torch.full((68, 2), 0.5))


def test_the_head_is_the_papers_and_gives_the_size_asked_for():
    head = HeatmapHead(2048, 68, 256, 64)
    shapes = [tuple(p.shape) for p in head.parameters() if p.dim() == 4]
    assert shapes == [(2048, 256, 4, 4), (256, 256, 4, 4), (256, 256, 4, 4), (68, 256, 1, 1)]
    assert head(torch.rand(1, 2048, 8, 8)).shape == (1, 68, 64, 64)  # 256 px: 8x8 after stride 32, no resampling
    assert HeatmapHead(16, 68, 8, 32)(torch.rand(2, 16, 8, 8)).shape == (2, 68, 32, 32)


def test_the_aggregator_starts_as_the_sum_of_the_weighted_heatmaps():
    each = torch.rand(2, 3, 68, 16, 16)
    assert torch.allclose(task().aggregator(3)(each.flatten(1, 2)), each.sum(1), atol=1e-5)


def test_the_ensemble_of_heatmaps_is_their_mean():
    maps = [np.random.default_rng(i).random((2, 68, 4, 4)).astype(np.float16) for i in range(3)]
    assert np.allclose(task().combine(maps, "heatmaps"), np.mean(np.stack(maps).astype(float), 0), atol=1e-6)
    with pytest.raises(ZoolibError, match="unknown combine 'votes'"):
        task().combine(maps, "votes")


def test_a_perfect_prediction_scores_under_a_quarter_pixel_and_the_mean_face_is_a_reference():
    truth = 0.2 + 0.6 * torch.rand(5, 68, 2, generator=torch.Generator().manual_seed(0))
    metrics = task(64).metrics(heatmaps.gaussians(truth, 64, 64, 1.0), truth)
    assert metrics["nme"] == pytest.approx(100 * _quantised(truth, 64), rel=0.1)
    mean = truth.mean(0)
    with_mean = LandmarkDetection(dataset("faces68").landmarks, 16, 8, mean).references(truth)["nme_mean_face"]
    by_hand = ((mean - truth).norm(dim=-1).mean(1) / (truth[:, 36] - truth[:, 45]).norm(dim=-1)).mean()
    assert with_mean == pytest.approx(100 * by_hand.item(), rel=1e-5)


def _quantised(truth: torch.Tensor, size: int) -> float:
    """The error of points rounded to the nearest quarter and three quarters of a pixel."""
    nearest = ((truth * size * 2).floor() + 0.5) / 2 / size
    return ((nearest - truth).norm(dim=-1).mean(1) / (truth[:, 36] - truth[:, 45]).norm(dim=-1)).mean().item()


def test_samples_keep_each_error_and_some_points_from_the_best_to_the_worst_face():
    truth = 0.2 + 0.6 * torch.rand(60, 68, 2, generator=torch.Generator().manual_seed(0))
    wrong = truth + 0.3 * torch.rand(60, 1, 1, generator=torch.Generator().manual_seed(1))
    maps = heatmaps.gaussians(wrong, 16, 16, 1.0)
    columns = task().samples(maps, truth)
    kept = [i for i, points in enumerate(columns["points"]) if points is not None]
    assert len(kept) == 24 and {int(np.argmin(columns["nme"])), int(np.argmax(columns["nme"]))} <= set(kept)
    assert np.allclose(columns["points"][kept[0]].reshape(68, 2), heatmaps.decode(maps[kept[0]]).numpy())


# Methods on landmarks: a hub of spatial models under the same code as for classification


def test_spatial_members_return_the_map_whose_mean_is_the_pooled_feature():
    pooled, spatial = (Hub("digits-zoo", spatial=s).model("rotation").eval() for s in (False, True))
    x = torch.rand(2, 3, 32, 32)
    assert spatial(x).shape == (2, 64, 4, 4) and spatial.num_features == 64
    assert torch.allclose(spatial(x).mean((2, 3)), pooled(x), atol=1e-5)
    assert spatial.state_dict().keys() == pooled.state_dict().keys()


def test_hub_pathway_on_heatmaps_weighs_each_members_maps_by_hand():
    members = Hub("digits-zoo", spatial=True).models()

    class Fixed(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.5, 0.2, 0.3]]).expand(len(x), -1)

    method = HubPathway(members, task(), Fixed(), top_k=2).eval()
    x = torch.rand(2, 3, 32, 32)
    out = method(x)
    first, _, third = (member(x) for member in method.members)
    assert torch.allclose(out.prediction, 0.5 * first + 0.3 * third, atol=1e-5)  # the aggregator starts as the sum
    terms = method.loss(out, torch.rand(2, 68, 2), task(), 0.0)
    assert set(terms) == {"task", "explore", "exploit"} and all(torch.isfinite(v) for v in terms.values())


def test_a_changed_protocol_of_landmarks_is_another_dataset():
    manifest = dataset("faces68")
    points = manifest.landmarks
    assert points is not None
    sums = set()
    for changes in ({}, {"sigma": 3.0}, {"normaliser_points": (0, 1)}, {"flip_pairs": []}, {"normaliser": "in words"}):
        changed = manifest.model_copy(update={"landmarks": points.model_copy(update=changes)})
        sums.add(combined_sha256(changed, "train", "test"))
    assert len(sums) == 4, "words alone change nothing"


def test_the_summary_by_hand_has_rates_and_areas_in_percent_each_at_its_own_threshold():
    found = nme.summary(np.array([0.04, 0.08, 0.09, 0.5, np.nan]))
    assert found == pytest.approx({
        "nme": 100 * 0.71 / 4, "fr_08": 50.0, "fr_10": 25.0,
        "auc_08": 100 * (0.5 + 0 + 0 + 0) / 4, "auc_10": 100 * (0.6 + 0.2 + 0.1 + 0) / 4,
    })  # fmt: skip
