"""Which pages a book has, what they ask for, and which committed records they depend on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import synthetic

from zoolib import notebooks, workflow
from zoolib.grid import grid
from zoolib.paths import results_dir
from zoolib.plans import CORE, LANDMARK_HUB, costs, planned
from zoolib.results import ResultStore


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultStore:
    """An empty folder in place of results/."""
    monkeypatch.setenv("ZOOLIB_RESULTS", str(tmp_path))
    return ResultStore(tmp_path)


@pytest.mark.parametrize("profile", CORE)
def test_no_page_asks_for_a_run_that_is_neither_planned_nor_committed(profile: str) -> None:
    known = {*planned(profile), *planned("smoke")}  # where a profile plans no game, its page plays for some seconds
    store = ResultStore(results_dir())
    asked = {}
    for page, chosen in workflow.pages(profile).items():
        name = page.split("-")[0]
        specs = notebooks.specs_of(name, notebooks.parameters(name, chosen))
        asked[page] = [spec.label for spec in specs if spec not in known and not store.has(spec)]
    assert {page: labels for page, labels in asked.items() if labels} == {}


def test_a_page_shows_the_other_seeds_once_every_one_of_its_runs_is_committed(committed: ResultStore) -> None:
    page = f"landmarks-faces-rendered-{LANDMARK_HUB}"
    chosen = workflow.pages("mini")[page]
    assert chosen["seeds"] == "1"
    specs = grid("landmarks", chosen["dataset"], chosen["hub"], chosen["methods"], "mini")
    *most, last = [synthetic.result(spec) for spec in specs]
    for result in most:
        committed.save(result)
    assert workflow.pages("mini")[page]["seeds"] == "1"
    committed.save(last)
    assert "seeds" not in workflow.pages("mini")[page]


def test_a_page_with_nothing_to_show_is_left_out(committed: ResultStore) -> None:
    before = workflow.pages("mini")
    assert not {"cost", "cost-resnet50", "targets-mini-hub", "routing", "lab"} & set(before)
    assert {"table-table1", "targets-mini-zoo", "pretexts", "choosing"} <= set(before)  # the plan computes some of each
    committed.save(synthetic.result(grid("cls", "tiles", "mini-hub", "finetune", "mini", 1)[0]))
    committed.save(synthetic.result(grid("cls", "cars", "imagenet-lite", "scratch", "lab", 1)[0]))
    committed.save(synthetic.result(costs("resnet50-random", "paper")[0]))
    assert set(workflow.pages("mini")) - set(before) >= {"cost-resnet50", "targets-mini-hub", "lab"}


def test_a_page_depends_on_the_committed_records_of_its_datasets_and_hub(committed: ResultStore) -> None:
    paths = {}
    for dataset, hub in (("tiles", "mini-zoo"), ("digits", "mini-zoo"), ("digits", "digits-zoo")):
        result = synthetic.result(grid("cls", dataset, hub, "finetune", "mini", 1)[0])
        paths[dataset, hub] = committed.save(result).path
    tiles, digits, small = paths.values()

    def behind(page: str, **chosen: str) -> set[Path | None]:
        return set(workflow.committed_records(page, chosen))

    assert behind("cls-tiles-mini-zoo", dataset="tiles", hub="mini-zoo") == {tiles}
    assert behind("table-table1-mini-zoo", datasets="tiles,digits", hub="mini-zoo") == {tiles, digits}
    assert behind("targets-mini-zoo", hub="mini-zoo") == {tiles, digits}
    assert behind("ranking-digits-digits-zoo", dataset="digits", hub="digits-zoo") == {tiles, digits, small}
    assert behind("claims") == behind("choosing") == behind("rates") == {tiles, digits, small}
    assert behind("walkthrough") == behind("cost", hub="digits-zoo") == set()
    shutil.rmtree(committed.write_root)
    assert behind("claims") == set()
