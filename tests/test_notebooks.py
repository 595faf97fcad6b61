"""The notebooks: thin, stripped, parameterised, and they execute."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import synthetic
from nbformat import NotebookNode
from papermill.inspection import inspect_notebook

from zoolib import games
from zoolib.grid import grid
from zoolib.paths import CHECKOUT
from zoolib.results import ResultStore

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
}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def python(cell: NotebookNode) -> ast.Module:
    return ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith("%")))


def execute(name: str, folder: Path, *parameters: str) -> tuple[subprocess.CompletedProcess[str], NotebookNode]:
    """Run papermill as a user would; a run that lacks a record fails at once, for there is no device `never`."""
    out = folder / "out.ipynb"
    pairs = [part for pair in parameters for part in ("-p", *pair.split("=", 1))]
    command = [
        sys.executable,
        "-m",
        "papermill",
        CHECKOUT / "notebooks" / f"{name}.ipynb",
        out,
        "-k",
        "python3",
        *pairs,
    ]
    environment = {**os.environ, "ZOOLIB_RECORDS": str(folder / "records"), "ZOOLIB_DEVICE": "never"}
    environment["PYTHONPATH"] = str(CHECKOUT)
    done = subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180
    )
    return done, read(out)


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
def test_every_figure_has_an_alternative_text_and_a_cell_of_its_own(path: Path):
    for cell in read(path).cells:
        calls = cell.cell_type == "code" and len(
            re.findall(r"figures\.(?!measures|face_errors)|\broutes\.(?!by_)", cell.source)
        )
        if calls:
            assert calls == 1 and len(cell.metadata.mystnb.image.alt) > 40


@pytest.mark.parametrize("name", PARAMETERS)
def test_papermill_reads_the_parameters(name: str):
    path = CHECKOUT / "notebooks" / f"{name}.ipynb"
    found = inspect_notebook(str(path))
    assert {key: value["default"] for key, value in found.items()} == PARAMETERS[name]
    cell = next(c for c in read(path).cells if "parameters" in c.metadata.get("tags", []))
    assert "hide-input" in cell.metadata.tags


@pytest.mark.parametrize(("hub", "figures"), [("imagenet-lite", 3), ("digits-zoo", 4)])
def test_the_classification_notebook_executes_on_records_alone(tmp_path: Path, hub: str, figures: int):
    synthetic.fill(ResultStore(tmp_path / "records"), "digits", hub)
    done, notebook = execute("cls", tmp_path, f"hub={hub}")
    assert done.returncode == 0, done.stderr
    assert len(outputs(notebook, "image/svg+xml")) == figures
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | 89.0 ± 1.0 | 3 | recomputed here | not in the paper |" in text
    assert ("Zoo-Tuning: not run" in text) == (hub == "imagenet-lite")
    assert "profile: mini · seeds: 0, 1, 2" in text and "Not comparable with the paper" in text


def test_the_classification_notebook_takes_some_methods_and_seeds(tmp_path: Path):
    synthetic.fill(ResultStore(tmp_path / "records"), "digits", "imagenet-lite", ["ensemble"])
    done, notebook = execute("cls", tmp_path, "methods=ensemble", "seeds=2")
    assert done.returncode == 0, done.stderr
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Ensemble | 85.5 ± 0.7 | 2 |" in text and "No curves" in text and "Hub-Pathway: not run" in text


def test_the_lab_notebook_shows_what_there_is_and_never_trains(tmp_path: Path):
    synthetic.fill(ResultStore(tmp_path / "records"), "cifar100", "imagenet-lite", profile="lab")
    done, notebook = execute("lab", tmp_path, "datasets=cifar100,digits")
    assert done.returncode == 0, done.stderr
    tables = [text for text in outputs(notebook, "text/markdown") if "| here (%) |" in text]
    assert "| Hub-Pathway | 89.0 ± 1.0 | 3 | recomputed here | 89.01 ± 0.06 |" in tables[0]
    assert "| Hub-Pathway | not run |" in tables[1]
    assert len(outputs(notebook, "image/svg+xml")) == 3  # of cifar100 alone


def test_the_atari_notebook_shows_the_committed_runs_and_says_what_was_not_run(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "records")
    short = grid("atari", "jamesbond", games.HUB, "random,scratch", "mini")
    long = grid("atari", "jamesbond", games.HUB, "random,scratch,hub_pathway", "lab", 2)
    for spec in [*short, *long]:
        store.save(synthetic.game_result(spec))
    done, notebook = execute("atari", tmp_path, "methods=random,scratch")
    assert done.returncode == 0, done.stderr
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | 505.0 ± 7.1 |" in text and "| 2 of 5 | 4 | recomputed here |" in text
    assert "| Zoo-Tuning | not run |" in text and "**Zoo-Tuning**: not run" in text
    assert "James Bond: From scratch scores 105.0, random play 5.0." in text
    assert "Alien: From scratch or Random play has not been run." in text
    assert "| steps | 600 | 100000 |" in text
    assert len(outputs(notebook, "image/svg+xml")) == 3  # rewards, and one episode each of Hub-Pathway and scratch


def test_an_unknown_game_stops_the_notebook_with_one_line(tmp_path: Path) -> None:
    done, notebook = execute("atari", tmp_path, "game=pong")
    assert done.returncode != 0 and "unknown game 'pong'; known: alien, gopher" in done.stderr
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len("\n".join(errors[0].traceback).splitlines()) == 1


def test_the_landmark_notebook_executes_on_records_alone(tmp_path: Path):
    synthetic.fill(ResultStore(tmp_path / "records"), "faces-rendered", "mini-zoo", "all")
    done, notebook = execute("landmarks", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(outputs(notebook, "image/svg+xml")) == 6
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | 6.30 ± 0.10 | 3.33 | 4.54 | 3.51 |" in text  # beside 300W, WFLW and COFW
    assert "| Mean face | 18.00 |" in text and "outer corners of the eyes (inter-ocular)" in text
    assert "**Hub-Pathway**, seed 0" in text and "Not comparable with the paper" in text


def test_the_landmark_notebook_without_computing_shows_what_there_is(tmp_path: Path):
    done, notebook = execute("landmarks", tmp_path, "dataset=faces68", "profile=mini", "compute=False")
    assert done.returncode == 0, done.stderr
    text = "\n".join(outputs(notebook, "text/markdown"))
    assert "| Hub-Pathway | not run | 3.33 | 4.54 | 3.51 |" in text and not outputs(notebook, "image/svg+xml")


def test_a_wrong_value_stops_the_notebook_with_one_line(tmp_path: Path):
    done, notebook = execute("cls", tmp_path, "dataset=digit")
    assert done.returncode != 0 and "did you mean 'digits'" in done.stderr
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len(errors) == 1 and errors[0].ename == "ZoolibError"
    assert len("\n".join(errors[0].traceback).splitlines()) == 1


def test_the_pages_of_the_papers_tables_and_analyses_show_records_and_never_train(tmp_path: Path):
    synthetic.fill(ResultStore(tmp_path / "records"), "digits", "digits-zoo", "finetune,hub_pathway,best_single")
    for name, parameters, expected, figures in (
        ("table", ["datasets=digits,cifar100"], "| Hub-Pathway | 89.0 ± 1.0 | not run | 83.31 |", 0),
        ("ablation", [], "| Hub-Pathway | 89.0 ± 1.0 |", 3),
        ("pathways", [], "best member on validation", 2),
        ("cost", [], "| One model | not run | 23.71 |", 0),
    ):
        done, notebook = execute(name, tmp_path, *parameters)
        assert done.returncode == 0, done.stderr
        assert expected in "\n".join(outputs(notebook, "text/markdown")), name
        assert len(outputs(notebook, "image/svg+xml")) == figures, name
