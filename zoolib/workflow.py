"""`make book` and `make reproduce`: write the specifications down, let Snakemake run them, show how far it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from zoolib import analyses, experiment, games, paper_tables, plans, runtime
from zoolib.data import manifests
from zoolib.files import atomic
from zoolib.grid import grid
from zoolib.methods import METHODS
from zoolib.paths import CHECKOUT, build_dir, results_dir
from zoolib.plans import ANALYSES, CORE, GAMES_CORE, LANDMARK_HUB, RANKED, RESNET50, TARGETS, Plan, planned
from zoolib.profiles import profile
from zoolib.results import ResultStore
from zoolib.spec import RunSpec, ZoolibError

#: profiles whose runs take seconds
SHORT = ("smoke", "mini")

#: pages made of committed records, whatever the profile; a page with nothing to show is left out
_ZOO, _HUB = {"hub": "mini-zoo", "profile": "mini"}, {"hub": "mini-hub", "profile": "mini"}
COMMITTED_PAGES = {
    "cls-digits-resnet50-random": dict(zip(("dataset", "hub", "methods"), RESNET50, strict=True))
    | {"profile": "smoke"},
    "lab": {"datasets": "cifar100,cars", "hub": "imagenet-lite"},
    "table-lab-table2": {"table": "table2_heterogeneous", "hub": "imagenet-lite", "datasets": "cifar100,cars"}
    | {"profile": "lab"},
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


def write_changed(path: Path, text: str) -> None:
    """Write a file only where its content changes, so that its time tells the workflow what is new."""
    if not path.is_file() or path.read_text() != text:
        with atomic(path) as file:
            file.write(text.encode())


def spec_file(spec: RunSpec) -> Path:
    """The file that hands a specification to the job that computes it."""
    return build_dir() / "specs" / f"{spec.run_id}.json"


def batches(specs: Sequence[RunSpec]) -> dict[str, list[RunSpec]]:
    """The jobs of a plan: name -> runs, in an order in which every run follows those it needs.

    The runs of a short profile on one dataset, hub and seed share one process, because loading the libraries takes
    longer than many of them; a run of a long profile has a process, and on a cluster a machine, of its own.
    """
    found: dict[str, list[RunSpec]] = {}
    for spec in specs:
        parts = (spec.profile, spec.task, spec.dataset, spec.hub, str(spec.seed))
        shared_by = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))
        found.setdefault(shared_by if spec.profile in SHORT else spec.run_id, []).append(spec)
    return found


def stamp(batch: str) -> Path:
    """The file that says that every run of a batch has a valid record."""
    return build_dir() / "batches" / batch


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
    specs = shown(page.split("-")[0], chosen)
    return specs is None or not here.isdisjoint(specs) or any(map(committed.has, specs))


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
        return [spec for part in chosen["profiles"].split(",") for spec in plans.targets(hub, part)]
    if name == "cost":
        return plans.costs(hub, profile_name)
    studies = {"ancestry": plans.ancestry, "routing": plans.routing, "rates": plans.rate_studies}
    return studies[name]() if name in studies else None


def _datasets(chosen: dict[str, str]) -> list[str]:
    return paper_tables.split(chosen.get("datasets", chosen.get("dataset", "")))


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


def prepare(profile_name: str, which: str) -> list[RunSpec]:
    """Write down the plan and the fingerprint of the code; return the plan."""
    specs = planned(profile_name, which)
    (build_dir() / "logs").mkdir(parents=True, exist_ok=True)
    for spec in specs:
        write_changed(spec_file(spec), json.dumps(spec.to_dict(), indent=1))
    write_changed(build_dir() / "code", runtime.code_fingerprint())
    store = ResultStore.default().computed()
    for batch, runs in batches(specs).items():
        if experiment.missing(runs, store):  # a record was removed, or comes from other code or data
            stamp(batch).unlink(missing_ok=True)
    return specs


def run(target: str, profile_name: str, cores: int = 0) -> None:
    """Bring "book" or "reproduce" up to date. Raises ZoolibError with the first failed job's own words."""
    profile(profile_name)
    which = "core" if target == "book" else "all"
    specs = prepare(profile_name, which)
    cores = cores or os.cpu_count() or 1
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile"), "--cores", str(cores)]
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "--directory", str(CHECKOUT)]
    longest = max(batches(specs).items(), key=lambda item: sum(map(steps, item[1])), default=("", []))[0]
    command += ["--prioritize", str(stamp(longest))] if longest else []  # alone at the end it would leave cores idle
    command += ["--config", f"profile={profile_name}", f"which={which}", "--", target]
    log = build_dir() / "workflow.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    one_thread = {
        name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ZOOLIB_THREADS")
    }
    began = time.time()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=os.environ | one_thread
        )
        try:
            _watch(process, specs, began)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise ZoolibError(f"{target} stopped: {_reason(log, began)}")
    if target == "reproduce":
        tidy(specs)


def tidy(specs: Sequence[RunSpec]) -> None:
    """Remove the weights that runs kept for others, when a whole plan is recorded; logits are small and stay."""
    for spec in specs:
        for path in (build_dir() / "work" / spec.run_id).glob("*.safetensors"):
            path.unlink()


def steps(spec: RunSpec) -> int:
    """The training iterations of a run, or the steps that its agent takes in a game; 0 where nothing is trained."""
    if spec.task == games.TASK:
        return int(spec.settings.steps) if spec.method != "random" else 0
    return int(spec.settings.iterations) if METHODS[spec.method].trains else 0


def _watch(process: subprocess.Popen[bytes], specs: Sequence[RunSpec], began: float) -> None:
    """A progress bar in training iterations over all runs, fed by the notes that the jobs leave."""
    from tqdm import tqdm

    total = {spec.run_id: steps(spec) for spec in specs if steps(spec)}
    form = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}] {postfix}"
    interval = 0.5 if sys.stderr.isatty() else 15.0
    with tqdm(total=sum(total.values()), desc="runs", bar_format=form, mininterval=interval) as bar:
        while process.poll() is None:
            time.sleep(min(interval, 1.0))
            notes = {run_id: read_progress(run_id, began) for run_id in total}
            done = {spec.run_id for spec in specs if _recorded(spec) and notes.get(spec.run_id, (0, ""))[0] == 0}
            taken = {run_id: total[run_id] if run_id in done else notes[run_id][0] for run_id in total}
            running = [notes[i][1] for i in total if 0 < taken[i] < total[i]]
            bar.set_postfix_str("; ".join(running) or _stage(sum(taken.values()), sum(total.values())), refresh=False)
            bar.update(sum(taken.values()) - bar.n)


def _stage(steps: int, total: int) -> str:
    return "starting" if steps < total else "pages"


def _recorded(spec: RunSpec) -> bool:
    return (build_dir() / "records" / f"{spec.stem}.json").is_file()


def note_progress(spec: RunSpec, done: int) -> None:
    """Say how far a run is, for whoever watches."""
    path = build_dir() / "progress" / spec.run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{done} {spec.label}")


def read_progress(run_id: str, since: float) -> tuple[int, str]:
    """Iterations done and the label of a run that has said something since then; 0 and "" otherwise."""
    path = build_dir() / "progress" / run_id
    try:
        if path.stat().st_mtime < since:
            return 0, ""
        done, _, label = path.read_text().partition(" ")
        return int(done or 0), label
    except (OSError, ValueError):
        return 0, ""


def _reason(log: Path, began: float) -> str:
    """What the first failed job said last, else the workflow's own last line; always with the log to read on."""
    failed = sorted((build_dir() / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in failed:
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        if path.stat().st_mtime >= began and lines and lines[-1].startswith("zoolib: "):
            return lines[-1].removeprefix("zoolib: ")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return f"{(errors or lines or ['no output'])[-1]} (whole log: {log})"
