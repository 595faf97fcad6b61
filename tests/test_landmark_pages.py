"""Tables and figures of the landmark pages, read back from what was drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic

from zoolib import landmark_figures, reference, tables
from zoolib.data.faces import Faces
from zoolib.data.manifests import dataset
from zoolib.palette import method_colour
from zoolib.results import ResultStore
from zoolib.spec import ZoolibError


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ResultStore:
    store = ResultStore(tmp_path_factory.mktemp("records"))
    synthetic.fill(store, "faces-rendered", "digits-zoo", "all")
    return store


def test_the_measures_name_their_normaliser_and_end_with_the_mean_face(store):
    table = landmark_figures.measures(store.frame(), "inter-ocular distance")
    assert list(table) == [
        "NME (% of inter-ocular distance)",
        *["FR at 8 % (%)", "FR at 10 % (%)", "AUC at 8 % (%)", "AUC at 10 % (%)"],
    ]
    assert table.loc["Hub-Pathway"].tolist() == [
        "6.30 ± 0.10",
        *["10.00 ± 0.00", "5.00 ± 0.00", "40.00 ± 0.00"],
        "50.00 ± 0.00",
    ]
    assert table.index[-1] == "Mean face" and table.iloc[-1].tolist() == ["18.00", "—", "—", "—", "—"]


def test_subsets_have_columns_of_their_own(store):
    frame = store.frame(method="scratch")
    extra = frame[frame["metric"] == "nme"].assign(metric="nme_large-pose", value=20.0)
    table = landmark_figures.measures(pd.concat([frame, extra]), "d")
    assert table.loc["From scratch", "NME, large-pose (%)"] == "20.00 ± 0.00"


def test_table_3_shows_our_column_beside_all_of_the_papers(store):
    comparison = tables.compare(store.frame(), reference.beside("faces-rendered", "digits-zoo"), metric="nme")
    table = tables.beside_published(comparison, reference.published("table3_landmarks"), "here")
    assert list(table) == ["here", "seeds", "300w", "wflw", "cofw"]
    assert table.loc["Zoo-Tuning"].tolist() == ["6.70 ± 0.10", "3", "3.41", "4.58", "3.51"]
    assert table.loc["Lite Zoo-Tuning"].tolist() == ["6.90 ± 0.10", "3", *["not in the paper's table"] * 3]
    assert table.loc["Fine-tuning, MoCo"].tolist() == ["not run", "", "3.45", "4.75", "3.63"]


def test_cumulative_curves_reach_100_percent_and_have_the_methods_colours(store):
    errors = landmark_figures.face_errors(store.records())
    figure = landmark_figures.cumulative_errors(errors, limit=1.0)
    lines = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert len(lines) == 10 and all(line.get_ydata()[-1] == 100 for line in lines.values())
    assert lines["Hub-Pathway"].get_color() == method_colour("hub_pathway")
    at = np.linspace(0, 1, 201)
    assert lines["Hub-Pathway"].get_xdata() == pytest.approx(100 * at), "the axis is in percent, errors are shares"
    assert figure.axes[0].get_xlim() == (0, 100) and "(% of" in figure.axes[0].get_xlabel()
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_label().startswith("_")] == [8, 10]
    runs = [r.samples["nme"].to_numpy() for r in store.records(method="hub_pathway")]
    by_hand = 100 * np.mean([[(each <= x).mean() for x in at] for each in runs], axis=0)
    assert np.allclose(lines["Hub-Pathway"].get_ydata(), by_hand)
    with pytest.raises(ZoolibError, match="nothing to draw"):
        landmark_figures.cumulative_errors(errors[:0])


def test_curves_show_the_validation_error_of_the_methods_given(store):
    figure = landmark_figures.nme_curves(store.curves(method=["finetune", "zoo_tuning"]))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert len(lines) == 4 and "Zoo-Tuning" in lines
    assert lines["Zoo-Tuning"].get_ydata().tolist() == pytest.approx([16.7, 11.7, 9.2])
    with pytest.raises(ZoolibError, match="no validation NME"):
        landmark_figures.nme_curves(store.curves(split="train"))


def test_the_sheet_runs_from_the_best_to_the_worst_face(store):
    samples = store.records(method="hub_pathway")[0].samples
    faces = Faces(
        np.zeros((60, 28, 28, 3), np.uint8), np.full((60, 68, 2), 0.5), np.zeros((60, 2)), np.ones(60), None, {}, ""
    )
    figure = landmark_figures.face_sheet(faces, dataset("faces68").landmarks, samples)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 6 and titles == sorted(titles, key=lambda text: float(text.split()[0]))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "." and line.get_linestyle() == "None"]
    found = np.stack(dots[-1].get_data(), -1) / 16
    assert np.allclose(found, samples["points"].iloc[0].reshape(68, 2), atol=1e-6)
    with pytest.raises(ZoolibError, match="no predicted points"):
        landmark_figures.face_sheet(faces, dataset("faces68").landmarks, samples.drop(columns="points"))


def test_records_of_another_task_have_no_landmark_errors(tmp_path):
    other = ResultStore(tmp_path)
    synthetic.fill(other, "digits", "digits-zoo", ["scratch"])
    with pytest.raises(ZoolibError, match="recorded no landmark errors"):
        landmark_figures.face_errors(other.records())
