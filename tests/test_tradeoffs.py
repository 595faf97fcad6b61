"""Trade-offs: what is tried, how the validation images choose, and where the choice holds."""

import pandas as pd
import pytest
import synthetic

from zoolib import plans, tradeoff_tables, tradeoffs
from zoolib.data import manifests
from zoolib.grid import choose_methods, grid, usual_options
from zoolib.paths import CHECKOUT
from zoolib.profiles import profile
from zoolib.results import Result, ResultStore

COMMITTED = ResultStore(CHECKOUT / "results")
CASES = [(name, *case) for name in ("mini", "lab") for case in plans.TUNED[name]]
TILES = ("mini", "tiles", "mini-zoo", "supervised")


def frame(*rows: tuple[str, float, int, float]) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=["method", "factor", "seed", "val"])
    return made.assign(first=0.5, last=2.0)


TRIED = frame(
    ("l2_sp", 1.0, 0, 60.0),
    ("l2_sp", 1.0, 1, 62.0),
    ("l2_sp", 0.1, 0, 61.0),
    ("l2_sp", 0.1, 1, 63.0),
    ("l2_sp", 10.0, 0, 62.0),
    ("l2_sp", 10.0, 1, 61.0),
    ("l2_sp", 1.0, 2, 99.0),  # no partner at the other multiples
    ("bss", 10.0, 0, 50.0),
    ("bss", 1.0, 0, 50.0),
    ("bss", 0.1, 0, 40.0),
)


def test_the_multiple_is_that_of_the_best_mean_over_the_seeds_that_all_have():
    assert tradeoff_tables.validation(TRIED)["l2_sp"] == {0.1: 62.0, 1.0: 61.0, 10.0: 61.5}
    assert tradeoff_tables.best(TRIED) == {"l2_sp": 0.1, "bss": 1.0}, (
        "BSS has its published value: of equal ones the nearest"
    )


def test_test_accuracy_has_no_part_in_the_choice():
    specs = plans.trade_offs(*TILES)
    runs = [
        [
            Result(s, {"val": {"top1_accuracy": 50.0 + i}, "test": {"top1_accuracy": sign * i}})
            for i, s in enumerate(specs)
        ]
        for sign in (1.0, -1.0)
    ]
    one, other = map(tradeoff_tables.tried, runs)
    assert one.equals(other) and len(one) == len(specs)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [({1.0: 3.0, 0.1: 3.0, 10.0: 3.0}, 1.0), ({1.0: 1.0, 0.1: 3.0, 0.01: 3.0}, 0.1), ({10.0: 4.0, 1.0: 3.0}, 10.0)],
)
def test_of_equal_multiples_the_one_nearest_to_the_published_value_counts(values: dict[float, float], chosen: float):
    assert tradeoffs.best(values) == chosen


def test_an_option_is_multiplied_without_the_noise_of_binary_fractions():
    assert tradeoffs.options("co_tuning", {"trade_off": 2.3}, 0.1) == {"trade_off": 0.23}
    assert tradeoffs.options("delta", {"backbone_weight": 0.01, "head_weight": 0.01}, 0.001) == {
        "backbone_weight": 1e-05
    }
    assert tradeoffs.options("finetune", {}, 0.1) == {}


def test_every_regulariser_of_the_one_table_has_an_option_that_it_is_weighed_by():
    names = [card.name for card in choose_methods("regularised", manifests.hub("imagenet-lite"))]
    assert set(names) - {"finetune"} == set(tradeoffs.OPTION) == set(tradeoffs.FACTORS)
    for name, option in tradeoffs.OPTION.items():
        assert usual_options(name, profile("lab"))[option] > 0 and 1.0 in tradeoffs.FACTORS[name]


def test_a_multiple_is_tried_on_all_labels_and_read_back_from_the_run():
    specs = plans.trade_offs(*TILES)
    assert {spec.settings.train_fraction for spec in specs} == {1.0} and {spec.seed for spec in specs} == {0, 1, 2}
    found = {(spec.method, tradeoff_tables.factor_of(spec)) for spec in specs}
    assert found == {(n, f) for n in ("l2_sp", "delta", "bss", "bi_tuning") for f in tradeoffs.FACTORS[n]}
    assert {spec.option("head_weight") for spec in specs if spec.method in ("l2_sp", "delta")} == {0.01}
    cars = plans.trade_offs("lab", "cars", "imagenet-lite", "efficientnet_lite0")
    assert {spec.seed for spec in cars} == {0} and {spec.method for spec in cars} == set(tradeoffs.OPTION)


def test_a_chosen_multiple_holds_for_every_share_and_for_no_other_table(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tradeoffs, "CHOSEN", {("mini", "tiles"): {"delta": 0.01}})
    of_shares = [spec for spec in plans.shares(*TILES) if spec.method == "delta"]
    assert {spec.option("backbone_weight") for spec in of_shares} == {1e-4}
    assert {spec.settings.train_fraction for spec in of_shares} == set(plans.SHARES)
    assert set(of_shares) <= set(plans.planned("mini", "all"))
    (usual,) = grid("cls", "tiles", "mini-zoo", "delta", "mini", 1, members=["supervised"])
    assert usual.option("backbone_weight") == 0.01
    assert tradeoff_tables.named(["delta", "bss"], "mini", "tiles") == {"delta": "DELTA, ×\u00a00.01", "bss": "BSS"}
    assert tradeoff_tables.named(["delta"], "lab", "tiles") == {"delta": "DELTA"}


def test_the_table_says_what_was_not_run_and_leaves_empty_what_is_not_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tradeoffs, "CHOSEN", {("mini", "tiles"): {"l2_sp": 0.1}})
    table = tradeoff_tables.table(TRIED, "mini", "tiles", ["finetune", "l2_sp", "delta"]).set_index("Method")
    assert table.loc["L2-SP"].tolist() == [
        "0.01", "", "", "**62.0**", "61.0", "61.5", "2", "0.5 → 2",
    ]  # fmt: skip
    assert table.loc["DELTA"].tolist() == [
        "0.01", "not run", "not run", "not run", "not run", "", "", "",
    ]  # fmt: skip
    nothing = tradeoff_tables.table(TRIED.assign(first=-2e-9, last=0.0123456), "mini", "tiles", ["l2_sp"])
    assert nothing["term / task"].tolist() == ["0 → 0.012"]
    assert tradeoff_tables.note(TRIED, "mini", "tiles") == ""
    words = tradeoff_tables.note(TRIED[TRIED["factor"] != 0.1], "mini", "tiles")
    assert words.endswith("by the records at hand: L2-SP (×\u00a010).")


def test_the_term_over_the_task_loss_is_read_from_the_curve_without_the_heads_own_norm():
    specs = [s for s in plans.trade_offs(*TILES) if s.method == "l2_sp" and s.seed == 0]
    spec = next(s for s in specs if s.option("backbone_weight") == 0.01)
    values = {"task": (2.0, 1.0), "anchor": (0.5, 3.0), "head": (70.0, 70.0)}
    rows = [(i, "train", term, two[i == 100]) for term, two in values.items() for i in (50, 100)]
    curves = pd.DataFrame([*rows, (100, "val", "top1_accuracy", 9.0)], columns=["iteration", "split", "term", "value"])
    metrics = {"val": {"top1_accuracy": 9.0}, "test": {"top1_accuracy": 8.0}}
    found = tradeoff_tables.tried([Result(spec, metrics, curves=curves), Result(spec, metrics)])
    assert found.loc[0, ["factor", "val", "first", "last"]].tolist() == [1.0, 9.0, 0.25, 3.0]
    assert found.loc[1, ["first", "last"]].isna().all()
    other = grid("cls", "tiles", "mini-zoo", "finetune", "mini", 1, members=["supervised"])[0]
    assert tradeoff_tables.tried([synthetic.result(other)]).empty


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:3]))
def test_the_chosen_multiples_are_those_that_the_committed_records_choose(case: tuple[str, str, str, str]):
    specs = plans.trade_offs(*case)
    found = tradeoff_tables.tried(COMMITTED.records(specs))
    assert len(found) == len(set(specs))
    assert {name: tradeoffs.factor(*case[:2], name) for name in {s.method for s in specs}} == tradeoff_tables.best(
        found
    )
    assert all(factor != 1 for factor in tradeoffs.CHOSEN[case[:2]].values()), "the published value needs no entry"


def test_a_choice_at_an_end_of_what_was_tried_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tradeoffs, "CHOSEN", {("lab", "cars"): {"l2_sp": 0.1, "lwf": 0.1, "bss": 10.0}})
    words = tradeoff_tables.ends("lab", "cars", ["finetune", "l2_sp", "lwf", "bss"])
    assert "the lowest multiple for L2-SP and the highest multiple for BSS: one further out" in words
    assert tradeoff_tables.ends("lab", "cars", ["lwf"]) == "", "it has a lower and a higher one"
