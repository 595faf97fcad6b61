"""Imports run downward only, and everything that reads records is free of torch."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from zoolib import runtime

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zoolib"

# Each row may import the rows below it and nothing of its own row; `name.*` is every module of that folder.
LAYERS = (
    ("__main__",),
    ("commands",),
    ("workflow", "notebooks"),
    ("experiment", "pretraining", "own"),
    ("pretraining.recipes", "exports"),
    ("methods.*", "rl.runs", "rl.sources", "costs"),
    ("methods.penalties",),
    ("methods.guided",),
    ("recipe", "rl.loop", "rl.slots"),
    ("rl.der",),
    ("features", "rl.encoders"),
    ("train", "complexity", "probes"),
    ("pretraining.digits", "pretraining.moco"),
    ("pretraining.dense", "pretraining.scenes"),
    ("pretraining.scores",),
    ("hub", "data.loaders", "data.own", "tasks", "plans"),
    ("checkpoints", "data.items"),
    (
        "method",
        "losses",
        "regularizers",
        "heatmaps",
        "layers.surgery",
        "layers.pathway",
        "layers.lateral",
        "transferability",
        "data.augment",
        "data.landmarks",
        "data.fetch",
        "grid",
        "rl.envs",
    ),
    (
        "evidence",
        "layers.adaagg",
        "nets",
        "nme",
        "data.embedded",
        "data.faces",
        "data.pictures",
        "data.convert",
        "data.download",
        "data.formats.matlab",
        "results",
        "games",
        "deviations",
        "rl.replay",
        "reference",
    ),
    ("layers.depthwise", "data.formats.faces"),
    ("data.formats.*",),
    ("data.formats.archives",),
    ("data.formats",),
    (
        "data.manifests",
        "data.portraits",
        "methods",
        "storage",
        "runtime",
        "data.things",
        "data.aerial",
        "families",
    ),
    ("data.scenes", "data.schema"),
    ("data.render",),
    ("profiles",),
    ("spec", "paths", "files"),
    ("rates", "tradeoffs"),
    ("", "data", "layers", "rl"),  # the package files themselves: empty but for the version
)
# The reading side: reports import each other (in no circle) and these modules, and only the two top rows import them.
REPORTS = {
    "cost_tables",
    "tables",
    "provenance",
    "paper_tables",
    "stats",
    "analyses",
    "analysis_figures",
    "figures",
    "landmark_figures",
    "choosing",
    "rankings",
    "tuning_tables",
    "rankfigures",
    "claims",
    "widgets",
    "pages",
    "cards",
    "markdown",
    "settings_page",
    "sheets",
    "galleries",
    "studies",
    "rate_tables",
    "tradeoff_tables",
    "origins",
    "rehearsal",
    "apidoc",
}
REPORTS |= {"palette", "routes", "queries", "stamps", "landing", "arcade", "contents"}
READABLE = {
    "results",
    "reference",
    "spec",
    "profiles",
    "rates",
    "tradeoffs",
    "paths",
    "files",
    "grid",
    "plans",
    "methods",
    "games",
    "deviations",
}
READABLE |= {"data", "", "data.manifests", "data.schema", "transferability", "evidence", "complexity", "nme"}
READABLE |= {
    "data.pictures",
    "data.faces",
    "data.portraits",
    "data.embedded",
    "data.render",
    "data.scenes",
    "data.things",
    "data.aerial",
}
TORCH_FREE = sorted(REPORTS | READABLE | {"storage"})
NOTEBOOK_MODULES = {
    "galleries",
    "studies",
    "rate_tables",
    "tradeoff_tables",
    "plans",
    "own",
    "complexity",
    "choosing",
    "rankings",
    "tuning_tables",
    "rankfigures",
    "cost_tables",
    "provenance",
    "experiment",
    "results",
    "tables",
    "paper_tables",
    "stats",
    "analyses",
    "analysis_figures",
    "figures",
    "routes",
    "arcade",
    "landmark_figures",
    "widgets",
    "claims",
    "reference",
    "games",
    "spec",
    "profiles",
    "data.manifests",
    "data.faces",
}


def modules() -> dict[str, Path]:
    """Every module of zoolib, named without the package: `""` is zoolib itself, `data.loaders`, ..."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that can run, inside functions too; `if TYPE_CHECKING:` never runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and is_type_checking(child):
            for branch in child.orelse:
                yield from statements(ast.Module([branch], []))
        else:
            yield from statements(child)


def imported(source: str, module: str = "", is_package: bool = False) -> set[str]:
    """Dotted names that `source` imports; of `from a import b` both `a` and `a.b`, since b may be a module."""
    here = ["zoolib", *module.split(".")] if module else ["zoolib"]
    found = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        up = here if is_package else here[:-1]
        up = up[: len(up) - node.level + 1] if node.level else []
        base = ".".join([*up, *([node.module] if node.module else [])])
        found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def own_modules(names: set[str]) -> set[str]:
    """The modules of zoolib among dotted names; a package counts only when nothing inside it was named."""
    own = {name.removeprefix("zoolib").removeprefix(".") for name in names if re.match(r"zoolib(\.|$)", name)} & set(
        MODULES
    )
    return {name for name in own if not any(other != name and other.startswith(f"{name}.") for other in own) and name}


def edges(module: str) -> set[str]:
    path = MODULES[module]
    return own_modules(imported(path.read_text(), module, path.name == "__init__.py"))


def row(module: str) -> int:
    """Index of the layer of a module; an exact name wins over a folder's `*`."""
    for pattern in (module, f"{module.rpartition('.')[0]}.*"):
        for index, names in enumerate(LAYERS):
            if pattern in names:
                return index
    raise LookupError(f"zoolib.{module} has no layer: give it a row in tests/test_imports.py")


def test_the_reader_of_imports_sees_nested_relative_and_plain_ones_but_not_those_for_type_checkers() -> None:
    source = (
        "import a.b\nfrom . import c\nfrom ..spec import d\n"
        "if TYPE_CHECKING:\n    import never\nelse:\n    import other\n"
        "def f():\n    from zoolib.hub import Hub\n    class C:\n        import e\n"
    )
    names = {
        "a.b",
        "zoolib.data",
        "zoolib.data.c",
        "zoolib.spec",
        "zoolib.spec.d",
        "other",
        "zoolib.hub",
        "zoolib.hub.Hub",
        "e",
    }
    assert imported(source, "data.loaders") == names


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_only_what_lies_below_it(module: str) -> None:
    if module in REPORTS:
        wrong = edges(module) - REPORTS - READABLE
    elif row(module) <= row("workflow"):  # the command line and the workflow may call everything, reports included
        wrong = {name for name in edges(module) - REPORTS if row(name) <= row(module)}
    else:
        wrong = {name for name in edges(module) if name in REPORTS or row(name) <= row(module)}
    assert not wrong, f"zoolib.{module} must not import {', '.join(sorted(wrong))}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: edges(module) for module in MODULES}
    while free := {module for module, below in graph.items() if not below & set(graph)}:
        graph = {module: below for module, below in graph.items() if module not in free}
    assert not graph, f"these modules import in a circle: {sorted(graph)}"


def test_the_fingerprint_of_games_covers_every_numeric_file_that_a_game_reaches_and_no_other_hubs_weights() -> None:
    reached, waiting = set(), {name for name in MODULES if name.startswith("rl.")}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= edges(module) - reached
    files = {MODULES[module] for module in reached} - {PACKAGE / "methods/__init__.py"}  # the cards, without numbers
    numeric, of_games = (
        {path for pattern in patterns for path in PACKAGE.glob(pattern)}
        for patterns in (runtime._NUMERIC, runtime._OF_GAMES)
    )
    assert files & numeric <= of_games <= numeric and PACKAGE / "rl/der.py" in files
    packaged = {path for path in PACKAGE.glob("weights/**/*.safetensors") if path.parent.name != "atari"}
    assert {path for path in numeric if path.suffix == ".safetensors"} == packaged, "a run makes the games' sources"
    assert not [path for path in of_games if path.suffix != ".py"]
    assert runtime.code_fingerprint("atari") != runtime.code_fingerprint()


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_records_does_not_load_torch() -> None:
    names = [f"zoolib.{name}".rstrip(".") for name in TORCH_FREE if name in MODULES]
    loaded = python(
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    if heavy := {'torch', 'torchvision', 'timm'} & set(sys.modules): sys.exit(print(name, 'loads', *heavy))\n"
        "print('none')"
    )
    assert "zoolib.results" in names
    assert loaded == "none"


@pytest.mark.parametrize(
    ("module", "slow"),
    [("commands", ("torch", "pandas", "matplotlib", "scipy")), ("paper_tables", ("scipy.stats", "matplotlib"))],
)
def test_the_command_line_and_the_tables_load_fast(module: str, slow: tuple[str, ...]) -> None:
    loaded = python(f"import sys, zoolib.{module}; print(*[name for name in {slow} if name in sys.modules])")
    assert loaded == ""


def test_torchvision_and_timm_load_only_in_the_functions_that_need_them() -> None:
    names = [f"zoolib.{name}" for name in MODULES if name and name not in {"__main__", *REPORTS}]
    heavy = "[name for name in ('torch', 'torchvision', 'timm') if name in sys.modules]"
    assert python(f"import sys, {', '.join(names)}; print({heavy})") == "['torch']"


@pytest.mark.parametrize("module", MODULES)
def test_every_dependency_of_the_code_is_declared_and_the_core_needs_no_notebook_package(module: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def declared(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", line)[0].lower() for line in requirements}

    core = declared(project["dependencies"])
    extras = declared(project["optional-dependencies"]["book"])
    games = (
        declared(project["optional-dependencies"]["atari"]) if module.startswith("rl.") else set()
    )  # GPL: only there
    distributions = packages_distributions()
    tree = ast.parse(MODULES[module].read_text())
    at_import = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    for source, allowed in (
        (ast.unparse(at_import), core | (extras if module in REPORTS else set())),
        (ast.unparse(tree), core | extras | games),
    ):
        for name in sorted(
            {name.split(".")[0] for name in imported(source, module)} - {"zoolib"} - sys.stdlib_module_names
        ):
            wanted = {distribution.lower() for distribution in distributions.get(name, [name])}
            assert wanted & allowed, f"zoolib.{module} imports {name}, which is not among {sorted(allowed)}"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_only_call_and_plot(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    source = re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE)  # IPython's own commands
    wrong = own_modules(imported(source)) - NOTEBOOK_MODULES
    assert not wrong, f"{path.name} imports {sorted(wrong)}; a notebook imports {sorted(NOTEBOOK_MODULES)}"
    named = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert not named, f"{path.name} defines {[node.name for node in named]}: if it has a name, it belongs in zoolib"
