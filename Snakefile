# One job for each batch of run specifications, then the notebooks, then the book. `python -m zoolib workflow` calls it.
import sys
from pathlib import Path

from zoolib import contents, games
from zoolib import workflow as plan
from zoolib.data import manifests
from zoolib.grid import needed
from zoolib.paths import build_dir

PROFILE, WHICH = config["profile"], config["which"]
BUILD = str(build_dir())
SPECS = plan.planned(PROFILE, WHICH)
BATCHES = plan.batches(SPECS)
BATCH = {spec.run_id: name for name, specs in BATCHES.items() for spec in specs}
PAGES = contents.pages(PROFILE)
SHARED = [*Path("zoolib/static").iterdir(), *Path("data_manifests").rglob("*.yaml"), *Path("reference").iterdir()]
SOURCES = [*SHARED, *Path("zoolib").rglob("*.py"), Path("_config.yml"), *Path("results").rglob("*.json"), *Path("book").rglob("*")]
HTML = f"{BUILD}/book-out/_build/html/index.html"


def behind(name, files):
    """One input in the place of many: Snakemake looks at each input of every waiting job many times a minute."""
    path = build_dir() / "inputs" / name
    plan.write_changed(path, plan.listing(files))
    return str(path)


def done(specs):
    """The stamps of the batches that compute some runs."""
    return sorted({str(plan.stamp(BATCH[spec.run_id])) for spec in specs})


def data_files(spec):
    if spec.task != "cls":
        return []
    manifest = manifests.dataset(spec.dataset)
    folder = manifests.find(manifest) if manifest.source == "canonical" and spec.task != "cost" else None
    return [folder / "train.parquet", folder / "test.parquet"] if folder else []


def inputs(wildcards):
    specs = BATCHES[wildcards.batch]
    before = [other for spec in specs for other in needed(spec) if BATCH[other.run_id] != wildcards.batch]
    return [f"{BUILD}/code", *(path for spec in specs for path in data_files(spec)), *done(before)]


def page_inputs(wildcards):
    chosen = PAGES[wildcards.page]
    datasets = {chosen.get("dataset", ""), *chosen.get("datasets", "").split(",")} - {""}
    here = [s for s in SPECS if s.hub == chosen.get("hub") and (not datasets or s.dataset in datasets)]
    name = wildcards.page.split("-")[0]
    if name == "cost":
        here = [spec for spec in here if spec.task == "cost"]
    if name == "ranking":  # it compares the scores of every hub with fine-tuning
        here = [spec for spec in SPECS if spec.method in ("rank", "finetune")]
    if name in ("claims", "choosing"):
        here = SPECS
    if name == "atari":  # short runs beside the committed long ones
        here = [spec for spec in SPECS if (spec.dataset, spec.hub) == (chosen["game"], games.HUB)]
    committed = contents.committed_records(wildcards.page, chosen)
    sources = [Path(f"notebooks/{name}.ipynb"), Path("zoolib/notebooks.py"), *contents.modules(name)]
    return [behind(wildcards.page, [*sources, *SHARED, *committed]), *done(here)]


def parameters(wildcards):
    return " ".join(f"-p {key} {value}" for key, value in PAGES[wildcards.page].items())


localrules: book, reproduce


rule reproduce:
    input: done(SPECS)


rule book:
    input: HTML


rule batch:
    input: inputs
    output: touch(BUILD + "/batches/{batch}")
    params:
        specs=lambda wildcards: [str(plan.spec_file(spec)) for spec in BATCHES[wildcards.batch]],
        log=lambda wildcards: f"{BUILD}/logs/{wildcards.batch}.log",
    priority: 1  # the pages that need no run wait
    threads: 1
    shell: "{sys.executable:q} -m zoolib record {params.specs:q} > {params.log:q} 2>&1"


rule notebook:
    input: page_inputs
    output: BUILD + "/notebooks/{page}.ipynb"
    params:
        name=lambda wildcards: wildcards.page.split("-")[0],
        given=parameters,
        log=lambda wildcards: f"{BUILD}/logs/{wildcards.page}.log",
    threads: 1
    shell: "{sys.executable:q} -m zoolib run {params.name} {params.given} --output {output:q} > {params.log:q} 2>&1"


rule html:
    input:
        notebooks=[f"{BUILD}/notebooks/{page}.ipynb" for page in PAGES],
        sources=behind("html", [path for path in SOURCES if path.is_file()]),
    output: HTML
    params:
        log=f"{BUILD}/logs/html.log",
    threads: 1
    shell: "{sys.executable:q} -m zoolib html {input.notebooks:q} > {params.log:q} 2>&1"
