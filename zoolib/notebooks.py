"""The notebooks as commands: read their parameters, refuse wrong ones at once, execute into a file of their own."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from zoolib import games
from zoolib.files import atomic
from zoolib.grid import grid
from zoolib.paths import build_dir, shared
from zoolib.spec import INSTALL_BOOK, RunSpec, ZoolibError, unknown


def available() -> dict[str, Path]:
    """The project's notebooks by name."""
    return {path.stem: path for path in sorted(shared("notebooks").glob("*.ipynb"))}


def defaults(path: Path) -> dict[str, Any]:
    """Parameter names and default values: the plain assignments of the cell tagged `parameters`."""
    cells = json.loads(path.read_text())["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    body = ast.parse("".join(tagged[0]["source"])).body if tagged else []
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def parameters(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """A notebook's parameters with the given texts in place of defaults.

    Raises ZoolibError for an unknown notebook or parameter and for a value of another type than the default's.
    """
    if name not in available():
        raise unknown("notebook", name, available())
    chosen = defaults(available()[name])
    for key, text in given.items():
        if key not in chosen:
            raise unknown(f"parameter of {name}", key, chosen)
        chosen[key] = _typed(key, text, chosen[key])
    return chosen


def _typed(key: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
    if fits or (isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)):
        return type(default)(value)
    if key == "seeds" and isinstance(value, list):
        return value
    raise ZoolibError(f"{key} is {text!r}; it must be {_words[type(default)]}, such as {default!r}")


_words = {int: "a whole number", float: "a number", bool: "true or false"}


def specs_of(name: str, chosen: Mapping[str, Any]) -> list[RunSpec]:
    """The runs that a notebook with these parameters asks for; none for one that only reads records."""
    if name == "ranking":
        return grid("cls", chosen["dataset"], chosen["hub"], ["rank"], chosen["profile"], 1)
    if "methods" not in chosen or not chosen.get("compute", True):
        return []
    if "game" in chosen:
        return grid(games.TASK, chosen["game"], games.HUB, chosen["methods"], chosen["profile"], chosen["seeds"])
    return grid(name, chosen["dataset"], chosen["hub"], chosen["methods"], chosen["profile"], chosen["seeds"])


def output_path(name: str, chosen: Mapping[str, Any]) -> Path:
    """build/notebooks/<name>-<what was chosen>.ipynb."""
    changed = {
        k: v for k, v in chosen.items() if k in ("dataset", "hub", "game") or v != defaults(available()[name])[k]
    }
    parts = [name, *(Path(str(value)).stem.replace(",", "+").replace(" ", "") for value in changed.values())]
    return build_dir() / "notebooks" / f"{'-'.join(parts)}.ipynb"


def _titled(key: str, value: Any) -> str:
    """What a heading calls a parameter's value."""
    if key == "game" and value in games.GAMES:
        return games.GAMES[value].title
    if key == "table":
        from zoolib.paper_tables import CONTENTS  # loads pandas, which the command line can do without

        return CONTENTS[value][1] if value in CONTENTS else str(value)
    return str(value)


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Importing a module that nobody has imported yet fails inside, as if it were not installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def _papermill() -> ModuleType:
    # Below papermill, jsonschema takes up a check of IRIs where there is one. The check's module needs two seconds to
    # build its parser, most of the time in which papermill is imported, and no notebook has an IRI to be checked.
    with _hidden("rfc3987_syntax"):
        import papermill

    module: ModuleType = papermill
    return module


def has_papermill() -> bool:
    """Whether the packages that execute notebooks are installed; a bare GPU node has none of them."""
    try:
        _papermill()
    except ImportError:
        return False
    return True


def _headed(notebook: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook under the heading of these parameters; papermill fills in values in code cells alone."""
    first = notebook["cells"][0]
    if heading := first["metadata"].get("zoolib", {}).get("heading"):
        for key, value in chosen.items():
            heading = heading.replace("{{" + key + "}}", _titled(key, value))
        first["source"] = [f"# {heading}\n", *first["source"][1:]]
    return notebook


def execute(name: str, chosen: Mapping[str, Any], output: Path) -> Path:
    """Execute a notebook with these parameters; `output` appears only when every cell succeeded.

    Raises ZoolibError with the failing cell's last line; the failed notebook stays beside `output`, named
    .failed.ipynb.
    """
    papermill = _papermill()
    source = json.dumps(_headed(json.loads(available()[name].read_text()), chosen))
    output.parent.mkdir(parents=True, exist_ok=True)
    filled, failed = output.with_suffix(".input.ipynb"), output.with_suffix(".failed.ipynb")
    filled.write_text(source)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        papermill.execute_notebook(
            str(filled), str(failed), dict(chosen), kernel_name="python3", progress_bar=False, log_output=False
        )
    except (KeyError, RuntimeError) as error:  # those of the packages below papermill
        if type(error).__name__ == "NoSuchKernel":
            raise ZoolibError(f"{name}: no kernel 'python3' is here to run it; {INSTALL_BOOK}") from None
        if type(error).__name__ == "DeadKernelError":
            raise ZoolibError(f"{name}: its kernel died, of too little memory perhaps; see {failed}") from None
        raise
    except papermill.PapermillExecutionError as error:
        raise ZoolibError(f"{name}: {error.ename}: {error.evalue} (cell {error.exec_count}; see {failed})") from None
    finally:
        filled.unlink(missing_ok=True)
    with atomic(output) as file:
        file.write(failed.read_bytes())
    failed.unlink()
    return output
