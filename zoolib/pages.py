"""The source folder of the book, complete with everything generated, and its build into static HTML."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zoolib import apidoc, cards, markdown, origins, rehearsal, settings_page, stamps
from zoolib.data import manifests
from zoolib.results import ResultStore
from zoolib.spec import INSTALL_BOOK, ZoolibError

PACKAGE = Path(__file__).resolve().parent
PAGES = (".md", ".ipynb")

# Notebooks and the API reference --------------------------------------------------------------------------------------


def notebook(path: Path) -> tuple[str, dict[str, Any]]:
    """An executed notebook's title and content, with an alternative text for every picture.

    Raises ZoolibError for a notebook that is unreadable, was not executed, failed, or has no title.
    """
    try:
        content = json.loads(path.read_text())
        cells = content["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZoolibError(f"{path}: not a notebook ({error}); execute it again") from None
    title, heading = "", ""
    chosen = any("injected-parameters" in cell["metadata"].get("tags", []) for cell in cells)
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            headings = re.findall(r"^#{1,4}\s+(.+)$", source, re.MULTILINE)
            title, heading = title or (headings[0] if headings else ""), headings[-1] if headings else heading
            continue
        outputs = cell.get("outputs", [])
        failed = [output for output in outputs if output["output_type"] == "error"]
        if failed:
            raise ZoolibError(f"{path}: execution failed with {failed[0]['ename']}: {failed[0]['evalue']}")
        _undate(outputs)
        tags = cell["metadata"].setdefault("tags", [])
        if "parameters" in tags and chosen:  # the values that it ran with stand in the next cell
            tags[:] = [*(tag for tag in tags if tag != "hide-input"), "remove-input"]
        elif {"parameters", "injected-parameters"} & set(tags):
            tags += [] if "hide-input" in tags else ["hide-input"]
            words = {f"code_prompt_{word.lower()}": f"{word} the parameters of this page" for word in ("Show", "Hide")}
            cell["metadata"].setdefault("mystnb", {}).update(words)
        if any(
            "image/png" in output.get("data", {}) or "image/svg+xml" in output.get("data", {}) for output in outputs
        ):
            shown = cell["metadata"].setdefault("mystnb", {})
            caption = shown.get("figure", {}).get("caption", "")
            shown.setdefault("image", {}).setdefault("alt", " ".join(caption.split()) or f"Figure: {heading or title}")
    if not title:
        raise ZoolibError(f"{path}: no heading in its first Markdown cells; give the notebook a title")
    if not any(cell.get("execution_count") or cell.get("outputs") for cell in cells if cell["cell_type"] == "code"):
        raise ZoolibError(f"{path}: never executed; run it with python -m zoolib run")
    return re.sub(r"[*`_]", "", title), content


def _undate(outputs: Sequence[Mapping[str, Any]]) -> None:
    """Drop the time of drawing from figures, in which alone two builds of one page differ."""
    for output in outputs:
        if svg := output.get("data", {}).get("image/svg+xml"):
            output["data"]["image/svg+xml"] = re.sub(r"<dc:date>.*?</dc:date>", "", "".join(svg))


def _listing(parts: Sequence[dict[str, Any]], titles: Mapping[str, str]) -> str:
    """Links to the executed notebooks, part by part of the contents, in their order."""
    if not titles:
        return "No notebook was executed for this build of the book, so every result is **not run**.\n"
    blocks = []
    for part in parts:
        stems = [str(chapter["file"]).removeprefix("results/") for chapter in part["chapters"]]
        links = [f"- [{titles[stem]}]({stem}.ipynb)" for stem in stems if stem in titles]
        blocks += ["\n".join([f"**{part['caption']}**\n", *links])] if links else []
    return "\n\n".join(blocks) + "\n"


def api_pages() -> dict[str, str]:
    """Pages of the API reference by file name below api/: an index and one page a module."""
    documented = [module for module in apidoc.modules(PACKAGE) if apidoc.has_public(module)]
    rows = [(f"[`{module.name}`]({module.name}.md)", apidoc.prose(module.summary)) for module in documented]
    intro = "Every public name with its signature, its docstring, and its source folded below it.\n"
    pages = {"index.md": "\n".join(["# API reference\n", intro, markdown.table(("module", "what it holds"), rows)])}
    return pages | {f"{module.name}.md": apidoc.page(module) for module in documented}


# The folder that jupyter-book reads -----------------------------------------------------------------------------------


def write_pages(
    book_dir: Path, out_dir: Path, notebooks: Sequence[Path], store: ResultStore | None = None
) -> list[Path]:
    """Make `out_dir` the book's complete source: prose, cards, profiles, API reference, executed notebooks, contents.

    Whatever was there before is removed. Returns every page in reading order. Raises ZoolibError for a failed notebook,
    a manifest without a licence, or a prose page that the table of contents does not name.
    """
    from zoolib import landing  # the only page that draws, and so needs the widgets' packages

    if out_dir.exists():
        shutil.rmtree(out_dir)
    shutil.copytree(book_dir, out_dir, ignore=shutil.ignore_patterns("_build", ".*", "generated"))
    executed = {path.stem: notebook(path) for path in notebooks}
    store = store or ResultStore.default()
    pages = {
        f"results/{stem}.ipynb": json.dumps(stamps.stamped(content, stem), indent=1)
        for stem, (_, content) in executed.items()
    }
    pages |= {"records.md": stamps.records_page(store), "_assets/landing.html": landing.fragment(store)}
    pages |= {f"data/{name}.md": cards.dataset_card(manifest) for name, manifest in manifests.datasets().items()}
    pages |= {f"hubs/{name}.md": cards.hub_card(manifest) for name, manifest in manifests.hubs().items()}
    pages |= {f"api/{name}": text for name, text in api_pages().items()} | {"profiles.md": settings_page.page()}
    for name, text in pages.items():
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (out_dir / name).write_text(text)
    _draw_sheets(out_dir / "data")
    _sample_sheets(out_dir / "data")
    _fill(out_dir / "hubs/rehearsal.md", "rehearsal", rehearsal.page())
    _fill(out_dir / "methods/index.md", "methods", cards.method_table())
    _fill(out_dir / "data/index.md", "datasets", cards.dataset_table())
    _fill(out_dir / "hubs/index.md", "hubs", cards.hub_table())
    contents = yaml.safe_load((book_dir / "_toc.yml").read_text())
    order = [f"results/{stem}" for stem in executed]
    globs = _globs(contents)
    parts = [_expand(part, out_dir, order, globs) for part in contents["parts"]]
    contents["parts"] = [part for part in parts if part["chapters"]]
    titles = {stem: title for stem, (title, _) in executed.items()}
    _fill(out_dir / "results/index.md", "notebooks", _listing(contents["parts"], titles))
    (out_dir / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))
    return _check_contents(contents, out_dir)


def _draw_sheets(folder: Path) -> None:
    """The pictures that the cards of embedded datasets show."""
    from zoolib import sheets  # loads matplotlib

    for dataset, kinds in sheets.SHEETS.items():
        for kind in kinds:
            (folder / f"{dataset}-{kind}.jpg").write_bytes(sheets.jpeg(dataset, kind))


def _sample_sheets(folder: Path) -> None:
    """Pictures on the cards of datasets whose files are on this machine."""
    for name, manifest in manifests.datasets().items():
        sheet, text = origins.sample_sheet(manifest), ""
        if sheet:
            (folder / f"{name}-sample.jpg").write_bytes(sheet)
            text = f"```{{figure}} {name}-sample.jpg\n:alt: Training images of {manifest.title}\n\n"
            text += f"Training images of {manifest.title}, from the files on the machine that built this page.\n```\n"
        _fill(folder / f"{name}.md", "sample sheet", text)


def _fill(page: Path, mark: str, text: str) -> None:
    """Replace the line `<!-- mark -->` of a page."""
    if page.is_file():
        page.write_text(page.read_text().replace(f"<!-- {mark} -->", text))


def _name(path: Path, folder: Path) -> str:
    """A page as the table of contents names it: below the folder, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _globs(contents: object) -> list[str]:
    """Every `glob` of the contents, wherever it stands."""
    if isinstance(contents, list):
        return [found for child in contents for found in _globs(child)]
    if not isinstance(contents, dict):
        return []
    return [contents["glob"]] if "glob" in contents else _globs(list(contents.values()))


def _matches(glob: str, out_dir: Path, globs: Sequence[str]) -> set[str]:
    """The pages that a `glob` names and no longer one does: `results/*` takes what `results/cls-*` leaves."""
    found = {_name(path, out_dir) for path in out_dir.glob(glob) if path.suffix in PAGES}
    longer = [other for other in globs if len(other) > len(glob)]
    return {name for name in found if not any(fnmatch.fnmatch(name, other) for other in longer)}


def _expand(entry: dict[str, Any], out_dir: Path, order: Sequence[str], globs: Sequence[str]) -> dict[str, Any]:
    """An entry of the contents with each `glob` replaced by the files it matches, those of `order` first."""
    out = dict(entry)
    for key in ("chapters", "sections"):
        children: list[dict[str, Any]] = []
        for child in entry.get(key, []):
            if "glob" not in child:
                children.append(_expand(child, out_dir, order, globs))
                continue
            named = {c["file"] for c in entry[key] if "file" in c} | {entry.get("file")}
            found = sorted(_matches(child["glob"], out_dir, globs))
            found.sort(key=lambda name: order.index(name) if name in order else len(order))
            children += [_titled(name) for name in found if name not in named]
        if key in entry:
            out[key] = children
    return out


def _titled(name: str) -> dict[str, Any]:
    """An entry of the contents; modules of the API reference go by their name below the package."""
    short = name.removeprefix(f"api/{PACKAGE.name}.")
    return {"file": name} if short == name else {"file": name, "title": short}


def listed(contents: object) -> list[str]:
    """Every file that a table of contents names, in reading order."""
    if isinstance(contents, list):
        return [name for child in contents for name in listed(child)]
    if not isinstance(contents, dict):
        return []
    own = [contents[key] for key in ("root", "file") if key in contents]
    return own + [name for key in ("parts", "chapters", "sections") for name in listed(contents.get(key, []))]


def _check_contents(contents: object, out_dir: Path) -> list[Path]:
    found = [path for path in sorted(out_dir.rglob("*")) if path.suffix in PAGES and "_assets" not in path.parts]
    pages = {_name(path, out_dir): path for path in found}
    names = listed(contents)
    if missing := sorted(set(names) - set(pages)):
        raise ZoolibError(
            f"book/_toc.yml names {missing[0]}, which does not exist; write book/{missing[0]}.md or drop it"
        )
    if unlisted := sorted(set(pages) - set(names)):
        raise ZoolibError(f"book/{unlisted[0]} is in no part of book/_toc.yml; add it there")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ZoolibError(f"book/_toc.yml names {twice[0]} twice; keep one")
    return [pages[name] for name in names]


def build(notebooks: Sequence[Path], root: Path, folder: Path | None = None) -> Path:
    """Build the static book from the executed notebooks below `folder` (root/build) and return its index.html.

    The finished book replaces the previous one in one step, so a failed build leaves that one as it was. The log is
    book.log in that folder. Raises ZoolibError with the first warning or error of the log.
    """
    folder = folder or root / "build"
    source, target = folder / "book", folder / "book-out"
    fresh, log = target.with_name("book-out.new"), folder / "book.log"
    write_pages(root / "book", source, notebooks)
    shutil.rmtree(fresh, ignore_errors=True)
    command = [
        _jupyter_book(),
        "build",
        str(source),
        "--config",
        str(root / "_config.yml"),
        "--path-output",
        str(fresh),
    ]
    environment = os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    with log.open("w") as file:
        done = subprocess.run([*command, "-W", "--keep-going"], stdin=subprocess.DEVNULL, stdout=file,
                              stderr=subprocess.STDOUT, env=environment, cwd=root)  # fmt: skip
    index = Path("_build/html/index.html")
    if done.returncode or not (fresh / index).is_file():
        raise ZoolibError(f"the book does not build: {_complaint(log.read_text())} (whole log: {log})")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target / index


def _jupyter_book() -> str:
    beside = Path(sys.executable).with_name("jupyter-book")
    command = str(beside) if beside.is_file() else shutil.which("jupyter-book")
    if not command:
        raise ZoolibError(f"jupyter-book is not installed; {INSTALL_BOOK}")
    return command


def _complaint(log: str) -> str:
    """The line of a Sphinx log that says what is wrong."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log.splitlines()]
    for pattern in (r"\b(WARNING|ERROR|SEVERE|CRITICAL):", r"\b\w+(Error|Exception)\b"):
        for line in lines:
            if re.search(pattern, line):
                return line
    return next((line for line in reversed(lines) if line), "no output")
