"""Figures, read back from what was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from zoolib import figures
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


def test_every_method_has_its_own_colour():
    for families in ({"hub"}, {"regularised", "teachers", "ranking"}):  # figures show one of the two
        names = [name for name, card in METHODS.items() if card.family in families]
        assert len({figures.method_colour(name) for name in [*names, "finetune"]}) == len({*names, "finetune"})
    with pytest.raises(ZoolibError, match="unknown method in the palette"):
        figures.method_colour("zoo")


def test_method_colours_stay_apart_under_the_common_colour_blindness():
    simulate = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])  # deuteranopia
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in figures.METHOD_COLOURS.values()])
    seen = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ simulate.T
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
    assert apart.min() > 0.1


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
    assert list(panels) == ["Validation accuracy (%)", "Task loss", "Exploration loss", "Exploitation loss"]
    line = next(x for x in panels["Validation accuracy (%)"].lines if x.get_label() == "finetune/jigsaw")
    chosen = curves[(curves["member"] == "jigsaw") & (curves["term"] == "top1_accuracy")]
    means = chosen.groupby("iteration")["value"].mean()
    assert line.get_xdata().tolist() == means.index.tolist() == [1, 2, 4]
    np.testing.assert_allclose(line.get_ydata(), means.to_numpy())
    assert [x.get_label() for x in panels["Exploration loss"].lines] == ["hub_pathway/"]


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
    drawn = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(drawn[3], weights[frame["label"] == 3].mean().to_numpy(), rtol=1e-5)
    assert drawn.shape == (10, 3)
    assert [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches] == [
        c.lower() for c in figures.member_colours(list("ABC")).values()
    ]


def test_the_gating_heat_map_has_layers_in_order_and_mean_gates(store: ResultStore):
    frame = samples(store, "zoo_tuning")
    figure = figures.gating_heatmap(frame, titles=["A", "B", "C"])
    drawn = figure.axes[0].images[0].get_array()
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(synthetic.LAYERS)
    assert drawn.shape == (len(synthetic.LAYERS), 3)
    np.testing.assert_allclose(drawn[1], np.stack(frame["gates:layer1.conv1"]).astype(float).mean(0))


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
    assert (tmp_path / "a.svg").stat().st_size > 5000
