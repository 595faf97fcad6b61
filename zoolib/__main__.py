"""The command line: `python -m zoolib --help`."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence

from zoolib import __version__, commands, games
from zoolib.profiles import PROFILES
from zoolib.spec import BOOK_PACKAGES, INSTALL_BOOK, ZoolibError

_EPILOGUE = """examples:
  python -m zoolib list
  python -m zoolib fetch aircraft resnet50-zoo
  python -m zoolib run cls -p dataset cars -p profile lab
  python -m zoolib table -p dataset digits -p hub digits-zoo
  python -m zoolib rank digits --hub imagenet-lite
"""

Command = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """The argument parser: one sub-command for each function of `zoolib.commands`."""
    top = argparse.ArgumentParser(
        prog="python -m zoolib", description="Transfer from zoos and hubs of pretrained models.", epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"zoolib {__version__}")
    every = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = every.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(function=function)
        return sub

    listing = command("list", commands.list_known, "list datasets, hubs, methods, profiles and notebooks")
    listing.add_argument("what", nargs="?", help="one of those words; all when left out")
    _notebooks(command)
    _records(command)
    _data(command)
    return top


def _profile(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--profile", default="mini", help=f"{', '.join(PROFILES)} (default: mini)")


def _parameters(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     help="a parameter of the notebook, repeatable; `list notebooks` shows them")  # fmt: skip


def _notebooks(command: Command) -> None:
    """The commands that compute what a page shows, and show it."""
    run = command("run", commands.run, "compute the runs a notebook lacks, then execute it")
    run.add_argument("notebook", help="its name, such as cls")
    _parameters(run)
    run.add_argument("--output", metavar="PATH", help="the executed notebook (default: below build/notebooks)")
    run.add_argument("--records-only", action="store_true", help="compute and record; execute no notebook")
    _parameters(command("table", commands.table, "print the classification table of the records that exist"))
    ranking = command("rank", commands.rank, "score every model of a hub on a dataset, without training")
    ranking.add_argument("dataset", help="its name, such as digits")
    ranking.add_argument("--hub", default="imagenet-lite", help="a hub, or your own YAML (default: imagenet-lite)")
    _profile(ranking)
    claiming = command("claims", commands.claims, "test the papers' claims against the records of a profile")
    _profile(claiming)
    claiming.add_argument("--only", default="", metavar="ID", help="one claim, with the effect of every case")


def _records(command: Command) -> None:
    """The commands that bring the book and its records up to date."""
    workflow = command("workflow", commands.workflow, "bring the book, or every record of a profile, up to date")
    workflow.add_argument("target", choices=("book", "reproduce"))
    _profile(workflow)
    workflow.add_argument("--cores", type=int, default=0, help="parallel jobs, one thread each (default: all cores)")
    recording = command("record", commands.record, "compute the run specifications that have no valid record")
    recording.add_argument("specs", nargs="+", metavar="SPEC", help="a JSON file")
    html = command("html", commands.html, "build the static book")
    html.add_argument("notebooks", nargs="*", help="executed notebooks")
    adopt = command("adopt", commands.adopt, "copy a profile's recomputed records to results/, to be committed")
    adopt.add_argument("profile", help=", ".join(PROFILES))


def _data(command: Command) -> None:
    """The commands about datasets and hubs."""
    fetching = command("fetch", commands.fetch, "download, verify and convert datasets; download and verify hubs")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="a dataset or a hub")
    fetching.add_argument("--into", metavar="FOLDER", help="the data root (default: the first of ZOOLIB_DATA)")
    own = command("import", commands.import_own,
                  "make a dataset of class folders, a CSV, a Parquet file or a YAML that names one")  # fmt: skip
    own.add_argument("path", help="the folder or file")
    own.add_argument("--name", help="the dataset's name (needed, unless a YAML gives it)")
    own.add_argument("--title", help="what tables call it")
    own.add_argument("--licence", help="who may use it")
    own.add_argument("--test", type=float, help="share of each class that is tested, where no split is given (0.2)")
    own.add_argument("--no-flip", action="store_true", help="a mirrored image is no image of its class")
    own.add_argument("--into", metavar="FOLDER", help="the data root (default: the first of ZOOLIB_DATA)")
    checking = command("verify", commands.verify, "check that datasets are unchanged and that the weights of hubs load")
    checking.add_argument("names", nargs="+", metavar="NAME", help="a dataset or a hub")
    pretrain = command("pretrain", commands.pretrain,
                       "make a packaged hub again; a stopped command goes on where it was")  # fmt: skip
    pretrain.add_argument("hub", help="digits-zoo, mini-zoo, mini-zoo-independent, mini-hub or " + games.HUB)
    pretrain.add_argument("--member", default="", help="only this one")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it succeeded, 1 after a one-line error, 2 for a wrong command line."""
    args = parser().parse_args(arguments)
    try:
        args.function(args)
    except ZoolibError as error:
        print(f"zoolib: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in BOOK_PACKAGES:
            raise
        print(f"zoolib: {package} is not installed; {INSTALL_BOOK}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("zoolib: interrupted; run it again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print("zoolib: disk full: free some space, then run it again", file=sys.stderr)
        elif error.filename is not None:
            print(f"zoolib: {error.filename}: {error.strerror}; name a path that can be used", file=sys.stderr)
        else:  # not the system's word on a path
            raise
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
