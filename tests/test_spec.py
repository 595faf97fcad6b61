"""Specifications and plans: complete, hashed, validated before anything is computed."""

import dataclasses
import math
import subprocess
import sys

import pytest
import yaml

from zoolib import contents, notebooks
from zoolib import grid as grids
from zoolib.data import manifests
from zoolib.data.manifests import hub
from zoolib.grid import check_option, choose_methods, grid, needed
from zoolib.layers import surgery
from zoolib.methods import METHODS, SETS, soup
from zoolib.plans import CORE, costs, planned, sweep
from zoolib.profiles import PROFILES, profile
from zoolib.spec import RunSpec, Settings, ZoolibError, unknown
from zoolib.tasks import Classification


def test_a_spec_survives_its_dictionary_and_its_id_changes_with_every_field():
    spec = grid("cls", "digits", "imagenet-lite", "hub_pathway", "mini", 1)[0]
    assert RunSpec.from_dict(spec.to_dict()) == spec
    ids = {spec.run_id}
    for change in (
        {"seed": 1},
        {"member": "x"},
        {"settings": dataclasses.replace(spec.settings, lr=0.02)},
        {"options": ()},
    ):
        ids.add(dataclasses.replace(spec, **change).run_id)
    assert len(ids) == 5


def test_settings_that_came_later_leave_the_ids_of_older_runs_alone():
    old = grid("cls", "digits", "imagenet-lite", "scratch", "smoke", 1)[0]
    assert "optimiser" not in old.to_dict()["settings"] and len(old.to_dict()["settings"]) == 19
    assert grid("cls", "digits", "resnet50-random", "scratch", "smoke", 1)[0].run_id == "b98a28108ed0b4ef"  # committed
    changed = dataclasses.replace(old, settings=dataclasses.replace(old.settings, optimiser="adam"))
    assert changed.to_dict()["settings"]["optimiser"] == "adam" and changed.run_id != old.run_id
    assert RunSpec.from_dict(changed.to_dict()) == changed


def test_the_paper_profile_of_landmarks_is_the_published_protocol():
    settings = PROFILES["paper"].resolve("wflw", "landmarks")
    assert (settings.optimiser, settings.lr, settings.weight_decay, settings.batch_size) == ("adam", 1e-4, 0.0, 16)
    assert (settings.image_size, settings.heatmap_size, settings.head_channels) == (256, 64, 256)
    assert (settings.scaling, settings.rotation) == (0.25, 30.0)
    batches = math.ceil(7500 / 16)
    assert (settings.iterations, settings.milestones) == (60 * batches, (30 * batches, 50 * batches))


def test_a_task_has_its_datasets_and_methods_and_says_so():
    specs = grid("landmarks", "faces68", "digits-zoo", "all", "lab", 1)
    names = list(dict.fromkeys(spec.method for spec in specs))
    assert set(names) == {"scratch", "finetune", "ensemble", "distill", "knowledge_flow", "zoo_tuning",
                          "lite_zoo_tuning", "hub_pathway"}  # fmt: skip
    assert next(s for s in specs if s.method == "ensemble").option("combine") == "heatmaps"
    with pytest.raises(ZoolibError, match="dataset 'digits' is for the task 'cls', not 'landmarks'"):
        grid("landmarks", "digits", "digits-zoo")
    with pytest.raises(ZoolibError, match="oracle is not defined for the task landmarks"):
        grid("landmarks", "faces68", "digits-zoo", "oracle")
    with pytest.raises(ZoolibError, match=r"unknown task 'landmark' .did you mean 'landmarks'"):
        grid("landmark", "faces68", "digits-zoo")


def test_the_id_does_not_depend_on_the_process():
    code = "from zoolib.grid import grid; print(grid('cls', 'digits', 'imagenet-lite', 'scratch', 'mini', 1)[0].run_id)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == grid("cls", "digits", "imagenet-lite", "scratch", "mini", 1)[0].run_id


def test_the_paper_profile_is_the_published_protocol():
    settings = PROFILES["paper"].settings
    assert (settings.lr, settings.momentum, settings.nesterov, settings.weight_decay) == (0.01, 0.9, True, 5e-4)
    assert (settings.batch_size, settings.iterations, settings.milestones, settings.gamma) == (
        48,
        15000,
        (6000, 12000),
        0.1,
    )
    assert (settings.decode_size, settings.image_size, settings.test_crops) == (256, 224, 10)
    assert METHODS["hub_pathway"].options["top_k"] == 2 and METHODS["hub_pathway"].options["explore_weight"] == 0.3


def test_seeds_may_come_as_text_and_a_slip_of_the_finger_is_refused():
    def seeds(given: object) -> list[int]:
        return [spec.seed for spec in grid("cls", "digits", "digits-zoo", "scratch", "smoke", given)]

    assert seeds("[0, 2]") == seeds([0, 2]) == [0, 2] and seeds("2") == [0, 1]
    for wrong in ("some", "[0", "[-1]", "{}", 99999999999999):
        with pytest.raises(ZoolibError, match="use "):
            seeds(wrong)


def test_seeds_that_would_repeat_the_draws_of_others_are_refused():
    assert grid("cls", "digits", "digits-zoo", "scratch", "smoke", [2**32 - 1])
    with pytest.raises(ZoolibError, match="use numbers below"):
        grid("cls", "digits", "digits-zoo", "scratch", "smoke", [0, 2**32])


def test_an_unknown_name_among_hundreds_is_answered_with_a_few():
    error = str(unknown("architecture", "resnet10tt", [f"resnet{i}t" for i in range(1000)]))
    assert "did you mean" in error and len(error) < 200


@pytest.mark.parametrize("name", [5, None])
def test_a_name_that_is_no_text_is_an_unknown_name(name):
    for what in (manifests.dataset, manifests.hub):
        with pytest.raises(ZoolibError, match="unknown"):
            what(name)


def test_a_grid_has_one_run_a_member_and_seed_and_needed_runs_come_first():
    specs = grid("cls", "digits", "imagenet-lite", "core", "mini", 2)
    assert [s.method for s in specs[:6]] == ["scratch", "finetune", "finetune", "finetune", "ensemble", "hub_pathway"]
    assert [s.seed for s in specs] == [0] * 6 + [1] * 6
    ensemble = specs[4]
    assert needed(ensemble) == specs[1:4] and needed(specs[0]) == []


def test_every_profile_has_a_plan_and_each_run_stands_in_it_once():
    for name in CORE:
        for which in ("core", "all"):
            plan = planned(name, which)
            assert len({spec.run_id for spec in plan}) == len(plan)


def test_the_core_of_mini_covers_every_way_to_use_a_hub():
    assert {spec.method for spec in planned("mini") if spec.task == "cls"} == {*SETS["all"], "rank"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cls", "digit", "imagenet-lite"), "did you mean 'digits'"),
        (("cls", "digits", "imagenet"), "did you mean 'imagenet-lite'"),
        (("cls", "digits", "imagenet-lite", "hub_pathways"), "did you mean 'hub_pathway'"),
        (("cls", "digits", "imagenet-lite", "all", "papers"), "did you mean 'paper'"),
        (("cls", "digits", "imagenet-lite", "all", "mini", -1), "seeds is -1"),
        (("cls", "digits", "imagenet-lite", "all", "mini", "two"), "seeds is 'two'"),
        (("cls", "digits", "imagenet-lite", "all", "mini", [0, "a"]), "whole numbers from 0"),
        (("cls", "digits", "imagenet-lite", ""), "no method was named"),
        (("faces", "digits", "imagenet-lite"), "unknown task 'faces'"),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_the_fix(arguments, message):
    with pytest.raises(ZoolibError) as error:
        grid(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_option_is_refused_and_a_known_one_reaches_its_methods_only():
    with pytest.raises(ZoolibError, match=r"unknown method option 'topk' \(did you mean 'top_k'\?\)"):
        grid("cls", "digits", "imagenet-lite", "hub_pathway", topk=1)
    specs = grid("cls", "digits", "imagenet-lite", "core", "mini", 1, top_k=1)
    assert [dict(s.options).get("top_k") for s in specs] == [None] * 5 + [1]


@pytest.mark.parametrize(
    ("method", "options", "fix"),
    [
        ("ensemble", {"combine": "mean"}, "combine is 'mean'; use probabilities or votes"),
        ("model_soups", {"soup": "tomato"}, "soup is 'tomato'; use greedy or uniform"),
        ("zoo_tuning", {"alignment": "al"}, "alignment is 'al'; use authors or all or none"),
        ("hub_pathway", {"top_k": 4}, "top_k is 4; use 1 to 3, the number of models in the hub"),
        ("hub_pathway", {"top_k": 0}, "top_k is 0"),
        ("hub_pathway", {"top_k": 1.5}, "top_k is 1.5"),
        ("hub_pathway", {"top_k": True}, "top_k is True"),
        ("hub_pathway", {"explore_weight": -0.1}, "explore_weight is -0.1; use a number from 0"),
        ("hub_pathway", {"explore_weight": math.nan}, "explore_weight is nan"),
        ("l2_sp", {"backbone_weight": math.inf}, "backbone_weight is inf"),
        ("rank", {"neighbours": 0}, "neighbours is 0; use a whole number from 1"),
        ("lite_zoo_tuning", {"gate_momentum": 0.0}, "gate_momentum is 0.0; use a number above 0 to 1"),
        ("lite_zoo_tuning", {"gate_momentum": 1.1}, "gate_momentum is 1.1"),
        ("distill", {"soft_weight": 1.1}, "soft_weight is 1.1; use a number from 0 to 1"),
        ("distill", {"temperature": 0}, "temperature is 0; use a number above 0"),
        ("distill", {"temperature": "4"}, "temperature is '4'"),
        ("b_tuning", {"teachers": "4"}, "teachers is '4'; use 1 to 3, or names among rotation, jigsaw, corruption"),
        ("b_tuning", {"teachers": "jigsaw, jigsaw"}, "teachers is 'jigsaw, jigsaw'"),
        ("b_tuning", {"teachers": "jigsaw,resnet"}, "teachers is 'jigsaw,resnet'"),
        ("b_tuning", {"teachers": ""}, "teachers is ''"),
    ],
)
def test_a_value_that_no_method_can_use_is_refused_before_anything_is_computed(method, options, fix):
    with pytest.raises(ZoolibError) as error:
        grid("cls", "digits", "digits-zoo", method, "smoke", 1, **options)
    assert fix in str(error.value) and "\n" not in str(error.value)


def test_values_at_the_edge_pass_and_games_and_landmarks_have_their_own():
    for method, options in (
        ("hub_pathway", {"top_k": 3, "explore_weight": 0}),
        ("distill", {"soft_weight": 1.0}),
        ("lite_zoo_tuning", {"gate_momentum": 1}),
        ("b_tuning", {"teachers": 3}),
        ("b_tuning", {"teachers": "corruption, jigsaw"}),
    ):
        assert grid("cls", "digits", "digits-zoo", method, "smoke", 1, **options)
    assert grid("atari", "alien", "atari-policies", "hub_pathway", "smoke", 1, top_k=2)
    with pytest.raises(ZoolibError, match="top_k is 3; use 1 to 2"):
        grid("atari", "alien", "atari-policies", "hub_pathway", "smoke", 1, top_k=3)
    with pytest.raises(ZoolibError, match="combine is 'votes'; use heatmaps"):
        grid("landmarks", "faces68", "imagenet-lite", "ensemble", "smoke", 1, combine="votes")


def test_the_names_to_choose_from_are_those_that_the_methods_know():
    assert grids._CHOICES["alignment"] == surgery.ALIGNMENTS and grids._CHOICES["soup"] == soup.SOUPS
    assert grids._COMBINE["cls"] == tuple(Classification.COMBINE)


def test_a_set_of_methods_is_chosen_by_its_name_in_the_order_of_the_table_and_without_what_does_not_fit():
    names = [card.name for card in choose_methods("table1", hub("imagenet-lite"))]
    assert names == ["finetune", "ensemble", "distill", "hub_pathway"]
    assert {card.name for card in choose_methods("table1", hub("digits-zoo"))} == set(SETS["table1"])
    assert all(set(names) <= set(METHODS) for names in SETS.values())


def test_needed_runs_share_the_settings_of_the_run_that_needs_them():
    (spec,) = grid("cls", "digits", "digits-zoo", "distill", "mini", 1)
    changed = dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, lr=0.05))
    assert {other.settings.lr for other in needed(changed)} == {0.05}


def test_the_sweeps_hold_every_k_and_lambda_and_the_methods_own_values_once():
    plans = sweep("digits", "digits-zoo")
    specs = [s for p in plans for s in grid("cls", *p[:3], "mini", p.seeds, **dict(p.options))]
    chosen = {(s.method, *(dict(s.options).get(k) for k in ("top_k", "explore_weight"))) for s in specs}
    assert {k for _, k, _ in chosen} == {1, 2, 3} and {w for _, _, w in chosen} == {None, 0.1, 0.3, 1.0}
    (default,) = {s.run_id for s in grid("cls", "digits", "digits-zoo", "hub_pathway", "mini", 1)}
    assert default in {s.run_id for s in specs}


def test_zoo_tuning_on_a_heterogeneous_hub_is_an_error_that_says_why():
    for name in ("zoo_tuning", "lite_zoo_tuning"):
        with pytest.raises(ZoolibError, match="joins layers position by position, and 'imagenet-lite' mixes several"):
            choose_methods(name, hub("imagenet-lite"))
    assert [card.name for card in choose_methods("all", hub("digits-zoo"))] == list(SETS["all"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "centre"}, "unknown crop 'centre'"),
        ({"precision": "float16"}, "unknown precision"),
        ({"test_crops": 5}, "use 1"),
        ({"decode_size": 100}, "raise decode_size"),
        ({"batch_size": 0}, "at least 1"),
        ({"val_fraction": 1.0}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ZoolibError, match=message):
        Settings(**change)


def test_a_dictionary_that_is_no_spec_is_refused():
    with pytest.raises(ZoolibError, match="not a run specification"):
        RunSpec.from_dict({"task": "cls"})
    with pytest.raises(ZoolibError, match="unknown profile 'minni'"):
        profile("minni")


def test_every_recipe_in_the_table_exists():
    for card in METHODS.values():
        assert callable(card.load()) and card.summary and card.paper
        assert not card.needs or card.needs in METHODS


def test_every_page_of_the_book_has_a_notebook_and_parameters_that_it_knows():
    for name in CORE:
        for stem, chosen in contents.pages(name).items():
            given = {key: str(value) for key, value in chosen.items()}
            assert notebooks.parameters(stem.split("-")[0], given), stem


def test_cost_plans_need_no_other_run_and_one_member_where_there_is_one_run_each():
    specs = costs("imagenet-lite", "mini")
    assert [s.method for s in specs] == ["finetune", "ensemble_joint", "distill", "hub_pathway"]
    assert {s.task for s in specs} == {"cost"} and not any(needed(s) for s in specs)
    assert {s.settings.batch_size for s in costs("resnet50-random", "paper")} == {12}


def test_a_hub_of_two_models_has_two_teachers():
    (spec, *_) = grid("cls", "mixture", "mini-pair", "b_tuning", "lab", 1)
    assert spec.option("teachers") == "2"


@pytest.fixture
def single(tmp_path):
    """A hub of one model."""
    of_three = hub("digits-zoo")
    alone = of_three.model_copy(update={"name": "single", "members": of_three.members[:1]})
    (tmp_path / "single.yaml").write_text(yaml.safe_dump(alone.model_dump(mode="json")))
    return str(tmp_path / "single.yaml")


@pytest.mark.parametrize("methods", ["core", "all", "hub_pathway", "ensemble_top_k"])
def test_a_hub_of_one_model_has_routes_of_one_unless_more_are_asked_for(single, methods):
    options = [dict(spec.options) for spec in grid("cls", "digits", single, methods)]
    assert {each["top_k"] for each in options if "top_k" in each} == {1}
    with pytest.raises(ZoolibError, match="top_k is 2; use 1 to 1, the number of models in the hub"):
        grid("cls", "digits", single, methods, top_k=2)


def test_an_option_that_no_packaged_method_has_is_left_to_its_method():
    check_option("my_layer", "conv1", "cls", ["a", "b"])
    with pytest.raises(ZoolibError, match="explore_weight is 'a lot'; use a number from 0"):
        check_option("explore_weight", "a lot", "cls", ["a", "b"])
