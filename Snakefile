# One job per run specification, then the notebooks, then the book. `python -m zoolib workflow` calls it.
import sys
from pathlib import Path

from zoolib import games
from zoolib import workflow as plan
from zoolib.data import manifests
from zoolib.grid import needed
from zoolib.paths import build_dir

PROFILE, WHICH = config["profile"], config["which"]
BUILD = str(build_dir())
SPECS = {spec.stem: spec for spec in plan.planned(PROFILE, WHICH)}
PAGES = plan.pages(PROFILE)
VIEWS = [*Path("zoolib").glob("*.py"), *Path("zoolib/static").iterdir(), *Path("zoolib").glob("*/*.py"), *Path("data_manifests").rglob("*.yaml")]
PUBLISHED = ["reference/paper_results.csv", "reference/claims.yaml"]
HTML = f"{BUILD}/book-out/_build/html/index.html"


def record(spec):
    return f"{BUILD}/records/{spec.stem}.json"


def data_files(spec):
    if spec.task != "cls":
        return []
    manifest = manifests.dataset(spec.dataset)
    folder = manifests.find(manifest) if manifest.source == "canonical" and spec.task != "cost" else None
    return [folder / "train.parquet", folder / "test.parquet"] if folder else []


def inputs(wildcards):
    spec = SPECS[wildcards.stem]
    return [plan.spec_file(spec), f"{BUILD}/code", *data_files(spec), *map(record, needed(spec))]


def page_inputs(wildcards):
    chosen = PAGES[wildcards.page]
    datasets = {chosen.get("dataset"), *chosen.get("datasets", "").split(",")}
    here = [s for s in SPECS.values() if s.hub == chosen.get("hub") and (s.dataset in datasets or s.task == "cost")]
    name = wildcards.page.split("-")[0]
    if name == "ranking":  # it compares the scores of every hub with fine-tuning
        here = [spec for spec in SPECS.values() if spec.method in ("rank", "finetune")]
    if name == "claims":
        here = SPECS.values()
    if name == "atari":  # short runs beside the committed long ones
        here = [spec for spec in SPECS.values() if (spec.dataset, spec.hub) == (chosen["game"], games.HUB)]
    committed = [] if here and name not in ("ranking", "atari") else sorted(Path("results").rglob("*.json"))
    return [f"notebooks/{name}.ipynb", *PUBLISHED, *VIEWS, *committed, *map(record, here)]


def parameters(wildcards):
    return " ".join(f"-p {key} {value}" for key, value in PAGES[wildcards.page].items())


localrules: book, reproduce


rule reproduce:
    input: [record(spec) for spec in SPECS.values()]


rule book:
    input: HTML


rule record:
    input: inputs
    output: BUILD + "/records/{stem}.json"
    params:
        spec=lambda wildcards: str(plan.spec_file(SPECS[wildcards.stem])),
        log=lambda wildcards: f"{BUILD}/logs/{SPECS[wildcards.stem].run_id}.log",
    threads: 1
    shell: "{sys.executable} -m zoolib record {params.spec:q} > {params.log:q} 2>&1"


rule notebook:
    input: page_inputs
    output: BUILD + "/notebooks/{page}.ipynb"
    params:
        name=lambda wildcards: wildcards.page.split("-")[0],
        given=parameters,
        log=lambda wildcards: f"{BUILD}/logs/{wildcards.page}.log",
    threads: 1
    shell: "{sys.executable} -m zoolib run {params.name} {params.given} --output {output:q} > {params.log:q} 2>&1"


rule html:
    input:
        notebooks=[f"{BUILD}/notebooks/{page}.ipynb" for page in PAGES],
        sources=[*VIEWS, "_config.yml", *(path for path in Path("book").rglob("*") if path.is_file())],
    output: HTML
    params:
        log=f"{BUILD}/logs/html.log",
    threads: 1
    shell: "{sys.executable} -m zoolib html {input.notebooks:q} > {params.log:q} 2>&1"
