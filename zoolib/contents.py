"""The notebooks that make a book: with which parameters they run, which records they show, which files they read."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterable
from pathlib import Path

from zoolib import analyses, games, paper_tables, plans
from zoolib.data import manifests
from zoolib.grid import grid
from zoolib.paths import CHECKOUT, results_dir
from zoolib.plans import ANALYSES, CORE, GAMES_CORE, LANDMARK_HUB, RANKED, RESNET50, TARGETS, Plan, planned
from zoolib.results import ResultStore
from zoolib.spec import RunSpec, split_names

#: pages made of committed records, whatever the profile; a page with nothing to show is left out
_ZOO, _HUB = {"hub": "mini-zoo", "profile": "mini"}, {"hub": "mini-hub", "profile": "mini"}
_LAB = {"hub": "mini-zoo", "datasets": "cifar100-novel,tiles,textures,shapes", "profile": "lab"}
_CARS = {"hub": "imagenet-lite", "datasets": "cars", "profile": "lab"}
COMMITTED_PAGES = {
    "cls-digits-resnet50-random": dict(zip(("dataset", "hub", "methods"), RESNET50, strict=True))
    | {"profile": "smoke"},
    "lab": {"datasets": "cifar100,cars", "hub": "imagenet-lite"},
    "table-lab-table2": {"table": "table2_heterogeneous", "hub": "imagenet-lite", "datasets": "cifar100,cars"}
    | {"profile": "lab"},
    "lab-mini-zoo": {key: value for key, value in _LAB.items() if key != "profile"},
    "table-lab-table1": {"table": "table1_homogeneous", **_LAB},
    "table-lab-table5": {"table": "table5_data_dependent", **_LAB},
    "table-lab-table2-mini-hub": {
        "table": "table2_heterogeneous",
        "hub": "mini-hub",
        "datasets": _LAB["datasets"],
        "profile": "lab",
    },
    "table-lab-table5-cars": {"table": "table5_data_dependent", **_CARS},
    "ablation-lab": _LAB,
    "ablation-lab-cars": _CARS,
    "pathways-lab-mini-zoo": _LAB,
    "table-table1-mini-zoo": {"table": "table1_homogeneous", "datasets": ",".join(TARGETS), **_ZOO},
    "table-table5-mini-zoo": {"table": "table5_data_dependent", "datasets": ",".join(TARGETS), **_ZOO},
    "table-table2-mini-hub": {"table": "table2_heterogeneous", "datasets": ",".join(TARGETS), **_HUB},
    "table-table5-mini-hub": {"table": "table5_data_dependent", "datasets": ",".join(TARGETS), **_HUB},
    "table-features-mini-zoo": {"table": "supp_table1_feature_baselines", "focus": "Zoo-Tuning"}
    | {"datasets": "tiles,textures", **_ZOO},
    "ablation-mini-zoo": {"datasets": "tiles,textures", **_ZOO},
    "pathways-mini-zoo": {"datasets": ",".join(TARGETS), **_ZOO},
    "pathways-mini-hub": {"datasets": ",".join(TARGETS), **_HUB},
    "pathways-lab": {"hub": "imagenet-lite", "datasets": "cifar100,cars", "profile": "lab"},
    "cost-resnet50": {"hub": "resnet50-random", "profile": "paper"},
    "cost-mini-zoo": _ZOO,
    "cost-mini-hub": _HUB,
    "tuning": {"datasets": "cars", "hub": "imagenet-lite", "member": "efficientnet_lite0", "profile": "lab"},
    "tuning-novel": {"datasets": "cifar100-novel", "hub": "mini-zoo", "member": "supervised", "profile": "lab"},
    "tuning-mini-zoo": {"datasets": "tiles", "member": "supervised", **_ZOO},
    "choosing": {},
    "rates": {},
    "pretexts": {},
    "targets-mini-zoo": {"hub": "mini-zoo", "profiles": "mini,lab"},
    "targets-mini-hub": {"hub": "mini-hub", "profiles": "mini,lab"},
    "routing": {},
    "ancestry": {},
    f"landmarks-faces68-{LANDMARK_HUB}": {"dataset": "faces68", "hub": LANDMARK_HUB, "methods": "all"}
    | {"profile": "lab", "compute": "false"},
}

#: pages of the papers' tables and analyses, on what every book computes
_HERE = {"hub": "digits-zoo", "datasets": "digits"}
ANALYSIS_PAGES = {
    "table-table1": {"table": "table1_homogeneous", **_HERE},
    "table-table5": {"table": "table5_data_dependent", **_HERE},
    "table-features": {"table": "supp_table1_feature_baselines", "focus": "Zoo-Tuning", **_HERE},
    "ablation": _HERE,
    "pathways": _HERE,
    "cost": {"hub": "digits-zoo"},
}


def pages(profile_name: str) -> dict[str, dict[str, str]]:
    """The notebooks of a profile's book: file stem -> parameters of `python -m zoolib run`."""
    committed = ResultStore(results_dir())
    core = {}
    for entry in CORE[profile_name]:
        plan = Plan(*entry)
        task = manifests.dataset(plan.dataset).task
        name = f"{task}-{plan.dataset}-{plan.hub}"
        core[name] = {"dataset": plan.dataset, "hub": plan.hub, "methods": plan.methods, "profile": profile_name}
        whole = grid(task, plan.dataset, plan.hub, plan.methods, profile_name)
        if plan.seeds and not all(map(committed.has, whole)):  # else the page shows the committed seeds too
            core[name]["seeds"] = str(plan.seeds)
    ranked = {
        f"ranking-{dataset}-{hub}": {"dataset": dataset, "hub": hub, "profile": profile_name}
        for dataset, hub in RANKED[profile_name][: len(CORE[profile_name][:1])]  # it shows every other ranking too
    }
    short = profile_name if GAMES_CORE[profile_name] else "smoke"  # the page's own runs; its long ones are committed
    for game, methods in GAMES_CORE[short]:
        core[f"atari-{game}"] = {"game": game, "methods": games.possible(methods), "profile": short}
    extra = ANALYSIS_PAGES if ANALYSES.get(profile_name) else {}
    optional = {name: {**page, "profile": profile_name} for name, page in extra.items()} | COMMITTED_PAGES
    here = set(planned(profile_name))
    full = {name: page for name, page in optional.items() if _shows_something(name, page, here, committed)}
    return core | _explorers(profile_name) | ranked | full


def _shows_something(page: str, chosen: dict[str, str], here: set[RunSpec], committed: ResultStore) -> bool:
    """Whether the book computes, or the project has committed, a run of those that a page shows."""
    name = page.split("-")[0]
    specs = shown(name, chosen)
    if specs is None:
        return True
    least = 2 if name == "tuning" else 1  # a way to tune says something beside another one
    return len({spec.method for spec in specs if spec in here or committed.has(spec)}) >= least


def shown(name: str, chosen: dict[str, str]) -> list[RunSpec] | None:
    """The runs whose records a page shows; None where it has something to show without any."""
    hub, profile_name, datasets = chosen.get("hub", ""), chosen.get("profile", "lab"), _datasets(chosen)
    if name in ("cls", "landmarks"):
        return grid(name, chosen["dataset"], hub, chosen["methods"], profile_name)
    if name in ("table", "ablation"):
        found = paper_tables.specs_of(chosen.get("table", "table4_ablation"), hub, datasets, profile_name)
        return [spec for specs in found.values() for spec in specs]
    if name in ("lab", "pathways"):
        return analyses.specs_of(hub, datasets, profile_name, {"lab": "all", "pathways": "hub_pathway"}[name])
    if name == "tuning":
        tuned = [s for s in plans.tunings(profile_name) if s.dataset in datasets and s.hub == hub]
        return [spec for spec in tuned if spec.member == chosen["member"]]
    if name == "targets":
        return [spec for part in split_names(chosen["profiles"]) for spec in plans.targets(hub, part)]
    if name == "cost":
        return plans.costs(hub, profile_name)
    studies = {"ancestry": plans.ancestry, "routing": plans.routing, "rates": plans.rate_studies}
    return studies[name]() if name in studies else None


def _datasets(chosen: dict[str, str]) -> list[str]:
    return split_names(chosen.get("datasets", chosen.get("dataset", "")))


def committed_records(page: str, chosen: dict[str, str]) -> list[Path]:
    """The committed records that a page may show: those of its datasets and its hub, or all where it names none."""
    name = page.split("-")[0]
    if name in ("walkthrough", "pretexts"):
        return []
    given = {} if name in ("ranking", "atari") else chosen  # their one case stands beside every other
    task = {"ranking": "cls", "cost": "cost", "atari": games.TASK}.get(name, "*")
    folders = [f"{task}/{dataset}/{given.get('hub', '*')}" for dataset in _datasets(given) or ["*"]]
    return sorted(path for folder in folders for path in results_dir().glob(f"{folder}/*/*.json"))


def _explorers(profile_name: str) -> dict[str, dict[str, str]]:
    """Pages that look into the records of the core: pathways and gates with their widgets, claims, the walk-through."""
    found: dict[str, dict[str, str]] = {}
    for dataset, hub, *_ in CORE[profile_name]:
        if manifests.dataset(dataset).task != "cls":
            continue
        given = {"dataset": dataset, "hub": hub, "profile": profile_name}
        found[f"explore-{dataset}-{hub}"] = given
        if manifests.hub(hub).homogeneous:
            found[f"gating-{dataset}-{hub}"] = given
    steps = {"iterations": "3", "per_class": "8"} if profile_name == "smoke" else {}
    profiles = dict.fromkeys((profile_name, "mini", "lab", "paper"))
    return found | {"walkthrough": steps, "claims": {"profiles": ",".join(profiles)}}


def modules(name: str) -> list[Path]:
    """The sources of zoolib that a notebook imports itself or through another module, in whatever function.

    Methods, which are found by their name as text, are not among them: they change records, not pages.
    """
    document = json.loads((CHECKOUT / "notebooks" / f"{name}.ipynb").read_text())
    lines = [line for cell in document["cells"] if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    found: set[Path] = set()
    waiting = set(_imported(ast.parse("".join(line for line in lines if not line.startswith("%")))))
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= _imports(path) - found
    return sorted(found)


@functools.cache
def _imports(path: Path) -> frozenset[Path]:
    return frozenset(_imported(ast.parse(path.read_text())))


def _imported(tree: ast.Module) -> Iterable[Path]:
    """The files of zoolib behind the imports of a source: modules, and the packages that they are in."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for parts in (name.split(".") for name in names if name.startswith("zoolib")):
            for length in range(1, len(parts) + 1):
                stem = CHECKOUT.joinpath(*parts[:length])
                yield from (path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file())
