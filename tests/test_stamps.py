"""Stamps, the page of records, the landing page, and the check of external links."""

from __future__ import annotations

import copy
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
import yaml

from zoolib import contents, games, landing, stamps, widgets
from zoolib.data import manifests
from zoolib.grid import grid
from zoolib.results import Result, ResultStore

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import check_links  # noqa: E402

SUMMARY = ("profile: mini · seeds: 0, 1 · runs: 6 (6 recomputed here) · commit: abc1234 · machine: Test CPU · "
           "data: embedded · date: 2026-11-21 · code: 0123")  # fmt: skip


def code(source: str, *outputs: dict[str, str], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    shown = [{"output_type": "display_data", "data": data, "metadata": {}} for data in outputs]
    return {"cell_type": "code", "id": "x", "metadata": {"tags": list(tags)}, "source": source, "outputs": shown}


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    given = {"dataset": "digits", "hub": "my hub.yaml"}
    return {"cells": list(cells), "metadata": {"papermill": {"parameters": given}}}


FIGURE = code("routes.routing_flow(samples, 2)", {"image/svg+xml": "<svg/>"})
TABLE = code(
    "Markdown(tables.markdown(provenance.costs(frame)))", {"text/markdown": "| a | b |\n| --- | ---: |\n| 1 | 2 |"}
)
END = code("Markdown(provenance.summary(records))", {"text/markdown": SUMMARY})


def test_a_stamp_names_three_commits_and_counts_more():
    for count, words in ((3, "commit aaa0, aaa1, aaa2 · Test CPU"), (4, "4 commits, listed in *Provenance* below")):
        commits, dates = (", ".join(f"{word}{i}" for i in range(count)) for word in ("aaa", "2026-11-0"))
        long = SUMMARY.replace("abc1234", commits).replace("2026-11-21", dates)
        end = code("Markdown(provenance.summary(records))", {"text/markdown": long})
        stamp = stamps.stamped(notebook(FIGURE, end), "cls-digits")["cells"][1]["source"]
        assert words in stamp and f"2026-11-00 to 2026-11-0{count - 1} ·" in stamp


def test_every_figure_and_table_is_followed_by_a_stamp_that_links_to_records_notebook_and_function():
    print_only = code("widgets.picture(explorer)", {"image/svg+xml": "<svg/>"}, tags=("static-picture",))
    content = notebook(FIGURE, TABLE, print_only, END)
    before = copy.deepcopy(content)
    cells = stamps.stamped(content, "cls-digits")["cells"]
    assert content == before
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds == ["code", "markdown", "code", "markdown", "code", "code", "markdown"]
    first, second = cells[1]["source"], cells[3]["source"]
    assert "profile mini · seeds 0, 1 · n = 6 runs · commit abc1234 · Test CPU · 2026-11-21" in first
    assert "[records](../records.md)" in first and "<zoolib.routes.routing_flow>" in first
    assert "{download}`notebook <cls-digits.ipynb>`" in first and "{download}`notebook <cls-digits.ipynb>`" in second
    assert "{py:func}`table <zoolib.provenance.costs>`" in second
    assert len({cell["id"] for cell in cells if cell["cell_type"] == "markdown"}) == 3


def test_a_table_of_published_numbers_carries_no_profile_seed_commit_or_machine_of_ours():
    published = code("Markdown(tables.markdown(paper_tables.published(table)))", TABLE["outputs"][0]["data"],
                     tags=("published",))  # fmt: skip
    cells = stamps.stamped(notebook(published, TABLE, END), "table-table1")["cells"]
    theirs, ours = cells[1]["source"], cells[3]["source"]
    assert "the papers' own numbers" in theirs and "{py:func}`table <zoolib.paper_tables.published>`" in theirs
    assert not any(word in theirs for word in ("mini", "seeds", "abc1234", "Test CPU", "2026", "records.md"))
    assert "abc1234" in ours and "papers' own" not in ours


@pytest.mark.parametrize(
    ("source", "figure", "table"),
    [
        ("curves = figures.pareto(frame)\narcade.episode(samples)", "arcade.episode", ""),
        ("rate_tables.rate_figure(rate_tables.by_rate(frame))", "rate_tables.rate_figure", "rate_tables.by_rate"),
        ("rankfigures.triples(rankings.table(here))", "rankfigures.triples", "rankings.table"),
        ("galleries.examples(hub, 'moco')", "galleries.examples", ""),
        ("widgets.gate_explorer(record, titles)", "widgets.gate_explorer", ""),
        ("tables.markdown(choosing.cases_text(choosing.strategies(frame)))", "", "choosing.cases_text"),
        ("frame = tables.compare(all)\ntables.markdown(tables.text(frame))", "", "tables.compare"),
        ("tables.markdown(rankings.text(rankings.table(frame)))", "", "rankings.text"),
        ("wide = paper_tables.values(store)\ntables.markdown(paper_tables.intervals(wide, focus))",
         "", "paper_tables.intervals"),
        ("pd.concat(store.records(specs))", "", ""),
    ],
)  # fmt: skip
def test_a_stamp_names_the_function_that_makes_what_is_shown_last(source: str, figure: str, table: str):
    assert (stamps.drawn_by(source, "figure"), stamps.drawn_by(source, "table")) == (figure, table)


def test_every_notebook_cell_of_published_numbers_alone_is_marked_as_such():
    marked, reads = {}, {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        marked[path.stem] = [cell["source"] for cell in cells if "published" in cell["metadata"].get("tags", [])]
        reads[path.stem] = [cell["source"] for cell in cells if stamps.drawn_by("".join(cell["source"]), "table")
                            in ("reference.published", "paper_tables.published")]  # fmt: skip
    assert marked == reads and sum(map(len, marked.values())) == 6


def test_what_a_page_computes_itself_carries_no_stamp_of_records():
    timed = code("rankfigures.complexity(complexity.times())", FIGURE["outputs"][0]["data"], tags=("built",))
    own, recorded = (cell["source"] for cell in stamps.stamped(notebook(timed, FIGURE, END), "ranking")["cells"][1:4:2])
    assert "computed by this page when the book was built" in own and "abc1234" not in own and "records.md" not in own
    assert "abc1234" in recorded


def test_every_notebook_cell_that_computes_what_it_shows_without_a_record_is_marked_as_such():
    marked, times = set(), set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text())["cells"]):
            marked |= {(path.stem, number)} if "built" in cell["metadata"].get("tags", []) else set()
            source = "".join(cell["source"])
            times |= {(path.stem, number)} if "complexity.times(" in source or "few_samples(" in source else set()
    assert marked == times and len(times) == 2


def test_a_page_of_several_summaries_points_to_them():
    other = code("Markdown(provenance.summary(more))", {"text/markdown": SUMMARY.replace("mini", "lab")})
    assert "see *Provenance* below" in stamps.stamped(notebook(FIGURE, END, other), "lab")["cells"][1]["source"]


def test_the_command_at_the_end_is_the_one_that_makes_the_page():
    text = stamps.stamped(notebook(END), "explore-digits-zoo")["cells"][-1]["source"]
    assert "python -m zoolib run explore -p dataset digits -p hub 'my hub.yaml'\n" in text
    assert "python -m zoolib run lab\n" in stamps.run_yourself({"metadata": {}}, "lab")


def test_the_page_of_records_lists_games_beside_images(tmp_path: Path):
    store = ResultStore(tmp_path)
    for spec in grid("atari", "jamesbond", games.HUB, "all", "smoke", 1):
        store.save(synthetic.game_result(spec))
    text = stamps.records_page(store)
    assert "## jamesbond from atari-policies, smoke" in text
    assert "Fine-tuning, River Raid" in text and "Random" in text


def test_the_page_of_records_lists_every_run_with_its_number(tmp_path: Path):
    store = ResultStore(tmp_path)
    specs = synthetic.fill(store, "digits", "digits-zoo", "finetune,hub_pathway")
    text = stamps.records_page(store)
    assert all(f"`{spec.run_id}`" in text for spec in specs)
    assert "## digits from digits-zoo, mini" in text and "top1_accuracy 89.00" in text
    assert "There is no record yet" in stamps.records_page(ResultStore(tmp_path / "none"))


def with_outputs(hub: str, members: list[str], dataset: str = "digits") -> Result:
    """A record of Hub-Pathway with what every member says of every image."""
    made = synthetic.result(grid("cls", dataset, hub, "hub_pathway", "mini", 1)[0])
    columns: dict[str, Any] = {"index": made.samples["index"].to_numpy(), "label": made.samples["label"].to_numpy()}
    counts = (f"k:{k}" for k in range(1, len(members) + 1))
    for name in (*(f"member:{member}" for member in members), *counts):
        columns[f"top:{name}"] = [np.array([1, 2], np.int32)] * len(made.samples)
        columns[f"probability:{name}"] = [np.array([0.75, 0.25], np.float16)] * len(made.samples)
    made._tables["outputs"] = pd.DataFrame(columns)
    return made


def test_the_landing_page_shows_means_and_a_widget_or_says_not_run(tmp_path: Path):
    store = ResultStore(tmp_path)
    assert "not run" in landing.fragment(store)
    synthetic.fill(store, "digits", "digits-zoo", "scratch,finetune,hub_pathway")
    store.save(with_outputs("digits-zoo", ["rotation", "jigsaw", "corruption"]))
    page = landing.fragment(store, 10)
    assert "From scratch <b>51.0 %</b>, best member on the test images <b>85.0 %</b>, Hub-Pathway <b>89.0 %</b>" in page
    assert (
        'id="zw-landing"' in page and page.count("data:image/png") == 10 and "@" not in page.split("<script")[0][-50:]
    )


def test_the_landing_page_is_about_the_case_in_which_transfer_gains_most(tmp_path: Path):
    store = ResultStore(tmp_path)
    synthetic.fill(store, "digits", "digits-zoo", "scratch,finetune,hub_pathway")
    store.save(with_outputs("digits-zoo", ["rotation", "jigsaw", "corruption"]))  # gains 85 - 51
    synthetic.fill(store, "tiles", "mini-zoo", "finetune,hub_pathway")  # from scratch not run: no gain is known
    members = [member.name for member in manifests.hub("mini-zoo").members]
    store.save(with_outputs("mini-zoo", members, "tiles"))
    assert "digits" in landing.fragment(store, 10).lower().split("from scratch")[0]
    for spec in grid("cls", "tiles", "mini-zoo", "scratch", "mini"):
        low = synthetic.result(spec)
        low.metrics["test"]["top1_accuracy"] = 20.0
        store.save(low)
    page = landing.fragment(store, 10)
    assert page.startswith('<p class="zl-result">Tiles of land') and "where transfer gains most (some members " in page


def test_a_standalone_widget_cannot_end_its_own_script():
    table = pd.DataFrame({"a": ["</script><b>"]}, index=pd.Index(["x"], name="n"))
    page = landing.standalone(widgets.table_explorer(table, {}, {}))
    assert page.count("</script>") == 1 and "<\\/script>" in page


def test_the_books_of_every_profile_have_their_explorers_and_the_claims():
    for name in ("smoke", "mini"):
        pages = contents.pages(name)
        assert {"explore-digits-digits-zoo", "gating-digits-digits-zoo", "walkthrough", "claims"} <= set(pages)
        assert "gating-digits-imagenet-lite" not in pages  # no Zoo-Tuning on a hub of several architectures
    assert contents.pages("lab")["claims"] == {"profiles": "lab,mini,paper"}


def test_the_deployment_builds_with_make_and_checks_external_links_apart():
    jobs = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())["jobs"]
    assert "make book PROFILE=mini" in [step.get("run") for step in jobs["build"]["steps"]]
    assert jobs["links"]["continue-on-error"] and jobs["publish"]["needs"] == ["build", "test"]
    assert "make lint test" in [step.get("run") for step in jobs["test"]["steps"]]


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/here": 200, "/shy": 403}.get(self.path, 404))
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_addresses_that_do_not_answer_are_named_with_their_page(server: str, tmp_path: Path, capsys):
    links = "".join(f'<a href="{server}/{name}#top">x</a>' for name in ("here", "shy", "gone"))
    (tmp_path / "page.html").write_text(links + '<a href="other.html">inside</a>')
    assert check_links.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{server}/gone: 404" in out and "(on page.html)" in out and "3 addresses, 1 do not answer" in out
