"""`make book` and `make reproduce`: write the specifications down, let Snakemake run them, show how far it is."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from zoolib import experiment, games, runtime
from zoolib.files import atomic, locked
from zoolib.methods import METHODS
from zoolib.paths import CHECKOUT, build_dir
from zoolib.plans import planned
from zoolib.profiles import profile
from zoolib.results import ResultStore
from zoolib.spec import INSTALL_BOOK, RunSpec, ZoolibError

#: profiles whose runs take seconds
SHORT = ("smoke", "mini")


def write_changed(path: Path, text: str) -> None:
    """Write a file only where its content changes, so that its time tells the workflow what is new."""
    if not path.is_file() or path.read_text() != text:
        with atomic(path) as file:
            file.write(text.encode())


@functools.cache
def _sha256(path: Path, written: int) -> str:
    """Of a file as it was written at a time, in nanoseconds: the pages of a book share most of their files."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listing(files: Iterable[Path]) -> str:
    """A line for each file, with its checksum and path: the text changes when a file does, comes or goes."""
    named = {os.path.relpath(path, CHECKOUT): path for path in files}
    return "".join(f"{_sha256(named[name], named[name].stat().st_mtime_ns)}  {name}\n" for name in sorted(named))


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
    """Bring "book" or "reproduce" up to date.

    Raises ZoolibError with the first failed job's own words, for a negative number of cores, and while another process
    does the same in this build folder.
    """
    profile(profile_name)
    if cores < 0:
        raise ZoolibError(f"cores is {cores}; use a number of processes, or 0 for all cores")
    if find_spec("snakemake") is None:
        raise ZoolibError(f"snakemake is not installed; {INSTALL_BOOK}")
    with locked(build_dir() / "workflow.lock", _busy) as lock:  # two would compute, and tidy, the same runs
        _run(target, profile_name, cores, lock.fileno())


def _busy() -> None:
    raise ZoolibError(f"another workflow is at work in {build_dir()}; wait for it, or stop it first")


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _run(target: str, profile_name: str, cores: int, lock: int) -> None:
    which = "core" if target == "book" else "all"
    specs = prepare(profile_name, which)
    cores = cores or os.cpu_count() or 1
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile"), "--cores", str(cores)]
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "--directory", str(CHECKOUT)]
    # Snakemake looks for work anew after this time, once more for every job that has ended: each second is too often.
    command += ["--max-jobs-per-timespan", "1000/5s"]
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
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=os.environ | one_thread,
            start_new_session=True,
            pass_fds=(lock,),  # it holds the lock as long as it works, also where this process is killed for good
        )  # fmt: skip
        # A kill and a closed terminal, too, end the jobs; what nohup ignores stays ignored.
        ends = [name for name in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(name) != signal.SIG_IGN]
        before = {name: signal.signal(name, _stop) for name in ends}
        try:
            _watch(process, specs, began)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
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
