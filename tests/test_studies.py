"""The project's own experiments, read from records with answers known by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from zoolib import studies
from zoolib.grid import grid
from zoolib.plans import ancestry, targets
from zoolib.results import Result, ResultStore
from zoolib.spec import RunSpec, ZoolibError


def routed(spec: RunSpec, labels: list[int], weights: dict[str, list[float]]) -> Result:
    """A Hub-Pathway record of some images, by their classes and the weights of two members."""
    made = synthetic.result(spec)
    columns = {f"weight:{name}": np.array(values, np.float32) for name, values in weights.items()}
    frame = pd.DataFrame({"index": range(len(labels)), "label": labels, "prediction": labels} | columns)
    return Result(spec, made.metrics, made.provenance, [], None, frame)


@pytest.fixture
def pair() -> RunSpec:
    (spec,) = grid("cls", "mixture", "mini-pair", "hub_pathway", "lab", 1, top_k=1)
    return spec


def test_routing_counts_the_images_whose_right_member_weighs_most(tmp_path: Path, pair: RunSpec):
    # classes 0 to 7 belong to detection, 8 to 15 to segmentation: right, wrong, right, a tie
    store = ResultStore(tmp_path)
    weights = {"detection": [0.9, 0.2, 0.3, 0.5], "segmentation": [0.1, 0.8, 0.7, 0.5]}
    store.save(routed(pair, [0, 7, 8, 15], weights))
    (row,) = studies.routes([pair], store).to_dict("records")
    assert row["preferred"] == 100 * (2 + 0.5) / 4 and row["uniform"] == 50
    assert row["routed"] == 50  # the tie goes to detection, the first, and is wrong
    assert row["share on things"] == pytest.approx(0.55, abs=1e-3) and row["share on land"] == pytest.approx(
        0.4, abs=1e-3
    )


def test_weights_that_vanish_prefer_neither_and_warn_of_nothing(tmp_path: Path, pair: RunSpec):
    store = ResultStore(tmp_path)
    store.save(routed(pair, [0, 8], {"detection": [0.0, 0.0], "segmentation": [0.0, 1.0]}))
    (row,) = studies.routes([pair], store).to_dict("records")
    assert row["share on things"] == 0.5 and row["share on land"] == 0 and row["preferred"] == 75
    assert studies.routing_figure([pair], store).axes


def test_half_accuracies_divide_the_test_images_by_class(tmp_path: Path):
    store = ResultStore(tmp_path)
    spec = next(s for s in grid("cls", "mixture", "mini-zoo", "finetune", "lab", 1) if s.member == "detection")
    made = synthetic.result(spec)
    samples = pd.DataFrame({"index": range(5), "label": [0, 1, 2, 9, 10], "prediction": [0, 1, 9, 9, 0]})
    store.save(Result(spec, made.metrics, made.provenance, [], None, samples))
    (row,) = studies.half_accuracies([spec], store).to_dict("records")
    assert row["things"] == pytest.approx(200 / 3) and row["land"] == 50


def test_the_note_says_on_which_half_the_relative_is_not_the_better_model():
    rows = [("detection", 75.7, 40.0), ("segmentation", 76.2, 88.0), ("moco", 70.0, 60.0)]
    frame = pd.DataFrame(rows, columns=["member", "things", "land"]).assign(seed=0)
    first, second = studies.half_note(frame).split(". ")
    assert first.startswith("On things the detection member does not lead (75.7 % against 76.2 % of segmentation)")
    assert second == "On land the segmentation member leads (88.0 %), so the right answer is known."


def with_accuracy(spec: RunSpec, value: float, val: float | None = None) -> Result:
    made = synthetic.result(spec)
    made.metrics["test"]["top1_accuracy"] = value
    made.metrics["val"] = {"top1_accuracy": value if val is None else val}
    return made


def on_tiles(store: ResultStore, values: dict[str, list[float]]) -> list[RunSpec]:
    """Save the accuracies of methods and members, one a seed, on one target; return the target's plan."""
    specs = [s for s in targets("mini-zoo", "mini", 3) if s.dataset == "tiles"]
    for spec in specs:
        if (spec.member or spec.method) in values:
            store.save(with_accuracy(spec, values[spec.member or spec.method][spec.seed]))
    return specs


def test_the_margin_is_that_of_the_best_member_and_the_spread_the_larger_of_the_two(tmp_path: Path):
    store = ResultStore(tmp_path)
    values = {"scratch": [50.0, 52.0, 54.0], "supervised": [70.0, 70.0, 70.0], "keypoints": [60.0, 61.0, 62.0]}
    specs = on_tiles(store, values)
    (row,) = studies.margin_table(studies.by_target(specs, store)).to_dict("records")
    assert (row["Best member"], row["Margin"], row["Margin over spread"], row["Seeds"]) == (
        "Supervised",
        "+18.0",
        "9.0",
        3,
    )
    table = studies.target_table(studies.by_target(specs, store)).set_index("")
    assert table.loc["Fine-tuning, Supervised"].iloc[0] == "**70.0 ± 0.0**"
    assert table.loc["From scratch"].iloc[0] == "52.0 ± 2.0" and table.loc["From scratch", "Seeds"] == "3"


def test_validation_images_choose_the_best_member(tmp_path: Path):
    store = ResultStore(tmp_path)
    specs = [s for s in targets("mini-zoo", "mini", 1) if s.dataset == "tiles"]
    for spec in specs:
        test, val = {"scratch": (50.0, 50.0), "supervised": (70.0, 60.0), "keypoints": (65.0, 61.0)}.get(
            spec.member or spec.method, (40.0, 40.0)
        )
        store.save(with_accuracy(spec, test, val))
    (row,) = studies.margin_table(studies.by_target(specs, store)).to_dict("records")
    assert (row["Best member"], row["Margin"]) == ("Keypoints", "+15.0")
    single = studies.best_single(studies.lengths(specs, store))
    assert set(single.loc[single["method"] == "finetune", "member"]) == {"keypoints"}


def test_a_row_whose_targets_differ_in_seeds_says_from_how_many_to_how_many():
    runs = [("tiles", "scratch", s) for s in range(3)] + [("digits", "scratch", 0), ("tiles", "ensemble", 0)]
    rows = [{"dataset": d, "hub": "mini-zoo", "method": m, "member": "", "seed": s, "accuracy": 50.0 + s}
            for d, m, s in runs]  # fmt: skip
    table = studies.target_table(pd.DataFrame(rows)).set_index("")
    assert table.loc["From scratch"].tolist() == ["51.0 ± 1.0", "50.0", "1 to 3"]
    assert table.loc["Ensemble"].tolist() == ["50.0", "not run", "1"]


def test_bold_is_only_what_is_significantly_best_over_the_seeds(tmp_path: Path):
    store = ResultStore(tmp_path)
    values = {"scratch": [50.0, 52.0, 54.0], "supervised": [70.0, 60.0, 65.0], "keypoints": [60.0, 66.0, 62.0]}
    specs = on_tiles(store, values)
    table = studies.target_table(studies.by_target(specs, store)).set_index("")
    assert table.loc["Fine-tuning, Supervised"].iloc[0] == "65.0 ± 5.0"  # highest, but not on every seed
    assert not table.iloc[:, 0].str.contains(r"\*\*").any()


def test_ancestry_compares_the_best_single_member_at_each_length(tmp_path: Path):
    store = ResultStore(tmp_path)
    specs = [s for s in ancestry(2) if s.hub == "mini-zoo" and s.method in ("finetune", "zoo_tuning")]
    for spec in specs:
        bonus = 10 if spec.member == "moco" else 0
        value = 20 + bonus + spec.seed if spec.method == "finetune" else 15.0
        store.save(with_accuracy(spec, value))
    table = studies.ancestry_table(studies.lengths(specs, store)).set_index("Method")
    assert table.loc["Best single member", "common, 30 steps"] == "30.5 ± 0.7"
    assert table.loc["Zoo-Tuning", "common, 300 steps"] == "15.0 ± 0.0"
    assert table["Seeds"].tolist() == ["2", "2"]
    assert not any("independent" in column for column in table.columns)


def test_without_records_the_figures_say_so(tmp_path: Path, pair: RunSpec):
    store = ResultStore(tmp_path)
    with pytest.raises(ZoolibError, match="no run of hub_pathway has a record yet"):
        studies.routing_figure([pair], store)
    with pytest.raises(ZoolibError, match="no run has a record yet"):
        studies.ancestry_figure(studies.lengths([dataclasses.replace(pair, seed=1)], store))
