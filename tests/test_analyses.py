"""Analyses and published tables from made-up records with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
import synthetic

from zoolib import analyses, analysis_figures, paper_tables, reference
from zoolib.grid import grid
from zoolib.results import Result, ResultStore
from zoolib.spec import ZoolibError, split_names

MEMBERS = ["rotation", "jigsaw", "corruption"]


def record(method, member="", weights=None, predictions=(), seed=0, val=50.0):
    """A run on five test images of class 0."""
    (spec,) = [s for s in grid("cls", "digits", "digits-zoo", [method], "mini", [seed]) if s.member == member]
    frame = {"index": [9, 3, 5, 1, 7], "label": 0, "prediction": list(predictions) or [0] * 5}
    if weights is not None:
        frame |= {f"weight:{name}": [row[i] for row in weights] for i, name in enumerate(MEMBERS)}
    metrics = {"test": {"top1_accuracy": 60.0}, "val": {"top1_accuracy": val}}
    return Result(spec, metrics, samples=pd.DataFrame(frame))


WEIGHTS = [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]]
#           right: r j c      r j .          . . .             r . .            . . c
PREDICTIONS = {"rotation": [0, 0, 1, 0, 1], "jigsaw": [0, 0, 1, 1, 1], "corruption": [0, 1, 1, 1, 0]}


def members(**val):
    return [record("finetune", name, predictions=PREDICTIONS[name], val=val.get(name, 50.0)) for name in MEMBERS]


def test_the_quality_of_weights_by_hand():
    frame = analyses.quality(record("hub_pathway", weights=WEIGHTS), members(jigsaw=60.0)).set_index("choice")
    assert frame["images"].unique().tolist() == [4] and frame["share"].unique().tolist() == [80.0]
    assert frame.loc[analyses.BY_WEIGHT, "accuracy"] == 75.0  # right, right, right, wrong
    assert frame.loc[analyses.AT_RANDOM, "accuracy"] == pytest.approx(100 * (1 + 2 / 3 + 1 / 3 + 1 / 3) / 4)
    assert frame.loc[analyses.BEST, "accuracy"] == 50.0  # jigsaw: right on two of four


def test_quality_joins_by_image_whatever_the_order_of_rows():
    shuffled = members()
    for result in shuffled:
        result._tables["samples"] = result.samples.iloc[::-1]
    routed = record("hub_pathway", weights=WEIGHTS)
    assert analyses.quality(routed, shuffled).equals(analyses.quality(routed, members()))


def test_quality_refuses_other_images_missing_members_and_runs_without_weights():
    routed = record("hub_pathway", weights=WEIGHTS)
    with pytest.raises(ZoolibError, match="no fine-tuned corruption"):
        analyses.quality(routed, members()[:2])
    other = members()
    other[0]._tables["samples"] = other[0].samples[:3]
    with pytest.raises(ZoolibError, match="other test images"):
        analyses.quality(routed, other)
    with pytest.raises(ZoolibError, match="no pathway weights"):
        analyses.mean_weights([record("hub_pathway")])


def test_mean_weights_are_means_over_the_test_images():
    frame = analyses.mean_weights([record("hub_pathway", weights=WEIGHTS)])
    assert frame["member"].tolist() == MEMBERS
    assert frame["weight"].tolist() == pytest.approx(np.mean(WEIGHTS, 0).tolist())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = ResultStore(tmp_path_factory.mktemp("records"))
    synthetic.fill(store, "digits", "digits-zoo", "all")
    synthetic.fill(store, "cifar100", "digits-zoo", "table5")
    for plan in analyses.sweep("digits", "digits-zoo"):
        for spec in grid("cls", "digits", "digits-zoo", plan.methods, "mini", 0, **dict(plan.options)):
            store.save(synthetic.result(spec))
    return store


def test_figures_3a_and_3b_come_from_records_alone(store):
    specs = analyses.specs_of("digits-zoo", ["digits", "cifar100"], "mini", "finetune,hub_pathway")
    weights = analyses.mean_weights(store.records(specs, method="hub_pathway"))
    quality = analyses.qualities(store, specs)
    assert len(weights) == 2 * 3 * 3 and list(quality["dataset"].unique()) == ["digits"]  # cifar100 lacks its members
    figure = analysis_figures.mean_weights(weights, dict(zip(MEMBERS, "abc", strict=True)))
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    assert bars[:3] == pytest.approx(
        weights[weights["dataset"] == "digits"].groupby("member", sort=False)["weight"].mean()
    )
    drawn = analysis_figures.quality(quality).axes[0]
    means = sorted({round(line.get_xdata()[0], 6) for line in drawn.lines if line.get_gid() == "mean"})
    assert means == sorted(set(quality.groupby("choice")["accuracy"].mean().round(6)))


def test_sweeps_take_one_option_at_a_time_and_lambda_0_is_the_run_without_explore(store):
    by_k = analyses.swept(store, "top_k", "digits-zoo", ["digits"], "mini")
    assert by_k["value"].unique().tolist() == [1, 2, 3] and len(by_k) == 9
    by_lambda = analyses.swept(store, "explore_weight", "digits-zoo", ["digits"], "mini")
    assert by_lambda["value"].unique().tolist() == [0, 0.1, 0.3, 1] and len(by_lambda) == 12
    axes = analysis_figures.sweep(by_k, "k", 2).axes[0]
    (mean,) = [line for line in axes.lines if line.get_gid() == "mean"]
    assert list(mean.get_ydata()) == by_k.groupby("value")["accuracy"].mean().tolist()
    with pytest.raises(ZoolibError, match="use 'top_k'"):
        analyses.swept(store, "k", "digits-zoo", ["digits"], "mini")
    with pytest.raises(ZoolibError, match="nothing to draw"):
        analysis_figures.sweep(by_k[:0], "k", 2)


def test_every_point_of_a_sweep_is_of_the_seeds_that_all_points_have(tmp_path):
    store = ResultStore(tmp_path)
    for k, seeds in ((1, 1), (2, 3), (3, 2)):
        for spec in grid("cls", "digits", "digits-zoo", "hub_pathway", "mini", seeds, top_k=k):
            store.save(synthetic.result(spec))
    found = analyses.swept(store, "top_k", "digits-zoo", ["digits"], "mini")
    assert found[["value", "seed"]].to_numpy().tolist() == [[1, 0], [2, 0], [3, 0]]
    assert found["accuracy"].tolist() == [88.0] * 3  # and not 89 for k = 2


# Published tables


def test_a_table_has_ours_beside_the_papers_and_an_average_over_what_is_complete(store):
    specs = paper_tables.specs_of("table5_data_dependent", "digits-zoo", ["digits", "cifar100", "cars"], "mini")
    table = paper_tables.compare(store, "table5_data_dependent", specs)
    assert list(table) == [
        "digits, here",
        "cifar100, here",
        "cifar100, paper",
        "cars, here",
        "cars, paper",
        "average, here",
    ]
    assert table.loc["Ensemble of the top k"].tolist()[1:3] == ["89.0 ± 1.0", "82.85"]
    assert table.loc["Oracle", "cars, here"] == "not run" and table.loc["Oracle", "cars, paper"] == "94.86"
    assert table.loc["Ensemble of the top k", "average, here"] == "89.0 ± 1.0"
    assert "over digits, cifar100, of the seeds" in table.attrs["average"]


def test_published_rows_stand_only_beside_datasets_of_the_paper(store):
    """A member of the papers' hubs has nothing to show in a table without a column of theirs."""
    rows = {}
    for names in (["digits"], ["digits", "cars"]):
        specs = paper_tables.specs_of("table2_heterogeneous", "mini-hub", names, "mini")
        rows[len(names)] = set(paper_tables.compare(store, "table2_heterogeneous", specs).index)
    assert {"Fine-tuning, Swin-T", "Fine-tuning, ConvNeXt-T"} <= rows[2] - rows[1]
    assert "Hub-Pathway" in rows[1] and not any("Swin" in name for name in rows[1])


def test_an_average_is_made_of_the_seeds_that_a_method_has_on_every_dataset():
    index = pd.MultiIndex.from_product([["x", "y"], [0, 1, 2]], names=["dataset", "seed"])
    wide = pd.DataFrame({"a": [10.0, 20, 30, 50, 60, 70], "b": [10.0, np.nan, 30, 50, 90, np.nan]}, index=index)
    wide["c"] = [1.0, 1, 1, np.nan, np.nan, np.nan]  # not run on y
    assert paper_tables._cell(wide.loc["x"], "b", True, 3) == "**20.0 ± 14.1** (2 seeds)"
    assert paper_tables._cell(wide.loc["y"], "c", False, 3) == "not run"
    means = paper_tables.averages(wide)
    assert means["a"].tolist() == [30.0, 40.0, 50.0] and "c" not in means
    assert means["b"].dropna().to_dict() == {0: 30.0}  # seed 1 is missing on x and seed 2 on y
    assert paper_tables._cell(means, "a", False, 3) == "40.0 ± 10.0"
    assert paper_tables._cell(means, "a", False, 4) == "40.0 ± 10.0 (3 seeds)"
    assert paper_tables._cell(means, "b", False, 3) == "30.0 (1 seed)"


def test_only_what_is_significantly_best_is_bold_and_the_oracle_does_not_compete(tmp_path):
    store = ResultStore(tmp_path)
    for spec in grid("cls", "digits", "digits-zoo", "table5", "mini"):
        made = synthetic.result(spec)
        level = {"oracle": 99.0, "hub_pathway": 90.0}.get(spec.method, 80.0)
        # the others have another spread over seeds: equal differences would have no t
        made.metrics["test"]["top1_accuracy"] = level + spec.seed * (1.0 if level > 80 else 1.1)
        store.save(made)
    specs = paper_tables.specs_of("table5_data_dependent", "digits-zoo", ["digits"], "mini")
    column = paper_tables.compare(store, "table5_data_dependent", specs)["digits, here"]
    assert column["Hub-Pathway"] == "**91.0 ± 1.0**" and column["Oracle"] == "100.0 ± 1.0"


@pytest.mark.parametrize("name", paper_tables.CONTENTS)
def test_every_published_table_shows_without_a_record_and_every_published_method_has_a_row(name, tmp_path):
    specs = paper_tables.specs_of(name, "digits-zoo", ["cifar100"], "mini")
    table = paper_tables.compare(ResultStore(tmp_path), name, specs)
    assert set(table["cifar100, here"]) == {"not run"}
    assert len(table) >= reference.published(name)["method"].nunique()
    assert len(paper_tables.published(name)) == reference.published(name)["method"].nunique()


def test_intervals_name_the_distance_to_the_focus_and_its_p(store):
    specs = paper_tables.specs_of("table5_data_dependent", "digits-zoo", ["digits"], "mini")
    table = paper_tables.intervals(paper_tables.values(store, specs).xs("digits"), "Hub-Pathway")
    assert table.loc["Best single", ["seeds", "mean", "std"]].tolist() == ["3", "89.00", "1.00"]
    with pytest.raises(ZoolibError, match="unknown method to focus on 'Hub-Pathways' \\(did you mean 'Hub-Pathway'"):
        paper_tables.intervals(table, "Hub-Pathways")
    unrun = paper_tables.intervals(paper_tables.values(store, specs).xs("digits"), "Knowledge Flow")
    assert set(unrun["p"]) == {"—"}
    assert table.loc["Hub-Pathway", "p"] == "—" and table.loc["Oracle", "Hub-Pathway minus it"] == "+0.00"


def test_an_unknown_table_or_no_dataset_is_refused():
    with pytest.raises(ZoolibError, match="unknown published table"):
        paper_tables.specs_of("table9", "digits-zoo", ["digits"], "mini")
    with pytest.raises(ZoolibError, match="no dataset was named"):
        paper_tables.specs_of("table4_ablation", "digits-zoo", split_names(" , "), "mini")


def test_intervals_of_a_method_and_of_its_distance_to_the_focus_by_hand():
    wide = pd.DataFrame({"Hub-Pathway": [3.0, 5.0, 7.0], "Ensemble": [2.0, 3.0, 4.0]})
    row = paper_tables.intervals(wide, "Hub-Pathway").loc["Ensemble"]
    half = 4.302652729911275 / math.sqrt(3)  # 2.48; the differences are 1, 2 and 3
    assert row["95 % interval"] == f"{3 - half:.2f} to {3 + half:.2f}" == "0.52 to 5.48"
    assert row["Hub-Pathway minus it"] == "+2.00" and row["its 95 % interval"] == "-0.48 to 4.48"
    assert row["p"] == "0.074"


def test_what_is_bold_is_the_best_of_its_own_column_and_the_oracle_is_never(tmp_path):
    store = ResultStore(tmp_path)
    levels = {
        "digits": {"oracle": 99.0, "hub_pathway": 90.0, "best_single": 80.0, "ensemble_top_k": 79.0},
        "textures": {"oracle": 99.0, "hub_pathway": 78.0, "best_single": 80.0, "ensemble_top_k": 70.0},
    }
    spread = {"oracle": 1.3, "hub_pathway": 1.0, "best_single": 1.1, "ensemble_top_k": 1.2}
    for dataset, of in levels.items():
        for spec in grid("cls", dataset, "digits-zoo", "table5", "mini"):
            if spec.method in of:
                made = synthetic.result(spec)
                made.metrics["test"]["top1_accuracy"] = of[spec.method] + spread[spec.method] * spec.seed
                made.metrics["val"]["top1_accuracy"] = 0.0
                store.save(made)
    specs = paper_tables.specs_of("table5_data_dependent", "digits-zoo", list(levels), "mini")
    table = paper_tables.compare(store, "table5_data_dependent", specs)
    bold = {
        column: list(table.index[table[column].str.startswith("**")]) for column in table if column.endswith("here")
    }
    assert bold == {
        "digits, here": ["Hub-Pathway"], "textures, here": ["Best single"], "average, here": ["Hub-Pathway"],
    }  # fmt: skip
    assert table.loc["Hub-Pathway", "average, here"] == "**85.0 ± 1.0**"  # (90 + 78) / 2 + 1
