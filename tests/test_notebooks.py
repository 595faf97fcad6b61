"""The notebooks: thin, stripped, parameterised, and they execute."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jupyter_client
import nbclient
import nbformat
import papermill
import pytest
import synthetic
import yaml
from nbformat import NotebookNode
from papermill.inspection import inspect_notebook

from zoolib import games, notebooks, stamps
from zoolib.grid import grid
from zoolib.paths import CHECKOUT
from zoolib.results import ResultStore
from zoolib.spec import ZoolibError

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))
PARAMETERS = {
    "cls": {"dataset": '"digits"', "hub": '"imagenet-lite"', "methods": '"core"', "profile": '"mini"', "seeds": "0"},
    "ranking": {"dataset": '"digits"', "hub": '"imagenet-lite"', "profile": '"mini"'},
    "tuning": {
        "datasets": '"cars"',
        "hub": '"imagenet-lite"',
        "member": '"efficientnet_lite0"',
        "profile": '"lab"',
    },
    "explore": {"dataset": '"digits"', "hub": '"digits-zoo"', "profile": '"mini"'},
    "gating": {"dataset": '"digits"', "hub": '"digits-zoo"', "profile": '"mini"'},
    "claims": {"profiles": '"mini,lab,paper"'},
    "walkthrough": {"names": '"tf_efficientnet_lite0,tf_efficientnet_lite1"', "per_class": "24", "iterations": "40"},
    "atari": {
        "game": '"jamesbond"',
        "methods": '"random,scratch,zoo_tuning,hub_pathway"',
        "profile": '"mini"',
        "seeds": "0",
    },
    "landmarks": {
        "dataset": '"faces-rendered"',
        "hub": '"mini-zoo"',
        "methods": '"all"',
        "profile": '"mini"',
        "seeds": "0",
        "compute": "True",
    },
    "lab": {"datasets": '"cifar100,cars"', "hub": '"imagenet-lite"'},
    "choosing": {"profiles": '"mini,lab,paper"'},
    "rates": {"hubs": '"mini-zoo,mini-hub,digits-zoo"'},
    "table": {
        "table": '"table5_data_dependent"',
        "hub": '"digits-zoo"',
        "datasets": '"digits"',
        "profile": '"mini"',
        "seeds": "0",
        "focus": '"Hub-Pathway"',
    },
    "ablation": {"hub": '"digits-zoo"', "datasets": '"digits"', "profile": '"mini"'},
    "pathways": {"hub": '"digits-zoo"', "datasets": '"digits"', "profile": '"mini"'},
    "cost": {"hub": '"resnet50-random"', "profile": '"paper"'},
    "ancestry": {"seeds": "0"},
    "routing": {"seeds": "0"},
    "pretexts": {"hub": '"mini-zoo"'},
    "targets": {"hub": '"mini-zoo"', "profiles": '"mini,lab"'},
}
DRAWING = re.compile(
    r"\b(\w*figures\.(?!measures|face_errors)\w+|routes\.(?!by_)\w+|arcade\.(?:rewards|episode)"
    r"|(?:studies|rate_tables)\.\w+_figure|galleries\.(?:progress|examples)|widgets\.picture)\("
)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def python(cell: NotebookNode) -> ast.Module:
    return ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith("%")))


Execute = Callable[..., tuple[str, NotebookNode]]


def settings(folder: Path) -> dict[str, str]:
    """Records below the folder; a run that lacks one fails at once, for there is no device `never`."""
    return {"ZOOLIB_RECORDS": str(folder / "records"), "ZOOLIB_DEVICE": "never", "PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run papermill in this process: what went wrong, "" for nothing, and the executed notebook."""
    for key, value in settings(tmp_path).items():
        monkeypatch.setenv(key, value)

    def run(name: str, *parameters: str) -> tuple[str, NotebookNode]:
        source, out = CHECKOUT / "notebooks" / f"{name}.ipynb", tmp_path / "out.ipynb"
        given = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in parameters)}
        error = ""
        try:
            papermill.execute_notebook(
                str(source), str(out), given, kernel_name="python3", cwd=str(tmp_path), progress_bar=False
            )
        except papermill.PapermillExecutionError as failed:
            error = f"{failed.ename}: {failed.evalue}"
        return error, read(out)

    return run


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    found = [o.data[kind] for c in notebook.cells for o in c.get("outputs", []) if kind in o.get("data", {})]
    return ["".join(text).replace("\u00a0", " ") for text in found]  # tables keep a value beside its spread


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_stripped_and_defines_no_function(path: Path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            assert not [node for node in ast.walk(python(cell)) if isinstance(node, forbidden)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_is_a_title_with_a_question_and_equations_have_no_label(path: Path):
    notebook = read(path)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ") and "?" in notebook.cells[0].source
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "\\label" not in text and ")=" not in text
    assert text.count("$$") == 2  # one displayed equation


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_heading_is_whole_without_parameters_and_names_theirs_on_a_page(path: Path):
    notebook = json.loads(path.read_text())
    assert not any("{{" in "".join(cell["source"]) for cell in notebook["cells"])
    chosen = {key: f"<{key}>" for key in notebooks.defaults(path)}
    said = notebooks._headed(notebook, chosen)["cells"][0]["source"]
    assert said[0].startswith("# ") and said[0].endswith("\n") and "{{" not in said[0]
    named = [key for key in chosen if f"<{key}>" in said[0]]
    assert named or "heading" not in read(path).cells[0].metadata.get("zoolib", {})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_an_alternative_text_and_a_cell_of_its_own(path: Path):
    for cell in read(path).cells:
        calls = DRAWING.findall(cell.source) if cell.cell_type == "code" else []
        if calls:
            assert len(calls) == 1 and len(cell.metadata.mystnb.image.alt) > 40


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_that_shows_a_table_is_read_as_myst_which_alone_knows_tables(path: Path):
    shown = [cell for cell in read(path).cells if cell.cell_type == "code" and "tables.markdown(" in cell.source]
    formats = [cell.metadata.get("mystnb", {}).get("markdown_format") for cell in shown]
    assert formats == ["myst"] * len(shown)


def test_every_kind_of_figure_is_known_to_the_test_of_alternative_texts():
    cells = [cell.source for path in NOTEBOOKS for cell in read(path).cells if cell.cell_type == "code"]
    drawn = [call for source in cells for call in DRAWING.findall(source)]
    assert set(drawn) >= {"arcade.rewards", "arcade.episode", "rate_tables.rate_figure", "studies.routing_figure",
                          "studies.ancestry_figure", "galleries.progress", "galleries.examples", "widgets.picture",
                          "figures.accuracies", "routes.route_map", "landmark_figures.face_sheet"}  # fmt: skip
    by_type = [stamps.drawn_by(source, "figure") for source in cells]  # from what the functions return
    assert sorted(drawn) == sorted(name for name in by_type if name and not name.endswith(("explorer", "explorer_of")))


def test_every_notebook_with_a_cell_of_parameters_has_its_defaults_written_down_here():
    tags = {
        path.stem: [tag for cell in read(path).cells for tag in cell.metadata.get("tags", [])] for path in NOTEBOOKS
    }
    tagged = {name for name, found in tags.items() if "parameters" in found}
    assert set(PARAMETERS) == tagged == set(tags)


@pytest.mark.parametrize("name", PARAMETERS)
def test_papermill_reads_the_parameters(name: str):
    path = CHECKOUT / "notebooks" / f"{name}.ipynb"
    found = inspect_notebook(str(path))
    assert {key: value["default"] for key, value in found.items()} == PARAMETERS[name]
    cell = next(c for c in read(path).cells if "parameters" in c.metadata.get("tags", []))
    assert "hide-input" in cell.metadata.tags


@pytest.mark.parametrize(("hub", "figures"), [("imagenet-lite", 3), ("digits-zoo", 4)])
def test_the_classification_notebook_executes_on_records_alone(
    tmp_path: Path, execute: Execute, hub: str, figures: int
):
    synthetic.fill(ResultStore(tmp_path / "records"), "digits", hub)
    error, notebook = execute("cls", f"hub={hub}")
    assert not error, error
    assert len(outputs(notebook, "image/svg+xml")) == figures
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | 89.0 ± 1.0 | 3 | recomputed here | not in the paper's table |" in text
    assert ("Zoo-Tuning: not run" in text) == (hub == "imagenet-lite")
    assert "profile: mini · seeds: 0, 1, 2" in text and "Not comparable with the paper" in text


def test_the_classification_notebook_takes_some_methods_and_seeds(tmp_path: Path, execute: Execute):
    synthetic.fill(ResultStore(tmp_path / "records"), "digits", "imagenet-lite", ["ensemble"])
    error, notebook = execute("cls", "methods=ensemble", "seeds=2")
    assert not error, error
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Ensemble | 85.5 ± 0.7 | 2 |" in text and "No curves" in text and "Hub-Pathway: not run" in text


def test_the_lab_notebook_shows_what_there_is_and_never_trains(tmp_path: Path, execute: Execute):
    synthetic.fill(ResultStore(tmp_path / "records"), "cifar100", "imagenet-lite", profile="lab")
    error, notebook = execute("lab", "datasets=cifar100,digits")
    assert not error, error
    tables = [text for text in outputs(notebook, "text/markdown") if "| here (%) |" in text]
    assert "| Hub-Pathway | 89.0 ± 1.0 | 3 | recomputed here | 89.01 ± 0.06 |" in tables[0]
    rest = [
        text for text in outputs(notebook, "text/markdown") if text.startswith("Neither run nor in the paper's table: ")
    ]
    assert len(tables) == 1 and "Hub-Pathway;" not in rest[0]
    assert rest[0].startswith("Neither run nor in the paper's table: Best single; ") and "; Hub-Pathway; " in rest[1]
    assert len(outputs(notebook, "image/svg+xml")) == 3  # of cifar100 alone


def test_the_atari_notebook_shows_the_committed_runs_and_says_what_was_not_run(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOLIB_RESULTS", str(tmp_path / "no committed ones"))
    store = ResultStore(tmp_path / "records")
    short = grid("atari", "jamesbond", games.HUB, "random,scratch", "mini")
    long = grid("atari", "jamesbond", games.HUB, "random,scratch,hub_pathway", "lab", 2)
    other = grid("atari", "alien", games.HUB, "hub_pathway", "lab", 1)
    for spec in [*short, *long, *other]:
        store.save(synthetic.game_result(spec))
    error, notebook = execute("atari", "methods=random,scratch")
    assert not error, error
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | 505.0 ± 7.1 |" in text and "| seeds, 4 games | " in text
    assert "| 2 of 5 | recomputed here |" in text
    assert "| Zoo-Tuning | not run |" in text and "**James Bond, Zoo-Tuning**: not run" in text
    assert "**Alien, Hub-Pathway** after 100,000 steps" in text and "**Alien, Zoo-Tuning**" not in text
    said = "James Bond: From scratch scores 105.0 ± 7.1 (over 2 seeds), random play 5.0 ± 7.1 (over 2 seeds)."
    assert said in text.replace("\u00a0", " ")
    assert "Alien: From scratch or Random play has not been run." in text
    assert "| steps | 600 | 100000 |" in text
    assert len(outputs(notebook, "image/svg+xml")) == 4  # rewards; episodes: Hub-Pathway, scratch, Alien


def test_an_unknown_game_stops_the_notebook_with_one_line(execute: Execute) -> None:
    error, notebook = execute("atari", "game=pong")
    assert "unknown game 'pong'; known: alien, gopher" in error
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len("\n".join(errors[0].traceback).splitlines()) == 1


def test_the_landmark_notebook_executes_on_records_alone(tmp_path: Path, execute: Execute):
    synthetic.fill(ResultStore(tmp_path / "records"), "faces-rendered", "mini-zoo", "all")
    error, notebook = execute("landmarks")
    assert not error, error
    assert len(outputs(notebook, "image/svg+xml")) == 6
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | 6.30 ± 0.10 | 3 | 3.33 | 4.54 | 3.51 |" in text  # beside 300W, WFLW and COFW
    assert "| Mean face | 18.00 |" in text and "outer corners of the eyes (inter-ocular)" in text
    assert "**Hub-Pathway**, seed 0" in text and "Not comparable with the paper" in text


def test_the_landmark_notebook_without_computing_shows_what_there_is(execute: Execute):
    error, notebook = execute("landmarks", "dataset=faces68", "profile=mini", "compute=False")
    assert not error, error
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | not run |  | 3.33 | 4.54 | 3.51 |" in text and not outputs(notebook, "image/svg+xml")


def test_the_word_false_is_not_taken_for_yes(execute: Execute):
    error, _ = execute("landmarks", "compute='false'")
    assert error == "ZoolibError: compute is 'false'; use True or False"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (jupyter_client.kernelspec.NoSuchKernel("python3"), "no kernel 'python3' is here to run it; install the book"),
        (nbclient.exceptions.DeadKernelError("Kernel died"), "its kernel died, of too little memory perhaps; see "),
    ],
)
def test_a_kernel_that_is_absent_or_dies_is_one_line(error: Exception, words: str, tmp_path: Path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    with pytest.raises(ZoolibError, match=words):
        notebooks.execute("cls", {}, tmp_path / "out.ipynb")
    assert not [*tmp_path.glob("*.input.ipynb")]


def test_papermill_is_loaded_without_the_slow_check_of_iris_which_stays_importable():
    code = "from zoolib.notebooks import has_papermill; import sys; has = has_papermill()\n"
    code += "print(has, 'papermill' in sys.modules, 'rfc3987_syntax' in sys.modules)\n"
    code += "import rfc3987_syntax; print(rfc3987_syntax.is_valid_syntax_iri('http://a/b'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False", "True"]


def test_a_wrong_value_stops_the_notebook_with_one_line(tmp_path: Path):
    out = tmp_path / "out.ipynb"
    source = CHECKOUT / "notebooks/cls.ipynb"
    command = [sys.executable, "-m", "papermill", source, out, "-k", "python3", "-p", "dataset", "digit"]  # as a user
    done = subprocess.run(command, env=os.environ | settings(tmp_path), cwd=tmp_path, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=180)  # fmt: skip
    notebook = read(out)
    assert done.returncode != 0 and "did you mean 'digits'" in done.stderr
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len(errors) == 1 and errors[0].ename == "ZoolibError"
    assert len("\n".join(errors[0].traceback).splitlines()) == 1


def test_the_pages_of_the_papers_tables_and_analyses_show_records_and_never_train(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ZOOLIB_RESULTS", str(tmp_path / "no committed ones"))
    synthetic.fill(ResultStore(tmp_path / "records"), "digits", "digits-zoo", "finetune,hub_pathway,best_single")
    for name, parameters, expected, figures in (
        ("table", ["datasets=digits,cifar100"], "| Hub-Pathway | 89.0 ± 1.0 | not run | 83.31 |", 0),
        ("ablation", [], "| Hub-Pathway | 89.0 ± 1.0 |", 1),  # no sweep has a second value
        ("pathways", [], "best member on validation", 2),
        ("cost", [], "| One model | not run | 23.71 |", 0),
    ):
        error, notebook = execute(name, *parameters)
        assert not error, error
        assert expected in "\n".join(outputs(notebook, "text/markdown")), name
        assert len(outputs(notebook, "image/svg+xml")) == figures, name
