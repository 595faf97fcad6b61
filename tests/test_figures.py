"""Figures, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from zoolib import figures, palette
from zoolib.data import manifests
from zoolib.methods import METHODS
from zoolib.results import ResultStore
from zoolib.spec import ZoolibError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    store = ResultStore(tmp_path_factory.mktemp("records"))
    synthetic.fill(store, "digits", "digits-zoo")
    return store


def samples(store: ResultStore, method: str) -> pd.DataFrame:
    return pd.concat([result.samples for result in store.records(method=method)])


def named(figure: Figure, gid: str) -> list:
    return [line for axes in figure.axes for line in axes.lines if line.get_gid() == gid]


def legend_colours(figure: Figure) -> dict[str, str]:
    legend = figure.legends[0]
    return {
        text.get_text(): to_hex(line.get_color())
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }


def test_every_method_has_its_own_look():
    looks = [(palette.method_colour(name), palette.method_marker(name)) for name in METHODS]
    assert len(set(looks)) == len(METHODS)
    assert len(set(palette.METHOD_COLOURS.values())) == len(palette.METHOD_COLOURS)
    assert palette.method_colour("of_my_own") not in {palette.method_colour(name) for name in METHODS}
    assert {palette.method_marker(name) for name in ("of_my_own", "another", "third")} <= set(palette._MARKERS)


@pytest.mark.parametrize("colours", [list(palette.FAMILY_COLOURS.values()), palette.MEMBER_COLOURS[:5]])
def test_colours_stay_apart_under_the_common_colour_blindness(colours: list[str]):
    simulate = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])  # deuteranopia
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    seen = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ simulate.T
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
    assert apart.min() > 0.1


def test_no_member_fades_as_a_line_on_white():
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in palette.MEMBER_COLOURS])
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    assert (1.05 / (light + 0.05)).min() > 2.8


def test_a_member_has_one_colour_in_every_packaged_hub_and_no_two_of_a_hub_share_one():
    seen: dict[str, str] = {}
    for hub in manifests.hubs().values():
        colours = palette.member_colours([member.name for member in hub.members])
        if len(hub.members) <= len(palette.MEMBER_COLOURS):
            assert len(set(colours.values())) == len(hub.members)
        for name, colour in colours.items():
            assert seen.setdefault(name, colour) == colour, f"{name} changes its colour in {hub.name}"
    assert list(palette.member_colours(["mine", "moco"]).values()) == ["#332288", seen["moco"]]


def test_accuracies_draw_every_seed_and_the_mean(store: ResultStore):
    frame = store.frame(split="test")
    figure = figures.accuracies(frame, chance=10.0)
    rows = [sorted(line.get_xdata().tolist()) for line in named(figure, "seeds")]
    expected = [sorted(g["value"]) for _, g in frame.groupby(["method", "member"])]
    assert sorted(rows) == sorted(expected) and len(rows) == 8
    assert [line.get_xdata()[0] for line in named(figure, "mean")] == [np.mean(row) for row in rows]
    assert named(figure, "chance")[0].get_xdata() == [10.0, 10.0]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[0] == "From scratch" and labels[2] == "Fine-tuning, Jigsaw" and labels[-1] == "Hub-Pathway"


def test_training_curves_draw_the_mean_over_seeds(store: ResultStore):
    curves = store.curves()
    figure = figures.training_curves(curves)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Validation accuracy (%)", "Task loss", "λ × exploration loss", "Exploitation loss"]
    line = next(x for x in panels["Validation accuracy (%)"].lines if x.get_label() == "finetune/jigsaw")
    chosen = curves[(curves["member"] == "jigsaw") & (curves["term"] == "top1_accuracy")]
    means = chosen.groupby("iteration")["value"].mean()
    assert line.get_xdata().tolist() == means.index.tolist() == [1, 2, 4]
    np.testing.assert_allclose(line.get_ydata(), means.to_numpy())
    assert [x.get_label() for x in panels["λ × exploration loss"].lines] == ["hub_pathway/"]


def test_relatives_of_a_method_have_the_markers_of_the_dot_plots(store: ResultStore):
    curves = store.curves(method="hub_pathway")
    names = ["hub_pathway", "hub_pathway_no_explore", "hub_pathway_task_level"]
    figure = figures.training_curves(pd.concat([curves.assign(method=name) for name in names]))
    drawn = {line.get_label().strip("/"): line.get_marker() for line in figure.axes[0].lines}
    assert drawn == {names[0]: "None"} | {name: palette.method_marker(name) for name in names[1:]}
    assert len(set(drawn.values())) == 3


def test_terms_of_whatever_name_have_a_panel(store: ResultStore):
    curves = store.curves(method="zoo_tuning")
    more = curves[curves["term"] == "task"].assign(term="feature_distance")
    figure = figures.training_curves(pd.concat([curves, more]))
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == [
        "Validation accuracy (%)", "Task loss", "Loss term: feature distance",
    ]  # fmt: skip


def test_a_reference_far_above_every_value_is_written_and_not_drawn(store):
    frame = store.frame(split="test")
    highest = frame[frame["metric"] == "top1_accuracy"]["value"].max()
    near, far = (figures.accuracies(frame, chance=c).axes[0] for c in (highest + 1, 2 * highest))
    assert near.get_xlim()[0] == 0 and near.get_xlim()[1] > highest + 1
    assert far.get_xlim()[0] > 0 and far.get_xlim()[1] < 1.2 * highest
    assert any(line.get_gid() == "chance" for line in near.lines)
    assert not any(line.get_gid() == "chance" for line in far.lines)
    assert any("chance" in text.get_text() and "→" in text.get_text() for text in far.texts)


def test_a_method_has_the_same_colour_in_two_figures(store: ResultStore):
    dots = figures.accuracies(store.frame(split="test"))
    names = [tick.get_text() for tick in dots.axes[0].get_yticklabels()]
    first = {n: to_hex(line.get_color()) for n, line in zip(names, named(dots, "seeds"), strict=True)}
    second = legend_colours(figures.training_curves(store.curves()))
    alone = legend_colours(figures.training_curves(store.curves(method="hub_pathway")))
    assert {name: first[name] for name in second} == second and len(second) == 7
    assert alone["Hub-Pathway"] == second["Hub-Pathway"]


def test_pathway_weights_are_the_means_of_the_samples(store: ResultStore):
    frame = samples(store, "hub_pathway")
    figure = figures.pathway_weights(frame, titles=["A", "B", "C"])
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    weights = frame.filter(like="weight:")
    np.testing.assert_allclose(bars, weights.mean().to_numpy(), rtol=1e-6)
    drawn = figure.axes[1].collections[0].get_array()
    np.testing.assert_allclose(drawn[3], weights[frame["label"] == 3].mean().to_numpy(), rtol=1e-5)
    assert drawn.shape == (10, 3)
    assert [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches] == [
        c.lower() for c in palette.member_colours(list("ABC")).values()
    ]


def test_the_gating_heat_map_has_layers_in_order_and_mean_gates(store: ResultStore):
    frame = samples(store, "zoo_tuning")
    figure = figures.gating_heatmap(frame, titles=["A", "B", "C"])
    drawn = figure.axes[0].collections[0].get_array()
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(synthetic.LAYERS)
    assert drawn.shape == (len(synthetic.LAYERS), 3)
    np.testing.assert_allclose(drawn[1], np.stack(frame["gates:layer1.conv1"]).astype(float).mean(0))


def test_pareto_draws_the_means_and_only_unbeaten_points_are_on_the_frontier(store: ResultStore):
    frame = store.frame()
    frame.loc[(frame["method"] == "hub_pathway") & (frame["metric"] == "gmacs"), "value"] = 0.8
    figure = figures.pareto(frame)
    (front,) = named(figure, "frontier")
    assert front.get_xdata().tolist() == pytest.approx(
        [0.4, 0.8]
    )  # all others cost 0.4; the ensemble is the best there
    assert front.get_ydata().tolist() == pytest.approx([86.0, 89.0])
    assert len(figure.legends[0].get_texts()) == 8
    with pytest.raises(ZoolibError, match="no run recorded 'joules'"):
        figures.pareto(frame, "joules")


def test_what_cannot_be_drawn_is_refused(store: ResultStore):
    frame = store.frame(split="test")
    with pytest.raises(ZoolibError, match="nothing to draw"):
        figures.accuracies(frame[:0])
    with pytest.raises(ZoolibError, match="one profile, not"):
        figures.accuracies(pd.concat([frame, frame.assign(profile="lab")]))
    with pytest.raises(ZoolibError, match="no pathway weights"):
        figures.pathway_weights(samples(store, "scratch"))
    with pytest.raises(ZoolibError, match="no gates"):
        figures.gating_heatmap(samples(store, "scratch"))


def test_figures_save_without_a_display_and_twice_the_same(store: ResultStore, tmp_path: Path):
    frame = store.frame(split="test")
    for name in ("a.svg", "b.svg"):
        figures.accuracies(frame, chance=10.0).savefig(tmp_path / name, metadata={"Date": None})
    assert (tmp_path / "a.svg").stat().st_size > 5000 and b"clip-path" in (tmp_path / "a.svg").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
