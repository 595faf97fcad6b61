"""Figures of routes, read back from what was drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch

from zoolib import palette, routes
from zoolib.grid import grid
from zoolib.results import Result
from zoolib.spec import ZoolibError

MEMBERS = ["rotation", "jigsaw", "corruption"]
WEIGHTS = np.array([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.1, 0.3, 0.6], [0.3, 0.3, 0.4]])


@pytest.fixture
def routed() -> pd.DataFrame:
    frame = pd.DataFrame({"index": range(4), "label": [0, 0, 1, 1], "prediction": [0, 1, 1, 1]})
    return frame.assign(**{f"weight:{name}": WEIGHTS[:, i] for i, name in enumerate(MEMBERS)})


@pytest.fixture
def gated() -> pd.DataFrame:
    frame = pd.DataFrame({"index": range(4), "label": [0, 0, 1, 1], "prediction": [0, 1, 1, 1]})
    gates = np.random.default_rng(0).random((4, 5, 3))
    return frame.assign(**{f"gates:layer{i}": list(gates[:, i]) for i in range(5)})


def test_a_route_has_exactly_k_models_the_heaviest_and_the_first_among_equals():
    assert routes.active(WEIGHTS, 2).astype(int).tolist() == [[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 1]]
    assert (routes.active(np.full((3, 4), 0.25), 2) == [True, True, False, False]).all()
    with pytest.raises(ZoolibError, match="use 1 to 3"):
        routes.active(WEIGHTS, 4)


def test_entropy_is_0_for_one_model_and_log_m_for_all_alike():
    found = routes.route_entropy(np.array([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    assert found == pytest.approx([0, np.log(3)])


def test_the_flow_counts_the_images_of_each_class_on_each_member(routed: pd.DataFrame):
    counts = routes.flow(routed, 2)
    assert counts.to_numpy().tolist() == [[2, 1, 1], [1, 1, 2]]
    assert (routes.flow(routed, 3).to_numpy() == 2).all()


def test_bands_of_the_flow_are_as_thick_as_their_counts_and_have_the_members_colours(routed: pd.DataFrame):
    figure = routes.routing_flow(routed, 2, classes=["a", "b"])
    bands = [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]
    thick = [patch.get_path().vertices[4, 1] - patch.get_path().vertices[3, 1] for patch in bands]
    assert thick == pytest.approx(np.array([2, 1, 1, 1, 1, 2]) / 8)
    colours = palette.member_colours(MEMBERS)
    assert [to_hex(p.get_facecolor()) for p in bands[:3]] == [colours[name].lower() for name in MEMBERS]
    assert "75% of images" in "".join(text.get_text() for text in figure.axes[0].texts)


def test_two_components_keep_all_distances_of_points_in_a_plane():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 6))
    points = routes.project(flat)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    assert np.allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), apart)
    assert routes.project(np.arange(5.0)[:, None]).shape == (5, 2)
    with pytest.raises(ZoolibError, match="did you mean 'tsne'"):
        routes.project(flat, "t-sne")


def test_tsne_keeps_two_far_groups_apart():
    values = np.concatenate([np.zeros((20, 4)), np.full((20, 4), 9.0)]) + np.random.default_rng(0).normal(
        0, 0.1, (40, 4)
    )
    points = routes.project(values, "tsne")
    inside = np.linalg.norm(points[:20] - points[:20].mean(0), axis=1).max()
    assert np.linalg.norm(points[:20].mean(0) - points[20:].mean(0)) > inside


@pytest.mark.parametrize("kind", ["routed", "gated"])
def test_the_map_marks_wrong_predictions_by_crosses(kind: str, request: pytest.FixtureRequest):
    figure = routes.route_map(request.getfixturevalue(kind), classes=["a", "b"])
    for axes in figure.axes:
        parts = axes.collections
        assert sum(len(part.get_offsets()) for part in parts) == 4
        assert sum(len(part.get_offsets()) for part in parts[1::2]) == 1  # every second one is of crosses


def test_gate_panels_draw_the_mean_and_each_groups_difference(gated: pd.DataFrame):
    gates, layers = routes.gates_of(gated)
    figure = routes.gate_panels(gated, {"class 1": gated["label"] == 1, "image 0": np.array([0])}, titles=list("ABC"))
    drawn = [np.asarray(axes.collections[0].get_array()) for axes in figure.axes[:3]]
    assert layers == [f"layer{i}" for i in range(5)]
    assert np.allclose(drawn[0], gates.mean(0))
    assert np.allclose(drawn[1], gates[2:].mean(0) - gates.mean(0))
    assert np.allclose(drawn[2], gates[0] - gates.mean(0))
    with pytest.raises(ZoolibError, match="no group"):
        routes.gate_panels(gated, {})


def test_the_sample_sheet_shows_each_images_weights_and_fills_the_route(routed: pd.DataFrame):
    images = [np.zeros((8, 8, 3), np.uint8)] * 4
    figure = routes.sample_sheet(images, routed, 2, classes=["a", "b"], columns=4)
    bars = [axes.patches for axes in figure.axes if len(axes.patches) == 3]
    assert np.allclose([[bar.get_width() for bar in row] for row in bars], WEIGHTS)
    filled = [[bar.get_facecolor()[3] > 0 for bar in row] for row in bars]
    assert filled == routes.active(WEIGHTS, 2).tolist()
    titles = [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes if axes.images]
    assert titles == ["a", "b, not a", "b", "b"]
    with pytest.raises(ZoolibError, match="3 images for 4 samples"):
        routes.sample_sheet(images[:3], routed, 2)


def curves(loads: list[list[float]], entropy: list[float]) -> pd.DataFrame:
    rows = [(i + 1, "val", f"load:{n}", v, 0) for i, row in enumerate(loads) for n, v in zip(MEMBERS, row, strict=True)]
    rows += [(i + 1, "val", "entropy", v, 0) for i, v in enumerate(entropy)]
    return pd.DataFrame(rows, columns=["iteration", "split", "term", "value", "seed"])


def test_loads_and_entropy_are_drawn_for_each_variant():
    healthy, collapsed = [[0.7, 0.6, 0.7]] * 2, [[1.0, 0.8, 0.2], [1.0, 1.0, 0.0]]
    figure = routes.hub_over_training({"with": curves(healthy, [1.09, 1.08]), "without": curves(collapsed, [0.8, 0.1])})
    drawn = {line.get_gid(): line for line in figure.axes[3].lines}
    assert drawn["load:corruption"].get_ydata().tolist() == [0.2, 0.0]
    entropy = next(line for line in figure.axes[1].lines if line.get_gid() == "entropy")
    assert entropy.get_ydata().tolist() == [0.8, 0.1]
    with pytest.raises(ZoolibError, match="recorded no load"):
        routes.hub_over_training({"x": curves([], [1.0])})


def test_samples_of_another_method_are_refused(routed: pd.DataFrame, gated: pd.DataFrame):
    with pytest.raises(ZoolibError, match="no pathway weights"):
        routes.routing_flow(gated, 2)
    with pytest.raises(ZoolibError, match="no gates"):
        routes.gate_panels(routed, {"a": np.array([0])})


def test_loads_of_several_seeds_are_averaged_and_only_validation_is_drawn():
    seeds = [curves([[0.2, 0.8, 1.0]], [0.6]), curves([[0.4, 0.6, 1.0]], [0.8])]
    stray = pd.DataFrame([(1, "train", "load:rotation", 9.0, 0)], columns=seeds[0].columns)
    figure = routes.hub_over_training({"x": pd.concat([*seeds, stray])})
    lines = {line.get_gid(): list(line.get_ydata()) for axes in figure.axes for line in axes.lines}
    assert lines["load:rotation"] == pytest.approx([0.3]) and lines["load:jigsaw"] == pytest.approx([0.7])
    assert lines["entropy"] == pytest.approx([0.7])


def test_curves_are_chosen_by_k_and_grouped_by_lambda_from_the_largest_on():
    made = []
    for k, weight, load in ((2, 0.1, 0.1), (2, 1.0, 0.2), (1, 1.0, 0.9), (2, 0.3, 0.3)):
        specs = grid("cls", "digits", "digits-zoo", "hub_pathway", "mini", 2, top_k=k, explore_weight=weight)
        made += [Result(spec, {}, curves=curves([[load] * 3], [0.5])) for spec in specs]
    (plain,) = grid("cls", "digits", "digits-zoo", "hub_pathway_no_explore", "mini", 1)
    made.append(Result(plain, {}, curves=curves([[0.4] * 3], [0.5])))
    found = routes.by_explore_weight(made, 2)
    assert list(found) == ["λ = 1", "λ = 0.3", "λ = 0.1", "λ = 0"]
    loads = [frame.loc[frame["term"].str.startswith("load:"), "value"].unique().tolist() for frame in found.values()]
    assert loads == [[0.2], [0.3], [0.1], [0.4]]
    assert [len(frame) for frame in found.values()] == [8, 8, 8, 4]  # two seeds, and one of the last


@pytest.mark.parametrize("kind", ["weights", "gates"])
def test_the_map_colours_each_image_by_the_member_of_the_highest_weight_or_mean_gate(kind):
    frame = pd.DataFrame({"index": range(4), "label": [0, 0, 1, 1], "prediction": [0, 0, 1, 1]})
    if kind == "weights":  # rotation, rotation, corruption, corruption
        frame = frame.assign(**{f"weight:{name}": WEIGHTS[:, i] for i, name in enumerate(MEMBERS)})
    else:  # the first member has the highest gate in the first layer, and on two images the mean of another is higher
        first = [[0.9, 0.5, 0.5]] * 4
        second = [[0.8, 0.1, 0.1], [0.7, 0.1, 0.1], [0.0, 0.1, 0.8], [0.0, 0.1, 0.7]]
        frame = frame.assign(**{"gates:a": first, "gates:b": second})
    by_member = routes.route_map(frame, titles=MEMBERS).axes[1].collections
    counts = [sum(len(part.get_offsets()) for part in by_member[i : i + 2]) for i in (0, 2, 4)]
    assert counts == [2, 0, 2]
    colours = palette.member_colours(MEMBERS)
    assert [to_hex(by_member[i].get_facecolor()[0]) for i in (0, 4)] == [
        colours[MEMBERS[0]].lower(),
        colours[MEMBERS[2]].lower(),
    ]
