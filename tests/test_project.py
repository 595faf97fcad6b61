"""The set-up: locks, environment, Makefile, citation, and what must not be in the repository."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from zoolib import __version__
from zoolib.paths import results_dir
from zoolib.results import Result, ResultStore

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-uv.lock")
TARGETS = {"book", "reproduce", "test", "bench", "rehearse", "lint", "notebooks", "serve", "clean"}


def dependencies() -> list[Requirement]:
    """The core and all extras."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def pins(lock: str) -> list[tuple[str, str, str]]:
    """(name, version, the rest of the entry) for each entry of a lock file; one name may have several versions."""
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    found = [re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([\w.+!]+)", entry) for entry in entries]
    assert all(found), "an entry of the lock is not pinned with =="
    return [(canonicalize_name(m[1]), m[2], entry) for m, entry in zip(found, entries, strict=True) if m]


def files() -> list[Path]:
    """What the repository holds: git's list where there is one, else everything that is not computed or installed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        ignored = {".venv", ".git", "build", "dist", "node_modules", "generated", "__pycache__"}
        paths = [path for path in ROOT.rglob("*") if not ignored & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_no_lock_names_an_index(lock: str) -> None:
    entries = pins(lock)
    assert entries
    bare = [name for name, _, entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)]
    assert not bare, f"no hash for {bare}"
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|file:", (ROOT / lock).read_text())


def test_every_dependency_is_locked_at_a_version_that_its_declaration_admits() -> None:
    locked: dict[str, list[str]] = {}
    for name, pinned, _ in pins("requirements.lock"):
        locked.setdefault(name, []).append(pinned)
    for dependency in dependencies():
        versions = locked.get(canonicalize_name(dependency.name), [])
        assert versions, f"{dependency.name} is not in requirements.lock: write the lock anew"
        assert all(dependency.specifier.contains(pinned) for pinned in versions), (
            f"{dependency} is locked at {versions}"
        )


def test_the_installed_packages_are_those_of_the_lock() -> None:
    locked = {(name, pinned) for name, pinned, _ in pins("requirements.lock")}
    installed = {(canonicalize_name(d.name), version(d.name)) for d in dependencies()}
    assert installed <= locked, f"differs from requirements.lock: {sorted(installed - locked)}"


def test_torchvision_admits_the_locked_torch_and_its_compiled_operators_load() -> None:
    from torch import tensor
    from torchvision.ops import nms

    locked = {name: pinned for name, pinned, _ in pins("requirements.lock")}
    (torch,) = [r for r in map(Requirement, requires("torchvision") or []) if r.name == "torch"]
    assert torch.specifier.contains(locked["torch"]), f"torchvision wants {torch}, the lock has {locked['torch']}"
    boxes = tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 7, 7]])
    assert nms(boxes, tensor([0.1, 0.9, 0.5]), 0.5).tolist() == [1, 2]  # the best of the two equal boxes, the one apart


def test_every_committed_best_single_is_one_of_the_committed_fine_tunings() -> None:
    committed = ResultStore(results_dir())
    tuned: dict[tuple[object, ...], list[tuple[Result, np.ndarray]]] = collections.defaultdict(list)
    best = committed.records(method="best_single")
    assert len(best) > 50
    for one in committed.records(method="finetune", task="cls"):
        predictions = one.samples.sort_values("index")["prediction"].to_numpy()
        tuned[one.spec.dataset, one.spec.hub, one.spec.seed, one.spec.settings].append((one, predictions))
    for one in best:
        chosen = one.samples.sort_values("index")["prediction"].to_numpy()
        same = [
            other.spec.member
            for other, predictions in tuned[one.spec.dataset, one.spec.hub, one.spec.seed, one.spec.settings]
            if np.array_equal(chosen, predictions)
        ]
        assert same, f"{one.spec.label} ({one.spec.profile}) is of fine-tunings that are not committed"


def test_the_commit_that_a_committed_record_names_is_in_the_history() -> None:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    if git("rev-parse", "--is-shallow-repository").strip() != "false":
        pytest.skip("no git, or not the whole history")
    history = set(git("rev-list", "HEAD").split())
    named = {r.provenance["commit"]: r.spec.label for r in ResultStore(results_dir()).records()}
    assert len(named) > 20
    assert {label for commit, label in named.items() if commit not in history} == set()


def test_a_committed_record_was_built_on_the_committed_runs_that_it_names() -> None:
    assert ResultStore(results_dir()).mixed() == []


def test_conda_users_get_python_and_the_same_lock() -> None:
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (through_pip,) = [entry["pip"] for entry in wanted if isinstance(entry, dict)]
    assert through_pip == ["-r requirements.lock"]
    (python,) = [Requirement(entry) for entry in wanted if isinstance(entry, str) and entry.startswith("python ")]
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert python.specifier.contains(minimum)
    assert not python.specifier.contains("3.10")


def test_every_dependency_has_one_line_that_says_why_it_is_there_and_no_line_is_left_over() -> None:
    lines = re.findall(r"^- `([\w.-]+)`: (.+)$", (ROOT / "book/setup-dependencies.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in lines) == sorted(dependency.name for dependency in dependencies())
    assert all(len(reason.split()) >= 3 for _, reason in lines)


def test_make_alone_lists_all_targets_with_a_line_each() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert dict(re.findall(r"^  make (\w+) +(\S.+)$", done.stdout, re.MULTILINE)).keys() == TARGETS


def test_a_python_that_the_lock_does_not_serve_is_named_before_anything_is_made(tmp_path: Path) -> None:
    for name in ("Makefile", *LOCKS, "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / "python3.14"
    python.write_text("#!/bin/sh\nexit 1\n")  # as one of another version answers, and one without venv
    python.chmod(0o755)
    before = sorted(tmp_path.iterdir())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    for given in (f"PYTHON={python}", "PYTHON=no-such-python", "PYTHON="):
        done = subprocess.run(["make", "test", given], cwd=tmp_path, env=environment, capture_output=True, text=True)
        line, *rest = done.stderr.splitlines()
        assert done.returncode and line.startswith("zoolib needs Python 3.11, 3.12 or 3.13"), done.stderr
        assert given.partition("=")[2] in line and len(rest) == 1 and sorted(tmp_path.iterdir()) == before


def test_the_versions_of_python_are_the_same_wherever_they_are_named() -> None:
    named = re.search(r"\(3, (\d+)\) <= sys.version_info\[:2\] <= \(3, (\d+)\)", (ROOT / "Makefile").read_text())
    first, last = map(int, named.groups())
    versions = [f"3.{minor}" for minor in range(first, last + 1)]
    listed = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert listed == versions and PROJECT["requires-python"] == f">=3.{first}"
    assert f"- python >=3.{first},<3.{last + 1}\n" in (ROOT / "environment.yml").read_text()
    words = f"{', '.join(versions[:-1])} or {versions[-1]}"
    for path in ("README.md", "book/quickstart.md"):
        assert f"Python {words}," in (ROOT / path).read_text(), path


def test_continuous_integration_calls_only_targets_that_the_readme_names() -> None:
    script = (ROOT / ".ci/run").read_text()
    calls = re.findall(r"^make .+$", script, re.MULTILINE)
    assert {call.split()[1] for call in calls} == {"lint", "book", "test"}
    readme = (ROOT / "README.md").read_text()
    missing = [call for call in calls if call not in readme]
    assert not missing, f"README.md does not name {missing}"
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_citation_names_both_papers_and_the_slides_and_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    named = {(r["title"].split(":")[0], r["type"], r["year"], len(r["authors"])) for r in citation["references"]}
    assert named >= {
        ("Zoo-Tuning", "conference-paper", 2021, 5),
        ("Hub-Pathway", "conference-paper", 2022, 5),
        ("Transferability in Deep Learning", "slides", 2022, 1),
    }
    assert all(reference["authors"][-1]["family-names"] == "Long" for reference in citation["references"])


def test_no_notebook_in_the_repository_carries_outputs() -> None:
    for path in (path for path in files() if path.suffix == ".ipynb"):
        for number, cell in enumerate(json.loads(path.read_text())["cells"]):
            assert not cell.get("outputs"), f"{path.name}, cell {number} has outputs: run nbstripout on it"
            assert cell.get("execution_count") is None, f"{path.name}, cell {number} has an execution count"


def test_no_text_names_a_package_registry_or_a_path_of_one_machine() -> None:
    # Written with a gap, so that this file passes its own test.
    gapped = "/wo rk/;sha red/data;/ro ot/;py pi.org;python hosted.org;registry.npm js;deb.de bian"
    words = gapped.replace(" ", "").split(";")
    pattern = re.compile("|".join(map(re.escape, words)).encode())
    paths = [path for path in files() if path.suffix not in {".png", ".woff2", ".parquet", ".safetensors"}]
    assert Path(__file__).resolve() in paths
    found = {
        str(path.relative_to(ROOT)): hit[0].decode() for path in paths if (hit := pattern.search(path.read_bytes()))
    }
    assert not found


def test_nothing_computed_or_installed_is_in_the_repository() -> None:
    computed = {".venv", "build", "generated", "__pycache__", "_build", ".ipynb_checkpoints", "node_modules"}
    wrong = [str(path.relative_to(ROOT)) for path in files() if computed & set(path.relative_to(ROOT).parts)]
    assert not wrong
