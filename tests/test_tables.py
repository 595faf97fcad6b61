"""Tables, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from zoolib import deviations, provenance, reference, tables
from zoolib.data import manifests
from zoolib.grid import grid
from zoolib.results import Result, ResultStore
from zoolib.spec import ZoolibError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    store = ResultStore(tmp_path_factory.mktemp("records"))
    synthetic.fill(store, "digits", "digits-zoo")
    synthetic.fill(store, "cifar100", "imagenet-lite")
    return store


def scratch_runs(root: Path, values: list[float]) -> pd.DataFrame:
    store = ResultStore(root)
    for spec, value in zip(
        grid("cls", "cars", "imagenet-lite", ["scratch"], "mini", range(len(values))), values, strict=True
    ):
        store.save(Result(spec, {"test": {"top1_accuracy": value}, "val": {"top1_accuracy": 0.0}}))
    return store.frame()


def test_mean_and_std_over_seeds_are_those_computed_by_hand(tmp_path: Path):
    table = tables.compare(scratch_runs(tmp_path, [60.0, 62.0, 67.0]), reference.beside("cars", "imagenet-lite"))
    row = table.set_index("method").loc["scratch"]
    assert row["mean"] == 63.0
    assert row["std"] == pytest.approx(13.0**0.5)  # (9 + 1 + 16) / (3 - 1)
    assert row["seeds"] == 3 and row["stamp"] == "recomputed here"
    assert tables.text(table).loc["From scratch", "here (%)"] == "63.0 ± 3.6"


def test_one_seed_has_no_std(tmp_path: Path):
    text = tables.text(tables.compare(scratch_runs(tmp_path, [60.04]), reference.beside("cars", "imagenet-lite")))
    assert text.loc["From scratch", "here (%)"] == "60.0" and text.loc["From scratch", "seeds"] == "1"


def test_the_paper_stands_beside_ours_and_what_is_missing_says_so(store: ResultStore):
    frame = store.frame(dataset="cifar100")
    text = tables.text(tables.compare(frame, reference.beside("cifar100", "imagenet-lite")))
    assert text.loc["Hub-Pathway"].tolist() == ["89.0 ± 1.0", "3", "recomputed here", "89.01 ± 0.06"]
    assert text.loc["From scratch", "paper (%)"] == "not in the paper's table"
    assert text.loc["Fine-tuning, EfficientNet-Lite1", "here (%)"] == "83.0 ± 1.0"
    assert text.loc["Fine-tuning, Swin-T"].tolist() == ["not run", "", "", "84.37 ± 0.12"]
    assert text.loc["Distillation", "here (%)"] == "not run"


def test_planned_runs_without_a_record_say_not_run_and_partial_ones_how_many(store: ResultStore):
    specs = grid("cls", "digits", "digits-zoo", ["scratch", "zoo_tuning"], "mini", 5)
    frame = store.frame(specs, method="scratch", seed=[0, 1])
    text = tables.text(tables.compare(frame, reference.beside("digits", "digits-zoo"), specs=specs))
    assert text.loc["Zoo-Tuning", "here (%)"] == "not run"
    assert text.loc["From scratch", "seeds"] == "2 of 5"
    nothing = tables.compare(frame[:0], reference.beside("digits", "digits-zoo"), specs=specs)
    assert tables.text(nothing)["here (%)"].tolist() == ["not run", "not run"]


def test_rows_come_in_the_order_of_the_methods_and_of_the_hub(store: ResultStore):
    table = tables.compare(store.frame(dataset="digits"), reference.beside("digits", "digits-zoo"))
    assert table["title"].tolist() == [
        "From scratch",
        "Fine-tuning, Rotation",
        "Fine-tuning, Jigsaw",
        "Fine-tuning, Corruption",
        "Ensemble",
        "Zoo-Tuning",
        "Lite Zoo-Tuning",
        "Hub-Pathway",
    ]


def test_random_members_do_not_stand_beside_the_pretrained_ones_of_the_paper(tmp_path: Path):
    store = ResultStore(tmp_path)
    specs = synthetic.fill(store, "cars", "resnet50-random")
    text = tables.text(tables.compare(store.frame(specs), reference.beside("cars", "resnet50-random"), specs=specs))
    assert text.loc["Fine-tuning, MoCo (random)", "paper (%)"] == "not in the paper's table"
    assert text.loc["Fine-tuning, MoCo"].tolist() == ["not run", "", "", "85.38"]


def test_a_namesake_in_another_hub_does_not_stand_beside_the_papers_model(tmp_path: Path):
    store, published = ResultStore(tmp_path), reference.published("table3_landmarks")
    specs = [s for s in synthetic.fill(store, "cars", "mini-zoo", "finetune") if s.member == "moco"]
    comparison = tables.compare(store.frame(specs), reference.beside("cars", "mini-zoo"), specs=specs)
    text = tables.text(comparison)
    assert text.loc["Fine-tuning, MoCo"].tolist() == ["83.0 ± 1.0", "3", "recomputed here", "not in the paper's table"]
    assert text.loc["Fine-tuning, MoCo (the paper's)"].tolist() == ["not run", "", "", "85.38"]
    table = tables.beside_published(comparison, published, "here")
    assert table.loc["Fine-tuning, MoCo"].tolist() == ["83.0 ± 1.0", "3", *["not in the paper's table"] * 3]
    assert table.loc["Fine-tuning, MoCo (the paper's)"].tolist() == ["not run", "", "3.45", "4.75", "3.63"]
    own = [s for s in synthetic.fill(store, "cars", "resnet50-zoo", "finetune") if s.member == "moco"]
    text = tables.text(tables.compare(store.frame(own), reference.beside("cars", "resnet50-zoo"), specs=own))
    assert text.loc["Fine-tuning, MoCo", "paper (%)"] == "85.38" and text.index.is_unique


def test_members_stand_beside_the_papers_where_fine_tuned_and_further_tables_serve_their_methods(
    tmp_path: Path,
):
    store = ResultStore(tmp_path)
    names = "finetune,l2_sp,best_single,hub_pathway_random_path,oracle,zoo_tuning"
    synthetic.fill(store, "cars", "resnet50-zoo", names)
    text = tables.text(tables.compare(store.frame(), reference.beside("cars", "resnet50-zoo")))
    paper = text["paper (%)"]
    assert paper["Fine-tuning, MoCo"].startswith("85.38") and paper["L2-SP, MoCo"] == "not in the paper's table"
    assert paper["Best single"] == "89.38" and paper["Oracle"] == "94.86"  # table 5
    assert paper["Hub-Pathway with random paths"] == "90.61"  # table 4
    assert not text.index.str.contains("xplore|xploit").any(), "not run and in no table 1: no row"


def test_a_mix_of_origins_is_counted(tmp_path: Path):
    committed, here = ResultStore(tmp_path / "committed"), ResultStore(tmp_path / "here", tmp_path / "committed")
    specs = synthetic.fill(committed, "digits", "imagenet-lite", ["scratch"])
    here.save(synthetic.result(specs[1]))
    table = tables.compare(here.frame(specs), reference.beside("digits", "imagenet-lite"))
    assert table["stamp"][0] == "committed 0123456 (2), recomputed here (1)"


def test_two_values_of_an_option_are_two_rows(tmp_path: Path):
    store = ResultStore(tmp_path)
    for k in (1, 2):
        for spec in grid("cls", "digits", "imagenet-lite", ["hub_pathway"], "mini", 1, top_k=k):
            store.save(synthetic.result(spec))
    titles = tables.compare(store.frame(), reference.beside("digits", "imagenet-lite"))["title"].tolist()
    assert len(titles) == 2 and "top_k=1" in titles[0] and "top_k=2" in titles[1]


def test_what_cannot_be_compared_is_refused(store: ResultStore):
    with pytest.raises(ZoolibError, match="one dataset, not"):
        tables.compare(store.frame(), reference.published("table1_homogeneous"))
    frame = store.frame(dataset="digits", method="scratch")
    with pytest.raises(ZoolibError, match="two records of one seed of From scratch"):
        tables.compare(pd.concat([frame, frame]), reference.beside("digits", "digits-zoo"))


def test_the_note_names_every_reason_that_numbers_do_not_compare(store: ResultStore):
    note = tables.note(store.frame(dataset="digits"))
    for reason in ("the profile is mini", "the paper has no digits", "the hub is digits-zoo"):
        assert reason in note
    cars = store.frame(dataset="cifar100").assign(dataset="cars", data="train-80-20-112px", profile="paper")
    assert "the official test images are absent" in tables.note(cars) and "profile" not in tables.note(cars)


def test_markdown_is_a_table_with_numbers_to_the_right():
    frame = pd.DataFrame({"value": ["1.0", "—"], "word": ["a|b", "c"]}, index=pd.Index(["x", "y"], name="method"))
    assert tables.markdown(frame).splitlines() == [
        "| method | value | word |",
        "| --- | ---: | --- |",
        "| x | 1.0 | a\\|b |",
        "| y | — | c |",
    ]


def test_bold_and_signed_numbers_and_gaps_leave_a_column_of_numbers_to_the_right():
    frame = pd.DataFrame({"a": ["**1.0**", "not run"], "b": ["+0.3", "-2"], "c": ["not run", "—"], "d": ["1.0", "m"]})
    assert tables.markdown(frame).splitlines()[1] == "| ---: | ---: | --- | --- |"
    beside = pd.DataFrame({"300w": ["3.33", tables.NOT_IN_PAPER], "words": [tables.NOT_IN_PAPER] * 2})
    assert tables.markdown(beside).splitlines()[1] == "| ---: | --- |"


def test_costs_are_medians_over_seeds(store: ResultStore):
    frame = store.frame(dataset="digits")
    frame.loc[(frame["metric"] == "seconds") & (frame["value"] == 62), "value"] = 1000.0  # a machine that stood still
    costs = provenance.costs(frame)
    assert costs.loc["Zoo-Tuning"].tolist() == ["61", "128", "3.40", "0.400"]  # seconds: 60, 61, 1000
    assert len(costs) == 8


def test_training_time_counts_the_runs_that_a_method_builds_on(store: ResultStore):
    frame = store.frame(dataset="digits")
    own = frame[(frame["method"] == "zoo_tuning") & (frame["metric"] == "seconds")]
    needed = own.assign(metric="needed_seconds", value=200.0)
    table = provenance.costs(pd.concat([frame, needed]))
    assert table.loc["Zoo-Tuning", "training (s)"] == "261" and table.loc["Hub-Pathway", "training (s)"] == "61"


def test_parameters_are_those_at_test_time_and_those_in_training_stand_beside_where_they_differ(store: ResultStore):
    frame = store.frame(dataset="digits")
    kept = frame[frame["metric"] == "params_m"].assign(metric="inference_params_m")
    assert "params, training (M)" not in provenance.costs(pd.concat([frame, kept]))
    kept.loc[kept["method"] == "zoo_tuning", "value"] = 1.2
    table = provenance.costs(pd.concat([frame, kept]))
    assert table.loc["Zoo-Tuning", ["params (M)", "params, training (M)"]].tolist() == ["1.20", "3.40"]


def test_differences_list_settings_and_options_that_are_not_the_papers(store: ResultStore):
    table = provenance.differences(store.records(dataset="digits"))
    assert table.loc["image_size"].tolist() == ["32", "224", "all"]
    assert table.loc["generator_width"].tolist() == ["16", "64", "Hub-Pathway"]
    assert table.loc["lr"].tolist() == ["0.1", "0.01", "all"]  # chosen on validation images
    assert "weight_decay" not in table.index and "top_k" not in table.index
    paper = [synthetic.result(spec) for spec in grid("cls", "cifar100", "imagenet-lite", "all", "paper", 1)]
    assert provenance.differences(paper).empty


def test_the_note_names_all_datasets_that_the_paper_lacks_at_once():
    frame = pd.DataFrame({"profile": "mini", "dataset": ["digits", "tiles", "shapes"], "hub": "digits-zoo", "data": ""})
    assert "; the paper has no digits, tiles or shapes; " in tables.note(frame)
    assert "; the paper has no digits; " in tables.note(frame[:1])


def test_a_difference_on_some_datasets_names_them():
    records = [
        synthetic.result(grid("cls", name, "mini-zoo", ["scratch"], "mini", 1)[0])
        for name in ("digits", "tiles", "shapes", "textures")
    ]
    table = provenance.differences(records)
    assert table.loc["batch_size", "methods"] == "all"
    counts = table.loc["train_per_class"].set_index("here")["methods"].to_dict()
    assert counts == {"10": "all on digits, tiles, shapes", "5": "all on textures"}


def test_methods_without_any_number_are_a_sentence_and_no_rows(tmp_path: Path):
    specs = grid("cls", "cars", "imagenet-lite", "scratch,ensemble,fe,ced", "lab")
    store = ResultStore(tmp_path)
    store.save(Result(specs[0], {"test": {"top1_accuracy": 60.0}}))
    comparison = tables.compare(store.frame(specs), reference.beside("cars", "imagenet-lite"), specs=specs)
    shown, rest = tables.with_numbers(comparison)
    assert rest == "Neither run nor in the paper's table: FE; CED."
    text = tables.text(shown)
    assert text.loc["From scratch", "here (%)"] == "60.0" and text.loc["Ensemble", "here (%)"] == "not run"
    assert not {"FE", "CED"} & set(text.index) and len(text) == len(comparison) - 2
    assert tables.with_numbers(shown)[1] == ""


def test_recorded_deviations_appear_once_with_their_methods(store: ResultStore):
    table = provenance.deviations(store.records(dataset="digits"))
    own = table[~table["deviation"].str.contains("held out|Nesterov")]
    assert own.to_dict() == {"deviation": {"Hub-Pathway": "the generator is smaller than the paper's"}}


def test_records_of_earlier_code_are_completed_by_what_their_settings_say_and_landmarks_have_no_temperature():
    (spec,) = grid("cls", "digits", "digits-zoo", ["hub_pathway"], "mini", 1)
    told = deviations.mended(spec, ["the generator is small"])
    share = f"{spec.settings.val_fraction:.0%} of each class's training images"
    assert told == [f"{share} are held out to choose by; the papers train on all of them",
                    deviations.OPTIMISER, "the generator is small"]  # fmt: skip
    assert deviations.mended(spec, told) == told, "what is said is not said twice"
    brought = [deviations.held_out("cls", 0.1, 6), deviations.OPTIMISER]
    assert deviations.mended(spec, brought) == brought, "nor contradicted"
    adam = dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, optimiser="adam"))
    assert deviations.OPTIMISER not in deviations.mended(adam, [])
    old = "temperature 4 and equal weights of both losses; the papers state neither"
    (faces,) = grid("landmarks", "faces-rendered", "mini-zoo", ["distill"], "mini", 1)
    (images,) = grid("cls", "digits", "digits-zoo", ["distill"], "mini", 1)
    assert deviations.mended(images, [old])[1] == old
    assert deviations.mended(faces, [old])[1].startswith("squared error to the teachers' mean heatmaps, equal weights")
    (game,) = grid("atari", "jamesbond", "atari-policies", ["hub_pathway"], "lab", 1)
    recorded = [
        "the paper gives no generator, k or aggregator for control: here k = 1 of 2 sources, a generator of two",
        "exploit applies the shared noisy layers to an encoder's own features: a source has no head of its own here",
    ]
    told = ["the paper gives no generator or aggregator for control: here a generator of two", deviations.EXPLOIT,
            deviations.top_k(1)]  # fmt: skip
    assert deviations.mended(game, recorded) == told == deviations.mended(game, told)
    (ranked,) = grid("cls", "digits", "imagenet-lite", ["rank"], "mini", 1, members=["efficientnet_lite0"])
    assert deviations.mended(ranked, []) == [], "a ranking trains on nothing"


@pytest.mark.parametrize(("count", "rows"), [(2, 2), (3, 1)])
def test_what_every_run_says_in_its_own_way_is_one_deviation(count: int, rows: int):
    records = [synthetic.result(spec) for spec in grid("cls", "digits", "digits-zoo", ["scratch"], "mini", 3)[:count]]
    for number, record in enumerate(records):
        record.deviations = [f"teachers and their weights: supervised 0.{number}", "no source says how"]
    told = provenance.deviations(records)["deviation"].tolist()
    assert len(told) == rows + 2 and "held out" in told[0] and told[2] == "no source says how"
    assert told[1].endswith("0.0" if rows > 1 else "supervised 0.0 (and 2 others; each record has its own)")


def test_the_summary_names_profile_seeds_commit_machine_and_date(store: ResultStore):
    summary = provenance.summary(store.records(dataset="digits"))
    assert "\n" not in summary
    for part in ("profile: mini", "seeds: 0, 1, 2", "24 recomputed here", "commit: 0123456", "Test CPU (1 thread)"):
        assert part in summary
    assert "2026-11-21" in summary and "code: " in summary
    assert "nothing here is a measured number" in provenance.summary([])
    dirty = synthetic.result(grid("cls", "digits", "digits-zoo", ["scratch"], "mini", 1)[0])
    dirty.provenance["dirty"] = True
    assert "0123456 with local changes" in provenance.summary([dirty])


def test_a_note_names_files_that_are_not_the_official_ones_and_no_others():
    told = []
    for name, manifest in manifests.datasets().items():
        for kind, known in (("is the variant", manifest.variants), ("is from the source", manifest.sources)):
            for one in known:
                frame = pd.DataFrame({"profile": ["paper"], "dataset": name, "hub": "imagenet-lite", "data": one.name})
                told.append(one.official)
                assert (f"the data {kind} {one.name} (" in tables.note(frame)) == (not one.official), (name, one.name)
    assert set(told) == {True, False}
