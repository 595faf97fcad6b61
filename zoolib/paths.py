"""Where things lie: the checkout or the installed wheel, the build folder, the data roots. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CHECKOUT = _PACKAGE.parent


def shared(name: str) -> Path:
    """A folder that ships with the project (`data_manifests`, `reference`, `notebooks`), in a checkout or a wheel."""
    folder = CHECKOUT / name
    return folder if folder.is_dir() else _PACKAGE / "_share" / name


def results_dir() -> Path:
    """Where records that are only read lie: $ZOOLIB_RESULTS, else those that the project commits."""
    return Path(os.environ.get("ZOOLIB_RESULTS") or shared("results"))


def packaged_weights(name: str) -> Path:
    """A file below zoolib/weights, which ships with the package."""
    return _PACKAGE / "weights" / name


def made_weights(name: str) -> Path:
    """A file of weights that the project makes and does not ship, below the build folder."""
    return build_dir() / "weights" / name


def build_dir() -> Path:
    """Where computed things go: $ZOOLIB_BUILD, else `build` in the checkout, else `build` in the working folder."""
    if value := os.environ.get("ZOOLIB_BUILD"):
        return Path(value).expanduser().absolute()  # of a job in another folder too
    return (CHECKOUT if (CHECKOUT / "pyproject.toml").exists() else Path.cwd()) / "build"


def data_roots() -> list[Path]:
    """Folders searched for datasets: those of $ZOOLIB_DATA (separated as in $PATH), then ~/.cache/zoolib/data."""
    named = [Path(part).expanduser().absolute() for part in os.environ.get("ZOOLIB_DATA", "").split(os.pathsep) if part]
    return [*named, Path("~/.cache/zoolib/data").expanduser()]
