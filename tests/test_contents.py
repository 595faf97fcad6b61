"""Which pages a book has, what they ask for, and which committed records they depend on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

from zoolib import contents, notebooks
from zoolib.grid import grid
from zoolib.paths import CHECKOUT, results_dir
from zoolib.plans import CORE, LANDMARK_HUB, costs, planned, tunings
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
    for page, chosen in contents.pages(profile).items():
        name = page.split("-")[0]
        specs = notebooks.specs_of(name, notebooks.parameters(name, chosen))
        asked[page] = [spec.label for spec in specs if spec not in known and not store.has(spec)]
    assert {page: labels for page, labels in asked.items() if labels} == {}


def test_a_page_shows_the_other_seeds_once_every_one_of_its_runs_is_committed(committed: ResultStore) -> None:
    page = f"landmarks-faces-rendered-{LANDMARK_HUB}"
    chosen = contents.pages("mini")[page]
    assert chosen["seeds"] == "1"
    specs = grid("landmarks", chosen["dataset"], chosen["hub"], chosen["methods"], "mini")
    *most, last = [synthetic.result(spec) for spec in specs]
    for result in most:
        committed.save(result)
    assert contents.pages("mini")[page]["seeds"] == "1"
    committed.save(last)
    assert "seeds" not in contents.pages("mini")[page]


def test_a_page_with_nothing_to_show_is_left_out(committed: ResultStore) -> None:
    before = contents.pages("mini")
    assert not {"cost", "cost-resnet50", "targets-mini-hub", "routing", "lab"} & set(before)
    assert {"table-table1", "targets-mini-zoo", "pretexts", "choosing"} <= set(before)  # the plan computes some of each
    committed.save(synthetic.result(grid("cls", "tiles", "mini-hub", "finetune", "mini", 1)[0]))
    committed.save(synthetic.result(grid("cls", "cars", "imagenet-lite", "scratch", "lab", 1)[0]))
    committed.save(synthetic.result(costs("resnet50-random", "paper")[0]))
    assert set(contents.pages("mini")) - set(before) >= {"cost-resnet50", "targets-mini-hub", "lab"}


def test_a_page_of_ways_to_tune_waits_for_a_second_way(committed: ResultStore) -> None:
    ways = [s for s in tunings("lab") if s.dataset == "cars" and s.seed == 0]
    committed.save(synthetic.result(next(s for s in ways if s.method == "finetune")))
    assert "tuning" not in contents.pages("mini")
    committed.save(synthetic.result(next(s for s in ways if s.method == "l2_sp")))
    assert "tuning" in contents.pages("mini")


def test_a_page_depends_on_the_committed_records_of_its_datasets_and_hub(committed: ResultStore) -> None:
    paths = {}
    for dataset, hub in (("tiles", "mini-zoo"), ("digits", "mini-zoo"), ("digits", "digits-zoo")):
        result = synthetic.result(grid("cls", dataset, hub, "finetune", "mini", 1)[0])
        paths[dataset, hub] = committed.save(result).path
    tiles, digits, small = paths.values()

    def behind(page: str, **chosen: str) -> set[Path | None]:
        return set(contents.committed_records(page, chosen))

    assert behind("cls-tiles-mini-zoo", dataset="tiles", hub="mini-zoo") == {tiles}
    assert behind("table-table1-mini-zoo", datasets="tiles,digits", hub="mini-zoo") == {tiles, digits}
    assert behind("targets-mini-zoo", hub="mini-zoo") == {tiles, digits}
    assert behind("ranking-digits-digits-zoo", dataset="digits", hub="digits-zoo") == {tiles, digits, small}
    assert behind("claims") == behind("choosing") == behind("rates") == {tiles, digits, small}
    assert behind("walkthrough") == behind("cost", hub="digits-zoo") == set()
    shutil.rmtree(committed.write_root)
    assert behind("claims") == set()


NOTEBOOKS = sorted(path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb"))
LOADED = "print(*(m.__file__ for name, m in sorted(sys.modules.items()) if name.split('.')[0] == 'zoolib'), sep='\\n')"


@pytest.mark.parametrize("name", ["atari", "claims", "walkthrough"])  # few, since each starts an interpreter
def test_a_page_depends_on_every_module_that_its_notebook_loads(name: str) -> None:
    document = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())
    lines = [line.rstrip() for cell in document["cells"] if cell["cell_type"] == "code" for line in cell["source"]]
    imports = [line for line in lines if line.startswith(("from zoolib", "import zoolib"))]
    program = "\n".join(["import sys", *imports, LOADED])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    loaded = {Path(line) for line in done.stdout.splitlines()}
    assert CHECKOUT / "zoolib" / "__init__.py" in loaded
    assert loaded <= set(contents.modules(name))


def test_a_page_does_not_depend_on_what_only_other_pages_import() -> None:
    report = CHECKOUT / "zoolib" / "cost_tables.py"
    assert [name for name in NOTEBOOKS if report in contents.modules(name)] == ["cost"]


def test_a_page_depends_on_modules_that_are_imported_inside_functions() -> None:
    """`arcade.film` loads the agents only when it plays."""
    sources = contents.modules("atari")
    assert {CHECKOUT / "zoolib" / "arcade.py", CHECKOUT / "zoolib" / "rl" / "runs.py"} <= set(sources)
