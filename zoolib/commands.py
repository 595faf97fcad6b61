"""What each sub-command of the command line does."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoolib import games, notebooks
from zoolib.data import manifests
from zoolib.data.schema import DatasetManifest, HubManifest
from zoolib.methods import METHODS
from zoolib.paths import CHECKOUT, build_dir, data_roots
from zoolib.profiles import PROFILES, profile
from zoolib.spec import INSTALL_BOOK, RunSpec, ZoolibError, unknown

if TYPE_CHECKING:
    from zoolib.experiment import Report


def _note(line: str) -> None:
    print(line, file=sys.stderr)


def _things(names: Sequence[str]) -> list[DatasetManifest | HubManifest]:
    """Datasets and hubs by name. Raises ZoolibError listing both for an unknown one."""
    found: list[DatasetManifest | HubManifest] = []
    for name in names:
        known = {**manifests.datasets(), **manifests.hubs()}
        if name not in known and not name.endswith((".yaml", ".yml")) and name not in manifests.own():
            raise unknown("dataset or hub", name, {*known, *manifests.own()})
        is_hub = name in manifests.hubs() or (name not in known and manifests.is_hub(name))
        found.append(manifests.hub(name) if is_hub else manifests.dataset(name))
    return found


def _own(given: dict[str, str]) -> dict[str, str]:
    """Parameters in which a YAML of your own images is replaced by its dataset's name, imported where needed."""
    if given.get("dataset", "").endswith((".yaml", ".yml")):
        from zoolib.data.own import ensure

        return {**given, "dataset": ensure(given["dataset"])}
    return given


def import_own(args: argparse.Namespace) -> None:
    """Make a dataset of your own images."""
    from zoolib.data.own import import_data

    path, root = Path(args.path), Path(args.into).expanduser() if args.into else None
    changes = {
        key: getattr(args, key) for key in ("name", "title", "licence", "test") if getattr(args, key) is not None
    }
    if args.no_flip:
        changes["flip"] = False
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ZoolibError(f"{path}: no such file")
        own = manifests.own_data(path)
        if own is None:
            raise ZoolibError(f"{path}: it names no path of images; add one")
        done = import_data(manifests.parse(own.model_dump() | changes), root, path.parent)
    else:
        done = import_data(manifests.parse({"path": args.path, **changes}), root)
    sizes = ", ".join(f"{count:,} {split}" for split, count in done.counts.items() if count)
    print(f"{done.manifest.name}: {done.manifest.num_classes} classes, {sizes}")
    for note in done.notes:
        print(f"{done.manifest.name}: note: {note}")
    print(f"{done.folder}\nuse it: {_finding(root)}python -m zoolib run cls -p dataset {done.manifest.name}")


def _finding(root: Path | None) -> str:
    """What to write before a command so that it finds what was put below `root`; "" where it does anyway."""
    roots = [known.resolve() for known in data_roots()]
    if root is None or root.resolve() in roots:
        return ""
    return f"ZOOLIB_DATA={shlex.quote(os.pathsep.join(map(str, [root.resolve(), *roots[:-1]])))} "


def fetch(args: argparse.Namespace) -> None:
    """Download and verify datasets and the weights of hubs."""
    from zoolib.data import fetch

    root = Path(args.into).expanduser() if args.into else None
    for item in _things(args.names):
        if isinstance(item, DatasetManifest):
            places = [fetch.fetch(item, root, _note)]
            print(f"{fetch.verify(item, places[0])}: {places[0]}")
        else:
            places = []
            for member in item.members:
                if fetch.weights_name(member):
                    places.append(fetch.fetch_weights(member, root, _note))
                    print(places[-1])
                else:
                    print(f"{item.name}: {member.name}: {member.weights}, nothing to fetch")
        if root and not all(place.resolve().is_relative_to(root.resolve()) for place in places):
            print(f"{item.name}: note: it was here already, so {root} was left as it is")
        elif places and (there := _finding(root)):
            print(f"use it: {there}before a command")


def verify(args: argparse.Namespace) -> None:
    """Check that datasets are unchanged and that weights load."""
    from zoolib.data import fetch

    for item in _things(args.names):
        if isinstance(item, DatasetManifest):
            print(fetch.verify(item))
            continue
        from zoolib.hub import build, check_features

        for member in item.members:
            check_features(build(member), member)
            print(f"{item.name}: {member.name}: its weights fit {member.architecture}")


def list_known(args: argparse.Namespace) -> None:
    """Print what exists, by kind."""
    from zoolib import origins
    from zoolib.data import fetch

    sets = {**manifests.datasets(), **manifests.own()}
    tables = {
        "datasets": {name: f"{origins.state(item):<10} {item.title}" for name, item in sets.items()},
        "hubs": {
            name: f"{fetch.hub_state(item):<10} {item.title} ({len(item.members)} models)"
            for name, item in manifests.hubs().items()
        },
        "methods": {name: item.summary for name, item in METHODS.items()},
        "games": {name: item.title for name, item in games.GAMES.items()},
        "game methods": {name: item.summary for name, item in games.METHODS.items()},
        "profiles": {name: item.description for name, item in PROFILES.items()},
        "notebooks": {
            name: ", ".join(f"{key}={value!r}" for key, value in notebooks.defaults(path).items())
            for name, path in notebooks.available().items()
        },
    }
    if args.what and args.what not in tables:
        raise unknown("list", args.what, tables)
    for heading, rows in tables.items():
        if args.what in (None, heading):
            print(f"{heading}:")
            for name, text in rows.items():
                print(f"  {name:<18} {text}")


def _given(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    return {name: value for name, value in pairs}


def _threads() -> None:
    if threads := os.environ.get("ZOOLIB_THREADS"):
        import torch

        if not threads.isdecimal() or int(threads) < 1:
            raise ZoolibError(f"ZOOLIB_THREADS is {threads!r}; use a number of threads, such as 1")
        torch.set_num_threads(int(threads))


def run(args: argparse.Namespace) -> None:
    """Compute the runs that a notebook lacks, then execute it."""
    chosen = notebooks.parameters(args.notebook, _own(_given(args.parameters)))
    specs = notebooks.specs_of(args.notebook, chosen)
    if specs:
        _complete(specs)
    if args.records_only or not notebooks.has_papermill():
        from zoolib.results import ResultStore

        if not args.records_only:
            if not specs:  # a page that only reads: without papermill nothing was done
                raise ZoolibError(f"papermill is not installed, so {args.notebook} was not executed; {INSTALL_BOOK}")
            print("papermill is not installed: the records are complete, no notebook was executed", file=sys.stderr)
        store = ResultStore.default()
        here = sum((store.write_root / f"{spec.stem}.json").is_file() for spec in specs)
        committed = f", {len(specs) - here} committed" if here < len(specs) else ""
        print(f"{here} records below {store.write_root}{committed}")
        return
    output = Path(args.output) if args.output else notebooks.output_path(args.notebook, chosen)
    print(notebooks.execute(args.notebook, chosen, output))


def _complete(specs: Sequence[RunSpec]) -> None:
    """Compute what has no record; loads pandas, which a page that only reads records does without until its kernel."""
    from zoolib import experiment
    from zoolib.results import ResultStore

    store = ResultStore.default()
    todo = experiment.missing(specs, store)
    experiment.require(todo)
    if todo:
        _threads()
        print(f"{len(todo)} of {len(specs)} runs have no record yet; computing them", file=sys.stderr)
    experiment.complete(specs, store)


def table(args: argparse.Namespace) -> None:
    """Print the classification table of the records that exist."""
    from zoolib import experiment, provenance, reference, tables
    from zoolib.results import ResultStore

    chosen = notebooks.parameters("cls", _given(args.parameters))
    specs, store = notebooks.specs_of("cls", chosen), ResultStore.default()
    published = reference.beside(chosen["dataset"], chosen["hub"])
    table = tables.compare(store.frame(specs), published, specs=specs)
    print(tables.text(table).to_string())
    print(f"\n{provenance.summary(store.records(specs))}" if experiment.missing(specs, store) != specs else "\nnot run")


def rank(args: argparse.Namespace) -> None:
    """Score every model of a hub on a dataset."""
    from zoolib import experiment, provenance, rankings
    from zoolib.results import ResultStore

    dataset = _own({"dataset": args.dataset})["dataset"]
    specs, store = experiment.grid("cls", dataset, args.hub, ["rank"], args.profile, 1), ResultStore.default()
    if experiment.missing(specs, store):
        _threads()
    experiment.rank(args.hub, dataset, args.profile, store)
    print(rankings.text(rankings.table(store.frame(specs))).to_string())
    print(f"\n{provenance.summary(store.records(specs))}")


def claims(args: argparse.Namespace) -> None:
    """Test the papers' claims against the records of a profile."""
    from zoolib import claims
    from zoolib.results import ResultStore

    found = claims.verdicts(ResultStore.default(), args.profile)
    if args.only and args.only not in (known := {v.claim.id for v in found}):
        raise unknown("claim", args.only, known)
    for verdict in found:
        if args.only in ("", verdict.claim.id):
            print(f"{verdict.verdict:<14} {verdict.claim.id}: {verdict.claim.claim}")
            print(f"{'':<14} here: {claims.effect_text(verdict)}; paper: {claims.paper_number(verdict.claim)}")
            for case, value in zip(verdict.effects.cases, verdict.effects.values, strict=True) if args.only else ():
                print(f"{'':<14} {value:+.3f} {case}")
    print(f"\n{args.profile}: {claims.headline(found)}")


def record(args: argparse.Namespace) -> None:
    """Compute the run specifications that have no valid record."""
    from zoolib import experiment
    from zoolib.results import ResultStore
    from zoolib.workflow import note_progress

    specs = []
    for name in args.specs:
        try:
            specs.append(RunSpec.from_dict(json.loads(Path(name).read_text())))
        except (OSError, ValueError) as error:
            raise ZoolibError(f"{name}: not a specification file ({error})") from None
    _threads()
    store = ResultStore.default()
    for spec in specs:
        if experiment.missing([spec], store.computed()):  # a committed record does not stand for this run
            experiment.run(spec, store, _reporter(note_progress))


def _reporter(note: object) -> Report:
    last = [0.0]

    def report(spec: RunSpec, done: int, total: int, word: str) -> None:
        if done == total or time.monotonic() - last[0] > 1:
            last[0] = time.monotonic()
            note(spec, done)  # type: ignore[operator]

    return report


def workflow(args: argparse.Namespace) -> None:
    """Bring the book, or every record of a profile, up to date."""
    from zoolib import workflow

    workflow.run(args.target, args.profile, args.cores)
    print(build_dir() / "book-out/_build/html/index.html" if args.target == "book" else "every record is there")


def html(args: argparse.Namespace) -> None:
    """Build the static book."""
    from zoolib import pages

    print(pages.build([Path(path) for path in args.notebooks], CHECKOUT, build_dir()))


def pretrain(args: argparse.Namespace) -> None:
    """Make a packaged hub again."""
    from tqdm import tqdm

    if args.hub == games.HUB:
        return _pretrain_policies(args.member)
    from zoolib.pretraining import pretrain, require

    require(args.hub, args.member)
    _threads()
    with tqdm(unit="step") as bar:

        def progress(member: str, done: int, total: int, word: str) -> None:
            if done < bar.n:  # the next member
                bar.reset()
            bar.total = total
            bar.set_postfix_str(f"{member} {word}", refresh=False)
            bar.update(done - bar.n)

        notes = pretrain(args.hub, args.member, progress=progress)
    for note in notes:
        line = f"{note['metric']} {note['value']:.1f}, {note['baseline_name']} {note['baseline']:.1f}"
        print(f"{note['member']}: {line}; sha256 {note['sha256']}")


def _pretrain_policies(member: str) -> None:
    from zoolib import experiment
    from zoolib.results import ResultStore
    from zoolib.rl import sources

    # A committed record does not stand for a run here: its policy is where it was made.
    specs, store = sources.specs(member), ResultStore.default().computed()
    _threads()
    experiment.complete(specs, store, kept=games.POLICY)
    for note in sources.ship(specs, store, experiment.work_dir):
        print(f"{note['game']}: score {note['score']:.0f}, random {note['random_score']:.0f}")


def adopt(args: argparse.Namespace) -> None:
    """Copy recomputed records to results/."""
    from zoolib.results import ResultStore

    if not (CHECKOUT / "pyproject.toml").is_file():
        raise ZoolibError(
            "adopt writes into a checkout's results/, and this is an installed package; run it in a checkout"
        )
    results = CHECKOUT / "results"
    paths = ResultStore.default().adopt(profile(args.profile).name, results)
    print(f"{len(paths)} records copied to {results}")
    for sentence in ResultStore(results).mixed():
        print(f"note: {sentence}; adopt both from one build folder", file=sys.stderr)
