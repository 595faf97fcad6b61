"""Where the figures, tables and numbers of the book come from: a stamp under each, and the page of records.

No torch. A notebook ends with `provenance.summary(records)`; its stamps repeat that line in short under each figure and
table, and link to the function that drew it and to the records.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoolib import games, markdown, tables
from zoolib.results import Result, ResultStore
from zoolib.spec import RunSpec

_CALL = re.compile(r"\b(\w+)\.(\w+)\(")
_SUMMARY = re.compile(r"profile: (?P<profile>[\w, ]+) · seeds: (?P<seeds>[\d, ]+) · runs: (?P<runs>\d+)")
_SHORT = ("commit", "machine", "date")
_HELPERS = {("tables", "text")}  # what every table passes through says nothing of its origin
_SEVERAL = "profile, seeds, commit and machine: see *Provenance* below"
_PUBLISHED = "the papers' own numbers, as transcribed in `reference/`; nothing was computed here"
_RETURNS = {"figure": ("Figure", "Explorer"), "table": ("DataFrame",)}


def stamped(content: dict[str, Any], stem: str) -> dict[str, Any]:
    """An executed notebook with a stamp below every figure and table, and the command that makes it at its end."""
    summaries = _summaries(content["cells"])
    told = any(re.search("^## Provenance$", "".join(cell["source"]), re.M) for cell in content["cells"])
    line = _short(summaries[0]) if len(set(summaries)) == 1 else _SEVERAL if told or summaries else ""
    cells = []
    for cell in content["cells"]:
        cells.append(cell)
        if cell["cell_type"] == "code" and (shown := _shows(cell)):
            cells.append(_markdown(f"{stem}-stamp-{len(cells)}", _stamp(cell, line, shown, stem)))
    cells.append(_markdown(f"{stem}-run", run_yourself(content, stem)))
    return content | {"cells": cells}


def _markdown(identifier: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": re.sub(r"\W+", "-", identifier)[-60:], "metadata": {}, "source": source}


def _outputs(cell: Mapping[str, Any], kind: str) -> list[str]:
    found = [output["data"][kind] for output in cell.get("outputs", []) if kind in output.get("data", {})]
    return ["".join(text) for text in found]


def _summaries(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = [text for cell in cells for text in _outputs(cell, "text/markdown")]
    return [text for text in texts if _SUMMARY.search(text)]


def _short(summary: str) -> str:
    """`profile mini · seeds 0, 1 · 6 runs · commit … · machine · date` of a whole summary."""
    match = _SUMMARY.search(summary)
    assert match
    parts = [f"profile {match['profile']}", f"seeds {match['seeds']}", f"n = {match['runs']} runs"]
    for part in summary.split(" · "):
        name, _, value = part.partition(": ")
        parts += [_few(name, value.split(", "))] if name in _SHORT else []
    return " · ".join(parts)


def _few(name: str, values: Sequence[str]) -> str:
    """Up to three commits, machines or dates; of more, the number, or the first and the last date."""
    if name == "date" and len(values) > 2:
        return f"{values[0]} to {values[-1]}"
    if len(values) > 3:
        return f"{len(values)} {name}s, listed in *Provenance* below"
    return ("commit " if name == "commit" else "") + ", ".join(values)


def _shows(cell: Mapping[str, Any]) -> str:
    """What a cell shows, "figure" or "table"; nothing for one that shows neither, or a widget's picture for print."""
    tags = cell["metadata"].get("tags", [])
    if "static-picture" in tags:
        return ""
    if _outputs(cell, "image/svg+xml") or _outputs(cell, "image/png"):
        return "figure"
    if "widget" in tags:
        return "figure"
    return "table" if any(re.search(r"^\|.*\|\n\|[ :|-]+\|$", t, re.M) for t in _outputs(cell, "text/markdown")) else ""


def _stamp(cell: Mapping[str, Any], line: str, shown: str, stem: str) -> str:
    tags = cell["metadata"].get("tags", [])
    if "published" in tags:
        parts = [_PUBLISHED]
    elif line and "built" not in tags:
        parts = [line, "[records](../records.md)"]
    else:
        parts = ["computed by this page when the book was built"]
    parts.append(f"{{download}}`notebook <{stem}.ipynb>`")
    if drawn := drawn_by("".join(cell["source"]), shown):
        parts.append(f"{{py:func}}`{shown} <zoolib.{drawn}>`")
    return ":::{div} stamp\n" + " · ".join(parts) + "\n:::\n"


def drawn_by(source: str, shown: str) -> str:
    """The function, as `module.name`, that makes a cell's last figure or table; nothing for a cell that calls none."""
    if shown == "figure":
        return next(reversed(_makers(source, shown)), "")
    last = source.rpartition("tables.markdown(")[-1]  # what stands inside it is drawn, and its arguments only go in
    return next(iter(_makers(last, shown) or _makers(source, shown)), "")


def _makers(source: str, shown: str) -> list[str]:
    """The functions of this package that a cell calls and that return what is shown."""
    calls = [(module, name) for module, name in _CALL.findall(source) if (module, name) not in _HELPERS]
    kinds = _RETURNS[shown]
    return [f"{module}.{name}" for module, name in calls if _returned(module).get(name, "").endswith(kinds)]


@functools.cache
def _returned(module: str) -> dict[str, str]:
    """What each function of a module of this package says that it returns; nothing for another name."""
    path = Path(__file__).with_name(f"{module}.py")
    body = ast.parse(path.read_text()).body if path.is_file() else []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.unparse(node.returns) for node in functions if node.returns}


def run_yourself(content: Mapping[str, Any], stem: str) -> str:
    """The section with the exact commands that make a page again."""
    given: Mapping[str, Any] = content["metadata"].get("papermill", {}).get("parameters") or {}
    name = stem.split("-")[0]
    words = [f"-p {key} {_quoted(value)}" for key, value in given.items()]
    command = " ".join(["python -m zoolib run", name, *words])
    return (
        f"## Run this yourself\n\n```bash\n{command}\n```\n\n"
        "computes what has no record yet and prints the path of the executed notebook. Change a parameter, and "
        f"the page changes; `make notebooks` opens `notebooks/{name}.ipynb` in JupyterLab, and the arrow at the top of "
        "this page downloads it as it was executed here.\n"
    )


def _quoted(value: Any) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w./,+-]+", text) else "'" + text.replace("'", "") + "'"


def records_page(store: ResultStore) -> str:
    """Every record that the book could read: one table for each dataset, hub and profile."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in store.records():
        spec = result.spec
        groups.setdefault((spec.task, spec.dataset, Path(spec.hub).stem, spec.profile), []).append(result)
    parts = [
        "# Records\n",
        "Every number in this book is in one of these files or computed from them. A record is named by its run id, "
        "the hash of everything that was asked for; it lies below `build/records/` (recomputed here) or `results/` "
        "(committed).\n",
    ]
    if not groups:
        parts.append("There is no record yet.\n")
    for (task, dataset, hub, profile), results in sorted(groups.items()):
        folder = f"{task}/{dataset}/{hub}/{profile}"
        parts.append(f"## {dataset} from {hub}, {profile}\n\n{_count(results)} in `{folder}/`, {_where(results)}.\n")
        rows = [
            (
                f"`{r.run_id}`",
                _title(r.spec),
                r.spec.seed,
                r.options or "–",
                _main(r),
                r.stamp,
            )
            for r in sorted(results, key=lambda r: (r.spec.method, r.spec.member, r.options, r.spec.seed))
        ]
        heading = ("run id", "method", "seed", "options", "test", "computed")
        parts.append(f"::::{{dropdown}} The {_count(rows)}\n{markdown.table(heading, rows)}::::\n")
    return "\n".join(parts)


def _count(things: Sequence[Any]) -> str:
    return f"{len(things)} record" + "s" * (len(things) != 1)


def _title(spec: RunSpec) -> str:
    if spec.task == games.TASK:
        return games.title(spec.method, spec.member)
    return tables.title(spec.method, spec.member, spec.hub)


def _where(results: Sequence[Result]) -> str:
    machines, dates = sorted({r.machine for r in results if r.machine}), sorted({r.date for r in results if r.date})
    days = f" on {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "") if dates else ""
    return f"computed on {' and '.join(machines) or 'an unnamed machine'}{days}"


def _main(result: Result) -> str:
    test = result.metrics.get("test") or result.metrics.get("train") or {}
    name, value = next(iter(test.items()), ("", None))
    return f"{name} {value:.2f}" if value is not None else "–"
