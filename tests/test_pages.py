"""The generated pages: cards, profiles, the API reference, the table of contents. No torch, no Sphinx."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from zoolib import apidoc, cards, markdown, pages, settings_page
from zoolib.data import manifests
from zoolib.data.schema import DatasetManifest
from zoolib.methods import METHODS
from zoolib.profiles import PROFILES
from zoolib.spec import Settings, ZoolibError

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"


def _notebook(*cells: dict[str, Any]) -> str:
    title = {"cell_type": "markdown", "metadata": {}, "source": ["# Digits, *small* hub"]}
    return json.dumps({"cells": [title, *cells], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def _code(*outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code", "execution_count": 1, "metadata": metadata, "source": ["1"], "outputs": list(outputs)
    }  # fmt: skip


PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}
FAILURE = {"output_type": "error", "ename": "ValueError", "evalue": "no such hub", "traceback": []}


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    path = tmp_path / "cls-digits-small.ipynb"
    path.write_text(_notebook(_code(PICTURE)))
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A copy of the prose without the vendored browser files."""
    target = tmp_path / "prose"
    for path in [*BOOK.rglob("*.md"), BOOK / "_toc.yml", BOOK / "references.bib"]:
        copy = target / path.relative_to(BOOK)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    return target


def _contents(folder: Path) -> list[str]:
    return pages.listed(yaml.safe_load((folder / "_toc.yml").read_text()))


# Cards


@pytest.mark.parametrize("name", sorted(manifests.datasets()))
def test_a_dataset_card_states_every_field_of_its_manifest(name: str) -> None:
    manifest = manifests.dataset(name)
    card = cards.dataset_card(manifest)
    flat = " ".join(card.split())
    for text in (manifest.title, manifest.description, manifest.protocol, manifest.licence, manifest.citation):
        assert " ".join(text.split()) in flat
    for text in (manifest.homepage, f"`{manifest.name}`", manifest.source):
        assert text in card
    assert manifest.landmarks or f"| **classes** | {manifest.num_classes:,} |" in card
    for source in manifest.sources:
        assert source.name in card and (source.huggingface or "") in card
        for file in source.files:
            assert f"`{file.name}`" in card and all(url in card for url in file.urls)
            assert all(digest in card for digest in file.checksums.values())
            assert file.checksums or "not known; the first download or use records its own" in card
    assert all(text in flat for text in (" ".join(text.split()) for text in manifest.differences))
    if manifest.landmarks:
        first, second = manifest.landmarks.normaliser_points
        assert f"points {first} and {second}, counted from 0" in card
        assert card.count("–") >= len(manifest.landmarks.flip_pairs)
    assert f"{manifest.sizes.train:,} train, {manifest.sizes.test:,} test" in card
    assert ("flips are used" in card) == manifest.flip
    assert manifest.paper_column is None or f"`{manifest.paper_column}`" in card
    assert all(digest in card for digest in manifest.sha256.values())
    assert all(f"`{value}`" in card for value in (manifest.of, manifest.apart_from, *manifest.classes) if value)
    assert manifest.source == "embedded" or f"{manifest.folder}/train.parquet" in card
    for variant in manifest.variants:
        assert variant.name in card and " ".join(variant.note.split()) in flat
        assert all(digest in card for digest in variant.sha256.values())
        assert f"{variant.sizes.train:,} train, {variant.sizes.test:,} test" in card


def test_every_picture_of_a_page_is_there_and_every_picture_is_shown(book: Path, tmp_path: Path) -> None:
    pages.write_pages(book, tmp_path / "out", [])
    texts = [path.read_text() for path in (tmp_path / "out/data").glob("*.md")]
    shown = [name for text in texts for name in re.findall(r"^```\{figure\} (\S+)$", text, re.MULTILINE)]
    assert sorted(shown) == sorted(path.name for path in (tmp_path / "out/data").glob("*.jpg")) and len(shown) >= 10


@pytest.mark.parametrize("name", sorted(manifests.hubs()))
def test_a_hub_card_states_every_member_with_its_licence_and_checksum(name: str) -> None:
    manifest = manifests.hub(name)
    card = cards.hub_card(manifest)
    assert manifest.title in card and f"`{manifest.name}`" in card
    for member in manifest.members:
        section = card[card.index(f"### {member.title}") :].split("\n### ")[0]
        assert member.licence in section
        assert (member.sha256 or "") in section and (member.url or "") in section
        assert all(text in section for text in (*member.download, member.prefix, member.entry))
        assert f"`{member.sha256_prefix or member.md5_prefix or ''}`" in section or not member.download
        assert member.weights.partition(":")[2] in section
        row = next(line for line in card.splitlines() if line.startswith(f"| `{member.name}` |"))
        assert (
            member.architecture.split(":")[1] in row and member.pretraining in row and f"{member.num_features:,}" in row
        )


def test_a_heterogeneous_hub_card_names_exactly_the_methods_that_cannot_run() -> None:
    for manifest in manifests.hubs().values():
        card = cards.hub_card(manifest)
        for method in METHODS.values():
            barred = method.homogeneous and not manifest.homogeneous
            named = rf"all but [^;|]*\b{re.escape(method.title)}\b[^;|]*one shared architecture"
            assert bool(re.search(named, card)) == barred


def test_a_hub_card_names_the_methods_that_need_a_classifier_which_no_or_not_every_member_has() -> None:
    needing = [method.title for method in METHODS.values() if method.source_head]
    assert len(needing) == 3
    for manifest in manifests.hubs().values():
        (line,) = [line for line in cards.hub_card(manifest).splitlines() if line.startswith("| **methods** |")]
        headed = [member.title for member in manifest.members if member.source_head]
        whole = len(headed) == len(manifest.members)
        assert all((title in line) != whole for title in needing), manifest.name
        assert (f"for {cards._listed(headed)} alone" in line) == (0 < len(headed) < len(manifest.members))
    for method in METHODS.values():
        row = next(line for line in cards.method_table().splitlines() if line.startswith(f"| `{method.name}` |"))
        assert ("members with a classifier" in row) == method.source_head


def test_a_blank_licence_is_refused_with_the_name_of_the_manifest() -> None:
    data = manifests.dataset("digits").model_copy(update={"licence": "  "})
    with pytest.raises(ZoolibError, match=r"'digits' states no licence; add one"):
        cards.dataset_card(data)
    hub = manifests.hub("imagenet-lite")
    member = hub.members[1].model_copy(update={"licence": ""})
    with pytest.raises(ZoolibError, match=f"{member.name!r} of hub 'imagenet-lite' states no licence"):
        cards.hub_card(hub.model_copy(update={"members": [hub.members[0], member]}))


def test_a_manifest_file_without_a_licence_is_refused_with_file_and_field(tmp_path: Path) -> None:
    content = manifests.dataset("digits").model_dump(mode="json", exclude={"licence"})
    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ZoolibError, match=r"digits\.yaml: licence: "):
        manifests.read(path, DatasetManifest)


def test_a_pipe_or_a_line_break_in_a_cell_does_not_break_the_table() -> None:
    text = markdown.table(("a", "b"), [("x|y", "one\ntwo")])
    assert text.splitlines()[-1] == "| x\\|y | one two |"
    assert len(text.splitlines()) == 3


# Profiles


def test_the_profiles_page_has_one_row_for_each_setting_with_every_value_and_a_meaning() -> None:
    page = settings_page.page()
    for field in dataclasses.fields(Settings):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{field.name}` |"))
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 2 + len(PROFILES) and cells[-1], row
        paper = getattr(PROFILES["paper"].settings, field.name)
        for cell, profile in zip(cells[1:-1], PROFILES.values(), strict=True):
            assert cell.startswith("**") == (getattr(profile.settings, field.name) != paper), row


def test_the_profiles_page_states_every_exception() -> None:
    page = settings_page.page()
    for profile in PROFILES.values():
        for name, changes in [*profile.datasets.items(), *profile.options.items()]:
            rows = [line for line in page.splitlines() if line.startswith("|") and f" `{name}` " in line]
            assert any(all(f"`{key}`" in row for key in changes) for row in rows), (profile.name, name)


# The API reference


def test_the_api_reference_documents_every_public_name_of_every_module() -> None:
    written = pages.api_pages()
    for module in apidoc.modules(ROOT / "zoolib"):
        public = [
            node.name
            for node in module.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        ]
        page = written.get(f"{module.name}.md", "")
        for name in public:
            assert re.search(rf"\{{py:(class|function)\}} {name}\b", page), f"{module.name}.{name}"


def test_docstring_text_keeps_its_code_and_escapes_what_markdown_would_read() -> None:
    assert apidoc.prose("sum_i a_i of `x_i` <b>") == "sum\\_i a\\_i of `x_i` &lt;b>"
    assert apidoc.prose("cost $1, [M](x)") == "cost \\$1, \\[M\\](x)"


def test_a_source_that_holds_a_fence_gets_a_longer_fence() -> None:
    assert apidoc.code_block('"""```"""').startswith("````{code-block}")


def test_fields_carry_their_comments() -> None:
    source = "class A:\n    size: int = 3  # pixels\n    name: str\n    _hidden: int = 0\n"
    module = apidoc.Module("m", source, ast.parse(source), {2: "pixels"})
    found = apidoc.fields(module, apidoc.find_class(module, "A"))
    assert found == [apidoc.Field("size", "int", "3", "pixels"), apidoc.Field("name", "str", "", "")]


# Notebooks


def test_a_failed_notebook_never_reaches_the_book(tmp_path: Path) -> None:
    path = tmp_path / "bad.ipynb"
    path.write_text(_notebook(_code(FAILURE)))
    with pytest.raises(ZoolibError, match=r"bad\.ipynb: execution failed with ValueError: no such hub"):
        pages.notebook(path)


def test_a_notebook_that_was_never_executed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "idle.ipynb"
    path.write_text(_notebook({**_code(), "execution_count": None}))
    with pytest.raises(ZoolibError, match="never executed"):
        pages.notebook(path)


def test_a_half_written_notebook_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "half.ipynb"
    path.write_text(_notebook(_code(PICTURE))[:40])
    with pytest.raises(ZoolibError, match=r"half\.ipynb: not a notebook"):
        pages.notebook(path)


def test_a_picture_without_a_description_is_described_by_the_heading_above_it(tmp_path: Path) -> None:
    described = _code(PICTURE)
    described["metadata"]["mystnb"] = {"image": {"alt": "Bars"}, "figure": {"caption": "Accuracy"}}
    captioned = _code(PICTURE)
    captioned["metadata"]["mystnb"] = {"figure": {"caption": "Loss\nover steps"}}
    path = tmp_path / "pictures.ipynb"
    path.write_text(_notebook(_code(PICTURE), described, captioned))
    title, content = pages.notebook(path)
    assert title == "Digits, small hub"
    alts = [cell["metadata"]["mystnb"]["image"]["alt"] for cell in content["cells"][1:]]
    assert alts == ["Figure: Digits, *small* hub", "Bars", "Loss over steps"]


def test_a_page_folds_the_parameters_that_it_ran_with_and_leaves_out_the_defaults_that_it_did_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "parameters.ipynb"
    defaults = _code(tags=("parameters", "hide-input"))
    for cells, expected in (
        ([defaults, _code(tags=("injected-parameters",)), _code()], [["remove-input"], ["hide-input"], []]),
        ([defaults, _code()], [["hide-input"], []]),
    ):
        path.write_text(_notebook(*cells))
        shown = pages.notebook(path)[1]["cells"][1:]
        found = [[tag for tag in cell["metadata"]["tags"] if tag.endswith("-input")] for cell in shown]
        assert found == expected
        prompts = [cell["metadata"].get("mystnb", {}).get("code_prompt_show") for cell in shown]
        assert prompts == ["Show the parameters of this page" if tags == ["hide-input"] else None for tags in expected]


# The table of contents


def test_the_contents_list_every_page_that_exists_and_no_other(book: Path, executed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = pages.write_pages(book, out, [executed])
    named = _contents(out)
    on_disk = {p.relative_to(out).with_suffix("").as_posix() for p in out.rglob("*") if p.suffix in (".md", ".ipynb")}
    assert set(named) == on_disk and len(named) == len(set(named)) == len(written)
    assert named[0] == "index" and "results/cls-digits-small" in named
    for name in manifests.datasets():
        assert f"data/{name}" in named
    for name in manifests.hubs():
        assert f"hubs/{name}" in named


def test_the_source_tree_stays_as_it_was(book: Path, executed: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in book.rglob("*") if path.is_file()}
    pages.write_pages(book, tmp_path / "out", [executed])
    assert {path: path.read_bytes() for path in book.rglob("*") if path.is_file()} == before


def test_without_notebooks_the_results_page_says_not_run(book: Path, executed: Path, tmp_path: Path) -> None:
    pages.write_pages(book, tmp_path / "none", [])
    assert "**not run**.\n" in (tmp_path / "none/results/index.md").read_text()
    pages.write_pages(book, tmp_path / "one", [executed])
    text = (tmp_path / "one/results/index.md").read_text()
    assert "[Digits, small hub](cls-digits-small.ipynb)" in text and "No notebook was executed" not in text


def test_results_come_in_the_order_in_which_they_were_given(book: Path, tmp_path: Path) -> None:
    given = [tmp_path / f"{stem}.ipynb" for stem in ("zebra", "ant", "lion")]
    for path in given:
        path.write_text(_notebook(_code(PICTURE)))
    pages.write_pages(book, tmp_path / "out", given)
    found = [name for name in _contents(tmp_path / "out") if name.startswith("results/")]
    assert found == ["results/index", "results/zebra", "results/ant", "results/lion"]


def test_results_stand_in_the_part_of_their_kind_and_a_part_without_pages_is_left_out(
    book: Path, tmp_path: Path
) -> None:
    given = [tmp_path / f"{stem}.ipynb" for stem in ("explore-digits", "mine", "cls-digits")]
    for path in given:
        path.write_text(_notebook(_code(PICTURE)))
    pages.write_pages(book, tmp_path / "out", given)
    parts = {p["caption"]: p["chapters"] for p in yaml.safe_load((tmp_path / "out/_toc.yml").read_text())["parts"]}
    results = [c["file"] for c in parts["Results"]]
    assert results == ["results/index", "results/cls-digits", "results/mine", "records"]
    assert [c["file"] for c in parts["Look inside"]] == ["results/explore-digits"]
    assert "Choose and tune" not in parts and all(parts.values())
    listed = re.findall(r"^\*\*.*\*\*$|\((.*)\.ipynb\)", (tmp_path / "out/results/index.md").read_text(), re.MULTILINE)
    assert listed == ["", "cls-digits", "mine", "", "explore-digits"]  # below **Results**, below **Look inside**


def test_a_page_of_an_earlier_build_does_not_survive(book: Path, executed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pages.write_pages(book, out, [executed])
    pages.write_pages(book, out, [])
    assert not (out / "results/cls-digits-small.ipynb").exists()


def test_prose_that_no_part_names_is_an_error(book: Path, tmp_path: Path) -> None:
    (book / "methods/lonely.md").write_text("# Lonely\n")
    with pytest.raises(ZoolibError, match=r"book/methods/lonely is in no part of book/_toc\.yml; add it there"):
        pages.write_pages(book, tmp_path / "out", [])


def test_a_named_page_that_does_not_exist_is_an_error(book: Path, tmp_path: Path) -> None:
    (book / "quickstart.md").unlink()
    with pytest.raises(ZoolibError, match="names quickstart, which does not exist"):
        pages.write_pages(book, tmp_path / "out", [])


def test_every_method_has_a_page_that_links_its_module() -> None:
    text = "\n".join(path.read_text() for path in (BOOK / "methods").glob("*.md"))
    for card in METHODS.values():
        assert f"../api/{card.recipe.split(':')[0]}.md" in text, card.name


def test_prose_names_no_other_host_than_the_example_and_the_pages_need_no_network() -> None:
    for path in BOOK.rglob("*.md"):
        hosts = set(re.findall(r"https?://([^/\s)>`\"]+)", path.read_text()))
        if path.name != "setup-dependencies.md":
            assert hosts <= {"example.org"}, path


# The build


def test_a_complaint_is_the_first_warning_of_the_log_without_colours() -> None:
    log = "reading sources\n\x1b[91m/b/x.md:3: WARNING: target not found\x1b[39m\nRuntimeError: no\n"
    assert pages._complaint(log) == "/b/x.md:3: WARNING: target not found"
    assert pages._complaint("fine\nValueError: bad toc\n") == "ValueError: bad toc"
    assert pages._complaint("") == "no output"


def test_a_failed_build_names_the_line_and_leaves_the_previous_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "jupyter-book"
    tool.write_text("#!/bin/sh\necho '/b/x.md:3: WARNING: broken link'\nexit 1\n")
    tool.chmod(0o755)
    previous = tmp_path / "build/book-out/_build/html/index.html"
    previous.parent.mkdir(parents=True)
    previous.write_text("previous")
    monkeypatch.setattr(pages, "_jupyter_book", lambda: str(tool))
    monkeypatch.setattr(pages, "write_pages", lambda *_: [])
    with pytest.raises(ZoolibError, match=r"does not build: /b/x\.md:3: WARNING: broken link"):
        pages.build([], tmp_path)
    assert previous.read_text() == "previous"


def test_pages_are_written_without_torch_and_without_a_notebook_package() -> None:
    code = (
        "import sys, zoolib.pages as p; p.api_pages(); p.settings_page.page(); "
        "print([m for m in ('torch', 'timm', 'sphinx', 'nbformat', 'papermill', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
