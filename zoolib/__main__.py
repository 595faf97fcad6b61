"""The command line: `python -m zoolib --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoolib import __version__, games, notebooks
from zoolib.data import manifests
from zoolib.data.manifests import DatasetManifest, HubManifest
from zoolib.methods import METHODS
from zoolib.paths import CHECKOUT, build_dir
from zoolib.spec import PROFILES, RunSpec, ZoolibError, unknown

if TYPE_CHECKING:
    from zoolib.experiment import Report

_EPILOGUE = """examples:
  python -m zoolib list
  python -m zoolib fetch aircraft resnet50-zoo
  python -m zoolib run cls -p dataset cars -p profile lab
  python -m zoolib table -p dataset digits -p hub digits-zoo
  python -m zoolib rank digits --hub imagenet-lite
"""


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


def _import(args: argparse.Namespace) -> None:
    from zoolib.data.own import import_data

    path, root = Path(args.path), Path(args.into).expanduser() if args.into else None
    changes = {
        key: getattr(args, key) for key in ("name", "title", "licence", "test") if getattr(args, key) is not None
    }
    if path.suffix in (".yaml", ".yml"):
        own = manifests.own_data(path)
        if own is None:
            raise ZoolibError(f"{path}: it names no path of images; add one")
        done = import_data(own.model_copy(update=changes), root, path.parent)
    else:
        done = import_data(manifests.parse({"path": args.path, "flip": not args.no_flip, **changes}), root)
    sizes = done.manifest.sizes
    print(f"{done.manifest.name}: {done.manifest.num_classes} classes, {sizes.train:,} train and {sizes.test:,} test")
    for note in done.notes:
        print(f"{done.manifest.name}: note: {note}")
    print(f"{done.folder}\nuse it: python -m zoolib run cls -p dataset {done.manifest.name}")


def _fetch(args: argparse.Namespace) -> None:
    from zoolib.data import fetch

    root = Path(args.into).expanduser() if args.into else None
    for item in _things(args.names):
        if isinstance(item, DatasetManifest):
            folder = fetch.fetch(item, root, _note)
            print(f"{fetch.verify(item, folder)}: {folder}")
            continue
        for member in item.members:
            if fetch.weights_name(member):
                print(fetch.fetch_weights(member, root, _note))
            else:
                print(f"{item.name}: {member.name}: {member.weights}, nothing to fetch")


def _verify(args: argparse.Namespace) -> None:
    from zoolib.data import fetch

    for item in _things(args.names):
        if isinstance(item, DatasetManifest):
            print(fetch.verify(item))
            continue
        from zoolib.hub import build

        for member in item.members:
            build(member)
            print(f"{item.name}: {member.name}: its weights fit {member.architecture}")


def _list(args: argparse.Namespace) -> None:
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

        torch.set_num_threads(int(threads))


def _run(args: argparse.Namespace) -> None:
    from zoolib import experiment
    from zoolib.results import ResultStore

    chosen = notebooks.parameters(args.notebook, _own(_given(args.parameters)))
    specs, store = notebooks.specs_of(args.notebook, chosen), ResultStore.default()
    todo = experiment.missing(specs, store)
    for name in {spec.dataset for spec in todo if spec.task == "cls"}:
        if manifests.dataset(name).source == "canonical":
            manifests.find(manifests.dataset(name))  # say that data are absent before torch is loaded
    if todo:
        _threads()
        print(f"{len(todo)} of {len(specs)} runs have no record yet; computing them", file=sys.stderr)
    experiment.complete(specs, store)
    if args.records_only or not notebooks.has_papermill():
        if not args.records_only:
            print("papermill is not installed: the records are complete, no notebook was executed", file=sys.stderr)
        print(f"{len(specs)} records below {store.write_root}")
        return
    output = Path(args.output) if args.output else notebooks.output_path(args.notebook, chosen)
    print(notebooks.execute(args.notebook, chosen, output))


def _table(args: argparse.Namespace) -> None:
    from zoolib import experiment, reference, tables
    from zoolib.results import ResultStore

    chosen = notebooks.parameters("cls", _given(args.parameters))
    specs, store = notebooks.specs_of("cls", chosen), ResultStore.default()
    published = reference.beside(chosen["dataset"], chosen["hub"])
    table = tables.compare(store.frame(specs), published, specs=specs)
    print(tables.text(table).to_string())
    print(f"\n{tables.summary(store.records(specs))}" if experiment.missing(specs, store) != specs else "\nnot run")


def _rank(args: argparse.Namespace) -> None:
    from zoolib import experiment, rankings, tables
    from zoolib.results import ResultStore

    specs, store = experiment.grid("cls", args.dataset, args.hub, ["rank"], args.profile, 1), ResultStore.default()
    if experiment.missing(specs, store):
        _threads()
    experiment.rank(args.hub, args.dataset, args.profile, store)
    print(rankings.text(rankings.table(store.frame(specs))).to_string())
    print(f"\n{tables.summary(store.records(specs))}")


def _claims(args: argparse.Namespace) -> None:
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


def _record(args: argparse.Namespace) -> None:
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


def _workflow(args: argparse.Namespace) -> None:
    from zoolib import workflow

    workflow.run(args.target, args.profile, args.cores)
    print(build_dir() / "book-out/_build/html/index.html" if args.target == "book" else "every record is there")


def _html(args: argparse.Namespace) -> None:
    from zoolib import pages

    print(pages.build([Path(path) for path in args.notebooks], CHECKOUT, build_dir()))


def _pretrain(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    if args.hub == games.HUB:
        return _pretrain_policies()
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


def _pretrain_policies() -> None:
    from zoolib import experiment
    from zoolib.results import ResultStore
    from zoolib.rl import sources

    specs = sources.specs()
    experiment.complete(specs, ResultStore.default())
    for note in sources.ship(specs, ResultStore.default(), experiment.work_dir):
        print(f"{note['game']}: score {note['score']:.0f}, random {note['random_score']:.0f}")


def _adopt(args: argparse.Namespace) -> None:
    from zoolib.results import ResultStore
    from zoolib.spec import profile

    paths = ResultStore.default().adopt(profile(args.profile).name, CHECKOUT / "results")
    print(f"{len(paths)} records copied to {CHECKOUT / 'results'}")


def parser() -> argparse.ArgumentParser:
    """The argument parser, one sub-command a function above."""
    top = argparse.ArgumentParser(
        prog="python -m zoolib", description="Transfer from zoos and hubs of pretrained models.", epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"zoolib {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(function=function)
        return sub

    def parameters(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         help="a parameter of the notebook, repeatable; `list notebooks` shows them")  # fmt: skip

    listing = command("list", _list, "list datasets, hubs, methods, profiles and notebooks")
    listing.add_argument("what", nargs="?", help="one of those words; all when left out")
    run = command("run", _run, "compute the runs a notebook lacks, then execute it")
    run.add_argument("notebook", help="its name, such as cls")
    parameters(run)
    run.add_argument("--output", metavar="PATH", help="the executed notebook (default: below build/notebooks)")
    run.add_argument("--records-only", action="store_true", help="compute and record; execute no notebook")
    parameters(command("table", _table, "print the classification table of the records that exist"))
    ranking = command("rank", _rank, "score every model of a hub on a dataset, without training")
    ranking.add_argument("dataset", help="its name, such as digits")
    ranking.add_argument("--hub", default="imagenet-lite", help="a hub, or your own YAML (default: imagenet-lite)")
    ranking.add_argument("--profile", default="mini", help=f"{', '.join(PROFILES)} (default: mini)")
    claiming = command("claims", _claims, "test the papers' claims against the records of a profile")
    claiming.add_argument("--profile", default="mini", help=f"{', '.join(PROFILES)} (default: mini)")
    claiming.add_argument("--only", default="", metavar="ID", help="one claim, with the effect of every case")
    workflow = command("workflow", _workflow, "bring the book, or every record of a profile, up to date")
    workflow.add_argument("target", choices=("book", "reproduce"))
    workflow.add_argument("--profile", default="mini", help=f"{', '.join(PROFILES)} (default: mini)")
    workflow.add_argument("--cores", type=int, default=0, help="parallel jobs, one thread each (default: all cores)")
    recording = command("record", _record, "compute the run specifications that have no valid record")
    recording.add_argument("specs", nargs="+", metavar="SPEC", help="a JSON file")
    fetching = command("fetch", _fetch, "download, verify and convert datasets; download and verify hubs")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="a dataset or a hub")
    fetching.add_argument("--into", metavar="FOLDER", help="the data root (default: the first of ZOOLIB_DATA)")
    own = command("import", _import, "make a dataset of class folders, a CSV, a Parquet file or a YAML that names one")
    own.add_argument("path", help="the folder or file")
    own.add_argument("--name", help="the dataset's name (needed, unless a YAML gives it)")
    own.add_argument("--title", help="what tables call it")
    own.add_argument("--licence", help="who may use it")
    own.add_argument("--test", type=float, help="share of each class that is tested, where no split is given (0.2)")
    own.add_argument("--no-flip", action="store_true", help="a mirrored image is no image of its class")
    own.add_argument("--into", metavar="FOLDER", help="the data root (default: the first of ZOOLIB_DATA)")
    checking = command("verify", _verify, "check that datasets are unchanged and that the weights of hubs load")
    checking.add_argument("names", nargs="+", metavar="NAME", help="a dataset or a hub")
    command("html", _html, "build the static book").add_argument("notebooks", nargs="*", help="executed notebooks")
    pretrain = command("pretrain", _pretrain, "make a packaged hub again; a stopped command goes on where it was")
    pretrain.add_argument("hub", help="digits-zoo, mini-zoo, mini-zoo-independent, mini-hub or " + games.HUB)
    pretrain.add_argument("--member", default="", help="only this one")
    adopt = command("adopt", _adopt, "copy a profile's recomputed records to results/, to be committed")
    adopt.add_argument("profile", help=", ".join(PROFILES))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded, 1 after a one-line error, 2 for a wrong command line."""
    args = parser().parse_args(arguments)
    try:
        args.function(args)
    except ZoolibError as error:
        print(f"zoolib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("zoolib: interrupted; run it again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
