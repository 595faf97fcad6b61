"""Learning rates: what is tried, how the validation images choose, and where the choice holds."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from zoolib import rate_tables, rates, settings_page
from zoolib.grid import grid, needed
from zoolib.paths import CHECKOUT
from zoolib.plans import ancestry, rate_study, routing
from zoolib.profiles import PROFILES, standard
from zoolib.results import Result, ResultStore
from zoolib.spec import ZoolibError

COMMITTED = ResultStore(CHECKOUT / "results")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "CHOSEN", {"mini-zoo": {"finetune": 0.03, "hub_pathway": 0.1, "scratch": 0.01}})


def frame(*rows: tuple[str, str, str, float, float]) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=["dataset", "method", "member", "lr", "val"])
    return made.assign(hub="mini-zoo", test=0.0)


TRIED = frame(
    # both members like 0.03 on tiles, and textures like 0.01 by more
    ("tiles", "finetune", "supervised", 0.01, 50.0),
    ("tiles", "finetune", "moco", 0.01, 40.0),
    ("tiles", "finetune", "supervised", 0.03, 60.0),
    ("tiles", "finetune", "moco", 0.03, 50.0),
    ("textures", "finetune", "supervised", 0.01, 80.0),
    ("textures", "finetune", "supervised", 0.03, 50.0),
    ("tiles", "scratch", "", 0.03, 30.0),
    ("tiles", "scratch", "", 0.01, 30.0),
)


def test_the_rate_is_that_of_the_best_mean_over_targets_of_the_mean_over_members():
    means = rate_tables.by_rate(TRIED)
    assert means.loc["finetune", 0.01] == (45 + 80) / 2 and means.loc["finetune", 0.03] == (55 + 50) / 2
    assert rate_tables.best_rates(TRIED) == {"finetune": 0.01, "scratch": 0.01}  # of equal ones the smallest
    table = rate_tables.rate_table(TRIED)
    assert table["0.01"].tolist() == ["62.5", "30.0"] and table["0.03"].tolist() == ["**52.5**", "**30.0**"]
    assert rate_tables.rate_note(TRIED).endswith("another validates best for Fine-tuning (0.01), From scratch (0.01).")
    ends = rate_tables.ends(TRIED)
    assert ends.startswith("The choice is at an end of what was tried, the highest rate for Fine-tuning, From scratch:")
    further = pd.concat([TRIED, TRIED[TRIED["lr"] == 0.03].assign(lr=0.1, val=1.0)])
    assert rate_tables.ends(further) == ""
    agreed = TRIED[TRIED["lr"] == 0.03]
    assert rate_tables.rate_note(agreed) == "", "the rate of the profiles is the best that was tried"
    assert len(rate_tables.rate_figure(TRIED).axes) == 2
    with pytest.raises(ZoolibError, match="nothing to draw"):
        rate_tables.rate_figure(TRIED[:0])


def test_test_accuracy_has_no_part_in_the_choice():
    spoiled = TRIED.assign(test=TRIED["lr"] * 1000)
    assert rate_tables.best_rates(spoiled) == rate_tables.best_rates(TRIED)


def test_every_method_that_trains_is_tried_at_the_same_rates_on_the_same_targets():
    specs = rate_study("mini-zoo")
    assert len(specs) == len(set(specs))
    tried = {(s.dataset, s.method, s.member): set() for s in specs}
    for spec in specs:
        tried[spec.dataset, spec.method, spec.member].add(spec.settings.lr)
    assert all(found == set(rates.tried("mini-zoo")) for found in tried.values())
    assert {s.dataset for s in specs} == set(rates.TARGETS["mini-zoo"]) and {s.seed for s in specs} == {rates.SEED}
    assert len({s.member for s in specs if s.method == "finetune"}) == 5
    assert {s.settings.lr for s in rate_study("digits-zoo")} == {0.01, 0.03, 0.1, 0.3}  # one more: see `FURTHER`
    assert "zoo_tuning" not in {s.method for s in rate_study("mini-hub")}  # of several architectures
    with pytest.raises(ZoolibError, match="known: digits-zoo, mini-hub, mini-zoo"):
        rate_study("imagenet-lite")


def test_a_method_without_a_rate_of_its_own_has_that_of_what_it_builds_on(chosen: None):
    def lr(method: str, profile: str = "mini", hub: str = "mini-zoo") -> float:
        return grid("cls", "tiles", hub, [method], profile, 1)[0].settings.lr

    assert [lr(name) for name in ("scratch", "finetune", "hub_pathway")] == [0.01, 0.03, 0.1]
    assert lr("hub_pathway_task_level") == 0.1 and lr("distill") == lr("l2_sp") == lr("b_tuning") == 0.03
    assert lr("rank") == PROFILES["mini"].settings.lr  # it trains nothing
    assert lr("hub_pathway", "lab") == 0.1 and lr("hub_pathway", "smoke") == PROFILES["smoke"].settings.lr
    assert lr("finetune", hub="mini-hub") == PROFILES["mini"].settings.lr
    assert grid("cost", "cifar100", "mini-zoo", "hub_pathway", "mini", 1)[0].settings.lr == 0.01
    assert grid("landmarks", "faces-rendered", "mini-zoo", "finetune", "mini", 1)[0].settings.lr == 3e-3


def test_what_an_ensemble_needs_is_what_fine_tuning_plans(chosen: None):
    for name in ("ensemble", "distill", "model_soups", "fe_finetuned", "ced_finetuned"):
        (spec,) = grid("cls", "tiles", "mini-zoo", [name], "mini", 1)
        assert set(needed(spec)) == set(grid("cls", "tiles", "mini-zoo", "finetune", "mini", 1))


def test_the_chosen_rate_is_the_standard_and_the_others_are_not(chosen: None):
    specs = [s for s in rate_study("mini-zoo") if s.method == "hub_pathway"]
    assert {s.settings.lr for s in specs if standard(s)} == {0.1}
    assert {s.settings.lr for s in specs if not standard(s)} == {0.01, 0.03}


def test_studies_that_compare_hubs_keep_one_rate(chosen: None):
    assert {s.settings.lr for s in [*ancestry(1), *routing(1)]} == {rates.TRIED[0]}


def test_accuracies_are_read_from_records(tmp_path: Path):
    store, specs = ResultStore(tmp_path), [s for s in rate_study("mini-zoo") if s.method == "scratch"]
    for spec in specs:
        made = synthetic.result(spec)
        metrics = {"val": {"top1_accuracy": 100 * spec.settings.lr}, "test": {"top1_accuracy": 1.0}}
        store.save(Result(spec, metrics, made.provenance))
    found = rate_tables.rates_tried(specs, store)
    assert len(found) == len(specs) and (found["val"] == 100 * found["lr"]).all()
    assert rate_tables.best_rates(found) == {"scratch": max(rates.TRIED)}


@pytest.mark.parametrize("hub", rates.CHOSEN)
def test_the_chosen_rates_are_those_that_the_committed_records_choose(hub: str):
    specs = rate_study(hub)
    found = rate_tables.rates_tried(specs, COMMITTED)
    assert len(found) == len(specs)
    assert rates.CHOSEN[hub] == rate_tables.best_rates(found)
    assert set(rates.CHOSEN[hub]) == {spec.method for spec in specs}


def test_the_page_of_profiles_says_which_rates_were_chosen(chosen: None):
    page = settings_page.page()
    mini, smoke = (page[page.index(f"### {name}") :].split("###")[1] for name in ("Mini", "Smoke"))
    assert "`lr` 0.01 for scratch; `lr` 0.03 for finetune; `lr` 0.1 for hub_pathway (chosen on validation" in mini
    assert "hub `mini-zoo`" not in smoke


def test_the_first_rate_is_the_profiles_own():
    assert {PROFILES[name].settings.lr for name in rates.PROFILES} == {rates.TRIED[0]}
    assert dataclasses.replace(PROFILES["mini"].settings).lr == 0.01
